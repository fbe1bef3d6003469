"""One container on a machine of its own, as Vertex AI starts one for each step and each worker of a job.

- The command is PID 1 of its PID namespace and runs as the user of the images (uid 10001). The kernel hands
  it only signals that it has a handler for, and SIGKILL (`man 7 pid_namespaces`): without one, SIGTERM does
  nothing.
- Who ends it sends SIGTERM, and SIGKILL when the notice is over
  (https://cloud.google.com/compute/docs/instances/spot#preemption-process: 30 seconds for a spot machine).
- It sees system and Python of this machine read-only, in place of an image's; /tmp and its home folder are
  its own and go with it; /dev/shm has 64 MB, Docker's default; buckets lie under /gcs, by a mount of its own.
- Its network is `network.Network`: nothing but the fakes.

All of it is in namespaces: nothing is mounted where other processes could see it, and all ends with this
process.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from tests.vertex_like.network import Network

UID = 10001
USER = "gauntlet"
HOME = f"/home/{USER}"
SHARED_MEMORY = "64m"
NOTICE_SECONDS = 120.0
"""Four times what Vertex AI gives: the machine that tests run on may be busy."""
SECONDS_BETWEEN_LOOKS = 0.1
DEVICES = ("null", "zero", "full", "random", "urandom")
SYSTEM = ("/usr", "/etc", "/bin", "/sbin", "/lib", "/lib64", "/sys")


@dataclass(frozen=True)
class Ended:
    """How a container ended.

    Attributes:
        exit_code: Negative: by that signal.
        lines: What it printed.
        told: Whether SIGTERM was sent.
        seconds_to_end: From SIGTERM on.
    """

    exit_code: int
    lines: tuple[str, ...]
    told: bool = False
    seconds_to_end: float = 0.0


@dataclass(frozen=True)
class Machine:
    """Where containers run, one at a time.

    Attributes:
        folder: For what containers write outside of buckets.
        storage_url: Where Cloud Storage's JSON API answers, for the mount at /gcs.
        readable: Folders of this machine that are there in containers too, under the same path.
        variables: What is in every container's environment.
    """

    folder: Path
    storage_url: str
    network: Network
    readable: Sequence[Path]
    variables: Mapping[str, str]

    def run(
        self,
        name: str,
        command: Sequence[str],
        variables: Mapping[str, str],
        end_when: Callable[[Sequence[str]], bool] = lambda _: False,
    ) -> Ended:
        """Run a command to its end.

        Args:
            name: Of the folder that keeps its output.
            command: With its arguments.
            variables: In addition to those of every container.
            end_when: Whether to end it, by the lines that it has printed; asked again and again.
        """
        folder = self.folder / name
        rootfs = RootFilesystem.below(folder, self.readable)
        with _file_system(self.storage_url, rootfs) as holder:
            whole = [
                *("setpriv", "--pdeathsig", "KILL"),
                *("nsenter", f"--mount=/proc/{holder}/ns/mnt", f"--net={self.network.path}"),
                *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *(f"--root={rootfs.root}", f"--wd={HOME}"),
                *("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--inh-caps=-all"),
                *command,
            ]
            process = subprocess.Popen(
                whole,
                env={**_image_variables(), **self.variables, **variables},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
            )
            with process, (folder / "log").open("wb") as log:
                return _watch(process, log.write, end_when)


def _watch(
    process: subprocess.Popen[bytes],
    keep: Callable[[bytes], object],
    end_when: Callable[[Sequence[str]], bool],
) -> Ended:
    assert process.stdout is not None
    output = process.stdout.fileno()
    text, lines, told_at, killed = b"", [], 0.0, False
    while True:
        if select.select([output], [], [], SECONDS_BETWEEN_LOOKS)[0]:
            block = os.read(output, 1 << 16)
            if not block:
                break
            keep(block)
            *ended, text = (text + block).split(b"\n")
            lines += [line.decode(errors="replace") for line in ended]
        if not told_at and end_when(lines):
            told_at = time.monotonic()
            _signal(process, signal.SIGTERM)
        if told_at and not killed and time.monotonic() - told_at > NOTICE_SECONDS:
            killed = True
            _signal(process, signal.SIGKILL)
    code = process.wait()
    if killed:  # which util-linux 2.38's `unshare` cannot pass on: it says so in a line and ends with 1
        code, lines = -signal.SIGKILL, [line for line in lines if not line.startswith("unshare: ")]
    seconds = time.monotonic() - told_at if told_at else 0.0
    return Ended(code, (*lines, *filter(None, [text.decode(errors="replace")])), bool(told_at), seconds)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send it to PID 1 of the container from outside of its namespace, as container runtimes do."""
    for first in psutil.Process(process.pid).children():  # of `unshare`: none if it has just ended
        first.send_signal(number)


def _image_variables() -> dict[str, str]:
    """What the Dockerfiles set."""
    path = ":".join((str(Path(sys.prefix) / "bin"), "/usr/local/bin", "/usr/bin", "/bin"))
    return {"PATH": path, "HOME": HOME, "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class RootFilesystem:
    """What a container sees as `/`: folders of this machine, mounted into an empty one.

    Attributes:
        root: Where it is put together.
        shown: Folders of this machine, read-only under the same path.
        own: Folders of this machine that are the container's own, by the path that they have in it.
        users: A file that takes the place of /etc/passwd.
    """

    root: str
    shown: tuple[str, ...]
    own: Mapping[str, str]
    users: str

    @classmethod
    def below(cls, folder: Path, readable: Sequence[Path]) -> RootFilesystem:
        """With new folders in `folder`."""
        wanted = [*SYSTEM, sys.base_prefix, sys.prefix, *map(str, readable)]
        shown: list[str] = []
        for one in wanted:
            if Path(one).exists() and not any(Path(one).is_relative_to(before) for before in shown):
                shown.append(one)
        own = {"/tmp": folder / "tmp", HOME: folder / "home"}
        for path in (folder / "root", *own.values()):
            path.mkdir(parents=True)
        for path in own.values():
            os.chown(path, UID, UID)
        users = folder / "passwd"
        users.write_text(f"root:x:0:0::/root:/bin/sh\n{USER}:x:{UID}:{UID}::{HOME}:/bin/sh\n")
        return cls(
            str(folder / "root"), tuple(shown), {there: str(here) for there, here in own.items()}, str(users)
        )

    def assemble(self) -> None:
        """Mount it all, but for /gcs and /proc; for a process with a mount namespace of its own."""
        _mount(self.root, "-t", "tmpfs", "-o", "mode=755", "tmpfs")
        for inside, outside in self.own.items():
            self._show(outside, inside)
        for path in self.shown:
            if Path(path).is_symlink():  # /bin, where it is a part of /usr
                Path(self.root + path).symlink_to(Path(path).readlink())
                continue
            self._show(path, path)
            _mount(self.root + path, "-o", "remount,bind,ro")
        _mount(f"{self.root}/etc/passwd", "--bind", self.users)
        for name in DEVICES:
            device = Path(f"{self.root}/dev/{name}")
            device.parent.mkdir(exist_ok=True)
            device.touch()
            _mount(str(device), "--bind", f"/dev/{name}")
        for name in ("dev/shm", "proc", "gcs"):
            Path(self.root, name).mkdir()
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            Path(self.root, "dev", name).symlink_to(f"/proc/self/fd/{number}")
        Path(self.root, "dev/fd").symlink_to("/proc/self/fd")
        _mount(f"{self.root}/dev/shm", "-t", "tmpfs", "-o", f"mode=1777,size={SHARED_MEMORY}", "tmpfs")

    def _show(self, outside: str, inside: str) -> None:
        Path(self.root + inside).mkdir(parents=True, exist_ok=True)
        _mount(self.root + inside, "--rbind", outside)


def _mount(target: str, *arguments: str) -> None:
    subprocess.run(["mount", *arguments, target], check=True)


@contextmanager
def _file_system(storage_url: str, rootfs: RootFilesystem) -> Iterator[int]:
    """The id of a process in whose mount namespace it is; it goes with the block."""
    command = [
        *("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"),
        *(sys.executable, "-m", "tests.vertex_like.machine", storage_url, json.dumps(asdict(rootfs))),
    ]
    repository = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=repository) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"mounted\n":
                raise OSError("the container's file system cannot be mounted")
            yield process.pid
        finally:
            process.kill()


if __name__ == "__main__":
    from tests.vertex_like.gcs_mount import mount

    described = RootFilesystem(**json.loads(sys.argv[2]))
    described.assemble()
    mount(sys.argv[1], f"{described.root}/gcs", lambda: print("mounted", flush=True))
