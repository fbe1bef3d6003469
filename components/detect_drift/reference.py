"""What a window is compared with: the baseline of a bundle, or rows of the log from when all was well.

Both are made by the same code from rows with the columns of the request log, so that a window and its
reference are counted alike. N = rows, C = classes, K = bins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gauntlet.backends.factory import bundle_folder, open_registry
from gauntlet.backends.registry import BUNDLE_TAG
from gauntlet.components.detect_drift.change import (
    SEED,
    Counts,
    Floats,
    MeanFeatures,
    MeanScores,
    counted,
    edges_of,
)
from gauntlet.components.detect_drift.counts import (
    OK,
    LabelledRows,
    Sample,
    Seen,
    count_rows,
    hashes_of,
    name_of,
    numbers_of,
    vectors_of,
)
from gauntlet.components.detect_drift.harm import (
    calibrated,
    calibration_error,
    fit_calibration,
    upper_error,
    upper_mean,
)
from gauntlet.contracts.drift import (
    Baseline,
    BaselineArrays,
    Calibration,
    Promise,
    RandomFeatures,
    read_baseline,
)
from gauntlet.manifests.errors import DataError, UsageError
from gauntlet.serving.bundle import BUNDLE_FILE, MODEL_FILE, file_sha256, read_info
from gauntlet.serving.request_log import SCHEMA_VERSION

FEWEST_LABELS = 100
"""Labelled reference rows below which neither the promised error nor a calibration is taken from them."""
SUPPORT = 0.99
"""Rows with an energy above that quantile of the reference lie outside its support."""
SHOWN_SHA256 = 12
LOG = "log"  # in place of a split
MOST_CLASSES = 50
SUMS_TO_ONE = 1e-3


@dataclass(frozen=True)
class MadeOf:
    """What rows of a log do not say of themselves.

    Attributes:
        labels: The classes in the order of the probabilities; by default as the rows show them.
        span: See `Promise.span`.
        fitted_on: Other labelled rows that the calibration is fitted on; by default the same.
    """

    task: str = ""
    split: str = LOG
    labels: tuple[str, ...] = ()
    span: float | None = None
    fitted_on: LabelledRows | None = None
    model_sha256: str | None = None
    tokenizer_sha256: str | None = None


@dataclass(frozen=True)
class Reference:
    """A baseline, and what it is of.

    Attributes:
        place: Where it was read.
        model: None of a bundle, which may be served under any name.
        bundle: The first digits of the bundle's sha256.
    """

    place: Path
    model: str | None
    bundle: str
    baseline: Baseline
    arrays: BaselineArrays

    @property
    def features(self) -> MeanFeatures | None:
        """The mean random features of its probabilities."""
        made, arrays = self.baseline.random_features, self.arrays
        if made is None or arrays.frequencies is None or arrays.mean is None or arrays.eigenvalues is None:
            return None
        return MeanFeatures(arrays.frequencies, arrays.mean, arrays.eigenvalues, made.rows, made.bandwidth)

    @property
    def scores(self) -> MeanScores | None:
        """The mean normal scores of its columns."""
        counts, whitening = self.arrays.counts, self.arrays.whitening
        columns = {name: counts[name] for name in self.baseline.columns}
        return None if whitening is None else MeanScores(columns, whitening)

    def with_promise_of(self, other: Reference) -> Reference:
        """The same with what another reference of the same bundle knows from labels, if this one has none."""
        ours, theirs = self.baseline, other.baseline
        if ours.promise is not None or theirs.promise is None:
            return self
        known = {"promise": theirs.promise, "calibration": theirs.calibration, "labels": theirs.labels}
        return replace(self, baseline=ours.model_copy(update=known))


def bundle_reference(folder: Path, sha256: str | None = None) -> Reference:
    """The baseline of a bundle, whose files are verified; `sha256` is what a registry has recorded of it.

    Raises:
        BundleError: The bundle is incomplete or altered.
        DataError: It has no baseline, one of another format, or one that another graph made.
    """
    info = read_info(folder, sha256)
    found = read_baseline(folder)
    if found is None:
        raise DataError(
            f"{folder}: found no baseline in the bundle: an older release made it, or its task kind "
            f"{info.task} has none. Name rows from when all was well with --reference."
        )
    baseline, arrays = found
    if baseline.model_sha256 not in (None, info.files.get(MODEL_FILE)):
        raise DataError(
            f"{folder}: the baseline was made by another graph than {MODEL_FILE}. Run the manifest again."
        )
    shown = file_sha256(folder / BUNDLE_FILE)[:SHOWN_SHA256]
    return Reference(folder, None, shown, baseline, arrays)


def registered_reference(model: str, bundle: str, registry_uri: str) -> Reference:
    """The baseline of the registered version of a model whose bundle's sha256 begins with `bundle`.

    Raises:
        UsageError: No version has that bundle.
        BundleError, DataError: As `bundle_reference`.
    """
    store = open_registry(registry_uri)
    versions = store.versions(model) if model in store.names() else ()
    found = [version for version in versions if version.tags.get(BUNDLE_TAG, "").startswith(bundle)]
    if not found:
        raise UsageError(
            f"{model}: no registered version has the bundle {bundle}, which the log names. Name the bundle's "
            "folder with --bundle, or rows from when all was well with --reference."
        )
    with bundle_folder(found[0]) as folder:
        return bundle_reference(folder, found[0].tags[BUNDLE_TAG])


def log_reference(
    place: Path,
    pieces: Iterable[pa.Table],
    labels: Mapping[str, str] | None = None,
    made_of: MadeOf = MadeOf(),
) -> Reference:
    """The baseline of rows of the request log, which are read twice: for the bins, and for the counts.

    Raises:
        DataError: As `count_rows`, and if no row was answered.
    """
    some = _drawn(pieces)
    if some is None:
        raise DataError(f"{place}: found no answered row, expected some. Name other reference rows.")
    columns, probabilities = dict(numbers_of(some)), vectors_of(place, some, None)
    whole = columns
    if probabilities is not None:
        is_finite = np.isfinite(probabilities).all(1)
        probabilities = probabilities[is_finite]
        of_classes = {name_of(at): probabilities[:, at] for at in range(probabilities.shape[1])}
        whole = {name: values[is_finite] for name, values in columns.items()} | of_classes
        columns |= of_classes
    edges = {name: of for name in sorted(columns) if len(of := edges_of(columns[name]))}
    energy = columns.get("energy")
    bound = None if energy is None or np.isnan(energy).all() else float(np.nanquantile(energy, SUPPORT))
    window = count_rows(place, pieces, edges, bound, labels)
    features = None if probabilities is None else MeanFeatures.of(np.sqrt(probabilities))
    scores = MeanScores.of(window.counts, edges, whole)
    names = made_of.labels or _classes_of(some, probabilities)
    labelled = window.labelled if _is_enough(window.labelled) else None
    fitted_on = made_of.fitted_on if made_of.fitted_on is not None else labelled
    known = {} if labelled is None or probabilities is None else _by_class(labelled, edges, names)
    baseline = Baseline(
        task=made_of.task,
        split=made_of.split,
        rows=window.rows,
        columns=tuple(edges),
        predicted=window.predicted,
        labels=names,
        energy_bound=bound,
        largest_client=window.largest_client if made_of.split == LOG else None,
        promise=None if labelled is None else promise_of(labelled, made_of.span),
        calibration=None if labelled is None else _calibration(fitted_on, labelled, names),
        random_features=(
            None
            if features is None
            else RandomFeatures(seed=SEED, bandwidth=features.bandwidth, rows=features.rows)
        ),
        log_schema=SCHEMA_VERSION,
        model_sha256=made_of.model_sha256,
        tokenizer_sha256=made_of.tokenizer_sha256,
    )
    arrays = BaselineArrays(
        edges=edges,
        counts=window.counts,
        by_class=known,
        confusion=None if fitted_on is None else _confusion(fitted_on, names),
        frequencies=None if features is None else features.frequencies,
        mean=None if features is None else features.mean,
        eigenvalues=None if features is None else features.eigenvalues,
        whitening=None if scores is None else scores.whitening,
    )
    return Reference(place, window.model, window.bundle, baseline, arrays)


def _is_enough(labelled: LabelledRows | None) -> bool:
    return labelled is not None and len(labelled.events) >= FEWEST_LABELS


def _drawn(pieces: Iterable[pa.Table]) -> pa.Table | None:
    """Some answered rows, drawn by their ids."""
    sample, seen = Sample(), Seen()
    for piece in pieces:
        hashes = hashes_of(piece["event_id"])
        kept = seen.are_new(hashes) & pc.equal(piece["status"], OK).fill_null(False).to_numpy()
        sample.add(hashes[kept], piece.filter(pa.array(kept)))
    return sample.rows()


def _classes_of(some: pa.Table, probabilities: Floats | None) -> tuple[str, ...]:
    """The class of each column of the probabilities; none if one of some rows was never predicted."""
    if probabilities is None or len(probabilities) != some.num_rows or "predicted" not in some.column_names:
        return ()
    predicted = [str(one) for one in some["predicted"].to_pylist()]
    pairs = sorted({*zip(probabilities.argmax(1).tolist(), predicted, strict=True)})
    is_whole = [place for place, _ in pairs] == list(range(probabilities.shape[1]))
    return tuple(name for _, name in pairs) if is_whole else ()


def losses_of(rows: LabelledRows, span: float | None) -> Floats:
    """The loss of each labelled row, from 0 to 1, (L,); see `Promise.span`.

    Raises:
        DataError: A label is no number, and losses are distances.
    """
    if span is None:
        wrong = np.array(rows.predicted, dtype=str) != np.array(rows.labels, dtype=str)
        return np.asarray(wrong, dtype=np.float64)
    try:
        ours, theirs = np.array(rows.predicted, dtype=float), np.array(rows.labels, dtype=float)
    except ValueError as error:
        raise DataError(f"labels: {error}, expected numbers: the model answers with a number.") from None
    return np.asarray(np.minimum(np.abs(ours - theirs) / span, 1.0), dtype=np.float64)


def promise_of(rows: LabelledRows, span: float | None) -> Promise:
    """The promised loss of labelled rows."""
    losses = losses_of(rows, span)
    count, total = len(losses), float(losses.sum())
    upper = upper_error(int(total), count) if span is None else upper_mean(losses)
    loss: Literal["wrong", "distance"] = "wrong" if span is None else "distance"
    return Promise(loss=loss, rows=count, mean=total / count, upper=upper, span=span)


def _known(rows: LabelledRows, names: Sequence[str]) -> tuple[Floats, npt.NDArray[np.int64]] | None:
    """Probabilities and true classes of the rows whose label is a class; None if there are too few."""
    places = {name: at for at, name in enumerate(names)}
    at = [at for at, label in enumerate(rows.labels) if label in places]
    if rows.probabilities is None or len(at) < FEWEST_LABELS:
        return None
    probabilities = rows.probabilities[at]
    if not np.isfinite(probabilities).all() or np.abs(probabilities.sum(1) - 1).max() > SUMS_TO_ONE:
        return None
    return probabilities, np.array([places[rows.labels[one]] for one in at], dtype=np.int64)


def _calibration(
    fitted_on: LabelledRows | None, measured_on: LabelledRows, names: Sequence[str]
) -> Calibration | None:
    fitted = None if fitted_on is None else _known(fitted_on, names)
    measured = _known(measured_on, names)
    if fitted is None or measured is None:
        return None
    temperature, biases = fit_calibration(*fitted)
    held = calibrated(measured[0], temperature, biases)
    priors = np.bincount(fitted[1], minlength=len(names)) / len(fitted[1])
    return Calibration(
        rows=len(fitted[1]),
        temperature=temperature,
        biases=tuple(biases.tolist()),
        error=calibration_error(held.max(1), held.argmax(1) == measured[1]),
        priors=tuple(priors.tolist()),
    )


def _confusion(rows: LabelledRows, names: Sequence[str]) -> Counts | None:
    places = {name: at for at, name in enumerate(names)}
    found = np.zeros((len(names), len(names)), dtype=np.int64)
    for label, predicted in zip(rows.labels, rows.predicted, strict=True):
        if label in places and predicted in places:
            found[places[label], places[predicted]] += 1
    return found if found.any() else None


def _by_class(rows: LabelledRows, edges: Mapping[str, Floats], names: Sequence[str]) -> dict[str, Counts]:
    """The counts of each column of probabilities by true class; of many classes they would be too many."""
    known = _known(rows, names)
    if known is None or len(names) > MOST_CLASSES:
        return {}
    probabilities, truths = known
    return {
        name_of(at): np.stack(
            [counted(probabilities[truths == label, at], edges[name_of(at)]) for label in range(len(names))]
        )
        for at in range(len(names))
    }
