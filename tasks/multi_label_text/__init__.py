"""Multi-label text classification: any number of labels per text, each with a threshold of its own."""

from __future__ import annotations

from gauntlet.manifests.kinds import Metric, TaskKind

KIND = TaskKind(
    interface=1,
    name="multi_label_text_classification",
    title="Multi-label text classification",
    metrics=(
        Metric("macro_f1", "macro-F1", registered=True),
        Metric("micro_f1", "micro-F1"),
        Metric("accuracy", "accuracy"),
    ),
    manifest="gauntlet.tasks.multi_label_text.manifest:MultiLabelManifest",
    data="gauntlet.tasks.multi_label_text.data",
    training="gauntlet.tasks.multi_label_text.training",
    conversion="gauntlet.tasks.multi_label_text.conversion",
    evaluation="gauntlet.tasks.multi_label_text.evaluation",
    gates="gauntlet.tasks.multi_label_text.gates",
    report="gauntlet.tasks.multi_label_text.report",
    serving="gauntlet.tasks.multi_label_text.serving",
    tiny="gauntlet.tasks.multi_label_text.tiny",
)
