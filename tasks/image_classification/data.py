"""An image dataset from its files to what the step hands on."""

from __future__ import annotations

from functools import partial

from gauntlet.components.validate_data.examination import Examination
from gauntlet.manifests.gates import describe_resolution
from gauntlet.tasks.image_classification.inspection import inspect
from gauntlet.tasks.image_classification.manifest import ImageDataset
from gauntlet.tasks.image_classification.source import read_images
from gauntlet.tasks.images.outputs import write_splits
from gauntlet.tasks.images.pictures import class_strips
from gauntlet.tasks.images.report import data_page
from gauntlet.tasks.images.statistics import describe


def examine(section: ImageDataset) -> Examination:
    """Read and check a dataset.

    Raises:
        DataError: The data cannot be read.
        UsageError: There is nothing at the URI.
        GauntletError: The store that holds the data is out of reach.
    """
    table = read_images(section)
    inspection = inspect(table, section)
    statistics = describe(inspection.table, table.pixels, section)
    strips = class_strips(inspection.table, table.pixels, section.labels)
    return Examination(
        inspection=inspection,
        rows_read=len(table.rows),
        rows=statistics.rows,
        fingerprints="pixels",
        resolution=describe_resolution(statistics.class_counts["test"].values()),
        report=data_page(statistics, inspection, len(table.rows), strips),
        write_splits=partial(
            write_splits,
            table=inspection.table,
            pixels=table.pixels,
            labels=section.labels,
            statistics=statistics,
        ),
        table=table.rows,
    )
