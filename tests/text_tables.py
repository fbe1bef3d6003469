"""Tables of texts as `read_table` returns them, without files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import polars as pl

from gauntlet.manifests.dataset import SplitName
from gauntlet.tasks.text_classification.data import check_table, read_table
from gauntlet.tasks.text_classification.manifest import TextDataset
from gauntlet.tasks.texts.data import CheckedTexts
from gauntlet.tasks.texts.files import SourceFile
from gauntlet.tasks.texts.pieces import Piece
from gauntlet.tasks.texts.rows import RowsCollector, TextRows, number_keys

TextRow = tuple[str | None, str | None, SplitName]


def text_rows(
    rows: Iterable[TextRow], faults: Mapping[int, str] | None = None, first_line: int = 0
) -> TextRows:
    """A table of texts, labels and splits; each row is in a file of its split, in the line of its number."""
    found = RowsCollector(lambda values: {"label": values})
    for number, (text, label, split) in enumerate(rows):
        fault = (faults or {}).get(number)
        piece = Piece(
            texts=pl.Series([text], dtype=pl.String),
            faults=pl.Series([fault], dtype=pl.String),
            values=[label],
            codes=np.array([0]),
            lines=np.array([number + first_line]),
            unit="line",
        )
        found.add(SourceFile(split, f"{split}.csv", f"/{split}.csv"), [lambda piece=piece: iter([piece])])
    return found.rows()


def kept(rows: Iterable[TextRow]) -> CheckedTexts:
    """Rows that passed every check."""
    table = text_rows(rows)
    checked = CheckedTexts(table.small, len(table), table=table)
    checked.keys = number_keys(table, table.index)
    checked.rows = table.small.assign(number=checked.keys.numbers)
    return checked


def rows_of_test(dataset: TextDataset) -> list[str]:
    """The texts of the test split, in the order of the alphabet."""
    checked = check_table(read_table(dataset), dataset)
    texts = texts_of(checked)
    return sorted(texts.loc[texts["split"] == "test", "text"])


def texts_of(checked: CheckedTexts) -> pd.DataFrame:
    """All columns of the rows that are left, each in its split."""
    return checked.table.read(checked.rows.index).assign(split=checked.rows["split"])
