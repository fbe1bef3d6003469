"""The manifest of the task kind `image_classification`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from gauntlet.manifests.dataset import (
    ClassBalanceCheck,
    MaxExpansion,
    RowCheck,
    RowsPerClassCheck,
    Sha256,
    SplitFiles,
)
from gauntlet.manifests.errors import Fault, ManifestError
from gauntlet.manifests.search import Dimension, Search
from gauntlet.manifests.section import Section
from gauntlet.serving.interface import Resize
from gauntlet.tasks.classification.manifest import ClassManifest, ClassTraining
from gauntlet.tasks.images.manifest import (
    FROM_HUB,
    Augmentation,
    Backbone,
    ImageColumns,
    LikenessCheck,
    PixelDataset,
    Width,
)


class ImageFiles(Section):
    """The idx files, relative to `dataset.uri`, packed by gzip or not. The test files never train."""

    train_images: str = "train-images-idx3-ubyte.gz"
    train_labels: str = "train-labels-idx1-ubyte.gz"
    test_images: str = "t10k-images-idx3-ubyte.gz"
    test_labels: str = "t10k-labels-idx1-ubyte.gz"


class ImageHashes(Section):
    """The sha256 of each idx file as gzip gives it back: the same data is packed in more ways than one."""

    train_images: Sha256
    train_labels: Sha256
    test_images: Sha256
    test_labels: Sha256


class ImageChecks(Section):
    """What is checked before a model is trained, with strict defaults.

    Images are the same pixel by pixel, at the shape that the model sees. `near_duplicates` also decides which
    images are near-duplicates across splits for `leakage`; neither looks for them in idx files.
    """

    unreadable_images: RowCheck = RowCheck()
    unknown_labels: RowCheck = RowCheck()
    empty_images: RowCheck = RowCheck()
    conflicting_labels: RowCheck = RowCheck()
    exact_duplicates: RowCheck = RowCheck()
    near_duplicates: LikenessCheck = LikenessCheck(severity="warn")
    leakage: RowCheck = RowCheck()
    rows_per_class: RowsPerClassCheck = RowsPerClassCheck()
    class_balance: ClassBalanceCheck = ClassBalanceCheck()


class ImageDataset(PixelDataset):
    """Section of validate-data: images of any size in a folder for each class, or in tables that name them.

    `uri` is a folder, a table, or an archive of either. Folders of classes may be in folders named train,
    validation and test. `format: auto` takes a folder with idx files, or else with tables, for that. Without
    `labels` they are the names of the folders, or the values of the label column, in alphabetical order; idx
    files, which hold images of one size and the indices of their labels, need them.

    Every image is brought to `shape`, height and width, by `resize`. `channels` is 1 for grey; the default is
    1 for idx files, else 3. `validation_fraction` is the share of the images outside the test split,
    `test_fraction` of all images; each counts where nothing provides the split. A hash of the image decides.
    An archive, or a compressed file, may unpack to 1 GiB, or to `max_expansion` (100) times its own size if
    that is more.
    """

    labels: tuple[str, ...] = ()
    channels: Literal[1, 3] | None = None  # type: ignore[assignment]  # a kind may leave it open
    format: Literal["auto", "idx", "folders", "table"] = "auto"
    files: ImageFiles | SplitFiles | None = None
    columns: ImageColumns = ImageColumns()
    sha256: ImageHashes | Sha256 | None = None
    resize: Resize = "stretch"
    validation_fraction: float = Field(0.1, gt=0, lt=1)
    test_fraction: float = Field(0.15, gt=0, lt=1)
    max_expansion: MaxExpansion = None
    checks: ImageChecks = ImageChecks()

    balancing: ClassVar[Mapping[str, str]] = {"training.class_weights": "balanced"}

    @property
    def named_files(self) -> tuple[str, ...]:
        """The idx files or tables."""
        if isinstance(self.files, SplitFiles):
            return self.files.names
        return () if self.files is None else tuple(name for _, name in self.files)

    @model_validator(mode="after")
    def _several_labels(self) -> Self:
        if len(self.labels) == 1:
            raise ValueError(f"labels: found {self.labels[0]} alone, expected at least 2, or no such key")
        return self


class ImageSearch(Search):
    """What can be tuned of an image classifier."""

    depth: Dimension | None = None
    units: Dimension | None = None
    head_dropout: Dimension | None = None


class ImageTraining(ClassTraining):
    """Section of train-model: a convolutional network that begins from random weights, or a `backbone`.

    Each of `filters` is the width of a block of `depth` convolutions (plain_cnn) or residual units of two
    (resnet). Blocks halve height and width, except the first of a resnet. `units` is the width of the dense
    layer before the last one, 0: none. `dropout` follows each block, `head_dropout` is before the last layer.
    With a `backbone` the head alone is built by these keys: `units` and `head_dropout`.
    """

    backbone: Backbone | None = None
    arch: Literal["plain_cnn", "resnet"] = "plain_cnn"
    filters: tuple[Width, ...] = Field((32, 64, 128), min_length=1)
    depth: int = Field(1, ge=1, le=16)
    units: int = Field(512, ge=0, le=4096)
    dropout: float = Field(0.25, ge=0, lt=1)
    head_dropout: float = Field(0.5, ge=0, lt=1)
    augmentation: Augmentation = Augmentation()
    epochs: int = Field(30, ge=1)
    batch_size: int = Field(128, ge=1)
    learning_rate: float = Field(1e-3, gt=0, lt=1)
    weight_decay: float = Field(1e-5, ge=0)
    search: ImageSearch | None = Field(None, exclude=True)

    memory_advice: ClassVar[str] = "Lower training.filters or training.depth"

    @model_validator(mode="after")
    def _one_network(self) -> Self:
        if self.backbone is None:
            return self
        unread = [key for key in ("arch", "filters", "depth", "dropout") if self._is_set(key)]
        unread += ["network"] if self.network is not None else []
        if self.distribution == "fsdp2" and self.backbone.freeze != "none":
            raise ValueError(
                "distribution fsdp2 does not keep frozen weights whole: use ddp, or freeze: none"
            )
        if unread:
            raise ValueError(f"{', '.join(unread)}: of another network than backbone: leave out one of both")
        return self

    def _is_set(self, key: str) -> bool:
        return bool(getattr(self, key) != type(self).model_fields[key].default)

    @property
    def unread_dimensions(self) -> tuple[str, ...]:
        """A backbone has its own depth."""
        return super().unread_dimensions if self.backbone is None else ("depth", "dropout")

    @property
    def network_code(self) -> tuple[str, str] | None:
        """A backbone may be code of the user's own too."""
        if self.backbone is not None and ":" in self.backbone.name:
            return "training.backbone.name", self.backbone.name
        return super().network_code

    @property
    def architecture(self) -> str:
        """The network and its sizes, such as `custom-cnn-32-64-128-512-0.25-0.5`."""
        if self.backbone is not None:
            return f"{self.backbone.name.rpartition(':')[2]}-{self.backbone.freeze}-frozen"
        name = "custom-cnn" if self.arch == "plain_cnn" else self.arch
        sizes = [*self.filters, self.units, self.dropout, self.head_dropout]
        return "-".join([name, *(f"{size:g}" for size in sizes)])


class ImageManifest(ClassManifest):
    """The manifest of an image classifier."""

    task: Literal["image_classification"]
    dataset: ImageDataset
    training: ImageTraining = ImageTraining()

    def require_model(self, file: str) -> None:
        """The weights of a backbone exist, if they are to be on this machine."""
        backbone = self.training.backbone
        weights = backbone.weights if backbone else None
        if weights not in (None, FROM_HUB) and "://" not in weights and not Path(weights).is_file():
            action = "Correct the path, or --set training.backbone.weights=…"
            raise ManifestError(
                [Fault(file, "training.backbone.weights", weights, "a file of safetensors", action)]
            )
