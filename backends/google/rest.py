"""Requests to Google Cloud's REST APIs, as the account that is logged in or as a service account.

Only for services whose client library is not among Gauntlet's dependencies: Service Usage, IAM and Artifact
Registry, and `testIamPermissions`, which all services answer in one form.
https://cloud.google.com/apis/docs/overview
"""

from __future__ import annotations

from typing import Any

from gauntlet.backends.google.calls import first_line, not_logged_in, unreachable
from gauntlet.manifests.errors import GauntletError

SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
SECONDS_TO_ANSWER = 20.0
BUSY = (429, 500, 502, 503, 504)
NO_TOKEN = "NO_TOKEN"
"""The reason when the request was not sent: this account may not create tokens of the service account."""


class Refused(Exception):
    """An answer with an error status.

    Attributes:
        status: The HTTP status, such as 403.
        reason: Google's code, such as SERVICE_DISABLED, or an empty string.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class Rest:
    """Sends requests with the credentials of one account.

    Raises:
        Refused: The answer has an error status: the resource does not exist, or the account may not read it.
        UsageError: Nobody is logged in, or the login has expired.
        GauntletError: A service cannot be reached, or is busy.
    """

    def __init__(self, credentials: Any = None) -> None:
        import google.auth
        from google.auth.exceptions import DefaultCredentialsError
        from google.auth.transport.requests import AuthorizedSession

        if credentials is None:
            try:
                credentials, _ = google.auth.default(scopes=SCOPES)
            except DefaultCredentialsError as error:
                raise not_logged_in("Google Cloud", error) from None
        self._credentials = credentials
        self._session = AuthorizedSession(credentials)

    @property
    def account(self) -> str | None:
        """The service account's address; none for a person."""
        return getattr(self._credentials, "service_account_email", None)

    def acting_as(self, service_account: str) -> Rest:
        """The same as a service account. Requests are refused if this account may not create its tokens."""
        from google.auth.impersonated_credentials import Credentials

        return Rest(Credentials(self._credentials, service_account, list(SCOPES)))

    def get(self, url: str, **query: str | list[str]) -> dict[str, Any]:
        """The resource at a URL."""
        return self._ask("GET", url, params=query)

    def post(self, url: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request with a body."""
        return self._ask("POST", url, json=body)

    def _ask(self, method: str, url: str, **request: Any) -> dict[str, Any]:
        from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError
        from google.auth.impersonated_credentials import Credentials

        host = url.split("/")[2]
        try:
            response = self._session.request(method, url, timeout=SECONDS_TO_ANSWER, **request)
        except (TransportError, OSError) as error:  # OSError is the base class of what requests raises
            raise unreachable(host, type(error).__name__) from None
        except GoogleAuthError as error:
            if isinstance(error, RefreshError) and isinstance(self._credentials, Credentials):
                raise Refused(403, NO_TOKEN, str(error.args[0])) from None
            raise not_logged_in(host, error) from None
        if response.status_code == 401:
            raise not_logged_in(host, response.text)
        if response.status_code in BUSY:
            raise GauntletError(f"{host}: answers {response.status_code}. Run again in a minute.")
        if not response.ok:
            raise _refusal(response)
        try:
            answer: dict[str, Any] = response.json()
        except ValueError as error:  # an HTML page, as a proxy sends
            raise unreachable(host, type(error).__name__) from None
        return answer


def _refusal(response: Any) -> Refused:
    try:
        error = response.json()["error"]
        reasons = [detail["reason"] for detail in error.get("details", ()) if "reason" in detail]
        message = str(error["message"])
    except (ValueError, KeyError, TypeError):  # an HTML page, as a proxy sends
        reasons, message = [], response.text
    return Refused(response.status_code, next(iter(reasons), ""), first_line(message))
