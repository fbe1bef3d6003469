"""What a failure of Google Cloud means to a user: one message that says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from gauntlet.manifests.errors import GauntletError, UsageError

QUOTA_METRIC = re.compile(r"[a-z][\w.-]*\.googleapis\.com/\w+")
NO_CREDENTIALS = "Getting metadata from plugin failed"
"""What gRPC says when google-auth could not get a token."""


class QuotaError(GauntletError):
    """A quota is used up: retrying does not help, asking for less does."""


def quota_refusal(where: str, message: str) -> QuotaError | None:
    """The error for a message that names a used-up quota; None for any other message."""
    metrics = tuple(dict.fromkeys(QUOTA_METRIC.findall(message))) if "quota" in message.lower() else ()
    if not metrics:
        return None
    return QuotaError(
        f"{where}: the quota {', '.join(metrics)} is used up ({message}). Request an increase on the "
        "console's page Quotas, or use another machine or region."
    )


def not_logged_in(host: str, cause: object) -> UsageError:
    """The error when there are no credentials, or the service does not accept them."""
    return UsageError(
        f"{host}: not logged in ({first_line(cause)}). Run `gcloud auth application-default login`, or run "
        "this as a service account."
    )


def permission_denied(host: str, cause: object) -> UsageError:
    """The error when Vertex AI does not let this account do what was asked."""
    return UsageError(
        f"{host}: permission denied ({first_line(cause)}). Give this account the role Vertex AI User, "
        "roles/aiplatform.user."
    )


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
