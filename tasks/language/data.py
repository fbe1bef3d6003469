"""A dataset of conversations from its files to what the step hands on."""

from __future__ import annotations

from functools import partial

from gauntlet.components.validate_data.examination import Examination
from gauntlet.components.validate_data.inspection import Inspection
from gauntlet.components.validate_data.report import Histogram, render
from gauntlet.components.validate_data.text import KEY_FORM
from gauntlet.tasks.language.inspection import inspect
from gauntlet.tasks.language.manifest import ConversationDataset, describe_gain_resolution
from gauntlet.tasks.language.outputs import require_enough, write_splits
from gauntlet.tasks.language.rendering import Renderer, shared_system
from gauntlet.tasks.language.source import read_table
from gauntlet.tasks.language.statistics import LENGTH_EDGES, describe
from gauntlet.tasks.managed_causal_lm.data import ManagedRenderer


def examine(section: ConversationDataset) -> Examination:
    """Read and check a dataset.

    Raises:
        DataError: The data cannot be read, or no record of it can be used.
        UsageError: `section` asks for what cannot be read, or its model cannot be found.
        GauntletError: The store that holds the data is out of reach.
    """
    table = read_table(section)
    managed = section.tokenizer.startswith("gemini-")
    renderer = ManagedRenderer() if managed else Renderer(section.tokenizer)
    inspection = inspect(table, section, renderer)
    frame = renderer.frame(shared_system(inspection.table["context"].tolist()))
    statistics = describe(inspection.table, section, frame)
    counts = {split: length.counts for split, length in statistics.token_length.items()}
    return Examination(
        inspection=inspection,
        rows_read=len(table),
        rows=statistics.rows,
        fingerprints=KEY_FORM,
        resolution=describe_gain_resolution(_tested(inspection), managed),
        report=render(
            "conversations/report.html.jinja",
            statistics,
            inspection,
            len(table),
            Histogram("rows", LENGTH_EDGES, counts),
            histogram_of="Histogram of lengths in tokens",
        ),
        require_enough=partial(require_enough, inspection.table, section.uri),
        write_splits=partial(write_splits, table=inspection.table, statistics=statistics),
        table=table,
    )


def _tested(inspection: Inspection) -> int:
    """Conversations of the test split."""
    table = inspection.table
    return int(table.loc[table["split"] == "test", "key"].nunique())
