"""Check a bundle on the machine that will serve it, as `gauntlet bundle verify` does."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from gauntlet.serving.bundle import (
    MAIN,
    MODEL_FILE,
    PARITY_FILE,
    PORTABLE,
    BundleError,
    BundleInfo,
    GraphFiles,
    TensorSpec,
    holds_here,
    of_kind,
    read_certificate,
    read_info,
    served_files,
)
from gauntlet.serving.cpu import cpu_class, usable_cpus
from gauntlet.serving.interface import GraphModel

SMOKE_TEXTS = ("Good morning.", "I could not be happier with how all of this has turned out, thank you!")
"""Texts of different lengths that any model of texts can read."""
SHOWN_TENSORS = 4
NEIGHBOUR_BOUND = "max_neighbour_difference"
FP32_DIFFERENCE = 1e-3
UNPROVED_NEIGHBOUR_DIFFERENCE = 0.05  # for a bundle whose certificate has no bound
DTYPES = {"tensor(int64)": "int64", "tensor(float)": "float32", "tensor(uint8)": "uint8"}


@dataclass(frozen=True)
class Check:
    """One thing that was checked, and what was found; `fault` says what is wrong with it."""

    name: str
    found: str
    fault: str | None = None


CHECKS = ("files", "certificate", "tensors", "prediction", "golden", "portable")


def verify(folder: Path, sha256: str | None = None) -> tuple[Check, ...]:
    """Check the files' hashes, the certificate, the graph's tensors, a prediction and the golden scores.

    The first check that fails is the last one. Of a bundle without a graph, whose model a service serves,
    only the files are checked; one without golden answers is of an earlier version. `sha256` is that of
    `bundle.json`, if a registry has recorded it.
    """
    checks: list[Check] = []
    looks = _looks(folder, sha256, whole=True)
    for name in CHECKS:
        try:
            checks.append(Check(name, next(looks)))
        except StopIteration:
            break
        except BundleError as error:
            return (*checks, Check(name, "", str(error)))
        except Exception as error:  # onnxruntime and tokenizers raise nothing more special
            return (*checks, Check(name, "", f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"))
    return tuple(checks)


def proved_model(folder: Path, sha256: str | None = None) -> GraphModel:
    """The model of a bundle that passes every check of `verify` of the graph that this CPU takes.

    Raises:
        BundleError: A check fails, or a service serves the model.
    """
    looks = _looks(folder, sha256)
    for name in (*CHECKS, "end"):
        try:
            next(looks)
        except StopIteration as end:
            if end.value is None:
                raise BundleError(f"{folder}: it has no graph: a service serves the model") from None
            model: GraphModel = end.value
            return model
        except BundleError:
            raise
        except Exception as error:  # as in `verify`
            raise BundleError(f"{folder}: {name}: {type(error).__name__}: {error}") from None
    raise AssertionError


def _looks(folder: Path, sha256: str | None, whole: bool = False) -> Generator[str, None, GraphModel | None]:
    """What each check finds, in order; a check that fails raises. The model is what the generator returns."""
    info = read_info(folder, sha256)
    yield f"{len(info.files)} files have the sha256 that bundle.json says"
    if MODEL_FILE not in info.files:
        return None
    if PARITY_FILE not in info.files:
        raise BundleError(
            f"{folder}: there is no {PARITY_FILE}, so nothing says how close this is to PyTorch"
        )
    files = served_files(folder, info)
    yield _certificate(folder, info, files)
    model: GraphModel = of_kind(info.task, "open_model")(folder, sha256)
    yield _tensors(folder / files.model, info, model.session)
    yield from prove(folder, info, files, model)
    if whole and files is MAIN and {MAIN.golden, PORTABLE.model} <= info.files.keys():
        yield _portable(folder, info, model)
    return model


def prove(folder: Path, info: BundleInfo, files: GraphFiles, model: GraphModel) -> Iterator[str]:
    """What a model's scores are found to be, alone and together, and beside those of the proof.

    Raises:
        BundleError: They are others.
    """
    bound = _neighbour_bound(folder / files.certificate)
    yield model.prove(bound)
    if files.golden in info.files:
        yield _golden(folder / files.golden, model, FP32_DIFFERENCE if info.precision == "fp32" else bound)


def _portable(folder: Path, info: BundleInfo, model: Any) -> str:
    """Prove the graph that CPUs without int8 dot products take; every CPU can run it."""
    found = _certificate(folder, info, PORTABLE)
    other = model.with_threads(usable_cpus(), PORTABLE.model)
    _tensors(folder / PORTABLE.model, info, other.session)
    return "; ".join((found, *prove(folder, info, PORTABLE, other)))


def _golden(path: Path, model: GraphModel, bound: float) -> str:
    """Compare the scores of the made-up rows with those that conversion wrote down."""
    try:
        expected = np.array(json.loads(path.read_text(encoding="utf-8"))["scores"], dtype=np.float64)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BundleError(f"{path}: found no scores: {error}. Convert the checkpoint again") from None
    found = np.array(model.golden(), dtype=np.float64)
    if found.shape != expected.shape:
        raise BundleError(f"{path}: found scores {expected.shape}, and the model gives {found.shape}")
    difference = float(np.abs(found - expected).max())
    if not difference <= bound:
        raise BundleError(
            f"{path}: a score differs by {difference:.3g} from the one that was proved, expected at most "
            f"{bound:g}. It was proved on another CPU than this one, {cpu_class()}, or with other versions "
            "of onnxruntime or tokenizers. Convert the checkpoint again, or serve it there"
        )
    return f"{found.shape[0]} rows have the scores that were proved, within {difference:.1g}"


def _certificate(folder: Path, info: BundleInfo, files: GraphFiles) -> str:
    path = folder / files.certificate
    certificate = read_certificate(path)
    if certificate.get("model_sha256") != info.files[files.model]:
        raise BundleError(f"{path}: it certifies another file than {files.model}")
    return f"of this {files.model}, on {certificate.get('rows')} rows{_cpus(path, certificate)}"


def _neighbour_bound(path: Path) -> float:
    bounds = read_certificate(path).get("bounds", {})
    bound = bounds.get(NEIGHBOUR_BOUND, UNPROVED_NEIGHBOUR_DIFFERENCE) if isinstance(bounds, dict) else None
    if isinstance(bound, bool) or not isinstance(bound, int | float):
        raise BundleError(f"{path}: bounds.{NEIGHBOUR_BOUND}: found {bound!r:.100}, expected a number")
    return float(bound)


def _cpus(path: Path, certificate: Mapping[str, Any]) -> str:
    """On which CPUs the certificate holds, if it says so; refuse a bundle whose answers differ here."""
    proved = certificate.get("cpu_class")
    if proved is None:
        return ""
    if certificate.get("portable"):
        return f", proved on {proved} and the same on every x86-64 CPU with AVX2"
    if not holds_here(certificate):
        raise BundleError(
            f"{path}: its int8 products were proved on {proved}, and give other answers on this CPU, "
            f"{cpu_class()}. Convert the checkpoint again, with conversion.portable for a graph that every "
            "CPU can serve, or serve it on a CPU of that class"
        )
    return f", proved on {proved} and for such CPUs alone"


def _tensors(path: Path, info: BundleInfo, session: onnxruntime.InferenceSession) -> str:
    for kind, expected in (("inputs", info.inputs), ("outputs", info.outputs)):
        values = getattr(session, f"get_{kind}")()
        found = tuple(TensorSpec(v.name, DTYPES.get(v.type, v.type), tuple(v.shape)) for v in values)
        if found != expected:
            raise BundleError(f"{path}: {kind}: found {found}, bundle.json says {expected}")
    shown = [f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in info.inputs[:SHOWN_TENSORS]]
    left = len(info.inputs) - len(shown)
    return ", ".join(shown) + (f" and {left} more" if left else "")


def require_alike(together: npt.NDArray[np.float32], alone: npt.NDArray[np.float32], bound: float) -> None:
    """Raise a `BundleError` if probabilities (N, C) of rows in a batch differ too much from those alone."""
    difference = float(np.abs(together - alone).max())
    if not difference <= bound:
        raise BundleError(
            f"a row's probabilities change by {difference:.3f} with the rows in its batch, expected "
            f"{bound:g} at most"
        )
