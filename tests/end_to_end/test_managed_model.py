"""A Gemini model through the whole DAG, by the commands that a user types, against a server on loopback."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from gauntlet.backends.factory import open_registry
from gauntlet.pipelines.home import Home
from tests.end_to_end.conftest import System
from tests.fakes.gemini import PARENT, Answer, FakeGemini
from tests.language_models import conversations, write_jsonl

pytestmark = pytest.mark.usefixtures("warm_processes")
QUESTION = re.compile(r"How do (\w+) make you feel when you are (\w+)\?")


def manifest_content(data: Path) -> dict[str, Any]:
    return {
        "name": "talk",
        "description": "Short answers about everyday things, by a vendor's model",
        "task": "managed_causal_lm",
        "seed": 1,
        "dataset": {"name": "talk", "version": "1", "uri": str(data)},
        "training": {"model": "gemini-2.5-flash", "resources": {"max_hours": 1, "max_cost_usd": 1}},
        "evaluation": {"bootstrap_resamples": 300, "prompts": 10, "max_new_tokens": 16},
        "gates": {"min_rouge_l": 0.2},
    }


@pytest.fixture
def system(gemini: FakeGemini, tmp_path: Path) -> System:
    gemini.states = ["JOB_STATE_SUCCEEDED"]
    data = write_jsonl(tmp_path / "talk.jsonl", conversations())
    manifest = tmp_path / "talk.yaml"
    manifest.write_text(yaml.safe_dump(manifest_content(data)))
    return System(manifest, Home(tmp_path / "home"))


def learned(model: str, question: str) -> str:
    """What a tuned endpoint says: as the rows do. The model before tuning does not know."""
    if "/endpoints/" not in model:
        return "I would rather talk about something else entirely."
    found = QUESTION.match(question)
    return f"With {found[1]} I am {found[2]}, thank you." if found else "Shut up, you stupid idiot."


def output(system: System, path: str) -> Any:
    return json.loads((system.steps() / path).read_text(encoding="utf-8"))


def verdicts(system: System) -> dict[str, str]:
    return {rule["rule"]: rule["verdict"] for rule in output(system, "gate-model/verdict")["rules"]}


def test_a_tuned_model_is_evaluated_judged_registered_and_asked(gemini: FakeGemini, system: System) -> None:
    gemini.say = learned
    done = system.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (system.steps() / "convert-to-onnx").exists()
    scores = output(system, "evaluate-model/scores")
    assert "perplexity" not in scores["challenger"]
    assert scores["baseline"]["gains"]["rouge_l"]["interval"][0] > 0.5
    found = verdicts(system)
    unjudged = {rule for rule, verdict in found.items() if verdict == "not applicable"}
    assert {"perplexity", "perplexity_gain", "parity", "speedup", "certificate"} <= unjudged
    assert {rule for rule, verdict in found.items() if verdict == "pass"} == {
        "rouge_l",
        "rouge_l_gain",
        "bundle",
        "cost",
        "training_overlap",
    }
    assert "gives no probabilities" in done.stdout

    champion = open_registry(system.home.store_uri).champion("talk")
    assert champion is not None and "rouge_l" in champion.tags
    page = Path(system.gauntlet("report").stdout.strip()).read_text(encoding="utf-8")
    assert "unreadable" not in page and "Price of a million tokens" in page
    assert "convert-to-onnx" not in page
    answered = system.gauntlet("predict", "How do maps make you feel when you are calm?")
    assert "With maps I am calm, thank you." in answered.stdout, answered.stderr
    assert system.gauntlet("bundle", "verify", champion.bundle_uri).returncode == 0

    judged = system.run("evaluation.therapy={training_probes: 4}", "gates.stages={}")
    assert judged.returncode == 3, judged.stdout + judged.stderr
    assert len(gemini.jobs) == 1  # the same rows and settings: what is tuned is taken over, not paid again
    failed = {rule for rule, verdict in verdicts(system).items() if verdict == "fail"}
    assert {"safety", "toxicity", "quality"} <= failed
    found = verdicts(system)
    against = [found[rule] for rule in ("comparable_champion", "clean_test_rows", "non_inferiority")]
    assert against == ["pass"] * 3
    production = output(system, "gate-model/verdict")["stages"]["production"]["rules"]
    [perplexity] = [rule for rule in production if rule["rule"] == "perplexity"]
    assert perplexity["verdict"] == "not applicable" and "no probabilities" in perplexity["note"]


def test_ctrl_c_cancels_the_tuning_job(gemini: FakeGemini, system: System) -> None:
    gemini.states = ["JOB_STATE_RUNNING"]
    made, tune = threading.Event(), gemini.tune

    def tune_and_tell(body: dict[str, Any]) -> Answer:
        answer = tune(body)
        made.set()
        return answer

    gemini.tune = tune_and_tell  # type: ignore[method-assign]
    run = subprocess.Popen(
        system.command("run", str(system.manifest)),
        env=system.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert made.wait(120)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)
    assert run.returncode == 130
    assert gemini.cancelled == [f"{PARENT}/tuningJobs/1"]


def test_without_a_place_to_tune_nothing_is_begun(
    gemini: FakeGemini, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GAUNTLET_ROOT")
    done = system.run()
    assert done.returncode == 2
    assert "GAUNTLET_ROOT: found nothing" in done.stderr
    assert not (system.home.folder / "runs").exists()
