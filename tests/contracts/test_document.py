"""Documents between steps: written whole, read strictly by steps and tolerantly by the report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field

from gauntlet.contracts.document import Document
from gauntlet.manifests.errors import GauntletError, UsageError


class Epoch(Document):
    written_by: ClassVar[str] = "train-model"
    epoch: int
    loss: float | None = None


class History(Document):
    written_by: ClassVar[str] = "train-model"
    name: str
    epochs: tuple[Epoch, ...]
    cost: int | float = 0
    notes: Mapping[str, str | None] = Field(default_factory=dict)


class Sparse(Document):
    written_by: ClassVar[str] = "train-model"
    omits_none: ClassVar[bool] = True
    name: str
    commit: str | None = None


WHOLE = History(name="a", epochs=(Epoch(epoch=1, loss=0.5), Epoch(epoch=2, loss=math.nan)), cost=3)


def test_a_document_keeps_its_fields_in_order_and_has_null_for_nan(tmp_path: Path) -> None:
    WHOLE.write(tmp_path / "history.json")

    content = {
        "name": "a",
        "epochs": [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": None}],
        "cost": 3,
        "notes": {},
    }
    assert (tmp_path / "history.json").read_text() == json.dumps(content, indent=2)
    assert [file.name for file in tmp_path.iterdir()] == ["history.json"]


def test_a_document_may_leave_out_what_it_does_not_know() -> None:
    assert Sparse(name="a").as_json() == {"name": "a"}
    assert Sparse(name="a", commit="c").as_json() == {"name": "a", "commit": "c"}


def test_what_was_written_is_read_and_keys_of_another_release_are_ignored(tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    WHOLE.write(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"later": 1}))

    found = History.read(file)

    assert found.epochs == (Epoch(epoch=1, loss=0.5), Epoch(epoch=2))
    assert (found.name, found.cost) == ("a", 3)


def test_a_missing_document_is_named_with_the_step_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"history\.json: no such file, .* train-model wrote"):
        History.read(tmp_path / "history.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", r"history\.json: Expecting property name"),
        ("[" * 100_000, r"history\.json: found JSON that is nested too deeply"),
        ("[1]", r"found \[1\]"),
        ('{"name": "a"}', r"epochs: found nothing, field required\. Run the step train-model again"),
        (
            '{"name": 1, "epochs": [{"epoch": "x"}]}',
            r"name: found 1, .*string; epochs\.0\.epoch: found 'x', .*integer",
        ),
    ],
)
def test_a_step_refuses_a_broken_document_and_names_all_faults(
    tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "history.json").write_text(content)

    with pytest.raises(GauntletError, match=said):
        History.read(tmp_path / "history.json")


def test_the_report_reads_what_is_there_and_names_what_is_broken() -> None:
    broken = {
        "epochs": [{"epoch": 1, "loss": "x"}, {"loss": 0.5}, {"epoch": 3}],
        "cost": [],
        "notes": {"a": 1},
    }

    found, faults = History.read_tolerantly(json.dumps(broken))

    assert found is not None
    assert found.name is None
    assert [(one.epoch, one.loss) for one in found.epochs] == [(1, None), (None, 0.5), (3, None)]
    assert (found.cost, found.notes) == (0, {})
    assert [fault.partition(":")[0] for fault in faults] == [
        "epochs.loss",
        "cost.int",
        "cost.float",
        "notes.a",
    ]


def test_nan_in_a_document_is_no_fault() -> None:
    found, faults = History.read_tolerantly('{"name": "a", "epochs": [{"epoch": 1, "loss": NaN}]}')

    assert found == History(name="a", epochs=(Epoch(epoch=1),))
    assert faults == ()


@pytest.mark.parametrize("content", [b"{", b"[1]", b"null", b'"a"', b"\xff"])
def test_what_is_no_object_is_no_document(content: bytes) -> None:
    found, faults = History.read_tolerantly(content)

    assert found is None
    assert len(faults) == 1
