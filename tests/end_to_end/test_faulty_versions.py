"""Versions with a fault are rolled back while they have a tenth of the requests, or none.

python -m pytest -m acceptance -s tests/end_to_end/test_faulty_versions.py
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from gauntlet.manifests.kinds import installed_kinds
from tests.deployed import MOST_TOKENS, Deployed, body_of, table, texts
from tests.faulty_kinds import kinds

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
RATE = 200.0
SHARE = 10
SETTINGS = {
    "steps": [SHARE, 50, 100],
    "min_requests": 2_000,
    "min_seconds": 30,
    "max_seconds": 300,
    "keep_previous_seconds": 2,
    "shadow_share": 0.05,
}
WIDTH, PRODUCTS = 512, 60
SHORT = [one.replace("fine", "table") for one in texts(3, 80)]
RARE = [f"{one} fine" for one in texts(4, 10, 3)]
LONG = [" ".join(["table"] * (MOST_TOKENS - 8) + [one]) for one in SHORT[:10]]
BODIES = [body_of([one]) for one in (*SHORT, *RARE, *LONG)]


def swap_labels(model: onnx.ModelProto) -> None:
    """The columns of the scores are in the other order, as if the labels had been sorted anew."""
    model.graph.node[-1].output[0] = "sums"
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 0]), "other_way"))
    model.graph.node.append(helper.make_node("Gather", ["sums", "other_way"], ["logits"], axis=1))


def forget_a_layer(model: onnx.ModelProto) -> None:
    """A bias is added that was not there when the model was proved."""
    model.graph.node[-1].output[0] = "sums"
    bias = np.array([0.0, 0.5], dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(bias, "bias"))
    model.graph.node.append(helper.make_node("Add", ["sums", "bias"], ["logits"]))


def compute_more_of_long_texts(model: onnx.ModelProto) -> None:
    """Matrix products for each token, whose result is not used for the scores."""
    graph = model.graph
    graph.node[-1].output[0] = "sums"
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.full((5, WIDTH), 1 / WIDTH, dtype=np.float32), "wide_table"),
            numpy_helper.from_array(np.eye(WIDTH, dtype=np.float32), "weights"),
            numpy_helper.from_array(np.array([1, 2]), "all_axes"),
            numpy_helper.from_array(np.float32(0), "nothing"),
        ]
    )
    graph.node.append(helper.make_node("Gather", ["wide_table", "input_ids"], ["wide0"]))
    for at in range(PRODUCTS):
        graph.node.append(helper.make_node("MatMul", [f"wide{at}", "weights"], [f"wide{at + 1}"]))
    graph.node.extend(
        [
            helper.make_node("ReduceMax", [f"wide{PRODUCTS}"], ["most"], axes=[1, 2], keepdims=0),
            helper.make_node("Mul", ["most", "nothing"], ["zero"]),
            helper.make_node("Unsqueeze", ["zero", "tokens_axis"], ["zeros"]),
            helper.make_node("Add", ["sums", "zeros"], ["logits"]),
        ]
    )


def overflow_at_a_word(model: onnx.ModelProto) -> None:
    """The score of one word is not finite, as after a conversion to fp16."""
    [scores] = [one for one in model.graph.initializer if one.name == "table"]
    values = numpy_helper.to_array(scores).copy()
    values[-1] = np.inf
    scores.CopyFrom(numpy_helper.from_array(values, "table"))


FAULTS = {
    "crashes on load": {"task": "crashing_text"},
    "has other scores than were proved": {"change": forget_a_layer},
    "answers wrongly": {"change": swap_labels},
    "slow on long texts": {"change": compute_more_of_long_texts},
    "5xx for one word": {"change": overflow_at_a_word},
    "leaks memory": {"task": "leaking_text"},
}
WITHOUT_TRAFFIC = ("crashes on load", "has other scores than were proved")


@pytest.fixture
def deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployed]:
    site = kinds.install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(site))
    installed_kinds.cache_clear()
    one = Deployed(tmp_path / "home", SETTINGS, python_path=[str(site), str(ROOT)])
    good = one.add(1.0)
    one.registry.promote("moods", good.version)
    assert one.gauntlet("deploy", str(one.manifest))[0] == 0
    yield one
    one.gateway.end()
    installed_kinds.cache_clear()


def test_each_fault_is_found_at_a_tenth_of_the_requests(deployed: Deployed) -> None:
    good = deployed.versions[0].version
    rows, faults = [], []
    for name, fault in FAULTS.items():
        version = deployed.add(1 + len(rows) / 100, **fault)
        bundle = version.tags["bundle_sha256"][:12]
        deployed.registry.promote("moods", version.version)
        with deployed.load(RATE, BODIES) as load:
            started = time.monotonic()
            code, said = deployed.gauntlet("deploy", str(deployed.manifest))
            took = time.monotonic() - started
        assert code == 3, said
        rollout = deployed.rollout()
        at = {one.phase: datetime.fromisoformat(one.at) for one in reversed(rollout.transitions)}
        shifted = [datetime.fromisoformat(one.at) for one in rollout.transitions if bundle in one.weights]
        most = max((one.weights.get(bundle, 0) for one in rollout.transitions), default=0)
        seconds = (at["undo"] - (shifted[0] if shifted else at["start"])).total_seconds()
        rows.append(
            (name, f"{most} %", f"{seconds:.0f}", f"{took:.0f}", load.answered[bundle], load.requests,
             load.failures, load.outcome.statuses["wrong answer"], rollout.why.rpartition("/")[2][:100])
        )  # fmt: skip
        wrong = {bundle: load.answered[bundle]} if name == "answers wrongly" else {}
        faults += [
            f"{name}: {text}"
            for is_so, text in (
                (rollout.phase == "rolled back", f"the rollout is {rollout.phase}"),
                (most <= (0 if name in WITHOUT_TRAFFIC else SHARE), f"it had {most} %"),
                (deployed.shares() == {good: 100}, f"the shares are {deployed.shares()}"),
                (deployed.champion() == good, f"the champion is {deployed.champion()}"),
                (load.failures == 0 or name == "5xx for one word", f"{load.failures} requests failed"),
                (bool(load.wrong) == bool(wrong), f"wrong answers: {load.wrong[:2]}"),
            )
            if not is_so
        ]
    print(
        table(
            f"Versions with a fault, at {RATE:g} requests per second",
            ("fault", "share", "s to detection", "s of the command", "requests to it", "to both", "failed",
             "wrong", "why"),
            rows,
        )
    )  # fmt: skip
    assert not faults, "\n".join(faults)
