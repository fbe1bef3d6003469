"""What is fed with damaged input. Each ends in success or in one clean error; anything else is a fault."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from gauntlet.components.validate_data.run import run as validate
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.pipelines.cli import main
from gauntlet.pipelines.trigger import receiver
from gauntlet.pipelines.trigger.receiver import read_delivery
from gauntlet.serving.bundle import BundleError
from gauntlet.serving.interface import InputError
from gauntlet.serving.texts import TextInputs, TokenizerError
from gauntlet.tasks.image_classification.manifest import ImageDataset
from gauntlet.tasks.image_classification.tiny import write_files
from gauntlet.tasks.images.reading import ImageSource, read_images
from gauntlet.tasks.language.data import read_table as read_conversations
from gauntlet.tasks.language.manifest import ConversationDataset
from gauntlet.tasks.ordinal_grading.manifest import CardDataset
from gauntlet.tasks.text_classification.manifest import TextDataset
from tests import drawn_cards, drawn_images
from tests.conftest import LABELS, class_rows
from tests.fuzz.mutations import NASTY, TOKENS, as_json, damaged_bytes, damaged_value

MANIFESTS = sorted((Path(__file__).parents[2] / "manifests").glob("*.yaml"))
SAMPLE = str(Path(__file__).parents[2] / "manifests" / "emotion_sample.yaml")
CLEAN = (GauntletError, BundleError, TokenizerError, InputError)
EXIT_CODES = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Target:
    """`prepare` writes what is damaged into a folder once; `feed` damages it, and feeds it once."""

    name: str
    prepare: Callable[[Path], Any]
    feed: Callable[[random.Random, Path, Any], None]


def command(*arguments: str) -> None:
    """`gauntlet ARGUMENTS`: ends with one of its exit codes, and prints no traceback."""
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            main(arguments)
    except SystemExit as ended:
        assert (ended.code or 0) in EXIT_CODES, f"exit code {ended.code!r}: {said.getvalue()[-2000:]}"
    assert "Traceback" not in said.getvalue()


def quietly(check: Callable[[], object]) -> None:
    """Without what it prints, and without its clean errors; their messages can be shown on one terminal."""
    with redirect_stdout(io.StringIO()):
        try:
            check()
        except CLEAN as error:
            assert str(error).strip(), "an error without a message"


def no_file(_: Path) -> None:
    """Nothing to prepare."""


# --- manifests ---


def feed_manifest(draw: random.Random, folder: Path, _: None) -> None:
    text = draw.choice(MANIFESTS).read_bytes()
    if draw.random() < 0.5:
        file = folder / "manifest.yaml"
        file.write_bytes(damaged_bytes(draw, text))
    else:
        content = damaged_value(draw, yaml.safe_load(text))
        file = folder / draw.choice(("manifest.yaml", "manifest.json"))
        if file.suffix == ".json" or draw.random() < 0.5:
            file.write_bytes(as_json(content))
        else:
            file.write_text(yaml.safe_dump(content), encoding="utf-8", errors="surrogatepass")
    command(draw.choice(("check", "check", "check", "cost")), str(file))


def feed_override(draw: random.Random, _folder: Path, _: None) -> None:
    content = yaml.safe_load(Path(SAMPLE).read_bytes())
    section = draw.choice((*content, "conversion", "evaluation", "platforms", "nothing"))
    key = draw.choice(
        (section, f"{section}.{draw.choice(('uri', 'labels', 'checks', 'resources', 'epochs', 'x'))}")
    )
    value = draw.choice(
        (str(draw.choice(NASTY)), yaml.safe_dump(draw.choice(NASTY)), draw.choice(TOKENS).decode("latin-1"))
    )
    damaged = (
        damaged_bytes(draw, f"{key}={value}".encode(errors="surrogatepass")) if draw.random() < 0.5 else None
    )
    override = f"{key}={value}" if damaged is None else damaged.decode("utf-8", errors="surrogateescape")
    command("check", SAMPLE, "--set", override)


def feed_path(draw: random.Random, folder: Path, _: None) -> None:
    """Paths and names on the command line."""
    name = "".join(
        draw.choice(("a", "\0", "\ud800", "[/b]", "..", "/", "😀", "\n", "x" * 300))
        for _ in range(draw.randint(1, 4))
    )
    path = draw.choice((name, f"{folder}/{name}"))
    command(
        *draw.choice(
            (
                ("check", path),
                ("bundle", "inspect", path),
                ("bundle", "verify", path),
                ("report", path),
                ("check", SAMPLE, "--set", f"dataset.uri={path}"),
            )
        )
    )


# --- data ---


def prepare_texts(folder: Path) -> dict[str, bytes]:
    frame = class_rows(30)
    quoted = frame.assign(text=frame["text"] + '\n"quoted", and more')
    parquet = io.BytesIO()
    frame.to_parquet(parquet)
    indices = io.BytesIO()
    frame.assign(label=frame["label"].map(list(LABELS).index)).to_parquet(indices)
    csv = frame.to_csv(index=False).encode()
    return {
        "train.csv": csv,
        "quoted.csv": quoted.to_csv(index=False).encode(),
        "train.tsv": frame.to_csv(index=False, sep="\t").encode(),
        "train.jsonl": frame.to_json(orient="records", lines=True).encode(),
        "train.parquet": parquet.getvalue(),
        "indices.parquet": indices.getvalue(),
        "train.csv.gz": gzip.compress(csv),
        "utf16.csv": frame.to_csv(index=False).encode("utf-16"),
    }


def feed_texts(draw: random.Random, folder: Path, files: dict[str, bytes]) -> None:
    name, content = draw.choice(list(files.items()))
    if name.endswith(".gz") and draw.random() < 0.7:
        content = gzip.compress(damaged_bytes(draw, gzip.decompress(content)))
    elif name.endswith(".jsonl") and draw.random() < 0.5:
        rows = [json.loads(line) for line in content.splitlines()]
        content = b"\n".join(as_json(row) for row in damaged_value(draw, rows) or [None])
    else:
        content = damaged_bytes(draw, content)
    (folder / name).write_bytes(content)
    section = {"name": "fed", "version": "1", "uri": str(folder / name), "labels": list(LABELS)}
    section |= draw.choice(
        (
            {},
            {"columns": {"text": 0, "label": 1}},
            {"format": draw.choice(("csv", "tsv", "jsonl", "parquet"))},
        )
    )
    dataset = TextDataset.model_validate(section)
    quietly(
        lambda: validate(
            "text_classification", dataset, folder / "splits", folder / "checks", folder / "report"
        )
    )


CONVERSATIONS = (
    [
        {
            "messages": [
                {"role": "user", "content": f"I am tired {at}."},
                {"role": "assistant", "content": "Since when?"},
            ]
        }
        for at in range(20)
    ]
    + [{"text": f"Client: I am: tired {at}.\nTherapist: Since when?"} for at in range(10)]
    + [{"input_text": f"Hello {at}", "output_text": "Hello."} for at in range(10)]
)


def feed_conversations(draw: random.Random, folder: Path, _: None) -> None:
    file = folder / draw.choice(("talk.json", "talk.jsonl", "talk.csv"))
    rows = damaged_value(draw, CONVERSATIONS) if draw.random() < 0.7 else CONVERSATIONS
    if file.suffix == ".csv":
        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerows([["text"], *([str(row)] for row in rows)] if isinstance(rows, list) else [["x"]])
        data = table.getvalue().encode(errors="surrogatepass")
    elif file.suffix == ".jsonl":
        data = b"\n".join(map(as_json, rows)) if isinstance(rows, list) else as_json(rows)
    else:
        data = as_json(rows)
    file.write_bytes(damaged_bytes(draw, data) if draw.random() < 0.5 else data)
    section = {"name": "fed", "version": "1", "uri": str(file), "tokenizer": "none"}
    dataset = ConversationDataset.model_validate(section)
    quietly(lambda: read_conversations(dataset))


def prepare_images(folder: Path) -> dict[str, bytes]:
    write_files(folder, drawn_images.draw(16, 0), drawn_images.draw(12, 1))
    return {name: (folder / name).read_bytes() for name in drawn_images.FILES.values()}


def feed_images(draw: random.Random, folder: Path, files: dict[str, bytes]) -> None:
    damaged = draw.choice(list(files))
    for name, content in files.items():
        (folder / name).write_bytes(content)
    packed = draw.random() < 0.3
    content = damaged_bytes(draw, files[damaged] if packed else gzip.decompress(files[damaged]))
    (folder / damaged).write_bytes(content if packed else gzip.compress(content))
    dataset = ImageDataset.model_validate(drawn_images.dataset(folder))
    quietly(
        lambda: validate(
            "image_classification", dataset, folder / "splits", folder / "checks", folder / "report"
        )
    )


def prepare_archives(folder: Path) -> dict[str, bytes]:
    """Images of several formats in a zip and in a tar, and each format by itself."""
    files = {}
    for suffix in (".png", ".jpg", ".gif", ".tif", ".webp", ".bmp"):
        content = io.BytesIO()
        Image.effect_mandelbrot((20, 16), (-2, -1, 1, 1), 90).save(
            content, Image.registered_extensions()[suffix]
        )
        files[f"any/picture{suffix}"] = content.getvalue()
    with zipfile.ZipFile(folder / "pack.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    with tarfile.open(folder / "pack.tar.gz", "w:gz") as packed:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            packed.addfile(entry, io.BytesIO(data))
    return files | {name: (folder / name).read_bytes() for name in ("pack.zip", "pack.tar.gz")}


def feed_archives(draw: random.Random, folder: Path, files: dict[str, bytes]) -> None:
    name = draw.choice(list(files))
    content = damaged_bytes(draw, files[name])
    (folder / "any").mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    uri = folder if name.startswith("any/") else folder / name
    source = ImageSource(uri=str(uri), shape=(8, 8), channels=draw.choice((1, 3)), resize="pad")
    quietly(lambda: read_images(source))


def prepare_cards(folder: Path) -> tuple[Any, bytes]:
    drawn_cards.write_cards(folder, {"train": 1, "val": 1, "test": 1})
    return drawn_cards.read_splits(folder), (folder / "train-0-front.png").read_bytes()


def feed_cards(draw: random.Random, folder: Path, cards: tuple[Any, bytes]) -> None:
    splits, picture = cards
    (folder / "train-0-front.png").write_bytes(
        damaged_bytes(draw, picture) if draw.random() < 0.3 else picture
    )
    listed = as_json(damaged_value(draw, splits))
    (folder / "splits.json").write_bytes(damaged_bytes(draw, listed) if draw.random() < 0.3 else listed)
    checks = {"rows_per_class": {"severity": "warn"}, "class_balance": {"severity": "warn"}}
    dataset = CardDataset.model_validate(drawn_cards.dataset(folder, checks=checks))
    quietly(
        lambda: validate("ordinal_grading", dataset, folder / "splits", folder / "checks", folder / "report")
    )


# --- models ---


def prepare_tokenizers(_: Path) -> list[dict[str, Any]]:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    words = {
        word: at for at, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "##s", "a"))
    }
    made = []
    for model in (
        models.WordLevel(words, unk_token="[UNK]"),
        models.WordPiece(words, unk_token="[UNK]"),
        models.BPE({"a": 0, "b": 1, "ab": 2, "[UNK]": 3}, [("a", "b")], unk_token="[UNK]"),
        models.Unigram([("<unk>", 0.0), ("a", -1.0), ("good", -2.0)], unk_id=0),
    ):
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Whitespace(), pre_tokenizers.Digits()]
        )
        tokenizer.decoder = decoders.WordPiece()
        if isinstance(model, models.WordLevel | models.WordPiece):
            template = [("[CLS]", 2), ("[SEP]", 3)]
            tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, template)
        tokenizer.enable_padding(length=16)
        tokenizer.enable_truncation(8)
        made.append(json.loads(tokenizer.to_str()))
    return made


def feed_tokenizer(draw: random.Random, folder: Path, tokenizers: list[dict[str, Any]]) -> None:
    content = as_json(damaged_value(draw, draw.choice(tokenizers)))
    file = folder / "tokenizer.json"
    file.write_bytes(damaged_bytes(draw, content) if draw.random() < 0.3 else content)
    quietly(lambda: TextInputs.open(file, 16).batch(["good bad", "", "😀 a1b2 " * 40, "\0", "ГОД"]))


def prepare_bundle(folder: Path) -> dict[str, Any]:
    from gauntlet.serving.bundle import file_sha256, write_bundle
    from tests.text_bundles import word_score_info, write_parts

    parts = write_parts(folder / "parts")
    certificate = {"model_sha256": file_sha256(parts["model.onnx"]), "rows": 10, "cpu_class": "avx2"}
    parts["parity.json"].write_text(json.dumps(certificate))
    write_bundle(folder / "bundle", word_score_info(), parts)
    return {path.name: path.read_bytes() for path in (folder / "bundle").iterdir()}


def feed_bundle(draw: random.Random, folder: Path, files: dict[str, Any]) -> None:
    from gauntlet.serving.bundle import file_sha256

    for name, content in files.items():
        (folder / name).write_bytes(content)
    damaged = draw.choice(("bundle.json", "bundle.json", "parity.json", "tokenizer.json"))
    content = as_json(damaged_value(draw, json.loads(files[damaged])))
    (folder / damaged).write_bytes(damaged_bytes(draw, content) if draw.random() < 0.2 else content)
    if damaged != "bundle.json":
        info = json.loads(files["bundle.json"])
        info["files"][damaged] = file_sha256(folder / damaged)
        (folder / "bundle.json").write_text(json.dumps(info))
    command("bundle", draw.choice(("inspect", "verify")), str(folder))


# --- events ---

EVENT = {
    "manifest": "emotion_sample",
    "reason": "drift",
    "detail": "PSI 0.31",
    "dataset_uri": "gs://b/x",
    "id": "1",
}
CLOUD_EVENT = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": EVENT}


def feed_event(draw: random.Random, _folder: Path, __: None) -> None:
    event = damaged_value(draw, EVENT)
    message = {
        "message": {"data": base64.b64encode(as_json(event)).decode(), "messageId": "1"},
        "subscription": "s",
    }
    envelope = draw.choice((event, damaged_value(draw, message), damaged_value(draw, CLOUD_EVENT)))
    body = damaged_bytes(draw, as_json(envelope)) if draw.random() < 0.3 else as_json(envelope)
    headers = draw.choice(
        (
            {},
            {"content-type": "application/cloudevents+json"},
            {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "t"},
        )
    )

    def receive() -> None:
        delivery = read_delivery(headers, body)
        assert delivery.job_id
        receiver._manifest(delivery.event)

    try:
        quietly(receive)
    except UsageError:
        return


TARGETS = (
    Target("manifests", no_file, feed_manifest),
    Target("overrides", no_file, feed_override),
    Target("paths", no_file, feed_path),
    Target("texts", prepare_texts, feed_texts),
    Target("conversations", no_file, feed_conversations),
    Target("images", prepare_images, feed_images),
    Target("archives", prepare_archives, feed_archives),
    Target("cards", prepare_cards, feed_cards),
    Target("tokenizers", prepare_tokenizers, feed_tokenizer),
    Target("bundles", prepare_bundle, feed_bundle),
    Target("events", no_file, feed_event),
)
