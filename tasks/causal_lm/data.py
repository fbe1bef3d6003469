"""Conversations for a language model that is trained here, rendered by its chat template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from gauntlet.components.validate_data.checks import Examination
from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.proposal import Proposal
from gauntlet.tasks.causal_lm.manifest import LanguageTraining
from gauntlet.tasks.language.data import Context, Rendered, Statistics, examine_conversations, sources
from gauntlet.tasks.language.look import conversations_in
from gauntlet.tasks.language.manifest import PERPLEXITY_SPREAD, ConversationDataset, describe_gain_resolution
from gauntlet.tasks.language.turns import Turn

__all__ = ["Statistics", "examine", "propose", "sources"]

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PLACEHOLDER = "GAUNTLETPROMPT"


def examine(dataset: ConversationDataset) -> Examination:
    """Read and check a dataset, as `examine_conversations` does; a `UsageError` for an unusable model."""
    resolution = partial(describe_gain_resolution, spread=PERPLEXITY_SPREAD, metric="perplexity")
    return examine_conversations(dataset, ChatRenderer(dataset.tokenizer), resolution)


class ChatRenderer:
    """The `Renderer` of a model with a chat template and a tokenizer; a `UsageError` if it cannot be used."""

    def __init__(self, model: str) -> None:
        # It imports transformers, which `sources` does not need.
        from gauntlet.tasks.language.language_models import find_language_model, load_tokenizer

        self._tokenizer: PreTrainedTokenizerFast = load_tokenizer(find_language_model(model))
        self._model = model
        added = [token.content for token in self._tokenizer.added_tokens_decoder.values() if token.special]
        self.special_tokens = tuple(dict.fromkeys([*map(str, self._tokenizer.all_special_tokens), *added]))

    def frame(self, system: str | None = None) -> tuple[str, str]:
        """The text before and after a single prompt; a `UsageError` if the template ignores it."""
        context = [] if system is None else [Turn("system", system)]
        before, found, after = self._prompt([*context, Turn("user", PLACEHOLDER)]).partition(PLACEHOLDER)
        if not found:
            raise UsageError(
                f"training.model: {self._model}: its chat template leaves out what the user says"
            )
        return before, after

    def render(
        self, contexts: Sequence[Context], answers: Sequence[Turn], tools: Sequence[str]
    ) -> list[Rendered]:
        """Each context with its answer and the end token; a `UsageError` if the template refuses."""
        prompts = [self._prompt(*given) for given in zip(contexts, tools, strict=True)]
        targets = [self._target(*given) for given in zip(prompts, contexts, answers, tools, strict=True)]
        counts = zip(self._count(prompts), self._count(targets), strict=True)
        return [
            Rendered(prompt, target, *lengths, answer.text or self._without_end(target))
            for prompt, target, lengths, answer in zip(prompts, targets, counts, answers, strict=True)
        ]

    def _without_end(self, target: str) -> str:
        return target.removesuffix(str(self._tokenizer.eos_token)).strip()

    def unrendered(self, context: Context, answer: Turn, tools: str) -> str | None:
        """The parts about tools that the template would leave out, in words, or None.

        A unique word replaces each part, and must be in the rendered text.
        """
        turns = [*context, answer]
        if not tools and not any(turn.calls or turn.role == "tool" for turn in turns):
            return None
        try:
            prompt = self._prompt(context, tools)
            if not self._apply(turns, tools, add_generation_prompt=False).startswith(prompt):
                return "the chat template renders no answer with tools after its prompt"
            marked, words = _marked(turns, tools)
            rendered = self._apply(*marked, add_generation_prompt=False)
        except UsageError as error:
            return str(error)
        return next(
            (f"the chat template leaves out {what}" for word, what in words if word not in rendered), None
        )

    def _count(self, texts: Sequence[str]) -> list[int]:
        tokenizer = self._tokenizer.backend_tokenizer
        return list(map(len, tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)))

    def _prompt(self, context: Context, tools: str = "") -> str:
        return self._apply(context, tools, add_generation_prompt=True)

    def _target(self, prompt: str, context: Context, answer: Turn, tools: str) -> str:
        whole = self._apply([*context, answer], tools, add_generation_prompt=False)
        if not whole.startswith(prompt):
            raise UsageError(
                f"training.model: {self._model}: its chat template renders no answer after the prompt "
                "that asks for it, so no loss could be taken of the answer alone. Choose another model."
            )
        target, end = whole[len(prompt) :].rstrip(), str(self._tokenizer.eos_token)
        return target if target.endswith(end) else target + end

    def _apply(self, context: Context, tools: str, add_generation_prompt: bool) -> str:
        messages = [turn.as_message() for turn in context]
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    messages,
                    tools=json.loads(tools) if tools else None,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                )
            )
        except Exception as error:  # whatever a template raises: jinja2 has no base class for it
            raise UsageError(
                f"training.model: {self._model}: its chat template does not take the roles "
                f"{', '.join(turn.role for turn in context)}: {error}"
            ) from None


def _marked(turns: Sequence[Turn], tools: str) -> tuple[tuple[list[Turn], str], list[tuple[str, str]]]:
    """Turns and tools with a unique word in place of each part about tools, and what each word stands for."""
    words: list[tuple[str, str]] = []

    def word(what: str) -> str:
        words.append((f"{PLACEHOLDER}{len(words)}x", what))
        return words[-1][0]

    marked = []
    for turn in turns:
        calls = json.loads(turn.calls) if turn.calls else []
        for call in calls:
            call["function"]["name"] = word(f"the call of {call['function']['name']}")
        text = word("what a tool says") if turn.role == "tool" else turn.text
        marked.append(replace(turn, text=text, calls=json.dumps(calls) if calls else ""))
    offered = json.loads(tools) if tools else []
    for tool in offered:
        function = tool.get("function", tool)
        function["name"] = word(f"the tool {function['name']}")
    return (marked, json.dumps(offered) if offered else ""), words


def propose(uri: str) -> Proposal | None:
    """A manifest for conversations, or questions with answers; None for other data."""
    found = conversations_in(uri)
    if found is None:
        return None
    why, columns = found
    return Proposal(
        fit=0.95,
        why=why,
        sections={
            "dataset": columns,
            "training": {"model": LanguageTraining.model_fields["model"].default, "epochs": 2},
            "gates": {"max_perplexity": 50.0},
        },
        comments={
            "training.model": "fetched from the Hugging Face hub; or a folder, or a GGUF file",
            "gates.max_perplexity": "of the answers, per token: set what your use needs",
        },
    )
