"""evaluate-model for numbers: how far the bundle and the champion are off on the same test rows. N = rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gauntlet.components.bootstrap import interval, lower_bound, resampled_means, upper_bound
from gauntlet.components.evaluate_model import Evaluated, EvaluationRun
from gauntlet.components.pictures import thumbnail
from gauntlet.components.training_rows import (
    Flags,
    RowFingerprints,
    clean_rows,
    describe_overlap,
    read_test_rows,
    trained_on,
)
from gauntlet.contracts.data import STATISTICS_FILE
from gauntlet.contracts.document import replacing, write_json, write_text
from gauntlet.manifests.errors import DataError, GauntletError, UsageError
from gauntlet.serving.bundle import BundleError
from gauntlet.serving.interface import InputError, Rows
from gauntlet.tasks.regression.data import Statistics
from gauntlet.tasks.regression.manifest import RegressionEvaluation
from gauntlet.tasks.regression.metrics import Floats, bin_edges, histogram, measure, resample
from gauntlet.tasks.regression.report import evaluation_page
from gauntlet.tasks.regression.rows import NumberRows, read_rows
from gauntlet.tasks.regression.serving import NumberModel
from gauntlet.trainer.mapped import Texts

if TYPE_CHECKING:
    from gauntlet.backends.registry import ModelVersion

POINTS = 1_000
"""Rows in the picture of predicted and true numbers, drawn by the run's seed."""

EXCERPT_CHARS = 300


@dataclass(frozen=True)
class Champion:
    """The champion's answers, (N,), and which rows it was trained on, (N,), or why that is unknown."""

    version: str
    predicted: Floats
    trained_on: Flags | str


def evaluate(run: EvaluationRun[RegressionEvaluation]) -> Evaluated:
    """Score the bundle and the champion on the test split and write the three outputs.

    Raises:
        DataError: The test split is empty.
        GauntletError: The challenger's bundle cannot be read, or answers NaN.
    """
    from gauntlet.backends.factory import open_registry

    settings, rows = run.settings, read_rows(run.splits, "test")
    if not len(rows):
        raise DataError(
            f"{run.splits}: found 0 test rows, expected at least 1. Give the dataset a test split with rows."
        )
    model, predicted = _challenger(run.bundle, rows)
    tested = read_test_rows(run.splits)
    version = open_registry(run.registry_uri).champion(run.name)
    champion = None if version is None else _champion(version, model, rows.inputs, tested)
    own = trained_on(run.bundle, model.info, tested)
    slices = _slices(run.splits, rows, settings)
    content = assess(rows, predicted, model, champion, settings, run.seed, own, slices)
    content["worst"] = _worst(rows, predicted, settings.worst_rows)
    write_json(run.scores, content)
    columns: dict[str, Any] = {"row": rows.rows, "target": rows.targets, "predicted": predicted}
    if isinstance(rows.inputs, Texts):
        columns = {"text": rows.inputs.column} | columns
    if isinstance(champion, Champion):
        columns["champion_predicted"] = champion.predicted
    with replacing(run.predictions) as temporary:
        pq.write_table(pa.table(columns), temporary)
    write_text(run.report, evaluation_page(content, run.name))
    challenger = content["challenger"]
    headline = {
        metric: challenger[metric] for metric in ("mae", "rmse", "r2", "coverage") if metric in challenger
    }
    if "paired" in content:
        headline |= {
            "champion_mae": content["champion"]["mae"],
            "mae_reduction": content["paired"]["mae_reduction"],
        }
    print(f"{len(rows)} test rows. {content['training_overlap']['summary']}")
    for figure, value in headline.items():
        print(f"{figure:>22}  {value:.4f}")
    if "champion_error" in content:
        print(f"warning: {content['champion_error']}")
    return Evaluated(headline)


def registry_scores(_scores: Mapping[str, Any]) -> None:
    """A registry shows the metrics that it has as tags, and nothing else."""


def _challenger(bundle: Path, rows: NumberRows) -> tuple[NumberModel, Floats]:
    """The bundle that conversion made, and its answers, (N,)."""
    try:
        model = NumberModel(bundle)
    except BundleError as error:
        raise GauntletError(
            f"The converted model cannot be read: {error}. Run convert-to-onnx again."
        ) from None
    try:
        predicted = model.numbers(rows.inputs)
    except InputError as error:
        raise DataError(f"test rows: {error}. Run the pipeline from validate-data.") from None
    if broken := int((~np.isfinite(predicted)).sum()):
        raise GauntletError(
            f"{bundle}: found {broken} of {len(rows)} answers that are not finite, expected numbers. Look "
            "for a diverged loss in train-model's curves; a lower training.learning_rate may help."
        )
    return model, predicted


def _champion(
    version: ModelVersion, challenger: NumberModel, rows: Rows, tested: RowFingerprints | None
) -> Champion | str:
    """The champion's answers for the same rows, or why it cannot be compared.

    A champion that fails is reported and not raised: the gate must reject for it, with this reason.
    """
    from gauntlet.backends.factory import bundle_folder
    from gauntlet.backends.registry import BUNDLE_TAG

    title = f"Champion {version.name} version {version.version} ({version.bundle_uri})"
    repair = "Move the alias champion to a version that works: `gauntlet rollback`."
    try:
        with bundle_folder(version) as folder:
            model = NumberModel(folder, version.tags.get(BUNDLE_TAG))
            seen = trained_on(folder, model.info, tested)
        theirs, ours = model.target.name, challenger.target.name
        if theirs != ours:
            return (
                f"{title} answers with {theirs}, and this model with {ours}, so no figure of the two "
                "compares. Restore dataset.columns.target, or give the manifest a new name: a model with "
                "another target is another model in the registry."
            )
        predicted = model.numbers(rows)
    except (BundleError, UsageError) as error:
        return f"{title} cannot be read: {error}. {repair}"
    except GauntletError:
        raise
    except Exception as error:  # onnxruntime and tokenizers raise nothing more special than Exception
        return f"{title} cannot be run: {type(error).__name__}: {error}. {repair}"
    if broken := int((~np.isfinite(predicted)).sum()):
        return f"{title} answers {broken} of {len(rows)} test rows with NaN. {repair}"
    return Champion(version.version, predicted, seen)


@dataclass(frozen=True)
class Slice:
    """The test rows, (N,), whose target is in a range; each end is None where the range has none."""

    low: float | None
    high: float | None
    rows: npt.NDArray[np.bool_]


def _slices(splits: Path, rows: NumberRows, settings: RegressionEvaluation) -> list[Slice]:
    """Ranges between quantiles of the training targets, so that they stay the same for other test rows."""
    quantiles = Statistics.read(splits / STATISTICS_FILE).quantiles
    places = np.linspace(0, 1, settings.slices + 1)[1:-1]
    inner = np.unique(np.interp(places, np.linspace(0, 1, len(quantiles)), quantiles))
    edges = [None, *inner.tolist(), None]
    found = []
    for low, high in pairwise(edges):
        chosen = np.ones(len(rows), dtype=np.bool_)
        chosen &= rows.targets >= low if low is not None else True
        chosen &= rows.targets < high if high is not None else True
        if chosen.any():
            found.append(Slice(low, high, chosen))
    return found


def assess(
    rows: NumberRows,
    predicted: Floats,
    model: NumberModel,
    champion: Champion | str | None,
    settings: RegressionEvaluation,
    seed: int,
    own: Flags | str,
    slices: Sequence[Slice],
) -> dict[str, Any]:
    """The content of `scores`.

    The challenger is scored on all rows, the champion and the difference on the clean rows. If some rows are
    not clean, `challenger_on_clean_rows` has the challenger's scores on these.
    """
    count, targets = len(rows), rows.targets
    theirs = champion.trained_on if isinstance(champion, Champion) else None
    overlap = describe_overlap(count, own, theirs)
    clean = clean_rows(count, own, theirs) if theirs is not None else np.ones(count, dtype=np.bool_)
    if isinstance(champion, Champion) and not clean.any():
        champion = f"{overlap.summary} No row is left to compare on: give the dataset other test rows."
    challenger = _scored(targets, predicted, settings, seed)
    challenger |= _coverage(model, targets, predicted, settings, seed)
    challenger["slices"] = [_sliced(one, targets, predicted, settings, seed) for one in slices]
    drawn = np.random.default_rng(seed).permutation(count)[:POINTS]
    edges = bin_edges(predicted - targets)
    content: dict[str, Any] = {
        "rows": count,
        "confidence": settings.confidence,
        "target": model.target.name,
        "challenger": challenger,
        "training_overlap": overlap.as_json(),
        "points": np.stack([targets[drawn], predicted[drawn]], axis=1).tolist(),
        "residuals": {"edges": edges, "counts": histogram(predicted - targets, edges)},
    }
    if isinstance(champion, str):
        content["champion_error"] = champion
    if isinstance(champion, Champion):
        kept, ours, others = targets[clean], predicted[clean], champion.predicted[clean]
        if not clean.all():
            content["challenger_on_clean_rows"] = _scored(kept, ours, settings, seed)
        content["champion"] = {"version": champion.version, **_scored(kept, others, settings, seed)}
        drawn_ours, drawn_others = resample(kept, [ours, others], settings.bootstrap_resamples, seed)
        reductions = drawn_others["mae"] - drawn_ours["mae"]
        content["paired"] = {
            "mae_reduction": measure(kept, others)["mae"] - measure(kept, ours)["mae"],
            "lower_bound": lower_bound(reductions, settings.confidence),
            "upper_bound": upper_bound(reductions, settings.confidence),
        }
    return content


def _scored(targets: Floats, predicted: Floats, settings: RegressionEvaluation, seed: int) -> dict[str, Any]:
    """Metrics with two-sided intervals, one-sided limits, and the spread of the absolute errors."""
    (drawn,) = resample(targets, [predicted], settings.bootstrap_resamples, seed)
    confidence = settings.confidence
    return {
        "rows": len(targets),
        **measure(targets, predicted),
        "bias": float((predicted - targets).mean()),
        "error_std": float(np.abs(predicted - targets).std()),
        "intervals": {name: interval(values, confidence) for name, values in drawn.items()},
        "upper_bounds": {name: upper_bound(drawn[name], confidence) for name in ("mae", "rmse")},
        "lower_bounds": {"r2": lower_bound(drawn["r2"], confidence)},
    }


def _coverage(
    model: NumberModel, targets: Floats, predicted: Floats, settings: RegressionEvaluation, seed: int
) -> dict[str, Any]:
    """The share of targets in their intervals, and its lower limit; nothing if the model has no intervals."""
    ends = model.intervals(predicted)
    if ends is None:
        return {}
    inside = ((targets >= ends[:, 0]) & (targets <= ends[:, 1])).astype(np.float64)
    drawn = resampled_means(inside[:, None], settings.bootstrap_resamples, seed)[:, 0]
    return {
        "coverage": float(inside.mean()),
        "coverage_wanted": model.target.coverage,
        "coverage_lower_bound": lower_bound(drawn, settings.confidence),
        "half_width": model.half_width,
    }


def _sliced(
    part: Slice, targets: Floats, predicted: Floats, settings: RegressionEvaluation, seed: int
) -> dict[str, Any]:
    errors = predicted[part.rows] - targets[part.rows]
    drawn = resampled_means(np.abs(errors)[:, None], settings.bootstrap_resamples, seed)[:, 0]
    ends = {"low": part.low, "high": part.high}
    return {key: value for key, value in ends.items() if value is not None} | {
        "rows": len(errors),
        "mae": float(np.abs(errors).mean()),
        "bias": float(errors.mean()),
        "mae_upper_bound": upper_bound(drawn, settings.confidence),
    }


def _worst(rows: NumberRows, predicted: Floats, count: int) -> list[dict[str, Any]]:
    """The rows with the largest errors, each with its text or a thumbnail."""
    found = []
    for at in np.argsort(-np.abs(predicted - rows.targets), kind="stable")[:count].tolist():
        row = rows.inputs[at]
        shown = {"text": row[:EXCERPT_CHARS]} if isinstance(row, str) else {"picture": thumbnail(row)}
        numbers = {"target": float(rows.targets[at]), "predicted": float(predicted[at])}
        found.append({"row": int(rows.rows[at]), **numbers, **shown})
    return found
