"""The table of candidates and the certificate, as convert-to-onnx writes them and others read them."""

from __future__ import annotations

import json
from pathlib import Path

from gauntlet.contracts.conversion import Candidate, Candidates, Latency, Neighbours, Reference

TABLE = Candidates(
    threads=2,
    clock="wall",
    processor="a CPU",
    rows=60,
    figures={"new_tokens": 16},
    pytorch=Reference(figures={"macro_f1": 0.9}, latency_ms={"eager": {1: Latency(median=9.0, p99=10.0)}}),
    objective="latency",
    candidates=(
        Candidate(
            name="plain",
            admitted=True,
            precision="fp32",
            size_mb=2.0,
            figures={"macro_f1": float("nan")},
            neighbours=Neighbours(rows=60, max_difference=0.01, label_changes=0),
            fused={"attention": 0},
            latency_ms={1: Latency(median=2.0, p99=3.0, batches=50)},
            speedup={1: 4.5},
        ),
        Candidate(name="fused", admitted=False, reason="needs a transformer encoder", precision="fp32"),
    ),
    objective_batch_size=1,
    chosen="plain",
)


def test_the_figures_of_a_task_kind_lie_beside_the_other_keys() -> None:
    content = TABLE.as_json()
    assert content["new_tokens"] == 16 and content["pytorch"]["macro_f1"] == 0.9
    assert [*content["candidates"][0]] == [
        "name", "admitted", "reason", "precision", "size_mb", "macro_f1", "neighbours", "fused",
        "latency_ms", "speedup",
    ]  # fmt: skip
    assert content["candidates"][0]["latency_ms"] == {"1": {"median": 2.0, "p99": 3.0, "batches": 50}}


def test_a_candidate_without_figures_has_its_reason_alone() -> None:
    assert TABLE.as_json()["candidates"][1] == {
        "name": "fused",
        "admitted": False,
        "reason": "needs a transformer encoder",
        "precision": "fp32",
    }


def test_what_is_absent_is_left_out_and_what_is_not_finite_is_null() -> None:
    content = TABLE.as_json()
    assert not {"tokenizing_ms", "contention", "pareto_front"} & content.keys()
    assert content["candidates"][0]["reason"] is None and content["candidates"][0]["macro_f1"] is None


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    TABLE.write(tmp_path / "candidates")
    read = Candidates.read(tmp_path / "candidates")
    assert read.as_json() == TABLE.as_json()
    assert read.figures == {"new_tokens": 16}
    assert read.winner is not None and read.winner.speedup == {1: 4.5}


def test_a_broken_field_is_none_for_a_reader_that_has_to_show_the_rest() -> None:
    content = TABLE.as_json()
    content["candidates"][0]["neighbours"]["rows"] = "many"
    content["threads"] = "two"
    found, faults = Candidates.read_tolerantly(json.dumps(content))
    assert found is not None and found.threads is None and found.chosen == "plain"
    assert found.candidates[0].neighbours is not None and found.candidates[0].neighbours.rows is None
    assert len(faults) == 2 and found.candidates[0].figures == {"macro_f1": None}
