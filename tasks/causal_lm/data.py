"""Conversations for a language model that is trained here: rendered by its own chat template."""

from __future__ import annotations

from functools import partial

from gauntlet.components.validate_data.checks import Examination
from gauntlet.tasks.language.data import Statistics, examine_conversations, sources
from gauntlet.tasks.language.manifest import PERPLEXITY_SPREAD, ConversationDataset, describe_gain_resolution

__all__ = ["Statistics", "examine", "sources"]


def examine(dataset: ConversationDataset) -> Examination:
    """Read and check a dataset, as `examine_conversations` does.

    Raises:
        UsageError: The model cannot be found, or its chat template cannot be used.
    """
    from gauntlet.tasks.causal_lm.rendering import (
        ChatRenderer,  # loads transformers, which `sources` does not need
    )

    resolution = partial(describe_gain_resolution, spread=PERPLEXITY_SPREAD, metric="perplexity")
    return examine_conversations(dataset, ChatRenderer(dataset.tokenizer), resolution)
