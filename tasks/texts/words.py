"""The words of texts: what separates them in every script, and numbers for them."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from gauntlet.components.validate_data.duplicates import Ints

Words: TypeAlias = npt.NDArray[np.uint32]
"""Words by their numbers."""
NO_WORD = 0
"""The number of the empty word."""

# Han with its extensions, kana and Bopomofo.
_SYLLABIC = (
    "々〆〇\u3041-\u30ff\u3105-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
# Thai, Lao, Burmese, Khmer, Tai Le, New Tai Lue, Tai Tham, Balinese, Javanese, Tai Viet, Burmese extended.
_ALPHABETIC = (
    "\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aad\u1b00-\u1b7f"
    "\ua980-\ua9ff\uaa60-\uaadf"
)
SYLLABIC_SIGNS, ALPHABETIC_SIGNS = 2, 3
_SPACES = "\t-\r\x1c-\x1f\x85\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_ODD = f"[{_SPACES}{_SYLLABIC}{_ALPHABETIC}]"
_RUNS = f"[{_SYLLABIC}]+|[{_ALPHABETIC}]+|[^ {_SPACES}{_SYLLABIC}{_ALPHABETIC}]+"


class NumberedWords:
    """Numbers for words, in the order in which they are first asked for. Several threads may ask.

    The empty word is `NO_WORD`. The numbers are valid as long as this object.
    """

    def __init__(self) -> None:
        """Only the empty word is numbered yet."""
        self._category = pl.Categorical(pl.Categories.random())
        self._held = pl.Series([""]).cast(
            self._category
        )  # polars forgets the numbers when no column has them

    def of(self, words: pl.Series) -> Words:
        """The number of each word, (W,)."""
        return words.cast(self._category).to_physical().to_numpy()

    def words(self, numbers: Words) -> pl.Series:
        """The word of each number, (W,), that `of` has returned."""
        return pl.Series(numbers).cat.to(self._category).cast(pl.String)


def all_words(texts: pl.Series) -> tuple[Ints, pl.Series]:
    """The row and the words of every text, in their order, first those of texts that spaces separate.

    White space separates words. In scripts without spaces each two signs of a syllabic script that follow
    each other are a word, and each three of an alphabetic one. Some texts also have an empty word.
    """
    is_odd = texts.str.contains(_ODD)
    split = texts.filter(~is_odd).str.split(" ")
    rows = np.repeat(np.flatnonzero(~is_odd.to_numpy()), split.list.len().to_numpy())
    words = split.explode()
    if is_odd.any():
        odd_rows, units = _odd_words(texts.filter(is_odd))
        rows = np.concatenate([rows, np.flatnonzero(is_odd.to_numpy())[odd_rows]])
        words = words.append(units)
    return rows, words


def _odd_words(texts: pl.Series) -> tuple[Ints, pl.Series]:
    """The same of texts in scripts without spaces, or with other white space than spaces."""
    run = pl.col("run")
    signs = (
        pl.when(run.str.contains(f"^[{_SYLLABIC}]"))
        .then(SYLLABIC_SIGNS)
        .when(run.str.contains(f"^[{_ALPHABETIC}]"))
        .then(ALPHABETIC_SIGNS)
        .otherwise(run.str.len_chars())
    )
    table = (
        texts.str.extract_all(_RUNS)
        .alias("run")
        .to_frame()
        .with_row_index("row")
        .explode("run")
        .drop_nulls()
        .with_columns(signs=signs.cast(pl.Int64), size=run.str.len_chars().cast(pl.Int64))
        .with_columns(at=pl.int_ranges(0, (pl.col("size") - pl.col("signs") + 1).clip(lower_bound=1)))
        .explode("at")
        .select("row", word=run.str.slice(pl.col("at"), pl.col("signs")))
    )
    return table["row"].to_numpy().astype(np.int64), table["word"]
