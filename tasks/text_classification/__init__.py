"""Text classification: a pretrained encoder with a classification head, one label per text."""

from __future__ import annotations

from gauntlet.manifests.kinds import Metric, TaskKind

KIND = TaskKind(
    interface=1,
    name="text_classification",
    title="Text classification",
    metrics=(
        Metric("macro_f1", "macro-F1", registered=True),
        Metric("accuracy", "accuracy"),
        Metric("weighted_f1", "weighted F1"),
    ),
    manifest="gauntlet.tasks.text_classification.manifest:TextManifest",
    data="gauntlet.tasks.text_classification.data",
    training="gauntlet.tasks.text_classification.training",
    conversion="gauntlet.tasks.texts.conversion",
    evaluation="gauntlet.tasks.classification.evaluation",
    gates="gauntlet.tasks.classification.gates",
    report="gauntlet.tasks.texts.report",
    serving="gauntlet.tasks.texts.serving",
    tiny="gauntlet.tasks.texts.tiny",
)
