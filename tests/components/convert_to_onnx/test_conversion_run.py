from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import f1_score
from tokenizers import Tokenizer

from gauntlet.components.convert_to_onnx.admission import CandidateResult, refusing, ship
from gauntlet.components.convert_to_onnx.baseline import write_baseline
from gauntlet.components.convert_to_onnx.processor import describe_processor
from gauntlet.components.convert_to_onnx.run import run
from gauntlet.components.convert_to_onnx.timing import BUSY
from gauntlet.contracts.drift import read_baseline
from gauntlet.manifests.conversion import Conversion, StudentConversion
from gauntlet.manifests.errors import GauntletError
from gauntlet.serving.bundle import Bundle, file_sha256
from gauntlet.serving.cpu import cpu_class
from gauntlet.serving.verification import SMOKE_TEXTS, verify
from gauntlet.tasks.texts.conversion import EncoderSubject
from gauntlet.trainer.saved_model import load_model, read_record
from tests.components.convert_to_onnx.conftest import save_checkpoint
from tests.components.convert_to_onnx.test_conversion_admission import result

pytestmark = pytest.mark.usefixtures("warm_processes")
WORDS = (
    "quiet",
    "lake",
    "slow",
    "breath",
    "still",
    "slam",
    "shout",
    "rage",
    "fist",
    "glare",
    "smile",
    "gift",
)
ROWS = 300
# int8 of random weights never keeps every label, so the fastest candidate is refused and another one ships.
STRICT = Conversion(
    candidates=("plain", "fused", "int8"),
    min_label_agreement=1.0,
    max_metric_drop=1.0,
    max_neighbour_difference=1.0,
    batch_sizes=(1, 4),
    objective="throughput",
    pytorch=("eager",),
)


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("splits")
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS, size=draw.integers(1, 25))) for _ in range(ROWS)]
    frame = pd.DataFrame({"text": texts, "label": draw.integers(0, 3, ROWS), "row": range(ROWS)})
    frame.to_parquet(folder / "validation.parquet")
    frame.sample(frac=1, random_state=1).to_parquet(folder / "test.parquet")
    frame[::2].to_parquet(folder / "train.parquet")
    return folder


def convert(section: Conversion, checkpoint: Path, splits: Path, out: Path) -> dict[str, float]:
    return run(
        section=section,
        name="moods",
        seed=7,
        manifest_sha256="a" * 64,
        checkpoint_path=checkpoint,
        splits_path=splits,
        bundle_path=out / "bundle",
        candidates_path=out / "candidates",
    )


class Converted:
    """One run of the step and what it left."""

    def __init__(self, checkpoint: Path, splits: Path, out: Path) -> None:
        self.figures = convert(STRICT, checkpoint, splits, out)
        self.bundle = out / "bundle"
        self.table: dict[str, Any] = json.loads((out / "candidates").read_text())
        self.rows: dict[str, Any] = {row["name"]: row for row in self.table["candidates"]}
        self.chosen: dict[str, Any] = self.rows[self.table["chosen"]]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, splits: Path) -> Converted:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAUNTLET_GIT_COMMIT", "0123abc")
        patch.delenv("GAUNTLET_IMAGE", raising=False)
        return Converted(checkpoint, splits, tmp_path_factory.mktemp("converted"))


def pytorch_logits(checkpoint: Path, texts: list[str]) -> np.ndarray:
    """Each text alone, tokenised by the tokenizers library itself: no padding, no batching."""
    tokenizer, model = Tokenizer.from_file(str(checkpoint / "tokenizer.json")), load_model(checkpoint)
    scores = []
    for text in texts:
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.inference_mode():
            scores.append(model(ids, torch.ones_like(ids)).numpy()[0])
    return np.array(scores)


def test_an_int8_candidate_under_the_agreement_bound_is_refused_and_a_slower_one_ships(
    converted: Converted,
) -> None:
    assert converted.rows["int8"]["admitted"] is False
    assert "is under min_label_agreement 1" in converted.rows["int8"]["reason"]
    assert converted.rows["plain"]["admitted"] and converted.rows["fused"]["admitted"]
    assert converted.table["chosen"] in {"plain", "fused"}


def test_the_chosen_one_is_the_fastest_admitted_at_the_objective_batch_size(converted: Converted) -> None:
    medians = {
        name: row["latency_ms"]["4"]["median"] for name, row in converted.rows.items() if row["admitted"]
    }
    assert converted.table["chosen"] == min(medians, key=medians.__getitem__)
    assert converted.table["objective"] == "throughput"
    assert converted.table["objective_batch_size"] == 4
    assert converted.table["chosen_speedup"] == converted.chosen["speedup"]


def test_every_candidate_is_timed_and_its_speedup_is_relative_to_pytorch(converted: Converted) -> None:
    pytorch = converted.table["pytorch"]["latency_ms"]["eager"]
    for row in converted.rows.values():
        for size in ("1", "4"):
            latency = row["latency_ms"][size]
            assert 0 < latency["median"] <= latency["p99"]
            assert row["speedup"][size] == pytorch[size]["median"] / latency["median"]


def test_the_table_says_how_busy_others_kept_the_machine(converted: Converted) -> None:
    if not Path("/proc/self/schedstat").is_file():
        pytest.skip("this system does not tell")
    assert 0 <= converted.table["contention"] <= 1  # 1: each model waited as long as it took
    assert converted.table["clock"] == ("cpu" if converted.table["contention"] > BUSY else "wall")


def test_the_certificate_says_where_the_graph_was_proved_and_that_it_holds_on_other_cpus(
    converted: Converted,
) -> None:
    certificate = json.loads((converted.bundle / "parity.json").read_text())
    assert certificate["cpu_class"] in describe_processor()
    assert certificate["portable"] is True


def test_the_table_holds_pytorchs_own_macro_f1(converted: Converted, checkpoint: Path, splits: Path) -> None:
    frame = pd.read_parquet(splits / "validation.parquet")
    predicted = pytorch_logits(checkpoint, frame["text"].tolist()).argmax(axis=1)
    expected = f1_score(frame["label"], predicted, average="macro")
    assert converted.table["pytorch"]["macro_f1"] == pytest.approx(expected, abs=1e-12)
    assert converted.table["rows"] == ROWS
    assert converted.rows["fused"]["metric_drop"] == 0.0


def test_the_bundle_scores_like_pytorch(converted: Converted, checkpoint: Path, splits: Path) -> None:
    texts = pd.read_parquet(splits / "validation.parquet")["text"].tolist()
    found = Bundle(converted.bundle).logits(texts)
    np.testing.assert_allclose(found, pytorch_logits(checkpoint, texts), rtol=0, atol=1e-5)


def test_the_bundle_says_what_it_is_and_what_made_it(converted: Converted) -> None:
    info = Bundle(converted.bundle).info
    assert (info.name, info.task, info.labels) == ("moods", "text_classification", ("calm", "angry", "glad"))
    assert (info.opset, info.max_length, info.candidate) == (17, 32, converted.table["chosen"])
    assert info.outputs[0].shape == ("batch", 3)
    expected = {
        "manifest_sha256": "a" * 64,
        "data_sha256": "d" * 64,
        "training_sha256": "e" * 64,
        "git_commit": "0123abc",
        "image": "unknown",
    }
    assert expected.items() <= info.lineage.items()
    assert info.speedup == converted.table["chosen_speedup"]
    assert info.latency_ms["4"] == converted.chosen["latency_ms"]["4"]["median"]


def test_the_certificate_is_of_the_very_file_that_ships(converted: Converted) -> None:
    certificate = json.loads((converted.bundle / "parity.json").read_text())
    assert certificate["model_sha256"] == file_sha256(converted.bundle / "model.onnx")
    assert certificate["candidate"] == converted.table["chosen"]
    assert certificate["max_abs_difference"] == converted.chosen["max_abs_difference"]
    assert certificate["bounds"] == {
        "max_abs_logit_difference": 1e-4,
        "min_label_agreement": 1.0,
        "max_metric_drop": 1.0,
        "max_neighbour_difference": 1.0,
    }
    assert certificate["neighbours"]["rows"] == 96
    assert certificate["max_neighbour_flips"] == 0.0
    assert len(certificate["worst_rows"]) == 5
    assert set(certificate["agreement_by_class"].values()) == {1.0}


def test_the_golden_scores_are_those_of_the_made_up_rows_and_verification_compares_them(
    converted: Converted,
) -> None:
    golden = json.loads((converted.bundle / "golden.json").read_text())
    assert golden["cpu_class"] == cpu_class()
    expected = [Bundle(converted.bundle).probabilities([text])[0].tolist() for text in SMOKE_TEXTS]
    assert golden["scores"] == [pytest.approx(row, abs=1e-5) for row in expected]
    checks = verify(converted.bundle)
    assert (checks[-1].name, checks[-1].fault) == ("golden", None)


def test_a_model_that_is_served_carries_no_rows_of_the_data(converted: Converted) -> None:
    assert "text" in converted.chosen["worst_rows"][0]
    assert "text" not in json.loads((converted.bundle / "parity.json").read_text())["worst_rows"][0]


def test_the_metrics_are_the_chosen_ones(converted: Converted) -> None:
    assert converted.figures["speedup"] == converted.chosen["speedup"]["4"]
    assert converted.figures["latency_ms"] == converted.chosen["latency_ms"]["4"]["median"]
    for figure in ("size_mb", "macro_f1", "metric_drop", "label_agreement", "max_abs_difference"):
        assert converted.figures[figure] == converted.chosen[figure]


def test_nothing_admissible_is_an_error_that_leaves_the_table_and_no_bundle(
    checkpoint: Path, splits: Path, tmp_path: Path
) -> None:
    impossible = STRICT.model_copy(update={"max_abs_logit_difference": 1e-30})
    with pytest.raises(GauntletError, match="no candidate is within its bounds") as error:
        convert(impossible, checkpoint, splits, tmp_path)
    table = json.loads((tmp_path / "candidates").read_text())
    assert "chosen" not in table
    for row in table["candidates"]:
        assert row["reason"] in str(error.value)
    assert not (tmp_path / "bundle").exists()


@pytest.fixture(scope="module")
def of_a_student(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, tiny_encoder: Path, splits: Path
) -> Path:
    """What is left of converting the checkpoint with a student of one layer, which scores as it pleases."""
    folder = tmp_path_factory.mktemp("taught")
    shutil.copytree(checkpoint, folder / "checkpoint")
    encoder = folder / "encoder"
    shutil.copytree(tiny_encoder, encoder)
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    save_checkpoint(folder / "checkpoint" / "student", encoder)
    bounds = {"candidates": ("fused", "int8"), "max_metric_drop": 0.9}
    section = STRICT.model_copy(update={"max_metric_drop": -1.0, "student": StudentConversion(**bounds)})
    convert(section, folder / "checkpoint", splits, folder)
    return folder


def test_a_student_is_compared_with_itself_and_its_macro_f1_with_its_teachers(
    of_a_student: Path, splits: Path
) -> None:
    rows = {row["name"]: row for row in json.loads((of_a_student / "candidates").read_text())["candidates"]}
    assert list(rows) == ["plain", "fused", "int8", "student_fused", "student_int8"]
    frame = pd.read_parquet(splits / "validation.parquet")
    f1 = {
        name: f1_score(
            frame["label"], pytorch_logits(folder, frame["text"].tolist()).argmax(1), average="macro"
        )
        for name, folder in (
            ("teacher", of_a_student / "checkpoint"),
            ("student", of_a_student / "checkpoint/student"),
        )
    }
    fused = rows["student_fused"]
    assert (fused["label_agreement"], fused["fused"]["attention"]) == (1.0, 1)
    assert fused["max_abs_difference"] < 1e-4
    assert fused["macro_f1"] == pytest.approx(f1["student"])
    assert fused["metric_drop"] == pytest.approx(f1["teacher"] - f1["student"])
    assert fused["metric_drop"] != 0


def test_a_student_has_a_bound_of_its_own_and_its_certificate_says_which(of_a_student: Path) -> None:
    table = json.loads((of_a_student / "candidates").read_text())
    refused = {
        row["name"] for row in table["candidates"] if "over max_metric_drop -1" in (row["reason"] or "")
    }
    assert refused == {"plain", "fused", "int8"}
    assert table["chosen"] == "student_fused"
    certificate = json.loads((of_a_student / "bundle/parity.json").read_text())
    assert certificate["bounds"]["max_metric_drop"] == 0.9
    assert certificate["pytorch_macro_f1"] == table["pytorch"]["macro_f1"]
    assert Bundle(of_a_student / "bundle").info.candidate == "student_fused"


def test_a_checkpoint_that_gives_no_finite_scores_is_an_error(
    checkpoint: Path, splits: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in checkpoint.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    weights = load_file(checkpoint / "model.safetensors")
    save_file({**weights, "classifier.bias": torch.full((3,), torch.nan)}, broken / "model.safetensors")
    with pytest.raises(GauntletError, match=f"not finite for {ROWS} of {ROWS} validation rows"):
        convert(STRICT, broken, splits, tmp_path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("processor\t: 0\nmodel name\t: Xeon\nflags\t\t: fpu avx512_vnni\n", "Xeon (avx512_vnni)"),
        ("processor\t: 0\nmodel name\t: Rome\nflags\t\t: fpu sse avx avx2\n", "Rome (avx2)"),
        ("processor\t: 0\nmodel name\t: Skylake\nflags\t\t: avx2 avx512bw\n", "Skylake (avx512bw)"),
        ("processor\t: 0\nFeatures\t: fp asimddp\n", "asimddp"),
    ],
)
def test_the_processor_is_named_with_the_class_that_int8_kernels_are_chosen_by(
    tmp_path: Path, content: str, expected: str
) -> None:
    (tmp_path / "cpuinfo").write_text(content)
    assert describe_processor(tmp_path / "cpuinfo") == expected


BY_LATENCY = Conversion(batch_sizes=(1,), objective="latency")


@dataclass(frozen=True)
class Two:
    candidates: Sequence[Any]

    def without(self, refused: Any, reason: str) -> Two:
        return Two(refusing(self.candidates, refused, reason))


class Shipping:
    """Bundles of two candidates, of which some do not pass, and the tables that were noted."""

    def __init__(self, bundle: Path, valid: Path, damaged: set[str]) -> None:
        self.bundle, self.valid, self.damaged = bundle, valid, damaged
        self.noted: list[tuple[dict[str, str | None], str | None]] = []

    def write(self, winner: CandidateResult, outcome: Two) -> None:
        shutil.rmtree(self.bundle, ignore_errors=True)
        shutil.copytree(self.valid, self.bundle)
        if winner.name in self.damaged:
            (self.bundle / "parity.json").write_text("{}")  # another sha256 than bundle.json says

    def note(self, outcome: Two, chosen: CandidateResult | None) -> None:
        self.noted.append(({one.name: one.reason for one in outcome.candidates}, chosen and chosen.name))

    def ship(self) -> CandidateResult:
        both = Two([result("int8", {1: 1.0}), result("fused", {1: 2.0})])
        return ship(both, BY_LATENCY, self.bundle, self.write, self.note)


def test_the_best_candidate_ships_when_its_bundle_passes(tmp_path: Path, converted: Converted) -> None:
    shipping = Shipping(tmp_path / "shipped", converted.bundle, damaged=set())
    assert shipping.ship().name == "int8"
    assert shipping.noted == [({"int8": None, "fused": None}, "int8")]


def test_a_candidate_whose_bundle_does_not_pass_is_refused_and_the_next_best_ships(
    tmp_path: Path, converted: Converted
) -> None:
    shipping = Shipping(tmp_path / "shipped", converted.bundle, damaged={"int8"})
    assert shipping.ship().name == "fused"
    [(reasons, chosen)] = shipping.noted
    assert chosen == "fused"
    assert str(reasons["int8"]).startswith("its bundle does not pass `gauntlet bundle verify`: ")
    assert reasons["fused"] is None


def test_when_no_bundle_passes_the_table_says_why_and_none_is_left(
    tmp_path: Path, converted: Converted
) -> None:
    shipping = Shipping(tmp_path / "shipped", converted.bundle, damaged={"int8", "fused"})
    with pytest.raises(GauntletError, match="does not pass `gauntlet bundle verify`"):
        shipping.ship()
    assert [chosen for _, chosen in shipping.noted] == [None]
    assert not shipping.bundle.exists()


def test_the_baseline_is_what_the_shipped_graph_answers_to_the_test_split(
    converted: Converted, checkpoint: Path, splits: Path, tmp_path: Path
) -> None:
    found = read_baseline(converted.bundle)
    assert found is not None
    baseline, arrays = found
    frame = pd.read_parquet(splits / "test.parquet")
    bundle = Bundle(converted.bundle)
    predicted = bundle.probabilities(frame["text"].tolist()).argmax(1)
    assert (baseline.split, baseline.rows, baseline.labels) == ("test", ROWS, bundle.info.labels)
    assert baseline.predicted == {
        name: int((predicted == at).sum()) for at, name in enumerate(bundle.info.labels)
    }
    assert baseline.promise is not None
    assert baseline.promise.mean == pytest.approx((predicted != frame["label"]).mean())
    assert baseline.calibration is not None
    lengths = [len(text) for text in frame["text"]]
    edges, counts = arrays.edges["feature_characters"], arrays.counts["feature_characters"]
    assert counts.tolist() == [*np.bincount(np.searchsorted(edges, lengths), minlength=len(edges) + 1), 0]
    subject = EncoderSubject(STRICT, checkpoint, read_record(checkpoint), splits, 7)
    for name, path in write_baseline(tmp_path, converted.bundle, bundle.info, subject).items():
        assert path.read_bytes() == (converted.bundle / name).read_bytes()
        assert bundle.info.files[name] == file_sha256(path)
