"""Starts Gauntlet's programs in tests as forks of a process that has imported the libraries.

A run of the DAG starts nine Python processes, each of which needs seconds of CPU to import torch, sklearn,
mlflow and kfp. Within `forking`, a `subprocess.Popen` of `python -m gauntlet…`, of `python -c`, or of a step
as kfp.local starts it, forks instead. The new process is a child of the caller and gets the environment, the
working folder, the CPUs, the descriptors, the session, the signal handlers and the command line of a new
process; the libraries in it are imported but unused. The processes that it starts are forks too.
`tests/test_warm.py` compares the two.

Two things differ from a new process: which modules are imported, and variables that libraries read on import,
except those that `_read_environment_again` reads. `tests/end_to_end/test_images.py` therefore starts its
processes as users do.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib
import io
import multiprocessing.popen_spawn_posix
import multiprocessing.util
import os
import pickle
import pkgutil
import re
import runpy
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import fsspec.config

FORKED = re.compile(r"(gauntlet|tests)\..*|kfp\.dsl\.executor_main")
"""Modules that are run in forks."""
LIBRARIES = (
    "alembic.command",
    "docker",
    "kfp.dsl.executor",
    "kfp.dsl.executor_main",
    "kfp.kubernetes",
    "kfp.local.cache",
    "kfp.local.subprocess_task_handler",
    "matplotlib.pyplot",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "pyarrow.dataset",
    "sklearn.metrics",
    "torch.onnx._internal.torchscript_exporter.symbolic_opset20",
    "transformers.models.bert.modeling_bert",
    "transformers.models.llama.modeling_llama",
    "typer.main",
)
"""Libraries that Gauntlet, or a library, imports within a function."""
READ_ON_IMPORT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "ORT_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
}
LARGEST_COMMAND_LINE = 32_000
"""Bytes of a command line that /proc shows."""
COMPONENT_FILE = "$program_path/ephemeral_component.py"
SET_CHILD_SUBREAPER = 36  # of prctl
LENGTH = struct.Struct("!Q")


@dataclass(frozen=True)
class _Program:
    """A module with its arguments, and where and how it runs."""

    module: str
    arguments: Sequence[str]
    shell: Sequence[str]
    """The command of the shell that KFP starts it by, or nothing; the shell writes a component to a file."""
    environment: dict[str, str]
    folder: str
    cpus: set[int]
    descriptors: Sequence[int]
    """The number of each descriptor in the new process."""
    new_session: bool
    prepare: Callable[[], object] | None


class _Zygote:
    """A process that forks on request, at the other end of a socket."""

    def __init__(self, connection: socket.socket, process: int) -> None:
        self._connection = connection
        self._process = process
        self._lock = threading.Lock()

    def start(self, program: _Program, descriptors: Sequence[int]) -> int:
        """Start a child of this process."""
        content = pickle.dumps(program)
        with self._lock, _adopting():
            socket.send_fds(self._connection, [LENGTH.pack(len(content))], descriptors)
            self._connection.sendall(content)
            [child] = LENGTH.unpack(_read(self._connection, LENGTH.size))
        return int(child)

    def end(self) -> None:
        self._connection.close()
        with suppress(ChildProcessError):
            os.waitpid(self._process, 0)


_zygote: _Zygote | None = None
_exec = subprocess.Popen._execute_child  # type: ignore[attr-defined]
_exec_spawned = multiprocessing.util.spawnv_passfds  # type: ignore[attr-defined]


def _fork(
    self: Any,
    args: Any,
    executable: Any,
    preexec_fn: Any,
    close_fds: Any,
    pass_fds: Any,
    cwd: Any,
    env: Any,
    startupinfo: Any,
    creationflags: Any,
    shell: Any,
    p2cread: int,
    p2cwrite: int,
    c2pread: int,
    c2pwrite: int,
    errread: int,
    errwrite: int,
    restore_signals: Any,
    gid: Any,
    gids: Any,
    uid: Any,
    umask: Any,
    start_new_session: bool,
    process_group: Any,
) -> None:
    """Replaces `subprocess.Popen._execute_child`: forks if the program is one of Gauntlet's."""
    found = None if shell or _zygote is None else _read_command(args)
    if found is None:
        _exec(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags,
              shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, restore_signals, gid, gids, uid,
              umask, start_new_session, process_group)  # fmt: skip
        return
    standard = [own if given == -1 else given for own, given in enumerate((p2cread, c2pwrite, errwrite))]
    module, arguments, started_by = found
    program = _Program(
        module=module,
        arguments=arguments,
        shell=started_by,
        environment=dict(os.environ if env is None else env),
        folder=str(Path.cwd() / (cwd or "")),
        cpus=os.sched_getaffinity(0),
        descriptors=(0, 1, 2, *pass_fds),
        new_session=start_new_session,
        prepare=preexec_fn,
    )
    assert _zygote is not None
    self.pid = _zygote.start(program, [*standard, *pass_fds])
    self._child_created = True
    self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)


def _spawn(path: Any, args: Any, passfds: Any) -> int:
    """Replaces `multiprocessing.util.spawnv_passfds`, by which torchrun starts ranks."""
    found = None if _zygote is None else _read_command([os.fsdecode(part) for part in args])
    if found is None:
        return int(_exec_spawned(path, args, passfds))
    assert _zygote is not None
    module, arguments, _ = found
    program = _Program(
        module=module,
        arguments=arguments,
        shell=[],
        environment=dict(os.environ),
        folder=str(Path.cwd()),
        cpus=os.sched_getaffinity(0),
        descriptors=(0, 1, 2, *passfds),
        new_session=False,
        prepare=None,
    )
    return _zygote.start(program, program.descriptors)


def _read_command(command: Any) -> tuple[str, list[str], list[str]] | None:
    """The module to run, its arguments, and the shell's command around them; None: start a new process."""
    shell: list[str] = []
    match command:
        case [sys.executable, "-m", module, *arguments] | [sys.executable, "-P", "-m", module, *arguments]:
            pass
        case [sys.executable, *_, "-c", code, "--multiprocessing-fork"]:  # with flags of the interpreter
            return "-c", [code, "--multiprocessing-fork"], []
        case [sys.executable, "-c", code, *arguments]:
            return "-c", [code, *arguments], []
        case ["sh", "-ec", str(script), _, *inputs] if f"{sys.executable} -m " in script:
            _, module, *arguments = shlex.split(script.rpartition(sys.executable)[2])
            assert arguments[-2:] == [COMPONENT_FILE, "$@"], script
            arguments[-1:] = inputs
            shell = list(command)
        case _:
            return None
    return (module, arguments, shell) if FORKED.fullmatch(module) else None


@contextmanager
def _adopting() -> Iterator[None]:
    """Within, this process becomes the parent of a descendant whose own parent ends."""
    prctl = ctypes.CDLL(None).prctl
    prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _read(connection: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        part = connection.recv(size - len(content))
        if not part:
            raise EOFError
        content += part
    return content


def _serve(connection: socket.socket) -> NoReturn:
    """Fork for every request, until the other end of the socket is closed."""
    _handle_interrupt(signal.SIG_DFL)
    while True:
        header, descriptors, _, _ = socket.recv_fds(connection, LENGTH.size, 64)
        if not header:
            os._exit(0)
        [size] = LENGTH.unpack(header)
        program: _Program = pickle.loads(_read(connection, size))
        numbers, written = os.pipe()
        between = os.fork()
        if between == 0:
            between = os.getpid()
            child = os.fork()
            if child:
                os.write(written, LENGTH.pack(child))
                os._exit(0)
            while os.getppid() == between:  # the program must see its final parent from the start
                time.sleep(0.0005)
            for descriptor in (numbers, written):
                os.close(descriptor)
            connection.close()
            _become(program, descriptors)
        os.waitpid(between, 0)
        for descriptor in (written, *descriptors):
            os.close(descriptor)
        connection.sendall(os.read(numbers, LENGTH.size))
        os.close(numbers)


def _become(program: _Program, descriptors: Sequence[int]) -> NoReturn:
    """Run the program in this process, and end with its exit code."""
    if program.new_session:
        os.setsid()
    _reset_signals()
    _place(descriptors, program.descriptors)
    os.environ.clear()
    os.environ.update(program.environment)
    os.chdir(program.folder)
    os.sched_setaffinity(0, program.cpus)
    if program.prepare is not None:
        program.prepare()
    _read_environment_again()
    arguments = list(program.arguments)
    if program.shell:
        _show(program.shell)
        os.environ |= {"_KFP_RUNTIME": "true"}
        file = Path(tempfile.mkdtemp()) / "ephemeral_component.py"
        file.write_text(program.shell[3], encoding="utf-8")
        arguments[arguments.index(COMPONENT_FILE)] = str(file)
        if f"exec {sys.executable}" not in program.shell[2]:
            _wait_as_a_shell_does()
    _start_zygote(program.descriptors)
    _show([sys.executable, *(["-m", program.module] if program.module != "-c" else ["-c"]), *arguments])
    sys.argv = [program.module, *arguments]
    _open_streams()
    code = _run(program.module)
    for stream in (sys.stdout, sys.stderr):
        if not stream.closed:  # multiprocessing's resource tracker closes its own
            with suppress(OSError):
                stream.flush()
    if _zygote is not None:
        _zygote.end()
    os._exit(code)


def _read_environment_again() -> None:
    """For modules that read it on import, and whose variables tests set."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as `import gauntlet` does
    tempfile.tempdir = None
    fsspec.config.conf.clear()
    fsspec.config.set_conf_files(fsspec.config.conf_dir, fsspec.config.conf)
    fsspec.config.set_conf_env(fsspec.config.conf)


def _wait_as_a_shell_does() -> None:
    """Continue in a child. This process waits for it and has no handlers for signals."""
    child = os.fork()
    if child:
        _handle_interrupt(signal.SIG_DFL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os._exit(code if code >= 0 else 128 - code)


def _open_streams() -> None:
    """Open the standard streams as Python does at its start."""
    encoding, _, faults = os.environ.get("PYTHONIOENCODING", "").partition(":")
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        usual = getattr(sys, name)
        written = name != "stdin"
        buffering = 0 if unbuffered and written else -1
        binary = os.fdopen(number, "wb" if written else "rb", buffering, closefd=False)
        stream = io.TextIOWrapper(
            binary,
            encoding or usual.encoding,
            (faults if name != "stderr" else "") or usual.errors,
            line_buffering=name == "stderr" or (written and binary.isatty()),
            write_through=unbuffered,
        )
        setattr(sys, name, stream)


def _run(module: str) -> int:
    """Run a module as `python -m` does, including what Python does at exit; returns the exit code."""
    code = 0
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=f"'{module}' found in sys.modules", module="runpy")
            if module == "-c":
                exec(sys.argv.pop(1), {"__name__": "__main__"})
            else:
                runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    return code


def _reset_signals() -> None:
    """Set handlers as exec and Python's start do: ignored signals stay ignored, all others are reset."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    _handle_interrupt(signal.default_int_handler)


def _handle_interrupt(handler: Any) -> None:
    """Set the handler of SIGINT, unless it is ignored, as in a shell's background job: that is inherited."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


def _start_zygote(descriptors: Sequence[int]) -> None:
    """Fork a process that forks for this one; it keeps none of the program's descriptors open."""
    global _zygote  # noqa: PLW0603
    ours, theirs = socket.socketpair()
    process = os.fork()
    if process == 0:
        ours.close()
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in descriptors:
            os.dup2(nothing, descriptor)
        _serve(theirs)
    theirs.close()
    _zygote = _Zygote(socket.socket(fileno=_lift(ours.fileno())), process)
    ours.close()


def _place(descriptors: Sequence[int], numbers: Sequence[int]) -> None:
    """Renumber the descriptors that were received."""
    lifted = [_lift(descriptor) for descriptor in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    for descriptor, number in zip(lifted, numbers, strict=True):
        os.dup2(descriptor, number, inheritable=True)
        os.close(descriptor)


def _lift(descriptor: int) -> int:
    """A copy with a number that no program is given."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 512)


def _show(command: Sequence[str]) -> None:
    """Set the command line that /proc and `ps` show."""
    start, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
    content = b"\0".join(part.encode() for part in command)[: end - start - 1]
    ctypes.memmove(start, content.ljust(end - start, b"\0"), end - start)


def _import_everything() -> None:
    for library in LIBRARIES:
        importlib.import_module(library)
    import gauntlet

    for module in pkgutil.walk_packages(gauntlet.__path__, "gauntlet."):
        if not module.name.endswith("__main__") and not module.name.startswith("gauntlet.pipelines"):
            with suppress(ImportError):  # of a package that is not installed here
                importlib.import_module(module.name)


@contextmanager
def zygote() -> Iterator[None]:
    """Within, a process that has imported the libraries runs, which `forking` needs."""
    global _zygote  # noqa: PLW0603
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm", str(theirs.fileno()), "-" * LARGEST_COMMAND_LINE],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=READ_ON_IMPORT | os.environ,
        )
    _zygote = _Zygote(ours, process.pid)
    try:
        yield
    finally:
        ours.close()
        process.wait()
        _zygote = None


@contextmanager
def forking() -> Iterator[None]:
    """Within, programs of Gauntlet that this process starts are forks."""
    _fork_from_now_on()
    try:
        yield
    finally:
        subprocess.Popen._execute_child = _exec  # type: ignore[attr-defined]
        multiprocessing.util.spawnv_passfds = _exec_spawned  # type: ignore[attr-defined]


def _fork_from_now_on() -> None:
    subprocess.Popen._execute_child = _fork  # type: ignore[attr-defined]
    multiprocessing.util.spawnv_passfds = _spawn  # type: ignore[attr-defined]


if __name__ == "__main__":
    from tests import warm

    warm._import_everything()
    warm._fork_from_now_on()
    gc.collect()
    gc.freeze()
    warm._serve(socket.socket(fileno=int(sys.argv[1])))
