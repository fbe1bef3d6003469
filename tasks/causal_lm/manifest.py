"""The manifest of the task kind `causal_lm`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from gauntlet.manifests.conversion import DECODER_CANDIDATES
from gauntlet.manifests.search import Dimension, Search
from gauntlet.manifests.training import EarlyStopping, OnePhaseTraining
from gauntlet.tasks.language.manifest import ConversationManifest


def _trained_here(model: str) -> str:
    if model.startswith("gemini-"):
        expected = "a model that can be trained here; for a Gemini model set `task: managed_causal_lm`"
        raise PydanticCustomError("model", "{words}", {"words": expected})
    return model


class LanguageSearch(Search):
    """What can be tuned of a language model."""

    lora_r: Dimension | None = None
    lora_alpha: Dimension | None = None
    lora_dropout: Dimension | None = None


class AnswerEarlyStopping(EarlyStopping):
    """The metrics are of the validation answers' tokens."""

    metric: Literal["loss", "perplexity", "token_accuracy"] = "loss"


class LanguageTraining(OnePhaseTraining):
    """Section of train-model: a causal language model, trained by adapters or whole.

    `model` is a folder, a GGUF file, `package://PACKAGE/FILE.gguf` or a name on the Hugging Face hub. With
    `method: lora` the layers whose names end in one of `target_modules` get adapters of rank `lora_r` (Hu et
    al., 2021), and only these are trained; `full` trains every weight and reads no key of theirs. The loss is
    that of the answers' tokens. With `packing` the rows of a micro-batch lie end to end in sequences of at
    most `dataset.max_tokens`, and none sees another. `dropout` is the model's own.
    """

    model: Annotated[str, AfterValidator(_trained_here)] = Field(
        "HuggingFaceTB/SmolLM2-135M-Instruct", min_length=1
    )
    method: Literal["lora", "full"] = "lora"
    lora_r: int = Field(8, ge=1, le=1024)
    lora_alpha: int = Field(16, ge=1)
    lora_dropout: float = Field(0.05, ge=0, lt=1)
    lora_bias: Literal["none", "all", "lora_only"] = "none"
    target_modules: tuple[str, ...] = Field(("q_proj", "v_proj"), min_length=1)
    packing: bool = True
    gradient_checkpointing: bool = False
    epochs: int = Field(3, ge=1)
    batch_size: int = Field(8, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    early_stopping: AnswerEarlyStopping = AnswerEarlyStopping()
    search: LanguageSearch | None = Field(None, exclude=True)

    memory_advice: ClassVar[str] = "Lower dataset.max_tokens, set training.gradient_checkpointing"

    @property
    def unread_dimensions(self) -> tuple[str, ...]:
        """Those of adapters, where every weight is trained."""
        named = self.search.dimensions() if self.search and self.method == "full" else {}
        return tuple(key for key in named if key.startswith("lora_"))

    @property
    def architecture(self) -> str:
        """The model's name without its folder, and how it is trained."""
        name = self.model.rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf")
        return f"{name}-lora-{self.lora_r}" if self.method == "lora" else name


class LanguageManifest(ConversationManifest):
    """The manifest of a language model that is trained here. Its perplexity must have a bound."""

    task: Literal["causal_lm"]
    training: LanguageTraining = LanguageTraining()

    @property
    def conversion_keys(self) -> Collection[str]:
        """Answers are generated."""
        return ("repetition_penalty",)

    def require_vocabulary(self, file: str) -> None:
        """The model's embedding has every token of its tokenizer."""
        from gauntlet.tasks.texts.vocabulary import require_own_vocabulary

        require_own_vocabulary(self.training.model, "training.model", file)

    @model_validator(mode="after")
    def _measurable(self) -> Self:
        if self.gates.max_perplexity is None:
            raise ValueError("gates.max_perplexity: found nothing, expected a number over 1")
        if not set(self.conversion.candidates) & set(DECODER_CANDIDATES):
            raise ValueError(
                f"conversion.candidates: found {', '.join(self.conversion.candidates)}, expected for a "
                f"language model some of {', '.join(DECODER_CANDIDATES)}"
            )
        if self.conversion.device == "gpu":
            raise ValueError(
                "conversion.target: found gpu, but a language model's bundle runs on CPUs alone: leave it out"
            )
        return self
