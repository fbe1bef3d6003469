"""Asks language models that a service serves: the bundle names the endpoint."""

from __future__ import annotations

from pathlib import Path

from gauntlet.serving.interface import Answer, Request
from gauntlet.tasks.language.serving import answers_to, framed

ENDPOINT_FILE = "endpoint.json"
FILES = (ENDPOINT_FILE,)


class Endpoint:
    """The endpoint of a verified bundle."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def answer(self, request: Request) -> list[Answer]:
        """The answer to each question; an `InputError`, or a `UsageError` if nobody is logged in."""
        # The service's client takes seconds to import, and reading a bundle must not need it.
        from gauntlet.tasks.language.manifest import LanguageEvaluation
        from gauntlet.tasks.managed_causal_lm.evaluation import ManagedModel

        model = ManagedModel(self._folder, LanguageEvaluation(max_new_tokens=request.max_new_tokens))
        return answers_to(request.rows, model.ask(framed(request.rows, model.framed)))


def open_model(folder: Path, sha256: str | None = None) -> Endpoint:  # noqa: ARG001
    """The endpoint of a bundle."""
    return Endpoint(folder)
