"""What is checked before a manifest is run: its data and models, and what it may cost."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Column, Table

from gauntlet import manifests
from gauntlet.backends import storage
from gauntlet.backends.prices import Estimate, estimate, over_budget, tuning_price_source, tuning_rate
from gauntlet.manifests.errors import Fault, ManifestError, UsageError
from gauntlet.manifests.loading import CODE_KEYS, load_manifest, texts_at
from gauntlet.manifests.own_code import resolve
from gauntlet.manifests.schema import Manifest
from gauntlet.manifests.training import Resources
from gauntlet.pipelines.terminal import borderless


def packaged_manifests() -> list[Path]:
    """The manifests that Gauntlet is installed with."""
    return sorted(Path(manifests.__path__[0]).glob("*.yaml"))


def command_line(verb: str, path: Path, overrides: Sequence[str] | None, options: Sequence[str] = ()) -> str:
    """A command on a manifest, quoted for a shell."""
    settings = [part for override in overrides or () for part in ("--set", override)]
    return shlex.join(["gauntlet", verb, str(path), *options, *settings])


def require_data(manifest: Manifest, path: Path) -> None:
    """Refuse data, or a pretrained model, that are missing on this machine before anything is written.

    validate-data checks data and models that are elsewhere.
    """
    manifest.require_model(str(path))
    require_own_code(manifest, path)
    uri, named = manifest.dataset.uri, manifest.dataset.named_files
    if "://" in uri:
        return
    files = [Path(uri) / name for name in named] if Path(uri).exists() else [Path(uri)]
    missing = [file for file in files if not file.exists() and not _matches(str(file))]
    if missing:
        key = "dataset.files" if Path(uri).exists() else "dataset.uri"
        action = f"Correct it, or --set {key}=…"
        raise ManifestError(
            [Fault(str(path), key, str(file), "a file or folder that exists", action) for file in missing]
        )


def _matches(uri: str) -> bool:
    """Whether a path is a pattern that matches a file."""
    return storage.is_pattern(uri) and bool(storage.matching(*storage.split_pattern(uri)))


def require_own_code(manifest: Manifest, path: Path) -> None:
    """Refuse a network, a backbone or a loss of the user's own that cannot be imported on this machine.

    Its package is installed, or its module lies beside the manifest, at `path`.
    """
    faults = []
    for key, code in texts_at(manifest.model_dump(mode="json"), CODE_KEYS).items():
        try:
            if ":" in code:
                resolve(code, key, path.resolve().parent)
        except UsageError as error:
            words = str(error).removeprefix(f"{key}: ")
            faults.append(Fault(str(path), key, code, "code that can be imported", words))
    if faults:
        raise ManifestError(faults)


def load_affordable(path: Path, overrides: Sequence[str] | None) -> Manifest:
    """A valid manifest whose most expensive run fits its own budget. Otherwise raise a `ManifestError`."""
    manifest = load_manifest(path, overrides or ())
    require_affordable(manifest, str(path))
    return manifest


def load_all(paths: Sequence[Path], load: Callable[[Path], Manifest]) -> list[tuple[Path, Manifest]]:
    """Load all manifests, or raise one `ManifestError` with the faults of all."""
    faults: list[Fault] = []
    manifests = []
    for path in paths:
        try:
            manifests.append((path, load(path)))
        except ManifestError as error:
            faults += error.faults
    if faults:
        raise ManifestError(faults)
    return manifests


def require_affordable(manifest: Manifest, file: str) -> None:
    """Raise a `ManifestError` if the most expensive run has no price or does not fit its own budget."""
    try:
        fault = over_budget(manifest.training.resources, file)
        if (tuning := manifest.training.by_service) is not None:
            tuning_rate(tuning.model)  # what tuning costs is known when its rows are counted
    except UsageError as error:
        fault = without_price(file, error)
    if fault is not None:
        raise ManifestError([fault])


def without_price(file: str, error: UsageError) -> Fault:
    """The fault of a machine, or of a managed model, that is not in the price table."""
    return Fault(file, "training", "no price", "a machine, or a managed model, with a price", str(error))


def margin_note(manifest: Manifest) -> str | None:
    """Whether the test split can show the manifest's margin; None if its size is unknown."""
    rows = manifest.dataset.expected_test_rows
    if rows is None:
        return None
    gates = manifest.gates
    least, given = gates.margin_for(rows), gates.non_inferiority_margin
    about = f"{manifest.name}: a test split of about {rows:,} rows"
    if given is None:
        return f"{about}, so gates.non_inferiority_margin will be about {least:.2g}"
    if given >= least:
        return f"{about} can show the margin of {given:g} (gates.non_inferiority_margin)"
    return (
        f"warning: {about} cannot show gates.non_inferiority_margin {given:g}: most models that are as good "
        f"as the champion would be rejected. Set {least:.2g}, leave the key out, or add test rows"
    )


@dataclass(frozen=True)
class Cost:
    """The estimate of one manifest's training beside its budget. `note`: what the estimate leaves out."""

    system: str
    resources: Resources
    most: Estimate
    note: str | None

    @property
    def left_usd(self) -> float:
        """The budget minus the estimate; negative if the budget is too small."""
        return self.resources.max_cost_usd - self.most.usd

    def as_json(self) -> dict[str, object]:
        """The estimate as `--json` prints it."""
        return {
            "system": self.system,
            "machine_type": self.resources.machine_type,
            "accelerator_type": self.resources.accelerator_type,
            "accelerator_count": self.resources.accelerator_count,
            **asdict(self.most),
            "usd": self.most.usd,
            "budget_usd": self.resources.max_cost_usd,
            "left_usd": self.left_usd,
            "fits": self.left_usd >= 0,
            "note": self.note,
        }


def training_cost(manifest: Manifest) -> Cost:
    """What a training may cost, or a `UsageError` if its machine or its model's tuning has no price."""
    resources = manifest.training.resources
    return Cost(manifest.name, resources, estimate(resources), _tuning_note(manifest))


def _tuning_note(manifest: Manifest) -> str | None:
    """The price of tuning by a service, which comes on top of the machine's."""
    tuning = manifest.training.by_service
    if tuning is None:
        return None
    return (
        f"{manifest.name}: and {tuning_rate(tuning.model):g} USD a million training tokens in each of "
        f"{tuning.epochs} epochs, which are counted, and held to the budget, before tuning begins. "
        f"That price: {tuning_price_source(tuning.model)}."
    )


def cost_table(costs: Sequence[Cost]) -> Table:
    """A row for each factor, their product, the budget and the verdict."""
    columns = (Column(cost.system, justify="right", overflow="fold") for cost in costs)
    table = borderless("training of", *columns)
    for row in zip(*(_rows(cost) for cost in costs), strict=True):
        table.add_row(row[0][0], *(value for _, value in row))
    return table


def _rows(cost: Cost) -> list[tuple[str, str]]:
    resources, most = cost.resources, cost.most
    accelerators = f"{resources.accelerator_count} × {resources.accelerator_type}"
    return [
        ("machine", resources.machine_type),
        ("accelerators", accelerators if resources.accelerator_count else "none"),
        ("USD an hour", f"{most.usd_per_hour:.4f}"),
        ("× hours at most", f"{most.hours:g}"),
        ("× replicas", f"{most.replicas}"),
        ("× attempts", f"{most.attempts}"),
        ("= USD at most", f"{most.usd:.2f}"),
        ("budget, USD", f"{resources.max_cost_usd:.2f}"),
        ("left over, USD", f"{cost.left_usd:.2f}"),
        ("verdict", "fits" if cost.left_usd >= 0 else "over budget"),
    ]
