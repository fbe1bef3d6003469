"""Tests for a change of the inputs or the predictions between reference rows and the rows of a window.

Columns are counted in bins. Under the hypothesis of no change, the window's counts are a draw without
replacement from the counts of both, so that the permutation test needs counts only: NumPy's
`multivariate_hypergeometric` is the permutation. Where fewer than `FEWEST_LARGER` draws are as large as what
was found, the p-value is that of a closed form: a rate of one in a million cannot be drawn.

N = rows, C = classes, F = random features, K = bins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.spatial.distance import pdist
from scipy.stats import chi2, f, kstwobign, norm

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

QUANTILES = 128
DRAWS = 2_000
FEWEST_LARGER = 20
LEAST_EXPECTED = 5.0
"""Expected rows of the window below which a class is counted together with others, for the χ² test."""
COUNTED_FASTER = 20
"""Rows per bin below which NumPy draws row by row faster than bin by bin; both draw the same distribution."""
FREQUENCIES = 128
BANDWIDTH_ROWS = 500
SEED = 22
JOINT = "joint"
FIRST_DRAWS = 200
"""If so few draws show that a p-value is large, no more are made."""
LEAST_EIGENVALUE = 1e-3
"""Eigenvalues below this share of the largest are those of columns that follow from others."""

Statistic = Literal["KS", "TV", "MMD", "T2"]


@dataclass(frozen=True)
class Change:
    """How a column of the window differs from the reference.

    Attributes:
        family: What is tested together, such as `features`.
        statistic: How `effect` is measured: the largest difference of the distribution functions (KS), half
            the sum of the differences of the shares (TV), the distance of the mean features (MMD), or that of
            the mean scores in standard deviations of a row (T2). 0 means no difference.
        p_value: Of no change; of this column alone.
    """

    family: str
    column: str
    statistic: Statistic
    effect: float
    p_value: float


# --- ordered columns ---------------------------------------------------------------------------------


def edges_of(reference: Floats) -> Floats:
    """At most 129 ascending edges: quantiles of the values that are no NaN."""
    present = reference[~np.isnan(reference)]
    if not len(present):
        return np.empty(0)
    return np.unique(np.quantile(present, np.linspace(0, 1, QUANTILES + 1), method="inverted_cdf"))


def counted(values: Floats, edges: Floats) -> Counts:
    """Rows by bin, (K,): up to each edge, above the last one, and NaN.

    The values are sorted: NumPy does that faster than it finds the bin of each.
    """
    ordered = np.sort(values)  # NaN goes last
    present = len(ordered) - int(np.isnan(values).sum())
    up_to = np.searchsorted(ordered[:present], edges, side="right")
    return np.diff(up_to, prepend=0, append=[present, len(ordered)]).astype(np.int64)


def _largest_gap(window: Counts, reference: Counts) -> Floats:
    """The largest difference of the distribution functions of counts (…, K)."""
    first, second = (
        one.cumsum(-1) / np.maximum(one.sum(-1, keepdims=True), 1) for one in (window, reference)
    )
    return np.abs(first - second).max(-1)  # type: ignore[no-any-return]


def ks_of_counts(window: Counts, reference: Counts, seed: int = SEED) -> tuple[float, float]:
    """The two-sample Kolmogorov-Smirnov statistic of bins, and its p-value."""
    found = float(_largest_gap(window, reference))
    size = math.sqrt(window.sum() * reference.sum() / (window.sum() + reference.sum()))
    return found, _p_value(found, window, reference, _largest_gap, float(kstwobign.sf(size * found)), seed)


def detectable(window: float, reference: float, alpha: float) -> float:
    """The smallest KS statistic that is found at `alpha` with so many rows (Smirnov's large-sample form)."""
    return min(1.0, math.sqrt(math.log(2 / alpha) / 2 * (1 / window + 1 / reference)))


# --- classes -----------------------------------------------------------------------------------------


def _chi_square(window: Counts, reference: Counts) -> Floats:
    """Pearson's statistic of two samples of counts (…, C)."""
    n, m = window.sum(-1, keepdims=True), reference.sum(-1, keepdims=True)
    both = np.maximum(window + reference, 1)
    return ((m * window - n * reference) ** 2 / (both * (n * m))).sum(-1)  # type: ignore[no-any-return]


def classes_of_counts(window: Counts, reference: Counts, seed: int = SEED) -> tuple[float, float]:
    """The total variation distance of two class mixes, and the p-value of the χ² test of two samples."""
    shares = window / window.sum() - reference / reference.sum()
    expected = (window + reference) * window.sum() / (window.sum() + reference.sum())
    rare = expected < LEAST_EXPECTED
    ours, theirs = (np.append(one[~rare], one[rare].sum()).astype(np.int64) for one in (window, reference))
    occurs = ours + theirs > 0
    ours, theirs = ours[occurs], theirs[occurs]
    found = float(_chi_square(ours, theirs))
    closed = float(chi2.sf(found, len(ours) - 1)) if len(ours) > 1 else 1.0
    return float(np.abs(shares).sum() / 2), _p_value(found, ours, theirs, _chi_square, closed, seed)


def _p_value(
    found: float,
    window: Counts,
    reference: Counts,
    statistic: Callable[[Counts, Counts], Floats],
    closed: float,
    seed: int,
) -> float:
    both, n = window + reference, int(window.sum())
    method: Literal["count", "marginals"] = "count" if n < COUNTED_FASTER * len(both) else "marginals"
    generator = np.random.default_rng(seed)
    larger = drawn = 0
    for size in (FIRST_DRAWS, DRAWS - FIRST_DRAWS):
        draws = generator.multivariate_hypergeometric(both, n, size=size, method=method)
        larger += int((statistic(draws, both - draws) >= found - 1e-12).sum())
        drawn += size
        if larger >= FEWEST_LARGER:  # Besag and Clifford 1991, doi:10.1093/biomet/78.2.301
            return (larger + 1) / (drawn + 1)
    return min((larger + 1) / (drawn + 1), closed)


# --- vectors -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MeanFeatures:
    """Reference rows as the mean of their random Fourier features: no raw row is needed later.

    The squared distance of two means is the squared maximum mean discrepancy of a Gaussian kernel
    (https://papers.nips.cc/paper/3182-random-features-for-large-scale-kernel-machines).

    Attributes:
        frequencies: (D, F / 2), for rows of D numbers.
        mean: (F,).
        eigenvalues: Of the features' covariance, those above 0.
        bandwidth: Of the kernel.
    """

    frequencies: Floats
    mean: Floats
    eigenvalues: Floats
    rows: int
    bandwidth: float

    @classmethod
    def of(cls, reference: Floats, seed: int = SEED) -> MeanFeatures | None:
        """From rows (N, D); the bandwidth is the median distance of some. None if they hardly differ."""
        rng = np.random.default_rng(seed)
        some = reference[rng.permutation(len(reference))[:BANDWIDTH_ROWS]]
        bandwidth = float(np.median(pdist(some))) if len(some) > 1 else 0.0
        if bandwidth < 1e-6:
            return None
        frequencies = rng.normal(size=(reference.shape[1], FREQUENCIES)) / bandwidth
        features = _features(reference, frequencies)
        eigenvalues = np.linalg.eigvalsh(np.cov(features.T))
        kept = eigenvalues[eigenvalues > 1e-10].astype(np.float64)
        return cls(frequencies, features.mean(0), kept, len(reference), bandwidth) if len(kept) else None

    def compared(self, window: Floats) -> tuple[float, float]:
        """The distance of the mean features of rows (N, D) from the reference's, and its p-value."""
        gap = _features(window, self.frequencies).mean(0) - self.mean
        squared = float(gap @ gap)
        scaled = squared / (1 / len(window) + 1 / self.rows)
        return math.sqrt(squared), weighted_chi_square_sf(scaled, self.eigenvalues)


def _features(rows: Floats, frequencies: Floats) -> Floats:
    angles = rows @ frequencies
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1) / math.sqrt(FREQUENCIES)


def weighted_chi_square_sf(value: float, weights: Floats) -> float:
    """P(Σ wᵢ χ²₁ > value), by the saddlepoint approximation (Kuonen 1999, doi:10.1093/biomet/86.4.929).

    Two moments would make small p-values far too small: the tail is that of the largest weight.
    """
    if value <= 0:
        return 1.0

    def slope(at: float) -> float:
        return float((weights / (1 - 2 * at * weights)).sum())

    highest = 1 / (2 * weights.max())
    lowest = -len(weights) / value
    saddle = float(brentq(lambda at: slope(at) - value, lowest, highest * (1 - 1e-12)))
    if abs(saddle) < 1e-6 * highest:  # at the mean the formula is 0 / 0
        return weighted_chi_square_sf(value * (1 + 1e-3), weights)
    cumulant = -0.5 * float(np.log(1 - 2 * saddle * weights).sum())
    curvature = 2 * float((weights**2 / (1 - 2 * saddle * weights) ** 2).sum())
    w = math.copysign(math.sqrt(2 * (saddle * value - cumulant)), saddle)
    return float(np.clip(norm.sf(w + math.log(saddle * math.sqrt(curvature) / w) / w), 0, 1))


# --- all ordered columns together --------------------------------------------------------------------


@dataclass(frozen=True)
class MeanScores:
    """Reference rows as normal scores: each value as the normal quantile of its bin's rank, NaN as 0.

    The mean scores of a window follow from its counts alone, so that they are compared, with the correlations
    of the reference's columns, without a row of the window: Hotelling's T² of two samples
    (doi:10.1214/aoms/1177732979). Many small changes that no column shows alone are found together.

    Attributes:
        counts: The reference's rows by bin, (K,), of each column.
        whitening: What makes uncorrelated scores of unit variance of the D columns' scores, (D, R).
    """

    counts: Mapping[str, Counts]
    whitening: Floats

    @classmethod
    def of(
        cls, counts: Mapping[str, Counts], edges: Mapping[str, Floats], rows: Mapping[str, Floats]
    ) -> MeanScores | None:
        """From the counts of all rows and some rows (N,) of each column; None if these do not differ."""
        found = [_scores_of(rows[name], edges[name], counts[name]) for name in counts]
        if not found or len(found[0]) < 2:
            return None
        eigenvalues, vectors = np.linalg.eigh(np.atleast_2d(np.cov(found)))
        kept = eigenvalues > max(LEAST_EIGENVALUE * eigenvalues[-1], 1e-12)
        whitening = (vectors[:, kept] / np.sqrt(eigenvalues[kept])).astype(np.float64)
        return cls(counts, whitening) if 0 < kept.sum() < len(found[0]) - 1 else None

    def compared(self, window: Mapping[str, Counts]) -> tuple[float, float]:
        """The distance of the mean scores of a window's counts from the reference's, and its p-value."""
        gaps = []
        for name, counts in self.counts.items():
            scores = _normal_scores(counts)
            gaps.append(window[name] @ scores / window[name].sum() - counts @ scores / counts.sum())
        squared = float(((np.array(gaps) @ self.whitening) ** 2).sum())
        of_window, of_reference = (int(next(iter(one.values())).sum()) for one in (window, self.counts))
        columns = self.whitening.shape[1]
        scaled = squared / (1 / of_window + 1 / of_reference)
        ratio = scaled * (of_reference - columns) / (columns * (of_reference - 1))
        return math.sqrt(squared), float(f.sf(ratio, columns, of_reference - columns))


def _normal_scores(counts: Counts) -> Floats:
    """The normal quantile of the middle rank of each bin, (K,); that of NaN, the last, is 0."""
    present = counts[:-1]
    total = max(int(present.sum()), 1)
    ranks = (present.cumsum() - present / 2) / total
    return np.append(norm.ppf(np.clip(ranks, 0.5 / total, 1 - 0.5 / total)), 0.0)


def _scores_of(values: Floats, edges: Floats, counts: Counts) -> Floats:
    """The score of each value, (N,)."""
    places = np.searchsorted(edges, values, side="left")
    places[np.isnan(values)] = len(edges) + 1
    return _normal_scores(counts)[places]


# --- several tests -----------------------------------------------------------------------------------


def family_p_values(changes: Sequence[Change]) -> dict[str, float]:
    """The p-value of each family (Bonferroni over its columns), adjusted over families by Holm's method.

    Half of the false alarms are the family `joint`'s, which finds most changes; the others share the rest.
    """
    raw: dict[str, list[float]] = {}
    for one in changes:
        raw.setdefault(one.family, []).append(one.p_value)
    families = {family: min(1.0, len(values) * min(values)) for family, values in raw.items()}
    joint = {family: min(1.0, 2 * p) for family, p in families.items() if family == JOINT}
    others = holm({family: p for family, p in families.items() if family != JOINT})
    halved = {family: min(1.0, (2 if joint else 1) * p) for family, p in others.items()}
    return {family: (joint | halved)[family] for family in families}


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values: at most α of all rows of clean tests have one of at most α."""
    found: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[name]))
        found[name] = largest
    return {name: found[name] for name in p_values}
