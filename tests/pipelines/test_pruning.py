"""What may go from a home folder, and what stays."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gauntlet.manifests.errors import UsageError
from gauntlet.pipelines.cli import app
from gauntlet.pipelines.home import Home, most_bytes
from gauntlet.pipelines.local.pruning import disk_bytes, freed_bytes, old_cache, old_runs, over_bound
from gauntlet.pipelines.local.step_cache import StepCache
from tests.pipelines.test_step_cache import call, execute

DAY = 86_400


@pytest.fixture
def home(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Three runs of one system, the first two with a file that they share, and one of another."""
    monkeypatch.delenv("GAUNTLET_TEST_OUTPUTS", raising=False)  # a disk that can link
    home = Home(own_home)
    for number, name in enumerate(("moods", "moods", "moods", "cards")):
        record = home.create_run(name)
        home.save(replace(record, started=f"2026-11-2{number}T10:00:00+00:00", state="finished"))
        (home.run_folder(record.run_id) / "model").write_bytes(b"0" * 3_000_000)
    first, second = (home.run_folder(record.run_id) / "model" for record in home.runs()[:1:-1])
    second.unlink()
    os.link(first, second)
    (own_home / "models").mkdir()
    (own_home / "models" / "bundle").touch()
    return home


def names(home: Home) -> list[str]:
    return [record.run_id for record in home.runs()]


def test_prune_says_what_would_go_and_removes_it_only_when_told_to(home: Home) -> None:
    newest, *others = [name for name in names(home) if name.startswith("moods")]
    shown = CliRunner().invoke(app, ["prune", "--keep", "1"])
    assert all(name in shown.output for name in others)
    assert newest not in shown.output
    assert "add --yes to free 3.0 MB" in shown.output.replace("\n", " ")
    assert len(names(home)) == 4
    assert freed_bytes(old_runs(home, keep=2)) < 1_000_000  # the run that stays has the file too

    assert CliRunner().invoke(app, ["prune", "--keep", "1", "--yes"]).exit_code == 0
    assert len(names(home)) == 2
    assert newest in names(home)
    assert (home.folder / "models" / "bundle").exists()
    assert "nothing to remove" in CliRunner().invoke(app, ["prune", "--keep", "1"]).output


def test_a_run_that_is_running_is_neither_pruned_nor_removed(home: Home) -> None:
    oldest = home.runs()[-1]
    with home.working_on(oldest):
        assert oldest.run_id not in {removal.name for removal in old_runs(home, keep=1)}
        refused = CliRunner().invoke(app, ["rm", oldest.run_id, "--yes"])
        assert isinstance(refused.exception, UsageError)
        assert oldest.run_id in names(home)
    assert CliRunner().invoke(app, ["rm", oldest.run_id, "--yes"]).exit_code == 0
    assert oldest.run_id not in names(home)


def test_an_old_entry_of_the_cache_goes_with_its_files_and_a_new_ones_files_stay(home: Home) -> None:
    cache = StepCache(home.cache_folder)
    old, new = call(home.folder, "old"), call(home.folder, "new", number=3)
    for step in (old, new):
        execute(step)
    (old.folder / "result").write_bytes(b"other")
    cache.store(old, "old")
    cache.store(new, "new")
    long_ago = time.time() - 40 * DAY
    os.utime(home.cache_folder / "steps" / f"{old.key}.json", (long_ago, long_ago))

    [removal] = old_cache(home, days=30)
    assert len(removal.files) == 2  # the entry, and the one file that the other entry does not share
    assert CliRunner().invoke(app, ["prune", "--yes"]).exit_code == 0
    assert cache.restore(call(home.folder, "again", number=3)) == "new"
    assert cache.restore(call(home.folder, "once more")) is None


@pytest.mark.parametrize("command", ["runs", "registry", "prune"])
def test_an_empty_list_says_where_it_was_looked_for(own_home: Path, command: str) -> None:
    assert str(own_home) in CliRunner().invoke(app, [command]).output.replace("\n", "")


def test_a_bound_removes_the_oldest_runs_and_keeps_the_newest_of_each_system(
    home: Home,
) -> None:
    newest, second, oldest = [name for name in names(home) if name.startswith("moods")]
    assert 9_000_000 < disk_bytes(home) < 9_100_000  # four files of 3 MB, two of which are one
    assert over_bound(home, 9_100_000) == []
    # without the oldest nothing is free, since the second has the same file
    assert [one.name for one in over_bound(home, 8_000_000)] == [oldest, second]
    assert [one.name for one in over_bound(home, 1)] == [oldest, second]
    assert newest in names(home)


@pytest.mark.parametrize("said", ["much", "0", "-3", "nan", "inf"])
def test_a_bound_that_is_no_size_is_refused(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("GAUNTLET_HOME_GB", said)
    with pytest.raises(UsageError, match=f"GAUNTLET_HOME_GB: found '{said}', expected a number of gigabytes"):
        most_bytes()


def test_runs_shows_what_each_takes_and_what_all_take(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAUNTLET_HOME_GB", "1.5")
    shown = CliRunner().invoke(app, ["runs"]).output
    assert shown.count("3.0") == 4
    assert "take 9.0 MB; of 1.5 GB that GAUNTLET_HOME_GB allows" in " ".join(shown.split())
    assert [json.loads(line)["bytes"] // 1_000_000 for line in ask_json(["runs"])] == [3, 3, 3, 3]


def ask_json(command: list[str]) -> list[str]:
    return CliRunner().invoke(app, [*command, "--json"]).output.splitlines()
