"""The charts of a training, for the report and for trackers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Literal

from markupsafe import Markup

from gauntlet.contracts.training import Epoch, TrainingHistory
from gauntlet.pages.charts import Points, Series, curves, present, stacked
from gauntlet.pages.formatting import decimal, general, words

TONES = ("accent", "second", "idle")


def training_charts(history: TrainingHistory) -> dict[str, Markup]:
    """Charts of a history by title: by epoch, then by optimizer step; one without a number is left out."""
    epochs, steps = history.epochs or [], history.steps or []
    losses = [
        _ending("training", "idle", _by_epoch(epochs, "training", "loss")),
        _ending("validation", "accent", _by_epoch(epochs, "validation", "loss")),
    ]
    quality: list[Series] = []
    for metric, tone in zip(validation_metrics(history), cycle(TONES)):
        quality.append(_ending(words(metric), tone, _by_epoch(epochs, "validation", metric)))
        in_training = _by_epoch(epochs, "training", metric)
        quality.append(Series(f"{words(metric)}, training", in_training, tone, is_dashed=True))
    step_loss = present((step.step, step.loss) for step in steps)
    rates = present((step.step, step.learning_rate) for step in steps)
    peak = max((rate for _, rate in rates), default=None)
    best = (history.best_epoch, "best epoch") if history.best_epoch else None
    charts = {
        "Loss": curves("Loss", "epoch", losses, best),
        "Quality on the validation split": curves("Quality on the validation split", "epoch", quality, best),
        "Training loss": curves("Training loss", "optimizer step", [_ending("loss", "accent", step_loss)]),
        "Learning rate": curves(
            "Learning rate", "optimizer step", [Series("rate", rates, "second", f"peak {general(peak)}")]
        ),
    }
    return {title: chart for title, chart in charts.items() if chart}


def validation_metrics(history: TrainingHistory) -> tuple[str, ...]:
    """The metrics of the validation split without the loss, as the first epoch names them."""
    return tuple(name for name in (history.epochs[0].validation if history.epochs else ()) if name != "loss")


def curves_svg(history: TrainingHistory) -> str:
    """All charts of a history as one picture."""
    return stacked(tuple(training_charts(history).values()))


def _by_epoch(epochs: Sequence[Epoch], split: Literal["training", "validation"], metric: str) -> Points:
    return present((epoch.epoch, (getattr(epoch, split) or {}).get(metric)) for epoch in epochs)


def _ending(name: str, tone: str, points: Points) -> Series:
    """A series whose legend shows its last value."""
    return Series(name, points, tone, decimal(points[-1][1]) if points else "")
