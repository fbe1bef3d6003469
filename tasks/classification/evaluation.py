"""evaluate-model for a classifier: reads bundle, champion and test split, writes the outputs. N = rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from gauntlet.components.evaluate_model import Evaluated, EvaluationRun
from gauntlet.components.training_rows import RowFingerprints as Fingerprints
from gauntlet.components.training_rows import read_test_rows as read_fingerprints
from gauntlet.components.training_rows import trained_on
from gauntlet.contracts.document import replacing, write_json, write_text
from gauntlet.manifests.errors import DataError, GauntletError, UsageError
from gauntlet.serving.bundle import Bundle, BundleError, read_info
from gauntlet.serving.interface import InputError, Rows
from gauntlet.tasks.classification.manifest import Evaluation
from gauntlet.tasks.classification.report import evaluation_page
from gauntlet.tasks.classification.scorecard import ChampionFailure, ChampionPredictions, Scoring, assess
from gauntlet.trainer.splits import read_images, read_split

if TYPE_CHECKING:
    from gauntlet.backends.registry import ModelVersion, Scores

Probabilities = npt.NDArray[np.float32]
IMAGES_FILE = "test.npz"


@dataclass(frozen=True)
class HeldOutRows:
    """The test split.

    Attributes:
        inputs: What a model is asked, (N).
        labels: The true classes' indices, (N,).
        columns: What identifies the rows among the predictions.
    """

    inputs: Rows
    labels: npt.NDArray[np.int64]
    columns: Mapping[str, Sequence[str] | npt.NDArray[np.int64]]


def read_rows(splits: Path) -> HeldOutRows:
    """Read the test split of texts or images. Predictions name an image by its row in the file."""
    if (splits / IMAGES_FILE).is_file():
        split = read_images(splits, "test")
        return HeldOutRows(split.images, split.labels, {"row": split.rows})
    frame = read_split(splits, "test")
    texts = frame["text"].tolist()
    return HeldOutRows(texts, frame["label"].to_numpy(dtype=np.int64), {"text": texts})


def evaluate(
    run: EvaluationRun[Evaluation], rows: HeldOutRows | None = None, scoring: Scoring | None = None
) -> Evaluated:
    """Score the bundle and the champion on the test split and write the three outputs.

    A kind with rows or scores of its own passes them; by default the rows are texts or images.

    Raises:
        DataError: The test split is empty or holds a label that the bundle does not know.
        GauntletError: The challenger's bundle cannot be read, or answers NaN.
    """
    from gauntlet.backends.factory import open_registry

    rows = rows or read_rows(run.splits)
    if not len(rows.labels):
        raise DataError(
            f"{run.splits}: found 0 test rows, expected at least 1. Give the dataset a test split with rows."
        )
    classes, probabilities = score_challenger(run.bundle, rows)
    version = open_registry(run.registry_uri).champion(run.name)
    tested = read_fingerprints(run.splits)
    champion = None if version is None else score_champion(version, classes, rows.inputs, tested)
    own = trained_on(run.bundle, read_info(run.bundle), tested)
    scorecard = assess(
        rows.inputs, rows.labels, probabilities, classes, champion, run.settings, run.seed, own, scoring
    )
    write_json(run.scores, scorecard.as_json())
    _write_predictions(run.predictions, rows, classes, probabilities, champion)
    write_text(run.report, evaluation_page(scorecard, run.name))
    print(f"{scorecard.rows} test rows. {scorecard.training_overlap.summary}")
    for figure, value in scorecard.headline().items():
        print(f"{figure:>22}  {value:.4f}")
    if scorecard.champion_error:
        print(f"warning: {scorecard.champion_error}")
    matrix = [list(row) for row in scorecard.challenger.confusion]
    return Evaluated(scorecard.headline(), (list(scorecard.labels), matrix))


def registry_scores(scores: Mapping[str, Any]) -> Scores | None:
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


def score_challenger(folder: Path, rows: HeldOutRows) -> tuple[tuple[str, ...], Probabilities]:
    """The class names and the probabilities, (N, C), of the bundle that conversion made.

    Raises:
        DataError: The test split holds a label that the bundle does not know.
        GauntletError: The bundle cannot be read, or answers NaN.
    """
    try:
        model = Bundle(folder)
    except BundleError as error:
        raise GauntletError(
            f"The converted model cannot be read: {error}. Run convert-to-onnx again."
        ) from None
    classes = model.info.labels
    unknown = sorted({int(label) for label in rows.labels if not 0 <= label < len(classes)})
    if unknown:
        raise DataError(
            f"test rows: label: found class {unknown[0]}, expected 0 to {len(classes) - 1}, the classes "
            f"{', '.join(classes)} of the bundle. Run the pipeline from validate-data, so that both agree."
        )
    try:
        probabilities = model.probabilities(rows.inputs)
    except InputError as error:
        raise DataError(f"test rows: {error}. Run the pipeline from validate-data.") from None
    broken = _rows_without_an_answer(probabilities)
    if broken:
        raise GauntletError(
            f"{folder}: found NaN scores for {broken} of {len(rows.labels)} test rows, expected finite ones. "
            f"Look for a diverged loss in train-model's curves; a lower training.learning_rate may help."
        )
    return classes, probabilities


def score_champion(
    version: ModelVersion, classes: tuple[str, ...], rows: Rows, tested: Fingerprints | None = None
) -> ChampionPredictions | ChampionFailure:
    """What the champion answers for `rows`, as indices into `classes`, or why that cannot be known.

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
        probabilities = model.probabilities(rows)
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
    return ChampionPredictions(version.version, probabilities[:, ours].argmax(axis=1), seen)


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


def _write_predictions(
    path: Path,
    rows: HeldOutRows,
    classes: tuple[str, ...],
    probabilities: Probabilities,
    champion: ChampionPredictions | ChampionFailure | None,
) -> None:
    names = np.array(classes, dtype=object)
    columns: dict[str, object] = {
        **rows.columns,
        "label": names[rows.labels],
        "predicted": names[probabilities.argmax(axis=1)],
        "confidence": probabilities.max(axis=1),
    }
    columns |= {f"probability_{label}": probabilities[:, c] for c, label in enumerate(classes)}
    if isinstance(champion, ChampionPredictions):
        columns["champion_predicted"] = names[champion.predicted]
        if not isinstance(champion.trained_on, str):
            columns["champion_trained_on"] = champion.trained_on
    with replacing(path) as temporary:
        pd.DataFrame(columns).to_parquet(temporary, index=False)
