"""Verdicts of the committed manifests, recorded with what the other steps wrote for them.

`tests/recorded/SYSTEM.json` has the section `gates`, the documents that gate-model reads, and the verdict
and the table that it wrote for four models: the first one, one beside a champion, one that is worse than the
champion, and one whose champion could not be scored.

`python -m tests.components.gate_model.test_recorded_verdicts` records the verdicts again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gauntlet.components.gate_model.rules import Documents
from gauntlet.components.gate_model.run import judge_by_kind, markdown
from gauntlet.contracts.verdict import Verdict
from gauntlet.manifests.kinds import task_kind
from gauntlet.manifests.schema import section_of

RECORDED = Path(__file__).parents[2] / "recorded"


def recorded_runs() -> list[Any]:
    return [
        pytest.param(path, run, id=f"{path.stem}-{run}")
        for path in sorted(RECORDED.glob("*.json"))
        for run in json.loads(path.read_text(encoding="utf-8"))["runs"]
    ]


def judged(recorded: dict[str, Any], run: str) -> Verdict:
    documents = Documents(
        gates=section_of(recorded["bundle"]["task"], "gates", recorded["gates"]).model_dump(),
        scores=recorded["runs"][run]["scores"],
        candidates=recorded["candidates"],
        history=recorded["history"],
        certificate=recorded["parity"],
        model_sha256=recorded["bundle"]["model_sha256"],
        bundle_fault=None,
    )
    return judge_by_kind(task_kind(recorded["bundle"]["task"]), documents)


@pytest.mark.parametrize(("path", "run"), recorded_runs())
def test_the_gate_writes_the_recorded_verdict_to_the_byte(path: Path, run: str, tmp_path: Path) -> None:
    recorded = json.loads(path.read_text(encoding="utf-8"))
    verdict = judged(recorded, run)
    verdict.write(tmp_path / "verdict")
    expected = json.dumps(recorded["runs"][run]["verdict"], indent=2, ensure_ascii=False)
    assert (tmp_path / "verdict").read_text(encoding="utf-8") == expected
    assert markdown(verdict).split("\n") == recorded["runs"][run]["table"]


def test_every_committed_manifest_is_recorded() -> None:
    manifests = {path.stem for path in (RECORDED.parents[1] / "manifests").glob("*.yaml")}
    assert {path.stem for path in RECORDED.glob("*.json")} == manifests


def record() -> None:
    for path in RECORDED.glob("*.json"):
        recorded = json.loads(path.read_text(encoding="utf-8"))
        for name, run in recorded["runs"].items():
            verdict = judged(recorded, name)
            run |= {"verdict": verdict.as_json(), "table": markdown(verdict).split("\n")}
        path.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
