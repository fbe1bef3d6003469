"""Judge a collected window against the champion's baseline, with what the windows before have shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from gauntlet.backends.factory import bundle_folder, open_registry
from gauntlet.backends.registry import ModelVersion, with_number
from gauntlet.components.collect_window.labels import newest_labels
from gauntlet.components.collect_window.run import ALARM_FILE, LABELLED_FILE, ROWS_FOLDER, WINDOW_FILE
from gauntlet.components.detect_drift.counts import LabelledRows, Window, count_rows
from gauntlet.components.detect_drift.decision import Rules
from gauntlet.components.detect_drift.harm import detect_harm, upper_error, upper_mean
from gauntlet.components.detect_drift.labelling import UNCERTAIN, write_rows_to_label
from gauntlet.components.detect_drift.paired import Floats, compared, predictions
from gauntlet.components.detect_drift.reference import (
    FEWEST_LABELS,
    Reference,
    bundle_reference,
    log_reference,
    losses_of,
)
from gauntlet.components.detect_drift.report import drift_page
from gauntlet.components.detect_drift.rows import Parts
from gauntlet.components.detect_drift.run import History, Settings, detect
from gauntlet.contracts.document import write_text
from gauntlet.contracts.drift import Cost, DriftRecord, Harm, Paired
from gauntlet.contracts.monitoring import CollectedWindow
from gauntlet.manifests.errors import DataError
from gauntlet.manifests.monitoring import Monitoring

SURE = 0.95
"""The confidence with which the rows of one window must keep the promise, so that an episode ends."""
DRIFT_FILE, PAGE_FILE, TO_LABEL_FILE = "drift.json", "drift.html", "to_label.parquet"


def run(
    monitoring: Monitoring, registry_uri: str, max_cost_usd: float, window_folder: Path, folder: Path
) -> DriftRecord:
    """Write what was found to a folder: `drift.json`, its page and, if labels are needed, rows to label.

    Raises:
        DataError: There is nothing to compare with, or rows or labels are broken.
    """
    window = CollectedWindow.read(window_folder / WINDOW_FILE)
    labelled = parquet.read_table(window_folder / LABELLED_FILE)
    version = with_number(window.model, open_registry(registry_uri).versions(window.model), window.version)
    folder.mkdir(parents=True, exist_ok=True)
    rows, settings = window_folder / ROWS_FOLDER, settings_of(monitoring)
    with bundle_folder(version) as bundle:
        reference = _reference(monitoring, bundle)
        case = _Case(window, reference, settings, registry_uri)
        counted = None
        if not window.files:
            record = _without_rows(window, monitoring)
        else:
            edges, bound = reference.arrays.edges, reference.baseline.energy_bound
            counted = count_rows(rows, Parts.below(rows), edges, bound)
            series = case.series(labelled)
            keeps = case.keeps_promise(series)
            if keeps:  # what was before has ended: the detector starts again with this window
                series = case.of_window(series)
            counted = replace(counted, labelled=_rows_of(series) if series.num_rows else None)
            history = History(
                windows_changed=window.windows_changed,
                previous=partial(case.paired, series),
                cost=partial(case.cost, counted, series, monitoring.value_per_error_usd, max_cost_usd),
            )
            record = detect(reference, counted, settings, history)
            record = record.model_copy(update={"keeps_promise": keeps})
        record = record.model_copy(update=case.rescored(window_folder, bundle))
    if record.outcome == "label":
        events = labelled["event_id"].to_pylist()
        write_rows_to_label(rows, events, monitoring.label_rows, folder / TO_LABEL_FILE)
    record.write(folder / DRIFT_FILE)
    write_text(folder / PAGE_FILE, drift_page(record, reference, counted))
    return record


def settings_of(monitoring: Monitoring) -> Settings:
    """The manifest's settings."""
    rules = Rules(
        monitoring.min_rows,
        monitoring.min_new_rows,
        monitoring.min_class_rows,
        retrains_on_estimate=monitoring.retrain_on == "estimate",
    )
    return Settings(monitoring.alpha, monitoring.tolerance, run_length=monitoring.run_length, rules=rules)


def _without_rows(window: CollectedWindow, monitoring: Monitoring) -> DriftRecord:
    """The record of a window without a file: nobody asked, or the log is not where the manifest says."""
    return DriftRecord(
        model=window.model,
        bundle=window.bundle_sha256[:12],
        start=window.start,
        end=window.end,
        rows=0,
        reference_rows=0,
        alpha=monitoring.alpha,
        tolerance=monitoring.tolerance,
        outcome="too little",
        reason=f"{monitoring.log} has no row of version {window.version} in the window",
        next_step="If the model was asked, look whether the server's --request-log is this folder.",
        families={},
    )


def _reference(monitoring: Monitoring, bundle: Path) -> Reference:
    """The bundle's baseline, or the manifest's reference rows with what the bundle promises."""
    if monitoring.reference is None:
        return bundle_reference(bundle)
    place = Path(monitoring.reference.removeprefix("file://"))
    labels = newest_labels(monitoring.labels) if monitoring.labels else None
    given = labels and dict(zip(labels["event_id"].to_pylist(), labels["label"].to_pylist(), strict=True))
    known = log_reference(place, Parts.below(place), given)
    try:
        return known.with_promise_of(bundle_reference(bundle))
    except DataError:  # a bundle of an older release has no baseline
        return known


def _rows_of(table: pa.Table) -> LabelledRows:
    return LabelledRows(
        events=table["event_id"].to_pylist(),
        predicted=[str(one) for one in table["predicted"].to_pylist()],
        labels=table["label"].to_pylist(),
        probabilities=None,
    )


@dataclass(frozen=True)
class _Case:
    """A window with its reference."""

    window: CollectedWindow
    reference: Reference
    settings: Settings
    registry_uri: str

    @property
    def _bound(self) -> float:
        promise = self.reference.baseline.promise
        return 1.0 if promise is None else min(promise.upper + self.settings.margin, 0.99)

    def _losses(self, predicted: Sequence[str], labels: Sequence[str]) -> Floats:
        promise = self.reference.baseline.promise
        rows = LabelledRows([], [str(one) for one in predicted], labels, None)
        return losses_of(rows, None if promise is None else promise.span)

    def series(self, labelled: pa.Table) -> pa.Table:
        """The rows that harm is judged by: drawn uniformly, since the detector was started."""
        kept = labelled.filter(pc.not_equal(pc.fill_null(labelled["source"], ""), UNCERTAIN))
        if self.window.harm_since:
            since = pa.scalar(datetime.fromisoformat(self.window.harm_since), labelled["time"].type)
            kept = kept.filter(pc.greater_equal(kept["time"], since))
        return kept

    def of_window(self, table: pa.Table) -> pa.Table:
        """Those of the window itself."""
        start = pa.scalar(datetime.fromisoformat(self.window.start), table["time"].type)
        return table.filter(pc.greater_equal(table["time"], start))

    def keeps_promise(self, series: pa.Table) -> bool | None:
        """Whether the window's own labelled rows show a loss below the bound; None if they are too few."""
        rows = self.of_window(series)
        promise = self.reference.baseline.promise
        if promise is None or rows.num_rows < FEWEST_LABELS:
            return None
        losses = self._losses(rows["predicted"].to_pylist(), rows["label"].to_pylist())
        is_class = promise.loss == "wrong"
        errors, rows_seen = int(losses.sum()), len(losses)
        upper = upper_error(errors, rows_seen, SURE) if is_class else upper_mean(losses, SURE)
        return upper <= self._bound

    def paired(self, series: pa.Table) -> Paired | None:
        """The version before on the rows that it answered too, or can answer now; None off probation."""
        if not self.window.previous_version:
            return None
        answered = series.filter(pc.is_valid(series["other"]))
        if answered.num_rows:
            others = answered["other"].to_pylist()
        else:
            answered = series.filter(pc.is_valid(series["input"]))
            if not answered.num_rows:
                return None
            with bundle_folder(self._version(self.window.previous_version)) as bundle:
                others = predictions(bundle, answered["input"].to_pylist())
        labels = answered["label"].to_pylist()
        ours = self._losses(answered["predicted"].to_pylist(), labels)
        return compared(self.window.previous_version, ours, self._losses(others, labels))

    def cost(
        self,
        counted: Window,
        series: pa.Table,
        value_per_error_usd: float | None,
        max_cost_usd: float,
        harm: Harm,
    ) -> Cost | None:
        """What the errors above the promise have cost since they began, at the window's rate of requests."""
        if value_per_error_usd is None or harm.since is None:
            return None
        at = series["event_id"].to_pylist().index(harm.since)
        rows = series.slice(at)
        losses = self._losses(rows["predicted"].to_pylist(), rows["label"].to_pylist())
        since = rows["time"][0].as_py()
        start, end = (datetime.fromisoformat(one) for one in (self.window.start, self.window.end))
        rate = counted.rows / min(counted.sample_rates) / (end - start).total_seconds()
        errors = max(0.0, float(losses.mean()) - harm.promised) * rate * (end - since).total_seconds()
        return Cost(
            errors=errors,
            since=since.isoformat(),
            spent_usd=errors * value_per_error_usd,
            retraining_usd=max_cost_usd,
        )

    def rescored(self, window_folder: Path, bundle: Path) -> dict[str, object]:
        """This version on the window that its training was asked for, where the log stores the rows.

        It has learnt from some of them, so this can only be too kind: an alarm that stays is one.
        """
        if not self.window.alarm_version:
            return {}
        rows = parquet.read_table(window_folder / ALARM_FILE)
        rows = rows.filter(pc.is_valid(rows["input"]))
        if not rows.num_rows:
            return {}
        labels = rows["label"].to_pylist()
        losses = self._losses(predictions(bundle, rows["input"].to_pylist()), labels)
        before = self._losses(rows["predicted"].to_pylist(), labels)
        alarm = detect_harm(losses, self._bound, self.settings.run_length)
        paired = compared(self.window.alarm_version, losses, before)
        return {"rescored": paired, "rescored_keeps_promise": alarm.row is None}

    def _version(self, number: str) -> ModelVersion:
        registry = open_registry(self.registry_uri)
        return with_number(self.window.model, registry.versions(self.window.model), number)
