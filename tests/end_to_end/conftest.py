"""A small system that runs the whole DAG in seconds: three classes, a two-layer encoder."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from gauntlet.pipelines.home import Home
from tests.conftest import LABELS, class_rows

GAUNTLET = (
    sys.executable,
    "-P",
    "-m",
    "gauntlet.pipelines.cli",
)  # as the installed script, which imports none of these
NAMES_OF_A_USERS_OWN = (
    "manifests",
    "pages",
    "backends",
    "trainer",
    "components",
    "pipelines",
    "serving",
    "numpy",
    "json",
)


@dataclass(frozen=True)
class System:
    """A manifest on disk and the home its runs go to."""

    manifest: Path
    home: Home

    def command(self, *arguments: str) -> list[str]:
        return [*GAUNTLET, *arguments]

    def working_folder(self) -> Path:
        """A folder with modules of the user's own by the names of packages that are used here."""
        folder = self.manifest.parent / "project"
        for name in NAMES_OF_A_USERS_OWN:
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / "__init__.py").write_text(
                "raise ImportError('imported from the working folder')"
            )
        return folder

    def environment(self) -> dict[str, str]:
        return os.environ | {"GAUNTLET_HOME": str(self.home.folder), "COLUMNS": "200"}

    def gauntlet(self, *arguments: str, file_size_limit: int = -1) -> subprocess.CompletedProcess[str]:
        """Run the command; with a limit in bytes, writing a larger file fails as on a full disk."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment(),
            cwd=self.working_folder(),
            capture_output=True,
            text=True,
            timeout=3000,
            check=False,
            preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (file_size_limit, -1)),
        )

    def run(self, *overrides: str, file_size_limit: int = -1) -> subprocess.CompletedProcess[str]:
        options = [part for override in overrides for part in ("--set", override)]
        return self.gauntlet("run", str(self.manifest), *options, file_size_limit=file_size_limit)

    def steps(self) -> Path:
        """The newest run's step folders."""
        folder = self.home.run_folder(self.home.find_run("latest").run_id) / "steps"
        return next(folder.iterdir())


def manifest_content(encoder: Path, data: Path) -> dict[str, Any]:
    return {
        "name": "tiny",
        "description": "Three classes that words give away",
        "task": "text_classification",
        "seed": 1,
        "dataset": {
            "name": "tiny",
            "version": "1",
            "uri": str(data),
            "labels": list(LABELS),
            "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
            "checks": {
                "near_duplicates": {"severity": "warn"},
                "leakage": {"similarity": 1.0},
                "unknown_tokens": {"severity": "warn"},
            },
        },
        "training": {
            "encoder": str(encoder),
            "epochs": 6,
            "batch_size": 8,
            "learning_rate": 3e-3,
            "max_length": 16,
            "early_stopping": {"metric": "macro_f1", "patience": 6},
        },
        "conversion": {
            "candidates": ["plain", "fused"],
            "batch_sizes": [1, 4],
            "pytorch": ["eager"],
            "max_metric_drop": 0.05,
        },
        "evaluation": {"bootstrap_resamples": 300},
        "gates": {
            "min_macro_f1": 0.1,
            "min_speedup": 0.1,
            "non_inferiority_margin": 0.05,
            "max_class_f1_drop": 0.5,
        },
    }


@pytest.fixture(scope="module")
def make_system(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., System]:
    def make(frame: pd.DataFrame | None = None) -> System:
        folder = tmp_path_factory.mktemp("system")
        data = folder / "data.csv"
        (class_rows(60) if frame is None else frame).to_csv(data, index=False)
        manifest = folder / "tiny.yaml"
        manifest.write_text(yaml.safe_dump(manifest_content(tiny_encoder, data)))
        return System(manifest, Home(folder / "somebody's [/bold] home"))

    return make
