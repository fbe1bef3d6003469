"""Several columns of a row as one text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from gauntlet.tasks.text_classification.manifest import Columns, TextDataset
from gauntlet.tasks.texts.records import Records

SEPARATOR = "\n"


def read_joined(dataset: TextDataset, read: Callable[[Columns], Records]) -> Records:
    """The records of a file, with the columns that the manifest names joined into each text.

    `read` is called once for each column. A row of which all these columns are empty has no text.

    Raises:
        DataError: A column is missing, or what `read` raises.
    """
    names = dataset.joined_columns
    if not names:
        return read(dataset.columns)
    parts = [read(dataset.columns.model_copy(update={"text": name})) for name in names]
    rows = zip(*(part.texts for part in parts), strict=True)
    return replace(parts[0], texts=[_text(dataset, dict(zip(names, row, strict=True))) for row in rows])


def _text(dataset: TextDataset, row: dict[str, Any]) -> str | None:
    values = {name: _value(value) for name, value in row.items()}
    if not any(value.strip() for value in values.values()):
        return None
    if not dataset.template:
        return SEPARATOR.join(value for value in values.values() if value.strip())
    return filled(dataset.template, values).strip()


def filled(template: Sequence[tuple[str, str | None]], values: dict[str, str]) -> str:
    """A template's literal texts, each followed by the value of the column that is named after it."""
    return "".join(text + (values[name] if name is not None else "") for text, name in template)


def _value(value: Any) -> str:
    """A column's value as text: a missing one is empty, and a number is written as in JSON."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
