"""Task kinds: what the shared steps ask of each kind of model.

A kind is a folder of modules, one for each role, and a `TaskKind` that names them by import path. A
distribution announces its kinds in the entry point group `gauntlet.tasks`; the built-in kinds do so too.
Shared code imports a kind's modules only through `TaskKind.role`, so it names no kind, and reading a manifest
does not load torch.

docs/how-to/add_a_task_kind.md lists what each role must define.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module, metadata
from math import inf
from types import ModuleType
from typing import Any, Literal, get_args

from gauntlet.manifests.errors import UsageError

GROUP = "gauntlet.tasks"
INTERFACE = 1
"""The version of this interface. It changes when kinds that were written for the last version may fail."""

Role = Literal["data", "training", "conversion", "evaluation", "gates", "report", "serving", "tiny"]


@dataclass(frozen=True)
class Metric:
    """A number that says how good a model is, and all that shared code knows about it.

    A step reads a metric of its kind with `TaskKind.metric`; code that has only the name uses `known_metric`.

    Attributes:
        name: The key in documents, in the tracker and in the manifest, such as `macro_f1`.
        title: The name in tables and sentences, such as `macro-F1`.
        better: Whether a higher or a lower value is the better one.
        domain: The least and the greatest value that it can have.
        digits: How many decimals a table shows.
        registered: Whether a version in the registry has it as a tag. The metric is then a number among the
            challenger's scores of evaluate-model, under its name.
    """

    name: str
    title: str
    better: Literal["higher", "lower"] = "higher"
    domain: tuple[float, float] = (0.0, 1.0)
    digits: int = 3
    registered: bool = False

    def as_score(self, value: float) -> float:
        """The value for which higher is better: a loss is negated. The inverse is the function itself."""
        return value if self.better == "higher" else -value


LOSS = Metric("loss", "loss", better="lower", domain=(0.0, inf))
"""The metric that every kind has whose model this project trains."""


@dataclass(frozen=True, kw_only=True)
class TaskKind:
    """One kind of model, and the import paths of the modules that know it.

    Attributes:
        interface: The `INTERFACE` that the kind was written for.
        name: What a manifest's `task` says.
        title: What a table shows.
        metrics: The kind's metrics, of the validation split and of the test split. The first is the one that
            champion and challenger are compared by.
        manifest: `module:Class` of its subclass of `manifests.schema.Manifest`.
        data: Reads, checks and splits rows.
        training: Rows, loss and metrics for the training loop.
        conversion: Exports and compares candidates. None if a service trains and serves the model, so that
            nothing is converted.
        evaluation: Scores a bundle on the test split.
        gates: The table of gate rules.
        report: The kind's sections of the run report.
        serving: Requests to model inputs, and outputs to answers. Never imports torch.
        tiny: Settings and data with which a manifest of the kind trains in seconds, for `gauntlet smoke`.
            None if training costs money.
    """

    interface: int
    name: str
    title: str
    metrics: tuple[Metric, ...]
    manifest: str
    data: str
    training: str
    conversion: str | None = None
    evaluation: str
    gates: str
    report: str
    serving: str
    tiny: str | None = None

    def metric(self, name: str) -> Metric:
        """The metric of that name. If the kind has none, one of which a higher value is better."""
        return _named(name, (*self.metrics, LOSS))

    @property
    def is_converted(self) -> bool:
        """Whether the model is trained here and converted; a service trains and serves the others."""
        return self.conversion is not None

    @property
    def packages(self) -> frozenset[str]:
        """The top-level packages of its modules."""
        paths = [self.manifest, *(getattr(self, role) for role in get_args(Role))]
        return frozenset(path.split(".")[0] for path in paths if path)

    def role(self, role: Role) -> ModuleType:
        """The module of a role, or a `UsageError` if the kind has none or its import fails."""
        path: str | None = getattr(self, role)
        if not path:
            raise UsageError(f"task kind {self.name}: has no {role} module, which this step needs")
        return _imported(path, f"task kind {self.name}: {role}")

    def function(self, role: Role, name: str) -> Any:
        """What the module of a role must define by that name, or a `UsageError` if it does not."""
        module = self.role(role)
        found = getattr(module, name, None)
        if found is None:
            raise UsageError(
                f"task kind {self.name}: found no `{name}` in {module.__name__}. The role {role} must define "
                "it: see docs/how-to/add_a_task_kind.md"
            )
        return found

    def manifest_class(self) -> Any:
        """The kind's manifest, or a `UsageError` if `manifest` names no class that can be imported."""
        path, _, name = self.manifest.partition(":")
        found = getattr(_imported(path, f"task kind {self.name}: manifest"), name, None)
        if found is None:
            raise UsageError(f"task kind {self.name}: manifest: found no {name!r} in {path}")
        return found


@dataclass(frozen=True)
class InstalledKind:
    """A task kind, or why it cannot be used, and where it comes from.

    Attributes:
        name: The name of the entry point, which is also the name of the kind.
        distribution: Name and version of the distribution that announces it.
        kind: None if there is a `fault`.
    """

    name: str
    distribution: str
    kind: TaskKind | None = None
    fault: str | None = None


def task_kind(name: str) -> TaskKind:
    """The task kind of that name.

    Raises:
        UsageError: There is none, it cannot be loaded, or two distributions have one of that name.
    """
    found = [one for one in installed_kinds() if one.name == name]
    if not found:
        raise UsageError(f"task: found {name!r}, expected one of {', '.join(kind_names())}")
    if found[0].kind is None:
        raise UsageError(f"task: found {name!r}, which {found[0].distribution} provides: {found[0].fault}")
    return found[0].kind


def kind_names() -> tuple[str, ...]:
    """The names of the task kinds that can be used, sorted."""
    return tuple(one.name for one in installed_kinds() if one.kind is not None)


@functools.cache
def installed_kinds() -> tuple[InstalledKind, ...]:
    """The task kinds of all installed distributions by name, including those that cannot be used."""
    # gauntlet and gauntlet-serving announce the same built-in kinds.
    points = {(point.name, point.value): point for point in metadata.entry_points(group=GROUP)}
    by_name: dict[str, list[InstalledKind]] = {}
    for point in points.values():
        by_name.setdefault(point.name, []).append(_loaded(point))
    return tuple(found[0] if len(found) == 1 else _ambiguous(found) for _, found in sorted(by_name.items()))


def _ambiguous(found: list[InstalledKind]) -> InstalledKind:
    distributions = ", ".join(sorted(one.distribution for one in found))
    fault = f"{len(found)} distributions provide a task kind of this name. Uninstall all but one."
    return InstalledKind(found[0].name, distributions, fault=fault)


def _loaded(point: metadata.EntryPoint) -> InstalledKind:
    distribution = f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"
    try:
        kind = point.load()
    except Exception as error:  # whatever a module may raise while it is imported
        fault = f"{point.value} cannot be imported: {type(error).__name__}: {error}"
        return InstalledKind(point.name, distribution, fault=fault)
    unfit = _fault_of(kind, point)
    return InstalledKind(point.name, distribution, None if unfit else kind, unfit)


def _fault_of(kind: object, point: metadata.EntryPoint) -> str | None:
    if not isinstance(kind, TaskKind):
        return f"{point.value} is a {type(kind).__name__}, expected a gauntlet.manifests.kinds.TaskKind"
    if kind.interface != INTERFACE:
        return (
            f"{point.value} is made for version {kind.interface} of the task kind interface, and this "
            f"Gauntlet has version {INTERFACE}. Install a version of the plug-in for it."
        )
    if kind.name != point.name:
        return (
            f"{point.value} is named {kind.name!r}, but its entry point {point.name!r}. "
            "Give both the same name."
        )
    return None


def _imported(path: str, what: str) -> ModuleType:
    try:
        return import_module(path)
    except Exception as error:  # whatever a module may raise while it is imported
        fault = f"{path} cannot be imported: {type(error).__name__}: {error}"
        raise UsageError(f"{what}: {fault}") from error


def manifest_classes() -> Mapping[str, Any]:
    """The manifest class of each kind, by the kind's name, without those that cannot be imported."""
    found = {}
    for name in kind_names():
        with suppress(UsageError):
            found[name] = task_kind(name).manifest_class()
    return found


def kinds() -> Mapping[str, TaskKind]:
    """The task kinds that can be used, by name."""
    return {one.name: one.kind for one in installed_kinds() if one.kind is not None}


def known_metric(name: str) -> Metric:
    """The metric of that name, from the first kind that has one. For code that does not know the kind.

    Two kinds give a metric the same name only if it means the same.
    """
    return _named(name, (*(one for kind in kinds().values() for one in kind.metrics), LOSS))


def _named(name: str, metrics: Iterable[Metric]) -> Metric:
    found = (one for one in metrics if one.name == name)
    return next(found, Metric(name, name.replace("_", " ")))


def registered_metrics() -> tuple[str, ...]:
    """The metrics of all kinds that versions in the registry have as tags."""
    names = (one.name for kind in kinds().values() for one in kind.metrics if one.registered)
    return tuple(dict.fromkeys(names))
