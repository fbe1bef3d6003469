"""Regression: a number for each text or image, with a prediction interval."""

from __future__ import annotations

from math import inf

from gauntlet.manifests.kinds import Metric, TaskKind

KIND = TaskKind(
    interface=1,
    name="regression",
    title="Regression",
    metrics=(
        Metric("mae", "mean absolute error", better="lower", domain=(0.0, inf), registered=True),
        Metric("rmse", "root mean squared error", better="lower", domain=(0.0, inf)),
        Metric("r2", "R²", domain=(-inf, 1.0), registered=True),
        Metric("coverage", "interval coverage"),
    ),
    manifest="gauntlet.tasks.regression.manifest:RegressionManifest",
    data="gauntlet.tasks.regression.data",
    training="gauntlet.tasks.regression.training",
    conversion="gauntlet.tasks.regression.conversion",
    evaluation="gauntlet.tasks.regression.evaluation",
    gates="gauntlet.tasks.regression.gates",
    report="gauntlet.tasks.regression.report",
    serving="gauntlet.tasks.regression.serving",
    tiny="gauntlet.tasks.regression.tiny",
)
