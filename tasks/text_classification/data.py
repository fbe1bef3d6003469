"""A text dataset from its files to what the step hands on."""

from __future__ import annotations

from functools import partial

from gauntlet.components.validate_data.examination import Examination
from gauntlet.components.validate_data.outputs import write_splits
from gauntlet.components.validate_data.text import KEY_FORM
from gauntlet.manifests.gates import describe_resolution
from gauntlet.tasks.text_classification.inspection import inspect
from gauntlet.tasks.text_classification.manifest import TextDataset
from gauntlet.tasks.text_classification.report import data_page
from gauntlet.tasks.text_classification.statistics import describe
from gauntlet.tasks.texts.source import read_table


def examine(section: TextDataset) -> Examination:
    """Read and check a dataset.

    Raises:
        DataError: The data cannot be read.
        UsageError: `section` asks for what cannot be read.
        GauntletError: The store that holds the data is out of reach.
    """
    table = read_table(section)
    inspection = inspect(table, section)
    statistics = describe(inspection.table, section)
    return Examination(
        inspection=inspection,
        rows_read=len(table),
        rows=statistics.rows,
        fingerprints=KEY_FORM,
        resolution=describe_resolution(statistics.class_counts["test"].values()),
        report=data_page(statistics, inspection, rows_read=len(table)),
        write_splits=partial(
            write_splits, table=inspection.table, labels=section.labels, statistics=statistics
        ),
        table=table,
    )
