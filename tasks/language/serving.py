"""Questions and answers of language models, served here or by a service."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gauntlet.serving.generation import PromptError
from gauntlet.serving.interface import Answer, InputError


def framed(questions: Sequence[str], frame: Callable[[str], str]) -> list[str]:
    """The prompt of each question, by `frame`; an `InputError` if a question cannot be asked."""
    prompts = []
    for number, question in enumerate(questions, start=1):
        try:
            prompts.append(frame(question))
        except PromptError as error:
            raise InputError(f"text {number}: {error}.") from None
    return prompts


def answers_to(questions: Sequence[str], answers: Sequence[str]) -> list[Answer]:
    """The answers, each beside its question."""
    pairs = [
        {"question": question, "answer": answer.strip()}
        for question, answer in zip(questions, answers, strict=True)
    ]
    return [Answer(cells=pair, content=pair) for pair in pairs]
