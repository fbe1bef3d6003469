from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gauntlet.components.convert_to_onnx.admission import (
    CandidateResult,
    admitted,
    best,
    neighbour_refusal,
    pareto_front,
)
from gauntlet.components.convert_to_onnx.candidates import Failed, Graph
from gauntlet.components.convert_to_onnx.export import FusedOps
from gauntlet.components.convert_to_onnx.scoring import NeighbourEffect
from gauntlet.contracts.conversion import Latency
from gauntlet.manifests.conversion import CandidateName, Conversion
from gauntlet.manifests.errors import GauntletError
from gauntlet.tasks.classification.conversion import LabelParity, WorstRow

BOUNDS = Conversion(max_abs_logit_difference=1e-4, min_label_agreement=0.98, max_metric_drop=0.01)
FUSED = FusedOps(attention=2, layer_norm=4, gelu=2)
GOOD = LabelParity(
    rows=100,
    left_padded_rows=50,
    max_abs_difference=1e-6,
    disagreements=0,
    left_padded_disagreements=0,
    agreement_by_class={"calm": 1.0},
    pytorch_macro_f1=0.9,
    macro_f1=0.9,
    metric_drop_interval=(-0.004, 0.004),
    metric_drop_bound=0.003,
    worst=(WorstRow(row=17, max_abs_difference=1e-6, label="calm", pytorch="calm", candidate="glad"),),
)
ALONE = NeighbourEffect(rows=96, max_difference=0.0, label_changes=0)
NAN = float("nan")


def result(
    name: CandidateName, milliseconds: dict[int, float], reason: str | None = None, macro_f1: float = 0.9
) -> CandidateResult:
    latency = {size: Latency(median=median, p99=median, batches=10) for size, median in milliseconds.items()}
    graph = Graph(name, Path(f"{name}.onnx"), FUSED)
    return CandidateResult(graph, replace(GOOD, macro_f1=macro_f1), reason, ALONE, latency)


def test_a_candidate_within_every_bound_is_admitted() -> None:
    assert GOOD.refusal("fp32", BOUNDS) is None
    assert GOOD.refusal("int8", BOUNDS) is None


def test_fp32_is_held_to_its_logits_and_int8_is_not() -> None:
    parity = replace(GOOD, max_abs_difference=2e-4)
    reason = parity.refusal("fp32", BOUNDS)
    assert reason is not None
    assert "differ from PyTorch's by up to 0.0002, over max_abs_logit_difference 0.0001" in reason
    assert "row 17" in reason
    assert parity.refusal("int8", BOUNDS) is None


def test_int8_is_held_to_its_labels_and_the_worst_row_is_named() -> None:
    reason = replace(GOOD, disagreements=3).refusal("int8", BOUNDS)
    assert reason is not None
    assert "3 of 100 labels differ from PyTorch's, and 0 of 50 with padding on the left" in reason
    assert "agreement 0.9700 is under min_label_agreement 0.98" in reason
    assert "row 17, glad for calm" in reason


@pytest.mark.parametrize(("disagreements", "refused"), [(2, False), (3, True)])
def test_a_bound_itself_is_within_the_bounds(disagreements: int, refused: bool) -> None:
    assert (replace(GOOD, disagreements=disagreements).refusal("int8", BOUNDS) is not None) is refused


def test_padding_on_the_left_counts_as_much() -> None:
    reason = replace(GOOD, left_padded_disagreements=2).refusal("int8", BOUNDS)
    assert reason is not None
    assert "2 of 50 with padding on the left, so agreement 0.9600 is under" in reason


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_a_drop_that_may_be_too_large_refuses_every_precision(precision: str) -> None:
    parity = replace(GOOD, macro_f1=0.895, metric_drop_bound=0.011)
    reason = parity.refusal(precision, BOUNDS)  # type: ignore[arg-type]
    assert reason == (
        "macro-F1 falls by 0.0050 to 0.8950, and at 95 % confidence by up to 0.0110, "
        "over max_metric_drop 0.01"
    )


def test_all_broken_bounds_are_reported_together() -> None:
    reason = replace(GOOD, max_abs_difference=1.0, metric_drop_bound=0.5).refusal("fp32", BOUNDS)
    assert reason is not None
    assert "max_abs_logit_difference" in reason
    assert "max_metric_drop" in reason


@pytest.mark.parametrize("figure", ["max_abs_difference", "metric_drop_bound"])
def test_nan_is_within_no_bound(figure: str) -> None:
    assert replace(GOOD, **{figure: NAN}).refusal("fp32", BOUNDS) is not None


def test_a_candidate_whose_rows_change_each_other_is_refused() -> None:
    bounds = BOUNDS.model_copy(update={"max_neighbour_difference": 0.05, "min_label_agreement": 0.98})
    assert neighbour_refusal(NeighbourEffect(100, 0.05, 2), bounds) is None
    reason = neighbour_refusal(NeighbourEffect(100, 0.111, 3), bounds)
    assert reason == (
        "a row's probabilities change by up to 0.111 with the rows and padding of its batch, over "
        "max_neighbour_difference 0.05; 3 of 100 rows get another label with other rows in their batch, "
        "more than min_label_agreement 0.98 allows"
    )
    assert neighbour_refusal(NeighbourEffect(100, NAN, 0), bounds) is not None


@pytest.mark.parametrize(("objective", "winner"), [("latency", "fused"), ("throughput", "plain")])
def test_the_fastest_at_the_batch_size_of_the_objective_wins(objective: str, winner: str) -> None:
    bounds = Conversion(objective=objective, batch_sizes=(1, 32))  # type: ignore[arg-type]
    plain, fused = result("plain", {1: 3.0, 32: 80.0}), result("fused", {1: 2.0, 32: 90.0})
    assert best([plain, fused], bounds).name == winner


def test_the_smallest_file_wins_where_size_is_the_objective(tmp_path: Path) -> None:
    results = []
    for name, size in (("plain", 2000), ("int8", 500)):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(bytes(size))
        results.append(CandidateResult(Graph(name, path, FUSED), GOOD, None, ALONE))  # type: ignore[arg-type]
    assert best(results, Conversion(objective="size")).name == "int8"


def test_a_refused_candidate_does_not_ship_however_fast_it_is() -> None:
    fused, int8 = result("fused", {1: 2.0}), result("int8", {1: 1.0}, reason="labels differ")
    results = admitted([fused, int8, Failed("plain", "broke")])
    assert best(results, Conversion(batch_sizes=(1,))) is fused


def test_the_pareto_front_holds_whom_nobody_beats() -> None:
    results = [
        result("plain", {1: 3.0}, macro_f1=0.90),
        result("fused", {1: 2.0}, macro_f1=0.90),
        result("int8", {1: 1.0}, macro_f1=0.89),
        result("weights_int4", {1: 1.5}, macro_f1=0.88),
        result("weights_int8", {1: 2.0}, macro_f1=0.90),
    ]
    assert pareto_front(results, batch_size=1) == ["fused", "int8", "weights_int8"]


def test_nothing_admissible_is_an_error_with_every_reason() -> None:
    with pytest.raises(GauntletError) as error:
        admitted([Failed("plain", "could not be made: ValueError: no"), result("fused", {}, "logits differ")])
    assert "plain  could not be made: ValueError: no\n" in str(error.value)
    assert "fused  logits differ\n" in str(error.value)
