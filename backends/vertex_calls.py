"""Calls of Google Cloud's clients that end in bounded time, and what their failures mean to a user."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from manifests.errors import GauntletError, UsageError

SECONDS_TO_ANSWER = 10.0
SECONDS_BEFORE_THE_FIRST_RETRY = 0.5
SECONDS_OF_RETRIES = 20.0
"""A call is not begun again after these, so it fails within the sum of the two. The clients have no limit."""


Found = TypeVar("Found")


def ask(method: Callable[..., Any], **request: object) -> Any:
    """One call of a client's method, begun again when the service was out of reach or busy."""
    return method(request=request, retry=_patience(), timeout=SECONDS_TO_ANSWER)


def find_or_make(find: Callable[[], Found | None], make: Callable[[], object]) -> Found:
    """What `find` finds, after `make` where it finds nothing.

    For what has no name until it is made: when an answer is lost on its way, asking to make it again would
    make a second one, so it is looked for first.
    """
    from google.api_core.exceptions import ServiceUnavailable

    def attempt() -> Found:
        found = find()
        if found is None:
            make()
            found = find()
        if found is None:
            raise ServiceUnavailable("what was made is not listed")
        return found

    made: Found = _patience()(attempt)()
    return made


def ask_once(method: Callable[..., Any], **request: object) -> Any:
    """One call that is not begun again."""
    return method(request=request, retry=None, timeout=SECONDS_TO_ANSWER)


def _patience() -> Any:
    from google.api_core import exceptions
    from google.api_core.retry import Retry, if_exception_type

    passing = if_exception_type(
        exceptions.ServiceUnavailable, exceptions.DeadlineExceeded, exceptions.ResourceExhausted
    )
    return Retry(
        predicate=passing, initial=SECONDS_BEFORE_THE_FIRST_RETRY, maximum=5, timeout=SECONDS_OF_RETRIES
    )


def ensure(method: Callable[..., Any], **request: object) -> None:
    """One call of a method that makes something, unless it is there. So it may be begun again, too."""
    from google.api_core.exceptions import AlreadyExists

    with suppress(AlreadyExists):
        ask(method, **request)


@contextmanager
def explained(host: str) -> Iterator[None]:
    """Turn a failure of Google Cloud into one message.

    Raises:
        UsageError: Nobody is logged in, or the account may not do this.
        GauntletError: The service cannot be reached, or refuses for another reason.
    """
    from google.api_core.exceptions import Forbidden, GoogleAPIError, RetryError, Unauthorized
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except (GoogleAuthError, Unauthorized) as error:
        raise UsageError(
            f"{host}: not logged in ({_first_line(error)}). Run `gcloud auth application-default login`, or "
            "this as a service account."
        ) from error
    except Forbidden as error:
        raise UsageError(
            f"{host}: permission denied ({_first_line(error)}). Give this account the role Vertex AI User, "
            "roles/aiplatform.user."
        ) from error
    except RetryError as error:
        raise GauntletError(f"{host}: out of reach ({_first_line(error.cause or error)})") from error
    except GoogleAPIError as error:
        raise GauntletError(f"{host}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(getattr(error, "message", error)).partition("\n")[0]
