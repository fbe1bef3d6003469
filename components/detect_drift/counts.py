"""Count rows of the request log: what is kept of a window has one size, however many rows it has.

Kept are counts by bin, a sample of the probabilities, and the rows that have a label. N = rows of a piece,
C = classes, K = bins.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from gauntlet.components.detect_drift.change import Counts, Floats, counted
from gauntlet.components.detect_drift.rows import UNCERTAINTIES
from gauntlet.contracts.drift import PROBABILITIES
from gauntlet.manifests.errors import DataError
from gauntlet.serving.request_log import FEATURE, SCHEMA_VERSION

Hashes = npt.NDArray[np.uint64]

OK = 200
SAMPLE_ROWS = 20_000
"""Rows whose probabilities are kept whole: those whose ids have the smallest hashes."""
SAMPLE_NUMBERS = 4_000_000
"""At most so many probabilities are kept, so that fewer rows are of a model with many classes."""
KNOWN_IDS = 2**20
"""An id that comes again is found among at least so many rows before it."""
MOST_NAMES = 20_000
"""Clients, or answers, that are counted one by one; the rarest of more are counted together."""
OTHERS = "(others)"
ONE_OF = {"model": "model", "bundle_sha256": "bundle", "schema_version": "schema version"}


class Seen:
    """Finds ids that came before, by hashes of 64 bits."""

    def __init__(self) -> None:
        self._recent, self._older = np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.uint64)

    def are_new(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Which are seen for the first time, (N,)."""
        order = np.argsort(hashes)
        ordered = hashes[order]
        are_new = np.diff(ordered, prepend=~ordered[:1]) != 0
        for known in (self._recent, self._older):
            if len(known):
                places = np.minimum(np.searchsorted(known, ordered), len(known) - 1)
                are_new &= known[places] != ordered
        found = np.empty(len(hashes), dtype=np.bool_)
        found[order] = are_new
        self._recent = np.sort(np.concatenate([self._recent, ordered[are_new]]))
        if len(self._recent) >= KNOWN_IDS:
            self._older, self._recent = self._recent, np.empty(0, dtype=np.uint64)
        return found


class Sample:
    """Keeps the rows with the smallest hashes, so that the order of the files does not matter."""

    def __init__(self, most: int = SAMPLE_ROWS) -> None:
        """Keep `most` rows."""
        self._most, self._bound = most, 2**64 - 1
        self._hashes: list[Hashes] = []
        self._rows: list[pa.Table] = []

    def add(self, hashes: Hashes, rows: pa.Table) -> None:
        """Take rows (N, …) with their hashes (N,)."""
        chosen = hashes <= self._bound
        if not chosen.any():
            return
        self._hashes.append(hashes[chosen])
        self._rows.append(rows.filter(pa.array(chosen)))
        if sum(map(len, self._hashes)) >= 2 * self._most:
            self._cut()

    def _cut(self) -> None:
        hashes = np.concatenate(self._hashes)
        order = np.argsort(hashes, kind="stable")[: self._most]
        rows = pa.concat_tables(self._rows, promote_options="permissive").take(pa.array(order))
        self._hashes, self._rows = [hashes[order]], [rows.combine_chunks()]
        if len(order) == self._most:
            self._bound = int(hashes[order[-1]])

    def rows(self) -> pa.Table | None:
        """Those that are kept, in the order of their hashes; None without any."""
        if not self._rows:
            return None
        self._cut()
        return self._rows[0]


@dataclass(frozen=True)
class LabelledRows:
    """The answered rows that have a label, in the order of time.

    Attributes:
        probabilities: (L, C), of those rows; None if the model has none.
    """

    events: Sequence[str]
    predicted: Sequence[str]
    labels: Sequence[str]
    probabilities: Floats | None


@dataclass(frozen=True)
class Window:
    """What rows of one bundle say, in the order of time.

    Attributes:
        place: Where they were read.
        bundle: The first digits of its sha256.
        rows: Those that were answered; all that follows is of these.
        counts: By column, the rows in each bin, (K,).
        constant: The columns that have the same value in all rows, with that value.
        unknown: Columns that have values and no bins.
        predicted: How many rows were given each answer; empty if the model gives none, or numbers.
        outside: Rows whose energy is above that of 99 % of the reference.
        probabilities: Of a sample of the rows, (S, C); None if they have none.
        labelled: None if no labels were given.
        failed: Rows whose request was not answered.
        repeated: Rows whose id an earlier row has; they are left out of everything.
        not_finite: Rows with a probability that is no number; they are left out of the sample.
        largest_client: The share of the rows of the client with the most.
        sample_rates: All that are found.
    """

    place: Path
    model: str
    bundle: str
    start: datetime
    end: datetime
    rows: int
    counts: Mapping[str, Counts]
    constant: Mapping[str, float]
    unknown: Sequence[str]
    predicted: Mapping[str, int]
    outside: int
    probabilities: Floats | None
    labelled: LabelledRows | None
    failed: int
    repeated: int
    not_finite: int
    largest_client: float
    sample_rates: tuple[float, ...]


class RowCounter:
    """Counts rows piece by piece.

    Args:
        place: What messages call the rows.
        edges: The edges of each column's bins.
        energy_bound: Rows with more energy lie outside the support; None if none do.
        labels: By event id; None if none were given.
    """

    def __init__(
        self,
        place: Path,
        edges: Mapping[str, Floats],
        energy_bound: float | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self._place, self._edges, self._labels = place, edges, labels
        self._energy_bound = math.inf if energy_bound is None else energy_bound
        self._wanted = None if labels is None else pa.array(list(labels), pa.string())
        self._seen, self._sample = Seen(), Sample(0)
        self._identity: dict[str, set[str]] = {column: set() for column in ONE_OF}
        self._rates: set[float] = set()
        self._times: list[datetime] = []
        self._clients: Counter[str] = Counter()
        self._predicted: Counter[str] = Counter()
        self._counts = {name: np.zeros(len(of) + 2, dtype=np.int64) for name, of in edges.items()}
        self._ranges: dict[str, tuple[float, float]] = {}
        self._with_values: set[str] = set()
        self._classes: int | None = None
        self._labelled: list[tuple[datetime, str, str, npt.NDArray[np.float64] | None]] = []
        self._rows = self._failed = self._repeated = self._not_finite = self._outside = 0

    def add(self, piece: pa.Table) -> None:
        """Count a piece.

        Raises:
            DataError: It is of another bundle, or its probabilities are of another number of classes.
        """
        if not piece.num_rows:
            return
        for column, found in self._identity.items():
            found |= {str(one) for one in pc.unique(piece[column]).to_pylist()}
        self._require_one()
        self._rates |= {float(rate) for rate in pc.unique(piece["sample_rate"].drop_null()).to_pylist()}
        times = pc.min_max(piece["time"]).as_py()
        self._times += [time for time in times.values() if time is not None]
        hashes = hashes_of(piece["event_id"])
        is_new = self._seen.are_new(hashes)
        self._repeated += int((~is_new).sum())
        if not is_new.all():
            piece, hashes = piece.filter(pa.array(is_new)), hashes[is_new]
        _merge(self._clients, piece["client"])
        is_answered = pc.equal(piece["status"], OK).fill_null(False).to_numpy()
        self._failed += int((~is_answered).sum())
        if not is_answered.all():
            piece, hashes = piece.filter(pa.array(is_answered)), hashes[is_answered]
        if piece.num_rows:
            self._count(piece, hashes)

    def _require_one(self) -> None:
        for column, name in ONE_OF.items():
            found = self._identity[column]
            if len(found) > 1:
                raise DataError(
                    f"{self._place}: found rows of {len(found)} {name}s ({', '.join(sorted(found)[:5])}), "
                    "expected one. Name a folder of one: model=NAME/version=VERSION below that of the "
                    "request log."
                )
        [schema] = self._identity["schema_version"]
        if schema != str(SCHEMA_VERSION):
            raise DataError(f"{self._place}: schema_version: found {schema}, expected {SCHEMA_VERSION}.")

    def _count(self, piece: pa.Table, hashes: Hashes) -> None:
        rows = piece.num_rows
        self._rows += rows
        columns = numbers_of(piece)
        probabilities = vectors_of(self._place, piece, self._classes)
        if probabilities is not None:
            if self._classes is None:
                self._sample = Sample(min(SAMPLE_ROWS, SAMPLE_NUMBERS // probabilities.shape[1]))
            self._classes = probabilities.shape[1]
            is_finite = np.isfinite(probabilities).all(1)
            self._not_finite += int((~is_finite & ~np.isnan(probabilities).all(1)).sum())
            kept = piece.select([PROBABILITIES]).filter(pa.array(is_finite))
            self._sample.add(hashes[is_finite], kept)
            columns |= {name_of(at): probabilities[:, at] for at in range(self._classes)}
        for name, values in columns.items():
            self._add_column(name, values)
        for name, counts in self._counts.items():
            counts[-1] += 0 if name in columns else rows
        if "energy" in columns:
            self._outside += int((columns["energy"] > self._energy_bound).sum())
        if "predicted" in piece.column_names and "value" not in columns:  # else it is a number, as text
            _merge(self._predicted, piece["predicted"])
        if self._wanted is not None:
            self._add_labelled(piece, probabilities)

    def _add_column(self, name: str, values: Floats) -> None:
        low, high = float(np.fmin.reduce(values)), float(np.fmax.reduce(values))
        if not math.isnan(low):
            self._with_values.add(name)
            before = self._ranges.get(name, (low, high))
            self._ranges[name] = min(before[0], low), max(before[1], high)
        if name in self._edges:
            self._counts[name] += counted(values, self._edges[name])

    def _add_labelled(self, piece: pa.Table, probabilities: Floats | None) -> None:
        assert self._labels is not None
        at = np.flatnonzero(pc.is_in(piece["event_id"], value_set=self._wanted).to_numpy())
        if not len(at):
            return
        if "predicted" not in piece.column_names or piece["predicted"].null_count == piece.num_rows:
            raise DataError(
                f"{self._place}: predicted: found no class, expected one: labels are compared with classes. "
                "Leave --labels out, or log with --store features."
            )
        chosen = piece.select(["time", "event_id", "predicted"]).take(pa.array(at))
        vectors = [None] * len(at) if probabilities is None else list(probabilities[at])
        times, events, predicted = (column.to_pylist() for column in chosen.columns)
        self._labelled += zip(times, events, (str(one) for one in predicted), vectors, strict=True)

    def window(self) -> Window:
        """What was counted.

        Raises:
            DataError: There was no row, or none with a time.
        """
        if not self._rows + self._failed + self._repeated:
            raise DataError(f"{self._place}: found no row, expected some. Name a folder with more hours.")
        if not self._times:
            raise DataError(f"{self._place}: time: found no value, expected the time of each request.")
        [model], [bundle] = self._identity["model"], self._identity["bundle_sha256"]
        total, sample = self._rows + self._failed, self._sample.rows()
        return Window(
            place=self._place,
            model=model,
            bundle=bundle,
            start=min(self._times),
            end=max(self._times),
            rows=self._rows,
            counts=self._counts,
            constant={name: low for name, (low, high) in self._ranges.items() if low == high},
            unknown=sorted(self._with_values - self._edges.keys()),
            predicted=dict(sorted(self._predicted.items())),
            outside=self._outside,
            probabilities=None if sample is None else vectors_of(self._place, sample, self._classes),
            labelled=None if self._labels is None else self._in_order(),
            failed=self._failed,
            repeated=self._repeated,
            not_finite=self._not_finite,
            largest_client=max((n for name, n in self._clients.items() if name != OTHERS), default=0) / total,
            sample_rates=tuple(sorted(self._rates)),
        )

    def _in_order(self) -> LabelledRows:
        assert self._labels is not None
        found = sorted(self._labelled, key=lambda row: row[:2])
        vectors = [row[3] for row in found if row[3] is not None]
        return LabelledRows(
            events=[event for _, event, _, _ in found],
            predicted=[predicted for _, _, predicted, _ in found],
            labels=[self._labels[event] for _, event, _, _ in found],
            probabilities=np.array(vectors) if vectors and len(vectors) == len(found) else None,
        )


def count_rows(
    place: Path,
    pieces: Iterable[pa.Table],
    edges: Mapping[str, Floats],
    energy_bound: float | None = None,
    labels: Mapping[str, str] | None = None,
) -> Window:
    """Count pieces of the request log; see `RowCounter` for the arguments and errors."""
    counter = RowCounter(place, edges, energy_bound, labels)
    for piece in pieces:
        counter.add(piece)
    return counter.window()


def name_of(place: int) -> str:
    """The column of a class's probabilities."""
    return f"{PROBABILITIES}[{place}]"


def hashes_of(column: pa.ChunkedArray) -> Hashes:
    """64 bits of each text, (N,)."""
    return pl.Series(pl.from_arrow(column)).cast(pl.String).hash(0).to_numpy()


def numbers_of(piece: pa.Table) -> dict[str, Floats]:
    """The columns with numbers, each (N,); NaN is no value. Columns without any value are left out."""
    return {
        name: piece[name].cast(pa.float64()).fill_null(math.nan).to_numpy()
        for name in piece.column_names
        if (name.startswith(FEATURE) or name in (*UNCERTAINTIES, "tokens"))
        and piece[name].null_count < piece.num_rows
    }


def vectors_of(place: Path, piece: pa.Table, expected: int | None) -> Floats | None:
    """The probabilities, (N, C), NaN in rows without; None if no row has any.

    Raises:
        DataError: Rows have different numbers of them, or not `expected`.
    """
    if PROBABILITIES not in piece.column_names:
        return None
    column = piece[PROBABILITIES].combine_chunks()
    if column.null_count == len(column):
        return None
    sizes = set(pc.unique(pc.list_value_length(column)).to_pylist()) - {None}
    if expected is not None:
        sizes.add(expected)
    if len(sizes) > 1:
        found = ", ".join(map(str, sorted(sizes)))
        raise DataError(
            f"{place}: {PROBABILITIES}: found lists of {found} numbers, expected one length in all rows."
        )
    values = np.asarray(pc.list_flatten(column).to_numpy(zero_copy_only=False), dtype=np.float64)
    [classes] = sizes
    if not column.null_count:
        return values.reshape(-1, classes)
    whole = np.full((len(column), classes), math.nan)
    whole[column.is_valid().to_numpy(zero_copy_only=False)] = values.reshape(-1, classes)
    return whole


def _merge(counter: Counter[str], column: pa.ChunkedArray) -> None:
    """Add a column's values to their counts."""
    found = pc.value_counts(column.drop_null())
    counter.update(dict(zip(map(str, found.field(0).to_pylist()), found.field(1).to_pylist(), strict=True)))
    if len(counter) > 2 * MOST_NAMES:
        kept = counter.most_common(MOST_NAMES)
        rest = counter.total() - sum(count for _, count in kept)
        counter.clear()
        counter.update(dict(kept))
        counter[OTHERS] += rest
