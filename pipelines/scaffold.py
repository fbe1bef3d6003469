"""`gauntlet new`: a manifest for data, proposed by the task kinds that the data suit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from gauntlet.backends import storage
from gauntlet.contracts.data import Checks
from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.kinds import kinds, task_kind
from gauntlet.manifests.proposal import Proposal, as_manifest

ROLE_FUNCTION = "propose"


@dataclass(frozen=True)
class Proposed:
    """The kind's proposal that was taken, and the other kinds that the data suit, best first."""

    task: str
    proposal: Proposal
    others: tuple[tuple[str, Proposal], ...] = ()


def propose(uri: str, task: str | None) -> Proposed:
    """Ask each kind that can propose a manifest, or only the kind `task`.

    Raises:
        DataError: The data are damaged, or hold no rows.
        UsageError: There is nothing at the URI, or it suits no kind that can say so.
    """
    asked = [task_kind(task)] if task else list(kinds().values())
    able = {one.name: ask for one in asked if (ask := getattr(one.role("data"), ROLE_FUNCTION, None))}
    if not able:
        known = ", ".join(each.name for each in kinds().values() if hasattr(each.role("data"), ROLE_FUNCTION))
        raise UsageError(f"--task: found {task}, expected one that can propose a manifest: {known}")
    found = {name: proposal for name, ask in able.items() if (proposal := ask(uri)) is not None}
    if not found:
        raise UsageError(
            f"{uri}: found nothing that suits {', '.join(able)}. Expected a table with a column of texts and "
            "one of classes, labels or numbers; images in a folder for each class, or a table of paths; "
            "or conversations. Write the manifest by hand: README.md, and docs/how-to"
        )
    (best, proposal), *others = sorted(found.items(), key=lambda item: -item[1].fit)
    return Proposed(best, proposal, tuple(others))


def manifest_text(name: str, uri: str, file: Path, proposed: Proposed, description: str | None) -> str:
    """The manifest for `file`. A path below the manifest's folder is relative to it."""
    here, comments = storage.local_path(uri), dict(proposed.proposal.comments)
    if here is not None:
        folder, path = file.resolve().parent, here.resolve()
        is_below = path.is_relative_to(folder)
        uri = str(path.relative_to(folder) if is_below else path)
        if is_below:
            comments["dataset.uri"] = "relative to this file"
    proposal = proposed.proposal
    dataset = {"name": name, "version": "1", "uri": uri, **proposal.sections.get("dataset", {})}
    proposal = replace(proposal, sections={**proposal.sections, "dataset": dataset}, comments=comments)
    head = [f"# Proposed by `gauntlet new`: {proposal.why}."]
    head += [f"# It could be `task: {task}` too: {other.why}." for task, other in proposed.others]
    body = as_manifest(name, proposed.task, description or "Say here what the system is for", proposal)
    return "\n".join(head) + "\n" + body


def add_bounds(file: Path, checks: Checks) -> bool:
    """Append to a manifest, as comments, the settings by which failed checks pass; whether there are any."""
    settings = {key: value for check in checks.checks for key, value in check.settings.items()}
    if not settings:
        return False
    nested: dict[str, object] = {}
    for key, value in settings.items():
        *sections, last = key.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})  # type: ignore[assignment]
        inner[last] = value
    lines = yaml.safe_dump(nested, sort_keys=False, allow_unicode=True).splitlines()
    about = "# Checks fail on these data. Correct the data, or accept them as they are by merging this:"
    with file.open("a", encoding="utf-8") as manifest:
        manifest.write("\n".join(["", about, *(f"# {line}" for line in lines)]) + "\n")
    return True
