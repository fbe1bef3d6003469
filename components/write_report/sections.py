"""The sections of the run report, in the order of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from gauntlet.components.train_model.report import imported_section, training_section
from gauntlet.components.validate_data.report import CHECKS
from gauntlet.components.write_report.next_steps import next_steps
from gauntlet.components.write_report.record import (
    REJECT,
    CollectedRun,
    Outcome,
    State,
    StepRecord,
    freshness,
)
from gauntlet.contracts.conversion import Candidate, Candidates, Latency, Reference
from gauntlet.contracts.training import History
from gauntlet.contracts.verdict import PROMOTE
from gauntlet.manifests.kinds import Metric
from gauntlet.pages import charts
from gauntlet.pages.formatting import (
    ABSENT,
    capitalize_first,
    count,
    decimal,
    dollars,
    duration,
    general,
    gigabytes,
    is_figure,
    milliseconds,
    percent,
    times,
    words,
)
from gauntlet.pages.page import NOTHING, Section, partial

TEMPLATE = "gauntlet.components.write_report:report.html.jinja"
STATE_TONES: dict[State, str] = {
    "succeeded": "good",
    "reused": "good",
    "failed": "bad",
    "skipped": "idle",
    "not reached": "idle",
}
CANDIDATE_TONES = {"chosen": "accent", "admitted": "second", "refused": "quiet"}
HOUR = 3600
LINEAGE_TITLES = {
    "manifest_sha256": "Manifest sha256",
    "data_sha256": "Data sha256",
    "training_sha256": "Training section sha256",
    "git_commit": "Gauntlet's commit",
    "manifest_commit": "Manifest's commit",
    "image": "Image",
    "origin": "Trained elsewhere, taken from",
    "origin_sha256": "Sha256 of those files",
    "network": "Network",
    "network_sha256": "Network's code sha256",
    "cpu": "CPU",
    "torch": "PyTorch",
    "onnxruntime": "ONNX Runtime",
}


@dataclass(frozen=True)
class Column:
    """A column that a task kind adds to the table of converted candidates."""

    title: str
    of_candidate: Callable[[Candidate], str]
    of_pytorch: Callable[[Reference], str] = lambda _: ""


@dataclass(frozen=True)
class Entry:
    """A line of the bill. `total` marks the amount to be paid."""

    label: str
    value: str
    remark: str = ""
    total: bool = False


def sections(record: CollectedRun, ended: Outcome, manifest_sha256: str) -> list[Section]:
    """All sections of a run's page; one whose documents are missing says why."""
    trained, advice = record.step("train-model"), next_steps(record, ended)
    found = [
        Section("steps", "The run", _steps(record)),
        Section("next", "What to do next", partial(f"{TEMPLATE}#next", steps=advice)),
        _of_step(record, "fingerprint-data", "Data sources", record.sources, "sources", _sources),
        _of_step(record, "validate-data", "Data", record.statistics, "splits/statistics.json", _data),
        _of_step(record, "train-model", "Training", record.history, "history", _training),
        _of_step(record, "convert-to-onnx", "Conversion", record.candidates, "candidates", _conversion),
        _of_step(record, "evaluate-model", "Evaluation", record.scores, "scores", _evaluation),
        _of_step(record, "gate-model", "Gate", record.verdict, "verdict", _gate),
        _of_step(record, "register-model", "Registry", record.version, "version", _registry),
        _of_step(record, "deploy-model", "Deployment", record.rollout, "rollout", _deployment),
        Section("bill", "Bill", _bill(record), note=_absence(record, trained, record.history, "history")),
        Section("lineage", "Lineage", _lineage(record, manifest_sha256)),
    ]
    return [section for section in found if section is not None]


def bill(history: History) -> tuple[Entry, ...]:
    """What a training cost, and what the machine did for it; what was not measured is left out."""
    return (*_cost(history), *_budget(history), *_machine(history))


def _of_step(
    record: CollectedRun,
    name: str,
    title: str,
    content: object | None,
    document: str,
    describe: Callable[[CollectedRun], Markup],
) -> Section | None:
    """The section of a step that left `content` as its `document`; None if the run's DAG has no such step."""
    if name not in [step.name for step in record.steps]:
        return None
    step = record.step(name)
    caption = f"{name} · {duration(step.duration)}" if step.duration else name
    state = step.state, STATE_TONES[step.state]
    note = _absence(record, step, content, document)
    try:
        body = describe(record)
    except Exception as error:  # whatever a plug-in's section raises must not cost the page
        body, note = NOTHING, Markup("It could not be shown: {}: {}").format(type(error).__name__, error)
    return Section(name, title, body, caption, state, note)


def _absence(record: CollectedRun, step: StepRecord, content: object | None, document: str) -> Markup:
    """Why a section has less than it could; nothing of a step that succeeded and left its document."""
    failed = record.failed_step
    if step.state == "not reached" and failed is None:
        return Markup("Not reached.")
    if step.state == "reused" and step.reused_from:
        return Markup("Not run again: its outputs are those of run <code>{}</code>.").format(step.reused_from)
    if step.state == "succeeded" and content is not None:
        return NOTHING
    reasons = {
        "failed": '<span class="bad toned">It failed here.</span> '
        '<a href="#message">Its message</a> is at the top of the page.',
        "not reached": 'Not reached: <a href="#{failed}">{failed}</a> failed first.',
        "skipped": 'Skipped: <a href="#gate-model">the gate</a> rejected the model.',
        "reused": "Not run again: its result was taken from an earlier run with the same inputs, whose "
        "report has the figures.",
        "succeeded": "It succeeded, but left no readable <code>{document}</code>.",
    }
    return Markup(reasons[step.state]).format(failed=failed and failed.name, document=document)


def _steps(record: CollectedRun) -> Markup:
    decision = (
        record.verdict.decision if record.verdict and record.step("gate-model").state == "succeeded" else None
    )
    branches = [
        (name, "taken" if name == decision else "open" if decision is None else "not taken")
        for name in (PROMOTE, REJECT)
    ]
    return partial(
        f"{TEMPLATE}#steps",
        line=record.steps[:-1],
        register=record.steps[-1],
        branches=branches,
        tones=STATE_TONES,
    )


def _sources(record: CollectedRun) -> Markup:
    if record.sources is None:
        return NOTHING
    files = record.sources.files
    described = Markup('<p class="soft">The data is identified by <code>{}</code>, made of {} file{}.</p>')
    shown = described.format(
        record.sources.fingerprint[:12], count(len(files)), "" if len(files) == 1 else "s"
    )
    news = freshness(record)
    return Markup("<p>{}</p>{}").format(capitalize_first(news), shown) if news else shown


def _data(record: CollectedRun) -> Markup:
    statistics, checks = record.statistics, record.checks
    if statistics is None and checks is None:
        return NOTHING
    return partial(
        f"{TEMPLATE}#data",
        data=statistics,
        described=_of_kind(record, "data", statistics) if statistics else NOTHING,
        resolution=checks.resolution if checks else "",
        checks=partial(CHECKS, checks=checks.checks) if checks and checks.checks else NOTHING,
    )


def _training(record: CollectedRun) -> Markup:
    if record.history is None:
        return NOTHING
    if record.history.origin is not None:
        return imported_section(record.history)
    return training_section(record.history, record.training.encoder if record.training else None)


def _evaluation(record: CollectedRun) -> Markup:
    if record.scores is None:
        return NOTHING
    return _of_kind(record, "evaluation", record.scores)


def _of_kind(record: CollectedRun, name: str, document: object) -> Markup:
    assert record.kind is not None  # or the document could not have been read
    body: Markup = record.kind.function("report", name)(document)
    return body


def _gate(record: CollectedRun) -> Markup:
    if record.verdict is None:
        return NOTHING
    return partial(f"{TEMPLATE}#gate", verdict=record.verdict)


def _registry(record: CollectedRun) -> Markup:
    version = record.version
    if version is None:
        return NOTHING
    pairs = {
        "Model": version.name,
        "Version": version.version,
        "Aliases": ", ".join(version.aliases) or "none",
        "URI": version.uri,
    }
    if version.overruled:
        pairs |= {
            "Promoted by": f"{version.approved_by}, at {version.approved_at}",
            "Reason": version.reason or "",
            "Rules that it failed": ", ".join(version.overruled),
        }
    return partial(f"{TEMPLATE}#pairs", pairs=pairs)


def _deployment(record: CollectedRun) -> Markup:
    rollout = record.rollout
    if rollout is None:
        return NOTHING
    pairs = {"Version": rollout.version, "Ended": rollout.phase, "Because": rollout.why}
    for one in rollout.transitions:
        shares = ", ".join(f"{revision} {share} %" for revision, share in one.weights.items())
        said = f"{one.phase}: {one.why}" + (f" ({shares})" if shares else "")
        pairs[f"{one.at[:19]} UTC"] = "; ".join(filter(None, (pairs.get(f"{one.at[:19]} UTC"), said)))
    return partial(f"{TEMPLATE}#pairs", pairs=pairs)


def _conversion(record: CollectedRun) -> Markup:
    table = record.candidates
    if table is None:
        return NOTHING
    return partial(
        f"{TEMPLATE}#conversion",
        table=table,
        columns=record.kind.function("report", "CANDIDATE_COLUMNS") if record.kind else (),
        panels=latency_panels(table),
        pareto=pareto(table, record.kind.metrics) if record.kind else NOTHING,
    )


def latency_panels(table: Candidates) -> dict[int, Markup]:
    """A chart of all candidates and PyTorch for each batch size that anything was timed at."""
    timed = [*table.pytorch.latency_ms.values(), *(one.latency_ms or {} for one in table.candidates)]
    panels = {}
    for size in sorted({size for latencies in timed for size in latencies}):
        rows = [
            _bar(f"PyTorch, {mode}", latencies.get(size), None, "quiet")
            for mode, latencies in table.pytorch.latency_ms.items()
        ]
        rows += [
            _bar(one.name, (one.latency_ms or {}).get(size), (one.speedup or {}).get(size), _tone(one, table))
            for one in table.candidates
        ]
        panels[size] = charts.bars(f"Latency of a batch of {size}", [row for row in rows if row is not None])
    return {size: chart for size, chart in panels.items() if chart}


def pareto(table: Candidates, metrics: Sequence[Metric]) -> Markup:
    """Quality against latency at the batch size that decides; empty if fewer than two models were timed.

    Quality is the first of the `metrics` that PyTorch was measured by.
    """
    metric = next((one for one in metrics if is_figure(table.pytorch.figures.get(one.name))), None)
    if metric is None:
        return NOTHING
    size = table.objective_batch_size or 0
    models: list[tuple[str, Latency | None, float | None, str]] = [
        (f"PyTorch, {mode}", latencies.get(size), table.pytorch.figures[metric.name], "quiet")
        for mode, latencies in table.pytorch.latency_ms.items()
    ]
    models += [
        (
            one.name if one.admitted else f"{one.name}, refused",
            (one.latency_ms or {}).get(size),
            one.figures.get(metric.name),
            _tone(one, table),
        )
        for one in table.candidates
    ]
    marks = [
        charts.Mark(name, latency.median, quality, tone, name in (table.pareto_front or ()))
        for name, latency, quality, tone in models
        if latency and is_figure(latency.median) and is_figure(quality)
    ]
    title = f"Quality against latency, batch of {size}"
    quality = metric.title if metric.better == "higher" else f"{metric.title}, lower is better"
    return charts.scatter(title, "milliseconds, median", quality, marks) if len(marks) > 1 else NOTHING


def _bar(name: str, latency: Latency | None, speedup: float | None, tone: str) -> charts.Bar | None:
    if latency is None or not is_figure(latency.median):
        return None
    label = milliseconds(latency.median) + (f" · {times(speedup)}" if is_figure(speedup) else "")
    return charts.Bar(
        name, latency.median, latency.p99 if is_figure(latency.p99) else latency.median, label, tone
    )


def _tone(candidate: Candidate, table: Candidates) -> str:
    role = "chosen" if candidate.name == table.chosen else "admitted" if candidate.admitted else "refused"
    return CANDIDATE_TONES[role]


def _bill(record: CollectedRun) -> Markup:
    if record.history is None:
        return NOTHING
    if record.history.origin is not None:
        return Markup(
            '<p class="soft">The model was trained elsewhere, so nothing was bought for it here.</p>'
        )
    return partial(
        f"{TEMPLATE}#bill",
        history=record.history,
        local="://" not in record.pipeline_root,
        bill=bill(record.history),
    )


def _cost(history: History) -> Iterator[Entry]:
    yield Entry("Machine", history.machine or ABSENT, "the one that the manifest buys")
    rate = f"${decimal(history.usd_per_hour, 4)}" if is_figure(history.usd_per_hour) else ABSENT
    yield Entry("Price of an hour", rate, "list price")
    yield Entry("Time", duration(history.seconds), "training and validation, across interruptions")
    how = "time × price"
    if history.training_tokens is not None:
        yield Entry("Tokens", count(history.training_tokens), "of all epochs")
        million = dollars(history.usd_per_million_tokens)
        yield Entry("Price of a million tokens", million, "list price of tuning")
        how = "tokens × price, and the time of the machine that waited"
    yield Entry("Cost", dollars(history.cost_usd), how, total=True)


def _budget(history: History) -> Iterator[Entry]:
    hours = history.seconds / HOUR if is_figure(history.seconds) else None
    for label, used, limit, unit in (
        ("Hours used", hours, history.max_hours, f"of {general(history.max_hours)} h"),
        ("Budget used", history.cost_usd, history.max_cost_usd, f"of {dollars(history.max_cost_usd)}"),
    ):
        if is_figure(limit):
            yield Entry(label, percent(used / limit if is_figure(used) else None), unit)
    yield Entry("Ended with", history.stopped or ABSENT)


def _machine(history: History) -> Iterator[Entry]:
    usage = history.usage
    entries = (
        ("Examples per second", usage.examples_per_second, count, "mean over all optimizer steps"),
        ("CPU utilisation", usage.cpu_utilisation, percent, "mean, of the CPUs that it might use"),
        ("Waited for a CPU", usage.cpu_wait, percent, "mean share of its threads' time, while others ran"),
        ("Peak memory", usage.peak_memory_gb, gigabytes, "resident, of all its processes"),
        ("GPU utilisation", usage.gpu_utilisation, percent, "mean, share of the time that a kernel ran"),
        ("Peak GPU memory", usage.peak_gpu_memory_gb, gigabytes, "reserved by torch"),
    )
    for label, figure, shown, remark in entries:
        if is_figure(figure):
            yield Entry(label, shown(figure), remark)


def _lineage(record: CollectedRun, manifest_sha256: str) -> Markup:
    pairs = {name: value for name, value in lineage(record, manifest_sha256).items() if value}
    listed = partial(f"{TEMPLATE}#pairs", pairs=pairs)
    return partial(f"{TEMPLATE}#lineage", record=record, pairs=listed, tones=STATE_TONES)


def lineage(record: CollectedRun, manifest_sha256: str) -> dict[str, str | None]:
    """What the result was made from: every hash, commit, image and version that the run has recorded."""
    found: dict[str, str | None] = {"Manifest sha256": manifest_sha256}
    if record.statistics is not None:
        data = record.statistics
        found["Data"] = f"{data.name} {data.version}"
        found["Data sha256"] = data.sha256
        found["Data commit"] = data.commit_hash
        found["Data created"] = data.created
    if record.sources is not None:
        found["Data fingerprint"] = record.sources.fingerprint
    if record.training is not None:
        found["Encoder"] = record.training.encoder
        is_ours = record.training.seed is not None and record.training.training_sha256
        found["Seed"] = str(record.training.seed) if is_ours else None
        found["Training section sha256"] = record.training.training_sha256
    if record.bundle is not None:
        for key, value in record.bundle.lineage.items():
            found.setdefault(LINEAGE_TITLES.get(key, words(key).capitalize()), value)
        found["Opset"] = None if record.bundle.opset is None else str(record.bundle.opset)
        found |= {f"{name} sha256": sha256 for name, sha256 in record.bundle.files.items()}
    if record.version is not None:
        found["Registered as"] = f"{record.version.name} version {record.version.version}"
        found["Bundle sha256"] = record.version.bundle_sha256
    return found | {"Job": record.job, "Pipeline root": record.pipeline_root}
