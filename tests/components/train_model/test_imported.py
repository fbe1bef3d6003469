"""Models that were trained elsewhere: what is taken, in which order of classes, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from onnx import TensorProto, helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.torch import load_file, save_file
from sklearn.metrics import f1_score
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from gauntlet.components.convert_to_onnx.export import export_plain, signature_of_images
from gauntlet.components.convert_to_onnx.imported import GraphSubject, precision_of
from gauntlet.components.convert_to_onnx.run import run as convert
from gauntlet.components.convert_to_onnx.subject import TracedSubject
from gauntlet.components.train_model.imported import import_model, open_subject, origin_of
from gauntlet.components.validate_data.run import run as validate_data
from gauntlet.contracts.training import Origin, OriginForm
from gauntlet.manifests.conversion import Conversion
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.manifests.loading import load_manifest
from gauntlet.manifests.schema import Manifest
from gauntlet.serving.bundle import MAIN, PORTABLE, Bundle, open_model, read_info
from gauntlet.serving.cpu import SATURATING_CLASSES, cpu_class
from gauntlet.serving.interface import Request
from gauntlet.serving.texts import TextInputs
from gauntlet.serving.verification import verify
from gauntlet.tasks.image_classification.manifest import ImageDataset, ImageTraining
from gauntlet.tasks.text_classification.manifest import TextTraining
from gauntlet.trainer.run import TrainingRun, train
from gauntlet.trainer.saved_model import load_model, read_record
from gauntlet.trainer.splits import read_split
from tests.conftest import LABELS
from tests.cpu_class import run
from tests.drawn_images import SHAPES, draw, write_pictures

ELSEWHERE = ("glad", "calm", "angry")
"""The classes of the model from elsewhere, in another order than the manifest's."""
MANIFEST = """
name: moods
description: Three moods
task: text_classification
dataset: {name: moods, version: "1", uri: moods.csv, labels: [calm, angry, glad]}
gates: {min_macro_f1: 0.1}
"""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    path = tmp_path_factory.mktemp("manifest") / "moods.yaml"
    path.write_text(MANIFEST)
    return load_manifest(path)


@pytest.fixture(scope="module")
def classifier(tiny_encoder: Path) -> BertForSequenceClassification:
    """With weights that make its answers differ; `transformers` alone has built it."""
    config = BertConfig.from_pretrained(tiny_encoder, id2label=dict(enumerate(ELSEWHERE)))
    torch.manual_seed(2)
    model = BertForSequenceClassification(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def saved(classifier: BertForSequenceClassification, tiny_encoder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "saved"
    classifier.save_pretrained(folder)
    shutil.copyfile(tiny_encoder / "tokenizer.json", folder / "tokenizer.json")
    return folder


@pytest.fixture
def exported(classifier: BertForSequenceClassification, saved: Path, tmp_path: Path) -> Path:
    """A folder with the graph that torch.onnx writes, its `config.json` and its tokenizer."""

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = classifier

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    folder = tmp_path / "exported"
    folder.mkdir()
    example = torch.ones((2, 8), dtype=torch.int64)
    torch.onnx.export(
        Logits().eval(),
        (example, example),
        folder / "moods.onnx",
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_axes={name: {0: "b", 1: "t"} for name in ("input_ids", "attention_mask")}
        | {"logits": {0: "b"}},
        opset_version=17,
        dynamo=False,
    )
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(saved / name, folder / name)
    return folder


def taken(
    manifest: Manifest,
    form: OriginForm,
    source: Path,
    splits: Path,
    folder: Path,
    labels: tuple[str, ...] = (),
    **section: Any,
) -> tuple[Origin, dict[str, float]]:
    origin = origin_of(manifest, form, str(source), labels)
    training = TextTraining(max_length=16, **section)
    figures = import_model(
        training, "text_classification", 1, origin, splits, folder / "checkpoint", folder / "history"
    )
    return origin, figures


def expected_logits(classifier: BertForSequenceClassification, folder: Path, texts: list[str]) -> np.ndarray:
    """Of transformers' own tokenizer and model, in the order of the manifest's labels."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]")
    batch = tokenizer(texts, padding=True, truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        logits = classifier(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits[:, [ELSEWHERE.index(label) for label in LABELS]].numpy()


def test_a_classifier_of_transformers_answers_as_before_with_its_classes_by_name(
    manifest: Manifest,
    classifier: BertForSequenceClassification,
    saved: Path,
    tiny_splits: Path,
    tmp_path: Path,
) -> None:
    origin, figures = taken(manifest, "checkpoint", saved, tiny_splits, tmp_path)
    record = read_record(tmp_path / "checkpoint")
    assert (record.origin, record.labels, record.max_length) == (origin, LABELS, 16)
    frame = read_split(tiny_splits, "validation")
    expected = expected_logits(classifier, saved, frame["text"].tolist())
    inputs = TextInputs.open(tmp_path / "checkpoint/tokenizer.json", 16)
    batch = {name: torch.from_numpy(array) for name, array in inputs.batch(frame["text"].tolist()).items()}
    with torch.no_grad():
        logits = load_model(tmp_path / "checkpoint")(**batch).numpy()
    assert np.allclose(logits, expected, atol=1e-5)
    macro_f1 = f1_score(frame["label"], expected.argmax(axis=1), average="macro", labels=[0, 1, 2])
    assert figures == {"validation_macro_f1": pytest.approx(macro_f1)}
    history = json.loads((tmp_path / "history").read_text())
    assert history["epochs"][0]["validation"] == {"macro_f1": pytest.approx(macro_f1)}
    assert history["origin"] == {
        "form": "checkpoint",
        "source": str(saved),
        "sha256": origin.sha256,
        "labels": [],
    }


def test_a_graph_is_bundled_with_a_certificate_that_says_what_is_not_proved(
    manifest: Manifest,
    classifier: BertForSequenceClassification,
    exported: Path,
    tiny_splits: Path,
    tmp_path: Path,
) -> None:
    origin, _ = taken(manifest, "onnx", exported / "moods.onnx", tiny_splits, tmp_path)
    section = Conversion(batch_sizes=(1, 2), max_neighbour_difference=0.05)
    bundle = tmp_path / "bundle"
    figures = convert(
        section, "moods", 1, "m" * 64, tmp_path / "checkpoint", tiny_splits, bundle, tmp_path / "candidates"
    )
    assert "speedup" not in figures
    info = read_info(bundle)
    assert (info.candidate, info.precision, info.labels, dict(info.speedup)) == (
        "imported",
        "fp32",
        LABELS,
        {},
    )
    assert info.lineage["origin"] == str(exported / "moods.onnx")
    assert info.lineage["origin_sha256"] == origin.sha256
    assert not {"data_sha256", "training_sha256", "seed", "encoder"} & set(info.lineage)
    assert "training_rows.npz" not in info.files
    certificate = json.loads((bundle / "parity.json").read_text())
    assert certificate["not_proved"][-1] == "a speed-up over PyTorch"
    assert certificate["bounds"] == {"max_neighbour_difference": 0.05}
    assert "max_abs_difference" not in certificate
    assert certificate["neighbours"]["max_difference"] <= 1e-4
    assert all(check.fault is None for check in verify(bundle))
    texts = ["quiet lake", "shout rage fist glare", "smile"]
    expected = expected_logits(classifier, exported, texts)
    assert np.allclose(Bundle(bundle).logits(texts), expected, atol=1e-4)
    table = json.loads((tmp_path / "candidates").read_text())
    assert table["chosen"] == "imported"
    assert table["pytorch"]["latency_ms"] == {}


@pytest.mark.skipif(cpu_class() in SATURATING_CLASSES, reason="needs int8 dot products")
@pytest.mark.skipif(run.missing() is not None, reason=str(run.missing()))
def test_a_graph_that_saturates_elsewhere_is_bundled_with_one_that_every_cpu_serves(
    manifest: Manifest, exported: Path, tiny_splits: Path, tmp_path: Path
) -> None:
    quantize_dynamic(exported / "moods.onnx", exported / "moods.onnx", weight_type=QuantType.QInt8)
    taken(manifest, "onnx", exported / "moods.onnx", tiny_splits, tmp_path)
    section = Conversion(
        batch_sizes=(1,), max_neighbour_difference=1.0, portable=True, objective="size"
    )  # the longer names of the other one's tensors make it the larger one
    bundle, candidates = tmp_path / "bundle", tmp_path / "candidates"
    convert(section, "moods", 1, "m" * 64, tmp_path / "checkpoint", tiny_splits, bundle, candidates)
    names = [one["name"] for one in json.loads(candidates.read_text())["candidates"]]
    assert names == ["imported", "imported_unsigned"]
    assert read_info(bundle).candidate == "imported"
    certificates = [
        json.loads((bundle / name).read_text()) for name in (MAIN.certificate, PORTABLE.certificate)
    ]
    assert [one["portable"] for one in certificates] == [False, True]
    assert certificates[1]["latency_ms"]["1"]["median"] > 0
    checks = verify(bundle)
    assert all(check.fault is None for check in checks)
    assert checks[-1].name == "portable"
    assert checks[-1].found.startswith("of this portable.onnx")
    texts = ["quiet lake", "shout rage fist glare", "smile"]
    expected = open_model(bundle).answer(Request(texts))
    for command, rows in (("verify", []), ("predict", texts)):
        done = subprocess.run(
            [sys.executable, "-m", "gauntlet.serving", command, str(bundle), *rows],
            env=os.environ | run.environment("avx2"),
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=True,
        )
        if command == "verify":
            assert "of this portable.onnx" in done.stdout
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for one, same in zip(found, expected, strict=True):
        assert one["probabilities"] == pytest.approx(same.content["probabilities"], abs=0.01)


def test_labels_that_are_given_go_before_those_of_the_configuration(
    manifest: Manifest, exported: Path, tiny_splits: Path, tmp_path: Path
) -> None:
    taken(manifest, "onnx", exported, tiny_splits, tmp_path, labels=LABELS)
    model = onnx.load(tmp_path / "checkpoint/model.onnx")
    assert model.graph.node[-1].op_type != "Gather"  # nothing is put into another order
    (exported / "config.json").unlink()
    taken(manifest, "onnx", exported, tiny_splits, tmp_path / "again")
    assert onnx.load(tmp_path / "again/checkpoint/model.onnx").graph.node[-1].op_type != "Gather"


def test_external_data_ends_up_inside_the_graph(
    manifest: Manifest, exported: Path, tiny_splits: Path, tmp_path: Path
) -> None:
    model = onnx.load(exported / "moods.onnx")
    onnx.save(
        model,
        exported / "moods.onnx",
        save_as_external_data=True,
        location="moods.onnx.data",
        size_threshold=0,
    )
    taken(manifest, "onnx", exported / "moods.onnx", tiny_splits, tmp_path)
    kept = onnx.load(tmp_path / "checkpoint/model.onnx", load_external_data=False)
    assert not any(tensor.external_data for tensor in kept.graph.initializer)
    (exported / "moods.onnx.data").unlink()
    with pytest.raises(UsageError, match=r"stores weights in moods\.onnx\.data, but its folder has no such"):
        taken(manifest, "onnx", exported / "moods.onnx", tiny_splits, tmp_path / "again")


def spoil_graph(exported: Path, how: str) -> None:
    path = exported / "moods.onnx"
    model = onnx.load(path)
    axes = model.graph.input[0].type.tensor_type.shape.dim
    if how == "another name":
        rename(model, "input_ids", "tokens")
    elif how == "a fixed axis":
        axes[0].ClearField("dim_param")
        axes[0].dim_value = 1
    elif how == "another input":
        model.graph.input.append(
            helper.make_tensor_value_info("token_type_ids", TensorProto.INT64, ["b", "t"])
        )
        model.graph.node.append(helper.make_node("Identity", ["token_type_ids"], ["unused"]))
        model.graph.output.append(helper.make_tensor_value_info("unused", TensorProto.INT64, ["b", "t"]))
    elif how == "another output":
        rename(model, "logits", "scores")
    elif how == "too few classes":
        for node in model.graph.node:
            node.output[:] = ["all" if name == "logits" else name for name in node.output]
        bounds = {"starts": 0, "ends": 2, "axes": 1}
        for name, value in bounds.items():
            model.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1], [value]))
        model.graph.node.append(helper.make_node("Slice", ["all", *bounds], ["logits"]))
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2
    elif how == "a newer opset":
        model.opset_import[0].version = 999
    elif how == "no protobuf":
        path.write_bytes(b"not a graph")
        return
    elif how == "an empty file":
        path.write_bytes(b"")
        return
    onnx.save(model, path)


def rename(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for value in (*model.graph.input, *model.graph.output):
        value.name = new if value.name == old else value.name


EXPECTED_INPUTS = r"expected input_ids int64 \[batch, tokens\], attention_mask int64 \[batch, tokens\]"
REFUSED_GRAPHS = {
    "another name": rf"it takes tokens int64 \[b, t\], attention_mask int64 \[b, t\], {EXPECTED_INPUTS}",
    "a fixed axis": rf"it takes input_ids int64 \[1, t\], .*{EXPECTED_INPUTS}",
    "another input": rf"token_type_ids int64 \[b, t\], {EXPECTED_INPUTS}",
    "another output": "it gives scores, expected logits",
    "too few classes": r"for 3 rows it gives logits float32 \[3, 2\], expected float32 \[3, 3\]",
    "a newer opset": f"ONNX Runtime {onnxruntime.__version__} cannot load it: .*999",
    "no protobuf": "found no ONNX model",
    "an empty file": "found no graph in 0 bytes",
}


@pytest.mark.parametrize(("how", "message"), REFUSED_GRAPHS.items())
def test_a_graph_that_cannot_be_served_is_refused(
    manifest: Manifest, exported: Path, tiny_splits: Path, tmp_path: Path, how: str, message: str
) -> None:
    spoil_graph(exported, how)
    with pytest.raises(UsageError, match=message) as refused:
        taken(manifest, "onnx", exported, tiny_splits, tmp_path)
    assert str(refused.value).startswith("--from-onnx: moods.onnx: ")
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("calm", "angry", "sad"), "found the classes calm, angry, sad, expected those of the manifest"),
        (("calm", "angry"), "found the classes calm, angry, expected"),
    ],
)
def test_a_graph_of_other_classes_is_refused(
    manifest: Manifest,
    exported: Path,
    tiny_splits: Path,
    tmp_path: Path,
    names: tuple[str, ...],
    message: str,
) -> None:
    with pytest.raises(UsageError, match=message):
        taken(manifest, "onnx", exported, tiny_splits, tmp_path, labels=names)


def spoil_checkpoint(saved: Path, how: str) -> None:
    weights = load_file(saved / "model.safetensors")
    config = json.loads((saved / "config.json").read_text())
    if how == "a missing tensor":
        del weights["classifier.weight"]
    elif how == "an unexpected tensor":
        weights["classifier.other"] = torch.ones(1)
    elif how == "another shape":
        weights["classifier.bias"] = torch.ones(4)
    elif how == "another architecture":
        config["architectures"] = ["BertForTokenClassification"]
    elif how == "classes without names":
        config["id2label"] = {str(number): f"LABEL_{number}" for number in range(3)}
    elif how == "other classes":
        config["id2label"]["0"] = "sad"
    elif how == "no tokenizer":
        (saved / "tokenizer.json").unlink()
    save_file(weights, saved / "model.safetensors")
    (saved / "config.json").write_text(json.dumps(config))
    if how == "broken weights":
        (saved / "model.safetensors").write_bytes(b"not tensors")


REFUSED_CHECKPOINTS = {
    "a missing tensor": "saved/model.safetensors: its tensors are not those of its network: it lacks "
    r"classifier\.weight\.",
    "an unexpected tensor": r"it has, but the network does not, classifier\.other\.",
    "another shape": r"it has in another shape classifier\.bias \(4,\) for \(3,\)",
    "another architecture": "found the architecture BertForTokenClassification, expected one that ends in",
    "classes without names": "id2label has no names, only LABEL_0, LABEL_1, LABEL_2",
    "other classes": "id2label: found the classes sad, calm, angry, expected those of the manifest",
    "no tokenizer": "found no tokenizer.json beside model.safetensors",
    "broken weights": "saved/model.safetensors: cannot be read: .* Copy or save it again",
}


@pytest.mark.parametrize(("how", "message"), REFUSED_CHECKPOINTS.items())
def test_a_checkpoint_that_does_not_fit_is_refused(
    manifest: Manifest, saved: Path, tiny_splits: Path, tmp_path: Path, how: str, message: str
) -> None:
    spoil_checkpoint(saved, how)
    with pytest.raises(UsageError, match=message) as refused:
        taken(manifest, "checkpoint", saved, tiny_splits, tmp_path)
    assert str(refused.value).startswith("--from-checkpoint: ")
    assert not (tmp_path / "checkpoint").exists()


def test_pickles_are_refused_unread(manifest: Manifest, saved: Path) -> None:
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(
        UsageError, match=r"found pytorch_model.bin, expected model.safetensors. A pickle runs"
    ):
        origin_of(manifest, "checkpoint", str(saved))
    with pytest.raises(UsageError, match=r"found pytorch_model\.bin, expected"):
        origin_of(manifest, "checkpoint", str(saved / "pytorch_model.bin"))


@pytest.mark.parametrize(
    ("form", "name", "message"),
    [
        ("checkpoint", "nothing", "--from-checkpoint: .*nothing"),
        ("checkpoint", "empty", "found no model.safetensors, expected the folder of a checkpoint"),
        ("onnx", "empty", "found no ONNX file, expected one. Name the file"),
        ("checkpoint", "shards", "found weights in several files"),
        ("onnx", "two", "found a.onnx, b.onnx, expected one. Name the file"),
    ],
)
def test_a_place_without_a_model_is_refused(
    manifest: Manifest, tmp_path: Path, form: OriginForm, name: str, message: str
) -> None:
    files = {"shards": ["model.safetensors.index.json"], "two": ["a.onnx", "b.onnx"], "empty": ["notes.txt"]}
    for file in files.get(name, []):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / file).write_text("{}")
    with pytest.raises(UsageError, match=message):
        origin_of(manifest, form, str(tmp_path / name))


def test_a_name_in_a_store_that_leads_out_of_the_folder_is_refused(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = MemoryFileSystem()
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    for name in ("training.json", "model.safetensors", "../evil.json"):
        files.store[f"/made/{name}"] = MemoryFile(files, f"/made/{name}", b"{}")
    with pytest.raises(UsageError, match=r"found '\.\./evil\.json', which leads out of the folder"):
        origin_of(manifest, "checkpoint", "memory://made")


def test_files_that_change_after_the_start_of_the_run_are_refused(
    manifest: Manifest, saved: Path, tiny_splits: Path, tmp_path: Path
) -> None:
    origin = origin_of(manifest, "checkpoint", str(saved))
    (saved / "config.json").write_text("{}")
    with pytest.raises(GauntletError, match="its files have changed since the run was started"):
        import_model(
            TextTraining(), "text_classification", 1, origin, tiny_splits, tmp_path / "c", tmp_path / "h"
        )


def test_a_checkpoint_of_gauntlets_own_is_taken_by_any_kind(
    image_splits: Path, tiny_splits: Path, manifest: Manifest, tmp_path: Path
) -> None:
    section = ImageTraining(filters=(4,), units=0, epochs=1)
    made = tmp_path / "made"
    train(TrainingRun(section, "drawn", "image_classification", 3, image_splits, made, resume_dir=""))
    of_images = manifest.model_copy(update={"task": "image_classification"})
    origin = origin_of(of_images, "checkpoint", str(made))
    target = tmp_path / "taken"
    figures = import_model(
        section, "image_classification", 3, origin, image_splits, target, tmp_path / "history"
    )
    own = json.loads((made / "training.json").read_text())
    record = read_record(target)
    assert record.data_sha256 == own["data_sha256"]
    assert record.origin == origin
    assert 0 <= figures["validation_macro_f1"] <= 1
    with pytest.raises(UsageError, match="a checkpoint of image_classification, expected one of text"):
        taken(manifest, "checkpoint", made, tiny_splits, tmp_path)


def test_the_code_that_a_checkpoint_names_runs_only_if_the_manifest_names_it_too(
    image_splits: Path, manifest: Manifest, tmp_path: Path
) -> None:
    section = ImageTraining(filters=(4,), units=0, epochs=1)
    made = tmp_path / "made"
    train(TrainingRun(section, "drawn", "image_classification", 3, image_splits, made, resume_dir=""))
    record = json.loads((made / "training.json").read_text())
    ran = tmp_path / "ran"
    record |= {"network": "os:mkdir", "network_args": {"path": str(ran)}}
    (made / "training.json").write_text(json.dumps(record))
    of_images = manifest.model_copy(update={"task": "image_classification"})
    origin = origin_of(of_images, "checkpoint", str(made))
    with pytest.raises(
        UsageError, match=r"its network is os:mkdir, expected training\.network of the manifest"
    ):
        import_model(section, "image_classification", 3, origin, image_splits, tmp_path / "c", tmp_path / "h")
    assert not ran.exists()


def test_the_bundle_of_a_graph_from_elsewhere_says_how_the_images_of_the_splits_were_resized(
    manifest: Manifest, tmp_path: Path
) -> None:
    pictures = write_pictures(tmp_path / "pictures", draw(30, seed=1))
    dataset = ImageDataset.model_validate(
        {"name": "drawn", "version": "1", "uri": str(pictures), "shape": [8, 8], "resize": "crop"}
    )
    splits = tmp_path / "splits"
    validate_data("image_classification", dataset, splits, tmp_path / "checks", tmp_path / "report")

    class Linear(torch.nn.Sequential):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images.float() / 255)

    network = Linear(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, len(SHAPES)))
    export_plain(network, signature_of_images((3, 8, 8)), tmp_path / "shapes.onnx", opset=17)
    of_images = manifest.model_copy(update={"task": "image_classification"})
    origin = origin_of(of_images, "onnx", str(tmp_path / "shapes.onnx"))
    made = tmp_path / "made"
    import_model(ImageTraining(), "image_classification", 1, origin, splits, made, tmp_path / "history")
    subject = open_subject(of_images.kind, made, read_record(made), splits, 1)
    assert isinstance(subject, TracedSubject)
    (tmp_path / "candidates").mkdir()
    [graph] = GraphSubject.of(subject).build(tmp_path / "candidates")
    [(name, path)] = GraphSubject.of(subject).files(graph).items()
    assert (name, json.loads(path.read_text())) == ("preprocessing.json", {"resize": "crop"})


def test_a_kind_without_the_role_says_that_it_reads_no_other_form(
    manifest: Manifest, saved: Path, image_splits: Path, tmp_path: Path
) -> None:
    origin = origin_of(manifest, "checkpoint", str(saved))
    with pytest.raises(UsageError, match="the task kind image_classification reads no other form"):
        import_model(
            ImageTraining(), "image_classification", 1, origin, image_splits, tmp_path / "c", tmp_path / "h"
        )


@pytest.mark.parametrize(
    ("operator", "precision"),
    [("MatMul", "fp32"), ("MatMulInteger", "int8"), ("MatMulNBits", "int4")],
)
def test_the_precision_of_a_graph_is_read_off_its_operators(operator: str, precision: str) -> None:
    graph = helper.make_graph([helper.make_node(operator, ["a"], ["b"])], "graph", [], [])
    assert precision_of(graph) == precision


def test_a_graph_with_half_precision_weights_is_fp16() -> None:
    weights = helper.make_tensor("w", TensorProto.FLOAT16, [1], [1.0])
    assert precision_of(helper.make_graph([], "graph", [], [], [weights])) == "fp16"
