"""Ordinal grading: scans of both sides of a trading card, and a grade from 1 to 10."""

from __future__ import annotations

from gauntlet.manifests.kinds import Metric, TaskKind

KIND = TaskKind(
    interface=1,
    name="ordinal_grading",
    title="Ordinal grading",
    metrics=(
        Metric("qwk", "QWK", domain=(-1.0, 1.0)),
        Metric("mae", "mean absolute error", better="lower", domain=(0.0, 9.0)),
        Metric("within_one", "within one"),
        Metric("centering_error", "centering error", better="lower", domain=(0.0, 100.0)),
        Metric("macro_f1", "macro-F1", registered=True),
        Metric("accuracy", "accuracy"),
        Metric("weighted_f1", "weighted F1"),
    ),
    manifest="gauntlet.tasks.ordinal_grading.manifest:GradingManifest",
    data="gauntlet.tasks.ordinal_grading.data",
    training="gauntlet.tasks.ordinal_grading.training",
    conversion="gauntlet.tasks.ordinal_grading.conversion",
    evaluation="gauntlet.tasks.ordinal_grading.evaluation",
    gates="gauntlet.tasks.ordinal_grading.gates",
    report="gauntlet.tasks.ordinal_grading.report",
    serving="gauntlet.tasks.ordinal_grading.serving",
    tiny="gauntlet.tasks.ordinal_grading.tiny",
)
