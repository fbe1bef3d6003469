"""What other packages say of the windows of `drift_detection.py`: a number each, higher for more difference.

    PEER_PYTHON benchmarks/drift_peers/scores.py PEER JOB.npz OUTPUT.npz

It runs in an environment of its own, without Gauntlet. Each detector gets the reference rows of a split once,
then each window of that split, by the package's own functions. The output has an array (W,) for each
detector. JOB has the arrays of `drift_detection.Job`. W = windows, N = rows of a window, D = columns.
"""

from __future__ import annotations

import copy
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

os.environ |= {"DO_NOT_TRACK": "1", "NML_DISABLE_USAGE_LOGGING": "1"}  # before a peer is imported
warnings.filterwarnings("ignore")

Score = Callable[[int], float]
DELTAS = np.geomspace(1e-12, 0.9, 64)
MMD_ROWS = 1_000
"""Most rows of the reference, and of a window, that a kernel matrix is made of: it takes long."""


@dataclass
class Split:
    """The rows of one split.

    Attributes:
        numbers: Reference rows (M, D).
        classes: Their predicted classes, (M,).
        losses: 1 for each reference row that is wrong, (M,).
        windows: Places among the windows of the job, of those of this split.
    """

    job: Any
    numbers: Any
    classes: Any
    losses: Any
    windows: Any

    def window(self, at: int) -> tuple[Any, Any, Any]:
        """The numbers (N, D), the predicted classes (N,) and the losses (N,) of a window of the job."""
        rows = self.job["windows"][at]
        return self.job["numbers"][rows], self.job["classes"][rows], self.job["losses"][at].astype(float)

    @property
    def names(self) -> list[str]:
        return [str(name) for name in self.job["names"]]

    @property
    def probabilities(self) -> list[int]:
        """The places of the columns with probabilities."""
        return [at for at, name in enumerate(self.names) if name.startswith("probabilities")]


def splits_of(job: Any) -> Iterator[Split]:
    for at, rows in enumerate(job["references"]):
        windows = np.flatnonzero(job["split"] == at)
        losses = job["reference_losses"][at].astype(float)
        yield Split(job, job["numbers"][rows], job["classes"][rows], losses, windows)


def evidently(split: Split) -> dict[str, Score]:
    """The distances of evidently's default tests for so many reference rows.

    evidently calls a dataset changed if half of its columns are; with one threshold for all columns that is
    the median of their distances. The largest distance is "any column".
    """
    import pandas as pd
    from evidently.legacy.calculations.stattests import get_stattest
    from evidently.legacy.core import ColumnType

    def tested() -> list[tuple[Any, Any, Any]]:
        kinds = [ColumnType.Numerical] * len(split.names) + [ColumnType.Categorical]
        references = [*map(pd.Series, split.numbers.T), pd.Series(split.classes)]
        return [
            (series, kind, get_stattest(series, series, kind, None))
            for series, kind in zip(references, kinds, strict=True)
        ]

    tests = tested()

    def distances(at: int) -> Any:
        numbers, classes, _ = split.window(at)
        found = []
        for (series, kind, test), values in zip(tests, [*numbers.T, classes], strict=True):
            result = test.func(series, pd.Series(values), kind, test.default_threshold)
            score = result[0] if isinstance(result, tuple) else result.drift_score
            found.append(score)
        return np.array(found)

    kept: dict[int, Any] = {}

    def of(at: int) -> Any:
        if at not in kept:
            kept.clear()
            kept[at] = distances(at)
        return kept[at]

    return {
        "evidently, half of the columns": lambda at: float(np.quantile(of(at), 0.5)),
        "evidently, any column": lambda at: float(of(at).max()),
    }


def nannyml(split: Split) -> dict[str, Score]:
    """NannyML's alarms: how many standard deviations of the reference's chunks a statistic is away."""
    import nannyml
    import pandas as pd

    def frame(numbers: Any, classes: Any) -> Any:
        return pd.DataFrame(numbers, columns=split.names).assign(predicted=classes.astype(str))

    size = split.job["windows"].shape[1]
    reference = frame(split.numbers, split.classes)
    windows = pd.concat([frame(*split.window(at)[:2]) for at in split.windows], ignore_index=True)
    univariate = nannyml.UnivariateDriftCalculator(
        [*split.names, "predicted"],
        treat_as_categorical=["predicted"],
        continuous_methods=["jensen_shannon"],
        categorical_methods=["jensen_shannon"],
        chunk_size=size,
    ).fit(reference)
    found = univariate.calculate(windows)
    columns = []
    for name in [*split.names, "predicted"]:
        held = univariate.result.data[name, "jensen_shannon", "value"]
        values = found.filter(period="analysis").data[name, "jensen_shannon", "value"]
        columns.append((values.to_numpy() - held.mean()) / max(held.std(), 1e-12))
    largest = np.max(columns, axis=0)
    pca = nannyml.DataReconstructionDriftCalculator(split.names, chunk_size=size).fit(reference)
    errors = pca.calculate(windows).filter(period="analysis").data
    held = pca.result.data["reconstruction_error", "value"]
    values = errors["reconstruction_error", "value"].to_numpy()
    outside = np.abs(values - held.mean())
    places = {int(at): place for place, at in enumerate(split.windows)}
    confidence = split.names.index("confidence")
    expected = split.numbers[:, confidence].mean()
    return {
        "NannyML, Jensen-Shannon": lambda at: float(largest[places[at]]),
        "NannyML, PCA reconstruction": lambda at: float(outside[places[at]]),
        "NannyML, estimated accuracy": lambda at: float(expected - split.window(at)[0][:, confidence].mean()),
        "NannyML, realised accuracy (labels)": lambda at: float(split.window(at)[2].mean()),
    }


def frouros(split: Split) -> dict[str, Score]:
    """Kolmogorov-Smirnov with Bonferroni's correction, Anderson-Darling, and MMD of the probabilities."""
    from functools import partial

    from frouros.detectors.concept_drift import DDM, DDMConfig
    from frouros.detectors.data_drift import MMD, AndersonDarlingTest, KSTest
    from frouros.utils.kernels import rbf_kernel
    from scipy.spatial.distance import pdist

    tests = {}
    for kind in (KSTest, AndersonDarlingTest):
        tests[kind] = [kind() for _ in split.names]
        for test, values in zip(tests[kind], split.numbers.T, strict=True):
            test.fit(X=values)
    some = np.sqrt(split.numbers[:MMD_ROWS, split.probabilities])
    kernel = partial(rbf_kernel, sigma=float(np.median(pdist(some[:500]))))
    mmd = MMD(kernel=kernel)
    mmd.fit(X=some)

    def largest(kind: Any, at: int) -> float:
        columns = split.window(at)[0].T
        results = [test.compare(X=values)[0] for test, values in zip(tests[kind], columns, strict=True)]
        if kind is AndersonDarlingTest:  # its p-values end at 0.001
            return float(max(one.statistic for one in results))
        return float(-np.log(max(min(one.p_value for one in results), 1e-300)))

    def of_kernel(at: int) -> float:
        return float(mmd.compare(X=np.sqrt(split.window(at)[0][:MMD_ROWS, split.probabilities]))[0].distance)

    def ddm(at: int) -> float:
        levels = [0.0]
        detector = DDM(config=DDMConfig(warning_level=1e9, drift_level=1e10, min_num_instances=30))
        for loss in split.losses:
            detector.update(value=loss)
        for loss in split.window(at)[2]:
            detector.update(value=loss)
            rate = detector.error_rate.mean
            spread = np.sqrt(rate * (1 - rate) / detector.num_instances)
            least, least_spread = detector.min_error_rate, detector.min_std
            levels.append((rate + spread - least) / max(least_spread, 1e-12))
        return float(max(levels))

    return {
        "frouros, KS": lambda at: largest(KSTest, at),
        "frouros, Anderson-Darling": lambda at: largest(AndersonDarlingTest, at),
        "frouros, MMD of probabilities": of_kernel,
        "frouros, DDM (labels)": ddm,
    }


def river(split: Split) -> dict[str, Score]:
    """ADWIN on the confidence and each probability, after the reference: the smallest δ that fires."""
    from river.drift import ADWIN

    watched = [split.names.index("confidence"), *split.probabilities]
    warmed: dict[tuple[int, int], Any] = {}

    def fires(column: int, level: int, history: Any, values: Any) -> bool:
        if (column, level) not in warmed:
            detector = ADWIN(delta=float(DELTAS[level]), clock=8)
            for value in history:
                detector.update(float(value))
            warmed[column, level] = detector
        detector = copy.deepcopy(warmed[column, level])
        for value in values:
            detector.update(float(value))
            if detector.drift_detected:
                return True
        return False

    def smallest(column: int, history: Any, values: Any) -> float:
        """By bisection: a larger δ fires earlier."""
        low, high = 0, len(DELTAS)
        while low < high:
            middle = (low + high) // 2
            if fires(column, middle, history, values):
                high = middle
            else:
                low = middle + 1
        return float(len(DELTAS) - low)

    def of_columns(at: int) -> float:
        numbers = split.window(at)[0]
        return max(smallest(one, split.numbers[:, one], numbers[:, one]) for one in watched)

    return {
        "river, ADWIN": of_columns,
        "river, ADWIN of errors (labels)": lambda at: smallest(-1, split.losses, split.window(at)[2]),
    }


def alibi_detect(split: Split) -> dict[str, Score]:
    """Kolmogorov-Smirnov and Cramér-von Mises with Bonferroni's correction, χ², and MMD of the probabilities.

    Cramér-von Mises gets no `tokens`: equal numbers make its p-value of clean windows 1e-9.
    """
    import torch
    from alibi_detect.cd import CVMDrift, MMDDrift, TabularDrift

    torch.set_num_threads(1)

    def joined(numbers: Any, classes: Any) -> Any:
        return np.column_stack([numbers, classes]).astype(np.float32)

    tabular = TabularDrift(
        joined(split.numbers, split.classes), categories_per_feature={split.numbers.shape[1]: None}
    )
    untied = [at for at, name in enumerate(split.names) if name != "tokens"]
    cvm = CVMDrift(split.numbers[:, untied].astype(np.float32))
    some = np.sqrt(split.numbers[:MMD_ROWS, split.probabilities]).astype(np.float32)
    mmd = MMDDrift(some, backend="pytorch", n_permutations=1)

    def smallest(detector: Any, rows: Any) -> float:
        p_values = detector.predict(rows, drift_type="feature", return_p_val=True)["data"]["p_val"]
        return float(-np.log(max(p_values.min(), 1e-300)))

    def of_kernel(at: int) -> float:
        rows = np.sqrt(split.window(at)[0][:MMD_ROWS, split.probabilities]).astype(np.float32)
        return float(mmd.predict(rows, return_distance=True)["data"]["distance"])

    return {
        "alibi-detect, KS and χ²": lambda at: smallest(tabular, joined(*split.window(at)[:2])),
        "alibi-detect, Cramér-von Mises": lambda at: smallest(
            cvm, split.window(at)[0][:, untied].astype(np.float32)
        ),
        "alibi-detect, MMD of probabilities": of_kernel,
    }


PEERS: dict[str, Callable[[Split], dict[str, Score]]] = {
    "evidently": evidently,
    "nannyml": nannyml,
    "frouros": frouros,
    "river": river,
    "alibi_detect": alibi_detect,
}


def main() -> None:
    peer, job = PEERS[sys.argv[1]], dict(np.load(sys.argv[2]))
    found: dict[str, Any] = {}
    for split in splits_of(job):
        for name, score in peer(split).items():
            scores = found.setdefault(name, np.full(len(job["windows"]), np.nan))
            for at in split.windows:
                scores[at] = score(int(at))
    np.savez(sys.argv[3], **found)


if __name__ == "__main__":
    main()
