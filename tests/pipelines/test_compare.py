"""`gauntlet compare` on runs as their steps leave them on disk."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from gauntlet.components.write_report.comparison import Difference
from gauntlet.pipelines.cli import main
from gauntlet.pipelines.comparison import Comparison, compare, read_pair, render
from gauntlet.pipelines.home import Home, RunRecord
from gauntlet.tasks.classification.comparison import PairedRows, confusion_cells, paired_rows
from gauntlet.tasks.classification.manifest import Evaluation
from gauntlet.tasks.classification.metrics import single_sets
from gauntlet.tasks.classification.scorecard import Scoring, assess

CLASSES = ("calm", "angry <b>", "glad")
TRUTH = np.repeat([0, 1, 2], 40)
WEAK, STRONG = TRUTH.copy(), TRUTH.copy()
WEAK[:30] = 1
STRONG[:4] = 2
STRONG[119] = 0


def settings(**changed: Any) -> dict[str, Any]:
    return {"name": "moods", "task": "text_classification", "training": {"epochs": 2, **changed}}


def history(*accuracies: float) -> dict[str, Any]:
    epochs = [
        {
            "epoch": at,
            "training": {"loss": 1 / at, "accuracy": accuracy + 0.01},
            "validation": {"loss": 1 / at, "accuracy": accuracy},
            "examples_per_second": 100.0,
            "seconds": 5.0,
        }
        for at, accuracy in enumerate(accuracies, start=1)
    ]
    best = 1 + int(np.argmax(accuracies))
    return {"epochs": epochs, "steps": [], "best_epoch": best, "seconds": 10.0, "cost_usd": 0.25}


def leave_run(home: Home, run_id: str, manifest: dict[str, Any], **ended: Any) -> Path:
    """A finished run without steps; returns the folder of its steps."""
    folder = home.run_folder(run_id)
    steps = folder / "steps" / "moods-2026-11-21-09-00-00-000000"
    steps.mkdir(parents=True)
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    done = {"state": "finished", "finished": "2026-11-21T09:01:00+00:00", "outcome": "Promoted as version 1"}
    record = RunRecord(run_id, "moods", "2026-11-21T09:00:00+00:00", os.getpid(), **(done | ended))
    (folder / "run.json").write_text(json.dumps(asdict(record)))
    return steps


def leave_training(steps: Path, content: dict[str, Any]) -> None:
    (steps / "train-model").mkdir()
    (steps / "train-model" / "history").write_text(json.dumps(content))
    (steps / "train-model" / "executor_output.json").write_text("{}")


def leave_evaluation(steps: Path, predicted: np.ndarray, texts: list[str] | None = None) -> None:
    folder = steps / "evaluate-model"
    folder.mkdir()
    texts = texts or [f"text {row}" for row in range(len(TRUTH))]
    settings = Evaluation(bootstrap_resamples=200)
    scores = assess(TRUTH, predicted, None, settings, 1, Scoring(CLASSES))
    (folder / "scores").write_text(json.dumps(scores.as_json()))
    (folder / "executor_output.json").write_text("{}")
    names = np.array(CLASSES, dtype=object)
    frame = pd.DataFrame({"text": texts, "label": names[TRUTH], "predicted": names[predicted]})
    frame.to_parquet(folder / "predictions")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Two runs of one system, the second one better."""
    monkeypatch.setenv("GAUNTLET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    home = Home(tmp_path / "home")
    for run_id, predicted, accuracies, epochs in (
        ("weak", WEAK, (0.5, 0.6), 2),
        ("strong", STRONG, (0.7, 0.9, 0.8), 3),
    ):
        steps = leave_run(home, run_id, settings(epochs=epochs, early_stopping={"patience": 2}))
        leave_training(steps, history(*accuracies))
        leave_evaluation(steps, predicted)
    return home


def gauntlet(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def compared(home: Home, first: str = "weak", second: str = "strong") -> Comparison:
    return compare(*read_pair(home, first, second))


def test_the_figures_are_those_of_scikit_learn_and_the_better_run_is_named(home: Home) -> None:
    found = compared(home)
    tested = found.tested
    assert tested["accuracy"].first == pytest.approx(accuracy_score(TRUTH, WEAK))
    f1 = [f1_score(TRUTH, predicted, average="macro") for predicted in (WEAK, STRONG)]
    assert tested["macro_f1"].difference == pytest.approx(f1[1] - f1[0])
    low, high = tested["macro_f1"].interval
    assert 0 < low < f1[1] - f1[0] < high
    assert found.headline == "B is better"
    assert compared(home, "strong", "weak").headline == "B is worse"
    class_f1 = [f1_score(TRUTH, predicted, average=None) for predicted in (WEAK, STRONG)]
    assert [row.difference for row in found.paired.classes] == pytest.approx(list(class_f1[1] - class_f1[0]))


def test_an_interval_is_as_wide_as_differences_scatter_over_drawn_rows(home: Home) -> None:
    generator = np.random.default_rng(3)
    drawn = generator.integers(0, len(TRUTH), (2000, len(TRUTH)))
    differences = ((STRONG == TRUTH)[drawn].mean(axis=1)) - ((WEAK == TRUTH)[drawn].mean(axis=1))
    accuracy = compared(home).tested["accuracy"]
    assert accuracy.interval == pytest.approx(np.quantile(differences, [0.025, 0.975]), abs=0.01)


def test_the_confusion_tells_where_answers_moved(home: Home) -> None:
    weak, strong = read_pair(home, "weak", "strong")
    assert weak.evaluated is not None and strong.evaluated is not None
    rows = paired_rows(weak.evaluated, strong.evaluated)
    assert isinstance(rows, PairedRows)
    expected = confusion_matrix(TRUTH, STRONG) - confusion_matrix(TRUTH, WEAK)
    assert rows.confusion_change.tolist() == expected.tolist()
    assert rows.outcomes == {"both right": 89, "only A right": 1, "only B right": 26, "both wrong": 4}
    cells = confusion_cells(rows)
    assert (cells[0][0].text, cells[0][0].tone) == ("+26", "good")  # more right answers
    assert (cells[0][1].text, cells[0][1].tone) == ("−30", "good")  # fewer mistakes
    assert (cells[0][2].text, cells[0][2].tone, cells[0][2].shade) == ("+4", "bad", round(0.1**0.5, 4))


def test_runs_that_answer_alike_differ_clearly_in_nothing() -> None:
    rows = PairedRows(CLASSES, single_sets(len(CLASSES)), TRUTH, WEAK, WEAK)
    assert not rows.confusion_change.any()
    assert rows.outcomes["only A right"] == rows.outcomes["only B right"] == 0


def test_only_settings_that_differ_are_listed_and_one_that_a_run_lacks_is_empty(home: Home) -> None:
    steps = leave_run(home, "other", settings(epochs=2, dropout=0.5, early_stopping={"patience": 3}))
    leave_training(steps, history(0.5))
    listed = {(s.name, s.first, s.second) for s in compared(home, "weak", "other").settings}
    assert listed == {
        ("training.dropout", "", "0.5"),
        ("training.early_stopping.patience", "2", "3"),
    }


def test_curves_of_both_runs_share_a_picture_and_the_kept_epochs_are_compared(home: Home) -> None:
    found = compared(home)
    assert list(found.charts) == ["Loss", "Accuracy"]
    for chart, last in (("Loss", (0.5, 0.333)), ("Accuracy", (0.6, 0.8))):
        lines = re.findall("<title>(.*?)</title>", found.charts[chart])
        assert lines[:2] == [f"{name} {value:.3f}" for name, value in zip("AB", last, strict=True)]
        assert [line.split(" 0.")[0] for line in lines[2:]] == ["A, training", "B, training"]
    assert found.charts["Loss"].count("<use ") == 2 + 3 + 2  # a dot for each epoch, and one in the legend
    accuracy = found.validated["accuracy"]
    assert (accuracy.first, accuracy.second, accuracy.interval) == (0.6, 0.9, None)
    assert ("Cost", "$0.25", "$0.25") in found.costs


def test_a_difference_is_good_bad_or_open_by_its_metric_and_its_interval(home: Home) -> None:
    assert Difference("accuracy", 0.5, 0.6, (0.05, 0.15)).tone == "good"
    assert Difference("accuracy", 0.5, 0.6, (-0.05, 0.25)).tone == "idle"
    loss = compared(home).validated["loss"]
    assert replace(loss, first=0.5, second=0.6, interval=(0.05, 0.15)).tone == "bad"


def test_runs_with_other_test_rows_are_compared_without_an_interval_and_it_says_why(home: Home) -> None:
    steps = leave_run(home, "elsewhere", settings())
    leave_training(steps, history(0.5))
    leave_evaluation(steps, STRONG, [f"another text {row}" for row in range(len(TRUTH))])
    found = compared(home, "weak", "elsewhere")
    assert found.paired.summary == ""
    assert found.paired.unpaired == "the test rows are not the same: 120 of A, 120 of B"
    assert found.headline == "Compared without an interval"
    assert all(row.interval is None for row in found.tested.values())


def test_a_run_that_failed_after_its_training_is_compared_by_its_training(home: Home) -> None:
    leave_training(leave_run(home, "failed", settings(), outcome="Failed in convert-to-onnx"), history(0.5))
    found = compared(home, "weak", "failed")
    assert found.headline == "Compared by their training alone"
    assert found.paired.unpaired == "B was not evaluated on its test split: Failed in convert-to-onnx"
    assert "B was not evaluated" in render(found)


def test_runs_whose_answers_are_texts_are_compared_by_their_figures(home: Home) -> None:
    for run_id, perplexity in (("before", 9.0), ("after", 7.5)):
        steps = leave_run(home, run_id, settings() | {"task": "causal_lm"})
        leave_training(steps, history(0.5))
        (steps / "evaluate-model" / "predictions").mkdir(parents=True)
        figure = {"value": perplexity, "interval": [perplexity - 1, perplexity + 1]}
        scores = {"rows": 9, "challenger": {"perplexity": figure}, "baseline": {}}
        (steps / "evaluate-model" / "scores").write_text(json.dumps(scores))
    found = compared(home, "before", "after")
    perplexity_row = found.tested["perplexity"]
    assert (perplexity_row.difference, perplexity_row.lower_is_better) == (-1.5, True)
    assert found.paired.unpaired == "A left no answers to its test prompts"
    assert "perplexity −1.5000" in render(found)


def leave_answers(home: Home, run_id: str, answer: str, loss: float, **changes: Any) -> None:
    """A language model's run that answered three prompts; `loss` is of each token of the references."""
    steps = leave_run(home, run_id, settings() | {"task": "causal_lm"})
    leave_training(steps, history(0.5))
    rows = [
        {
            "id": number,
            "conversation": number,
            "prompt": f"question {number}",
            "reference": f"the answer to question {number}",
            "answer": answer.format(number),
            "sampled_answer": answer.format(number),
            "loss": loss * (number + 1),
            "tokens": number + 1,
        }
        | changes
        for number in range(3)
    ]
    folder = steps / "evaluate-model" / "predictions"
    folder.mkdir(parents=True)
    (folder / "predictions.json").write_text(json.dumps(rows))
    figures = {"perplexity": math.exp(loss), "rouge_l": 0.5}
    scores = {"challenger": {name: {"value": value} for name, value in figures.items()}, "baseline": {}}
    (steps / "evaluate-model" / "scores").write_text(json.dumps(scores))


def test_answers_to_the_same_prompts_have_paired_intervals(home: Home) -> None:
    leave_answers(home, "silent", "nothing", loss=2.0)
    leave_answers(home, "learned", "the answer to question {}", loss=1.0)
    found = compared(home, "silent", "learned")
    rows = found.tested
    # Each row gains the same, so every resample does, whichever rows are drawn.
    assert rows["rouge_l"].interval == pytest.approx((1.0, 1.0))
    assert rows["perplexity"].interval == pytest.approx((math.e - math.e**2,) * 2)
    assert found.headline == "B is better"
    assert "Both answered the same 3 prompts" in render(found)


def test_answers_to_other_prompts_have_no_intervals_and_other_tokens_none_of_perplexity(home: Home) -> None:
    leave_answers(home, "ours", "nothing", loss=2.0)
    leave_answers(home, "others", "nothing", loss=1.0, prompt="something else")
    leave_answers(home, "tokens", "nothing", loss=1.0, tokens=7)
    assert (
        compared(home, "ours", "others").paired.unpaired
        == "the test prompts are not the same: 3 of A, 3 of B"
    )
    rows = compared(home, "ours", "tokens").tested
    assert rows["perplexity"].interval is None
    assert rows["rouge_l"].interval == (0.0, 0.0)


def test_answers_to_one_question_are_drawn_together(home: Home) -> None:
    leave_answers(home, "silent", "nothing", loss=2.0, conversation=1)
    leave_answers(home, "half", "the answer to question 1", loss=1.0, conversation=1)
    row = compared(home, "silent", "half").tested["rouge_l"]
    assert row.interval is not None and row.interval[0] == row.interval[1]  # one question has one draw


def test_answers_that_do_not_tell_their_conversation_are_compared_without_intervals(home: Home) -> None:
    leave_answers(home, "new", "nothing", loss=2.0)
    leave_answers(home, "old", "nothing", loss=1.0)
    [path] = home.run_folder("old").rglob("predictions.json")
    rows = [{key: row[key] for key in row if key != "conversation"} for row in json.loads(path.read_text())]
    path.write_text(json.dumps(rows))
    assert "does not record the conversation of its rows" in str(compared(home, "new", "old").paired.unpaired)


def test_the_command_prints_tables_and_leaves_a_page_that_loads_nothing(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gauntlet("compare", "weak", "strong") == 0
    output = capsys.readouterr().out
    for words in ("B is better: macro-F1 +", "training.epochs", "angry <b>", "Cost", "macro-F1"):
        assert words in output
    path = Path(output.strip().splitlines()[-1].removeprefix("page: "))
    page = path.read_text(encoding="utf-8")
    assert path == home.folder / "comparisons" / "weak--strong.html"
    assert page.count('<svg class="chart"') == 2
    assert "angry &lt;b&gt;" in page and "angry <b>" not in page
    assert "<script" not in page and "http://" not in page

    assert gauntlet("compare", "weak", "strong", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["table"] for row in rows} == {"settings", "test", "classes", "validation", "costs"}
    [macro_f1] = [row for row in rows if (row["table"], row.get("name")) == ("test", "macro-F1")]
    assert macro_f1["difference"] == macro_f1["second"] - macro_f1["first"] > 0
    assert macro_f1["interval"][0] <= macro_f1["difference"] <= macro_f1["interval"][1]


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ("nobody", "run 'nobody': not found"),
        ("weak", "run 'weak': found twice, expected two runs"),
        ("running", "run 'running': found running, expected a finished run. Wait for its end."),
        ("stopped", "run 'stopped': found interrupted, expected a finished run. Run it again."),
        ("untrained", "run 'untrained': found no training history, expected one: it ended with 'Bad data'"),
        ("images", "weak is a run of the task text_classification and images of image_classification"),
        ("damaged", "the run cannot be read"),
    ],
)
def test_what_keeps_runs_from_being_compared_is_one_message(
    home: Home, capsys: pytest.CaptureFixture[str], second: str, words: str
) -> None:
    leave_run(home, "running", settings(), state="running", finished=None, outcome="")
    leave_run(home, "stopped", settings(), state="interrupted", outcome="interrupted")
    leave_run(home, "untrained", settings(), outcome="Bad data")
    images = leave_run(home, "images", settings() | {"task": "image_classification"})
    leave_training(images, history(0.5))
    damaged = leave_run(home, "damaged", settings())
    leave_training(damaged, history(0.5))
    leave_evaluation(damaged, STRONG)
    (damaged / "evaluate-model" / "predictions").write_bytes(b"PAR1")
    assert gauntlet("compare", "weak", second) == (1 if second == "damaged" else 2)
    output = capsys.readouterr()
    assert words in output.err
    assert len(output.err.strip().splitlines()) == 1
    assert not (home.folder / "comparisons").exists()
