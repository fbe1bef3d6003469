"""Reads what a run left, and writes the page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gauntlet.components.step import write_text
from gauntlet.components.write_report.collect import Artifact, collect, collect_artifacts
from gauntlet.components.write_report.outcome import Outcome, outcome
from gauntlet.components.write_report.record import FinalStatus
from gauntlet.components.write_report.render import render


def write_report(
    name: str,
    manifest_sha256: str,
    run_id: str,
    pipeline_root: str,
    job: str,
    final: FinalStatus,
    report: Path,
) -> Outcome:
    """Write the page of the run to `report`, whole or not at all, and return how the run ended.

    Raises:
        OSError: `pipeline_root` cannot be listed, or `report` cannot be written.
    """
    record = collect(pipeline_root, job, final)
    write_text(report, render(record, name, run_id, manifest_sha256))
    return outcome(record)


def write_page(
    name: str,
    manifest_sha256: str,
    run_id: str,
    artifacts: Mapping[str, Mapping[str, Artifact]],
    report: Path,
) -> Outcome:
    """Write the page of a run that has reached its gate, whole or not at all, and return how the run ended.

    Raises:
        OSError: `report` cannot be written.
    """
    record = collect_artifacts(artifacts, run_id)
    write_text(report, render(record, name, run_id, manifest_sha256))
    return outcome(record)
