"""Datasets of graded cards: read the scans that a list of splits names, check them, describe the splits."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import numpy.typing as npt
import pandas as pd

from gauntlet.backends import storage
from gauntlet.backends.storage import data_uri
from gauntlet.components.pictures import data_uri as png_uri
from gauntlet.components.validate_data.carving import with_groups
from gauntlet.components.validate_data.checks import SHOWN_EXAMPLES, CheckedTable, Examination, Finding
from gauntlet.components.validate_data.classes import check_classes
from gauntlet.components.validate_data.duplicates import find_conflicts, find_leaks, find_near, outside_test
from gauntlet.manifests.dataset import SplitName
from gauntlet.manifests.errors import DataError, UsageError
from gauntlet.manifests.gates import describe_resolution
from gauntlet.tasks.images.data import (
    Statistics,
    array_on_disk,
    class_pictures,
    describe,
    find_noted,
    split_arrays,
)
from gauntlet.tasks.images.decoding import BITS, Decoder, ImageFile
from gauntlet.tasks.images.hashing import ImageLikeness
from gauntlet.tasks.images.reading import read_in_pieces
from gauntlet.tasks.ordinal_grading.manifest import GRADES, SIDES, CardDataset
from gauntlet.tasks.ordinal_grading.synthetic_cards import write_cards
from gauntlet.trainer.splits import ImageSplit, existing_file, in_channels_first, map_array

__all__ = ["Statistics", "examine", "sources"]

LISTS: Mapping[str, SplitName] = {"train": "train", "val": "validation", "test": "test"}
SYNTHETIC_SCHEME = "synthetic://"
UNKNOWN = math.nan
SHOWN_HEIGHT = 96  # pixels of a scan in the report, at least


def examine(dataset: CardDataset) -> Examination:
    """Read and check a dataset.

    Raises:
        DataError: The data cannot be read.
        UsageError: There is nothing at the URI.
        GauntletError: The store that holds the data is unavailable.
    """
    table = read_cards(dataset)
    checked = check_table(table, dataset)
    statistics = describe(checked.rows, table.pixels, dataset)
    sha256 = _with_targets(statistics.sha256, table, checked.rows.index)
    step = max(1, dataset.shape[0] // SHOWN_HEIGHT)
    sides = table.pixels[:, :, ::step, ::step]
    above_each_other = np.concatenate([sides[:, 0], sides[:, 1]], axis=1)
    return Examination(
        table=table.rows,
        checked=checked,
        statistics=statistics.model_copy(update={"sha256": sha256}),
        content=lambda split: split_arrays(checked.rows, split, table.pixels, dataset.labels, table.targets),
        fingerprints="certificates",
        resolution=describe_resolution([statistics.rows["test"]], "QWK"),
        pictures=class_pictures(checked.rows, above_each_other, dataset.labels),
        picture=lambda row: png_uri(above_each_other[row]),
    )


def _with_targets(sha256: str, table: CardTable, rows: pd.Index[int]) -> str:
    """The hash of the content's hash, as text, and of the bytes of the other targets."""
    digest = hashlib.sha256(sha256.encode())
    for name in ("centering", "edge_damage"):
        digest.update(np.ascontiguousarray(table.targets[name][rows]).tobytes())
    return digest.hexdigest()


def sources(dataset: CardDataset) -> tuple[str, ...]:
    """The URIs of the list and of every scan; none for synthetic cards. Raises what `read_cards` does."""
    if dataset.uri.startswith(SYNTHETIC_SCHEME):
        return ()
    listed = storage.join(dataset.uri, dataset.splits)
    entries = _entries(storage.read_bytes(listed), dataset.splits)
    named = (entry.get(side) for _, _, entry in entries for side in SIDES)
    scans = []
    for name in named:
        if isinstance(name, str) and name:
            with suppress(UsageError):  # a scan outside the dataset's folders is never opened
                scans.append(data_uri(dataset.uri, name, dataset.roots or ()))
    return (listed, *scans)


@dataclass(frozen=True)
class CardTable:
    """Every card of every list.

    Attributes:
        pixels: (N, 2, H, W), or (N, 2, H, W, 3) for three channels; black where there is no image.
        hashes: A perceptual hash of front and back, bool (N, bits).
        targets: `centering` (N, 4) and `edge_damage` (N, 2), both float32 with NaN for unknown values, and
            `certificate` (N,).
        rows: One row for each card, in the same order, numbered from 0: `label` (the grade as text), `split`,
            `place`, `row` (the position in its list), `key` (the certificate, or a hash of the scans),
            `shown`, and its faults in words: `missing`, `unreadable`, `out_of_range`; `sizes` has the width
            and height of each scan.
    """

    pixels: npt.NDArray[np.uint8]
    hashes: npt.NDArray[np.bool_]
    targets: Mapping[str, npt.NDArray[Any]]
    rows: pd.DataFrame


@dataclass(frozen=True)
class _Scans:
    """Front and back of N cards; a scan that is missing or unreadable is black, and 0 pixels wide and high.

    Attributes:
        pixels: (N, 2, H, W), or (N, 2, H, W, 3) for three channels.
        hashes: Perceptual hashes, bool (N, 2, BITS).
        sizes: Widths and heights, (N, 2, 2).
        sha256: The hashes of each card's files.
        faults: What is wrong with the files of each card.
    """

    pixels: npt.NDArray[np.uint8]
    hashes: npt.NDArray[np.bool_]
    sizes: npt.NDArray[np.int64]
    sha256: Sequence[Sequence[str]]
    faults: Sequence[Sequence[str]]


def read_cards(dataset: CardDataset) -> CardTable:
    """Read the lists and every scan; the faults of a single card are noted in its row.

    Raises:
        DataError: The list of the splits is malformed.
        UsageError: There is no such list, or a synthetic `uri` is malformed.
        GauntletError: The store that holds the data is unavailable.
    """
    if not dataset.uri.startswith(SYNTHETIC_SCHEME):
        return _read(dataset, dataset.uri)
    with tempfile.TemporaryDirectory(prefix="gauntlet-cards-") as folder:
        write_cards(Path(folder), **_wanted(dataset.uri))
        return _read(dataset, folder)


def _wanted(uri: str) -> dict[str, int]:
    parts = urlsplit(uri)
    query = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
    numbers = {key: int(text) for key, text in query.items() if text.isdecimal()}
    if parts.netloc != "cards" or parts.path or set(numbers) != {"cards", "seed"} or len(query) != 2:
        raise UsageError(f"dataset.uri: found {uri}, expected such as synthetic://cards?cards=600&seed=7.")
    return numbers


def _read(dataset: CardDataset, uri: str) -> CardTable:
    entries = _entries(storage.read_bytes(storage.join(uri, dataset.splits)), dataset.splits)
    scans = _read_scans(dataset, uri, [entry for _, _, entry in entries])
    rows = [
        _row(dataset.splits, list_name, number, entry, scans, card)
        for card, (list_name, number, entry) in enumerate(entries)
    ]
    return CardTable(
        pixels=scans.pixels,
        hashes=scans.hashes.reshape(len(entries), -1),
        targets={
            "centering": np.array([_centering(entry) for *_, entry in entries], dtype=np.float32),
            "edge_damage": np.array([_edge_damage(entry) for *_, entry in entries], dtype=np.float32),
            "certificate": np.array([row["key"] for row in rows], dtype=np.str_),
        },
        rows=pd.DataFrame(rows),
    )


def _entries(data: bytes, name: str) -> list[tuple[str, int, Mapping[str, Any]]]:
    """List, position in it and content of every entry."""
    expected = f"expected an object with the lists {', '.join(LISTS)}, each of objects. Fix the file"
    try:
        content = json.loads(data)
    except ValueError as error:
        raise DataError(f"{name}: found no JSON ({error}), {expected}") from None
    if not isinstance(content, dict) or set(content) != set(LISTS):
        found = f"the keys {', '.join(content) or '(none)'}" if isinstance(content, dict) else "no object"
        raise DataError(f"{name}: found {found}, {expected}")
    entries = []
    for list_name, cards in content.items():
        if not isinstance(cards, list) or not all(isinstance(card, dict) for card in cards):
            raise DataError(f"{name}: {list_name}: found something else than a list of objects, {expected}")
        entries += [(list_name, number, card) for number, card in enumerate(cards)]
    if not entries:
        raise DataError(
            f"{name}: found no cards, expected at least one. Correct dataset.uri or dataset.splits"
        )
    return entries


def _read_scans(dataset: CardDataset, uri: str, entries: Sequence[Mapping[str, Any]]) -> _Scans:
    named = [entry.get(side) for entry in entries for side in SIDES]
    sha256, faults = [""] * len(named), [""] * len(named)

    def read(at: int) -> ImageFile:
        name = named[at]
        if not isinstance(name, str):
            return ImageFile(fault=f"found {name!r}, expected the path of a scan.")
        try:
            data = storage.read_bytes(data_uri(uri, name, dataset.roots or ()))
        except UsageError as error:
            return ImageFile(fault=str(error))
        sha256[at] = hashlib.sha256(data).hexdigest()
        return ImageFile(data, name)

    decoder = Decoder(dataset.shape, dataset.channels, of_scans=True)
    pixels = array_on_disk((len(named), *decoder.laid_out))
    hashes, sizes = np.zeros((len(named), BITS), dtype=np.bool_), np.zeros((len(named), 2), dtype=np.int64)
    left = [at for at, name in enumerate(named) if name]
    for done in decoder.in_order(read_in_pieces(read, left), len(left)):
        some, left = left[: len(done.keys)], left[len(done.keys) :]
        pixels[some], hashes[some], sizes[some] = done.pixels, done.hashes, done.sizes
        for at, fault in zip(some, done.faults, strict=True):
            faults[at] = fault
    cards = (len(entries), len(SIDES))
    return _Scans(
        pixels.reshape(*cards, *decoder.laid_out),
        hashes.reshape(*cards, BITS),
        sizes.reshape(*cards, 2),
        sha256=list(zip(sha256[::2], sha256[1::2], strict=True)),
        faults=list(zip(faults[::2], faults[1::2], strict=True)),
    )


def _row(
    file: str, list_name: str, number: int, entry: Mapping[str, Any], scans: _Scans, card: int
) -> dict[str, Any]:
    scanned = hashlib.sha256("".join(scans.sha256[card]).encode()).hexdigest()
    certificate = entry.get("certificate")
    return {
        "label": str(entry.get("grade")),
        "split": LISTS[list_name],
        "place": f"{file} {list_name}[{number}]",
        "row": number,
        "key": str(certificate) if certificate not in (None, "") else scanned,
        "shown": f"certificate {certificate}" if certificate else "the scans",
        "missing": ", ".join(side for side in SIDES if not entry.get(side)),
        "unreadable": "; ".join(filter(None, scans.faults[card])),
        "out_of_range": "; ".join(_out_of_range(entry)),
        "sizes": tuple((wide, high) for wide, high in scans.sizes[card].tolist() if wide),
    }


def _out_of_range(entry: Mapping[str, Any]) -> list[str]:
    faults = []
    grade = entry.get("grade")
    if isinstance(grade, bool) or str(grade) not in GRADES:
        faults.append(f"grade {grade!r}, expected a whole number from 1 to 10")
    for name, values, most in (
        ("centering", _centering(entry), 100.0),
        ("edge_damage", _edge_damage(entry), 1.0),
    ):
        wrong = [value for value in values if not (math.isnan(value) or 0 <= value <= most)]
        if wrong:
            faults.append(f"{name} {wrong[0]:g}, expected a number from 0 to {most:g}")
    return faults


def _centering(entry: Mapping[str, Any]) -> list[float]:
    return [share for side in SIDES for share in _numbers(_of_side(entry, "centering", side), 2)]


def _edge_damage(entry: Mapping[str, Any]) -> list[float]:
    return [share for side in SIDES for share in _numbers([_of_side(entry, "edge_damage", side)], 1)]


def _of_side(entry: Mapping[str, Any], name: str, side: str) -> Any:
    labels = entry.get(name)
    return labels.get(side) if isinstance(labels, dict) else labels


def _numbers(values: Any, count: int) -> list[float]:
    """The values as numbers: NaN if null or absent, infinity if not a number."""
    if values is None:
        return [UNKNOWN] * count
    if not isinstance(values, list) or len(values) != count:
        return [math.inf] * count
    return [_number(value) for value in values]


def _number(value: Any) -> float:
    if value is None:
        return UNKNOWN
    try:
        found = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf
    return math.inf if math.isnan(found) else found


def check_table(table: CardTable, dataset: CardDataset) -> CheckedTable:
    """Run every check. The index of the rows that are left is their position in `table.pixels`."""
    checks = dataset.checks
    checked = CheckedTable(table.rows, len(table.rows))
    # Such a row cannot be written as (two images, grade), so it leaves whatever the severity.
    for name, rule, column in (
        ("missing_sides", checks.missing_sides, "missing"),
        ("unreadable_images", checks.unreadable_images, "unreadable"),
        ("grade_range", checks.grade_range, "out_of_range"),
    ):
        checked.check(name, rule, partial(find_noted, column=column), unusable=True)
    size, aspect = checks.image_size, checks.aspect
    checked.check(
        "image_size", size, partial(find_sizes, is_wrong=lambda wide, high: min(wide, high) < size.min_side)
    )
    checked.check(
        "aspect",
        aspect,
        partial(
            find_sizes, is_wrong=lambda wide, high: not aspect.min_ratio <= wide / high <= aspect.max_ratio
        ),
    )
    checked.check("conflicting_grades", checks.conflicting_grades, find_conflicts)
    left = checked.rows.assign(number=pd.factorize(checked.rows["key"])[0])
    least = min(checks.duplicates.similarity, checks.leakage.similarity)
    likeness = ImageLikeness(left["number"].to_numpy(), table.hashes[left.index], least)
    checked.rows = with_groups(left, likeness, checks.leakage.similarity)
    checked.groups = dict(zip(left["key"], checked.rows["group"], strict=True))
    checked.check(
        "duplicates",
        checks.duplicates,
        lambda rows: find_repeated(rows, find_near(rows, likeness, checks.duplicates.similarity)),
    )
    checked.check(
        "leakage", checks.leakage, lambda rows: find_leaks(rows, likeness, checks.leakage.similarity)
    )
    check_classes(checked, dataset, checks.rows_per_class, checks.class_balance)
    return checked


def find_sizes(rows: pd.DataFrame, is_wrong: Callable[[int, int], bool]) -> Finding:
    """Rows with a scan whose width and height are wrong."""
    wrong = rows[[any(is_wrong(*size) for size in sizes) for sizes in rows["sizes"]]]
    examples = [
        f"{row['place']}: {_sizes(row['sizes'])}" for row in wrong.head(SHOWN_EXAMPLES).to_dict("records")
    ]
    return Finding(
        wrong.index,
        outside_test(rows, wrong.index),
        examples,
        reasons=lambda table, some: [_sizes(sizes) for sizes in table.loc[some, "sizes"]],
    )


def _sizes(sizes: Sequence[tuple[int, int]]) -> str:
    return f"{' and '.join(f'{wide} × {high}' for wide, high in sizes)} pixels"


def find_repeated(rows: pd.DataFrame, near: Finding) -> Finding:
    """Rows whose certificate an earlier row of their split has, and those that look like an earlier one."""
    again = rows.index[rows.duplicated(["split", "key"], keep="first")]
    affected = again.union(near.affected)
    examples = [f"{row['place']}: {row['shown']} again" for row in rows.loc[again].to_dict("records")]
    pairs = set(near.affected.tolist())

    def reasons(table: pd.DataFrame, some: pd.Index[int]) -> list[str]:
        return [
            near.reasons(table, pd.Index([row]))[0] if near.reasons and row in pairs else f"{shown} again"
            for row, shown in zip(some.tolist(), table.loc[some, "shown"], strict=True)
        ]

    return Finding(
        affected,
        outside_test(rows, affected),
        [*near.examples, *examples][:SHOWN_EXAMPLES],
        reasons=reasons,
        alike=near.alike,
    )


@dataclass(frozen=True)
class CardSplit(ImageSplit):
    """Cards: `images` are (N, 2, C, H, W), front and back; `labels` are grades less 1.

    Attributes:
        centering: Percentages, float32 (N, 4), of front and back: the left border's share of left and right,
            then the top border's share of top and bottom; NaN if unknown.
        edge_damage: Worn shares of the edges of front and back, float32 (N, 2); NaN if unknown.
        certificates: The grader's name of each card, (N,).
    """

    centering: npt.NDArray[np.float32]
    edge_damage: npt.NDArray[np.float32]
    certificates: npt.NDArray[np.str_]


def read_card_split(folder: Path, split: SplitName) -> CardSplit:
    """A split of cards as validate-data wrote it, in its order."""
    path = existing_file(folder / f"{split}.npz")
    images = map_array(path, "images")  # (N, 2, H, W) or (N, 2, H, W, C)
    with np.load(path) as arrays:
        return CardSplit(
            images=images[:, :, None] if images.ndim == 4 else in_channels_first(images),
            labels=arrays["label"],
            rows=arrays["row"],
            centering=arrays["centering"],
            edge_damage=arrays["edge_damage"],
            certificates=arrays["certificate"],
        )
