"""Texts of a split and their token ids on disk, so that a data set may be larger than memory. N = rows.

Both are columns of Arrow files that are mapped into memory: a row is read when it is asked for. Texts are
tokenised once, in pieces. Token ids lie in the folder that `GAUNTLET_TOKEN_CACHE` names, which several
processes may use at the same time: a launcher names one for all ranks of a machine, and a local run the cache
of its home. Without the variable they lie in a temporary folder of this process.

https://arrow.apache.org/docs/python/ipc.html
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import tokenizers
from filelock import FileLock
from tokenizers import Encoding, Tokenizer

from gauntlet.backends.processes import TOKENS_VARIABLE
from gauntlet.contracts.document import replacing
from gauntlet.manifests.dataset import SplitName
from gauntlet.manifests.errors import GauntletError
from gauntlet.trainer.splits import TEXT, split_file, split_pieces

SUFFIX, LOCK_SUFFIX = ".arrow", ".lock"
FORM = 1
"""The version of the files' content."""

Ids = npt.NDArray[np.unsignedinteger[Any]]
"""Token ids of one row, (T,) uint16 or uint32."""


class Texts(Sequence[str]):
    """The texts of a split, (N,)."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            found: list[str] = self.column[at].to_pylist()
            return found
        return str(self.column[at].as_py())

    def __iter__(self) -> Iterator[str]:
        for piece in self.column.chunks:
            yield from piece.to_pylist()

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Characters of each text, (N,)."""
        found: npt.NDArray[np.int32] = pc.utf8_length(self.column).to_numpy()
        return found


class TokenColumn(Sequence[Ids]):
    """The token ids of each row, (N,), of arrays of any length.

    Attributes:
        lengths: Tokens of each row, (N,).
    """

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._pieces = [(piece.offsets.to_numpy(), piece.values.to_numpy()) for piece in column.chunks]
        self._ends = np.cumsum([len(piece) for piece in column.chunks], dtype=np.int64).tolist()
        lengths = [np.diff(offsets) for offsets, _ in self._pieces]
        self.lengths: npt.NDArray[np.int64] = np.concatenate([np.empty(0, dtype=np.int64), *lengths])

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, at: int) -> Ids: ...
    @overload
    def __getitem__(self, at: slice) -> list[Ids]: ...
    def __getitem__(self, at: int | slice) -> Ids | list[Ids]:
        if isinstance(at, slice):
            return [self[row] for row in range(*at.indices(len(self)))]
        if not 0 <= at < len(self):
            raise IndexError(at)
        number = bisect_right(self._ends, at)
        offsets, ids = self._pieces[number]
        first = at - (self._ends[number - 1] if number else 0)
        found: Ids = ids[offsets[first] : offsets[first + 1]]
        return found

    def used(self) -> npt.NDArray[np.int64]:
        """The distinct ids of all rows, sorted."""
        of_pieces = [np.unique(ids) for _, ids in self._pieces]
        return np.unique(np.concatenate([np.empty(0, dtype=np.int64), *of_pieces]))


def map_texts(splits: Path, split: SplitName, column: str = TEXT) -> Texts:
    """The texts of a split, in a temporary file of this process.

    Raises:
        UsageError: There are no splits.
        GauntletError: The disk is full.
    """
    key = [_sha256(split_file(splits, split)), column]
    schema = pa.schema([(column, pa.large_string())])

    def pieces() -> Iterator[pa.RecordBatch]:
        for piece in split_pieces(splits, split, [column]):
            yield piece.cast(schema)

    return Texts(_mapped(_scratch(), key, schema, pieces)[column])


def map_tokens(
    splits: Path, split: SplitName, tokenizer: Tokenizer, columns: Sequence[str], special_tokens: bool = True
) -> tuple[dict[str, TokenColumn], int]:
    """The token ids of a split's columns of texts, and how many of its texts the tokenizer cuts.

    Args:
        splits: What validate-data wrote.
        split: Which of the splits.
        tokenizer: Set to cut texts if they are to be cut.
        columns: Names of the columns.
        special_tokens: Whether the tokenizer adds its special tokens to a text.

    Raises:
        UsageError: There are no splits.
        GauntletError: The disk is full.
    """
    key = [
        FORM,
        _sha256(split_file(splits, split)),
        hashlib.sha256(tokenizer.to_str().encode()).hexdigest(),
        tokenizers.__version__,
        list(columns),
        special_tokens,
    ]
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    kind = pa.uint16() if largest <= np.iinfo(np.uint16).max else pa.uint32()
    schema = pa.schema([*((name, pa.list_(kind)) for name in columns), ("cut", pa.int32())])

    def pieces() -> Iterator[pa.RecordBatch]:
        for piece in split_pieces(splits, split, columns):
            encoded = [
                tokenizer.encode_batch_fast(piece[name].to_pylist(), add_special_tokens=special_tokens)
                for name in columns
            ]
            cut = np.sum([[bool(one.overflowing) for one in column] for column in encoded], axis=0)
            arrays = [_list_array(column, kind) for column in encoded]
            yield pa.record_batch([*arrays, pa.array(cut, pa.int32())], schema=schema)

    table = _mapped(token_folder(), key, schema, pieces)
    return {name: TokenColumn(table[name]) for name in columns}, pc.sum(table["cut"]).as_py() or 0


def _list_array(encoded: Sequence[Encoding], kind: pa.DataType) -> pa.ListArray:
    rows = [one.ids for one in encoded]
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    ids = np.concatenate([np.empty(0, dtype=kind.to_pandas_dtype()), *map(np.asarray, rows)])
    return pa.ListArray.from_arrays(offsets, ids.astype(kind.to_pandas_dtype()))


def token_folder() -> Path:
    """The folder of the files with token ids."""
    named = os.environ.get(TOKENS_VARIABLE)
    return Path(named) if named else _scratch()


@functools.cache
def _scratch() -> Path:
    made = tempfile.TemporaryDirectory(prefix="gauntlet-rows-")
    _scratch.removed_at_exit = made  # type: ignore[attr-defined]
    return Path(made.name)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mapped(
    folder: Path, key: object, schema: pa.Schema, pieces: Callable[[], Iterable[pa.RecordBatch]]
) -> pa.Table:
    """The rows of the file that `key` names, which is written whole or not at all if it is not there.

    Of several processes that need it one writes it, and the others wait.
    """
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    path = folder / f"{name}{SUFFIX}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(LOCK_SUFFIX)):
            if not path.is_file():
                with replacing(path) as temporary, pa.ipc.new_file(temporary, schema) as writer:
                    for piece in pieces():
                        writer.write_batch(piece)
        path.touch()  # `gauntlet prune` removes what was not used for long
    except OSError as error:
        if error.errno is None:  # of Arrow, about the split
            raise
        raise GauntletError(
            f"{folder}: token ids cannot be written ({os.strerror(error.errno)}). Make room, or name another "
            f"folder by {TOKENS_VARIABLE}, or by TMPDIR."
        ) from None
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
