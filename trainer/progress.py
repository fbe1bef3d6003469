"""What training says while it runs: a line every few seconds, and a line per epoch."""

from __future__ import annotations

import time

from gauntlet.manifests.kinds import known_metric
from gauntlet.trainer.history import Epoch

SECONDS_BETWEEN_LINES = 2.0


class Progress:
    """Prints progress as plain lines, so that it reads the same in a terminal, a file and Cloud Logging."""

    def __init__(self, epochs: int, steps_per_epoch: int, steps_taken: int = 0, rows_seen: int = 0) -> None:
        self._steps_taken_before = steps_taken
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch
        self._started = self._printed = time.monotonic()
        self._rows_printed = rows_seen  # of the epoch

    def due(self) -> bool:
        """Whether the last line is old enough for another one."""
        return time.monotonic() - self._printed >= SECONDS_BETWEEN_LINES

    def step(self, epoch: int, step: int, loss: float, rows: int) -> None:
        """Say where training is: `loss` is the epoch's mean so far and `rows` the rows it is a mean of."""
        now = time.monotonic()
        rate = (rows - self._rows_printed) / (now - self._printed)
        self._printed, self._rows_printed = now, rows
        done = (epoch - 1) * self._steps_per_epoch + step
        seconds_per_step = (now - self._started) / (done - self._steps_taken_before)
        left = seconds_per_step * (self._epochs * self._steps_per_epoch - done)
        print(
            f"epoch {epoch}/{self._epochs}  step {step}/{self._steps_per_epoch}  loss {loss:.4f}  "
            f"{rate:.0f} examples/s  eta {int(left) // 60}:{int(left) % 60:02d}",
            flush=True,
        )

    def epoch(self, epoch: Epoch, best: bool) -> None:
        """Say how an epoch ended."""
        self._printed, self._rows_printed = time.monotonic(), 0
        figures = "  ".join(
            f"{known_metric(key).title} {value:.4f}" for key, value in epoch.validation.items()
        )
        print(
            f"epoch {epoch.epoch}/{self._epochs} done  training loss {epoch.training['loss']:.4f}, "
            f"validation: {figures}  {epoch.examples_per_second:.0f} examples/s{'  (best)' if best else ''}",
            flush=True,
        )
