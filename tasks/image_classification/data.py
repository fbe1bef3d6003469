"""Image datasets: read images in folders, tables, archives or idx files, check them, describe their splits.

MNIST and similar data are published in the idx format: two zero bytes, a byte for the type of the values
(8: unsigned bytes), a byte for the number of dimensions, each dimension as a big-endian number of 32 bits,
then the values: https://yann.lecun.com/exdb/mnist/
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from gauntlet.backends import storage
from gauntlet.components.pictures import data_uri
from gauntlet.components.validate_data.carving import carve, with_groups
from gauntlet.components.validate_data.checks import SHOWN_EXAMPLES, CheckedTable, Examination, Finding
from gauntlet.components.validate_data.classes import check_classes, largest_groups
from gauntlet.components.validate_data.duplicates import (
    Likeness,
    NothingAlike,
    find_conflicts,
    find_exact,
    find_leaks,
    find_near,
    outside_test,
)
from gauntlet.components.validate_data.packed import decompress
from gauntlet.manifests.dataset import SPLITS, SplitFiles, SplitName
from gauntlet.manifests.errors import DataError, UsageError
from gauntlet.manifests.gates import describe_resolution
from gauntlet.manifests.proposal import Proposal
from gauntlet.tasks.image_classification.manifest import ImageChecks, ImageDataset, ImageFiles, ImageHashes
from gauntlet.tasks.images.data import (
    Statistics,
    class_pictures,
    describe,
    find_noted,
    in_pieces,
    split_arrays,
)
from gauntlet.tasks.images.hashing import ImageLikeness, correlated
from gauntlet.tasks.images.look import look_at_images, usual_shape
from gauntlet.tasks.images.reading import ImageSource, image_uris, is_of_many_files, read_images
from gauntlet.tasks.texts.labels import describe_unknown, resolve_label

__all__ = ["Statistics", "examine", "propose", "sources"]

GZIP_SUFFIX = ".gz"
GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTES = 8
START = 4  # bytes before the dimensions of an idx file
SPLITS_OF_FILES: tuple[SplitName, ...] = ("train", "test")
EQUAL = 1.0
NO_LABEL = "(no label)"
MOST_CLASSES = 1_000  # that are taken from the data: a column with more holds something else
SHOWN_CLASSES = 8
SHOWN_SIDE = 96  # pixels of an image in the report, at least


def examine(dataset: ImageDataset) -> Examination:
    """Read and check a dataset.

    Raises:
        DataError: The data cannot be read.
        UsageError: There is nothing at the URI, or `dataset` asks for what cannot be read.
        GauntletError: The store that holds the data is unavailable.
    """
    table = _read_idx_files(dataset) if is_idx(dataset) else _read_images(dataset)
    resolved = table.resolved
    checked = check_table(table)
    step = max(1, min(resolved.shape) // SHOWN_SIDE)
    shown = table.pixels[:, ::step, ::step]
    statistics = describe(checked.rows, table.pixels, resolved).model_copy(update=table.described)
    return Examination(
        table=table.rows,
        checked=checked,
        statistics=statistics,
        content=lambda split: split_arrays(checked.rows, split, table.pixels, resolved.labels),
        fingerprints=table.fingerprints,
        resolution=describe_resolution(statistics.class_counts["test"].values()),
        pictures=class_pictures(checked.rows, shown, resolved.labels),
        picture=lambda row: data_uri(shown[row]),
    )


def sources(dataset: ImageDataset) -> tuple[str, ...]:
    """The URIs of all files."""
    if is_idx(dataset):
        return tuple(storage.join(dataset.uri, name) for _, name in _idx_files(dataset))
    return image_uris(_source(dataset))


def is_idx(dataset: ImageDataset) -> bool:
    """Whether the data are idx files: the manifest says so or names them, or they are in the folder.

    A folder over HTTP cannot be listed, so it has them if nothing else is said.

    Raises:
        UsageError: There is nothing at the URI.
        GauntletError: The store cannot be reached.
    """
    if dataset.format != "auto" or dataset.files is not None:
        return dataset.format == "idx" or isinstance(dataset.files, ImageFiles)
    if is_of_many_files(dataset.uri):
        return False
    if dataset.uri.startswith(storage.HTTP_SCHEMES):
        return True
    expected = {name for _, name in ImageFiles()}
    return not expected.isdisjoint(storage.list_files(dataset.uri))


def _idx_files(dataset: ImageDataset) -> ImageFiles:
    return dataset.files if isinstance(dataset.files, ImageFiles) else ImageFiles()


def _source(dataset: ImageDataset) -> ImageSource:
    """The form in which shared code reads the images.

    Raises:
        UsageError: The keys are of another form.
    """
    if isinstance(dataset.sha256, ImageHashes):
        raise UsageError(
            "dataset.sha256: found a hash for each of four idx files, expected the hash of one file at "
            "dataset.uri. Correct it, or leave it out"
        )
    return ImageSource(
        uri=dataset.uri,
        shape=dataset.shape,
        channels=dataset.channels or 3,
        resize=dataset.resize,
        files=dataset.files if isinstance(dataset.files, SplitFiles) else None,
        form="auto" if dataset.format == "idx" else dataset.format,
        columns=dataset.columns,
        roots=dataset.roots or (),
        sha256=dataset.sha256,
        max_expansion=dataset.max_expansion,
    )


# --- reading -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageTable:
    """Every image of every file.

    Attributes:
        pixels: (N, H, W), or (N, H, W, 3) for three channels.
        rows: One row for each image, in the same order, numbered from 0: `label` (a name of
            `dataset.labels`, or what was found if there is no such label), `split` (of the file), `place`
            (file and row), `row` (position in the file, from 0), `key` (equal for equal images) and `shown`;
            if the images are in files of their own, `unreadable`, a fault in words or an empty text.
        resolved: The section with the labels and the channels that it left open.
        fingerprints: As in `Examination`.
        hashes: Perceptual hashes, bool (N, bits); None if only equal images are looked for.
        described: More for the statistics.
    """

    pixels: npt.NDArray[np.uint8]
    rows: pd.DataFrame
    resolved: ImageDataset
    fingerprints: str = "pixels"
    hashes: npt.NDArray[np.bool_] | None = None
    described: Mapping[str, Any] = field(default_factory=dict)


def _read_images(dataset: ImageDataset) -> ImageTable:
    """The images of folders or tables, with their labels. Raises what `read_images` and `_labels` do."""
    found = read_images(_source(dataset))
    labels = dataset.labels or _labels_of(found.rows["value"], dataset.uri)
    channels = dataset.channels or 3
    rows = found.rows.assign(
        label=[resolve_label(value, labels) or NO_LABEL for value in found.rows["value"]]
    ).drop(columns="value")
    sizes = rows.loc[rows["unreadable"] == "", ["width", "height"]].to_numpy().tolist()
    by_area = sorted(map(tuple, sizes), key=math.prod)
    described: dict[str, Any] = {
        "resize": dataset.resize,
        "labels_from": "manifest" if dataset.labels else found.form,
        "sizes": (by_area[0], by_area[-1]) if by_area else None,
        "other_files": found.other_files or None,
    }
    if found.other_files:
        named = ", ".join(found.other_files[:SHOWN_EXAMPLES])
        print(f"{len(found.other_files)} files are no images by their names and were not read: {named}")
    height, width = dataset.shape
    return ImageTable(
        found.pixels,
        rows,
        dataset.model_copy(update={"labels": labels, "channels": channels}),
        f"pixels {height} × {width} × {channels}, {dataset.resize}",
        found.hashes,
        described,
    )


def _labels_of(values: Iterable[Any], uri: str) -> tuple[str, ...]:
    """The labels that the data have, in alphabetical order, or if all are numbers in theirs.

    Raises:
        DataError: There are fewer than two, too many, or some that differ only in case.
    """
    counts = Counter(label for value in values if (label := resolve_label(value, ())) is not None)
    if len(counts) < 2:
        named = f"{next(iter(counts))} alone" if counts else "none"
        raise DataError(
            f"{uri}: classes: found {named}, expected at least 2. Give each class a folder, and let "
            "dataset.uri be the folder that holds them, or dataset.columns.label the column of labels"
        )
    if len(counts) > MOST_CLASSES:
        raise DataError(
            f"{uri}: found {len(counts):,} classes, such as {next(iter(counts))!r}, expected at most "
            f"{MOST_CLASSES:,}. Set dataset.columns.label to the column of labels, or list dataset.labels"
        )
    spellings = defaultdict(list)
    for label in sorted(counts):
        spellings[label.casefold().strip()].append(f"{label} ({counts[label]:,} images)")
    if alike := [" and ".join(found) for found in spellings.values() if len(found) > 1]:
        raise DataError(
            f"{uri}: labels differ only in case: {'; '.join(alike)}. Give them one spelling, or list "
            "dataset.labels if they are different classes"
        )
    are_numbers = all(label.isdecimal() for label in counts)
    return tuple(sorted(counts, key=lambda label: (int(label), label) if are_numbers else (0, label)))


def _read_idx_files(dataset: ImageDataset) -> ImageTable:
    """Read the four files.

    Raises:
        DataError: A file is missing, altered (sha256), malformed or of another shape, or its labels are
            more or fewer than its images; the faults of all files together.
        UsageError: There is nothing at the URI, or the section has keys of another form.
    """
    _require_idx_keys(dataset)
    files = _idx_files(dataset)
    dataset = dataset.model_copy(update={"files": files, "channels": dataset.channels or 1})
    contents: dict[str, bytes] = {}
    faults: list[str] = []
    for role, name in files:
        data = storage.read_bytes(storage.join(dataset.uri, name))
        try:
            contents[role] = _unpacked(data, name, dataset.max_expansion)
        except DataError as error:
            faults.append(str(error))
    faults += _altered(dataset, files, contents)
    tables: list[tuple[npt.NDArray[np.uint8], pd.DataFrame]] = []
    for split in SPLITS_OF_FILES if not faults else ():
        try:
            tables.append(_read_split(dataset, files, split, contents))
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError("\n".join(faults))
    rows = pd.concat([rows for _, rows in tables], ignore_index=True)
    return ImageTable(np.concatenate([pixels for pixels, _ in tables]), rows, dataset)


def _require_idx_keys(dataset: ImageDataset) -> None:
    faults = []
    if not dataset.labels:
        faults.append("dataset.labels: found none, expected the names of the classes in their order")
    if isinstance(dataset.sha256, str):
        faults.append("dataset.sha256: found one hash, expected one for each of the four files, by name")
    if dataset.checks.near_duplicates != ImageChecks().near_duplicates:
        faults.append("dataset.checks.near_duplicates: found a check, expected none. Remove it")
    if faults:
        raise UsageError(f"{dataset.uri}: these are idx files. {'; '.join(faults)}")


def _unpacked(data: bytes, name: str, max_expansion: int | None) -> bytes:
    packed = name.lower().endswith(GZIP_SUFFIX) or data.startswith(GZIP_MAGIC)
    return decompress(data, name, GZIP_SUFFIX, max_expansion) if packed else data


def _altered(dataset: ImageDataset, files: ImageFiles, contents: dict[str, bytes]) -> list[str]:
    """A message for each file whose sha256 differs from the manifest's."""
    faults = []
    for role, expected in dataset.sha256 if isinstance(dataset.sha256, ImageHashes) else ():
        found = hashlib.sha256(contents[role]).hexdigest() if role in contents else expected
        if found != expected:
            faults.append(
                f"{getattr(files, role)}: found sha256 {found} when unpacked, expected {expected}. "
                f"Fetch it again, or correct dataset.sha256.{role}"
            )
    return faults


def _read_split(
    dataset: ImageDataset, files: ImageFiles, split: SplitName, contents: dict[str, bytes]
) -> tuple[npt.NDArray[np.uint8], pd.DataFrame]:
    images, labels = f"{split}_images", f"{split}_labels"
    images_name, labels_name = getattr(files, images), getattr(files, labels)
    expected = dataset.shape if dataset.channels == 1 else (*dataset.shape, 3)
    pixels = read_idx(contents[images], images_name, dimensions=1 + len(expected))
    indices = read_idx(contents[labels], labels_name, dimensions=1)
    if pixels.shape[1:] != expected:
        raise DataError(
            f"{images_name}: found images of {_sides(pixels.shape[1:])}, expected {_sides(expected)}. "
            "Correct dataset.shape and dataset.channels, or name the right file in dataset.files"
        )
    if len(pixels) != len(indices):
        raise DataError(
            f"{labels_name}: found {len(indices):,} labels, expected {len(pixels):,}, one for each image of "
            f"{images_name}. Name the files that belong together in dataset.files"
        )
    if not len(pixels):
        raise DataError(
            f"{images_name}: found no images, expected at least one. Correct dataset.uri or dataset.files"
        )
    names = dataset.labels
    rows = pd.DataFrame(
        {
            "label": [names[index] if index < len(names) else str(index) for index in indices.tolist()],
            "split": split,
            "place": [f"{images_name} image {row}" for row in range(len(pixels))],
            "row": range(len(pixels)),
            "key": [hashlib.sha256(image.tobytes()).hexdigest() for image in pixels],
            "shown": "the image",
        }
    )
    return pixels, rows


def read_idx(data: bytes, name: str, dimensions: int) -> npt.NDArray[np.uint8]:
    """The array of an unpacked idx file; errors name `name`.

    Raises:
        DataError: It is not an idx file of unsigned bytes with so many dimensions, or it is incomplete.
    """
    start = START + 4 * dimensions
    if len(data) < START or data[:2] != b"\0\0":
        raise DataError(
            f"{name}: found {data[:START].hex(' ') or 'no bytes'} at its start, expected "
            f"{bytes([0, 0, UNSIGNED_BYTES, dimensions]).hex(' ')}, as in an idx file. "
            "Name the right file in dataset.files"
        )
    if data[2] != UNSIGNED_BYTES or data[3] != dimensions:
        raise DataError(
            f"{name}: found an idx file of type {data[2]} with {data[3]} dimensions, expected type "
            f"{UNSIGNED_BYTES} (unsigned bytes) with {dimensions}. Name the right file in dataset.files"
        )
    if len(data) < start:
        raise DataError(
            f"{name}: found {len(data)} bytes, expected {start} before its values. Fetch it again"
        )
    shape = tuple(int(side) for side in np.frombuffer(data, dtype=">u4", count=dimensions, offset=START))
    expected = math.prod(shape)
    if len(data) - start != expected:
        raise DataError(
            f"{name}: found {len(data) - start:,} bytes of values, expected {expected:,} "
            f"({' × '.join(f'{side:,}' for side in shape)}). Fetch it again"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


def _sides(shape: tuple[int, ...]) -> str:
    return " × ".join(str(side) for side in shape)


# --- checks ------------------------------------------------------------------------------------------


def check_table(table: ImageTable) -> CheckedTable:
    """Run every check, whatever the ones before it found, and carve the splits that nothing provides.

    They are carved after the checks within a split and before the one across splits, so that the rows that
    `drop` removes are gone by then. The index of the rows that are left is their position in `table.pixels`.
    """
    dataset, checks = table.resolved, table.resolved.checks
    missing = tuple(split for split in SPLITS if split not in set(table.rows["split"]))
    checked = CheckedTable(table.rows, len(table.rows))
    # Such a row cannot be written as (image, class index), so it leaves whatever the severity.
    if table.hashes is not None:
        checked.check(
            "unreadable_images",
            checks.unreadable_images,
            lambda rows: find_noted(rows, "unreadable"),
            unusable=True,
        )
    checked.check(
        "unknown_labels", checks.unknown_labels, lambda rows: find_unknown(rows, table), unusable=True
    )
    checked.check("empty_images", checks.empty_images, lambda rows: find_empty(rows, table.pixels))
    similarity = EQUAL if table.hashes is None else checks.near_duplicates.similarity
    rows = checked.rows.assign(number=pd.factorize(checked.rows["key"])[0])
    likeness = _likeness(rows, table, similarity)
    checked.rows = with_groups(rows, likeness, similarity)
    checked.groups = dict(zip(rows["key"], checked.rows["group"], strict=True))
    checked.check("conflicting_labels", checks.conflicting_labels, find_conflicts)
    checked.check("exact_duplicates", checks.exact_duplicates, find_exact)
    if table.hashes is not None:
        checked.check(
            "near_duplicates", checks.near_duplicates, lambda rows: find_near(rows, likeness, similarity)
        )
    checked.rows = carve(checked.rows, missing, _fractions(dataset), checks.rows_per_class.min_rows)
    checked.check("leakage", checks.leakage, lambda rows: find_leaks(rows, likeness, similarity))
    check_classes(
        checked,
        dataset,
        checks.rows_per_class,
        checks.class_balance,
        lambda: largest_groups(checked.rows),
    )
    return checked


def _likeness(rows: pd.DataFrame, table: ImageTable, similarity: float) -> Likeness:
    if table.hashes is None:
        return NothingAlike(rows["number"].nunique())
    positions = rows.index.to_numpy()
    alike = correlated(table.pixels, positions)
    return ImageLikeness(rows["number"].to_numpy(), table.hashes[positions], similarity, alike)


def _fractions(dataset: ImageDataset) -> dict[SplitName, float]:
    """Of all images: validation has its share of those that are not in the test split."""
    test, rest = dataset.test_fraction, 1 - dataset.test_fraction
    validation = dataset.validation_fraction * rest
    return {"train": rest - validation, "validation": validation, "test": test}


def find_unknown(rows: pd.DataFrame, table: ImageTable) -> Finding:
    """Rows whose label is not one of the manifest's."""
    labels = table.resolved.labels
    unknown = rows[~rows["label"].isin(labels)]
    if table.hashes is None:
        examples = [
            f"{row.place}: label {row.label}, and the last of dataset.labels is {len(labels) - 1}"
            for row in unknown.head(SHOWN_EXAMPLES).itertuples()
        ]
    else:
        examples = describe_unknown(unknown["label"], labels)
        examples += [f"{row.place}: label {row.label}" for row in unknown.head(SHOWN_EXAMPLES).itertuples()]
    return Finding(unknown.index, unknown.index, examples, column="label")


def find_empty(rows: pd.DataFrame, pixels: npt.NDArray[np.uint8]) -> Finding:
    """Rows whose pixels are all the same."""
    pieces = in_pieces(pixels, rows.index.to_numpy())
    flat = (images.reshape(len(images), -1) for images in pieces)
    equal = [images.min(axis=1) == images.max(axis=1) for images in flat]
    empty = rows.index[np.concatenate([np.empty(0, dtype=np.bool_), *equal])]
    shown: list[int] = empty[:SHOWN_EXAMPLES].tolist()
    places = zip(shown, rows.loc[shown, "place"], strict=True)
    examples = [f"{place}: every pixel is {pixels[at].min()}" for at, place in places]
    return Finding(
        empty,
        outside_test(rows, empty),
        examples,
        reasons=lambda _, some: [f"every pixel is {pixels[row].min()}" for row in some.tolist()],
    )


def propose(uri: str) -> Proposal | None:
    """A manifest for images in a folder for each class, or in a table with their labels; None otherwise."""
    look = look_at_images(uri)
    if look is None:
        return None
    side, channels = usual_shape(look.images)
    counts = look.labels.most_common()
    shown = ", ".join(f"{name} {count}" for name, count in counts[:SHOWN_CLASSES])
    where = f"column {look.columns['label']}" if look.columns else "folder for each"
    return Proposal(
        fit=0.95,
        why=f"{sum(look.labels.values())} images of {len(counts)} classes, by the {where}: {shown}",
        sections={
            "dataset": {
                **({"columns": look.columns} if look.columns else {}),
                "shape": [side, side],
                **({"channels": 1} if channels == 1 else {}),
            },
            "gates": {"min_macro_f1": 0.5},
        },
        comments={
            "dataset.shape": "height and width that every image is brought to: see `resize`",
            "gates.min_macro_f1": "the lower end of the 95 % interval must reach it: set what your use needs",
        },
    )
