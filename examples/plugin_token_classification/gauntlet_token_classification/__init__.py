"""Token classification: a tag for every word of a sentence, such as those of names."""

from __future__ import annotations

from gauntlet.manifests.kinds import Metric, TaskKind

KIND = TaskKind(
    interface=1,
    name="token_classification",
    title="Token classification",
    metrics=(
        Metric("entity_f1", "entity F1", registered=True),
        Metric("token_accuracy", "token accuracy", registered=True),
    ),
    manifest="gauntlet_token_classification.manifest:TokenManifest",
    data="gauntlet_token_classification.data",
    training="gauntlet_token_classification.training",
    conversion="gauntlet_token_classification.conversion",
    evaluation="gauntlet_token_classification.evaluation",
    gates="gauntlet_token_classification.gates",
    report="gauntlet_token_classification.report",
    serving="gauntlet_token_classification.serving",
    tiny="gauntlet_token_classification.tiny",
)
