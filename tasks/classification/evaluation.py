"""evaluate-model for a classifier: reads bundle, champion and test split, writes the outputs.

N = rows, C = classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gauntlet.components.evaluate_model import Evaluated, EvaluationRun
from gauntlet.components.training_rows import Flags, trained_on
from gauntlet.components.training_rows import RowFingerprints as Fingerprints
from gauntlet.components.training_rows import read_test_rows as read_fingerprints
from gauntlet.contracts.document import replacing, write_text
from gauntlet.manifests.errors import DataError, GauntletError, UsageError
from gauntlet.serving.bundle import Bundle, BundleError, BundleInfo
from gauntlet.serving.interface import InputError, Rows
from gauntlet.tasks.classification.manifest import Evaluation
from gauntlet.tasks.classification.metrics import Probabilities, Sets, single_sets
from gauntlet.tasks.classification.report import evaluation_page
from gauntlet.tasks.classification.scorecard import ChampionFailure, ChampionPredictions, Scoring, assess
from gauntlet.tasks.classification.scores import Scores
from gauntlet.trainer.mapped import map_texts
from gauntlet.trainer.splits import read_images, read_split

if TYPE_CHECKING:
    from gauntlet.backends.registry import ModelVersion
    from gauntlet.backends.registry import Scores as RegistryScores

IMAGES_FILE = "test.npz"

Ask = Callable[[Bundle, Rows], tuple[Probabilities, Sets]]
"""Asks a model about rows: the probabilities of its classes, and the classes that it gives, both (N, C)."""


@dataclass(frozen=True)
class HeldOutRows:
    """The test split.

    Attributes:
        inputs: What a model is asked, (N).
        labels: The index of each row's true class, (N,), or which classes each row has, (N, C).
        columns: What identifies the rows among the predictions.
    """

    inputs: Rows
    labels: npt.NDArray[Any]
    columns: Mapping[str, pa.ChunkedArray | Sequence[str] | npt.NDArray[np.int64]]


def read_rows(splits: Path) -> HeldOutRows:
    """Read the test split of texts or images. Predictions name an image by its row in the file."""
    if (splits / IMAGES_FILE).is_file():
        split = read_images(splits, "test")
        return HeldOutRows(split.images, split.labels, {"row": split.rows})
    labels = read_split(splits, "test", ["label"])["label"].to_numpy(dtype=np.int64)
    texts = map_texts(splits, "test")
    return HeldOutRows(texts, labels, {"text": texts.column})


def ask_class(model: Bundle, rows: Rows) -> tuple[Probabilities, Sets]:
    """The probabilities of a model's classes and the likeliest class of each row, both (N, C)."""
    probabilities = model.probabilities(rows)
    return probabilities, single_sets(probabilities.shape[1])[probabilities.argmax(axis=1)]


def evaluate(
    run: EvaluationRun[Evaluation], rows: HeldOutRows | None = None, scoring: Scoring | None = None
) -> Evaluated:
    """Score the bundle and the champion on the test split and write the three outputs.

    A kind with rows or scores of its own passes them; by default the rows are texts or images.

    Raises:
        DataError: The test split is empty or holds a label that the bundle does not know.
        GauntletError: The challenger's bundle cannot be read, or answers NaN.
    """
    rows = rows or read_rows(run.splits)
    asked = ask_both(rows, run)
    scoring = scoring or Scoring(asked.classes)
    champion = asked.champion
    if isinstance(champion, ChampionPredictions):
        champion = replace(champion, predicted=champion.predicted.argmax(axis=1))
    document = assess(
        rows.labels,
        asked.answers.argmax(axis=1),
        champion,
        run.settings,
        run.seed,
        scoring,
        asked.trained_on,
        scoring.mistakes(rows.inputs, rows.labels, asked.probabilities, run.settings.worst_mistakes),
    )
    names = np.array(asked.classes, dtype=object)
    columns = {
        "label": names[rows.labels],
        "predicted": names[asked.answers.argmax(axis=1)],
        "confidence": asked.probabilities.max(axis=1),
    }
    theirs = names[champion.predicted] if isinstance(champion, ChampionPredictions) else None
    write_predictions(run.predictions, {**rows.columns, **columns}, asked, theirs)
    figures = publish(document, run)
    matrix = [list(row) for row in document.challenger.confusion or ()]
    return Evaluated(figures, (list(asked.classes), matrix))


def publish(document: Scores, run: EvaluationRun[Evaluation]) -> dict[str, float]:
    """Write the document and its page, print the headline, and return it."""
    document.write(run.scores)
    write_text(run.report, evaluation_page(document, run.name))
    if document.training_overlap:
        print(f"{document.rows} test rows. {document.training_overlap.summary}")
    figures = document.headline()
    for figure, value in figures.items():
        print(f"{figure:>22}  {value:.4f}")
    if document.champion_error:
        print(f"warning: {document.champion_error}")
    return figures


def registry_scores(scores: Mapping[str, Any]) -> RegistryScores | None:
    """What a registry may show with the version; None if it has no confusion matrix."""
    from gauntlet.backends.registry import Scores

    challenger = scores["challenger"]
    if "confusion" not in challenger:
        return None
    return Scores(
        labels=tuple(scores["labels"]),
        accuracy=challenger["accuracy"],
        macro_f1=challenger["macro_f1"],
        confusion=tuple(tuple(row) for row in challenger["confusion"]),
    )


@dataclass(frozen=True)
class Asked:
    """What challenger and champion answered.

    Attributes:
        classes: The challenger's, which give the order of all columns.
        probabilities: The challenger's, (N, C).
        answers: Its classes of each row, (N, C).
        trained_on: Which rows it was trained on, (N,), or why that is not known.
        champion: Its classes of each row, (N, C); None if no champion is registered.
    """

    classes: tuple[str, ...]
    probabilities: Probabilities
    answers: Sets
    trained_on: Flags | str
    champion: ChampionPredictions | ChampionFailure | None


def ask_both(rows: HeldOutRows, run: EvaluationRun[Evaluation], ask: Ask = ask_class) -> Asked:
    """Ask challenger and champion about the same rows.

    Raises:
        DataError: There are no rows, or the bundle cannot take them or does not know a label.
        GauntletError: The challenger's bundle cannot be read, or answers NaN.
    """
    from gauntlet.backends.factory import open_registry

    if not len(rows.labels):
        raise DataError(
            f"{run.splits}: found 0 test rows, expected at least 1. Give the dataset a test split with rows."
        )
    info, probabilities, answers = score_challenger(run.bundle, rows, ask)
    tested = read_fingerprints(run.splits)
    version = open_registry(run.registry_uri).champion(run.name)
    champion = None
    if version is not None:
        champion = score_champion(version, info.labels, rows.inputs, tested, ask)
    return Asked(info.labels, probabilities, answers, trained_on(run.bundle, info, tested), champion)


def score_challenger(
    folder: Path, rows: HeldOutRows, ask: Ask = ask_class
) -> tuple[BundleInfo, Probabilities, Sets]:
    """What the bundle that conversion made answers: probabilities and classes, both (N, C).

    Raises:
        DataError: The bundle cannot take the rows, or they have a label that it does not know.
        GauntletError: The bundle cannot be read, or answers NaN.
    """
    try:
        model = Bundle(folder)
    except BundleError as error:
        raise GauntletError(
            f"The converted model cannot be read: {error}. Run convert-to-onnx again."
        ) from None
    classes = model.info.labels
    found = rows.labels if rows.labels.ndim == 1 else np.flatnonzero(rows.labels.any(axis=0))
    unknown = sorted({int(label) for label in found if not 0 <= label < len(classes)})
    if unknown:
        raise DataError(
            f"test rows: label: found class {unknown[0]}, expected 0 to {len(classes) - 1}, the classes "
            f"{', '.join(classes)} of the bundle. Run the pipeline from validate-data, so that both agree."
        )
    try:
        probabilities, answers = ask(model, rows.inputs)
    except BundleError as error:
        raise GauntletError(f"{error}. Run convert-to-onnx again.") from None
    except InputError as error:
        raise DataError(f"test rows: {error}. Run the pipeline from validate-data.") from None
    broken = _rows_without_an_answer(probabilities)
    if broken:
        raise GauntletError(
            f"{folder}: found NaN scores for {broken} of {len(rows.labels)} test rows, expected finite ones. "
            f"Look for a diverged loss in train-model's curves; a lower training.learning_rate may help."
        )
    return model.info, probabilities, answers


def score_champion(
    version: ModelVersion,
    classes: tuple[str, ...],
    rows: Rows,
    tested: Fingerprints | None = None,
    ask: Ask = ask_class,
) -> ChampionPredictions | ChampionFailure:
    """What the champion answers for `rows`, (N, C) in the order of `classes`, or why that cannot be known.

    A champion that fails is reported and not raised: the gate must reject for it, with this reason.

    Raises:
        GauntletError: The registry's bucket is unavailable.
    """
    from gauntlet.backends.factory import bundle_folder
    from gauntlet.backends.registry import BUNDLE_TAG

    title = f"Champion {version.name} version {version.version} ({version.bundle_uri})"
    repair = "Move the alias champion to a version that works: `gauntlet rollback`."
    try:
        with bundle_folder(version) as folder:
            model = Bundle(folder, sha256=version.tags.get(BUNDLE_TAG))
            seen = trained_on(folder, model.info, tested)
            theirs = model.info.labels
            if set(theirs) != set(classes):
                return ChampionFailure(_label_difference(title, theirs, classes))
            probabilities, answers = ask(model, rows)
    except (BundleError, UsageError) as error:
        return ChampionFailure(f"{title} cannot be read: {error}. {repair}")
    except GauntletError:
        raise
    except Exception as error:  # onnxruntime and tokenizers raise nothing more special than Exception
        return ChampionFailure(f"{title} cannot be run: {type(error).__name__}: {error}. {repair}")
    broken = _rows_without_an_answer(probabilities)
    if broken:
        return ChampionFailure(f"{title} answers NaN for {broken} of {len(rows)} test rows. {repair}")
    ours = [theirs.index(label) for label in classes]
    return ChampionPredictions(version.version, answers[:, ours], seen)


def _label_difference(title: str, theirs: tuple[str, ...], ours: tuple[str, ...]) -> str:
    only_theirs = ", ".join(sorted(set(theirs) - set(ours))) or "none"
    only_ours = ", ".join(sorted(set(ours) - set(theirs))) or "none"
    return (
        f"{title} has other labels, so no figure of the two compares: only the champion has {only_theirs}; "
        f"only this model has {only_ours}. Restore dataset.labels, or give the manifest a new name: "
        f"a model with other labels is another model in the registry."
    )


def _rows_without_an_answer(probabilities: Probabilities) -> int:
    return int((~np.isfinite(probabilities).all(axis=1)).sum())


def write_predictions(
    path: Path, columns: Mapping[str, object], asked: Asked, champion: npt.NDArray[Any] | None
) -> None:
    """Write what identifies each row and how it was answered, `columns`, with all probabilities.

    `champion` is what the champion answered each row, (N,).
    """
    found = {**columns}
    found |= {f"probability_{label}": asked.probabilities[:, c] for c, label in enumerate(asked.classes)}
    if champion is not None and isinstance(asked.champion, ChampionPredictions):
        found["champion_predicted"] = champion
        if not isinstance(asked.champion.trained_on, str):
            found["champion_trained_on"] = asked.champion.trained_on
    with replacing(path) as temporary:
        pq.write_table(pa.table(found), temporary)
