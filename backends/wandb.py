"""Tracking with Weights & Biases, which is an optional dependency: `pip install gauntlet[wandb]`.

Its own settings apply: `wandb login`, `WANDB_MODE=offline`, `WANDB_ENTITY`, `WANDB_DIR` and so on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gauntlet.backends.tracking import RunRequest, Status
from gauntlet.manifests.errors import UsageError


class WandbRun:
    """A `StartedRun` in a project of Weights & Biases. `folder` is where it buffers files, by default.

    Raises:
        UsageError: wandb is not installed or not logged in.
    """

    def __init__(self, project: str, request: RunRequest, folder: Path | None) -> None:
        try:
            import wandb
        except ModuleNotFoundError as error:
            if error.name != "wandb":
                raise
            raise UsageError(
                "training.tracking.wandb: wandb is not installed. `pip install wandb`, or remove the key."
            ) from None
        # Otherwise wandb would ask for an account at the terminal, and training would wait.
        if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False, verify=False):
            raise UsageError(
                "training.tracking.wandb: not logged in to Weights & Biases. Run `wandb login`, or set "
                "WANDB_API_KEY or WANDB_MODE=offline."
            )
        self._run: Any = wandb.init(
            project=project,
            group=request.experiment,
            name=request.name,
            config=dict(request.tags),
            dir=os.environ.get("WANDB_DIR") or folder,
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )
        self._axes: dict[str, str] = {}

    def log_params(self, params: Mapping[str, str]) -> None:
        """Add to the run's config."""
        self._run.config.update(dict(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Wandb counts its own steps, so each metric is given its x-axis: the epoch or the optimizer step."""
        for name in metrics:
            if name not in self._axes:
                self._axes[name] = "optimizer_step" if "/" in name else "epoch"
                self._run.define_metric(name, step_metric=self._axes[name])
        axes = {self._axes[name]: step for name in metrics}
        self._run.log({**metrics, **axes})

    def log_text(self, name: str, text: str) -> None:
        """Store a text among the run's files."""
        path = Path(self._run.dir) / name
        path.write_text(text, encoding="utf-8")
        self._run.save(str(path), base_path=self._run.dir, policy="now")

    def end(self, status: Status) -> None:
        """Upload what is buffered, and end the run."""
        self._run.finish(exit_code=0 if status == "FINISHED" else 1)
