"""Causal language model: conversations, and a model that learns to answer in them."""

from __future__ import annotations

from math import inf

from gauntlet.manifests.kinds import Metric, TaskKind
from gauntlet.tasks.language import ANSWER_METRICS

KIND = TaskKind(
    interface=1,
    name="causal_lm",
    title="Causal language model",
    metrics=(
        Metric("perplexity", "perplexity", better="lower", domain=(1.0, inf), digits=2, registered=True),
        Metric("token_accuracy", "token accuracy"),
        *ANSWER_METRICS,
    ),
    manifest="gauntlet.tasks.causal_lm.manifest:LanguageManifest",
    data="gauntlet.tasks.causal_lm.data",
    training="gauntlet.tasks.causal_lm.training",
    conversion="gauntlet.tasks.causal_lm.conversion",
    evaluation="gauntlet.tasks.causal_lm.evaluation",
    gates="gauntlet.tasks.language.gates",
    report="gauntlet.tasks.language.report",
    serving="gauntlet.tasks.causal_lm.serving",
    tiny="gauntlet.tasks.causal_lm.tiny",
)
