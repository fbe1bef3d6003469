"""A confidence sequence for the difference of two means: an interval that is valid at every look.

Each unit is assigned to the second variant with probability p. Let Y be its value and a, b the means of the
earlier values of the two arms. Then

    X = b - a + (Y - b) / p      if it is in the second variant,
    X = b - a - (Y - a) / (1 - p)    if it is in the first one

has the difference of the means as its expected value, whatever a and b are. So the mean of X over n units
estimates it, and the sum of (X - (b - a))^2 says how exactly (Howard et al. 2021, section 4.2,
https://arxiv.org/abs/1810.08240).

For values between bounds the interval is that of Howard et al., theorem 4 with the gamma-exponential mixture
of proposition 9: with probability 1 - alpha it covers the difference at all n at once, for every
distribution. All it needs is that units are assigned independently and that their values stay in the bounds.

Without bounds no such interval exists. The interval is then an asymptotic confidence sequence (Waudby-Smith
et al. 2024, https://arxiv.org/abs/2103.06476), which also needs a finite variance and holds approximately,
from `LEAST` units in each arm on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import gammainc, gammaln

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

LEAST = 100
TUNED_AT = 0.25
"""The interval is narrowest at about this part of the largest number of units."""
HALVINGS = 60


@dataclass(frozen=True)
class Bounds:
    """The bounds of the values, and the probability of the second variant."""

    share: float
    low: float | None
    high: float | None

    @property
    def are_finite(self) -> bool:
        """Whether values have bounds."""
        return self.low is not None and self.high is not None


@dataclass(frozen=True)
class Sums:
    """Sums after each unit, (…, n): of X, and of the squares of its distance to what was expected of it.

    For values with bounds they are in units of the range.
    """

    effects: Floats
    squares: Floats


def sums(values: Floats, is_second: Bools, bounds: Bounds) -> Sums:
    """The sums of X for values and variants (…, n), in the order in which units came."""
    if bounds.low is not None and bounds.high is not None:
        values = (values - bounds.low) / (bounds.high - bounds.low)
        first = np.full((*values.shape[:-1], 1), 0.5)
    else:
        first = values[..., :1]
    second_mean = _means_before(values, is_second, first)
    first_mean = _means_before(values, ~is_second, first)
    distance = np.where(
        is_second, (values - second_mean) / bounds.share, (first_mean - values) / (1 - bounds.share)
    )
    effects = second_mean - first_mean + distance
    return Sums(np.cumsum(effects, axis=-1), np.cumsum(distance**2, axis=-1))


def _means_before(values: Floats, is_own: Bools, first: Floats) -> Floats:
    """The mean of an arm's values before each unit; `first` counts as one value more."""
    own = np.where(is_own, values, 0.0)
    total = np.cumsum(own, axis=-1) - own + first
    return np.asarray(total / (np.cumsum(is_own, axis=-1) - is_own + 1))


def interval(
    found: Sums, units: npt.NDArray[np.int64], bounds: Bounds, alpha: float, most: int
) -> tuple[Floats, Floats]:
    """The difference and the half width of its interval after so many units, in the unit of the values.

    `most` is the largest number of units, which the width is tuned for.
    """
    effects, squares = found.effects[..., units - 1], found.squares[..., units - 1]
    if bounds.low is None or bounds.high is None:
        rho = best_rho(TUNED_AT * most, alpha)
        scale = np.sqrt(squares / units)
        return effects / units, scale * normal_bound(units, rho, alpha) / units
    scale_of_x = 1 / min(bounds.share, 1 - bounds.share)
    rho = best_rho(TUNED_AT * most * 0.25 / (bounds.share * (1 - bounds.share)), alpha)
    radius = gamma_exponential_bound(squares, rho, scale_of_x, alpha / 2)
    width = bounds.high - bounds.low
    return width * effects / units, width * radius / units


def best_rho(variance: float, alpha: float) -> float:
    """The parameter of a two-sided mixture that makes it tightest at a variance: Howard et al. 2021, 3.5."""
    log = 2 * np.log(1 / alpha)
    return float(variance / (log + np.log1p(log)))


def normal_bound(variance: npt.ArrayLike, rho: float, alpha: float) -> Floats:
    """The two-sided normal mixture: what the size of a sum of that variance ever exceeds with `alpha`."""
    total = np.asarray(variance) + rho
    return np.asarray(np.sqrt(total * np.log(total / (rho * alpha**2))))


def log_gamma_exponential(sum_: npt.ArrayLike, variance: npt.ArrayLike, rho: float, scale: float) -> Floats:
    """The log of the one-sided gamma-exponential mixture, a supermartingale that begins at 1 or less."""
    s, v, c = np.asarray(sum_), np.asarray(variance), scale
    least = rho / c**2
    shape, place = (v + rho) / c**2, (c * s + v + rho) / c**2
    constant = least * np.log(least) - gammaln(least) - np.log(gammainc(least, least))
    mixed = gammaln(shape) + np.log(gammainc(shape, place)) - shape * np.log(place)
    return np.asarray(constant + mixed + (c * s + v) / c**2)


def gamma_exponential_bound(variance: Floats, rho: float, scale: float, alpha: float) -> Floats:
    """The sum at which `log_gamma_exponential` reaches `log(1 / alpha)`."""
    limit = np.log(1 / alpha)
    low = np.zeros_like(variance)
    high = normal_bound(variance, rho, alpha) + scale * (limit + 10)
    while (is_short := log_gamma_exponential(high, variance, rho, scale) < limit).any():
        high = np.where(is_short, 2 * high, high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        is_under = log_gamma_exponential(middle, variance, rho, scale) < limit
        low, high = np.where(is_under, middle, low), np.where(is_under, high, middle)
    return np.asarray(high)


def looks(units: int, most: int) -> Sequence[int]:
    """At most `most` numbers of units, evenly apart; the last is all of them."""
    return sorted({round(at) for at in np.linspace(units / most, units, most)} - {0}) if units else []
