"""The model bundle: all that serving reads, and the one format that conversion writes.

A bundle is a folder: the files that its task kind asks for (`FILES` of the kind's serving module, such as
`model.onnx` and `tokenizer.json`), the parity certificate, and `bundle.json`, which names every other file
with its sha256. `bundle.json` is written last, so a folder without it is not a bundle. The folder itself is
never renamed: a bucket mounted as a folder cannot do that.

N = rows, C = classes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.kinds import task_kind
from gauntlet.serving.cpu import SATURATING_CLASSES, cpu_class, usable_cpus
from gauntlet.serving.interface import Batch, InputError, Inputs, Rows, ServedModel

GRAPH_ERRORS = (Fail, InvalidArgument, RuntimeException)
"""What ONNX Runtime raises where a graph does not take its inputs, or cannot compute them."""

Device = Literal["cpu", "gpu"]

GPU_PROVIDER = "CUDAExecutionProvider"
NO_GPU = (
    "ONNX Runtime cannot use an NVIDIA GPU. It takes the package onnxruntime-gpu in place of onnxruntime, "
    "CUDA and cuDNN of its version, and a driver for them"
)

FORMAT_VERSION = 1
LONGEST_VALUE_SHOWN = 100
MOST_TOKENS = 2**31 - 1
BUNDLE_FILE = "bundle.json"
MODEL_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"
PARITY_FILE = "parity.json"
GOLDEN_FILE = "golden.json"
"""The scores of made-up rows on the CPU of the proof: a served model carries no row of its data."""
TRAINING_ROWS_FILE = "training_rows.npz"
"""Fingerprints of the rows that the model was trained on. Serving does not read it."""


@dataclass(frozen=True)
class GraphFiles:
    """The names of a graph, of its certificate and of its golden scores in a bundle."""

    model: str
    certificate: str
    golden: str


MAIN = GraphFiles(MODEL_FILE, PARITY_FILE, GOLDEN_FILE)
PORTABLE = GraphFiles("portable.onnx", "portable_parity.json", "portable_golden.json")
"""A graph for CPUs on which the main one gives other answers: `conversion.portable` in the manifest."""


class BundleError(Exception):
    """A bundle that is incomplete, altered or of a format that this version cannot read."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of the graph; a dimension is a size or the name of a dynamic axis."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class BundleInfo:
    """The content of `bundle.json`.

    Attributes:
        task: The name of the task kind.
        labels: Class names in the order of the output's columns.
        candidate: Which conversion candidate this is (`plain`, `int8` …).
        precision: `fp32`, `fp16`, `int8` or `int4`.
        quality: Figures on the validation split, such as `macro_f1`.
        latency_ms: Median milliseconds by batch size, written as text, as JSON has it.
        speedup: PyTorch's median over this model's, by batch size.
        lineage: What it was made from and on: `manifest_sha256`, `data_sha256`, `git_commit` and more.
        max_length: Tokens after which a text is cut; None if rows are not texts.
        frame: Of a language model: the text before and after a prompt.
        repetition_penalty: Of a language model: see `generation.penalised`; None is no penalty.
        device: What it was proved and timed on, and is to be served on; None is a CPU.
        files: The sha256 of each file by name.
    """

    name: str
    task: str
    labels: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    candidate: str
    precision: str
    quality: Mapping[str, float]
    latency_ms: Mapping[str, float]
    speedup: Mapping[str, float]
    lineage: Mapping[str, str]
    max_length: int | None = None
    frame: tuple[str, ...] | None = None
    repetition_penalty: float | None = None
    device: Literal["gpu"] | None = None
    format_version: int = FORMAT_VERSION
    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> BundleInfo:
        """Parse `bundle.json`.

        Raises:
            BundleError: A key is missing or unknown, this version does not read the format, or no task kind
                of that name is installed.
        """
        if (version := content.get("format_version")) != FORMAT_VERSION:
            raise BundleError(f"{BUNDLE_FILE}: found format_version {version}, expected {FORMAT_VERSION}")
        _require_types(content)
        try:
            tensors = {
                key: tuple(TensorSpec(t["name"], t["dtype"], tuple(t["shape"])) for t in content[key])
                for key in ("inputs", "outputs")
            }
            texts = {"labels": tuple(content["labels"])}
            if "frame" in content:
                texts["frame"] = tuple(content["frame"])
            info = cls(**{**content, **tensors, **texts})
        except KeyError as error:
            raise BundleError(f"{BUNDLE_FILE}: the key {error} is missing") from None
        except TypeError as error:
            raise BundleError(f"{BUNDLE_FILE}: {error}") from None
        required = of_kind(info.task, "FILES")
        if info.device not in (None, "gpu"):
            raise BundleError(f"{BUNDLE_FILE}: device: found {info.device!r}, expected 'gpu' or no such key")
        if TOKENIZER_FILE in required and info.max_length is None:
            raise BundleError(f"{BUNDLE_FILE}: the key 'max_length' is missing")
        if unnamed := ", ".join(name for name in required if name not in info.files):
            raise BundleError(f"{BUNDLE_FILE}: files lacks {unnamed}, so they could not be verified")
        return info


def _require_types(content: Mapping[str, Any]) -> None:
    for key, value in content.items():
        expected, fits = _KINDS.get(key, ("", lambda _: True))
        if not fits(value):
            found = json.dumps(value, default=str)[:LONGEST_VALUE_SHOWN]
            raise BundleError(f"{BUNDLE_FILE}: {key}: found {found}, expected {expected}")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_figures(value: object) -> bool:
    return isinstance(value, dict) and all(figure is None or _is_number(figure) for figure in value.values())


def _is_tensors(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(spec, dict)
        and _is_text(spec.get("name", ""))
        and _is_text(spec.get("dtype", ""))
        and isinstance(spec.get("shape", []), list)
        and all(_is_text(size) or _is_number(size) for size in spec.get("shape", []))
        for spec in value
    )


def _is_files(value: object) -> bool:
    """Names without a folder: a bundle from elsewhere must not name a file of the machine that reads it."""
    return isinstance(value, dict) and all(
        _is_text(sha256)
        and name.isprintable()
        and name not in ("", ".", "..")
        and not {"/", "\\"} & set(name)
        for name, sha256 in value.items()
    )


_KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("name", "task", "candidate", "precision"), ("a text", _is_text)),
    **dict.fromkeys(("inputs", "outputs"), ("a list of name, dtype and shape", _is_tensors)),
    **dict.fromkeys(("quality", "latency_ms", "speedup"), ("numbers by name", _is_figures)),
    "labels": ("a list of texts", _is_texts),
    "lineage": ("texts by name", lambda value: isinstance(value, dict) and _is_texts(list(value.values()))),
    "max_length": (
        f"a whole number from 1 to {MOST_TOKENS}",
        lambda value: _is_number(value) and isinstance(value, int) and 0 < value <= MOST_TOKENS,
    ),
    "frame": ("two texts", lambda value: _is_texts(value) and len(value) == 2),
    "repetition_penalty": ("a number over 0", lambda value: _is_number(value) and value > 0),
    "files": ("the sha256 of each file by its name, without a folder", _is_files),
}


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_bundle(folder: Path, info: BundleInfo, files: Mapping[str, Path]) -> BundleInfo:
    """Copy `files` (name in the bundle → where it lies now) into a new bundle at `folder`.

    Returns `info` with the files' hashes. An existing bundle at `folder` is replaced whole.

    Raises:
        BundleError: `files` lacks one that the task kind requires, or no such kind is installed.
        OSError: The disk is full or read-only. Nothing new is left behind.
    """
    if absent := ", ".join(name for name in of_kind(info.task, "FILES") if name not in files):
        raise BundleError(f"{folder}: a bundle needs {absent}")
    complete = replace(info, files={name: file_sha256(files[name]) for name in sorted(files)})
    if folder.exists():
        (folder / BUNDLE_FILE).unlink(missing_ok=True)  # first, so that no half of a bundle looks whole
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    try:
        for name, source in files.items():
            shutil.copyfile(source, folder / name)
        temporary = folder / (BUNDLE_FILE + ".tmp")
        content = {key: value for key, value in asdict(complete).items() if value is not None}
        text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(folder / BUNDLE_FILE)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return complete


def read_info(folder: Path, sha256: str | None = None) -> BundleInfo:
    """Read `bundle.json` and check every file's sha256.

    `sha256` is what `bundle.json` itself must hash to, if a registry has recorded it: without it, altered
    labels or hashes in `bundle.json` go unnoticed.

    Raises:
        BundleError: A file is missing or differs from what was written.
    """
    path = folder / BUNDLE_FILE
    try:
        data = path.read_bytes()
        content = json.loads(data.decode("utf-8"))
    except RecursionError:
        raise BundleError(f"{path}: cannot be read: its JSON is nested too deep") from None
    except FileNotFoundError:
        raise BundleError(f"{path}: no such file, so {folder} is no bundle or was cut short") from None
    except ValueError as error:
        raise BundleError(f"{path}: not JSON: {error}") from None
    if sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise BundleError(f"{path}: sha256 is {found[:12]}…, the registry says {sha256[:12]}…")
    if not isinstance(content, dict):
        raise BundleError(f"{path}: found a JSON {type(content).__name__}, expected an object")
    info = BundleInfo.from_json(content)
    for name, expected in info.files.items():
        if not (folder / name).is_file():
            raise BundleError(f"{folder / name}: missing, though {BUNDLE_FILE} names it")
        if (found := file_sha256(folder / name)) != expected:
            raise BundleError(
                f"{folder / name}: sha256 is {found[:12]}…, {BUNDLE_FILE} says {expected[:12]}…"
            )
    return info


def read_certificate(path: Path) -> dict[str, Any]:
    """The content of a certificate, or a `BundleError` if it is not a JSON object."""
    try:
        certificate = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not JSON: {error}") from None
    if not isinstance(certificate, dict):
        raise BundleError(f"{path}: found a JSON {type(certificate).__name__}, expected an object")
    return certificate


def holds_here(certificate: Mapping[str, Any]) -> bool:
    """Whether the int8 products of a certified graph give the answers of the proof on this CPU."""
    proved = certificate.get("cpu_class")
    if proved is None or certificate.get("portable"):
        return True
    return (cpu_class() in SATURATING_CLASSES) == (proved in SATURATING_CLASSES)


def served_files(folder: Path, info: BundleInfo) -> GraphFiles:
    """The graph for this CPU: the main one, unless it gives other answers here and there is another."""
    if PORTABLE.model not in info.files or holds_here(read_certificate(folder / PARITY_FILE)):
        return MAIN
    return PORTABLE


def of_kind(task: str, name: str) -> Any:
    """What the serving module of a task kind defines by a name, or a `BundleError`."""
    try:
        return task_kind(task).function("serving", name)
    except UsageError as error:
        raise BundleError(f"{BUNDLE_FILE}: {error}") from None


def open_model(folder: Path, sha256: str | None = None) -> ServedModel:
    """Verify a bundle of any task kind and load its model. See `read_info` for `sha256` and errors."""
    info = read_info(folder, sha256)
    model: ServedModel = of_kind(info.task, "open_model")(folder, sha256)
    return model


class Bundle:
    """A verified bundle whose graph scores rows, with its `session` of ONNX Runtime.

    `open_inputs` of the kind's serving module turns rows into the graph's inputs.
    """

    def __init__(self, folder: str | Path, threads: int | None = None, sha256: str | None = None) -> None:
        """Verify the bundle and load it: on a GPU if it was made for one and one is usable, else on the CPU.

        `threads` are intra-op, by default the CPUs that this process may use. See `read_info` for `sha256`.

        Raises:
            BundleError: The bundle is incomplete or altered.
        """
        self.folder = Path(folder)
        self.info = read_info(self.folder, sha256)
        self.graph = self.folder / served_files(self.folder, self.info).model
        self.session = loaded(self.graph, threads or usable_cpus(), self.info.device or "cpu")
        self._inputs: Inputs = of_kind(self.info.task, "open_inputs")(self.folder, self.info)

    def with_threads(self, threads: int, graph: str | None = None) -> Self:
        """The same model on the CPU with a session of its own, of so many threads. Raises as `loaded`.

        `graph` is the name of another graph of the bundle.
        """
        other = copy(self)
        other.graph = self.graph if graph is None else self.folder / graph
        other.session = loaded(other.graph, threads)
        return other

    def encode(self, rows: Rows) -> Batch:
        """The graph's inputs of some rows, or an `InputError` if the model cannot take them."""
        return self._inputs.batch(rows)

    def cut(self, rows: Rows) -> list[int]:
        """The positions of the texts of which only the first `max_length` tokens are read."""
        return self._inputs.cut(rows)

    def logits(self, rows: Rows, batch_size: int = 32) -> npt.NDArray[np.float32]:
        """Scores (N, C), from `outputs`."""
        return self.outputs(rows, ("logits",), batch_size)[0]

    def outputs(
        self, rows: Rows, names: Sequence[str], batch_size: int = 32
    ) -> tuple[npt.NDArray[np.float32], ...]:
        """The named outputs of the graph, each (N, …). Texts are batched by length; the order is kept.

        Raises:
            InputError: The model cannot take these rows.
        """
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        shapes = {spec.name: tuple(map(int, spec.shape[1:])) for spec in self.info.outputs}
        found = tuple(np.empty((len(rows), *shapes[name]), dtype=np.float32) for name in names)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = self.encode([rows[row] for row in chosen])  # type: ignore[arg-type]
            for scores, of_batch in zip(found, self.compute(names, batch), strict=True):
                scores[chosen] = of_batch
        return found

    def compute(self, names: Sequence[str], batch: Batch) -> list[npt.NDArray[np.float32]]:
        """The named outputs for one batch, each (B, …), or an `InputError` if the graph cannot compute it."""
        try:
            return list(self.session.run(list(names), batch))
        except GRAPH_ERRORS as error:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in batch.items())
            raise InputError(
                f"{self.graph}: the graph cannot compute these rows ({shapes}): "
                f"{str(error).splitlines()[0]}. Train the model again; of a text classifier, "
                "training.max_length may be over what its encoder reads"
            ) from None

    def probabilities(self, rows: Rows, batch_size: int = 32) -> npt.NDArray[np.float32]:
        """Softmax of the logits, (N, C)."""
        return softmax(self.logits(rows, batch_size))


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Probabilities (N, C) of logits (N, C)."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), dtype=np.float32)


class NoGpuError(RuntimeError):
    """A graph that was to run on a GPU, where ONNX Runtime has none."""


def open_session(path: Path, threads: int, device: Device = "cpu") -> onnxruntime.InferenceSession:
    """The session that serving and every measurement share, with one set of options.

    On a GPU fp32 is computed in fp32, not in TensorFloat-32, which would break what the bundle's certificate
    says. ONNX Runtime by itself continues without a GPU and only warns; this session never does.

    Raises:
        NoGpuError: `device` is a GPU, and none can be used.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    cpu = "CPUExecutionProvider"
    if device == "cpu":
        return onnxruntime.InferenceSession(str(path), options, providers=[cpu])
    if GPU_PROVIDER not in onnxruntime.get_available_providers():
        raise NoGpuError(NO_GPU)
    onnxruntime.preload_dlls()  # CUDA as the package index has it; it need not be where the system looks
    providers = [(GPU_PROVIDER, {"use_tf32": "0"}), cpu]
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    if GPU_PROVIDER not in session.get_providers():
        raise NoGpuError(NO_GPU)
    session.disable_fallback()
    return session


def loaded(path: Path, threads: int, device: Device = "cpu") -> onnxruntime.InferenceSession:
    """The session of a graph; on a CPU if there is no GPU for it.

    ONNX Runtime itself refuses weights in other files outside the graph's folder.

    Raises:
        BundleError: ONNX Runtime cannot load the file.
    """
    try:
        try:
            return open_session(path, threads, device)
        except NoGpuError:
            return open_session(path, threads)
    except Exception as error:  # ONNX Runtime raises nothing more special
        cause = str(error).partition("\n")[0]
        raise BundleError(f"{path}: ONNX Runtime cannot load it: {cause}") from None
