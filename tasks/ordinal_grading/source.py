"""Read the list of the splits and the scans that it names, or draw a set of cards that do not exist."""

from __future__ import annotations

import hashlib
import io
import json
import math
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import numpy.typing as npt
import pandas as pd

from gauntlet.backends import storage
from gauntlet.backends.data_uris import data_uri
from gauntlet.manifests.dataset import SplitName
from gauntlet.manifests.errors import DataError, UsageError
from gauntlet.serving.images import fitted, open_image
from gauntlet.serving.interface import InputError
from gauntlet.tasks.ordinal_grading.hashing import BITS, perceptual_hash
from gauntlet.tasks.ordinal_grading.manifest import GRADES, SIDES, CardDataset
from gauntlet.tasks.ordinal_grading.synthetic_cards import write_cards

LISTS: Mapping[str, SplitName] = {"train": "train", "val": "validation", "test": "test"}
SYNTHETIC_SCHEME = "synthetic://"
READERS = (
    8  # threads that fetch and decode: a bucket makes each file wait, and pillow decodes without the lock
)
UNKNOWN = math.nan


@dataclass(frozen=True)
class CardTable:
    """Every card of every list.

    Attributes:
        pixels: (N, 2, H, W), or (N, 2, H, W, 3) for three channels; black where there is no image.
        hashes: A perceptual hash of front and back, bool (N, bits).
        targets: `centering` (N, 4), `edge_damage` (N, 2), both float32 with NaN for what is not known, and
            `certificate` (N,).
        rows: One row for each card, in the same order, numbered from 0: `label` (the grade as text), `split`,
            `place` (list and position), `row` (the position), `key` (the certificate, or a hash of the
            scans), `shown`, and what is wrong with it, if anything: `missing`, `unreadable`, `out_of_range`;
            `sizes` has the width and height of each scan.
    """

    pixels: npt.NDArray[np.uint8]
    hashes: npt.NDArray[np.bool_]
    targets: Mapping[str, npt.NDArray[Any]]
    rows: pd.DataFrame


@dataclass(frozen=True)
class _Scan:
    """A scan that was read, or the fault that it has."""

    pixels: npt.NDArray[np.uint8] | None = None
    bits: npt.NDArray[np.bool_] | None = None
    size: tuple[int, int] = (0, 0)
    sha256: str = ""
    fault: str = ""


def read_cards(dataset: CardDataset) -> CardTable:
    """Read the lists and every scan; what is wrong with a single card is noted in its row.

    Raises:
        DataError: The list of the splits is no such list.
        UsageError: There is no such list, or `uri` asks for no set of cards that could be drawn.
        GauntletError: The store that holds the data is out of reach.
    """
    if not dataset.uri.startswith(SYNTHETIC_SCHEME):
        return _read(dataset, dataset.uri)
    with tempfile.TemporaryDirectory(prefix="gauntlet-cards-") as folder:
        write_cards(Path(folder), **_wanted(dataset.uri))
        return _read(dataset, folder)


def sources(dataset: CardDataset) -> tuple[str, ...]:
    """The URIs of the list and of every scan; none of a set that is drawn. Raises what `read_cards` does."""
    if dataset.uri.startswith(SYNTHETIC_SCHEME):
        return ()
    listed = storage.join(dataset.uri, dataset.splits)
    entries = _entries(storage.read_bytes(listed), dataset.splits)
    named = (entry.get(side) for _, _, entry in entries for side in SIDES)
    scans = []
    for name in named:
        if isinstance(name, str) and name:
            with suppress(UsageError):  # a scan that lies elsewhere is never opened, whatever it is now
                scans.append(data_uri(dataset.uri, name, dataset.roots or ()))
    return (listed, *scans)


def _wanted(uri: str) -> dict[str, int]:
    """The numbers in `synthetic://cards?cards=600&seed=7`."""
    parts = urlsplit(uri)
    query = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
    numbers = {key: int(text) for key, text in query.items() if text.isdecimal()}
    if parts.netloc != "cards" or parts.path or set(numbers) != {"cards", "seed"} or len(query) != 2:
        raise UsageError(f"dataset.uri: found {uri}, expected such as synthetic://cards?cards=600&seed=7.")
    return numbers


def _read(dataset: CardDataset, uri: str) -> CardTable:
    entries = _entries(storage.read_bytes(storage.join(uri, dataset.splits)), dataset.splits)
    scans = _read_scans(dataset, uri, [entry for _, _, entry in entries])
    blank = np.zeros((*dataset.shape, 3) if dataset.channels == 3 else dataset.shape, dtype=np.uint8)
    no_bits = np.zeros(BITS, dtype=np.bool_)
    rows = [
        _row(dataset.splits, list_name, number, entry, pair)
        for (list_name, number, entry), pair in zip(entries, scans, strict=True)
    ]
    return CardTable(
        pixels=np.stack([[blank if scan.pixels is None else scan.pixels for scan in pair] for pair in scans]),
        hashes=np.stack(
            [np.concatenate([no_bits if scan.bits is None else scan.bits for scan in pair]) for pair in scans]
        ),
        targets={
            "centering": np.array([_centering(entry) for *_, entry in entries], dtype=np.float32),
            "edge_damage": np.array([_edge_damage(entry) for *_, entry in entries], dtype=np.float32),
            "certificate": np.array([row["key"] for row in rows], dtype=np.str_),
        },
        rows=pd.DataFrame(rows),
    )


def _entries(data: bytes, name: str) -> list[tuple[str, int, Mapping[str, Any]]]:
    """List, position in it and content of every entry.

    Raises:
        DataError: The file is not an object of three lists of objects.
    """
    expected = f"expected an object with the lists {', '.join(LISTS)}, each of objects. Mend the file"
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
            raise DataError(f"{name}: {list_name}: found what is no list of objects, {expected}")
        entries += [(list_name, number, card) for number, card in enumerate(cards)]
    if not entries:
        raise DataError(f"{name}: found no cards, expected some. Put the data there")
    return entries


def _read_scans(
    dataset: CardDataset, uri: str, entries: list[Mapping[str, Any]]
) -> list[tuple[_Scan, _Scan]]:
    def read(name: Any) -> _Scan:
        if not isinstance(name, str) or not name:
            return _Scan()
        try:
            data = storage.read_bytes(data_uri(uri, name, dataset.roots or ()))
            picture = open_image(io.BytesIO(data), name)
            pixels = fitted(picture, (dataset.channels, *dataset.shape))
        except (InputError, UsageError) as error:
            return _Scan(fault=str(error))
        laid_out = pixels[0] if dataset.channels == 1 else np.moveaxis(pixels, 0, 2)
        return _Scan(laid_out, perceptual_hash(picture), picture.size, hashlib.sha256(data).hexdigest())

    with ThreadPoolExecutor(READERS) as readers:
        fronts, backs = (list(readers.map(read, [entry.get(side) for entry in entries])) for side in SIDES)
    return list(zip(fronts, backs, strict=True))


def _row(
    file: str, list_name: str, number: int, entry: Mapping[str, Any], scans: tuple[_Scan, _Scan]
) -> dict[str, Any]:
    scanned = hashlib.sha256("".join(scan.sha256 for scan in scans).encode()).hexdigest()
    certificate = entry.get("certificate")
    return {
        "label": str(entry.get("grade")),
        "split": LISTS[list_name],
        "place": f"{file} {list_name}[{number}]",
        "row": number,
        "key": str(certificate) if certificate not in (None, "") else scanned,
        "shown": f"certificate {certificate}" if certificate else "the scans",
        "missing": ", ".join(side for side in SIDES if not entry.get(side)),
        "unreadable": "; ".join(scan.fault for scan in scans if scan.fault),
        "out_of_range": "; ".join(_out_of_range(entry)),
        "sizes": tuple(scan.size for scan in scans if scan.pixels is not None),
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
    """The values as numbers: NaN for each that is null or absent, infinity for what is no number."""
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
