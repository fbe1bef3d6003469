from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import onnx
import pytest

from gauntlet.serving.bundle import Bundle, BundleError, BundleInfo, read_info, write_bundle

Edit = Callable[[dict[str, object]], object]


def edit_bundle_json(folder: Path, edit: Edit) -> None:
    path = folder / "bundle.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_what_is_written_is_what_is_read(
    bundle_folder: Path, parts: dict[str, Path], info: BundleInfo
) -> None:
    found = read_info(bundle_folder)
    assert replace(found, files={}) == info
    assert found.files == {name: sha256(path.read_bytes()).hexdigest() for name, path in parts.items()}


def test_bundle_json_names_every_other_file_and_nothing_else_lies_there(bundle_folder: Path) -> None:
    names = {path.name for path in bundle_folder.iterdir()}
    assert names == {"bundle.json", *read_info(bundle_folder).files}


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "parity.json"])
def test_an_altered_file_is_refused_by_name(bundle_folder: Path, name: str) -> None:
    path = bundle_folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=f"{name}: sha256 is"):
        Bundle(bundle_folder)


def test_a_file_that_was_cut_short_is_refused(bundle_folder: Path) -> None:
    path = bundle_folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"model\.onnx: sha256 is"):
        Bundle(bundle_folder)


def test_a_missing_file_is_refused(bundle_folder: Path) -> None:
    (bundle_folder / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"tokenizer\.json: missing"):
        Bundle(bundle_folder)


def test_a_folder_without_bundle_json_is_no_bundle(bundle_folder: Path) -> None:
    (bundle_folder / "bundle.json").unlink()
    with pytest.raises(BundleError, match=r"bundle\.json: no such file"):
        Bundle(bundle_folder)


def test_half_a_bundle_json_is_refused(bundle_folder: Path) -> None:
    path = bundle_folder / "bundle.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(BundleError, match="not JSON"):
        Bundle(bundle_folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda content: content.update(format_version=2), "found format_version 2, expected 1"),
        (lambda content: content.pop("format_version"), "found format_version None, expected 1"),
        (lambda content: content.pop("labels"), "'labels' is missing"),
        (lambda content: content.pop("max_length"), "max_length"),
        (lambda content: content["inputs"][0].pop("dtype"), "'dtype' is missing"),
        (lambda content: content.update(inputs=3), "bundle.json"),
        (lambda content: content.update(colour="red"), "colour"),
        (lambda content: content["files"].pop("model.onnx"), "files lacks model.onnx"),
    ],
)
def test_a_bundle_json_of_another_form_is_refused(bundle_folder: Path, edit: Edit, message: str) -> None:
    edit_bundle_json(bundle_folder, edit)
    with pytest.raises(BundleError, match=message):
        Bundle(bundle_folder)


def test_json_that_is_no_object_is_refused(bundle_folder: Path) -> None:
    (bundle_folder / "bundle.json").write_text("[1]")
    with pytest.raises(BundleError, match="found a JSON list, expected an object"):
        Bundle(bundle_folder)


def test_a_bundle_needs_a_model_and_a_tokenizer(
    tmp_path: Path, parts: dict[str, Path], info: BundleInfo
) -> None:
    del parts["model.onnx"]
    with pytest.raises(BundleError, match=r"needs model\.onnx"):
        write_bundle(tmp_path / "new", info, parts)
    assert not (tmp_path / "new").exists()


def test_writing_again_replaces_the_whole_bundle(
    bundle_folder: Path, parts: dict[str, Path], info: BundleInfo
) -> None:
    del parts["parity.json"]
    write_bundle(bundle_folder, replace(info, name="other"), parts)
    assert read_info(bundle_folder).name == "other"
    assert not (bundle_folder / "parity.json").exists()


def test_a_write_that_fails_half_way_leaves_nothing(
    tmp_path: Path, parts: dict[str, Path], info: BundleInfo
) -> None:
    not_json = replace(info, quality={"macro_f1": float("nan")})  # found when all files are already copied
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_bundle(tmp_path / "new", not_json, parts)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", "a\\b", "a\0b", ""])
def test_a_bundle_names_no_file_outside_its_own_folder(bundle_folder: Path, name: str) -> None:
    edit_bundle_json(bundle_folder, lambda content: content["files"].update({name: "0" * 64}))
    with pytest.raises(BundleError, match=r"files: found .*, expected the sha256 of each file by its name"):
        read_info(bundle_folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("labels", "abc"), ("max_length", -1), ("max_length", 2**70), ("quality", {"f1": "x"}), ("files", [1])],
)
def test_a_value_of_another_kind_in_a_bundle_json_is_refused(
    bundle_folder: Path, key: str, value: object
) -> None:
    edit_bundle_json(bundle_folder, lambda content: content.update({key: value}))
    with pytest.raises(BundleError, match=rf"bundle\.json: {key}: found .*, expected"):
        read_info(bundle_folder)


def replace_file(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    digest = sha256(content).hexdigest()
    edit_bundle_json(folder, lambda content: content["files"].update({name: digest}))


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "link"])
def test_weights_in_a_file_outside_the_bundle_are_not_read(bundle_folder: Path, location: str) -> None:
    (bundle_folder.parent / "secret").write_bytes(bytes(16))
    (bundle_folder / "link").symlink_to(bundle_folder.parent / "secret")
    weights = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=location)
    output = onnx.helper.make_tensor_value_info("logits", 1, [4])
    node = onnx.helper.make_node("Identity", ["w"], ["logits"])
    graph = onnx.helper.make_graph([node], "g", [], [output], [weights])
    replace_file(bundle_folder, "model.onnx", onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(BundleError, match=r"model\.onnx: ONNX Runtime cannot load it"):
        Bundle(bundle_folder)


@pytest.mark.parametrize(("name", "content"), [("model.onnx", b"no graph"), ("tokenizer.json", b"{}")])
def test_a_file_that_its_library_cannot_read_is_named(bundle_folder: Path, name: str, content: bytes) -> None:
    replace_file(bundle_folder, name, content)
    with pytest.raises(BundleError, match=f"{name}: .*(cannot load it|found no tokenizer)"):
        Bundle(bundle_folder)
