"""`--json`: one JSON object per row of a listing, each on a line of its own, and nothing else on stdout."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gauntlet.backends.factory import open_registry
from gauntlet.backends.registry import Approval
from gauntlet.pipelines.cli import main
from gauntlet.pipelines.home import gauntlet_home
from gauntlet.serving.bundle import write_bundle
from tests.text_bundles import word_score_info, write_parts

SAMPLE = str(Path(__file__).parents[2] / "manifests" / "emotion_sample.yaml")


@pytest.fixture
def listed(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: str, code: int = 0) -> list[dict[str, Any]]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--json"])
        assert (ended.value.code or 0) == code
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return call


@pytest.mark.parametrize("command", ["runs", "registry", "prune"])
def test_an_empty_listing_prints_nothing(listed: Any, command: str) -> None:
    assert listed(command) == []


def test_runs_are_listed_newest_first_with_all_that_is_recorded(listed: Any) -> None:
    home = gauntlet_home()
    for started in ("2026-11-01T00:00:00+00:00", "2026-11-02T00:00:00+00:00"):
        home.save(replace(home.create_run("moods"), started=started))
    newest, oldest = listed("runs")
    assert (newest["started"], oldest["started"]) == (
        "2026-11-02T00:00:00+00:00",
        "2026-11-01T00:00:00+00:00",
    )
    assert newest["exit_code"] is None and newest["outcome"] == "running"
    removed = listed("rm", oldest["run_id"])
    assert removed == [
        {"what": oldest["run_id"], "why": "asked for", "bytes": removed[0]["bytes"], "removed": False}
    ]
    assert removed[0]["bytes"] > 0 and len(listed("runs")) == 2


def test_a_version_is_listed_with_its_turns_as_champion_and_its_approval(
    listed: Any, own_home: Path, tmp_path: Path
) -> None:
    write_bundle(tmp_path / "bundle", word_score_info(), write_parts(tmp_path / "parts"))
    store = open_registry(f"sqlite:///{own_home / 'gauntlet.db'}")
    version = store.register("moods", tmp_path / "bundle", {"macro_f1": "0.75", "run_id": "a"})
    store.promote("moods", version.version, approval=Approval("Ada", "agreed"))
    [row] = listed("registry")
    assert (row["model"], row["version"], row["aliases"]) == ("moods", "1", ["champion"])
    assert row["quality"] == {"macro_f1": 0.75}
    assert row["champion_turns"] == [{"at": row["since"], "by": "promote"}]
    assert (row["approved_by"], row["reason"], row["overruled"]) == ("Ada", "agreed", None)

    [info] = listed("bundle", "inspect", str(tmp_path / "bundle"))
    assert info["bundle_sha256"] == row["bundle_sha256"] and info["labels"] == ["bad", "good"]
    checks = listed("bundle", "verify", str(tmp_path / "bundle"), code=1)  # it has no certificate
    assert {check["name"] for check in checks if check["fault"]} == {"certificate"}


def test_manifests_are_listed_with_numbers_and_faults_go_to_stderr(listed: Any, tmp_path: Path) -> None:
    (tmp_path / "faulty.yaml").write_text("nonsense: 1")
    [checked] = listed("check", SAMPLE, str(tmp_path / "faulty.yaml"), code=2)
    assert (checked["system"], checked["max_cost_usd"]) == ("emotion_sample", 1.0)
    [cost] = listed("cost", SAMPLE)
    product = cost["usd_per_hour"] * cost["hours"] * cost["replicas"] * cost["attempts"]
    assert cost["usd"] == pytest.approx(product) and cost["fits"] is True


def test_task_kinds_are_listed_with_their_metrics_and_where_they_come_from(listed: Any) -> None:
    kinds = {row["task"]: row for row in listed("tasks")}
    assert "macro_f1" in kinds["text_classification"]["metrics"]
    assert kinds["text_classification"]["distribution"].startswith("gauntlet ")
    assert all(row["fault"] is None for row in kinds.values())
