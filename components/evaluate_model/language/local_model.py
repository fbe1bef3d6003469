"""A bundle's own model, and the one that it was trained from, on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from components.convert_to_onnx.decoder import export_decoder
from components.convert_to_onnx.export import ConversionError
from components.evaluate_model.language.answers import (
    Answers,
    Prompts,
    answer,
    answer_texts,
    read_token_prompts,
)
from components.evaluate_model.language.scorecard import Contender
from manifests.causal_lm import LanguageEvaluation
from manifests.errors import GauntletError
from serving.bundle import TOKENIZER_FILE
from serving.cpu import usable_cpus
from serving.generation import Decoder, Generator
from trainer.language_models import find_language_model, load_network


class LocalModel:
    """An `AnsweringModel` by ONNX Runtime.

    Raises:
        BundleError: The bundle is incomplete or altered.
    """

    not_measured: Mapping[str, str] = {}

    def __init__(self, bundle: Path, settings: LanguageEvaluation, sha256: str | None = None) -> None:
        self._generator = Generator(bundle, sha256=sha256)
        self._tokenizer_file = (bundle / TOKENIZER_FILE).read_bytes()
        self._settings = settings

    def prompts(self, splits: Path, seed: int) -> Prompts:
        """Test rows with their tokens."""
        most = self._generator.info.max_length
        assert most is not None
        return read_token_prompts(splits, self._generator.tokenizer, self._settings, most, seed)

    def answer(self, prompts: Prompts, seed: int) -> Answers:
        """Losses of the references, and both answers."""
        return answer(self._generator.decoder, self._generator.tokenizer, prompts, self._settings, seed)

    def baseline(self, prompts: Prompts, seed: int) -> Contender:
        """The model that training began from, exported in fp32.

        Raises:
            UsageError: It is not to be had any more.
            GauntletError: It cannot be exported.
        """
        name = self._generator.info.lineage["encoder"]
        with tempfile.TemporaryDirectory(prefix="gauntlet-baseline-") as scratch:
            path = Path(scratch) / "baseline.onnx"
            try:
                export_decoder(load_network(find_language_model(name)), path)
            except ConversionError as error:
                raise GauntletError(
                    f"evaluation: the baseline {name} {error}. Choose another model."
                ) from None
            decoder = Decoder(path, usable_cpus(), self._generator.decoder.repetition_penalty)
            return Contender(name, answer(decoder, self._generator.tokenizer, prompts, self._settings, seed))

    def unlike(self, other: Path) -> str | None:
        """Perplexities compare only where tokens are the same."""
        file = other / TOKENIZER_FILE
        if not file.is_file():
            return "has no tokenizer, as a vendor serves it"
        return None if file.read_bytes() == self._tokenizer_file else "has another tokenizer"

    def framed(self, question: str) -> str:
        """Between what stands around a prompt."""
        return self._generator.framed(question)

    def ask(self, texts: Sequence[str]) -> Sequence[str]:
        """By the likeliest tokens."""
        return answer_texts(self._generator, texts, self._settings)
