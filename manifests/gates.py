"""The section of gate-model."""

from __future__ import annotations

from pydantic import Field

from manifests.section import Fraction, Section


class CommonGates(Section):
    """What the section has for every task. A bound on a sampled metric holds for its bootstrap limit."""

    min_speedup: float = Field(2.3, gt=0)
    max_model_mb: float = Field(100.0, gt=0)
    non_inferiority_margin: Fraction = 0.01
    max_cost_usd: float = Field(10.0, gt=0)


class Gates(CommonGates):
    """The section for a classifier. `non_inferiority_margin` is of macro-F1.

    `max_validation_gap` is how far macro-F1 may fall from training's own validation to the upper confidence
    limit of the shipped file's on the test split: further, and they are not prepared alike.
    """

    min_macro_f1: Fraction
    min_accuracy: Fraction = 0.0
    max_validation_gap: Fraction = 0.05
    max_class_f1_drop: Fraction = 0.05


class GradingGates(Gates):
    """The section for a grader. `non_inferiority_margin` is of QWK.

    `min_qwk` holds for the lower confidence limit of the quadratic weighted kappa, `max_mae` for the upper
    one of the mean absolute error in grades.
    """

    min_qwk: float = Field(ge=-1, le=1)
    max_mae: float = Field(gt=0)
