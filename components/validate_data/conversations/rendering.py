"""Conversations as their model reads them: by its chat template, as text and as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from manifests.errors import UsageError
from trainer.language_models import find_language_model, load_tokenizer

PLACEHOLDER = "GAUNTLETPROMPT"

Context = Sequence[tuple[str, str]]
"""Roles and texts, of which the last is the user's."""


@dataclass(frozen=True)
class Rendered:
    """What the model is given, what it is to answer, and how many tokens each has."""

    prompt: str
    target: str
    prompt_tokens: int
    target_tokens: int


class Renderer:
    """A model's chat template and tokenizer."""

    def __init__(self, model: str) -> None:
        """Load them.

        Raises:
            UsageError: The model cannot be found, or its template cannot be used.
        """
        self._tokenizer: PreTrainedTokenizerFast = load_tokenizer(find_language_model(model))
        self._model = model
        added = [token.content for token in self._tokenizer.added_tokens_decoder.values() if token.special]
        self.special_tokens = tuple(dict.fromkeys([*map(str, self._tokenizer.all_special_tokens), *added]))

    def frame(self, system: str | None = None) -> tuple[str, str]:
        """What stands before and after a single prompt, where the system says `system` first."""
        context = [] if system is None else [("system", system)]
        before, found, after = self._prompt([*context, ("user", PLACEHOLDER)]).partition(PLACEHOLDER)
        if not found:
            raise UsageError(
                f"training.model: {self._model}: its chat template leaves out what the user says"
            )
        return before, after

    def render(self, contexts: Sequence[Context], responses: Sequence[str]) -> list[Rendered]:
        """Each context with its response, which ends with what ends a text.

        Raises:
            UsageError: The template does not take such a conversation.
        """
        prompts = [self._prompt(context) for context in contexts]
        targets = [
            self._target(prompt, context, response)
            for prompt, context, response in zip(prompts, contexts, responses, strict=True)
        ]
        counts = zip(self._count(prompts), self._count(targets), strict=True)
        return [
            Rendered(prompt, target, *lengths)
            for prompt, target, lengths in zip(prompts, targets, counts, strict=True)
        ]

    def _count(self, texts: Sequence[str]) -> list[int]:
        if not texts:
            return []
        return [len(ids) for ids in self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    def _prompt(self, context: Context) -> str:
        return self._apply(context, add_generation_prompt=True)

    def _target(self, prompt: str, context: Context, response: str) -> str:
        whole = self._apply([*context, ("assistant", response)], add_generation_prompt=False)
        if not whole.startswith(prompt):
            raise UsageError(
                f"training.model: {self._model}: its chat template renders no answer after the prompt "
                "that asks for it, so no loss could be taken of the answer alone. Choose another model."
            )
        target, end = whole[len(prompt) :].rstrip(), str(self._tokenizer.eos_token)
        return target if target.endswith(end) else target + end

    def _apply(self, context: Context, add_generation_prompt: bool) -> str:
        messages = [{"role": role, "content": text} for role, text in context]
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=add_generation_prompt
                )
            )
        except Exception as error:  # whatever a template raises: jinja2 has no base class for it
            raise UsageError(
                f"training.model: {self._model}: its chat template does not take the roles "
                f"{', '.join(role for role, _ in context)}: {error}"
            ) from None


def shared_system(contexts: Sequence[Context]) -> str | None:
    """What the system says at the start of all conversations, if it is the same in all."""
    first = {context[0] for context in contexts}
    role, text = first.pop() if len(first) == 1 else ("", "")
    return text if role == "system" else None
