"""Calls of Google Cloud's clients that end in bounded time, and what their failures mean to a user."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from gauntlet.manifests.errors import GauntletError, UsageError

SECONDS_TO_ANSWER = 10.0
SECONDS_BEFORE_THE_FIRST_RETRY = 0.5
SECONDS_OF_RETRIES = 20.0
"""A call is not begun again after these, so it fails within the sum of the two. The clients have no limit."""

QUOTA_METRIC = re.compile(r"[a-z][\w.-]*\.googleapis\.com/\w+")
NO_CREDENTIALS = "Getting metadata from plugin failed"
"""What gRPC makes of a token that google-auth could not get."""


class QuotaError(GauntletError):
    """Google Cloud refuses for a quota: asking again does not help, asking for less does."""


def quota_refusal(where: str, message: str) -> QuotaError | None:
    """The error of a message that is a refusal for a quota, which it names; else none."""
    metrics = tuple(dict.fromkeys(QUOTA_METRIC.findall(message))) if "quota" in message.lower() else ()
    if not metrics:
        return None
    return QuotaError(
        f"{where}: the quota {', '.join(metrics)} is used up ({message}). Ask for more of it on the "
        "console's page Quotas, or take another machine or region."
    )


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
    from google.api_core.retry import Retry

    return Retry(
        predicate=_is_passing, initial=SECONDS_BEFORE_THE_FIRST_RETRY, maximum=5, timeout=SECONDS_OF_RETRIES
    )


def _is_passing(error: BaseException) -> bool:
    """Whether the same call may succeed in a moment."""
    from google.api_core import exceptions

    kinds = (exceptions.ServiceUnavailable, exceptions.DeadlineExceeded, exceptions.ResourceExhausted)
    return isinstance(error, kinds) and not (quota_refusal("", str(error)) or NO_CREDENTIALS in str(error))


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
        QuotaError: A quota is used up; the message names it.
        GauntletError: The service cannot be reached, or refuses for another reason.
    """
    from google.api_core.exceptions import Forbidden, GoogleAPIError, RetryError, Unauthorized
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except (GoogleAuthError, Unauthorized) as error:
        raise _not_logged_in(host, error) from error
    except Forbidden as error:
        raise UsageError(
            f"{host}: permission denied ({_first_line(error)}). Give this account the role Vertex AI User, "
            "roles/aiplatform.user."
        ) from error
    except RetryError as error:
        raise GauntletError(f"{host}: out of reach ({_first_line(error.cause or error)})") from error
    except GoogleAPIError as error:
        if NO_CREDENTIALS in str(error):
            raise _not_logged_in(host, error) from error
        message = _first_line(error)
        raise quota_refusal(host, message) or GauntletError(f"{host}: {message}") from error


def _not_logged_in(host: str, error: Exception) -> UsageError:
    return UsageError(
        f"{host}: not logged in ({_first_line(error)}). Run `gcloud auth application-default login`, or "
        "this as a service account."
    )


def _first_line(error: BaseException) -> str:
    return str(getattr(error, "message", error)).partition("\n")[0]
