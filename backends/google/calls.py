"""Calls of Google Cloud's clients, with a time limit and with retries where a retry is safe.

The clients' own defaults have no limit. Which function to use depends on what a repeated request does:

- `ask`: reading, or writing what the request names. A repeated request has the same result.
- `ensure`: creating a resource under an id that the request gives. If it exists already, that is success.
- `find_or_make`: creating a resource whose id the service gives. A repeated request would create a second
  one, so before each attempt the resource is looked for.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from gauntlet.backends.google.errors import NO_CREDENTIALS, quota_refusal
from gauntlet.backends.google.location import VertexLocation

SECONDS_TO_ANSWER = 10.0
SECONDS_BEFORE_THE_FIRST_RETRY = 0.5
SECONDS_OF_RETRIES = 20.0
"""No attempt starts later than this, so a call ends within the sum of this and `SECONDS_TO_ANSWER`."""

Found = TypeVar("Found")


def vertex_client(name: str, location: VertexLocation) -> Any:
    """A client of `google.cloud.aiplatform_v1`, such as `ModelServiceClient`, for one region."""
    from google.cloud import aiplatform_v1

    return getattr(aiplatform_v1, name)(client_options={"api_endpoint": location.host})


def ask(method: Callable[..., Any], **request: object) -> Any:
    """Call a client's method, and retry while the service is unavailable or busy."""
    return method(request=request, retry=_retry(), timeout=SECONDS_TO_ANSWER)


def ask_once(method: Callable[..., Any], **request: object) -> Any:
    """Call a client's method without retries."""
    return method(request=request, retry=None, timeout=SECONDS_TO_ANSWER)


def ensure(method: Callable[..., Any], **request: object) -> None:
    """Call a method that creates a resource; one that exists already is success."""
    from google.api_core.exceptions import AlreadyExists

    with suppress(AlreadyExists):
        ask(method, **request)


def find_or_make(
    find: Callable[[], Found | None], make: Callable[[], Found | None], retry: Any = None
) -> Found:
    """What `find` returns, or `make` where it returns None.

    Args:
        find: Looks for the resource.
        make: Asks once to create it, without retries. Where it returns None, `find` is called again.
        retry: A `google.api_core.retry.Retry` for other errors than `ask` retries.
    """
    from google.api_core.exceptions import ServiceUnavailable

    def attempt() -> Found:
        found = find()
        if found is None:
            found = make()
        if found is None:
            found = find()
        if found is None:
            raise ServiceUnavailable("what was created is not listed")
        return found

    made: Found = (retry or _retry())(attempt)()
    return made


def _retry() -> Any:
    from google.api_core.retry import Retry

    return Retry(
        predicate=_is_transient,
        initial=SECONDS_BEFORE_THE_FIRST_RETRY,
        maximum=5,
        timeout=SECONDS_OF_RETRIES,
    )


def _is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed in a moment."""
    from google.api_core import exceptions

    kinds = (exceptions.ServiceUnavailable, exceptions.DeadlineExceeded, exceptions.ResourceExhausted)
    return isinstance(error, kinds) and not (quota_refusal("", str(error)) or NO_CREDENTIALS in str(error))
