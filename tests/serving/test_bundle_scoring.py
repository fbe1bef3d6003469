from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gauntlet.serving.bundle import Bundle

REPOSITORY = Path(__file__).parents[2]
TEXTS = ("good", "bad bad fine", "fine", "good good good", "bad", "good fine")
LOGITS = [[0.0, 2.0], [6.5, 1.0], [0.5, 1.0], [0.0, 6.0], [3.0, 0.0], [0.5, 3.0]]  # sums of WORD_SCORES


@pytest.mark.parametrize("batch_size", [1, 2, 4, 32])
def test_logits_keep_the_order_of_the_texts_at_any_batch_size(bundle_folder: Path, batch_size: int) -> None:
    scores = Bundle(bundle_folder).logits(TEXTS, batch_size)
    np.testing.assert_array_equal(scores, np.array(LOGITS, dtype=np.float32))


def test_texts_are_padded_on_the_right_to_the_longest(bundle_folder: Path) -> None:
    batch = Bundle(bundle_folder).encode(["good", "bad bad fine"])
    assert batch["input_ids"].tolist() == [[2, 0, 0], [3, 3, 4]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int64)}


def test_a_text_is_cut_after_max_length_tokens(bundle_folder: Path) -> None:
    assert Bundle(bundle_folder).logits(["good good good good bad bad"]).tolist() == [[0.0, 8.0]]


def test_probabilities_are_the_softmax_of_the_logits(bundle_folder: Path) -> None:
    found = Bundle(bundle_folder).probabilities(["fine"])
    odds = math.exp(0.5) / (math.exp(0.5) + math.exp(1.0))
    np.testing.assert_allclose(found, [[odds, 1 - odds]], rtol=1e-6)


def test_no_texts_give_no_scores(bundle_folder: Path) -> None:
    bundle = Bundle(bundle_folder)
    assert bundle.logits([]).shape == (0, 2)
    assert bundle.probabilities([]).shape == (0, 2)


def test_a_bundle_is_served_without_torch_or_any_of_the_project_but_serving(bundle_folder: Path) -> None:
    program = f"""
import sys

class Blocker:
    absent = {{"torch", "transformers", "pandas", "pydantic", "sklearn", "onnx", "kfp", "mlflow",
              *(f"gauntlet.{{room}}" for room in ("backends", "trainer", "components", "pipelines"))}}

    def find_spec(self, name, path=None, target=None):
        if name in self.absent:
            raise ModuleNotFoundError(f"{{name}} is not in the serving image")

sys.meta_path.insert(0, Blocker())
from gauntlet.serving.bundle import Bundle
print(Bundle({str(bundle_folder)!r}).logits(["bad", "good fine"]).tolist())
"""
    served = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert served.stderr == ""
    assert served.stdout.strip() == "[[3.0, 0.0], [0.5, 3.0]]"
