"""What a window of the request log is compared with, what detect-drift finds, and what it recommends.

C = classes, K = bins of a column, D = numbers of a vector, F = random features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, Literal, Self
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from gauntlet.contracts.document import Document, read_json, replacing
from gauntlet.manifests.errors import DataError

FORMAT = 1
BASELINE_FORMAT = 1
BASELINE_FILE, ARRAYS_FILE = "monitoring.json", "monitoring.npz"
"""The two files of a baseline in a bundle; `bundle.json` has their sha256."""
PROBABILITIES = "probabilities"

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

Outcome = Literal["investigate", "too little", "roll back", "retrain", "label", "reweigh", "watch", "none"]


class ColumnChange(Document):
    """How a column differs from the reference; `components/detect_drift/change.py` describes it.

    `detectable` is the smallest effect that would have been found; None of a statistic other than KS.
    """

    family: str
    column: str
    statistic: Literal["KS", "TV", "MMD", "T2"]
    effect: float
    p_value: float
    detectable: float | None = None


class Harm(Document):
    """What labels say of the model's error.

    Attributes:
        labelled: Rows of the window with a label; `by_class` counts them.
        errors: How many of them are wrong.
        loss: The mean loss of these rows; see `Promise.loss` for what it measures.
        promised: The bound that the mean loss must not exceed.
        run_length: At least so many labelled rows are expected between two false alarms.
        largest: The largest value of the e-detector: harm is proven at `run_length`.
        since: The id of the event from which on the errors speak most against the promise.
    """

    labelled: int
    by_class: Mapping[str, int]
    errors: int
    loss: float | None = None
    measured: Literal["wrong", "distance"] = "wrong"
    promised: float
    run_length: float
    largest: float
    is_proven: bool
    since: str | None = None


class Estimated(Document):
    """The metrics that calibrated probabilities expect; `withheld` says why they cannot be trusted.

    `class_shares` are those of the rows' true classes, if only they have changed.
    """

    calibration_error: float
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    macro_f1: float | None = None
    class_shares: Mapping[str, float] | None = None
    withheld: str | None = None


class Paired(Document):
    """The answers of another version to the same labelled rows.

    Attributes:
        version: The other version.
        rows: The labelled rows that both have answered.
        errors, other_errors: Of this version, and of the other.
        p_value: Of this version being no worse: the exact test of McNemar, one-sided.
    """

    version: str
    rows: int
    errors: int
    other_errors: int
    p_value: float


class Cost(Document):
    """What the errors above the promised ones have cost since the harm began, and a retraining at most."""

    errors: float
    since: str
    spent_usd: float
    retraining_usd: float


class DriftRecord(Document):
    """What was found in a window, and the outcome with its reason and its next step.

    Attributes:
        families: The p-values of no change by family, adjusted over the families.
        previous: The version before, while this one is on probation.
        rescored: This version on the window that its training was asked for; `version` is that of then.
        rescored_keeps_promise: Whether it keeps its promise there.
        only_shares: Whether only the shares of the classes have changed; None if that cannot be told.
        keeps_promise: Whether the labelled rows of the window itself show that the model keeps its promise;
            None if they are too few to tell.
    """

    written_by: ClassVar[str] = "detect-drift"

    model: str
    bundle: str
    start: str
    end: str
    rows: int
    reference_rows: int
    alpha: float
    tolerance: float
    outcome: Outcome
    reason: str
    next_step: str
    faults: tuple[str, ...] = ()
    families: Mapping[str, float]
    changed: tuple[str, ...] = ()
    changes: tuple[ColumnChange, ...] = ()
    harm: Harm | None = None
    estimated: Estimated | None = None
    previous: Paired | None = None
    rescored: Paired | None = None
    rescored_keeps_promise: bool | None = None
    cost: Cost | None = None
    only_shares: bool | None = None
    keeps_promise: bool | None = None
    format: int = FORMAT


# --- the baseline ------------------------------------------------------------------------------------


class Promise(Document):
    """The loss of the shipped graph on held-out rows: what the model must keep in production.

    Attributes:
        loss: How a row's loss, from 0 to 1, is measured: `wrong` is 1 if the label is not `predicted`;
            `distance` is their absolute difference divided by `span`, at most 1.
        rows: How many rows it was measured on.
        mean: The mean loss.
        upper: Its one-sided upper bound at 99 % confidence.
        span: The difference of two numbers that counts as a loss of 1; None if `loss` is `wrong`.
    """

    loss: Literal["wrong", "distance"]
    rows: int
    mean: float
    upper: float
    span: float | None = None


class Calibration(Document):
    """How the logged probabilities p become calibrated ones: softmax(log(p) / temperature + biases).

    It is fitted on one split and `error` is measured on the other, so that it is not too small.

    Attributes:
        rows: The rows that it was fitted on.
        biases: One for each class, with a mean of 0.
        error: The expected calibration error of the calibrated probabilities.
        priors: The share of each true class among those rows.
    """

    rows: int
    temperature: float
    biases: tuple[float, ...]
    error: float
    priors: tuple[float, ...]


class RandomFeatures(Document):
    """How the mean random Fourier features were made of the square roots of the probabilities.

    Attributes:
        seed: Of the frequencies, which are among the arrays: NumPy may draw others in another release.
        bandwidth: Of the Gaussian kernel: the median distance of some rows.
        rows: How many rows the mean is of.
    """

    seed: int
    bandwidth: float
    rows: int


class Baseline(Document):
    """What the shipped graph does on held-out rows, as `monitoring.json`. No row can be read from it.

    Attributes:
        task: The task kind.
        split: The split whose rows were counted, drawn by the manifest's seed if it has more than `rows`.
        rows: How many rows were counted.
        columns: The columns of the request log with numbers, sorted, and `probabilities[0]`, … for a model
            with probabilities. `BaselineArrays` has their edges and counts.
        predicted: How many rows were given each answer of the column `predicted`; empty if there is none, or
            if answers are numbers.
        labels: The classes in the order of the probabilities.
        energy_bound: 99 % of the rows have an energy up to it; None if the model has none.
        largest_client: The largest share of the rows of one client; None of held-out rows, which nobody sent.
        promise: None if the rows have no label that the column `predicted` could be compared with.
        calibration: None if the rows have no probabilities that sum to 1, or no label.
        random_features: None if the rows have no probabilities, or they hardly differ.
        log_schema: The `schema_version` of the request log: how its columns are computed.
        model_sha256, tokenizer_sha256: Of the files of the bundle that the rows went through; None of rows
            that were read from a log.
    """

    written_by: ClassVar[str] = "convert-to-onnx"

    task: str
    split: str
    rows: int
    columns: tuple[str, ...]
    predicted: Mapping[str, int]
    labels: tuple[str, ...] = ()
    energy_bound: float | None = None
    largest_client: float | None = None
    promise: Promise | None = None
    calibration: Calibration | None = None
    random_features: RandomFeatures | None = None
    log_schema: int
    model_sha256: str | None = None
    tokenizer_sha256: str | None = None
    format: int = BASELINE_FORMAT


@dataclass(frozen=True)
class BaselineArrays:
    """The arrays of a baseline, as `monitoring.npz`.

    Attributes:
        edges: The ascending edges of each column's bins, at most 129, float64 (K - 2,).
        counts: The rows in each bin, int64 (K,): up to each edge, above the last one, and without a value.
        by_class: The same by true class, int64 (C, K), of each column of probabilities; empty without labels,
            and of more than 50 classes.
        confusion: Rows by true and predicted class, int64 (C, C); None without labels.
        frequencies: Of the random Fourier features, float64 (D, F / 2); None without them, as the next two.
        mean: The mean features, float64 (F,).
        eigenvalues: Those of the features' covariance that are above 0, float64 (…,).
        whitening: What makes uncorrelated normal scores of unit variance of those of the columns, float64
            (D, …); see `components/detect_drift/change.py`. None of rows that do not differ.
    """

    edges: Mapping[str, Floats]
    counts: Mapping[str, Counts]
    by_class: Mapping[str, Counts]
    confusion: Counts | None = None
    frequencies: Floats | None = None
    mean: Floats | None = None
    eigenvalues: Floats | None = None
    whitening: Floats | None = None

    def write(self, path: Path) -> None:
        """Write the file whole or not at all; the same arrays give the same bytes."""
        named: dict[str, npt.NDArray[np.generic]] = {}
        for field in fields(self):
            content = getattr(self, field.name)
            if isinstance(content, Mapping):
                named |= {f"{field.name}/{column}": content[column] for column in sorted(content)}
            elif content is not None:
                named[field.name] = content
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **named)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file; a `DataError` if it is no such file."""
        groups: dict[str, dict[str, npt.NDArray[np.generic]]] = {"edges": {}, "counts": {}, "by_class": {}}
        single: dict[str, npt.NDArray[np.generic]] = {}
        try:
            with np.load(path, allow_pickle=False) as arrays:
                for name in arrays.files:
                    group, _, column = name.partition("/")
                    (groups[group] if column else single)[column or name] = arrays[name]
            return cls(**groups, **single)  # type: ignore[arg-type]
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            raise DataError(f"{path}: cannot be read: {error}. {MAKE_AGAIN}") from None


MAKE_AGAIN = "Run the manifest again for a bundle with a baseline, or name reference rows with --reference."


def read_baseline(bundle: Path) -> tuple[Baseline, BaselineArrays] | None:
    """The baseline of a verified bundle; None if it has none: an older release or another kind made it.

    Raises:
        DataError: It has another format, or its arrays are not those of its columns.
    """
    path = bundle / BASELINE_FILE
    if not path.is_file():
        return None
    if (found := read_json(path).get("format")) != BASELINE_FORMAT:
        raise DataError(f"{path}: format: found {found}, expected {BASELINE_FORMAT}. {MAKE_AGAIN}")
    baseline, arrays = Baseline.read(path), BaselineArrays.read(bundle / ARRAYS_FILE)
    for column in baseline.columns:
        edges, counts = arrays.edges.get(column), arrays.counts.get(column)
        if edges is None or counts is None or counts.shape != (len(edges) + 2,):
            raise DataError(f"{bundle / ARRAYS_FILE}: {column}: found no counts of it. {MAKE_AGAIN}")
    return baseline, arrays
