"""A bundle's own model and its base model, on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gauntlet.components.convert_to_onnx.export import ConversionError
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.serving.bundle import TOKENIZER_FILE, read_info
from gauntlet.serving.cpu import usable_cpus
from gauntlet.serving.generation import Decoder, Generator
from gauntlet.tasks.causal_lm.decoder import export_decoder
from gauntlet.tasks.language.answers import Answers, Prompts, answer, answer_texts, read_prompts
from gauntlet.tasks.language.evaluation import Contender, evaluate, registry_scores
from gauntlet.tasks.language.language_models import find_language_model, load_network
from gauntlet.tasks.language.manifest import LanguageEvaluation
from gauntlet.tasks.language.packing import TEXTS, token_rows
from gauntlet.trainer.splits import read_rows

__all__ = ["evaluate", "open_model", "registry_scores"]


class LocalModel:
    """An `AnsweringModel` by ONNX Runtime; a `BundleError` if the bundle is incomplete or altered."""

    not_measured: Mapping[str, str] = {}

    def __init__(self, bundle: Path, settings: LanguageEvaluation, sha256: str | None = None) -> None:
        self._generator = Generator(bundle, sha256=sha256)
        self._tokenizer_file = (bundle / TOKENIZER_FILE).read_bytes()
        self._settings = settings

    def prompts(self, splits: Path, seed: int) -> Prompts:
        """Test rows with their tokens; a `UsageError` if an answer would leave no room for a prompt."""
        most, context = self._generator.info.max_length, self._generator.decoder.context
        assert most is not None
        new = self._settings.max_new_tokens
        if new >= context:
            raise UsageError(
                f"evaluation.max_new_tokens: found {new}, but the model reads {context} tokens, prompt and "
                "answer together. Lower it."
            )
        prompts = read_prompts(splits, self._settings, seed)
        drawn = read_rows(splits, "test", prompts.ids, TEXTS)
        prompts = replace(prompts, rows=tuple(token_rows(drawn, self._generator.tokenizer, most)))
        if cut := sum(len(row.prompt) + new > context for row in prompts.rows):
            print(
                f"warning: {cut} of {len(prompts.rows)} prompts are cut to the last {context - new} tokens, "
                f"since the model reads {context} and evaluation.max_new_tokens is {new}",
                flush=True,
            )
        return prompts

    def answer(self, prompts: Prompts, seed: int) -> Answers:
        """Losses of the references, and both answers."""
        return answer(self._generator.decoder, self._generator.tokenizer, prompts, self._settings, seed)

    def baseline(self, prompts: Prompts, seed: int) -> Contender:
        """The model that training began from, exported in fp32.

        Raises:
            UsageError: It is not available any more.
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
            tuned = self._generator.decoder
            decoder = Decoder(path, usable_cpus(), tuned.repetition_penalty)
            decoder.stop_tokens = tuned.stop_tokens
            return Contender(name, answer(decoder, self._generator.tokenizer, prompts, self._settings, seed))

    def unlike(self, other: Path) -> str | None:
        """Perplexities compare if both models have the same tokens and the same text after the question."""
        file = other / TOKENIZER_FILE
        if not file.is_file():
            return "has no tokenizer, as a vendor serves it"
        if file.read_bytes() != self._tokenizer_file:
            return "has another tokenizer"
        theirs, ours = read_info(other).frame, self._generator.info.frame
        return None if theirs and ours and theirs[1] == ours[1] else "has another chat template"

    def framed(self, question: str) -> str:
        """The question in the model's chat template."""
        return self._generator.framed(question)

    def ask(self, texts: Sequence[str]) -> Sequence[str]:
        """The answers with greedy decoding."""
        return answer_texts(self._generator, texts, self._settings)


open_model = LocalModel
