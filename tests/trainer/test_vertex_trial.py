from __future__ import annotations

import json
from pathlib import Path

import pytest

from gauntlet.manifests.errors import GauntletError
from gauntlet.trainer.tracking import VertexTrial, vertex_trial

METRICS = {"validation_macro_f1": 0.75, "validation_loss": 0.5}


def test_every_epoch_is_a_line_as_googles_own_library_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "new" / "output.metrics"
    monkeypatch.setenv("CLOUD_ML_TRIAL_ID", "3")
    monkeypatch.setenv("CLOUD_ML_HP_METRIC_FILE", str(file))
    run = vertex_trial("macro_f1")
    assert run is not None
    run.log_metrics(METRICS, 1)
    run.log_metrics({"step/loss": 0.6}, 18)  # not an epoch's
    run.log_metrics(METRICS | {"validation_macro_f1": 0.8}, 2)
    first, second = (json.loads(line) for line in file.read_text().splitlines())
    assert first.pop("timestamp") <= second.pop("timestamp")
    # The form that https://pypi.org/project/cloudml-hypertune documents: text, but for the timestamp.
    assert first == {"global_step": "1", "macro_f1": "0.75", "trial": "3"}
    assert second == {"global_step": "2", "macro_f1": "0.8", "trial": "3"}


def test_a_loss_is_reported_as_it_is(tmp_path: Path) -> None:
    VertexTrial("1", "loss", tmp_path / "output.metrics").log_metrics(METRICS, 1)
    assert json.loads((tmp_path / "output.metrics").read_text())["loss"] == "0.5"


def test_a_process_that_is_no_trial_reports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLOUD_ML_TRIAL_ID", raising=False)
    assert vertex_trial("macro_f1") is None


def test_a_score_that_cannot_be_reported_ends_the_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GauntletError, match="CLOUD_ML_HP_METRIC_FILE"):
        VertexTrial("1", "macro_f1", tmp_path / "file" / "output.metrics").log_metrics(METRICS, 1)
