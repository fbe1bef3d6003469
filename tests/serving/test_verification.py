from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gauntlet.serving.bundle import BundleInfo, TensorSpec, file_sha256, write_bundle
from gauntlet.serving.verification import Check, verify

ALLOWED = {"numpy", "onnxruntime", "tokenizers"}


@pytest.fixture
def certified(tmp_path: Path, parts: dict[str, Path], info: BundleInfo) -> Path:
    certificate = {"model_sha256": file_sha256(parts["model.onnx"]), "rows": 150}
    parts["parity.json"].write_text(json.dumps(certificate))
    folder = tmp_path / "certified"
    write_bundle(folder, info, parts)
    return folder


def failed(checks: tuple[Check, ...]) -> tuple[str, str]:
    (only,) = [check for check in checks if check.fault]
    assert only is checks[-1], "what follows from a fault is not looked at"
    return only.name, str(only.fault)


def test_a_whole_bundle_passes_every_check(certified: Path) -> None:
    checks = verify(certified)
    assert [check.name for check in checks] == ["files", "certificate", "tensors", "prediction"]
    assert not [check for check in checks if check.fault]
    assert checks[1].found == "of this model.onnx, on 150 rows"


@pytest.mark.parametrize(
    ("scores", "fault"),
    [
        ([[0.5, 0.5], [0.5, 0.5]], None),  # no word of the made-up rows has a score
        ([[0.5, 0.5], [0.498, 0.502]], "a score differs by 0.002 from the one that was proved"),
        ([[0.5, 0.5]], "found scores (1, 2), and the model gives (2, 2)"),
        ("much", "found no scores"),
    ],
)
def test_scores_other_than_those_of_the_proof_fail(
    tmp_path: Path, parts: dict[str, Path], info: BundleInfo, scores: object, fault: str | None
) -> None:
    parts["parity.json"].write_text(json.dumps({"model_sha256": file_sha256(parts["model.onnx"])}))
    golden = tmp_path / "golden.json"
    golden.write_text(json.dumps({"scores": scores}))
    write_bundle(tmp_path / "bundle", info, {**parts, "golden.json": golden})
    check = verify(tmp_path / "bundle")[-1]
    assert check.name == "golden"
    assert check.fault is None if fault is None else fault in str(check.fault)


def test_a_bundle_that_was_cut_short_fails_by_the_file_that_is_missing(certified: Path) -> None:
    (certified / "model.onnx").unlink()
    name, fault = failed(verify(certified))
    assert name == "files"
    assert "model.onnx: missing" in fault


def test_a_registrys_hash_finds_labels_that_were_changed(certified: Path) -> None:
    written = file_sha256(certified / "bundle.json")
    content = json.loads((certified / "bundle.json").read_text())
    content["labels"] = content["labels"][::-1]
    (certified / "bundle.json").write_text(json.dumps(content))
    assert failed(verify(certified, sha256=written))[0] == "files"


def test_a_certificate_of_another_model_fails(
    tmp_path: Path, parts: dict[str, Path], info: BundleInfo
) -> None:
    parts["parity.json"].write_text(json.dumps({"model_sha256": "0" * 64}))
    write_bundle(tmp_path / "bundle", info, parts)
    assert failed(verify(tmp_path / "bundle"))[0] == "certificate"


def test_tensors_that_the_graph_does_not_have_fail(
    tmp_path: Path, parts: dict[str, Path], info: BundleInfo
) -> None:
    parts["parity.json"].write_text(json.dumps({"model_sha256": file_sha256(parts["model.onnx"])}))
    other = replace(info, outputs=(TensorSpec("logits", "float32", ("batch", 3)),))
    write_bundle(tmp_path / "bundle", other, parts)
    name, fault = failed(verify(tmp_path / "bundle"))
    assert name == "tensors"
    assert "outputs: found" in fault


def test_a_graph_that_is_no_graph_fails_without_a_traceback(
    tmp_path: Path, parts: dict[str, Path], info: BundleInfo
) -> None:
    parts["model.onnx"].write_bytes(b"no graph")
    parts["parity.json"].write_text(json.dumps({"model_sha256": file_sha256(parts["model.onnx"])}))
    write_bundle(tmp_path / "bundle", info, parts)
    assert failed(verify(tmp_path / "bundle"))[0] == "tensors"


PROGRAM = """
import sys, sysconfig
for name in ("torch", "transformers", "pandas", "onnx", "sklearn", "kfp", "pydantic"):
    sys.modules[name] = None
from gauntlet.serving.__main__ import main
code = main(["verify", sys.argv[1]])
installed = sysconfig.get_path("purelib")
print(*sorted({name.partition(".")[0] for name, module in list(sys.modules.items())
               if (getattr(module, "__file__", None) or "").startswith(installed) and name[0] != "_"}))
sys.exit(code)
"""


def test_a_bundle_opens_with_onnxruntime_numpy_and_tokenizers_alone(certified: Path) -> None:
    root = Path(__file__).parents[2]
    blocked = (
        "import sys\nfor name in ('torch', 'transformers', 'pandas', 'onnx', 'sklearn', 'kfp', 'pydantic'):\n"
    )
    blocked += "    sys.modules[name] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", blocked + PROGRAM, str(certified)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(done.stdout.splitlines()[-1].split()) <= ALLOWED | {"serving"}
