"""The manifest of the task kind `token_classification`."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from gauntlet.manifests.dataset import RowCheck, TableDataset
from gauntlet.manifests.gates import CommonEvaluation, CommonGates
from gauntlet.manifests.schema import Manifest
from gauntlet.manifests.search import Dimension, Search
from gauntlet.manifests.section import Fraction, Section
from gauntlet.manifests.training import EarlyStopping, OnePhaseTraining
from gauntlet_token_classification.entities import OUTSIDE


class TokenChecks(Section):
    """What is checked before a model is trained."""

    unknown_tags: RowCheck = RowCheck()
    broken_spans: RowCheck = RowCheck()
    sentence_length: RowCheck = RowCheck(severity="drop", max_fraction=0.01)
    exact_duplicates: RowCheck = RowCheck(severity="drop", max_fraction=0.5)
    leakage: RowCheck = RowCheck(severity="drop", max_fraction=0.5)


class TokenDataset(TableDataset):
    """Section of validate-data: sentences in CoNLL files, a word and its tag in each line.

    A line holds columns between spaces or tabs: the first is the word, the last its tag. An empty line ends
    a sentence. `entities` are the kinds of spans; tags are `O`, and `B-` and `I-` with each of them.
    Sentences of more than `max_words` fail the check `sentence_length`.
    """

    entities: tuple[str, ...] = Field(min_length=1)
    max_words: int = Field(128, ge=4)
    checks: TokenChecks = TokenChecks()

    @property
    def tags(self) -> tuple[str, ...]:
        """In the order of the network's outputs."""
        return (OUTSIDE, *(f"{prefix}-{entity}" for entity in self.entities for prefix in "BI"))


class TokenSearch(Search):
    """What can be tuned."""

    width: Dimension | None = None


class EntityEarlyStopping(EarlyStopping):
    """The metrics are of the validation sentences."""

    metric: Literal["entity_f1", "token_accuracy", "loss"] = "entity_f1"


class TokenTraining(OnePhaseTraining):
    """Section of train-model: hashed word features, and `layers` convolutions of `width` channels over them.

    A word's features are the word itself, its ends, and its shape, each hashed to one of `buckets` vectors.
    """

    width: int = Field(96, ge=8, le=1024)
    layers: int = Field(2, ge=1, le=8)
    buckets: int = Field(4096, ge=64, le=1_000_000)
    epochs: int = Field(12, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(3e-3, gt=0, lt=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    early_stopping: EntityEarlyStopping = EntityEarlyStopping()
    search: TokenSearch | None = Field(None, exclude=True)

    memory_advice: ClassVar[str] = "Lower training.width or dataset.max_words"

    @property
    def architecture(self) -> str:
        """The network and its sizes."""
        return f"hashed-tagger-{self.layers}-{self.width}"


class TokenEvaluation(CommonEvaluation):
    """Section of evaluate-model."""


class TokenGates(CommonGates):
    """Section of gate-model. `min_entity_f1` is for the lower confidence limit."""

    min_entity_f1: Fraction
    min_speedup: float = Field(1.0, gt=0)


class TokenManifest(Manifest):
    """The manifest of a model that tags words."""

    task: Literal["token_classification"]
    dataset: TokenDataset
    training: TokenTraining = TokenTraining()
    evaluation: TokenEvaluation = TokenEvaluation()
    gates: TokenGates

    @model_validator(mode="after")
    def _one_graph(self) -> Self:
        if unfit := [name for name in self.conversion.candidates if name not in ("plain", "int8_static")]:
            raise ValueError(
                f"conversion.candidates: found {', '.join(unfit)}, expected plain, as the others are for "
                "transformers"
            )
        return self
