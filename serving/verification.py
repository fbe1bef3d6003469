"""`python -m gauntlet.serving.verification FOLDER` checks a bundle on the machine that will serve it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from gauntlet.serving.bundle import (
    MANAGED_TASK,
    MODEL_FILE,
    PARITY_FILE,
    Bundle,
    BundleError,
    BundleInfo,
    TensorSpec,
    read_info,
    softmax,
)
from gauntlet.serving.cpu import SATURATING_CLASSES, cpu_class
from gauntlet.serving.generation import Generator, pad_left
from gauntlet.serving.images import ImageInputs
from gauntlet.serving.inputs import Rows

SMOKE_TEXTS = ("Good morning.", "I could not be happier with how all of this has turned out, thank you!")
SMOKE_IMAGES = 2
SMOKE_TOKENS = 8
SHOWN_TENSORS = 4
NEIGHBOUR_BOUND = "max_neighbour_difference"
UNPROVED_NEIGHBOUR_DIFFERENCE = 0.05  # of a bundle whose certificate names no bound
DTYPES = {"tensor(int64)": "int64", "tensor(float)": "float32", "tensor(uint8)": "uint8"}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and what was found; `fault` says what is wrong with it."""

    name: str
    found: str
    fault: str | None = None


def verify(folder: Path, sha256: str | None = None) -> tuple[Check, ...]:
    """Check the files' hashes, then the certificate, the graph's tensors and a prediction.

    What follows from a check that failed is not looked at, and a bundle that only names an endpoint has
    nothing but its files. `sha256` is that of `bundle.json`, if a registry has noted it.
    """
    checks: list[Check] = []
    looks = _looks(folder, sha256)
    for name in ("files", "certificate", "tensors", "prediction"):
        try:
            checks.append(Check(name, next(looks)))
        except StopIteration:
            break
        except BundleError as error:
            return (*checks, Check(name, "", str(error)))
        except Exception as error:  # onnxruntime and tokenizers raise nothing more special
            return (*checks, Check(name, "", f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"))
    return tuple(checks)


def _looks(folder: Path, sha256: str | None) -> Iterator[str]:
    """What each check finds, in their order; the one that fails raises."""
    info = read_info(folder, sha256)
    yield f"{len(info.files)} files have the sha256 that bundle.json says"
    if info.task == MANAGED_TASK:
        return
    certificate = _read_certificate(folder, info)
    yield _certificate(folder, info, certificate)
    bound = _neighbour_bound(folder, certificate)
    if info.task == "causal_lm":
        generator = Generator(folder)
        yield _tensors(folder, info, generator.decoder.session)
        yield _continuation(generator, bound)
        return
    bundle = Bundle(folder)
    yield _tensors(folder, info, bundle.session)
    yield _prediction(bundle, bound)


def _read_certificate(folder: Path, info: BundleInfo) -> Mapping[str, Any]:
    if PARITY_FILE not in info.files:
        raise BundleError(
            f"{folder}: there is no {PARITY_FILE}, so nothing says how close this is to PyTorch"
        )
    return read_certificate(folder)


def _certificate(folder: Path, info: BundleInfo, certificate: Mapping[str, Any]) -> str:
    if certificate.get("model_sha256") != info.files[MODEL_FILE]:
        raise BundleError(f"{folder / PARITY_FILE}: it certifies another file than {MODEL_FILE}")
    return f"of this {MODEL_FILE}, on {certificate.get('rows')} rows{_cpus(folder, certificate)}"


def read_certificate(folder: Path) -> dict[str, Any]:
    """What the bundle's certificate says.

    Raises:
        BundleError: It is no JSON object.
    """
    path = folder / PARITY_FILE
    try:
        certificate = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not JSON: {error}") from None
    if not isinstance(certificate, dict):
        raise BundleError(f"{path}: found a JSON {type(certificate).__name__}, expected an object")
    return certificate


def _neighbour_bound(folder: Path, certificate: Mapping[str, Any]) -> float:
    bounds = certificate.get("bounds", {})
    bound = bounds.get(NEIGHBOUR_BOUND, UNPROVED_NEIGHBOUR_DIFFERENCE) if isinstance(bounds, dict) else None
    if isinstance(bound, bool) or not isinstance(bound, int | float):
        raise BundleError(
            f"{folder / PARITY_FILE}: bounds.{NEIGHBOUR_BOUND}: found {bound!r:.100}, expected a number"
        )
    return float(bound)


def _cpus(folder: Path, certificate: Mapping[str, Any]) -> str:
    """On which CPUs the certificate holds, if it says so; an answer that depends on them must be at home."""
    proved = certificate.get("cpu_class")
    if proved is None:
        return ""
    if certificate.get("portable"):
        return f", proved on {proved} and the same on every x86-64 CPU with AVX2"
    here = cpu_class()
    if (here in SATURATING_CLASSES) != (proved in SATURATING_CLASSES):
        raise BundleError(
            f"{folder / PARITY_FILE}: its int8 products were proved on {proved}, and give other answers "
            f"on this CPU, {here}. Convert the checkpoint again, or serve it on a CPU of that class"
        )
    return f", proved on {proved} and for such CPUs alone"


def _tensors(folder: Path, info: BundleInfo, session: onnxruntime.InferenceSession) -> str:
    for kind, expected in (("inputs", info.inputs), ("outputs", info.outputs)):
        values = getattr(session, f"get_{kind}")()
        found = tuple(TensorSpec(v.name, DTYPES.get(v.type, v.type), tuple(v.shape)) for v in values)
        if found != expected:
            raise BundleError(f"{folder / MODEL_FILE}: {kind}: found {found}, bundle.json says {expected}")
    shown = [f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in info.inputs[:SHOWN_TENSORS]]
    left = len(info.inputs) - len(shown)
    return ", ".join(shown) + (f" and {left} more" if left else "")


def _continuation(generator: Generator, bound: float) -> str:
    """Two prompts of different lengths have the same next token together and alone; one is continued."""
    prompts = generator.encode([generator.framed(text) for text in SMOKE_TEXTS])
    together = generator.decoder.tail_logits(*pad_left(prompts), 1)[:, 0]
    alone = np.concatenate([generator.decoder.tail_logits(*pad_left([row]), 1)[:, 0] for row in prompts])
    if not np.isfinite(together).all():
        raise BundleError("a next token's logits are not finite")
    _hold_neighbours(softmax(together), softmax(alone), bound)
    answer = generator.generate([generator.framed(SMOKE_TEXTS[0])], SMOKE_TOKENS)[0]
    return f"{SMOKE_TEXTS[0]!r} is answered {answer!r}"


def _hold_neighbours(together: npt.NDArray[np.float32], alone: npt.NDArray[np.float32], bound: float) -> None:
    difference = float(np.abs(together - alone).max())
    if not difference <= bound:
        raise BundleError(
            f"a row's probabilities change by {difference:.3f} with the rows in its batch, expected "
            f"{bound:g} at most"
        )


def _prediction(bundle: Bundle, bound: float) -> str:
    rows, name = _smoke_rows(bundle.info)
    together = bundle.probabilities(rows)
    alone = np.concatenate([bundle.probabilities(rows[at : at + 1]) for at in range(len(rows))])
    if not np.isfinite(together).all():
        raise BundleError(f"{bundle.folder}: a prediction is not finite")
    _hold_neighbours(together, alone, bound)
    label = bundle.info.labels[int(together[1].argmax())]
    return f"{name} is {label} ({together[1].max():.2f})"


def _smoke_rows(info: BundleInfo) -> tuple[Rows, str]:
    """Two rows that any model of the task takes, and what to call the second."""
    if info.max_length is not None:
        return SMOKE_TEXTS, repr(SMOKE_TEXTS[1])
    inputs = ImageInputs(info.inputs[0].shape[1:], tuple(spec.name for spec in info.inputs))
    shape = tuple(int(size) for size in inputs.row_shape)
    noise = np.random.default_rng(0).integers(0, 256, (SMOKE_IMAGES, *shape), dtype=np.uint8)
    return noise, "an image of noise"


def main(folder: str) -> int:
    """Print each check; 1 if one failed."""
    checks = verify(Path(folder))
    for check in checks:
        print(f"{'FAIL' if check.fault else 'ok':4}  {check.name:12}  {check.fault or check.found}")
    return int(any(check.fault for check in checks))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
