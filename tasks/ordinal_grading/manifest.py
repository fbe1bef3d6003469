"""The manifest of the task kind `ordinal_grading`."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from gauntlet.manifests.dataset import ClassBalanceCheck, RowCheck, RowsPerClassCheck
from gauntlet.manifests.search import Dimension, Search
from gauntlet.manifests.section import Fraction, Section
from gauntlet.manifests.training import EarlyStopping, Resume, Training
from gauntlet.tasks.classification.manifest import ClassManifest, Gates
from gauntlet.tasks.images.manifest import Augmentation, LikenessCheck, PixelDataset, Width

GRADES = tuple(str(grade) for grade in range(1, 11))
Side = Literal["front", "back"]
SIDES: tuple[Side, Side] = ("front", "back")
"""In the order in which every array holds them; also the names of the exported graph's inputs."""


class SizeCheck(RowCheck):
    """Pixels along the shorter side of an image, which has at most 50 million in all."""

    min_side: int = Field(64, ge=8)


class AspectCheck(RowCheck):
    """Width over height of an image; that of a card of 63 × 88 mm is 0.716."""

    min_ratio: float = Field(0.6, gt=0)
    max_ratio: float = Field(0.85, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_ratio > self.max_ratio:
            raise ValueError(f"min_ratio {self.min_ratio:g} is over max_ratio {self.max_ratio:g}")
        return self


class CardChecks(Section):
    """What is checked before a model is trained, with strict defaults except for cards scanned repeatedly."""

    missing_sides: RowCheck = RowCheck()
    unreadable_images: RowCheck = RowCheck()
    image_size: SizeCheck = SizeCheck()
    aspect: AspectCheck = AspectCheck()
    grade_range: RowCheck = RowCheck()
    conflicting_grades: RowCheck = RowCheck()
    duplicates: LikenessCheck = LikenessCheck(severity="warn")
    leakage: LikenessCheck = LikenessCheck()
    rows_per_class: RowsPerClassCheck = RowsPerClassCheck(min_rows=1)
    class_balance: ClassBalanceCheck = ClassBalanceCheck()


class CardDataset(PixelDataset):
    """Section of validate-data: scans of both sides of cards and their grades, in splits that are given.

    `splits` is the file that lists them, relative to `uri`, and the images are relative to `uri` too, or have
    URIs of their own under one of `roots`. `uri` may be `synthetic://cards?cards=600&seed=7`, a set that is
    drawn anew (`synthetic_cards.py`). Every scan is brought to `shape`, height and width.
    """

    labels: tuple[str, ...] = GRADES
    splits: str = "splits.json"
    channels: Literal[1, 3] = 3
    checks: CardChecks = CardChecks()

    @property
    def named_files(self) -> tuple[str, ...]:
        """The list of the splits."""
        return (self.splits,)

    @model_validator(mode="after")
    def _grades(self) -> Self:
        if self.labels != GRADES:
            raise ValueError("labels are the grades 1 to 10 in order: leave the key out")
        return self


class GradingSearch(Search):
    """What can be tuned of a grader; it has `lr_phase1` and `lr_phase2` for `learning_rate`."""

    lr_phase1: Dimension | None = None
    lr_phase2: Dimension | None = None
    phase1_epochs: Dimension | None = None
    phase2_epochs: Dimension | None = None
    units: Dimension | None = None


class GradeEarlyStopping(EarlyStopping):
    """What a part of the section leaves out is of grades too."""

    metric: Literal["qwk", "macro_f1", "weighted_f1", "accuracy", "loss"] = "qwk"
    patience: int = Field(10, ge=1)


class GradingTraining(Training):
    """Section of train-model: a grader of a card's two sides, trained in two phases.

    In the first phase the back alone is graded, in the second both sides, with `lambda_fusion` of what the
    grade rests on from the back. Each phase has a schedule of its own and keeps its best epoch. The loss is
    `alpha_emd` EMD + (1 - `alpha_emd`) cross-entropy + `beta_edge` edge damage + `beta_center` centering
    (`network.py`). A training row is drawn in proportion to 1 / frequency of its grade **
    `sampler_power`. `filters` and `depth` are those of a residual network whose blocks all halve height and
    width, `units` what each side is summed up in; `shared_encoder`: by the same weights for both sides.
    """

    filters: tuple[Width, ...] = Field((16, 32, 64, 96), min_length=1)
    depth: int = Field(1, ge=1, le=16)
    units: int = Field(128, ge=1, le=4096)
    shared_encoder: bool = True
    lambda_fusion: Fraction = 0.7
    phase1_epochs: int = Field(10, ge=1)
    lr_phase1: float = Field(1e-3, gt=0, lt=1)
    phase2_epochs: int = Field(30, ge=1)
    lr_phase2: float = Field(3e-4, gt=0, lt=1)
    alpha_emd: Fraction = 0.7
    beta_edge: float = Field(0.05, ge=0)
    beta_center: float = Field(0.1, ge=0)
    sampler_power: float = Field(0.5, ge=0, le=1)
    augmentation: Augmentation = Augmentation()
    early_stopping: GradeEarlyStopping = GradeEarlyStopping()
    resume: Resume = Resume(keep_every_epochs=5)
    search: GradingSearch | None = Field(None, exclude=True)

    memory_advice: ClassVar[str] = "Lower training.filters or training.depth"
    takes_network: ClassVar[bool] = True
    takes_loss: ClassVar[bool] = True

    @property
    def architecture(self) -> str:
        """The network and its sizes, such as `dual-16-32-64-96-128`."""
        return "-".join(["dual", *(f"{size:g}" for size in (*self.filters, self.units))])

    @property
    def plan(self) -> tuple[tuple[int, float], ...]:
        """The back alone, then both sides."""
        return (self.phase1_epochs, self.lr_phase1), (self.phase2_epochs, self.lr_phase2)

    @property
    def leaves_weights_idle(self) -> bool:
        """Those of the front alone, in the first phase."""
        return not self.shared_encoder or self.network is not None


class GradingGates(Gates):
    """The section for a grader. `non_inferiority_margin` is of QWK.

    `min_qwk` holds for the lower confidence limit of the quadratic weighted kappa, `max_mae` for the upper
    one of the mean absolute error in grades.
    """

    min_qwk: float = Field(ge=-1, le=1)
    max_mae: float = Field(gt=0)


class GradingManifest(ClassManifest):
    """The manifest of a grader of trading cards."""

    task: Literal["ordinal_grading"]
    dataset: CardDataset
    training: GradingTraining = GradingTraining()
    gates: GradingGates
