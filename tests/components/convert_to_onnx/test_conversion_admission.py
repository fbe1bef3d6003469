from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from components.convert_to_onnx.admission import Trial, admitted, fastest, refusal
from components.convert_to_onnx.candidates import Failed, Graph
from components.convert_to_onnx.parity import Parity, WorstRow
from components.convert_to_onnx.timing import Latency
from manifests.errors import GauntletError
from manifests.schema import CandidateName, Conversion

BOUNDS = Conversion(max_abs_logit_difference=1e-4, min_label_agreement=0.98, max_metric_drop=0.01)
GOOD = Parity(
    rows=100,
    max_abs_difference=1e-6,
    disagreements=0,
    agreement_by_class={"calm": 1.0},
    pytorch_macro_f1=0.9,
    macro_f1=0.9,
    worst=(WorstRow(row=17, max_abs_difference=1e-6, label="calm", pytorch="calm", candidate="glad"),),
)
NAN = float("nan")


def trial(name: CandidateName, milliseconds: dict[int, float], reason: str | None = None) -> Trial:
    latency = {size: Latency(median, median, batches=10) for size, median in milliseconds.items()}
    return Trial(Graph(name, Path(f"{name}.onnx")), GOOD, reason, latency)


def test_a_candidate_within_every_bound_is_admitted() -> None:
    assert refusal(GOOD, "fp32", BOUNDS) is None
    assert refusal(GOOD, "int8", BOUNDS) is None


def test_fp32_is_held_to_its_logits_and_int8_is_not() -> None:
    parity = replace(GOOD, max_abs_difference=2e-4)
    reason = refusal(parity, "fp32", BOUNDS)
    assert reason is not None
    assert "differ from PyTorch's by up to 0.0002, over max_abs_logit_difference 0.0001" in reason
    assert "row 17" in reason
    assert refusal(parity, "int8", BOUNDS) is None


def test_int8_is_held_to_its_labels_and_the_worst_row_is_named() -> None:
    reason = refusal(replace(GOOD, disagreements=3), "int8", BOUNDS)
    assert reason is not None
    assert "3 of 100 labels differ" in reason
    assert "agreement 0.9700 is under min_label_agreement 0.98" in reason
    assert "row 17, glad for calm" in reason


@pytest.mark.parametrize(("disagreements", "refused"), [(2, False), (3, True)])
def test_a_bound_itself_is_within_the_bounds(disagreements: int, refused: bool) -> None:
    assert (refusal(replace(GOOD, disagreements=disagreements), "int8", BOUNDS) is not None) is refused


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_drop_of_the_metric_refuses_either_precision(precision: str) -> None:
    reason = refusal(replace(GOOD, macro_f1=0.88), precision, BOUNDS)  # type: ignore[arg-type]
    assert reason == "macro-F1 falls by 0.0200 to 0.8800, over max_metric_drop 0.01"


def test_a_better_metric_is_no_drop() -> None:
    assert refusal(replace(GOOD, macro_f1=0.95), "int8", BOUNDS) is None


def test_all_broken_bounds_are_reported_together() -> None:
    reason = refusal(replace(GOOD, max_abs_difference=1.0, macro_f1=0.5), "fp32", BOUNDS)
    assert reason is not None
    assert "max_abs_logit_difference" in reason
    assert "max_metric_drop" in reason


@pytest.mark.parametrize("figure", ["max_abs_difference", "macro_f1"])
def test_nan_is_within_no_bound(figure: str) -> None:
    assert refusal(replace(GOOD, **{figure: NAN}), "fp32", BOUNDS) is not None


def test_the_fastest_at_the_objective_batch_size_wins() -> None:
    plain, fused = trial("plain", {1: 3.0, 32: 80.0}), trial("fused", {1: 2.0, 32: 90.0})
    assert fastest([plain, fused], batch_size=1) is fused
    assert fastest([plain, fused], batch_size=32) is plain


def test_a_refused_candidate_does_not_ship_however_fast_it_is() -> None:
    fused, int8 = trial("fused", {1: 2.0}), trial("fused_int8", {1: 1.0}, reason="labels differ")
    assert fastest(admitted([fused, int8, Failed("plain", "broke")]), batch_size=1) is fused


def test_nothing_admissible_is_an_error_with_every_reason() -> None:
    with pytest.raises(GauntletError) as error:
        admitted([Failed("plain", "could not be made: ValueError: no"), trial("fused", {}, "logits differ")])
    assert "plain  could not be made: ValueError: no\n" in str(error.value)
    assert "fused  logits differ\n" in str(error.value)
