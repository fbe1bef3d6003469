"""What pages show of numbers and of the models that answer with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from pydantic import Field

from gauntlet.components.pictures import ClassPicture
from gauntlet.components.write_report.comparison import (
    CONFIDENCE,
    RESAMPLES,
    SEED,
    Evaluated,
    Paired,
)
from gauntlet.components.write_report.sections import Column
from gauntlet.contracts.scores import OfEvaluation
from gauntlet.contracts.scores import Scores as AnyScores
from gauntlet.manifests.kinds import known_metric
from gauntlet.pages import charts
from gauntlet.pages.formatting import (
    capitalize_first,
    count,
    general,
    is_figure,
    minus,
    percent,
    signed,
    signed_general,
)
from gauntlet.pages.page import Masthead, Section, Tile, partial, render

if TYPE_CHECKING:
    from gauntlet.tasks.regression.data import Statistics

TEMPLATE = "gauntlet.tasks.regression:report.html.jinja"
METRICS = ("mae", "rmse", "r2")
ROWS = "rows"
TRY_IT = ("Ask the new champion for a number.", '"TEXT" (or IMAGE.png)')

Figure = float | None
Interval = tuple[Figure, Figure]

CANDIDATE_COLUMNS = (
    Column("Mean difference", lambda candidate: general(candidate.figures.get("mean_abs_difference"))),
    Column(
        "MAE",
        lambda candidate: general(candidate.figures.get("mae")),
        lambda pytorch: general(pytorch.figures.get("mae")),
    ),
    Column("Rise, 95 % interval", lambda candidate: _rise(candidate.figures)),
)


class Slice(OfEvaluation):
    """The test rows whose target is from `low` to below `high`; an end that is absent is open."""

    low: Figure = None
    high: Figure = None
    rows: int | None = None
    mae: Figure = None
    bias: Figure = None
    mae_upper_bound: Figure = None


class Scored(OfEvaluation):
    """A model on the test split, in the unit of the target; `bias` is the mean of answer minus target."""

    rows: int | None = None
    mae: Figure = None
    rmse: Figure = None
    r2: Figure = None
    bias: Figure = None
    coverage: Figure = None
    coverage_wanted: Figure = None
    coverage_lower_bound: Figure = None
    half_width: Figure = None
    intervals: Mapping[str, Interval] = Field(default_factory=dict)
    upper_bounds: Mapping[str, Figure] = Field(default_factory=dict)
    lower_bounds: Mapping[str, Figure] = Field(default_factory=dict)
    slices: tuple[Slice, ...] = ()
    version: str | int | None = None


class Difference(OfEvaluation):
    """The champion's mean absolute error minus the challenger's on the same rows, with one-sided bounds."""

    mae_reduction: Figure = None
    lower_bound: Figure = None
    upper_bound: Figure = None


class Residuals(OfEvaluation):
    """A histogram of answer minus target; `edges` has one number more than `counts`."""

    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()


class WorstRow(OfEvaluation):
    """A test row with a large error: a text, or a picture in a data URI. `row` is its place in the file."""

    row: int | None = None
    target: Figure = None
    predicted: Figure = None
    text: str = ""
    picture: str = Field(default="", pattern=r"^(data:image/png;base64,[A-Za-z0-9+/=]+)?$")

    @property
    def error(self) -> Figure:
        """Answer minus target."""
        return minus(self.predicted, self.target)


class SCORES(AnyScores):
    """The content of `scores`.

    The champion's figures and the paired ones are of the clean rows. If some rows are not clean,
    `challenger_on_clean_rows` has the challenger's figures on these. `points` are some rows' targets and
    answers.
    """

    target: str = ""
    challenger: Scored = Scored()
    champion: Scored | None = None
    paired: Difference | None = None
    challenger_on_clean_rows: Scored | None = None
    points: tuple[tuple[float, float], ...] = ()
    residuals: Residuals = Residuals()
    worst: tuple[WorstRow, ...] = ()


def data(statistics: Statistics, pictures: Sequence[ClassPicture] = ()) -> Markup:
    """The body of the section about a dataset."""
    lengths, pixels = statistics.text_length or {}, statistics.pixels or {}
    of_targets = statistics.targets or {}
    return partial(
        f"{TEMPLATE}#data",
        data=statistics,
        pictures=pictures,
        targets=charts.histogram(
            f"Distribution of {statistics.target}",
            statistics.target or "target",
            "rows",
            statistics.edges or (),
            {split: numbers.counts for split, numbers in of_targets.items()},
        ),
        lengths=charts.histogram(
            "Text length",
            "characters",
            "texts",
            next((length.edges for length in lengths.values()), ()),
            {split: length.counts for split, length in lengths.items() if length.counts},
        ),
        brightness=charts.histogram(
            "Brightness",
            "mean of the pixels",
            "images",
            next((of_split.edges for of_split in pixels.values()), ()),
            {split: of_split.brightness for split, of_split in pixels.items()},
        ),
    )


def evaluation_page(content: Mapping[str, Any], name: str) -> str:
    """The page of evaluate-model for the system `name`."""
    scores = SCORES.model_validate(content)
    quality, *_ = tiles(scores)
    masthead = Masthead(
        name=name,
        kind="evaluation on the test split",
        headline=f"{quality.label} {quality.value}",
        lead=f"{quality.detail}, on {count(scores.rows)} test rows.",
    )
    return render(masthead, [Section("evaluation", "Evaluation", evaluation(scores))])


def evaluation(scores: SCORES) -> Markup:
    """The body of the section about the `scores`."""
    bins = scores.residuals
    return partial(
        f"{TEMPLATE}#evaluation",
        scores=scores,
        metrics=[_metric_row(scores, name) for name in METRICS],
        agreement=charts.against(
            f"Predicted and true {scores.target}", f"true {scores.target}", "predicted", scores.points
        ),
        residuals=charts.histogram(
            "Errors", f"predicted minus true {scores.target}", "rows", bins.edges, {"test": bins.counts}
        ),
    )


def tiles(scores: SCORES) -> tuple[Tile, ...]:
    """The figures at the top of a page: the mean absolute error, R², and the difference from the champion."""
    confidence = percent(scores.confidence)
    found = []
    for name in ("mae", "r2"):
        low, high = scores.challenger.intervals.get(name) or (None, None)
        title = capitalize_first(known_metric(name).title)
        detail = f"{confidence} interval {general(low)} to {general(high)}"
        found.append(Tile(title, general(getattr(scores.challenger, name)), detail))
    if scores.champion is not None and scores.paired is not None:
        change, most = (
            None if not is_figure(value) else -value
            for value in (scores.paired.mae_reduction, scores.paired.lower_bound)
        )
        bound = f"mean absolute error, at most {signed_general(most)} at {confidence} confidence"
        found.append(Tile(f"Against version {scores.champion.version}", signed_general(change), bound))
    return tuple(found)


def metrics(scores: SCORES) -> dict[str, Figure]:
    """The metrics that two runs are compared by."""
    return {name: getattr(scores.challenger, name) for name in METRICS}


def compare(first: Evaluated, second: Evaluated) -> Paired:
    """How surely two runs differ, from their answers to the same rows."""
    import pandas as pd  # which no page needs

    from gauntlet.components import bootstrap
    from gauntlet.tasks.regression.metrics import resample

    if not (first.predictions.is_file() and second.predictions.is_file()):
        return Paired(unpaired="a run has no predictions")
    ours, theirs = (pd.read_parquet(run.predictions) for run in (first, second))
    identity = [column for column in ("text", "row", "target") if column in ours]
    if not set(identity) <= set(theirs) or not ours[identity].equals(theirs[identity]):
        return Paired(unpaired=f"the test rows are not the same: {len(ours):,} of A, {len(theirs):,} of B")
    answers = [frame["predicted"].to_numpy(dtype="float64") for frame in (ours, theirs)]
    drawn = resample(ours["target"].to_numpy(dtype="float64"), answers, RESAMPLES, SEED)
    closer = int((abs(answers[1] - ours["target"]) < abs(answers[0] - ours["target"])).sum())
    return Paired(
        intervals={name: bootstrap.interval(drawn[1][name] - drawn[0][name], CONFIDENCE) for name in METRICS},
        summary=f"Both answered the same {count(len(ours))} rows; B is closer for {count(closer)} of them.",
    )


def _metric_row(scores: SCORES, name: str) -> dict[str, Any]:
    """A metric of both models; the difference is that on the rows that both are compared on."""
    ours, theirs = scores.challenger, scores.champion
    compared = scores.challenger_on_clean_rows or ours
    metric = known_metric(name)
    champion = getattr(theirs, name) if theirs else None
    return {
        "name": capitalize_first(metric.title),
        "ours": getattr(ours, name),
        "interval": ours.intervals.get(name),
        "theirs": champion,
        "their_interval": theirs.intervals.get(name) if theirs else None,
        "difference": minus(getattr(compared, name), champion),
        "better": 1 if metric.better == "higher" else -1,
    }


def _rise(figures: Mapping[str, Any]) -> str:
    low, high = figures.get("mae_rise_interval") or (None, None)
    return f"{signed(figures.get('mae_rise'), 4)}, {signed(low, 4)} … {signed(high, 4)}"
