"""A model that was trained elsewhere takes the place of a training: a checkpoint, or an ONNX graph.

The files are copied, checked against the manifest and the splits, and written as the checkpoint that
convert-to-onnx reads. Its record, `training.json`, has their `Origin`. Pickles are never read: that runs
code.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from gauntlet.backends import storage
from gauntlet.components.convert_to_onnx.export import ConversionError
from gauntlet.components.convert_to_onnx.imported import prepare_graph
from gauntlet.components.convert_to_onnx.subject import Subject, TracedSubject
from gauntlet.contracts.training import Epoch, History, Origin, OriginForm, TrainingRecord, tracked_name
from gauntlet.manifests.conversion import Conversion
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.manifests.kinds import TaskKind, task_kind
from gauntlet.manifests.schema import Manifest
from gauntlet.manifests.training import Training
from gauntlet.serving.bundle import MODEL_FILE, TOKENIZER_FILE, of_kind
from gauntlet.trainer.saved_model import TRAINING_FILE, read_record, write_checkpoint
from gauntlet.trainer.splits import read_statistics
from gauntlet.trainer.task import WEIGHTS_FILE, load_task

READ = (".safetensors", ".json", ".onnx", ".onnx_data", ".data", ".txt", ".model")
"""Suffixes of the files that are read; what else lies there, such as optimizer states, is left alone."""
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
SHARDS_FILE = "model.safetensors.index.json"
CONFIG_FILE, BESIDE_A_GRAPH = "config.json", ("config.json", "tokenizer.json")
HOW_TO = "docs/how-to/judge_a_model_trained_elsewhere.md"


def origin_of(manifest: Manifest, form: OriginForm, source: str, labels: Sequence[str] = ()) -> Origin:
    """Where a model comes from, once its files have been listed and hashed.

    Args:
        manifest: The manifest that it is judged by.
        form: What it is.
        source: A path or a URI: the folder of a checkpoint, or of an ONNX file, or that file.
        labels: The names of an ONNX graph's classes in its order.

    Raises:
        UsageError: The files are missing or cannot be taken, or a service trains models of the kind.
    """
    if not manifest.kind.is_converted:
        raise UsageError(
            f"--from-{form}: a service trains and serves models of {manifest.task}, so no file of them can "
            "be judged."
        )
    path = storage.local_path(source)
    where = source if path is None else str(path.resolve())
    files = source_files(where, form, manifest.task)
    return Origin(form=form, source=where, sha256=_hash(files), labels=tuple(labels))


def source_files(source: str, form: OriginForm, task: str) -> dict[str, str]:
    """The URIs of the files that make up a model of a task kind, by name.

    Raises:
        UsageError: There is no such model there, or only a pickled one.
    """
    option = f"--from-{form}"
    try:
        is_folder = storage.is_folder(source)
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from None
    folder, name = (source, "") if is_folder else (source.rpartition("/")[0], storage.file_name(source))
    found = storage.list_files(folder) if is_folder else _with_companions(folder, name, form, task)
    wanted = WEIGHTS_FILE if form == "checkpoint" else "*.onnx"
    pickled = [one for one in found if one.endswith(PICKLED)]
    if form == "checkpoint" and SHARDS_FILE in found:
        raise UsageError(
            f"{option}: {source}: found weights in several files ({SHARDS_FILE}), expected one "
            f"{WEIGHTS_FILE}. Save it with `save_pretrained(FOLDER, max_shard_size='100GB')`."
        )
    weights = [one for one in found if one.endswith(".onnx") or one == WEIGHTS_FILE]
    if pickled and not weights:
        raise UsageError(
            f"{option}: {source}: found {', '.join(pickled)}, expected {wanted}. A pickle runs code when "
            f"it is read, so it is refused. {HOW_TO} says how to convert it."
        )
    graphs = [one for one in found if one.endswith(".onnx")]
    if form == "onnx" and len(graphs) != 1:
        raise UsageError(
            f"{option}: {source}: found {', '.join(graphs) or 'no ONNX file'}, expected one. Name the file."
        )
    if form == "checkpoint" and (not is_folder or WEIGHTS_FILE not in found):
        raise UsageError(
            f"{option}: {source}: found no {WEIGHTS_FILE}, expected the folder of a checkpoint: "
            f"{WEIGHTS_FILE} and {TRAINING_FILE}, or a folder of Hugging Face's save_pretrained."
        )
    # A checkpoint of Gauntlet's has folders, such as that of the adapters; one of a Trainer has its states.
    names = storage.list_tree(folder) if form == "checkpoint" and TRAINING_FILE in found else found
    if out := [one for one in names if one.startswith("/") or ".." in one.split("/")]:
        raise UsageError(f"{option}: {source}: found {out[0]!r}, which leads out of the folder. Remove it.")
    return {one: storage.join(folder, one) for one in names if one.endswith(READ)}


def _with_companions(folder: str, name: str, form: OriginForm, task: str) -> list[str]:
    """A file, and what belongs to a graph: external data, labels, and the files that the kind needs."""
    if form == "checkpoint":
        return [name]
    beside = {*BESIDE_A_GRAPH, *of_kind(task, "FILES"), f"{name.removesuffix('.onnx')}.onnx_data"}
    found = storage.list_files(folder)
    return [name, *(one for one in found if one != name and (one in beside or one.startswith(f"{name}.")))]


def _hash(files: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for name, uri in sorted(files.items()):
        digest.update(f"{name} {hashlib.sha256(storage.read_bytes(uri)).hexdigest()}\n".encode())
    return digest.hexdigest()


def import_model(
    section: Training, task: str, seed: int, origin: Origin, splits: Path, checkpoint: Path, history: Path
) -> dict[str, float]:
    """Write the checkpoint and the history of a model that was trained elsewhere; return its figures.

    The history has one epoch, which was not trained here: the model's figures on the validation split.

    Raises:
        UsageError: The model does not fit the manifest or the splits.
        GauntletError: Its files have changed since the run was started, or its scores are of no use.
    """
    kind = task_kind(task)
    with tempfile.TemporaryDirectory(prefix="gauntlet-import-") as scratch:
        given, made = Path(scratch) / "given", Path(scratch) / "made"
        given.mkdir()
        made.mkdir()
        _fetch(origin, task, given)
        labels = read_statistics(splits).labels
        if origin.form == "onnx":
            fields = dict(load_task(task, section, splits).of_record)
            fields.pop("encoder", None)  # the section's, and not this model's
            record = _foreign(task, labels, seed, origin, fields)
            subject = open_subject(kind, made, record, splits, seed)
            if not isinstance(subject, TracedSubject):
                raise UsageError(f"--from-onnx: the task kind {task} takes no ONNX file.")
            needed = {*of_kind(task, "FILES"), *((TOKENIZER_FILE,) if subject.is_tokenized else ())}
            write_checkpoint(made, record, lambda folder: _save_files(needed, task, given, folder))
            prepare_graph(given, made / MODEL_FILE, subject, origin.labels)
            try:
                figures, _ = subject.measure(made / MODEL_FILE)
            except ConversionError as error:
                raise UsageError(f"--from-onnx: {origin.source}: the graph {error}.") from None
        else:
            try:
                record = _checkpoint(kind, section, seed, origin, splits, given, made)
                figures = open_subject(kind, made, record, splits, seed).reference(())
            except GauntletError as error:
                said = str(error).replace(str(given), origin.source).replace(str(made), origin.source)
                option = "--from-checkpoint: "
                raise UsageError(f"{option}{said.removeprefix(option)}") from None
        storage.replace_folder(made, str(checkpoint), last=TRAINING_FILE)
    epoch = Epoch(epoch=1, training={}, validation=dict(figures), examples_per_second=None, seconds=None)
    History(epochs=[epoch], best_epoch=1, origin=origin).write(history)
    return {tracked_name(name): value for name, value in figures.items()}


def open_subject(kind: TaskKind, folder: Path, record: TrainingRecord, splits: Path, seed: int) -> Subject:
    """The kind's subject of a checkpoint, to score rows with; nothing is converted."""
    subject: Subject = kind.function("conversion", "open_subject")(Conversion(), folder, record, splits, seed)
    return subject


def _fetch(origin: Origin, task: str, folder: Path) -> None:
    fetched: dict[str, str] = {}
    for name, uri in source_files(origin.source, origin.form, task).items():
        fetched[name] = str(folder / name)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        storage.fetch(uri, folder / name)
    if _hash(fetched) != origin.sha256:
        raise GauntletError(
            f"{origin.source}: its files have changed since the run was started. Start it again."
        )


def _foreign(
    task: str, labels: Sequence[str], seed: int, origin: Origin, fields: Mapping[str, Any]
) -> TrainingRecord:
    """The record of a model of which it is not known what it was trained on."""
    known = {"task": task, "labels": tuple(labels), "seed": seed, "epoch": 0, "origin": origin}
    return TrainingRecord(**known, data_sha256="", training_sha256="", **fields)


def _save_files(needed: Set[str], task: str, given: Path, folder: Path) -> None:
    for name in sorted(needed - {MODEL_FILE}):
        if not (given / name).is_file():
            raise UsageError(f"--from-onnx: found no {name} beside the graph, which models of {task} need.")
        shutil.copyfile(given / name, folder / name)


def _checkpoint(
    kind: TaskKind,
    section: Training,
    seed: int,
    origin: Origin,
    splits: Path,
    given: Path,
    made: Path,
) -> TrainingRecord:
    """Write a checkpoint of this project's form to `made`."""
    labels = read_statistics(splits).labels
    if (given / TRAINING_FILE).is_file():
        record = _fitting(read_record(given), kind, section, origin, labels)
        write_checkpoint(made, record, lambda folder: storage.upload(given, str(folder)))
        return record
    read = getattr(kind.role("training"), "import_checkpoint", None)
    if read is None:
        raise UsageError(
            f"--from-checkpoint: {origin.source}: found no {TRAINING_FILE}, so it is no checkpoint of "
            f"Gauntlet's, and the task kind {kind.name} reads no other form."
        )
    scratch = made.with_name("read")
    scratch.mkdir()
    record = _foreign(kind.name, labels, seed, origin, read(section, given, splits, scratch))
    write_checkpoint(made, record, lambda folder: storage.upload(scratch, str(folder)))
    return record


def _fitting(
    record: TrainingRecord, kind: TaskKind, section: Training, origin: Origin, labels: Sequence[str]
) -> TrainingRecord:
    """The record with its origin.

    Raises:
        UsageError: The checkpoint is of another task kind, has other labels, or needs code that the manifest
            does not name. Such code must not run.
    """
    where = f"--from-checkpoint: {origin.source}"
    if record.task != kind.name:
        raise UsageError(f"{where}: found a checkpoint of {record.task}, expected one of {kind.name}.")
    if tuple(record.labels) != tuple(labels):
        raise UsageError(
            f"{where}: found the labels {', '.join(record.labels)}, expected those of the manifest in "
            f"their order: {', '.join(labels)}."
        )
    key, path = section.network_code or ("training.network", "not set")
    if record.network and record.network != path:
        raise UsageError(
            f"{where}: its network is {record.network}, expected {key} of the manifest, which is {path}. "
            "Name it there if its code may run here."
        )
    return record.model_copy(update={"origin": origin})
