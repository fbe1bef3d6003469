"""A card dataset from its files to what the step hands on."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from gauntlet.components.validate_data.examination import Examination
from gauntlet.manifests.gates import describe_resolution
from gauntlet.tasks.images.outputs import write_splits
from gauntlet.tasks.images.pictures import class_strips
from gauntlet.tasks.images.report import data_page
from gauntlet.tasks.images.statistics import describe
from gauntlet.tasks.ordinal_grading.inspection import inspect
from gauntlet.tasks.ordinal_grading.manifest import CardDataset
from gauntlet.tasks.ordinal_grading.source import CardTable, read_cards

SHOWN_HEIGHT = 96  # pixels of a scan in the report, at least


def examine(section: CardDataset) -> Examination:
    """Read and check a dataset.

    Raises:
        DataError: The data cannot be read.
        UsageError: There is nothing at the URI.
        GauntletError: The store that holds the data is out of reach.
    """
    table = read_cards(section)
    inspection = inspect(table, section)
    statistics = describe(inspection.table, table.pixels, section)
    statistics = replace(statistics, sha256=_with_targets(statistics.sha256, table, inspection.table.index))
    step = max(1, section.shape[0] // SHOWN_HEIGHT)
    sides = table.pixels[:, :, ::step, ::step]
    strips = class_strips(
        inspection.table, np.concatenate([sides[:, 0], sides[:, 1]], axis=1), section.labels
    )
    return Examination(
        inspection=inspection,
        rows_read=len(table.rows),
        rows=statistics.rows,
        fingerprints="certificates",
        resolution=describe_resolution([statistics.rows["test"]], "QWK"),
        report=data_page(statistics, inspection, len(table.rows), strips, things="cards"),
        write_splits=partial(
            write_splits,
            table=inspection.table,
            pixels=table.pixels,
            labels=section.labels,
            statistics=statistics,
            targets=table.targets,
        ),
        table=table.rows,
    )


def _with_targets(sha256: str, table: CardTable, rows: pd.Index[int]) -> str:
    """The hash of the content's hash, as text, and of the bytes of what else is learned from the rows."""
    digest = hashlib.sha256(sha256.encode())
    for name in ("centering", "edge_damage"):
        digest.update(np.ascontiguousarray(table.targets[name][rows]).tobytes())
    return digest.hexdigest()
