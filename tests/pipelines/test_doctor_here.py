"""`gauntlet doctor` without a project: what it finds on this machine, and what it says of what lacks."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import psutil
import pytest

from gauntlet.backends.memory import GIB, usable_memory
from gauntlet.pipelines import machine
from gauntlet.pipelines.cli import main
from gauntlet.serving.cpu import cpu_class, usable_cpus


def test_the_command_lists_this_machine_and_succeeds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GAUNTLET_HOME", str(tmp_path / "not-yet"))
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--json"])
    assert not ended.value.code
    rows = {row["what"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert rows["Python"]["found"] == ".".join(map(str, sys.version_info[:3]))
    assert f"{usable_cpus()} usable, {cpu_class()}" in rows["CPU"]["found"]
    assert str(tmp_path / "not-yet") in rows["disk"]["found"]
    assert all(bool(row["meaning"]) == (row["state"] != "ok") for row in rows.values())
    assert not (tmp_path / "not-yet").exists()


@pytest.mark.parametrize(("kind", "state"), [("avx2", "limited"), ("avx512_vnni", "ok"), ("amx_int8", "ok")])
def test_a_cpu_whose_int8_products_saturate_is_limited(kind: str, state: str) -> None:
    found = machine.cpu_finding(kind, "a CPU", 2)
    assert found.state == state
    assert ("saturates" in found.meaning) == (state == "limited")


def test_the_memory_is_that_of_the_container_if_it_has_less(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    total = psutil.virtual_memory().total
    assert usable_memory(limit) == total
    for text, expected in (("max\n", total), (f"{GIB}\n", GIB), (f"{total * 2}\n", total)):
        limit.write_text(text)
        assert usable_memory(limit) == expected
    assert machine.memory_finding(GIB).state == "limited"
    assert machine.memory_finding(8 * GIB).state == "ok"


def test_a_full_disk_and_a_folder_that_is_not_writable_are_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=GIB))
    assert "gauntlet prune" in machine.disk_finding(tmp_path).meaning
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = machine.disk_finding(tmp_path)
    assert (found.state, "GAUNTLET_HOME" in found.meaning) == ("missing", True)


def test_a_gpu_that_torch_cannot_use_is_said_with_the_reason() -> None:
    assert machine.gpu_finding("two", ("H200",), None).state == "ok"
    found = machine.gpu_finding("torch for CPUs", ("H200",), "torch is built for CPUs")
    assert (found.state, found.meaning) == ("missing", "Training runs on the CPU: torch is built for CPUs.")
    assert machine.gpu_finding("", (), "no NVIDIA driver is found").state == "limited"


def test_a_docker_that_refuses_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.ask_docker() == (None, "not installed")
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho 'permission denied: /var/run/docker.sock' >&2\nexit 1\n")
    docker.chmod(0o755)
    assert machine.ask_docker() == (None, "permission denied: /var/run/docker.sock")
    docker.write_text("#!/bin/sh\necho 28.1.0\n")
    assert machine.ask_docker() == ("28.1.0", "")


def test_a_project_without_a_region_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--project", "demo"])
    assert ended.value.code == 2
    assert "--project without --region: give both" in capsys.readouterr().err
