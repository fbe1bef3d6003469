"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import fsspec
import pandas as pd
import pytest

from gauntlet.tasks.image_classification.tiny import write_files
from tests import drawn_cards, warm
from tests.drawn_images import dataset, draw
from tests.no_folder_renames import sitecustomize

if TYPE_CHECKING:  # fixtures import the fakes, and torch and transformers, which take seconds, themselves
    from tests.fakes.cloud import FakeCloud, Trust
    from tests.fakes.gemini import FakeGemini

# gcsfs reads it when it is imported: without it, it asks a service that no fake here is for.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

LABELS = ("calm", "angry", "glad")
STEPS_ON_A_CPU = (
    "fingerprint_data",
    "validate_data",
    "convert_to_onnx",
    "evaluate_model",
    "gate_model",
    "register_model",
    "write_report",
    "collect_window",
    "detect_drift",
    "request_training",
)
PUSHED_IMAGES = dict.fromkeys(STEPS_ON_A_CPU, f"registry.example/components@sha256:{'1' * 64}") | {
    "train_model": f"registry.example/trainer@sha256:{'2' * 64}"
}
FEW_ROWS = {"rows_per_class": {"min_rows": 1}}
# Every text is made of words of its own class, so a model that learns anything learns this.
CLASS_WORDS = {
    "calm": ("quiet", "lake", "slow", "breath", "still"),
    "angry": ("slam", "shout", "rage", "fist", "glare"),
    "glad": ("smile", "sunny", "cheer", "dance", "gift"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--data",
        help="folder with emotion/ (train.txt, validation.txt), fashion-mnist/ (idx files) and "
        "goemotions-ekman/ (train.tsv, validation.tsv)",
    )


LONGEST = ("end_to_end", "trainer", "vertex_like")
"""Folders with the files that take longest: started last, one of them would run alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.parent.name not in LONGEST)  # the order is kept otherwise


@pytest.fixture(scope="session", autouse=True)
def no_folder_renames(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests write as if under `/gcs`: no process can rename a folder or link a file below their folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(sitecustomize.VARIABLE, str(tmp_path_factory.getbasetemp()))
        patch.setenv("PYTHONPATH", str(Path(sitecustomize.__file__).parent), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session", autouse=True)
def callers_without_their_sources() -> Iterator[None]:
    """KFP inspects the whole stack for its caller's name, which takes seconds with many modules imported."""

    def stack() -> list[tuple[Any, ...]]:
        frames = (sys._getframe(1), sys._getframe(2))
        return [(one, one.f_code.co_filename, one.f_lineno, one.f_code.co_name) for one in frames]

    quick = SimpleNamespace(**vars(inspect) | {"stack": stack})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kfp.dsl.pipeline_task.inspect", quick)
        yield


@pytest.fixture(scope="session")
def zygote(no_folder_renames: None) -> Iterator[None]:
    with warm.zygote():
        yield


@pytest.fixture(scope="module")
def warm_processes(zygote: None) -> Iterator[None]:
    """Fork the programs of Gauntlet that a module's tests start: `tests.warm`."""
    with warm.forking():
        yield


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers with random weights and a word-level tokenizer, as a folder on disk."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny-encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(word for group in CLASS_WORDS.values() for word in group)]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    network = BertModel(config)
    read = network.embeddings.position_embeddings.weight.detach()
    config.max_position_embeddings = 128  # the default of training.max_length
    longer = BertModel(config)
    longer.load_state_dict(
        network.state_dict() | {"embeddings.position_embeddings.weight": torch.cat([read, read])}
    )
    longer.save_pretrained(folder)
    return folder


def class_rows(rows_per_class: int, offset: int = 0) -> pd.DataFrame:
    """Distinct texts of three to five words of their own class; `offset` selects other texts."""
    rows = []
    for label, words in CLASS_WORDS.items():
        for number in range(offset, offset + rows_per_class):
            length = 3 + number % 3
            text = " ".join(words[(number // 5**place + place) % len(words)] for place in range(length))
            rows.append({"text": f"{text} {number}", "label": label})
    return pd.DataFrame(rows)


@pytest.fixture
def tiny_splits(tmp_path: Path) -> Path:
    """Splits as validate-data writes them, over the words that the tiny encoder knows."""
    folder = tmp_path / "splits"
    folder.mkdir()
    for split, rows, offset in (("train", 24, 0), ("validation", 8, 100), ("test", 8, 200)):
        frame = class_rows(rows, offset)
        frame["label"] = frame["label"].map(LABELS.index)
        frame["row"] = range(len(frame))
        frame.to_parquet(folder / f"{split}.parquet")
    statistics = {"name": "moods", "version": "1", "uri": "moods.csv", "rows": {}}
    statistics |= {"labels": LABELS, "sha256": "0" * 64}
    (folder / "statistics.json").write_text(json.dumps(statistics))
    return folder


@pytest.fixture(scope="session")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    from tests.fakes.cloud import Trust

    return Trust(tmp_path_factory.mktemp("trust"))


@pytest.fixture
def cloud(trust: Trust, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCloud]:
    """Google Cloud on loopback, for everything in this process."""
    from tests.fakes.cloud import FakeCloud

    fake = FakeCloud(trust)
    for key, value in fake.environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon", "endpoint_url": fake.bucket.url})
    yield fake
    fake.close()
    fsspec.get_filesystem_class("gs").clear_instance_cache()  # with the listings of this test's bucket
    assert fake.proxy.refused == []


@pytest.fixture
def gemini(trust: Trust, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGemini]:
    """Gemini on Vertex AI on loopback, for everything in this process and in those that it starts."""
    from gauntlet.backends.google import gemini as client
    from tests.fakes.gemini import LOCATION, FakeGemini

    fake = FakeGemini(trust.authority)
    store = {"token": "anon", "endpoint_url": fake.bucket.url}
    roots = trust.environment["REQUESTS_CA_BUNDLE"]
    place = {"GAUNTLET_PROJECT": "demo", "GAUNTLET_REGION": LOCATION, "GAUNTLET_ROOT": "gs://bucket/root"}
    proxy = {"https_proxy": fake.proxy.url, "no_proxy": "127.0.0.1", "SSL_CERT_FILE": roots}
    for key, value in (trust.environment | place | proxy | {"FSSPEC_GS": json.dumps(store)}).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setitem(fsspec.config.conf, "gs", store)
    monkeypatch.setattr(client, "SECONDS_BEFORE_THE_FIRST_RETRY", 0.01)
    yield fake
    fake.close()
    assert fake.proxy.refused == []


@pytest.fixture
def pushed_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the variables that name the images do to a process that is started with them."""
    for name, image in PUSHED_IMAGES.items():
        step = importlib.import_module(f"gauntlet.components.{name}.component")
        component = getattr(step, name)
        monkeypatch.setattr(component.component_spec.implementation.container, "image", image)


@pytest.fixture
def place(cloud: FakeCloud, pushed_images: None, monkeypatch: pytest.MonkeyPatch) -> FakeCloud:
    """A project of Google Cloud that is ready for a run and named in the environment."""
    for key, value in {
        "GAUNTLET_PROJECT": "demo",
        "GAUNTLET_REGION": cloud.LOCATION,
        "GAUNTLET_ROOT": "gs://bucket/root",
        "GAUNTLET_REGISTRY": f"vertex://demo/{cloud.LOCATION}?staging=gs://bucket/gauntlet",
        "FSSPEC_GS": json.dumps({"token": "anon", "endpoint_url": cloud.bucket.url}),  # in steps' processes
    }.items():
        monkeypatch.setenv(key, value)
    return cloud


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Every test has a home folder of its own."""
    home = tmp_path / "home"
    monkeypatch.setenv("GAUNTLET_HOME", str(home))
    yield home


@pytest.fixture
def image_splits(tmp_path: Path) -> Path:
    """Splits of drawn images as validate-data writes them: 74 rows for training, 22 for validation."""
    from gauntlet.components.validate_data.run import run as validate_data
    from gauntlet.tasks.image_classification.manifest import ImageDataset

    files = write_files(tmp_path / "drawn", draw(32, seed=1), draw(16, seed=2))
    section = ImageDataset.model_validate(dataset(files, checks=FEW_ROWS))
    folder = tmp_path / "image-splits"
    validate_data("image_classification", section, folder, tmp_path / "checks", tmp_path / "report")
    return folder


@pytest.fixture
def card_splits(tmp_path: Path) -> Path:
    """Splits of drawn cards as validate-data writes them: 60 rows for training, 20 for validation."""
    from gauntlet.components.validate_data.run import run as validate_data
    from gauntlet.tasks.ordinal_grading.manifest import CardDataset

    section = CardDataset.model_validate(drawn_cards.dataset(drawn_cards.write_cards(tmp_path / "cards")))
    folder = tmp_path / "card-splits"
    validate_data("ordinal_grading", section, folder, tmp_path / "checks", tmp_path / "report")
    return folder
