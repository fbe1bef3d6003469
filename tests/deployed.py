"""Versions of a small model that are deployed on this machine, and load whose every answer is checked.

Each version multiplies the scores of `text_bundles.WORD_SCORES` by a factor of its own, so that its answers
can be computed by hand and no other version gives them.
"""

from __future__ import annotations

import json
import math
import os
import random
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from onnx import numpy_helper

from gauntlet.backends.deployment import Service
from gauntlet.backends.factory import open_registry
from gauntlet.backends.local.deployment import LocalDeployment, LocalGateway
from gauntlet.backends.registry import ModelVersion, Registry
from gauntlet.backends.rollouts import open_records
from gauntlet.contracts.rollout import Rollout
from gauntlet.serving.bundle import file_sha256, write_bundle
from gauntlet.serving.load import Asker, Connection, Outcome
from tests.text_bundles import WORD_SCORES, word_score_info, write_parts

MODEL = "moods"
LABELS = ("bad", "good")
SECONDS = 300
DIGITS = 1e-5
MOST_TOKENS = 64

Change = Callable[[onnx.ModelProto], None]


def write_version(folder: Path, factor: float, change: Change | None = None, task: str | None = None) -> Path:
    """A bundle whose word scores are multiplied by a factor; `change` edits its graph before it is hashed."""
    parts = write_parts(folder / "parts")
    model = onnx.load(parts["model.onnx"])
    [table] = [one for one in model.graph.initializer if one.name == "table"]
    scores = numpy_helper.to_array(table).copy()
    scores[1:] *= factor
    table.CopyFrom(numpy_helper.from_array(scores, "table"))
    if change is not None:
        change(model)
    onnx.save(model, parts["model.onnx"])
    golden = folder / "parts" / "golden.json"  # no word of the made-up rows has a score
    golden.write_text(json.dumps({"scores": [[0.5, 0.5], [0.5, 0.5]]}))
    neighbours = {"rows": 9, "max_difference": 0.0, "label_changes": 0}
    certificate = {"model_sha256": file_sha256(parts["model.onnx"]), "rows": 9, "bounds": {}}
    parts["parity.json"].write_text(json.dumps({**certificate, "neighbours": neighbours}))
    info = replace(word_score_info(), max_length=MOST_TOKENS)
    write_bundle(folder / "bundle", info if task is None else replace(info, task=task),
                 {**parts, "golden.json": golden})  # fmt: skip
    return folder / "bundle"


def probability_of_good(text: str, factor: float) -> float:
    """What a version with this factor must answer to a text, by hand."""
    bad, good = (
        factor * sum(WORD_SCORES.get(word, (0.0, 0.0))[column] for word in text.split())
        for column in range(2)
    )
    return 1 / (1 + math.exp(bad - good))


def texts(seed: int, count: int, longest: int = 6) -> list[str]:
    """Texts of words with and without a score."""
    drawn = random.Random(seed)
    words = ("good", "bad", "fine", "table")
    return [" ".join(drawn.choices(words, k=drawn.randint(1, longest))) for _ in range(count)]


def body_of(rows: Sequence[str]) -> bytes:
    return json.dumps({"instances": list(rows)}).encode()


@dataclass
class Load:
    """Requests at a constant rate, in a thread, until the block ends.

    Attributes:
        factors: Of each bundle, by the first 12 digits of its sha256.
        answered: How many answers came from each bundle, whatever their status.
        wrong: Some answers that are not those of the bundle that they name.
        outcome: What came of all requests, once the block has ended.
    """

    url: str
    rate: float
    bodies: Sequence[bytes]
    factors: Mapping[str, float]
    answered: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    outcome: Outcome = field(default_factory=Outcome)
    failed: BaseException | None = None

    def __post_init__(self) -> None:
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        if self.failed is not None:
            raise self.failed

    @property
    def answers(self) -> int:
        """How many have come so far."""
        return sum(self.answered.values())

    @property
    def requests(self) -> int:
        return sum(self.outcome.statuses.values())

    @property
    def failures(self) -> int:
        """Requests that were not answered, or with a fault."""
        return self.requests - self.outcome.statuses["200"] - self.outcome.statuses["wrong answer"]

    def _run(self) -> None:
        asker = Asker(self.url, self.bodies, check=self._is_right)
        try:
            self.outcome = asker.load(self.rate, 86_400, self._is_over.is_set)
        except BaseException as error:  # the thread that waits for it raises it
            self.failed = error
        finally:
            asker.close()

    def _is_right(self, one: Connection) -> bool:
        bundle = header(one.head, b"x-gauntlet-bundle-sha256")
        self.answered[bundle] += 1
        if not one.head.startswith(b"http/1.1 200 "):
            return True
        with suppress(KeyError, ValueError, TypeError):
            rows = json.loads(one.asked)["instances"]
            found = json.loads(one.body)["predictions"]
            expected = [probability_of_good(row, self.factors[bundle]) for row in rows]
            fits = len(found) == len(rows) and all(
                abs(answer["probabilities"]["good"] - good) < DIGITS
                and (abs(good - 0.5) < DIGITS or answer["label"] == LABELS[good > 0.5])
                for answer, good in zip(found, expected, strict=True)
            )
            if fits:
                return True
        self.wrong.append(f"{bundle} to {one.asked!r}: {one.body!r}"[:500])
        return False


def header(head: bytes, name: bytes) -> str:
    """A header of an answer whose head is in lower case; empty if it has none."""
    _, found, rest = head.partition(b"\r\n" + name + b": ")
    return rest.partition(b"\r\n")[0].decode() if found else ""


@dataclass
class Deployed:
    """A home with a registry, a manifest that deploys to this machine, and the commands.

    Attributes:
        python_path: Folders in front of the module path of every process.
    """

    home: Path
    settings: Mapping[str, Any]
    python_path: Sequence[str] = ()

    def __post_init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self.home.mkdir(parents=True)
        self.manifest = self.home / "moods.yaml"
        section = {**self.settings, "target": "local", "local": {"port": self.port}}
        content = {
            "name": MODEL,
            "description": "Words that add up",
            "task": "text_classification",
            "seed": 1,
            "dataset": {"name": MODEL, "version": "1", "uri": "none.csv", "labels": list(LABELS)},
            "training": {"encoder": "none", "epochs": 1, "batch_size": 8, "learning_rate": 1e-3},
            "gates": {"min_macro_f1": 0.1},
            "deployment": section,
        }
        self.manifest.write_text(yaml.safe_dump(content))
        self.factors: dict[str, float] = {}
        self.versions: list[ModelVersion] = []

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.home / 'gauntlet.db'}"

    @cached_property
    def registry(self) -> Registry:
        return open_registry(self.uri)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def gateway(self) -> LocalGateway:
        return LocalGateway(self.home)

    def add(self, factor: float, change: Change | None = None, task: str | None = None) -> ModelVersion:
        """Register a version."""
        number = len(self.versions) + 1
        folder = write_version(self.home / "made" / str(number), factor, change, task)
        version = self.registry.register(MODEL, folder, {"run_id": str(number)})
        self.factors[file_sha256(folder / "bundle.json")[:12]] = factor
        self.versions.append(version)
        return version

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin a command."""
        path = os.pathsep.join([*self.python_path, os.environ.get("PYTHONPATH", "")])
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "gauntlet.pipelines.cli", *arguments],
            env={**os.environ, "GAUNTLET_HOME": str(self.home), "COLUMNS": "200", "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def gauntlet(self, *arguments: str) -> tuple[int, str]:
        """The exit code of a command, and what it said."""
        with self.start(*arguments) as process:
            said, _ = process.communicate(timeout=SECONDS)
        return process.returncode, said

    def load(self, rate: float, bodies: Sequence[bytes]) -> Load:
        return Load(self.url, rate, bodies, self.factors)

    def service(self) -> Service:
        """What the gateway serves; a gateway that has ended is not started."""
        from gauntlet.backends.local.deployment import _service

        return _service(self.gateway.call("service", model=MODEL))

    def deployment(self) -> LocalDeployment:
        return LocalDeployment(MODEL, self.uri, {"local": {"port": self.port}})

    def rollout(self) -> Rollout:
        """What the record says."""
        record, _ = open_records(MODEL, self.uri).read()
        assert record is not None
        assert record.rollout is not None
        return record.rollout

    def champion(self) -> str:
        found = self.registry.champion(MODEL)
        assert found is not None
        return found.version

    def shares(self) -> dict[str, int]:
        """The share of each version that has requests, in percent."""
        return {one.version: one.weight for one in self.service().revisions if one.weight}


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows below each other."""
    shown = [list(columns), *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[at]) for row in shown) for at in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in shown]
    return "\n".join(["", title, *lines])


def middle(values: Sequence[float]) -> str:
    """The median and the greatest."""
    return f"{np.median(values):.1f} (at most {max(values):.1f})"
