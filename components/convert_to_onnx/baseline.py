"""The drift baseline of a bundle: what its graph answers to held-out rows, asked as a server asks it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gauntlet.components.convert_to_onnx.subject import HeldOut, Subject
from gauntlet.components.detect_drift.counts import OK, LabelledRows, count_rows
from gauntlet.components.detect_drift.reference import MadeOf, log_reference
from gauntlet.contracts.drift import ARRAYS_FILE, BASELINE_FILE
from gauntlet.manifests.errors import GauntletError
from gauntlet.serving.bundle import MODEL_FILE, TOKENIZER_FILE, BundleError, BundleInfo, of_kind
from gauntlet.serving.images import MOST_PIXELS
from gauntlet.serving.interface import Answer, InputError, LoggedModel, Row
from gauntlet.serving.request_log import SCHEMA_VERSION, arrow_schema, described

COUNTED, FITTED = "test", "validation"
"""The split that is counted and whose loss is promised, and the split that the calibration is fitted on."""
COUNTED_ROWS, FITTED_ROWS = 5_000, 2_000
BATCH = 32


def write_baseline(folder: Path, bundle: Path, info: BundleInfo, subject: Subject) -> dict[str, Path]:
    """Write the baseline of a bundle, which is whole but for it, into `folder`; its files by name.

    Without the kind's held-out rows there is none. The same bundle and rows give the same bytes.

    Raises:
        GauntletError: The graph cannot answer one of the rows.
    """
    counted = subject.held_out(COUNTED, COUNTED_ROWS)
    if counted is None:
        print(f"no drift baseline: the task kind {info.task} gives no held-out rows", flush=True)
        return {}
    model: LoggedModel = of_kind(info.task, "open_model")(bundle)
    fitted = subject.held_out(FITTED, FITTED_ROWS) if counted.labels is not None else None
    table, labels = _asked(model, counted)
    if not table.num_rows:
        print(f"no drift baseline: the model can read no row of the split {COUNTED}", flush=True)
        return {}
    made_of = MadeOf(
        task=info.task,
        split=COUNTED,
        labels=info.labels,
        span=counted.span,
        fitted_on=None if fitted is None else _labelled(model, fitted),
        model_sha256=info.files[MODEL_FILE],
        tokenizer_sha256=info.files.get(TOKENIZER_FILE),
    )
    made = log_reference(bundle, [table], labels, made_of)
    paths = {name: folder / name for name in (BASELINE_FILE, ARRAYS_FILE)}
    made.baseline.write(paths[BASELINE_FILE])
    made.arrays.write(paths[ARRAYS_FILE])
    return paths


def _labelled(model: LoggedModel, rows: HeldOut) -> LabelledRows | None:
    table, labels = _asked(model, rows)
    return count_rows(Path(FITTED), [table], {}, labels=labels).labelled


def _asked(model: LoggedModel, held_out: HeldOut) -> tuple[pa.Table, dict[str, str] | None]:
    """The rows of a request log that holds these questions, and the label of each."""
    read: dict[int, Row] = {}
    for at, parts in enumerate(held_out.parts):
        try:
            read[at] = model.read(parts, model.parameters, MOST_PIXELS)
        except InputError:  # a server refuses such a row too
            continue
    answers = _answers(model, read) if held_out.are_answered else {}
    constants = {
        "time": datetime(2000, 1, 1, tzinfo=UTC),
        "model": "",
        "bundle_sha256": "",
        "schema_version": SCHEMA_VERSION,
        "sample_rate": 1.0,
        "status": OK,
    }
    rows: list[dict[str, Any]] = []
    for at, row in read.items():
        of_row = described(model, held_out.parts[at], row, answers.get(at))
        kept = {name: value for name, value in of_row.items() if name not in held_out.left_out}
        rows.append({"event_id": str(at), "client": str(at), **constants, **kept})
    labels = held_out.labels
    named = None if labels is None else {str(at): labels[at] for at in read}
    return pa.Table.from_pylist(rows, schema=arrow_schema(rows[0] if rows else ())), named


def _answers(model: LoggedModel, rows: dict[int, Row]) -> dict[int, Answer]:
    order = sorted(rows, key=lambda at: rows[at].length)
    found: dict[int, Answer] = {}
    for batch in np.array_split(order, -(-len(order) // BATCH)) if order else ():
        chosen = batch.tolist()
        try:
            found |= zip(chosen, model.run([rows[at] for at in chosen]), strict=True)
        except (BundleError, InputError) as error:
            raise GauntletError(f"conversion: the bundle cannot answer held-out rows: {error}") from None
    return found
