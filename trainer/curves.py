"""The loss and metric curves of a training history as one SVG picture."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from gauntlet.manifests.kinds import known_metric

# With a fixed salt and date the same history gives the same bytes.
mpl.rcParams["svg.hashsalt"] = "gauntlet"


def curves_page(history: dict[str, Any]) -> str:
    """An HTML page with the picture alone."""
    return f'<!doctype html><meta charset="utf-8"><title>Training curves</title>{curves_svg(history)}'


def curves_svg(history: dict[str, Any]) -> str:
    """Training and validation loss over steps, and the validation metrics over epochs, side by side."""
    epochs = history["epochs"]
    steps_per_epoch = len(history["steps"]) / len(epochs)
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    loss_axes, metric_axes = figure.subplots(1, 2)
    loss_axes.plot(
        [step["step"] / steps_per_epoch for step in history["steps"]],
        [step["loss"] for step in history["steps"]],
        color="0.8",
        linewidth=0.8,
        label="each step",
    )
    numbers = [epoch["epoch"] for epoch in epochs]
    loss_axes.plot(
        numbers, [epoch["training"]["loss"] for epoch in epochs], marker="o", label="training, epoch mean"
    )
    loss_axes.plot(numbers, [epoch["validation"]["loss"] for epoch in epochs], marker="o", label="validation")
    loss_axes.set(xlabel="epoch", ylabel="loss (nats per row)", title="Loss")
    for key in [key for key in epochs[0]["validation"] if key != "loss"]:
        values = [epoch["validation"][key] for epoch in epochs]
        [line] = metric_axes.plot(numbers, values, marker="o", label=known_metric(key).title)
        if key in epochs[0]["training"]:
            values = [epoch["training"][key] for epoch in epochs]
            metric_axes.plot(numbers, values, color=line.get_color(), linestyle="--", linewidth=1)
    metric_axes.axvline(history["best_epoch"], color="0.7", linestyle=":", label="kept")
    metric_axes.set(xlabel="epoch", title="Validation, and training as dashes")
    for axes in (loss_axes, metric_axes):
        axes.legend(frameon=False, fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]
