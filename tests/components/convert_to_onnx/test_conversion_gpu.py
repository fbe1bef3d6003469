"""Bundles for a GPU: what is asked of a manifest and of a machine, and what of them works without one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from gauntlet.components.convert_to_onnx.processor import require_device
from gauntlet.components.convert_to_onnx.run import run
from gauntlet.manifests.conversion import CPU_CANDIDATES, GPU_CANDIDATES, Conversion
from gauntlet.manifests.errors import UsageError
from gauntlet.pipelines.cli import main
from gauntlet.serving.bundle import GPU_PROVIDER, Bundle, BundleError, NoGpuError, open_session


def has_gpu() -> bool:
    try:
        require_device("gpu")
    except UsageError:
        return False
    return True


HAS_GPU = has_gpu()
ROOT = Path(__file__).parents[3]
WORDS = ("quiet", "lake", "slow", "breath", "still", "slam", "shout", "rage", "smile", "gift")
TEXTS = ["quiet lake", "slam shout rage", "smile"]


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("splits")
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS, size=draw.integers(1, 20))) for _ in range(120)]
    frame = pd.DataFrame({"text": texts, "label": draw.integers(0, 3, 120), "row": range(120)})
    for split in ("train", "validation", "test"):
        frame.to_parquet(folder / f"{split}.parquet")
    return folder


def convert(target: str, checkpoint: Path, splits: Path, out: Path) -> dict[str, float]:
    section = Conversion(target=target, batch_sizes=(1, 4), max_metric_drop=1.0)
    if target == "cpu":
        section = section.model_copy(update={"candidates": ("plain",), "pytorch": ("eager",)})
    paths = (out / "bundle", out / "candidates")
    return run(section, "moods", 7, "a" * 64, checkpoint, splits, *paths)


def test_the_candidates_are_by_default_those_of_the_target() -> None:
    assert Conversion().candidates == Conversion(target="cpu").candidates == CPU_CANDIDATES
    section = Conversion(target="gpu")
    assert section.candidates == GPU_CANDIDATES == ("plain", "fused", "fused_fp16")
    assert section.student.candidates == ("fused", "fused_fp16")


@pytest.mark.parametrize(
    ("section", "found"),
    [
        (
            {"candidates": ("plain", "int8")},
            "for target gpu plain, fused, fused_fp16, and not candidates: int8",
        ),
        (
            {"candidates": ("int8",), "student": {"candidates": ("int8_pruned", "fused")}},
            r"and not candidates: int8, student\.candidates: int8_pruned\. Choose",
        ),
    ],
)
def test_candidates_for_cpus_are_a_fault(section: dict[str, object], found: str) -> None:
    Conversion(**section)
    with pytest.raises(ValidationError, match=found):
        Conversion(target="gpu", **section)


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
def test_without_a_gpu_the_step_says_so_before_anything_is_made(
    checkpoint: Path, splits: Path, tmp_path: Path
) -> None:
    require_device("cpu")
    with pytest.raises(
        UsageError, match=r"conversion\.target: found gpu, but .*(built for CPUs|no NVIDIA driver is found)"
    ):
        convert("gpu", checkpoint, splits, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
def test_a_session_on_a_gpu_never_falls_back_in_silence_and_a_bundle_does_with_the_same_scores(
    checkpoint: Path, splits: Path, tmp_path: Path
) -> None:
    convert("cpu", checkpoint, splits, tmp_path)
    bundle = tmp_path / "bundle"
    with pytest.raises(NoGpuError, match="onnxruntime-gpu"):
        open_session(bundle / "model.onnx", 1, "gpu")
    expected = Bundle(bundle).logits(TEXTS)
    content = json.loads((bundle / "bundle.json").read_text())
    assert "device" not in content  # what a version before GPUs reads
    (bundle / "bundle.json").write_text(json.dumps(content | {"device": "gpu"}))
    moved = Bundle(bundle)
    assert moved.info.device == "gpu"
    np.testing.assert_array_equal(moved.logits(TEXTS), expected)
    (bundle / "bundle.json").write_text(json.dumps(content | {"device": "cuda"}))
    with pytest.raises(BundleError, match=r"device: found 'cuda', expected 'gpu' or no such key"):
        Bundle(bundle)


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
def test_a_run_that_could_not_be_converted_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GAUNTLET_HOME", str(tmp_path / "home"))
    with pytest.raises(SystemExit) as ended:
        main(["run", "manifests/emotion.yaml", "--set", "conversion.target=gpu"])
    assert ended.value.code == UsageError.exit_code
    assert "conversion.target: found gpu, but" in capsys.readouterr().err
    assert not (tmp_path / "home").exists()


@pytest.mark.skipif(not HAS_GPU, reason="there is no GPU")
def test_on_a_gpu_every_candidate_is_proven_and_timed_there(
    checkpoint: Path, splits: Path, tmp_path: Path
) -> None:
    convert("gpu", checkpoint, splits, tmp_path)
    document = json.loads((tmp_path / "candidates").read_text())
    assert document["processor"] == torch.cuda.get_device_name()
    assert [row["name"] for row in document["candidates"]] == list(GPU_CANDIDATES)
    for row in document["candidates"]:
        assert row["reason"] is None, row
        assert row["latency_ms"].keys() == {"1", "4"}
    assert document["pytorch"]["absent"] == {}
    served = Bundle(tmp_path / "bundle")
    assert GPU_PROVIDER in served.session.get_providers()
    without_torch = [sys.executable, "-m", "gauntlet.serving", "verify", str(tmp_path / "bundle")]
    subprocess.run(without_torch, cwd=ROOT, check=True)
