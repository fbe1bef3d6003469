"""The evaluation as one self-contained HTML page: no script, no network, readable in light and dark."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from gauntlet.tasks.language.answers import Answers, Prompts
from gauntlet.tasks.language.scorecard import Contender, LanguageScorecard

TEMPLATE = "report.html.jinja"
SHOWN_ANSWERS = 8
TITLES = {
    "perplexity": "Perplexity",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "bleu": "BLEU",
    "sampled_rouge_l": "ROUGE-L, sampled",
}


def render(
    scorecard: LanguageScorecard, name: str, prompts: Prompts, tuned: Answers, baseline: Contender
) -> str:
    """The page for the model `name`. Texts of the data are escaped."""
    environment = Environment(
        loader=PackageLoader("gauntlet.tasks.language", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = zip(prompts.questions, prompts.references, tuned.greedy, baseline.answers.greedy, strict=True)
    return environment.get_template(TEMPLATE).render(
        name=name, scorecard=scorecard, titles=TITLES, shown=list(shown)[:SHOWN_ANSWERS]
    )
