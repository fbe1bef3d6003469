"""Google Cloud's REST interfaces, asked as the account that is logged in, or as a service account.

For what there is no client library of in the images. https://cloud.google.com/apis/docs/overview
"""

from __future__ import annotations

from typing import Any

from gauntlet.manifests.errors import GauntletError, UsageError

SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
SECONDS_TO_ANSWER = 20.0
BUSY = (429, 500, 502, 503, 504)
NO_TOKEN = "NO_TOKEN"
"""The reason of a refusal that came before the request: a token of the service account may not be made."""


class Refused(Exception):
    """An answer that is no success.

    Attributes:
        status: The HTTP status, such as 403.
        reason: Google's own word for it, such as SERVICE_DISABLED, or nothing.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class Rest:
    """Sends requests with the credentials of one account.

    Raises:
        UsageError: Nobody is logged in, or the login is over.
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
                raise _not_logged_in(error) from None
        self._credentials = credentials
        self._session = AuthorizedSession(credentials)

    @property
    def account(self) -> str | None:
        """The service account's address; none for a person."""
        return getattr(self._credentials, "service_account_email", None)

    def acting_as(self, service_account: str) -> Rest:
        """The same, as a service account; every request is refused unless tokens of it may be made."""
        from google.auth.impersonated_credentials import Credentials

        return Rest(Credentials(self._credentials, service_account, list(SCOPES)))

    def get(self, url: str, **query: str | list[str]) -> dict[str, Any]:
        """What is there.

        Raises:
            Refused: It may not be seen, or is not there.
        """
        return self._ask("GET", url, params=query)

    def post(self, url: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a question that takes a body.

        Raises:
            Refused: It may not be asked.
        """
        return self._ask("POST", url, json=body)

    def _ask(self, method: str, url: str, **request: Any) -> dict[str, Any]:
        from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError
        from google.auth.impersonated_credentials import Credentials

        try:
            response = self._session.request(method, url, timeout=SECONDS_TO_ANSWER, **request)
        except TransportError as error:
            raise _out_of_reach(url, error) from None
        except RefreshError as error:
            if isinstance(self._credentials, Credentials):
                raise Refused(403, NO_TOKEN, str(error.args[0])) from None
            raise _not_logged_in(error) from None
        except GoogleAuthError as error:
            raise _not_logged_in(error) from None
        except OSError as error:  # what requests raises is one
            raise _out_of_reach(url, error) from None
        if response.status_code == 401:
            raise _not_logged_in(response.text[:200])
        if response.status_code in BUSY:
            raise GauntletError(
                f"{url.split('/')[2]}: answers {response.status_code}. Run again in a minute."
            )
        if not response.ok:
            raise _refusal(response)
        try:
            answer: dict[str, Any] = response.json()
        except ValueError as error:  # the page of something in between
            raise _out_of_reach(url, error) from None
        return answer


def _refusal(response: Any) -> Refused:
    try:
        error = response.json()["error"]
        reasons = [detail["reason"] for detail in error.get("details", ()) if "reason" in detail]
        message = str(error["message"])
    except (ValueError, KeyError, TypeError):  # a proxy's page
        reasons, message = [], response.text
    return Refused(response.status_code, next(iter(reasons), ""), message.partition("\n")[0][:200])


def _not_logged_in(error: object) -> UsageError:
    cause = str(error).partition("\n")[0]
    return UsageError(
        f"not logged in to Google Cloud ({cause}). Run `gcloud auth application-default login`, or this as a "
        "service account."
    )


def _out_of_reach(url: str, error: Exception) -> GauntletError:
    host = url.split("/")[2]
    return GauntletError(f"{host}: out of reach ({type(error).__name__}). Check the network, then run again.")
