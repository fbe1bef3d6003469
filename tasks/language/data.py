"""A dataset of conversations from its files to what the step hands on."""

from __future__ import annotations

from functools import partial

from gauntlet.components.validate_data.examination import Examination
from gauntlet.components.validate_data.inspection import Inspection
from gauntlet.components.validate_data.text import KEY_FORM
from gauntlet.tasks.language.inspection import inspect
from gauntlet.tasks.language.manifest import ConversationDataset, describe_gain_resolution
from gauntlet.tasks.language.outputs import require_enough, write_splits
from gauntlet.tasks.language.rendering import Renderer, shared_system
from gauntlet.tasks.language.report import data_page
from gauntlet.tasks.language.source import read_table
from gauntlet.tasks.language.statistics import describe
from gauntlet.tasks.managed_causal_lm.data import ManagedRenderer
from gauntlet.tasks.managed_causal_lm.manifest import MANAGED_PREFIX


def examine(section: ConversationDataset) -> Examination:
    """Read and check a dataset.

    Raises:
        DataError: The data cannot be read, or no record of it can be used.
        UsageError: `section` asks for what cannot be read, or its model cannot be found.
        GauntletError: The store that holds the data is out of reach.
    """
    table = read_table(section)
    managed = section.tokenizer.startswith(MANAGED_PREFIX)
    renderer = ManagedRenderer() if managed else Renderer(section.tokenizer)
    inspection = inspect(table, section, renderer)
    frame = renderer.frame(shared_system(inspection.table["context"].tolist()))
    statistics = describe(inspection.table, section, frame)
    return Examination(
        inspection=inspection,
        rows_read=len(table),
        rows=statistics.rows,
        fingerprints=KEY_FORM,
        resolution=describe_gain_resolution(_tested(inspection), managed),
        report=data_page(statistics, inspection, len(table)),
        require_enough=partial(require_enough, inspection.table, section.uri),
        write_splits=partial(write_splits, table=inspection.table, statistics=statistics),
        table=table,
    )


def _tested(inspection: Inspection) -> int:
    """Conversations of the test split."""
    table = inspection.table
    return int(table.loc[table["split"] == "test", "key"].nunique())
