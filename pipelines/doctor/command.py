"""The command `gauntlet doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from gauntlet.backends.google.rest import Rest
from gauntlet.manifests.errors import GauntletError
from gauntlet.pipelines.doctor.examination import Examination, Finding
from gauntlet.pipelines.doctor.needs import needs
from gauntlet.pipelines.terminal import NAME_COLUMN, console, plain

COLOURS = {"ok": "green", "missing": "red", "not seen": "yellow"}


def doctor(
    project: Annotated[str, typer.Option(help="Id of the Google Cloud project.")],
    region: Annotated[str, typer.Option(help="Region of pipelines, such as europe-west4.")],
) -> None:
    """Report what a Google Cloud project lacks, line by line with what to do; nothing is changed."""
    findings = list(Examination(Rest(), needs(), project, region).findings())
    _print(findings)
    missing, unseen = (sum(each.state == state for each in findings) for state in ("missing", "not seen"))
    if missing:
        raise GauntletError(
            f"{project}: {missing} of {len(findings)} needs missing, {unseen} not seen. Do what is listed, "
            "or all of it by `terraform -chdir=infra apply`."
        )
    console.print(f"{project}: nothing missing of {len(findings)} needs, {unseen} not seen", highlight=False)


def _print(findings: Sequence[Finding]) -> None:
    """A table whose last column numbers what is listed below it, once each and on one line, to be copied."""
    actions = list(dict.fromkeys(each.action for each in findings if each.action))
    table = Table("", NAME_COLUMN("need"), "state", "to do", box=None, pad_edge=False)
    for each in findings:
        number = str(actions.index(each.action) + 1) if each.action else ""
        table.add_row(each.group, plain(each.need), Text(each.state, COLOURS[each.state]), number)
    console.print(table)
    for place, action in enumerate(actions, start=1):
        console.print(f"{place:3}  {plain(action)}", soft_wrap=True, highlight=False)
