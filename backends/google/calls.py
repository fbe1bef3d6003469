"""Calls of Google Cloud's clients, with a time limit, with retries where a retry is safe, and with errors
that say what to do.

The clients' own defaults have no limit. Which function to use depends on what a repeated request does:

- `ask`: reading, or writing what the request names. A repeated request has the same result.
- `ensure`: creating a resource under an id that the request gives. If it exists already, that is success.
- `find_or_make`: creating a resource whose id the service gives. A repeated request would create a second
  one, so before each attempt the resource is looked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from gauntlet.backends.google.location import VertexLocation
from gauntlet.manifests.errors import GauntletError, UsageError

QUOTA_METRIC = re.compile(r"[a-z][\w.-]*\.googleapis\.com/\w+")
NO_CREDENTIALS = "Getting metadata from plugin failed"
"""What gRPC says when google-auth could not get a token."""
SECONDS_TO_ANSWER = 10.0
SECONDS_BEFORE_THE_FIRST_RETRY = 0.5
SECONDS_OF_RETRIES = 20.0
"""No attempt starts later than this, so a call ends within the sum of this and `SECONDS_TO_ANSWER`."""
Found = TypeVar("Found")


class QuotaError(GauntletError):
    """A quota is used up: retrying does not help, asking for less does."""


def quota_refusal(where: str, message: str) -> QuotaError | None:
    """The error for a message that names a used-up quota; None for any other message."""
    metrics = dict.fromkeys(QUOTA_METRIC.findall(message))
    if not metrics or "quota" not in message.lower():
        return None
    return QuotaError(
        f"{where}: the quota {', '.join(metrics)} is used up ({message}). Request an increase on the "
        "console's page Quotas, or use another machine or region."
    )


def not_logged_in(host: str, cause: object) -> UsageError:
    """The error when there are no credentials, or the service does not accept them."""
    advice = "Run `gcloud auth application-default login`, or run this as a service account."
    return UsageError(f"{host}: not logged in ({first_line(cause)}). {advice}")


def permission_denied(host: str, cause: object) -> UsageError:
    """The error when Vertex AI does not let this account do what was asked."""
    advice = "Give this account the role Vertex AI User, roles/aiplatform.user."
    return UsageError(f"{host}: permission denied ({first_line(cause)}). {advice}")


def unreachable(host: str, cause: object) -> GauntletError:
    """The error when no answer came."""
    return GauntletError(f"{host}: cannot be reached ({cause}). Check the network, then run again.")


def first_line(cause: object) -> str:
    """The first line of an exception's own message, or of a text, cut if it is long."""
    return str(getattr(cause, "message", None) or cause).partition("\n")[0][:500]


@contextmanager
def explained(host: str) -> Iterator[None]:
    """Turn a failure of Google Cloud's clients into one message.

    Raises:
        UsageError: Nobody is logged in, or the account lacks a permission.
        QuotaError: A quota is used up; the message names it.
        GauntletError: The service cannot be reached, or refuses for another reason.
    """
    from google.api_core.exceptions import Forbidden, GoogleAPIError, RetryError, Unauthorized
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except (GoogleAuthError, Unauthorized) as error:
        raise not_logged_in(host, error) from error
    except Forbidden as error:
        raise permission_denied(host, error) from error
    except RetryError as error:
        raise unreachable(host, first_line(error.cause or error)) from error
    except GoogleAPIError as error:
        if NO_CREDENTIALS in str(error):
            raise not_logged_in(host, error) from error
        message = first_line(error)
        raise quota_refusal(host, message) or GauntletError(f"{host}: {message}") from error


def vertex_client(name: str, location: VertexLocation) -> Any:
    """A client of `google.cloud.aiplatform_v1`, such as `ModelServiceClient`, for one region."""
    from google.cloud import aiplatform_v1

    return getattr(aiplatform_v1, name)(client_options={"api_endpoint": location.host})


def ask(method: Callable[..., Any], **request: object) -> Any:
    """Call a client's method, and retry while the service is unavailable or busy."""
    return method(request=request, retry=retries(), timeout=SECONDS_TO_ANSWER)


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
        for look in (find, make, find):
            if (found := look()) is not None:
                return found
        raise ServiceUnavailable("what was created is not listed")

    made: Found = (retry or retries())(attempt)()
    return made


def retries() -> Any:
    """The retries of `ask`."""
    from google.api_core.retry import Retry

    first, longest = SECONDS_BEFORE_THE_FIRST_RETRY, 5
    return Retry(predicate=_is_transient, initial=first, maximum=longest, timeout=SECONDS_OF_RETRIES)


def _is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed in a moment."""
    from google.api_core import exceptions

    kinds = (exceptions.ServiceUnavailable, exceptions.DeadlineExceeded, exceptions.ResourceExhausted)
    return isinstance(error, kinds) and not (quota_refusal("", str(error)) or NO_CREDENTIALS in str(error))
