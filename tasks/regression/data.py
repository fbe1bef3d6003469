"""Datasets of texts or images with a number each: read the table, check it, and describe its splits."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

from gauntlet.components.pictures import data_uri
from gauntlet.components.validate_data.carving import carve, with_groups
from gauntlet.components.validate_data.checks import (
    SHOWN_EXAMPLES,
    CheckedTable,
    Examination,
    Finding,
    Reasons,
    json_line,
    origin,
)
from gauntlet.components.validate_data.duplicates import (
    find_exact,
    find_leaks,
    find_near,
    outside_test,
)
from gauntlet.components.validate_data.text import KEY_FORM, excerpt
from gauntlet.contracts.data import CheckResult
from gauntlet.contracts.data import Statistics as AnyStatistics
from gauntlet.contracts.document import Document
from gauntlet.manifests.dataset import SPLITS, SplitName
from gauntlet.manifests.proposal import Proposal
from gauntlet.pages.formatting import general
from gauntlet.serving.interface import Resize
from gauntlet.tasks.images.data import (
    Pixels,
    PixelStatistics,
    class_pictures,
    describe_pixels,
    find_noted,
    gathered,
    in_pieces,
)
from gauntlet.tasks.images.hashing import ImageLikeness, correlated
from gauntlet.tasks.images.reading import ImageSource, ImageTable, image_uris, read_images
from gauntlet.tasks.regression.manifest import OutlierCheck, PathColumns, RegressionDataset, RowsPerSplitCheck
from gauntlet.tasks.regression.metrics import Floats, bin_edges, histogram, resolvable_error
from gauntlet.tasks.texts import data as texts
from gauntlet.tasks.texts.look import LABEL_NAMES, look_at_texts
from gauntlet.tasks.texts.pieces import is_missing
from gauntlet.tasks.texts.rows import TextRows

SPLIT_SCHEMA = pa.schema([("text", pa.string()), ("target", pa.float64()), ("row", pa.int64())])
LARGEST = 1e30
"""A larger number cannot be standardised in the 32 bits of a model's weights."""

STRATA = 5
SHOWN_SIDE = 96  # pixels of an image in the report, at least
LEAST_OF_STRATUM = 10  # rows of each stratum that every split gets, if there are enough
NORMAL_FROM_MEDIAN, NORMAL_FROM_MEAN = 1.4826, 1.2533
"""A normal distribution's standard deviation over its median, and its mean, distance from the median."""


def examine(dataset: RegressionDataset) -> Examination:
    """Read and check a dataset.

    Raises:
        DataError: The data cannot be read.
        UsageError: `dataset` asks for what cannot be read.
        GauntletError: The store that holds the data is unavailable.
    """
    return _examine_texts(dataset) if dataset.columns.kind == "text" else _examine_images(dataset)


def _examine_texts(dataset: RegressionDataset) -> Examination:
    table = texts.read_table(dataset.as_texts, read_targets)
    table.small = with_strata(table.small)
    checked = check_texts(table, dataset)
    by_split = {split: checked.rows[checked.rows["split"] == split] for split in SPLITS}
    sha256 = texts.hash_splits(checked, b"", _hashed)
    return Examination(
        table=table,
        checked=checked,
        statistics=describe(by_split, sha256, dataset, **texts.describe_texts(checked)),
        content=lambda split: texts.split_content(
            checked, split, SPLIT_SCHEMA, lambda rows: pa.array(rows["target"].to_numpy())
        ),
        groups=tuple(strata_of(table.small)),
        fingerprints=KEY_FORM,
        resolution=describe_resolution(by_split),
    )


def _hashed(inputs: pl.Series, rows: pd.DataFrame) -> pl.Series:
    """A line of JSON for each input, which is JSON, and one for its target."""
    targets = pl.Series(json.dumps(rows["target"].tolist())[1:-1].split(", "))
    return inputs + "\n" + targets + "\n"


def _examine_images(dataset: RegressionDataset) -> Examination:
    found = read_images(_source(dataset))
    values = pd.DataFrame(read_targets(found.rows["value"].tolist()), dtype="object")
    table = with_strata(found.rows.assign(**values).astype({"target": "float64"})).astype({"label": "str"})
    checked = check_images(replace(found, rows=table), dataset)
    by_split = {split: checked.rows[checked.rows["split"] == split] for split in SPLITS}
    assert dataset.shape is not None  # as rows are images
    step = max(1, min(dataset.shape) // SHOWN_SIDE)
    shown = found.pixels[:, ::step, ::step]
    positions = {split: rows.index.to_numpy() for split, rows in by_split.items()}

    def images(split: SplitName) -> Iterator[Pixels]:
        return in_pieces(found.pixels, positions[split])

    statistics = describe(
        by_split,
        content_sha256(
            by_split,
            {split: (image.tobytes() for piece in images(split) for image in piece) for split in SPLITS},
        ),
        dataset,
        rows={split: len(rows) for split, rows in by_split.items()},
        shape=dataset.shape,
        channels=dataset.channels,
        resize=dataset.resize,
        pixels={split: describe_pixels(images(split), dataset.channels) for split in SPLITS},
    )
    return Examination(
        table=table,
        checked=checked,
        statistics=statistics,
        content=lambda split: {
            "images": gathered(found.pixels, positions[split]),
            **{name: by_split[split][name].to_numpy() for name in ("target", "row")},
        },
        fingerprints="pixels",
        resolution=describe_resolution(by_split),
        pictures=class_pictures(checked.rows, shown, strata_of(table)),
        picture=lambda row: data_uri(shown[row]),
    )


def sources(dataset: RegressionDataset) -> tuple[str, ...]:
    """The URIs of all files. Raises what finding them raises."""
    if dataset.columns.kind == "text":
        return texts.sources(dataset.as_texts)
    return image_uris(_source(dataset))


def _source(dataset: RegressionDataset) -> ImageSource:
    """The form in which images are read."""
    assert dataset.shape is not None  # as rows are images
    return ImageSource(
        uri=dataset.uri,
        shape=dataset.shape,
        channels=dataset.channels,
        resize=dataset.resize,
        files=dataset.files,
        form="table",
        columns=PathColumns(text=dataset.columns.image, label=dataset.columns.target),
        roots=dataset.roots or (),
        sha256=dataset.sha256 if isinstance(dataset.sha256, str) else None,
        max_expansion=dataset.max_expansion,
    )


# --- reading -----------------------------------------------------------------------------------------


def read_targets(values: Sequence[Any]) -> dict[str, list[Any]]:
    """The columns of a table for the values of the target's column.

    `target` is the number, NaN where there is none; `label` the value as it was found, None if it is missing;
    `not_a_number` what is wrong with it, or None.
    """
    found = [read_number(value) for value in values]
    return {
        "label": [
            None if number is None and fault is None else str(value)
            for value, (number, fault) in zip(values, found, strict=True)
        ],
        "target": [math.nan if number is None else number for number, _ in found],
        "not_a_number": [fault for _, fault in found],
    }


def read_number(value: Any) -> tuple[float | None, str | None]:
    """The number that a value of a file is, and what is wrong with it; neither if the value is missing."""
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        return None, None
    shown = excerpt(str(value))
    try:
        if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
            raise ValueError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None, f"found {shown}, expected a number with a point for its decimals"
    if not math.isfinite(number) or abs(number) > LARGEST:
        return None, f"found {shown}, expected a finite number of at most {LARGEST:g}"
    return number, None


def with_strata(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `label` set to a range between quantiles of all targets, where there is a target.

    Splits are made so that each has rows of every range.
    """
    known = table["target"].notna().to_numpy()
    if not known.any():
        return table
    targets = table["target"].to_numpy(np.float64)[known]
    inner = np.unique(np.quantile(targets, np.linspace(0, 1, STRATA + 1)[1:-1]))
    names = pd.Index([range_name(low, high) for low, high in pairwise([None, *inner.tolist(), None])])
    others = pd.Categorical(table["label"].where(~known)).remove_unused_categories()
    categories = names.append(others.categories).unique()
    codes = categories.get_indexer(pd.Index(others))
    codes[known] = categories.get_indexer(names)[np.searchsorted(inner, targets, side="right")]
    return table.assign(label=pd.Categorical.from_codes(codes, categories))


def strata_of(table: pd.DataFrame) -> list[str]:
    """The names of the ranges, from the smallest numbers on."""
    return table[table["target"].notna()].sort_values("target")["label"].drop_duplicates().tolist()


def range_name(low: float | None, high: float | None) -> str:
    """A range of targets in words; None is an open end."""
    if low is None:
        return "all" if high is None else f"below {general(high)}"
    return f"{general(low)} and more" if high is None else f"{general(low)} to below {general(high)}"


# --- checks ------------------------------------------------------------------------------------------


def check_texts(table: TextRows, dataset: RegressionDataset) -> texts.CheckedTexts:
    """Run every check, whatever the ones before it found, and carve the splits that no file provides.

    Args:
        table: With the labels that `with_strata` makes.
        dataset: The manifest's section.
    """
    tolerance = dataset.target.tolerance

    def find_text_conflicts(found: texts.TextFindings, rows: pd.DataFrame) -> Finding:
        affected, reasons = conflicting(rows, "number", tolerance)
        return found.conflicting(rows, affected, lambda row: f"{row.target:g}", reasons, "target")

    checked = texts.check_texts(
        table,
        dataset.as_texts,
        target_checks(table.small, dataset),
        ("conflicting_targets", find_text_conflicts),
        LEAST_OF_STRATUM,
    )
    _check_splits(checked, dataset, table.places)
    return checked


def check_images(table: ImageTable, dataset: RegressionDataset) -> CheckedTable:
    """The same for images. The index of the rows that are left is their position in `table.pixels`."""
    checks, rows = dataset.checks, table.rows
    missing = tuple(split for split in SPLITS if split not in set(rows["split"]))
    checked = CheckedTable(rows, len(rows))
    checked.check(
        "unreadable_images",
        checks.unreadable_images,
        lambda rows: find_noted(rows, "unreadable"),
        unusable=True,
    )
    without = texts.ValueCheck(rows["label"].isna().to_numpy(), lambda _: "no target", unusable=True)
    for name, check in {"empty_values": without, **target_checks(rows, dataset)}.items():
        checked.check(name, getattr(checks, name), partial(check.find, table=rows), unusable=check.unusable)
    near, leaking = checks.near_duplicates.similarity, checks.leakage.similarity
    positions, keys = checked.rows.index.to_numpy(), checked.rows["key"]
    numbers = pd.factorize(keys)[0]
    alike = correlated(table.pixels, positions)
    likeness = ImageLikeness(numbers, table.hashes[positions], min(near, leaking), alike)
    checked.rows = with_groups(checked.rows.assign(number=numbers), likeness, leaking)
    checked.groups = dict(zip(keys, checked.rows["group"], strict=True))
    tolerance = dataset.target.tolerance
    checked.check(
        "conflicting_targets", checks.conflicting_targets, lambda rows: find_conflicts(rows, tolerance)
    )
    checked.check("exact_duplicates", checks.exact_duplicates, find_exact)
    checked.check("near_duplicates", checks.near_duplicates, lambda rows: find_near(rows, likeness, near))
    fractions = {split: getattr(dataset.split, split) for split in SPLITS}
    checked.rows = carve(checked.rows, missing, fractions, LEAST_OF_STRATUM, dataset.split.key)
    checked.check("leakage", checks.leakage, lambda rows: find_leaks(rows, likeness, leaking))
    _check_splits(checked, dataset, lambda shown: rows["place"][shown])
    return checked


def _check_splits(
    checked: CheckedTable, dataset: RegressionDataset, places: Callable[[pd.Index[int]], Iterable[str]]
) -> None:
    checks = dataset.checks
    checked.check("outliers", checks.outliers, lambda rows: find_outliers(rows, checks.outliers, places))
    checked.results += [
        check_constant(checked.rows, checked.rows_read),
        check_rows_per_split(checked.rows, checks.rows_per_split, checked.rows_read),
    ]


def target_checks(table: pd.DataFrame, dataset: RegressionDataset) -> dict[str, texts.ValueCheck]:
    """The checks on single targets."""
    low, high = dataset.target.min, dataset.target.max
    outside = table["target"].notna() & ~table["target"].between(
        -math.inf if low is None else low, math.inf if high is None else high
    )
    bounds = {"at least": low, "at most": high}
    expected = " and ".join(f"{words} {bound:g}" for words, bound in bounds.items() if bound is not None)
    return {
        "invalid_targets": texts.ValueCheck(
            fails=table["not_a_number"].notna().to_numpy(),
            describe=lambda row: str(row.not_a_number),
            unusable=True,  # it cannot be written as a number
            column="label",
        ),
        "target_range": texts.ValueCheck(
            fails=outside.to_numpy(),
            describe=lambda row: f"found {row.target:g}, expected {expected}",
            column="target",
        ),
    }


def find_conflicts(rows: pd.DataFrame, tolerance: float) -> Finding:
    """Rows whose input also has a target that differs by more than `tolerance`, in any split."""
    affected, reasons = conflicting(rows, "key", tolerance)
    examples = []
    for _, group in rows.loc[affected].groupby("key", sort=False):
        given = [
            f"{number:g} ({place})" for number, place in zip(group["target"], group["place"], strict=True)
        ]
        examples.append(f"{group['shown'].iloc[0]}: {', '.join(given[:SHOWN_EXAMPLES])}")
        if len(examples) == SHOWN_EXAMPLES:
            break
    return Finding(affected, outside_test(rows, affected), examples, "target", reasons)


def conflicting(rows: pd.DataFrame, key: str, tolerance: float) -> tuple[pd.Index[int], Reasons]:
    """The rows whose key also has a target that differs by more than `tolerance`, and why."""
    of_key = rows.groupby(key)["target"]
    least, most = of_key.transform("min"), of_key.transform("max")
    affected = rows.index[most - least > tolerance]
    least, most = least[affected], most[affected]

    def reasons(_: Any, some: pd.Index[int]) -> list[str]:
        pairs = zip(least[some], most[some], strict=True)
        return [f"the same input has targets from {low:g} to {high:g}" for low, high in pairs]

    return affected, reasons


def find_outliers(
    rows: pd.DataFrame, rule: OutlierCheck, places: Callable[[pd.Index[int]], Iterable[str]]
) -> Finding:
    """Rows whose target is far from the others: Iglewicz & Hoaglin, How to Detect and Handle Outliers (1993).

    If more than half of the targets are equal, the mean distance from the median takes the median's place.
    """
    targets = rows["target"]
    median = float(targets.median())
    distance = (targets - median).abs()
    deviation = NORMAL_FROM_MEDIAN * float(distance.median()) or NORMAL_FROM_MEAN * float(distance.mean())
    affected = rows.index[distance > rule.deviations * deviation]
    far = affected[np.argsort(-distance[affected].to_numpy(), kind="stable")]

    def describe(row: Any) -> str:
        return (
            f"{targets[row]:g} is {distance[row] / deviation:.1f} robust standard deviations from the "
            f"median, {median:g}"
        )

    shown = far[:SHOWN_EXAMPLES]
    examples = [f"{place}: {describe(row)}" for row, place in zip(shown, places(shown), strict=True)]
    return Finding(
        affected,
        outside_test(rows, affected),
        examples,
        "target",
        lambda _, some: [describe(row) for row in some.tolist()],
    )


def check_constant(rows: pd.DataFrame, rows_read: int) -> CheckResult:
    """The training targets must differ: otherwise there is nothing to learn."""
    targets = rows.loc[rows["split"] == "train", "target"]
    constant = targets.nunique() < 2
    found = f"{targets.nunique():,} different targets"
    if constant:
        found = f"the same target in all {len(targets):,} training rows"
    return CheckResult(
        check="constant_target",
        severity="fail",
        bound=2,
        rows_affected=len(targets) if constant else 0,
        rows_dropped=0,
        fraction=len(targets) / rows_read if constant else 0.0,
        verdict="fail" if constant else "pass",
        found=found,
        expected="targets that differ",
        key="dataset.columns.target",
    )


def check_rows_per_split(rows: pd.DataFrame, rule: RowsPerSplitCheck, rows_read: int) -> CheckResult:
    """Every split needs `min_rows` rows."""
    counts = {split: int((rows["split"] == split).sum()) for split in SPLITS}
    short = {split: count for split, count in counts.items() if count < rule.min_rows}
    key = "dataset.checks.rows_per_split.min_rows"
    least = min(counts.values())
    failed = bool(short) and rule.severity == "fail"
    return CheckResult(
        check="rows_per_split",
        severity=rule.severity,
        bound=rule.min_rows,
        rows_affected=sum(short.values()),
        rows_dropped=0,
        fraction=sum(short.values()) / rows_read,
        verdict=rule.severity if short else "pass",
        found=", ".join(f"{count} rows in {split}" for split, count in (short or counts).items()),
        expected=f"at least {rule.min_rows} rows in every split",
        key=key,
        settings={key: least} if failed and least >= 2 else {},
    )


def describe_resolution(splits: Mapping[SplitName, pd.DataFrame]) -> str:
    """In words, what a comparison with the champion on the test rows can show."""
    train, test = splits["train"]["target"], splits["test"]["target"]
    spread = float((test - train.median()).abs().std(ddof=0)) if len(test) and len(train) else 0.0
    shown = resolvable_error(len(test), spread) if len(test) else 0.0
    return (
        f"With {len(test):,} test rows a comparison with the champion can show a difference of about "
        f"{general(shown)} in the mean absolute error of models that hardly explain the targets, and a "
        "smaller one of better models. A smaller gates.non_inferiority_margin rejects most models that are "
        "as good"
    )


# --- splits and their statistics ---------------------------------------------------------------------


class TargetStatistics(Document):
    """The targets of one split. The figures are absent if there are none; `counts` are by bin."""

    count: int
    counts: tuple[int, ...]
    mean: float | None = None
    std: float | None = None
    min: float | None = None
    p5: float | None = None
    p25: float | None = None
    p50: float | None = None
    p75: float | None = None
    p95: float | None = None
    max: float | None = None


class Statistics(AnyStatistics):
    """The content of `statistics.json`.

    Attributes:
        target: The column of the numbers; `target_min` and `target_max` are the range that is declared.
        edges: Lower bounds of the bins of `targets`; the first bin has all smaller numbers too, and the last
            one all larger ones.
        targets: By split.
        quantiles: Of the training targets, from the smallest to the largest, a hundredth apart.
        text_length, words, top_words: As in `TextStatistics`, if rows are texts.
        shape, channels, resize, pixels: As in `tasks.images.data.Statistics`, if rows are images.
    """

    target: str
    target_min: float | None = None
    target_max: float | None = None
    edges: tuple[float, ...]
    targets: Mapping[str, TargetStatistics]
    quantiles: tuple[float, ...]
    text_length: Mapping[str, texts.LengthStatistics] | None = None
    words: int | None = None
    top_words: Mapping[str, int] | None = None
    shape: tuple[int, int] | None = None
    channels: int | None = None
    resize: Resize | None = None
    pixels: Mapping[str, PixelStatistics] | None = None


def describe(
    splits: Mapping[SplitName, pd.DataFrame],
    sha256: str,
    dataset: RegressionDataset,
    **of_inputs: Any,
) -> Statistics:
    """The statistics of checked tables, with the hash of their content and the fields about the inputs."""
    train = splits["train"]["target"].to_numpy(dtype=np.float64)
    edges = bin_edges(train) if len(train) else (0.0, 1.0)
    return Statistics(
        **origin(dataset),
        target=str(dataset.columns.target),
        target_min=dataset.target.min,
        target_max=dataset.target.max,
        sha256=sha256,
        edges=edges[:-1],
        targets={
            split: describe_targets(of_split["target"].to_numpy(dtype=np.float64), edges)
            for split, of_split in splits.items()
        },
        quantiles=tuple(np.quantile(train, np.linspace(0, 1, 101)).tolist()) if len(train) else (),
        **of_inputs,
    )


def describe_targets(targets: Floats, edges: Sequence[float]) -> TargetStatistics:
    """Moments, percentiles (linear interpolation) and histogram of targets (N,)."""
    counts = histogram(targets, edges)
    if not len(targets):
        return TargetStatistics(count=0, counts=counts)
    p5, p25, p50, p75, p95 = np.percentile(targets, (5, 25, 50, 75, 95)).tolist()
    return TargetStatistics(
        count=len(targets),
        counts=counts,
        mean=float(targets.mean()),
        std=float(targets.std()),
        min=float(targets.min()),
        p5=p5,
        p25=p25,
        p50=p50,
        p75=p75,
        p95=p95,
        max=float(targets.max()),
    )


def content_sha256(
    splits: Mapping[SplitName, pd.DataFrame], inputs: Mapping[SplitName, Iterable[bytes]]
) -> str:
    """Hash of the rows in their order: for each split its name, and each row's input and target."""
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update(json_line(split))
        for content, target in zip(inputs[split], splits[split]["target"], strict=True):
            digest.update(content)
            digest.update(json_line(target))
    return digest.hexdigest()


FEWEST_NUMBERS = 5  # different ones: fewer are classes
MANY_NUMBERS = 12
NO_TARGET = re.compile(r"(^|_|[a-z])(id|ID|Id)$|^(index|row|)$")


def propose(uri: str) -> Proposal | None:
    """A manifest for a table with a column of texts and one of numbers; None for other data."""
    found = look_at_texts(uri)
    if found is None:
        return None
    look, text = found
    numeric = [c for c in look.others(text.name) if c.numbers and len(c.counts) >= FEWEST_NUMBERS]
    numeric = [c for c in numeric if not NO_TARGET.search(str(c.name))]
    if not numeric:
        return None
    target = numeric[0]
    values = np.array(target.numbers)
    median = float(np.median(values))
    usual = float(np.abs(values - median).mean())
    several = len(target.counts) >= MANY_NUMBERS or bool((values % 1).any())
    named = target.named_as(LABEL_NAMES)
    return Proposal(
        fit=0.7 if several else 0.5,
        why=f"{text} holds texts, {target} numbers from {values.min():g} to {values.max():g}",
        sections={
            "dataset": {"columns": {"text": text.name, "target": target.name}},
            "gates": {"max_mae": float(f"{usual / 2:.2g}") or 1.0, "min_interval_coverage": 0.8},
        },
        comments={
            "gates.max_mae": f"half the mean error of always answering the median, {median:g}: set what your "
            "use needs",
            "gates.min_interval_coverage": "of the intervals that answers come with",
            **(
                {"dataset.columns": f"{', '.join(str(c.name) for c in numeric[1:])} could be the target too"}
                if numeric[1:] and not named
                else {}
            ),
        },
    )
