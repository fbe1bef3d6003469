"""Managed language model: a Gemini model that Vertex AI tunes and serves."""

from __future__ import annotations

from gauntlet.manifests.kinds import TaskKind
from gauntlet.tasks.language import ANSWER_METRICS

KIND = TaskKind(
    interface=1,
    name="managed_causal_lm",
    title="Managed language model",
    metrics=ANSWER_METRICS,
    manifest="gauntlet.tasks.managed_causal_lm.manifest:ManagedManifest",
    data="gauntlet.tasks.managed_causal_lm.data",
    training="gauntlet.tasks.managed_causal_lm.training",
    evaluation="gauntlet.tasks.managed_causal_lm.evaluation",
    gates="gauntlet.tasks.managed_causal_lm.gates",
    report="gauntlet.tasks.language.report",
    serving="gauntlet.tasks.managed_causal_lm.serving",
)
