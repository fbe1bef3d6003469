"""How a model uses the CPUs: measured, or as it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from gauntlet.serving.bundle import open_model
from gauntlet.serving.cpu import usable_cpus
from gauntlet.serving.settings import Shape
from gauntlet.serving.shapes import GAIN, choose
from tests.text_bundles import certified

several = pytest.mark.skipif(usable_cpus() == 1, reason="there is no choice with one CPU")


@pytest.mark.parametrize(
    ("shape", "workers", "threads"),
    [("wide", 1, usable_cpus()), pytest.param("per-core", usable_cpus(), 1, marks=several)],
)
def test_a_shape_that_is_asked_for_is_taken(tmp_path: Path, shape: Shape, workers: int, threads: int) -> None:
    choice = choose(cast(Any, open_model(certified(tmp_path))), shape, 8, 4096)
    assert (choice.shape, choice.workers, choice.rows_per_second) == (shape, workers, {})
    assert choice.model.session.get_session_options().intra_op_num_threads == threads


@several
def test_the_shape_that_computes_clearly_more_rows_is_chosen_and_gives_the_same_answers(
    tmp_path: Path,
) -> None:
    model = cast(Any, open_model(certified(tmp_path)))
    choice = choose(model, "auto", 8, 4096)
    rates = choice.rows_per_second
    assert choice.shape == ("per-core" if rates["per-core"] >= GAIN * rates["wide"] else "wide")
    assert str(choice) == (
        f"shape {choice.shape}, {rates['wide']:.0f} rows a second wide, "
        f"{rates['per-core']:.0f} rows a second per-core"
    )
    np.testing.assert_array_equal(choice.model.golden(), model.golden())
