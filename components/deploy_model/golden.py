"""Made-up rows with known answers, asked through the public address of a new revision."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gauntlet.backends.deployment import Answer
from gauntlet.serving.bundle import GOLDEN_FILE, open_model, read_info
from gauntlet.serving.verification import (
    FP32_DIFFERENCE,
    SMOKE_TEXTS,
    UNPROVED_NEIGHBOUR_DIFFERENCE,
)


@dataclass(frozen=True)
class Golden:
    """The rows to ask, and what is known of the answers.

    Attributes:
        bodies: A Vertex request body for each row: each is asked alone, as it was proved.
        scores: The probability of each label, (N, C); empty for a model whose answers have none.
        bound: How much a probability may differ.
        labels: The model's labels, in the order of the scores.
    """

    bodies: tuple[bytes, ...]
    scores: tuple[tuple[float, ...], ...]
    bound: float
    labels: tuple[str, ...]


def read_golden(bundle: Path, sha256: str) -> Golden:
    """The golden rows of a bundle, or a `BundleError` if it was altered."""
    info = read_info(bundle, sha256)
    scores: tuple[tuple[float, ...], ...] = ()
    if GOLDEN_FILE in info.files and info.labels:
        content = json.loads((bundle / GOLDEN_FILE).read_text(encoding="utf-8"))
        scores = tuple(tuple(row) for row in content["scores"])
    bound = FP32_DIFFERENCE if info.precision == "fp32" else UNPROVED_NEIGHBOUR_DIFFERENCE
    model: Any = open_model(bundle, sha256)
    columns = getattr(model, "columns", ("text",))
    if getattr(model, "medium", "text") == "text":
        rows: list[Any] = [dict.fromkeys(columns, text) for text in SMOKE_TEXTS]
    else:
        shape = tuple(int(size) for size in info.inputs[0].shape[1:])
        sides = len(columns)
        noise = np.random.default_rng(0).integers(
            0, 256, (2, *shape) if sides == 1 else (2, sides, *shape), dtype=np.uint8
        )
        rows = [
            {column: _png(side) for column, side in zip(columns, row.reshape(sides, *shape), strict=True)}
            for row in noise
        ]
    bodies = tuple(json.dumps({"instances": [row]}).encode() for row in rows)
    return Golden(bodies, scores, bound, tuple(info.labels))


def fault_of(golden: Golden, row: int, answer: Answer, bundle_sha256: str) -> str:
    """What is wrong with the answer to a row, in words; empty if nothing is."""
    if not answer.bundle_sha256 or not bundle_sha256.startswith(answer.bundle_sha256):
        return (
            f"golden row {row}: bundle {answer.bundle_sha256 or '(none)'} answered, not {bundle_sha256[:12]}"
        )
    if answer.status != 200:
        return f"golden row {row}: the answer has status {answer.status}: {answer.body[:200]!r}"
    try:
        [prediction] = json.loads(answer.body)["predictions"]
        known = prediction["probabilities"] if golden.scores else {}
        # By label: an answer that comes as a protobuf has them in any order.
        found = [known[label] for label in golden.labels] if golden.scores else []
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"golden row {row}: the answer has no prediction ({error!r})"
    return f"golden row {row}: {fault}" if (fault := _difference(golden, row, found)) else ""


def _difference(golden: Golden, row: int, found: Sequence[float]) -> str:
    expected = golden.scores[row] if golden.scores else ()
    difference = max((abs(one - other) for one, other in zip(found, expected, strict=True)), default=0.0)
    if math.isnan(difference) or difference > golden.bound:
        return (
            f"a probability differs by {difference:.3g} from the one that was proved, expected at most "
            f"{golden.bound:g}"
        )
    return ""


def _png(image: np.ndarray) -> dict[str, str]:
    """An image (C, H, W) as a file in base64."""
    from PIL import Image

    shown = image[0] if image.shape[0] == 1 else np.moveaxis(image, 0, -1)
    file = io.BytesIO()
    Image.fromarray(shown).save(file, "PNG")
    return {"b64": base64.b64encode(file.getvalue()).decode()}
