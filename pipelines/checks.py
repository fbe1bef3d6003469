"""What is checked before a manifest is run: its data and models, and what it may cost."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from gauntlet import manifests
from gauntlet.backends.prices import over_budget, tuning_rate
from gauntlet.manifests.errors import Fault, ManifestError, UsageError
from gauntlet.manifests.loading import load_manifest
from gauntlet.manifests.schema import Manifest


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
    uri, named = manifest.dataset.uri, manifest.dataset.named_files
    if "://" in uri:
        return
    files = [Path(uri) / name for name in named] if Path(uri).exists() else [Path(uri)]
    missing = [file for file in files if not file.exists()]
    if missing:
        key = "dataset.files" if Path(uri).exists() else "dataset.uri"
        action = f"Correct it, or --set {key}=…"
        raise ManifestError(
            [Fault(str(path), key, str(file), "a file or folder that exists", action) for file in missing]
        )


def load_affordable(path: Path, overrides: Sequence[str] | None) -> Manifest:
    """A valid manifest whose most expensive run fits its own budget.

    Raises:
        ManifestError: It is not valid, does not fit, or asks for a machine without a price.
    """
    manifest = load_manifest(path, overrides or ())
    require_affordable(manifest, str(path))
    return manifest


def require_affordable(manifest: Manifest, file: str) -> None:
    """Refuse a manifest whose most expensive run does not fit its own budget.

    Raises:
        ManifestError: It does not fit, or asks for a machine without a price.
    """
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
    """Whether the test split can show the manifest's margin; None if its size is not known yet."""
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
