"""What pages show of conversations and of a language model's evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from gauntlet.components.pictures import ClassPicture
from gauntlet.components.write_report.comparison import Evaluated, Paired
from gauntlet.components.write_report.sections import Column
from gauntlet.pages.charts import histogram
from gauntlet.pages.formatting import capitalize_first, count, decimal, percent, signed, words
from gauntlet.pages.page import Masthead, Section, Tile, partial, render
from gauntlet.tasks.language.scores import Estimate, Scores

if TYPE_CHECKING:
    from gauntlet.tasks.language.answers import Answers, Prompts
    from gauntlet.tasks.language.data import Statistics
    from gauntlet.tasks.language.evaluation import Contender

ROWS = "rows"
SCORES = Scores
CANDIDATE_COLUMNS = (
    Column("Same next token", lambda candidate: percent(candidate.figures.get("next_token_agreement"), 1)),
    Column(
        "Perplexity of all tokens",
        lambda candidate: decimal(candidate.figures.get("perplexity")),
        lambda pytorch: decimal(pytorch.figures.get("perplexity")),
    ),
    Column("Rise", lambda candidate: percent(candidate.figures.get("perplexity_change"), 2)),
)
SHOWN_ANSWERS = 8
IN_TILES = {"perplexity": 2, "rouge_l": 3}
"""The metrics at the top of a page, with their decimals."""

TRY_IT = ("Ask the new champion a question.", '"QUESTION"')


def data(statistics: Statistics, pictures: Sequence[ClassPicture] = ()) -> Markup:  # noqa: ARG001
    """The body of the section about a dataset of conversations, of which there are no `pictures`."""
    lengths = {split: length for split, length in (statistics.token_length or {}).items() if length.counts}
    counts = {split: length.counts for split, length in lengths.items()}
    edges = next((length.edges for length in lengths.values()), ())
    chart = histogram("Length of rows", "tokens", "rows", edges, counts)
    return partial("gauntlet.tasks.language:report.html.jinja#data", data=statistics, histogram=chart)


def evaluation_page(scores: Scores, name: str, prompts: Prompts, tuned: Answers, baseline: Contender) -> str:
    """The page of evaluate-model for the system `name`, with some answers."""
    shown = zip(prompts.questions, prompts.references, tuned.greedy, baseline.answers.greedy, strict=True)
    answers = partial("gauntlet.tasks.language:report.html.jinja#answers", rows=list(shown)[:SHOWN_ANSWERS])
    masthead = Masthead(
        name=name,
        kind="evaluation on the test split",
        headline=", ".join(f"{tile.label} {tile.value}" for tile in tiles(scores)),
        lead=f"Every model answered {count(scores.rows)} test prompts of {count(scores.conversations)} "
        "conversations.",
    )
    sections = [
        Section("evaluation", "Evaluation", evaluation(scores)),
        Section("answers", "Answers", answers),
    ]
    return render(masthead, sections)


def evaluation(scores: Scores) -> Markup:
    """The body of the section about a language model's `scores`."""
    others = [("Baseline", scores.baseline), ("Champion", scores.champion)]
    return partial(
        "gauntlet.tasks.language:report.html.jinja#evaluation",
        scores=scores,
        others=[(title, other) for title, other in others if other],
    )


def tiles(scores: Scores) -> tuple[Tile, ...]:
    """The figures at the top of a page, and their gains over the baseline."""
    shown = []
    for metric, digits in IN_TILES.items():
        if metric in (scores.not_measured or {}):
            continue
        figure, gain = (
            scores.challenger.get(metric, Estimate()),
            scores.baseline.gains.get(metric, Estimate()),
        )
        low, high = (signed(end, digits) for end in gain.interval)
        detail = f"better than the baseline by {low} to {high} ({percent(scores.confidence)} interval)"
        shown.append(Tile(capitalize_first(words(metric)), decimal(figure.value, digits), detail))
    return tuple(shown)


def metrics(scores: Scores) -> dict[str, float | None]:
    """The figures that two runs are compared by."""
    return {metric: figure.value for metric, figure in scores.challenger.items()}


def compare(first: Evaluated, second: Evaluated) -> Paired:
    """How surely two runs differ, from their answers."""
    from gauntlet.tasks.language import metrics  # imports the libraries that score answers

    return metrics.compare(first, second)
