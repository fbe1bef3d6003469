"""Gemini on Vertex AI through google-genai: tuning jobs and answers.

https://cloud.google.com/vertex-ai/generative-ai/docs/models/gemini-use-supervised-tuning
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from gauntlet.backends.google.calls import (
    QuotaError,
    find_or_make,
    first_line,
    not_logged_in,
    permission_denied,
    unreachable,
)
from gauntlet.backends.google.jobs import CONTENT_LABEL, SYSTEM_LABEL
from gauntlet.backends.google.location import VertexLocation, valid_label
from gauntlet.manifests.errors import GauntletError, UsageError

SECONDS_TO_ANSWER = 60.0
SECONDS_BEFORE_THE_FIRST_RETRY = 1.0
ATTEMPTS = 5
ATTEMPTS_TO_CREATE = 3
BUSY = (408, 429, 500, 502, 503, 504)
LOST = (408, 500, 502, 503, 504)
"""Statuses after which the request may have been carried out nevertheless."""

EXAMPLES_COUNTED_AT_ONCE = 100
CANCELLING = "JOB_STATE_CANCELLING"
SUCCEEDED, ENDED = "JOB_STATE_SUCCEEDED", ("JOB_STATE_FAILED", "JOB_STATE_CANCELLED", "JOB_STATE_EXPIRED")
ADAPTER_SIZES = {1: "ONE", 2: "TWO", 4: "FOUR", 8: "EIGHT", 16: "SIXTEEN", 32: "THIRTY_TWO"}
THINKING_TOKENS = (("gemini-2.5-pro", 128), ("gemini-2.5-", 0))
"""The smallest thinking budget of models by the prefix of their names, as Google advises for tuned models."""


@dataclass(frozen=True)
class TuningRequest:
    """A tuning job as it is requested. `content` is a hash of everything that the job depends on."""

    model: str
    name: str
    training_uri: str
    validation_uri: str
    epochs: int
    learning_rate_multiplier: float
    adapter_size: int
    content: str


@dataclass(frozen=True)
class TuningJob:
    """A job as Vertex AI describes it. `billed_tokens` are those of one epoch, if known."""

    name: str
    state: str
    endpoint: str | None = None
    error: str | None = None
    billed_tokens: int | None = None
    seconds: float | None = None

    @property
    def has_succeeded(self) -> bool:
        """Whether there is a tuned model."""
        return self.state == SUCCEEDED

    @property
    def has_failed(self) -> bool:
        """Whether the job ended without a tuned model."""
        return self.state in ENDED


@dataclass(frozen=True)
class Drawing:
    """How the tokens of an answer are sampled: greedily if the temperature is 0."""

    max_new_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


class Gemini:
    """Gemini in a project and a region.

    Raises:
        UsageError: Nobody is logged in, the account lacks a permission, or Vertex AI refuses the request.
        QuotaError: A quota is used up.
        GauntletError: The service cannot be reached, or stays busy.
    """

    def __init__(self, location: VertexLocation) -> None:
        self._location = location
        with self._explained():
            from google import genai

            self._client: Any = genai.Client(
                vertexai=True,
                project=location.project,
                location=location.region,
                http_options=_options(ATTEMPTS),
            )

    def count_tokens(self, model: str, examples: Sequence[Mapping[str, Any]]) -> int:
        """The number of tokens of the examples' contents and instructions, as the model counts them."""
        total = 0
        for start in range(0, len(examples), EXAMPLES_COUNTED_AT_ONCE):
            group = examples[start : start + EXAMPLES_COUNTED_AT_ONCE]
            contents = [content for example in group for content in example["contents"]]
            instructions = [one["systemInstruction"] for one in group if "systemInstruction" in one]
            as_turns = [{"role": "user", "parts": each["parts"]} for each in instructions]
            with self._explained(model):
                counted = self._client.models.count_tokens(model=model, contents=[*as_turns, *contents])
            total += int(counted.total_tokens or 0)
        return total

    def ensure_job(self, request: TuningRequest) -> TuningJob:
        """The running or finished job of the same content, or a new one.

        Failed jobs and those that are being cancelled do not count. Vertex AI gives a job its name, and takes
        no request id, so a job is looked for before each attempt to create it.
        """
        from google.api_core.retry import Retry

        attempts = count(1)

        def may_retry(error: BaseException) -> bool:
            return _may_be_lost(error) and next(attempts) < ATTEMPTS_TO_CREATE

        retry = Retry(predicate=may_retry, initial=SECONDS_BEFORE_THE_FIRST_RETRY, timeout=None)
        with self._explained(request.model):
            return find_or_make(lambda: self._find(request), lambda: self._create(request), retry)

    def job(self, name: str) -> TuningJob:
        """The current state of a job."""
        with self._explained():
            return _described(self._client.tunings.get(name=name))

    def cancel(self, name: str) -> None:
        """Request cancellation. The job may still run when this returns."""
        with self._explained():
            self._client.tunings.cancel(name=name)

    def answer(
        self, base_model: str, request: Mapping[str, Any], drawing: Drawing, endpoint: str | None = None
    ) -> str:
        """The answer of a model, or of the endpoint of a model tuned from it; empty when it is blocked."""
        with self._explained(base_model, endpoint):
            answer = self._client.models.generate_content(
                model=endpoint or base_model,
                contents=list(request["contents"]),
                config=_config(base_model, request, drawing),
            )
        content = answer.candidates[0].content if answer.candidates else None
        return "".join(part.text or "" for part in (content and content.parts) or ()).strip()

    def _find(self, request: TuningRequest) -> TuningJob | None:
        content = _label(request)
        listing = {"filter": f'labels.{CONTENT_LABEL}="{content}"', "page_size": 100}
        with self._explained():
            for job in self._client.tunings.list(config=listing):
                found = _described(job)
                same = (job.labels or {}).get(CONTENT_LABEL) == content
                if same and not found.has_failed and found.state != CANCELLING:
                    return found
        return None

    def _create(self, request: TuningRequest) -> TuningJob:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # google-genai warns at every call that tuning is experimental
            job = self._client.tunings.tune(
                base_model=request.model,
                training_dataset={"gcs_uri": request.training_uri},
                config={
                    "validation_dataset": {"gcs_uri": request.validation_uri},
                    "tuned_model_display_name": request.name,
                    "epoch_count": request.epochs,
                    "learning_rate_multiplier": request.learning_rate_multiplier,
                    "adapter_size": f"ADAPTER_SIZE_{ADAPTER_SIZES[request.adapter_size]}",
                    "export_last_checkpoint_only": True,
                    "labels": {SYSTEM_LABEL: valid_label(request.name), CONTENT_LABEL: _label(request)},
                    "http_options": _options(attempts=1),
                },
            )
        return _described(job)

    @contextmanager
    def _explained(self, model: str | None = None, endpoint: str | None = None) -> Iterator[None]:
        """Turn a failure into one message. `model` and `endpoint` are those of the request, if it has any."""
        import httpx
        from google.auth.exceptions import GoogleAuthError
        from google.genai import errors

        host = self._location.host
        try:
            yield
        except GoogleAuthError as error:
            raise not_logged_in(host, error) from None
        except errors.APIError as error:
            if error.code == 404 and endpoint is not None:
                raise _no_endpoint(endpoint, error) from None
            raise _refusal(host, error, model) from None
        except httpx.TransportError as error:
            raise unreachable(host, type(error).__name__) from None


def _config(base_model: str, request: Mapping[str, Any], drawing: Drawing) -> dict[str, Any]:
    thinking = next((tokens for start, tokens in THINKING_TOKENS if base_model.startswith(start)), None)
    config: dict[str, Any] = {
        "temperature": drawing.temperature,
        "top_p": drawing.top_p,
        "max_output_tokens": drawing.max_new_tokens + (thinking or 0),
        "seed": drawing.seed,
    }
    if drawing.top_k:
        config["top_k"] = drawing.top_k
    if thinking is not None:
        config["thinking_config"] = {"thinking_budget": thinking}
    if "systemInstruction" in request:
        config["system_instruction"] = request["systemInstruction"]
    return config


def _options(attempts: int) -> dict[str, Any]:
    return {
        "timeout": int(SECONDS_TO_ANSWER * 1000),
        "retry_options": {
            "attempts": attempts,
            "initial_delay": SECONDS_BEFORE_THE_FIRST_RETRY,
            "max_delay": 30.0,
            "http_status_codes": list(BUSY),
        },
    }


def _may_be_lost(error: BaseException) -> bool:
    """Whether the request may have been carried out, and only the answer is missing."""
    import httpx
    from google.genai import errors

    return isinstance(error, httpx.TransportError) or (
        isinstance(error, errors.APIError) and error.code in LOST
    )


def _label(request: TuningRequest) -> str:
    return request.content[:32]


def _described(job: Any) -> TuningJob:
    statistics = job.tuning_data_stats and job.tuning_data_stats.supervised_tuning_data_stats
    ran = job.end_time and job.start_time and (job.end_time - job.start_time).total_seconds()
    return TuningJob(
        name=str(job.name),
        state=str(getattr(job.state, "value", job.state)),
        endpoint=job.tuned_model.endpoint if job.tuned_model else None,
        error=job.error.message if job.error else None,
        billed_tokens=statistics.total_billable_token_count if statistics else None,
        seconds=ran or None,
    )


def _refusal(host: str, error: Any, model: str | None) -> GauntletError:
    message = first_line(error)
    if error.code == 401:
        return not_logged_in(host, error)
    if error.code == 403:
        return permission_denied(host, error)
    if error.code == 429:
        return QuotaError(
            f"{host}: a quota is used up ({message}). Wait until other tuning jobs or requests have ended, "
            "or request an increase on the console's page Quotas. Then run again."
        )
    if error.code in (400, 404) and model is not None:
        return UsageError(
            f"training.model: found {model}; {host} says: {message}. Check which models can be tuned in this "
            "region, and the data if it names rows."
        )
    return GauntletError(f"{host}: {message} (status {error.code})")


def _no_endpoint(endpoint: str, error: Any) -> UsageError:
    return UsageError(
        f"{endpoint}: no tuned model is deployed there ({first_line(error)}). If it was deleted, tune it "
        "again under another name or with another training.epochs: for the same rows and settings the job "
        "that created this endpoint is found again."
    )
