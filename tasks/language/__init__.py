"""Conversations and models that answer in them. For language models trained here or by a service."""

from __future__ import annotations

from gauntlet.manifests.kinds import Metric

ANSWER_METRICS = (
    Metric("rouge_l", "ROUGE-L", registered=True),
    Metric("rouge1", "ROUGE-1"),
    Metric("rouge2", "ROUGE-2"),
    Metric("bleu", "BLEU"),
    Metric("sampled_rouge_l", "ROUGE-L, sampled"),
)
"""Of answers that are compared with references."""
