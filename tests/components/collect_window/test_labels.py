"""`gauntlet label import`: late, repeated, changed and unknown labels are counted, and bad ones refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gauntlet.backends.rollouts import open_monitoring
from gauntlet.components.collect_window.labels import newest_labels
from gauntlet.contracts.monitoring import JudgedWindow, MonitoringRecord
from gauntlet.pipelines.cli import main
from tests.components.detect_drift.test_monitor import rows, write

SAMPLE = Path(__file__).parents[3] / "manifests" / "emotion_sample.yaml"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a manifest, and a log of 20 events of its model in the first hour of 2026-11-30."""
    monkeypatch.setenv("GAUNTLET_HOME", str(tmp_path / "home"))
    lines = SAMPLE.read_text().replace("name: emotion_sample\ndesc", "name: emotion\ndesc", 1)
    (tmp_path / "emotion.yaml").write_text(f"{lines}\nmonitoring: {{log: log, labels: labels}}\n")
    write(tmp_path / "log", rows(20, seed=1)[0])
    return tmp_path


def imported(place: Path, text: str, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    (place / "given.csv").write_text(text)
    with pytest.raises(SystemExit) as ended:
        main(["label", "import", str(place / "given.csv"), str(place / "emotion.yaml"), "--json"])
    assert ended.value.code == 0
    return dict(json.loads(capsys.readouterr().out))


def newest(place: Path) -> dict[str, str]:
    table = newest_labels(str(place / "labels"))
    return dict(zip(table["event_id"].to_pylist(), table["label"].to_pylist(), strict=True))


def test_the_newest_label_of_an_event_counts_and_every_kind_is_counted(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = "event-1-000000-0", "event-1-000001-0"
    head = "event_id,label,labelled_at\n"
    found = imported(
        place, f"{head}{first},joy,2026-12-01T08:00:00Z\nmisspelt,love,2026-12-01T08:00:00Z\n", capsys
    )
    assert found == {"new": 2, "repeated": 0, "changed": 0, "late": 0, "unknown": ["misspelt"]}

    window = JudgedWindow(
        version="1",
        start="2026-11-30T00:00:00+00:00",
        end="2026-12-01T00:00:00+00:00",
        rows=20,
        outcome="none",
    )
    records = open_monitoring("emotion", "sqlite:///unused")
    records.write(MonitoringRecord(model="emotion", windows=(window,)), records.read()[1])
    changes = (
        f"{first},anger,2026-12-02T08:00:00Z\n"  # changed, and late
        f"{first},love,2026-12-01T07:00:00Z\n"  # older than the one that is known
        f"{second},joy,2026-12-02T08:00:00Z\n"  # new, and late
        "misspelt,love,2026-12-02T08:00:00Z\n"  # the same again
    )
    found = imported(place, head + changes, capsys)
    assert found == {"new": 1, "repeated": 2, "changed": 1, "late": 2, "unknown": []}
    assert newest(place) == {first: "anger", second: "joy", "misspelt": "love"}

    files = sorted(path.name for path in (place / "labels").iterdir())
    found = imported(place, head + changes, capsys)
    assert (found["new"], found["changed"], found["repeated"]) == (0, 0, 4)
    assert sorted(path.name for path in (place / "labels").iterdir()) == files


def test_labels_without_a_time_are_of_the_import(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    imported(place, "event_id,label\nevent-1-000003-0,joy\n", capsys)
    [row] = newest_labels(str(place / "labels")).to_pylist()
    assert before <= row["labelled_at"] <= datetime.now(UTC)
    assert row["source"] == "given.csv"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "event_id,label\na,joy\nb,bliss\n,joy\n",
            ("row 3: event_id: found nothing", "row 2: label: found 'bliss'"),
        ),
        ("event_id\na\n", ("found no column label",)),
        ("event_id,label,labelled_at\na,joy,yesterday\n", ("labelled_at", "expected times such as")),
    ],
)
def test_a_file_with_a_fault_is_refused_whole(
    place: Path, capsys: pytest.CaptureFixture[str], text: str, expected: tuple[str, ...]
) -> None:
    (place / "given.csv").write_text(text)
    with pytest.raises(SystemExit) as ended:
        main(["label", "import", str(place / "given.csv"), str(place / "emotion.yaml")])
    assert ended.value.code == 4
    said = " ".join(capsys.readouterr().err.split())
    assert all(one in said for one in expected), said
    assert not (place / "labels").exists()


def test_a_manifest_without_a_table_of_labels_says_so(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "given.csv").write_text("event_id,label\na,joy\n")
    with pytest.raises(SystemExit) as ended:
        main(["label", "import", str(place / "given.csv"), str(SAMPLE)])
    assert ended.value.code == 2
    assert "monitoring.log: found none" in capsys.readouterr().err
