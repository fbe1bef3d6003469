"""A model that a vendor tuned and serves, and its base model, through the vendor's API."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gauntlet.backends.google.gemini import Drawing, Gemini
from gauntlet.backends.google.location import VertexLocation
from gauntlet.contracts.document import read_json
from gauntlet.serving.bundle import read_info
from gauntlet.serving.generation import readable
from gauntlet.tasks.language.answers import Answers, Prompts, read_prompts
from gauntlet.tasks.language.evaluation import Contender, evaluate, registry_scores
from gauntlet.tasks.language.manifest import LanguageEvaluation
from gauntlet.tasks.managed_causal_lm import KIND
from gauntlet.tasks.managed_causal_lm.serving import ENDPOINT_FILE

__all__ = ["evaluate", "open_model", "registry_scores"]


@dataclass(frozen=True)
class Endpoint:
    """The content of `endpoint.json`: where a tuned model answers, and what it was tuned from."""

    project: str
    location: str
    base_model: str
    tuning_job: str
    endpoint: str

    @classmethod
    def of(cls, bundle: Path) -> Endpoint:
        """The endpoint of a bundle whose hashes were checked."""
        return cls(**read_json(bundle / ENDPOINT_FILE))


class ManagedModel:
    """An `AnsweringModel` behind an API; a `UsageError` without credentials."""

    def __init__(self, bundle: Path, settings: LanguageEvaluation) -> None:
        self._endpoint = Endpoint.of(bundle)
        self._settings = settings
        self._gemini = Gemini(VertexLocation(self._endpoint.project, self._endpoint.location))

    @property
    def not_measured(self) -> Mapping[str, str]:
        """Perplexity needs probabilities of the references, which the API does not give."""
        return {
            "perplexity": f"{self._endpoint.base_model} is served by Vertex AI, which gives no probabilities "
            "of an answer that the model did not give itself"
        }

    def prompts(self, splits: Path, seed: int) -> Prompts:
        """Test rows as requests."""
        return read_prompts(splits, self._settings, seed)

    def answer(self, prompts: Prompts, seed: int) -> Answers:
        """Both answers of the tuned model."""
        return self._both(prompts, seed, self._endpoint.endpoint)

    def baseline(self, prompts: Prompts, seed: int) -> Contender:
        """The model before tuning."""
        return Contender(self._endpoint.base_model, self._both(prompts, seed, None))

    def unlike(self, other: Path) -> str | None:
        """The prompts of other kinds of models are rendered in another way."""
        return None if read_info(other).task == KIND.name else "is no managed model"

    def framed(self, question: str) -> str:
        """A request of one turn; a `PromptError` if the question is empty or holds a control character."""
        parts = [{"text": readable(question)}]
        return json.dumps({"contents": [{"role": "user", "parts": parts}]}, ensure_ascii=False)

    def ask(self, texts: Sequence[str]) -> Sequence[str]:
        """At temperature 0."""
        return self._answers(texts, Drawing(self._settings.max_new_tokens), self._endpoint.endpoint)

    def _both(self, prompts: Prompts, seed: int, endpoint: str | None) -> Answers:
        settings = self._settings
        likeliest = Drawing(settings.max_new_tokens)
        drawn = Drawing(
            settings.max_new_tokens, settings.temperature, settings.top_k, settings.top_p, seed % 2**31
        )
        return Answers(
            losses=None,
            greedy=self._answers(prompts.rendered, likeliest, endpoint),
            sampled=self._answers(prompts.rendered, drawn, endpoint),
        )

    def _answers(self, rendered: Sequence[str], drawing: Drawing, endpoint: str | None) -> tuple[str, ...]:
        def one(request: str) -> str:
            return self._gemini.answer(self._endpoint.base_model, json.loads(request), drawing, endpoint)

        with ThreadPoolExecutor(self._settings.batch_size) as threads:
            answers = tuple(threads.map(one, rendered))
        if silent := answers.count(""):
            print(f"warning: {silent} of {len(answers)} prompts were not answered, by the vendor's filter")
        return answers


def open_model(bundle: Path, settings: LanguageEvaluation, sha256: str | None = None) -> ManagedModel:  # noqa: ARG001
    """The model of a bundle, as `tasks.language.evaluation.open_model` says."""
    return ManagedModel(bundle, settings)
