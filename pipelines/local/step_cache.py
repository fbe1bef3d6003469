"""Cache of the outputs of local runs' steps, by content: a step with the same inputs is not run again.

    objects/<sha256>      an output file of a step
    steps/<key>.json      the files of one execution of a step, by their path in the step's folder

The key (`StepCall.key`) is a hash of everything that a step's outputs depend on.

Files are linked between a run's folder and the cache, and copied where the disk cannot link. An entry is
written last and atomically, when all of its objects are there, so a half-written entry is never a hit.
Every object is hashed again before it is used.

`python -m gauntlet.pipelines.local.step_cache` replaces `kfp.dsl.executor_main` in a local run. Its arguments
are `cached` or `uncached`, that module's name, and the arguments of `kfp.dsl.executor_main`. With
`GAUNTLET_JUDGED`, a folder of a run's outputs, it copies the step's outputs from there and never runs the
step. Otherwise, if `GAUNTLET_STEP_CACHE` is set and the step may be cached, it looks the step up in that
folder, and stores the step's outputs there.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from gauntlet.backends.prices import PRICES_VARIABLE
from gauntlet.components.sections import given
from gauntlet.components.step import ERROR_FILE, REUSED_FILE
from gauntlet.components.write_report.collect import DONE_FILE
from gauntlet.manifests.kinds import kinds
from gauntlet.manifests.loading import CODE_KEYS, MODEL_KEYS, texts_at
from gauntlet.manifests.own_code import code_sha256
from gauntlet.serving.cpu import cpu_fields, usable_cpus

PACKAGES = ("manifests", "contracts", "pages", "backends", "trainer", "components", "tasks", "serving")
"""The packages whose code steps run; `pipelines` only starts them."""
ARITHMETIC_VARIABLES = (
    *("OMP_", "GOMP_", "KMP_", "MKL_"),
    *("CUDA_", "CUBLAS_", "NVIDIA_", "TORCH_", "PYTORCH_", "ORT_"),
)
GPUS = Path("/proc/driver/nvidia/gpus")
OF_LINEAGE = {"manifest_sha256"}
"""Parameters that are only recorded as lineage: with another gate the model is not converted again."""
NAMES_CONTENT = "_sha256"
"""The suffix of a parameter that names the content of the artifact that is named before it."""
OBJECTS, ENTRIES = "objects", "steps"
OF_ONE_RUN = {DONE_FILE, ERROR_FILE, REUSED_FILE}
CACHE_VARIABLE = "GAUNTLET_STEP_CACHE"
JUDGED_VARIABLE = "GAUNTLET_JUDGED"
RUN_VARIABLE = "GAUNTLET_RUN"
REUSED = "reused: "


@dataclass(frozen=True)
class StepCall:
    """One execution of a step, as KFP starts it: its component's source file and its executor input."""

    component: Path
    function: str
    executor_input: Mapping[str, Any]

    @classmethod
    def of(cls, arguments: list[str]) -> Self:
        """From the arguments of `kfp.dsl.executor_main`."""
        options = dict(zip(arguments[::2], arguments[1::2], strict=True))
        return cls(
            Path(options["--component_module_path"]),
            options["--function_to_execute"],
            json.loads(options["--executor_input"]),
        )

    @property
    def folder(self) -> Path:
        """Where the step's outputs go."""
        return Path(self.executor_input["outputs"]["outputFile"]).parent

    @cached_property
    def key(self) -> str:
        """A hash of the step's component, parameters, input artifacts, models, code, packages and machine."""
        inputs = self.executor_input.get("inputs", {})
        parameters = {
            name: given(value) if isinstance(value, dict) else value
            for name, value in inputs.get("parameterValues", {}).items()
            if name not in OF_LINEAGE
        }
        artifacts = {
            name: [_content_of(Path(artifact["uri"])) for artifact in value["artifacts"]]
            for name, value in inputs.get("artifacts", {}).items()
            if f"{name}{NAMES_CONTENT}" not in parameters
        }
        content = {
            "component": [self.function, hash_of(self.component)],
            "parameters": parameters,
            "models": _models(parameters),
            **_own_code(parameters),
            "artifacts": artifacts,
            "code": code_version(),
            "packages": packages(),
            "machine": machine(),
            "environment": _environment(),
        }
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """The outputs of one execution of a step: the sha256 of its files by path, and its executor output.

    `folder` is the folder that the executor output names.
    """

    run: str
    folder: str
    files: Mapping[str, str]
    executor_output: str


class StepCache:
    """The cache in one folder, which several processes may use at the same time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def restore(self, call: StepCall) -> str | None:
        """Put the outputs of an earlier execution in place; returns their run, or None for a miss."""
        entry = self._entry(call.key)
        if entry is None:
            return None
        try:
            for name, sha256 in entry.files.items():
                found = self._object(sha256)
                place(found, call.folder / name)
                if hash_of(call.folder / name) != sha256:  # one of its links was modified
                    found.unlink()
                    raise OSError(f"{found}: its content has changed")
        except OSError:
            self._entry_file(call.key).unlink(missing_ok=True)
            shutil.rmtree(call.folder, ignore_errors=True)
            return None
        finish(call, entry.run, entry.folder, entry.executor_output)
        self._entry_file(call.key).touch()  # when it was last used, for `gauntlet prune`
        return entry.run

    def store(self, call: StepCall, run: str) -> None:
        """Store the step's outputs."""
        files = {}
        for file in _files(call.folder):
            name = file.relative_to(call.folder).as_posix()
            if name not in OF_ONE_RUN:
                files[name] = sha256 = hash_of(file)
                if not self._object(sha256).exists():
                    place(file, self._object(sha256))
        executor_output = (call.folder / DONE_FILE).read_text(encoding="utf-8")
        entry = Entry(run, str(call.folder), files, executor_output)
        _write(self._entry_file(call.key), json.dumps(asdict(entry), indent=2))

    def _entry(self, key: str) -> Entry | None:
        try:
            return Entry(**json.loads(self._entry_file(key).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _entry_file(self, key: str) -> Path:
        return self._folder / ENTRIES / f"{key}.json"

    def _object(self, sha256: str) -> Path:
        return self._folder / OBJECTS / sha256


def copy_of(call: StepCall, source: Path, run: str) -> None:
    """Put the step's outputs of another run in place; a `FileNotFoundError` if it has not finished there."""
    executor_output = (source / DONE_FILE).read_text(encoding="utf-8")
    for file in _files(source):
        name = file.relative_to(source).as_posix()
        if name not in OF_ONE_RUN:
            place(file, call.folder / name)
    finish(call, run, str(source), executor_output)


def finish(call: StepCall, run: str, made_in: str, executor_output: str) -> None:
    """Record which run the outputs are from, then write the executor output, as a step does."""
    _write(call.folder / REUSED_FILE, json.dumps({"run": run}))
    moved = _replaced(json.loads(executor_output), made_in, str(call.folder))
    _write(call.folder / DONE_FILE, json.dumps(moved))


def place(source: Path, target: Path) -> None:
    """Link or copy a file, atomically."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:  # another disk, or one without links
        temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        shutil.copyfile(source, temporary)
        temporary.replace(target)


def _content_of(path: Path) -> list[list[str]] | None:
    """The sha256 of each file at or below a path; None if there is no file, as for logged metrics."""
    if not path.exists():
        return None
    return [[file.relative_to(path).as_posix(), hash_of(file)] for file in _files(path)]


def hash_of(path: Path) -> str:
    """A file's sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def code_version() -> str:
    """A hash of the files of Gauntlet and of task kinds from elsewhere, except the packaged manifests."""
    digest = hashlib.sha256()
    plugins = {package for kind in kinds().values() for package in kind.packages} - {"gauntlet"}
    for package in (*(f"gauntlet.{room}" for room in PACKAGES), *sorted(plugins)):
        spec = find_spec(package)
        assert spec is not None
        root = Path((spec.submodule_search_locations or [spec.origin or ""])[0])
        for file in _files(root):
            name = file.relative_to(root.parent)
            is_input = package == "gauntlet.manifests" and file.suffix != ".py"
            if "__pycache__" not in name.parts and not is_input:
                digest.update(f"{name.as_posix()} {hash_of(file)}\n".encode())
    return digest.hexdigest()


@cache
def packages() -> list[str]:
    """The installed packages with their versions."""
    return sorted(f"{one.name} {one.version}" for one in distributions())


def machine() -> list[str]:
    """The CPUs and GPUs, which rounding and timings depend on."""
    fields = cpu_fields()
    cpu = [fields.get("model name", ""), fields.get("flags", fields.get("Features", ""))]
    gpus = [file.read_text() for file in sorted(GPUS.glob("*/information"))]
    return [platform.machine(), platform.python_version(), *cpu, str(usable_cpus()), *gpus]


def _environment() -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if name.startswith(ARITHMETIC_VARIABLES)}
    prices = os.environ.get(PRICES_VARIABLE)
    if prices and Path(prices).is_file():
        found[PRICES_VARIABLE] = hash_of(Path(prices))
    return found


def _models(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The content of the models on this machine that parameters name."""
    named = texts_at(parameters, MODEL_KEYS)
    return {key: _content_of(Path(path)) for key, path in named.items() if Path(path).is_absolute()}


def _own_code(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The code of the user's own networks and loss; nothing where the section `training` names none."""
    named = [path for path in texts_at(parameters, CODE_KEYS).values() if ":" in path]
    return {"own_code": [code_sha256(path) for path in named]} if named else {}


def _files(path: Path) -> Iterator[Path]:
    """The file at a path, or all below it, sorted."""
    return iter([path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file()))


def _replaced(content: Any, old: str, new: str) -> Any:
    """The JSON, with `old` replaced by `new` at the beginning of its texts."""
    if isinstance(content, dict):
        return {key: _replaced(value, old, new) for key, value in content.items()}
    if isinstance(content, list):
        return [_replaced(value, old, new) for value in content]
    if isinstance(content, str) and (content == old or content.startswith(old + os.sep)):
        return new + content.removeprefix(old)
    return content


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def main() -> None:
    """Reuse outputs, or run the step and keep them."""
    _, may_be_cached, _, *arguments = sys.argv
    sys.argv[1:] = arguments
    call = StepCall.of(arguments)
    if judged := os.environ.get(JUDGED_VARIABLE):
        source = Path(judged)
        run = source.parent.parent.name  # RUN/steps/JOB
        copy_of(call, source / call.folder.name, run)
        print(f"{REUSED}{run}", flush=True)
        return
    folder = os.environ.get(CACHE_VARIABLE)
    if not folder or may_be_cached != "cached":
        execute()
        return
    cache = StepCache(Path(folder))
    if restored := cache.restore(call):
        print(f"{REUSED}{restored}", flush=True)
        return
    execute()
    try:
        cache.store(call, os.environ[RUN_VARIABLE])
    except OSError as error:  # the step itself has succeeded
        print(f"warning: {folder}: not kept for later runs: {error.strerror or error}", flush=True)


def execute() -> None:
    """Run the component's function as KFP does; a failure ends the process."""
    from kfp.dsl.executor_main import executor_main

    executor_main()


if __name__ == "__main__":
    main()
