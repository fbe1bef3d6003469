"""How a run ended: in words, as an exit code, and what to do next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import finished_runs as runs
import pytest

from gauntlet.components.gate_model.rules import Documents, advice_of, decide
from gauntlet.components.write_report.collect import collect
from gauntlet.components.write_report.next_steps import next_steps
from gauntlet.components.write_report.record import CollectedRun, FinalStatus, Outcome, outcome
from gauntlet.components.write_report.report import render, tiles
from gauntlet.manifests.kinds import task_kind
from gauntlet.tasks.classification.gates import RULES
from gauntlet.tasks.classification.manifest import Gates
from gauntlet.tasks.language.scores import OtherModel
from gauntlet.tasks.language.scores import Scores as LanguageScores


def ended(
    root: Path, build: Callable[[runs.FolderOf], None], final: str = "FAILED"
) -> tuple[CollectedRun, Outcome]:
    build(runs.local(root))
    record = collect(str(root), runs.JOB, runs.TASK, FinalStatus(final))
    return record, outcome(record)


def commands(record: CollectedRun, result: Outcome) -> list[str | None]:
    return [step.command for step in next_steps(record, result)]


def test_a_promoted_model_names_its_version_and_the_one_it_replaces(tmp_path: Path) -> None:
    record, result = ended(tmp_path, runs.promoted)
    assert (result.kind, result.exit_code) == ("promoted", 0)
    assert result.headline == "Promoted as version 3"
    assert "version 2" in result.detail
    assert 'gauntlet predict --model emotion "TEXT"' in commands(record, result)
    assert "gauntlet rollback emotion" in commands(record, result)


def test_a_first_promotion_offers_no_way_back(tmp_path: Path) -> None:
    record, result = ended(tmp_path, lambda folder_of: runs.promoted(folder_of, with_champion=False))
    assert result.headline == "Promoted as version 1"
    assert "no champion" in result.detail
    assert not any("rollback" in (command or "") for command in commands(record, result))


def test_a_model_that_waits_for_a_person_is_a_success_and_says_how_to_promote_it(tmp_path: Path) -> None:
    def build(folder_of: runs.FolderOf) -> None:
        runs.promoted(folder_of)
        version = runs.version("4", aliases=["challenger"])
        runs.write(folder_of("register-model"), "version", version)

    record, result = ended(tmp_path, build)
    assert (result.kind, result.exit_code) == ("registered", 0)
    assert "version 4" in result.headline and "manual" in result.detail
    assert commands(record, result)[0] == "gauntlet promote emotion"


def test_a_model_that_was_champion_before_is_not_called_promoted(tmp_path: Path) -> None:
    def build(folder_of: runs.FolderOf) -> None:
        runs.promoted(folder_of)
        version = runs.version("1", aliases=["previous"])
        runs.write(folder_of("register-model"), "version", version)

    _, result = ended(tmp_path, build)
    assert result.kind == "registered" and "champion before" in result.detail


@pytest.mark.parametrize(
    ("aliases", "headline", "words", "command"),
    [
        (
            ["champion"],
            "Unchanged: version 3 is still the champion",
            "it is the champion's own",
            "gauntlet registry --model emotion",
        ),
        (
            ["previous"],
            "Unchanged: the bundle is that of version 3",
            "was champion before and has been replaced",
            "gauntlet promote emotion --version 3",
        ),
    ],
)
def test_a_run_whose_bundle_was_registered_before_says_that_nothing_happened(
    tmp_path: Path, aliases: list[str], headline: str, words: str, command: str
) -> None:
    def build(folder_of: runs.FolderOf) -> None:
        runs.promoted(folder_of)
        version = runs.version("3", aliases=aliases, registered=False)
        runs.write(folder_of("register-model"), "version", version)

    record, result = ended(tmp_path, build)
    assert (result.kind, result.headline, result.exit_code) == ("unchanged", headline, 0)
    assert words in result.detail and "Nothing was registered or promoted." in result.detail
    assert commands(record, result)[0] == command


def test_a_rejected_model_names_every_rule_that_failed_and_ends_with_3(tmp_path: Path) -> None:
    record, result = ended(tmp_path, runs.rejected, "SUCCEEDED")
    assert (result.kind, result.exit_code) == ("rejected", 3)
    assert result.headline == "Rejected by speed-up and non-inferiority"
    assert result.detail == "Version 2 stays the champion."
    assert [step.about for step in next_steps(record, result)] == ["speed-up", "non-inferiority", ""]


def test_a_run_on_this_machine_is_judged_again_or_resumed_by_its_own_name(tmp_path: Path) -> None:
    rejected, result = ended(tmp_path / "emotion-1" / "steps", runs.rejected, "SUCCEEDED")
    assert "gauntlet gate emotion-1 --set gates.KEY=VALUE" in commands(rejected, result)
    assert "gauntlet promote --run emotion-1 --by NAME --reason TEXT" in commands(rejected, result)
    killed, result = ended(tmp_path / "emotion-2" / "steps", runs.killed_in_training)
    started = replace(killed, run_command="gauntlet run tickets.yaml --from-onnx model.onnx")
    assert commands(started, result) == ["gauntlet run --resume emotion-2", started.run_command]


def test_the_page_says_when_a_speed_up_is_one_of_a_busy_machine(tmp_path: Path) -> None:
    record, _ = ended(tmp_path, runs.promoted, "SUCCEEDED")
    assert record.candidates is not None
    busy = replace(record, candidates=record.candidates.model_copy(update={"clock": "cpu"}))
    quiet, told = ({tile.label: tile.detail for tile in tiles(one)} for one in (record, busy))
    assert told["Speed-up"] == f"{quiet['Speed-up']}, by one thread's CPU time, because the machine was busy"
    page = render(busy, name="emotion", run_id="1", manifest_sha256="0")
    assert "time on a CPU, one thread" in page
    assert "time on a CPU, one thread" not in render(record, name="emotion", run_id="1", manifest_sha256="0")


@pytest.mark.parametrize(("clock", "words"), [("cpu", "by one thread's CPU time"), ("wall", "PyTorch")])
def test_the_gates_table_says_what_a_speed_up_was_timed_by(clock: str, words: str) -> None:
    documents = Documents(Gates(min_macro_f1=0.5).model_dump(), {}, {"clock": clock})
    [rule] = [rule for rule in decide(RULES, documents).rules if rule.rule == "speedup"]
    assert words in str(rule.note)


def test_steps_whose_outputs_came_from_another_run_are_reused_and_name_it(tmp_path: Path) -> None:
    def build(folder_of: runs.FolderOf) -> None:
        runs.promoted(folder_of)
        for step in ("validate-data", "train-model"):
            (folder_of(step) / "reused.json").write_text('{"run": "emotion-1"}')

    record, result = ended(tmp_path, build, "SUCCEEDED")
    assert (record.step("train-model").state, record.step("train-model").reused_from) == (
        "reused",
        "emotion-1",
    )
    assert result.kind == "promoted"
    assert "Not run again: its outputs are those of run <code>emotion-1</code>" in render(
        record, name="emotion", run_id="2", manifest_sha256="0"
    )


@pytest.mark.parametrize("task", ["text_classification", "ordinal_grading", "causal_lm"])
def test_there_is_advice_for_every_rule_of_the_gate(task: str) -> None:
    assert all(advice_of(task_kind(task).function("gates", "RULES")).values())


def test_refused_data_names_the_checks_and_ends_with_4(tmp_path: Path) -> None:
    record, result = ended(tmp_path, runs.bad_data)
    assert (result.kind, result.exit_code) == ("data refused", 4)
    assert result.headline == "Data refused by validate-data"
    assert "2 checks (leakage and class balance)" in result.detail
    advice = next_steps(replace(record, run_command="gauntlet run 'my data.yaml' --set seed=2"), result)
    assert [step.command for step in advice] == [
        None,
        None,
        None,
        "gauntlet run 'my data.yaml' --set seed=2",
        "gauntlet run 'my data.yaml' --set seed=2 --set dataset.checks.leakage.severity=drop "
        "--set dataset.checks.leakage.max_fraction=0.001 --set dataset.checks.class_balance.max_ratio=50.0",
    ]
    assert "dataset.checks.class_balance.max_ratio" in advice[1].text
    assert "/validate-data/rejected/rejected.csv" in advice[2].text


def test_data_that_could_not_be_read_is_refused_without_checks(tmp_path: Path) -> None:
    record, result = ended(
        tmp_path, lambda folder_of: runs.fail(folder_of("validate-data"), "emotion.csv: no such file", 4)
    )
    assert result.exit_code == 4 and result.detail == "emotion.csv: no such file"
    assert commands(record, result) == ["gauntlet run MANIFEST"]


@pytest.mark.parametrize("exit_code", [1, 2])
def test_a_failure_ends_with_the_exit_code_of_its_step(tmp_path: Path, exit_code: int) -> None:
    def build(folder_of: runs.FolderOf) -> None:
        runs.validated(folder_of)
        runs.fail(folder_of("train-model"), "training.encoder: found nothing", exit_code)

    _, result = ended(tmp_path, build)
    assert (result.kind, result.exit_code) == ("failed", exit_code)
    assert result.headline == "Failed in train-model"
    assert result.detail == "training.encoder: found nothing"


def test_a_killed_step_ends_with_1(tmp_path: Path) -> None:
    assert ended(tmp_path, runs.killed_in_training)[1].exit_code == 1


def test_a_failed_registration_does_not_claim_that_nothing_was_registered(tmp_path: Path) -> None:
    def build(folder_of: runs.FolderOf) -> None:
        runs.promoted(folder_of)
        (folder_of("register-model") / "executor_output.json").unlink()
        runs.fail(folder_of("register-model"), "the registry is locked", 1)

    record, result = ended(tmp_path, build)
    assert result.headline == "Failed in register-model"
    assert commands(record, result)[0] == "gauntlet registry"
    assert not any("Nothing was registered" in step.text for step in next_steps(record, result))


def test_a_cancelled_run_is_called_cancelled(tmp_path: Path) -> None:
    _, result = ended(tmp_path, runs.killed_in_training, "CANCELLED")
    assert (result.kind, result.exit_code) == ("cancelled", 1)
    assert result.headline == "Cancelled during train-model"


def test_a_language_model_names_the_champion_that_it_was_compared_with(tmp_path: Path) -> None:
    champion = LanguageScores(
        challenger={}, baseline=OtherModel(), champion=OtherModel(name="version 2", version="2")
    )
    record, _ = ended(tmp_path, runs.promoted)
    record = replace(record, scores=champion)
    assert outcome(record).detail.startswith("It met every rule and takes over from version 2")
    assert "gauntlet rollback emotion" in commands(record, outcome(record))
    rejected = outcome(replace(record, version=None))
    assert (rejected.kind, rejected.detail) == ("rejected", "Version 2 stays the champion.")
