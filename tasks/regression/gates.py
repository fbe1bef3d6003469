"""The gate rules of models that answer with a number. Bounds on sampled metrics are for confidence limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf

from gauntlet.components.gate_model.rules import (
    CHANGE,
    FRACTION,
    MISSING,
    NOT_NEGATIVE,
    POSITIVE,
    Documents,
    Domain,
    Fault,
    Rule,
    number_or_fault,
)
from gauntlet.components.gate_model.shared_rules import (
    NEIGHBOURS,
    Comparison,
    against_champion,
    compared_rows,
    confidence_of,
    converted,
    not_compared,
)
from gauntlet.manifests.gates import SMALLEST_MARGIN
from gauntlet.tasks.regression.metrics import resolvable_error

R2 = Domain(-inf, 1.0, "a number of 1 or less")
TRAINING_ADVICE = "More rows, cleaner targets or longer training lower it; `gates.{key}` is the bound."


def _is_set(key: str) -> Callable[[Documents], bool]:
    return lambda found: found.gates.get(key) is not None


def _in_deviations(path: str) -> Callable[[Documents], object]:
    """A figure of the certificate in standard deviations of the target."""

    def figure(found: Documents) -> object:
        value = number_or_fault(found.at(path), CHANGE)
        std = number_or_fault(found.at("certificate.target_std"), POSITIVE)
        if isinstance(value, str) or isinstance(std, str):
            return Fault(value if isinstance(value, str) else f"target_std: {std}")
        return value / std

    return figure


def _worst_slice(found: Documents) -> object:
    """The largest upper limit of the mean absolute error of any slice."""
    slices = found.at("scores.challenger.slices")
    if not isinstance(slices, list) or not slices:
        return MISSING
    limits = [one.get("mae_upper_bound", MISSING) if isinstance(one, dict) else MISSING for one in slices]
    numbers = [number_or_fault(limit, NOT_NEGATIVE) for limit in limits]
    return next((Fault(one) for one in numbers if isinstance(one, str)), None) or max(
        one for one in numbers if isinstance(one, float)
    )


def _margin(found: Documents) -> float:
    """What the compared rows can show, but at least a hundredth of the champion's mean absolute error."""
    spread = number_or_fault(found.at("scores.champion.error_std"), NOT_NEGATIVE)
    error = number_or_fault(found.at("scores.champion.mae"), NOT_NEGATIVE)
    if isinstance(spread, str) or isinstance(error, str):
        return 0.0
    shown = resolvable_error(compared_rows(found), spread, confidence_of(found))
    return max(SMALLEST_MARGIN * error, shown)


def _quality(name: str, key: str, words: str) -> Rule:
    return Rule(
        name,
        "<=",
        f"gates.{key}",
        NOT_NEGATIVE,
        f"scores.challenger.upper_bounds.{name}",
        f"Bootstrap upper limit of the {words}",
        advice=TRAINING_ADVICE.format(key=key),
        when=_is_set(key),
    )


RULES = (
    _quality("mae", "max_mae", "mean absolute error"),
    _quality("rmse", "max_rmse", "root mean squared error"),
    Rule(
        "r2",
        ">=",
        "gates.min_r2",
        R2,
        "scores.challenger.lower_bounds.r2",
        "Bootstrap lower limit of R²",
        advice="0 is what the mean of the targets reaches. More rows, cleaner targets or longer training "
        "raise it; `gates.min_r2` is the floor.",
        when=_is_set("min_r2"),
    ),
    Rule(
        "slice_mae",
        "<=",
        "gates.max_slice_mae",
        NOT_NEGATIVE,
        _worst_slice,
        "Largest bootstrap upper limit of the mean absolute error in a slice of the target",
        advice="The report shows the error of each slice under Evaluation. Add rows with such targets; "
        "`gates.max_slice_mae` is the bound.",
        when=_is_set("max_slice_mae"),
    ),
    Rule(
        "interval_coverage",
        ">=",
        "gates.min_interval_coverage",
        FRACTION,
        "scores.challenger.coverage_lower_bound",
        "Bootstrap lower limit of the share of test rows whose number is in its interval",
        advice="The width of intervals is measured on the validation split: are the test rows distributed "
        "otherwise, or is validation small? A larger `training.interval_coverage` makes them wider; "
        "`gates.min_interval_coverage` is the floor.",
        when=_is_set("min_interval_coverage"),
    ),
    *converted(
        "certificate.agreement",
        "Share of answers within a tenth of the target's standard deviation of PyTorch's",
        _in_deviations("certificate.mae_rise_bound"),
        CHANGE,
        "Bootstrap upper limit of the rise of the mean absolute error by conversion, in standard deviations "
        "of the target",
        difference=_in_deviations("certificate.max_abs_difference"),
        difference_note="Largest difference from PyTorch's answer, in standard deviations of the target",
        neighbours=replace(
            NEIGHBOURS,
            note="Largest change of an answer with the rows and padding of its batch, in standard deviations "
            "of the target",
        ),
    ),
    *against_champion(
        Comparison(
            what="the champion's mean absolute error minus this model's",
            domain=CHANGE,
            value="scores.paired.mae_reduction",
            margin=_margin,
        )
    ),
    Rule(
        "improvement",
        ">=",
        "gates.min_improvement",
        CHANGE,
        "scores.paired.lower_bound",
        "Paired bootstrap lower limit of the champion's mean absolute error minus this model's",
        advice="The model may be no worse, but it is not surely better by `gates.min_improvement`.",
        unless=not_compared,
        when=_is_set("min_improvement"),
    ),
)
