"""The section of evaluate-model."""

from __future__ import annotations

from pydantic import Field

from gauntlet.manifests.section import Section


class CommonEvaluation(Section):
    """What the section has for every task: how much doubt is in each figure."""

    bootstrap_resamples: int = Field(2_000, ge=200)
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
