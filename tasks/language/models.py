"""The interface of models that answer prompts: those in bundles, and those behind an API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from gauntlet.components.training_rows import Flags, RowFingerprints, trained_on
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.manifests.kinds import task_kind
from gauntlet.serving.bundle import read_info
from gauntlet.tasks.language.answers import Answers, Prompts
from gauntlet.tasks.language.manifest import LanguageEvaluation
from gauntlet.tasks.language.scorecard import Contender


class AnsweringModel(Protocol):
    """The model of a bundle."""

    @property
    def not_measured(self) -> Mapping[str, str]:
        """Metrics that the model cannot have, and why."""

    def prompts(self, splits: Path, seed: int) -> Prompts:
        """Test rows as prompts of this model.

        Raises:
            DataError: There are fewer than two.
        """

    def answer(self, prompts: Prompts, seed: int) -> Answers:
        """Its answers; the same seed gives the same answers."""

    def baseline(self, prompts: Prompts, seed: int) -> Contender:
        """The base model, asked in the same way."""

    def unlike(self, other: Path) -> str | None:
        """Why the metrics of another bundle's model do not compare with this one's; None if they do."""

    def framed(self, question: str) -> str:
        """A question rendered for this model."""

    def ask(self, texts: Sequence[str]) -> Sequence[str]:
        """The greedy answer to each text, which is rendered already."""


def open_model(bundle: Path, settings: LanguageEvaluation, sha256: str | None = None) -> AnsweringModel:
    """The model of a bundle.

    Raises:
        BundleError: The bundle is incomplete or altered.
        UsageError: A vendor serves it, and there are no credentials.
    """
    kind = task_kind(read_info(bundle, sha256).task)
    model: AnsweringModel = kind.function("evaluation", "open_model")(bundle, settings, sha256)
    return model


def answer_as_champion(
    registry_uri: str,
    name: str,
    model: AnsweringModel,
    prompts: Prompts,
    settings: LanguageEvaluation,
    seed: int,
    tested: RowFingerprints | None = None,
) -> Contender | str | None:
    """The answers of the champion of `name`, None without one, or why it cannot be asked.

    The gate rejects if it cannot be asked.

    Raises:
        GauntletError: The registry or the vendor is unavailable.
    """
    from gauntlet.backends.factory import bundle_folder, open_registry
    from gauntlet.backends.registry import BUNDLE_TAG

    version = open_registry(registry_uri).champion(name)
    if version is None:
        return None
    title = f"Champion {version.name} version {version.version} ({version.bundle_uri})"
    try:
        with bundle_folder(version) as folder:
            difference = model.unlike(folder)
            if difference is not None:
                return (
                    f"{title} {difference}, so the figures of the two do not compare. Give the manifest a "
                    "new name: it is another model in the registry."
                )
            champion = open_model(folder, settings, version.tags.get(BUNDLE_TAG))
            seen = asked_of(prompts, trained_on(folder, read_info(folder), tested))
        answers = champion.answer(prompts, seed)
    except Exception as error:  # onnxruntime and tokenizers raise nothing more special than Exception
        if isinstance(error, GauntletError) and not isinstance(error, UsageError):
            raise
        repair = "Move the alias champion to a version that works: `gauntlet rollback`."
        return f"{title} cannot be run: {type(error).__name__}: {error}. {repair}"
    return Contender(f"version {version.version}", answers, version.version, seen)


def asked_of(prompts: Prompts, test_rows: Flags | str) -> Flags | str:
    """The flags of the prompts that were drawn, from the flags of all test rows."""
    return test_rows if isinstance(test_rows, str) else test_rows[list(prompts.ids)]
