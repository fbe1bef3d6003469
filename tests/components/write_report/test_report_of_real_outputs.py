"""The report reads what evaluate-model really writes: no figure is lost on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import finished_runs as runs
import numpy as np

from gauntlet.components.write_report.collect import collect
from gauntlet.contracts.document import Document
from gauntlet.tasks.classification.manifest import Evaluation
from gauntlet.tasks.classification.scorecard import ChampionPredictions, Scoring, assess

CLASSES = ("calm", "angry", "glad")
LABELS = np.array([0, 1, 2] * 20, dtype=np.int64)


def absent(value: object, at: str = "") -> Iterator[str]:
    """The fields of a record, at any depth, that were not found in what a step wrote."""
    if isinstance(value, Document):
        for name in type(value).model_fields:
            yield from absent(getattr(value, name), f"{at}.{name}")
    elif isinstance(value, tuple) and value:
        yield from absent(value[0], f"{at}[0]")
    elif isinstance(value, Mapping) and value:
        yield from absent(next(iter(value.values())), f"{at}[…]")
    elif value is None or value in ((), {}, ""):
        yield at


def scorecard() -> dict[str, Any]:
    probabilities = np.full((60, 3), 0.1, dtype=np.float32)
    probabilities[np.arange(60), LABELS] = 0.8
    probabilities[:3] = (0.05, 0.05, 0.9)  # two mistakes
    seen = np.arange(60) < 9  # test rows that the champion was trained on
    champion = ChampionPredictions("2", np.roll(LABELS, 3) * (np.arange(60) > 10), seen)
    texts = [f"text {row}" for row in range(60)]
    settings = Evaluation(bootstrap_resamples=200)
    neither = np.zeros(60, dtype=bool)
    scoring = Scoring(CLASSES)
    mistakes = scoring.mistakes(texts, LABELS, probabilities, settings.worst_mistakes)
    answers = probabilities.argmax(axis=1)
    return assess(LABELS, answers, champion, settings, 0, scoring, neither, mistakes).as_json()


def test_no_figure_of_the_evaluation_is_lost(tmp_path: Path) -> None:
    runs.finish(tmp_path / runs.JOB / "evaluate-model", {"scores": scorecard()})
    record = collect(str(tmp_path), runs.JOB, runs.TASK)
    assert record.unreadable == () and record.scores is not None
    # A challenger has no version, a text no picture and no grade; without a champion's error there is none.
    of_several_labels = [
        f".{model}.{figure}"
        for model in ("challenger", "challenger_on_clean_rows", "champion")
        for figure in (
            "micro_f1",
            *(f"per_class[0].{one}" for one in ("predicted", "threshold", "f1_lower_bound")),
            "per_class[0].recall_lower_bound",
        )
    ]
    assert sorted(set(absent(record.scores)) - set(of_several_labels)) == [
        ".challenger.grades",
        ".challenger.version",
        ".challenger_on_clean_rows.grades",
        ".challenger_on_clean_rows.version",
        ".champion.grades",
        ".champion_error",
        ".mistakes[0].picture",
        ".paired.qwk_difference",
        ".paired.qwk_lower_bound",
        ".paired.qwk_upper_bound",
        ".training_overlap.classes_without_clean_rows",  # every class has some
    ]
