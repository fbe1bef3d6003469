"""Fine-tuning by the vendor: converts the splits, estimates the cost first, and starts at most one job."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from gauntlet.backends import storage
from gauntlet.backends.google.gemini import Gemini, TuningJob, TuningRequest
from gauntlet.backends.google.location import SCHEME, VertexLocation
from gauntlet.backends.prices import estimate, hourly_rate, tuning_rate
from gauntlet.components.step import manifest_commit
from gauntlet.components.training_rows import bundled_file
from gauntlet.contracts.document import write_json
from gauntlet.contracts.training import History
from gauntlet.manifests.errors import GauntletError, Preempted, UsageError
from gauntlet.manifests.schema import canonical_json
from gauntlet.serving.bundle import BundleInfo, write_bundle
from gauntlet.tasks.managed_causal_lm import KIND
from gauntlet.tasks.managed_causal_lm.manifest import ManagedTraining
from gauntlet.tasks.managed_causal_lm.serving import ENDPOINT_FILE
from gauntlet.trainer.process import noticing_sigterm
from gauntlet.trainer.splits import read_split, read_statistics

MILLION = 1_000_000
MOST_VALIDATION_ROWS = 5_000  # the vendor's limit
TRAINING_FILE, VALIDATION_FILE = "train.jsonl", "validation.jsonl"
SECONDS_BETWEEN_LOOKS = 30.0
SECONDS_BETWEEN_LINES = 300.0  # of progress while the job's state does not change
SECONDS_OF_A_SLEEP = 0.2  # between two checks for a signal
CONVERTED = "nothing: the vendor serves the model that it tuned"


@dataclass(frozen=True)
class Bill:
    """The maximum cost of a tuning job, factor by factor."""

    tokens: int
    epochs: int
    usd_per_million: float
    machine_usd: float

    @property
    def usd(self) -> float:
        """Tokens × epochs × price, plus the machine that waits until the deadline."""
        return self.tokens * self.epochs * self.usd_per_million / MILLION + self.machine_usd

    def __str__(self) -> str:
        return (
            f"{self.tokens:,} tokens × {self.epochs} epochs × {self.usd_per_million:g} USD a million + "
            f"{self.machine_usd:.2f} USD for the machine that waits = {self.usd:.2f} USD"
        )


def train(
    section: ManagedTraining,
    name: str,
    manifest_sha256: str,
    place_uri: str,
    splits: Path,
    bundle: Path,
    candidates: Path,
    history: Path,
) -> dict[str, float]:
    """Tune the model, and write the bundle that names its endpoint; return time, cost and tokens.

    After a crash the next call finds the job that this one made. A job that SIGTERM cancelled is not resumed:
    the next call starts, and pays for, another one.

    Raises:
        UsageError: `place_uri` has no project, location and bucket, the job would exceed the budget, or the
            vendor refuses the model or the rows.
        GauntletError: The job takes longer than `max_hours`, or fails.
        Preempted: SIGTERM came; the job was cancelled.
    """
    place = place_of(place_uri)
    gemini = Gemini(place)
    lines = {split: examples(read_split(splits, split)) for split in ("train", "validation")}
    lines["validation"] = lines["validation"][:MOST_VALIDATION_ROWS]
    tokens = gemini.count_tokens(section.model, lines["train"])
    bill = affordable(section, tokens)
    print(f"tuning costs at most {bill}; the budget is {section.resources.max_cost_usd:g} USD", flush=True)
    request = tuning_request(section, name, place, lines)
    upload(lines, request)
    began = time.monotonic()
    with noticing_sigterm() as ended:
        job = follow(gemini, gemini.ensure_job(request), section.resources.max_hours * 3600, ended)
    seconds = job.seconds or time.monotonic() - began
    document = _history(section, bill, job, seconds).as_json()
    write_json(history, document)
    write_json(candidates, {"candidates": [], "converted": CONVERTED, "endpoint": job.endpoint})
    _write_bundle(bundle, section, name, manifest_sha256, splits, place, job)
    return {key: document[key] for key in ("seconds", "cost_usd", "training_tokens")}


def place_of(uri: str) -> VertexLocation:
    """Where the job is to run, and the bucket that gets the rows; a `UsageError` if the URI does not say."""
    place = VertexLocation.of(uri) if uri.startswith(SCHEME) else None
    if place is None or place.staging is None:
        raise UsageError(
            f"tracking URI: found {uri!r}, expected {SCHEME}PROJECT/REGION?staging=gs://BUCKET/FOLDER, as "
            "a managed model is tuned on Vertex AI. On this machine set GAUNTLET_PROJECT, GAUNTLET_REGION "
            "and GAUNTLET_ROOT."
        )
    return place


def examples(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a split as the vendor's examples: the conversation, and the model's answer."""
    found = []
    for prompt, target in zip(frame["prompt"], frame["target"], strict=True):
        example = json.loads(prompt)
        example["contents"] = [*example["contents"], {"role": "model", "parts": [{"text": target}]}]
        found.append(example)
    return found


def affordable(section: ManagedTraining, tokens: int) -> Bill:
    """The maximum cost of tuning on this many tokens; a `UsageError` if it exceeds the budget."""
    resources = section.resources
    bill = Bill(tokens, section.epochs, tuning_rate(section.model), estimate(resources).usd)
    if bill.usd > resources.max_cost_usd:
        raise UsageError(
            f"training.resources.max_cost_usd: found {resources.max_cost_usd:g}, expected at least "
            f"{bill.usd:.2f}, as tuning may cost {bill}. No job was made: raise it, lower training.epochs, "
            "or give fewer rows."
        )
    return bill


def tuning_request(
    section: ManagedTraining,
    name: str,
    place: VertexLocation,
    lines: Mapping[str, Sequence[Mapping[str, Any]]],
) -> TuningRequest:
    """The request for the job. Its rows are in a folder named by a hash of the settings and the rows."""
    settings = section.model_dump(mode="json", exclude={"resources"})
    content = json.dumps([name, settings, lines], sort_keys=True, ensure_ascii=False)
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    assert place.staging is not None
    folder = storage.join(place.staging, f"tuning/{name}/{sha256[:32]}")
    return TuningRequest(
        model=section.model,
        name=name,
        training_uri=storage.join(folder, TRAINING_FILE),
        validation_uri=storage.join(folder, VALIDATION_FILE),
        epochs=section.epochs,
        learning_rate_multiplier=section.learning_rate_multiplier,
        adapter_size=section.adapter_size,
        content=sha256,
    )


def upload(lines: Mapping[str, Sequence[Mapping[str, Any]]], request: TuningRequest) -> None:
    """Upload both files to the bucket. Idempotent, since the same rows have the same folder."""
    with tempfile.TemporaryDirectory(prefix="gauntlet-tuning-") as scratch:
        folder = Path(scratch)
        for file, split in ((TRAINING_FILE, "train"), (VALIDATION_FILE, "validation")):
            text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines[split])
            (folder / file).write_text(text, encoding="utf-8")
        storage.upload(folder, request.training_uri.rpartition("/")[0])


def follow(gemini: Gemini, job: TuningJob, most_seconds: float, ended: Callable[[], bool]) -> TuningJob:
    """Poll a job, again after a failed poll, until it has succeeded.

    Raises:
        GauntletError: The job failed, or time is up and the job was cancelled.
        Preempted: `ended` returned True, and the job was cancelled.
    """
    began, told, printed = time.monotonic(), "", 0.0
    while not job.has_succeeded:
        seconds = time.monotonic() - began
        if job.state != told or seconds - printed >= SECONDS_BETWEEN_LINES:
            told, printed = job.state, seconds
            print(f"{job.name}: {told} after {seconds:.0f} s", flush=True)
        if job.has_failed:
            reason = job.error or "the service says no more"
            raise GauntletError(f"{job.name}: {told}: {reason}. Correct what it names, then run again.")
        if seconds > most_seconds:
            raise GauntletError(
                f"{job.name}: not done after {most_seconds / 3600:g} h, so {_cancel(gemini, job)}. "
                "training.resources.max_hours is the limit; what it has used until then is billed."
            )
        if _sleep(SECONDS_BETWEEN_LOOKS, ended):
            raise Preempted(f"{job.name}: the step was told to end, so {_cancel(gemini, job)}.")
        job = _looked_at(gemini, job)
    if job.endpoint is None:
        raise GauntletError(f"{job.name}: {job.state}, but it names no endpoint. See it on the console.")
    print(f"{job.name}: {job.state}, answers at {job.endpoint}", flush=True)
    return job


def _cancel(gemini: Gemini, job: TuningJob) -> str:
    try:
        gemini.cancel(job.name)
    except GauntletError as error:
        return (
            f"it should be cancelled, but could not be ({error}): cancel it on the console, as it costs money"
        )
    return "it was cancelled"


def _looked_at(gemini: Gemini, job: TuningJob) -> TuningJob:
    try:
        return gemini.job(job.name)
    except UsageError:
        raise
    except GauntletError as error:
        print(f"warning: {error}", flush=True)
        return job


def _sleep(seconds: float, ended: Callable[[], bool]) -> bool:
    """Wait; return True as soon as `ended` does."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not ended():
        time.sleep(SECONDS_OF_A_SLEEP)
    return ended()


def _history(section: ManagedTraining, bill: Bill, job: TuningJob, seconds: float) -> History:
    tokens = job.billed_tokens or bill.tokens
    rate = hourly_rate(section.resources)
    return History(
        epochs=[],
        stopped="all epochs done",
        seconds=seconds,
        device=section.model,
        host=platform.node(),
        machine=section.resources.machine_type,
        usd_per_hour=rate,
        training_tokens=tokens * section.epochs,
        usd_per_million_tokens=bill.usd_per_million,
        cost_usd=tokens * section.epochs * bill.usd_per_million / MILLION + seconds / 3600 * rate,
        max_hours=section.resources.max_hours,
        max_cost_usd=section.resources.max_cost_usd,
        tuning_job=job.name,
    )


def _write_bundle(
    folder: Path,
    section: ManagedTraining,
    name: str,
    manifest_sha256: str,
    splits: Path,
    place: VertexLocation,
    job: TuningJob,
) -> None:
    endpoint = {
        "project": place.project,
        "location": place.region,
        "base_model": section.model,
        "tuning_job": job.name,
        "endpoint": job.endpoint,
    }
    info = BundleInfo(
        name=name,
        task=KIND.name,
        labels=(),
        inputs=(),
        outputs=(),
        opset=0,
        candidate="managed",
        precision="the vendor's own",
        quality={},
        latency_ms={},
        speedup={},
        lineage={
            "encoder": section.model,
            "manifest_sha256": manifest_sha256,
            "data_sha256": read_statistics(splits).sha256,
            "training_sha256": hashlib.sha256(canonical_json(section).encode()).hexdigest(),
            "git_commit": os.environ.get("GAUNTLET_GIT_COMMIT", "unknown"),
            **manifest_commit(),
            "image": os.environ.get("GAUNTLET_IMAGE", "unknown"),
        },
    )
    with tempfile.TemporaryDirectory(prefix="gauntlet-bundle-") as scratch:
        path = Path(scratch) / ENDPOINT_FILE
        write_json(path, endpoint)
        write_bundle(folder, info, {ENDPOINT_FILE: path, **bundled_file(splits)})
