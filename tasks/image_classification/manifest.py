"""The manifest of the task kind `image_classification`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from gauntlet.manifests.dataset import ClassBalanceCheck, RowCheck, RowsPerClassCheck, Sha256
from gauntlet.manifests.search import Dimension, Search
from gauntlet.manifests.section import Section
from gauntlet.tasks.classification.manifest import ClassManifest, ClassTraining
from gauntlet.tasks.images.manifest import Augmentation, PixelDataset, Width


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
    """What is checked before a model is trained, with strict defaults. Images are the same pixel by pixel."""

    unknown_labels: RowCheck = RowCheck()
    empty_images: RowCheck = RowCheck()
    conflicting_labels: RowCheck = RowCheck()
    exact_duplicates: RowCheck = RowCheck()
    leakage: RowCheck = RowCheck()
    rows_per_class: RowsPerClassCheck = RowsPerClassCheck()
    class_balance: ClassBalanceCheck = ClassBalanceCheck()


class ImageDataset(PixelDataset):
    """Section of validate-data: images of one size in idx files, and their labels' indices.

    `shape` is height and width. Images of one channel are (N, H, W) in their file, others
    (N, H, W, channels). About `validation_fraction` of the training file's rows are for validation; a hash of
    the image decides.
    """

    files: ImageFiles = ImageFiles()
    sha256: ImageHashes | None = None
    validation_fraction: float = Field(0.1, gt=0, lt=1)
    checks: ImageChecks = ImageChecks()

    balancing: ClassVar[Mapping[str, str]] = {"training.class_weights": "balanced"}

    @property
    def named_files(self) -> tuple[str, ...]:
        """The idx files."""
        return tuple(name for _, name in self.files)


class ImageSearch(Search):
    """What can be tuned of an image classifier."""

    depth: Dimension | None = None
    units: Dimension | None = None
    head_dropout: Dimension | None = None


class ImageTraining(ClassTraining):
    """Section of train-model: a convolutional network that begins from random weights.

    Each of `filters` is the width of a block of `depth` convolutions (plain_cnn) or residual units of two
    (resnet). Blocks halve height and width, except the first of a resnet. `units` is the width of the dense
    layer before the last one, 0: none. `dropout` follows each block, `head_dropout` is before the last layer.
    """

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

    @property
    def architecture(self) -> str:
        """The network and its sizes, such as `custom-cnn-32-64-128-512-0.25-0.5`."""
        name = "custom-cnn" if self.arch == "plain_cnn" else self.arch
        sizes = [*self.filters, self.units, self.dropout, self.head_dropout]
        return "-".join([name, *(f"{size:g}" for size in sizes)])


class ImageManifest(ClassManifest):
    """The manifest of an image classifier."""

    task: Literal["image_classification"]
    dataset: ImageDataset
    training: ImageTraining = ImageTraining()
