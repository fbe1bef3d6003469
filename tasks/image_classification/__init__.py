"""Image classification: a convolutional network with one label per image."""

from __future__ import annotations

from gauntlet.manifests.kinds import Metric, TaskKind

KIND = TaskKind(
    interface=1,
    name="image_classification",
    title="Image classification",
    metrics=(
        Metric("macro_f1", "macro-F1", registered=True),
        Metric("accuracy", "accuracy"),
        Metric("weighted_f1", "weighted F1"),
    ),
    manifest="gauntlet.tasks.image_classification.manifest:ImageManifest",
    data="gauntlet.tasks.image_classification.data",
    training="gauntlet.tasks.image_classification.training",
    conversion="gauntlet.tasks.images.conversion",
    evaluation="gauntlet.tasks.classification.evaluation",
    gates="gauntlet.tasks.classification.gates",
    report="gauntlet.tasks.images.report",
    serving="gauntlet.tasks.images.serving",
    tiny="gauntlet.tasks.image_classification.tiny",
)
