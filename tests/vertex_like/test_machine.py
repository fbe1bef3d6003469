"""What a container finds on a machine as `machine` makes it, and what it does not."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.fakes.cloud import FakeCloud
from tests.vertex_like import machine as machine_module
from tests.vertex_like.machine import UID, Ended, Machine


def python(machine: Machine, program: str) -> Ended:
    return machine.run("container", ["python3", "-c", program], {})


def test_a_command_is_the_first_process_of_an_unprivileged_user(machine: Machine) -> None:
    program = "import os; print(os.getpid(), os.getuid(), os.getgroups(), os.environ['HOME'], os.getcwd())"
    ended = python(machine, program)
    assert ended == Ended(0, (f"1 {UID} [] /home/gauntlet /home/gauntlet",))


def test_nothing_but_the_fakes_can_be_reached(machine: Machine, cloud: FakeCloud) -> None:
    here = [int(url.rpartition(":")[2]) for url in (cloud.bucket.url, cloud.proxy.url)]
    addresses = [*(("127.0.0.1", port) for port in (*here, cloud.api.port)), ("10.0.0.1", 80)]
    program = f"""
import socket
for address in {addresses}:
    try:
        socket.create_connection(address)
        print("reached")
    except OSError as error:
        print(error.strerror)
"""
    assert python(machine, program).lines == (
        "reached",
        "reached",
        "Connection refused",
        "Network is unreachable",
    )


def test_a_folder_with_files_is_not_renamed_and_files_have_no_links_or_modes(
    machine: Machine, cloud: FakeCloud
) -> None:
    ended = python(
        machine,
        """
import os, pathlib
folder = pathlib.Path("/gcs/bucket/a/b")
folder.mkdir(parents=True)
file = folder / "file"
file.write_text("one")
for act in (
    lambda: folder.rename("/gcs/bucket/a/c"),
    lambda: os.link(file, folder / "link"),
    lambda: os.setxattr(file, "user.x", b"y"),
    lambda: folder.rmdir(),
    lambda: (folder / "absent").read_text(),
):
    try:
        act()
    except OSError as error:
        print(error.strerror)
before = file.stat().st_mode
file.chmod(0o600)
print(file.stat().st_mode == before)
file.rename(folder / "other")
print(os.listdir(folder))
pathlib.Path("/gcs/bucket/empty").mkdir()
os.rename("/gcs/bucket/empty", "/gcs/bucket/still-empty")
""",
    )
    assert ended.lines == (
        "Too many open files",
        "Operation not permitted",
        "Operation not supported",
        "Directory not empty",
        "No such file or directory",
        "True",
        "['other']",
    )
    assert dict(cloud.bucket.objects) == {"gs://bucket/a/b/other": b"one"}


def test_an_object_is_what_was_written_when_its_file_is_closed(machine: Machine, cloud: FakeCloud) -> None:
    cloud.bucket.objects["gs://bucket/made/elsewhere"] = b"0123456789"
    ended = python(
        machine,
        f"""
import os, urllib.request
def object(name):
    address = "{cloud.bucket.url}/storage/v1/b/bucket/o/" + name.replace("/", "%2F") + "?alt=media"
    try:
        return urllib.request.urlopen(address).read().decode()
    except urllib.error.HTTPError as error:
        return error.code
with open("/gcs/bucket/new", "w") as file:
    file.write("content")
    file.flush()
    os.fsync(file.fileno())
    print(object("new"), os.stat("/gcs/bucket/new").st_size)
print(object("new"))
with open("/gcs/bucket/made/elsewhere", "r+b") as file:
    file.seek(4)
    file.write(b"----")
    file.truncate(9)
print(object("made/elsewhere"), open("/gcs/bucket/made/elsewhere").read())
print(sorted(os.listdir("/gcs/bucket")))
""",
    )
    assert ended.lines == ("404 7", "content", "0123----8 0123----8", "['made', 'new']")


def test_who_closes_a_file_that_was_replaced_meanwhile_is_refused(machine: Machine, cloud: FakeCloud) -> None:
    cloud.bucket.objects["gs://bucket/database"] = b"champion: 1"
    ended = python(
        machine,
        f"""
import urllib.request
file = open("/gcs/bucket/database", "r+b", buffering=0)
file.write(b"champion: 2")
address = "{cloud.bucket.url}/upload/storage/v1/b/bucket/o?uploadType=media&name=database"
urllib.request.urlopen(urllib.request.Request(address, b"champion: 3", method="POST"))
try:
    file.close()
except OSError as error:
    print(error.strerror)
""",
    )
    assert ended.lines == ("Stale file handle",)
    assert cloud.bucket.objects["gs://bucket/database"] == b"champion: 3"


def test_shared_memory_is_64_megabytes_and_nothing_stays_on_the_machine(machine: Machine) -> None:
    program = """
import os, pathlib
memory = os.statvfs("/dev/shm")
print(memory.f_frsize * memory.f_blocks)
for folder in ("/tmp", "/home/gauntlet", "/dev/shm"):
    file = pathlib.Path(folder, "file")
    print(file.exists())
    file.touch()
try:
    pathlib.Path("/usr/mine").touch()
except OSError as error:
    print(error.strerror)
"""
    mounts: list[str] = []

    def look(_: Sequence[str]) -> bool:
        mounts.append(Path("/proc/self/mounts").read_text())
        return False

    for name in ("one", "another"):
        ended = machine.run(name, ["python3", "-c", program], {}, look)
        assert ended.lines == (str(64 << 20), "False", "False", "False", "Read-only file system")
    assert mounts and not any(str(machine.folder) in seen for seen in mounts)


@pytest.mark.parametrize(
    ("program", "how"),
    [
        ("import time; print('up', flush=True); time.sleep(600)", -signal.SIGKILL),
        (
            "import signal; signal.signal(signal.SIGTERM, lambda *_: exit(143))\n"
            "print('up', flush=True); signal.pause()",
            143,
        ),
    ],
)
def test_sigterm_ends_a_first_process_that_has_a_handler_and_all_others_are_killed_after_the_notice(
    machine: Machine, program: str, how: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_module, "NOTICE_SECONDS", 2.0)
    ended = machine.run("container", ["python3", "-c", program], {}, lambda lines: "up" in lines)
    assert (ended.exit_code, ended.told) == (how, True)


def test_what_a_shell_starts_is_not_told_of_sigterm(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step whose command does not `exec` python."""
    monkeypatch.setattr(machine_module, "NOTICE_SECONDS", 2.0)
    handler = "import signal; signal.signal(signal.SIGTERM, lambda *_: print('told'))"
    program = f"{handler}; print('up', flush=True); signal.pause()"
    ended = machine.run(
        "container", ["sh", "-ec", f'python3 -c "{program}"\n'], {}, lambda lines: "up" in lines
    )
    assert (ended.exit_code, ended.lines) == (-signal.SIGKILL, ("up",))
