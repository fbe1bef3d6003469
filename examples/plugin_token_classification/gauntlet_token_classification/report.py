"""What pages show of tagged sentences and of their tagger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from pydantic import Field

from gauntlet.components.write_report.comparison import Evaluated, Paired
from gauntlet.components.write_report.sections import Column
from gauntlet.contracts.scores import OfEvaluation
from gauntlet.contracts.scores import Scores as CommonScores
from gauntlet.pages.formatting import count, decimal, percent, signed
from gauntlet.pages.page import Masthead, Section, Tile, render
from gauntlet_token_classification.data import Statistics

Figure = float | None

ROWS = "sentences"
TRY_IT = ("Tag a sentence with the new champion.", '"SENTENCE"')
CANDIDATE_COLUMNS = (
    Column("Same tag", lambda candidate: percent(candidate.figures.get("label_agreement"), 1)),
    Column(
        "Entity F1",
        lambda candidate: decimal(candidate.figures.get("entity_f1"), 4),
        lambda pytorch: decimal(pytorch.figures.get("entity_f1"), 4),
    ),
)


class Scored(OfEvaluation):
    """A model on the test split."""

    entity_f1: Figure = None
    token_accuracy: Figure = None
    intervals: Mapping[str, tuple[Figure, Figure]] = Field(default_factory=dict)
    version: str | int | None = None


class Difference(OfEvaluation):
    """The challenger's entity F1 minus the champion's."""

    entity_f1_difference: Figure = None
    lower_bound: Figure = None


class Mistake(OfEvaluation):
    """A sentence with a wrong tag."""

    text: str
    tags: tuple[str, ...] = ()
    predicted: tuple[str, ...] = ()


class SCORES(CommonScores):
    """The document `scores`, read tolerantly."""

    challenger: Scored = Scored()
    champion: Scored | None = None
    paired: Difference | None = None
    mistakes: tuple[Mistake, ...] = ()


def data(statistics: Statistics, _pictures: Sequence[Any] = ()) -> Markup:
    """A table of the splits: sentences, words, and entities of each kind."""
    kinds = sorted({kind for counts in statistics.entities.values() for kind in counts})
    rows = [
        [split, rows, statistics.words.get(split), *(statistics.entities[split].get(kind) for kind in kinds)]
        for split, rows in statistics.rows.items()
    ]
    return _table(["Split", "Sentences", "Words", *kinds], rows)


def evaluation(scores: SCORES) -> Markup:
    """The metrics of both models, and the worst mistakes."""
    models = {"This model": scores.challenger}
    if scores.champion is not None:
        models[f"Champion, version {scores.champion.version}"] = scores.champion
    metrics_rows = [
        [name, decimal(one.entity_f1), decimal(one.token_accuracy)] for name, one in models.items()
    ]
    mistakes = [
        [
            " ".join(f"{word}/{tag}" for word, tag in zip(one.text.split(), one.tags, strict=False)),
            " ".join(one.predicted),
        ]
        for one in scores.mistakes
    ]
    found = _table(["Model", "Entity F1", "Token accuracy"], metrics_rows)
    return found + (_table(["Sentence", "Predicted tags"], mistakes) if mistakes else Markup(""))


def tiles(scores: SCORES) -> tuple[Tile, ...]:
    """Entity F1, and its difference from the champion's."""
    low, high = scores.challenger.intervals.get("entity_f1", (None, None))
    detail = f"{percent(scores.confidence)} interval {decimal(low)} to {decimal(high)}"
    quality = Tile("Entity F1", decimal(scores.challenger.entity_f1), detail)
    if scores.champion is None or scores.paired is None:
        return (quality,)
    least = f"at least {signed(scores.paired.lower_bound)}"
    title = f"Against version {scores.champion.version}"
    return quality, Tile(title, signed(scores.paired.entity_f1_difference), least)


def metrics(scores: SCORES) -> dict[str, Figure]:
    """The metrics that two runs are compared by."""
    return {name: getattr(scores.challenger, name) for name in ("entity_f1", "token_accuracy")}


def compare(_first: Evaluated, _second: Evaluated) -> Paired:
    """Runs are compared by their metrics alone."""
    return Paired(unpaired="the answers of taggers are not compared sentence by sentence")


def evaluation_page(content: Mapping[str, Any], name: str) -> str:
    """The page of evaluate-model for the system `name`."""
    scores = SCORES.model_validate(content)
    quality = tiles(scores)[0]
    masthead = Masthead(
        name=name,
        kind="evaluation on the test split",
        headline=f"{quality.label} {quality.value}",
        lead=f"{quality.detail}, on {count(scores.rows)} test sentences.",
    )
    return render(masthead, [Section("evaluation", "Evaluation", evaluation(scores))])


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    """An HTML table. Whatever comes from the data is escaped."""
    head = Markup("").join(Markup("<th>{}</th>").format(one) for one in header)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(one) for one in row))
        for row in rows
    )
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, body)
