"""What language models share, trained here or by a service: conversations, answers, scores and gates."""

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
