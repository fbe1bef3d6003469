"""A task kind of a third party, installed beside Gauntlet, through the whole DAG."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.environments import Environment, everything_but_gauntlet

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "plugin_token_classification"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """This checkout and, installed by pip, the plug-in."""
    folder = tmp_path_factory.mktemp("plugin")
    built = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    shutil.copytree(EXAMPLE, folder / "example", ignore=built)
    made = Environment(folder)
    made.see(everything_but_gauntlet())
    made.install("--editable", str(REPOSITORY))
    made.install(str(folder / "example"))
    shutil.copytree(folder / "example" / "data", made.work / "data")
    shutil.copyfile(folder / "example" / "manifest.yaml", made.work / "manifest.yaml")
    return made


def test_a_third_partys_task_kind_runs_from_data_to_a_promoted_model_that_answers(
    environment: Environment,
) -> None:
    listed = environment.run("tasks", "--json", program="gauntlet")
    kinds = [json.loads(line) for line in listed.stdout.splitlines()]
    [own] = [kind for kind in kinds if kind["task"] == "token_classification"]
    assert own["metrics"] == ["entity_f1", "token_accuracy"]
    ran = environment.run("run", "manifest.yaml", program="gauntlet")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Promoted as version 1" in ran.stdout
    question = ("predict", "--model", "names", "--json", "Ada Novak moved to Oslo .")
    asked = environment.run(*question, program="gauntlet")
    assert asked.returncode == 0, asked.stdout + asked.stderr
    entities = json.loads(asked.stdout)["entities"]
    assert [(one["text"], one["kind"]) for one in entities] == [("Ada Novak", "PER"), ("Oslo", "LOC")]


def test_entity_f1_is_that_of_a_hand_calculation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    from gauntlet_token_classification.entities import is_broken, outcomes, scores, spans

    truth = ["B-PER", "I-PER", "O", "B-LOC", "B-LOC", "O"]
    predicted = ["B-PER", "I-PER", "O", "B-LOC", "I-LOC", "B-ORG"]
    assert spans(truth) == {(0, 2, "PER"), (3, 4, "LOC"), (4, 5, "LOC")}
    assert spans(predicted) == {(0, 2, "PER"), (3, 5, "LOC"), (5, 6, "ORG")}
    assert outcomes(truth, predicted) == (1, 3, 3, 4, 6)
    assert float(scores(np.array([1.0, 3, 3, 4, 6]))["entity_f1"]) == pytest.approx(2 * 1 / (3 + 3))
    assert is_broken(["O", "I-PER"])
    assert not is_broken(truth)
