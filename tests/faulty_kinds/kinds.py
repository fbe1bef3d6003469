"""Task kinds whose servers are faulty."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gauntlet.tasks.text_classification import KIND

CRASHING = replace(KIND, name="crashing_text", serving="tests.faulty_kinds.crashing")
LEAKING = replace(KIND, name="leaking_text", serving="tests.faulty_kinds.leaking")


def install(site: Path) -> Path:
    """Announce the kinds by a distribution in a folder, which is to be on the module path."""
    info = site / "faulty_kinds-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-kinds\nVersion: 1.0\n")
    points = [
        f"{one.name} = {__name__}:{kind}" for kind, one in (("CRASHING", CRASHING), ("LEAKING", LEAKING))
    ]
    (info / "entry_points.txt").write_text("\n".join(["[gauntlet.tasks]", *points, ""]))
    return site
