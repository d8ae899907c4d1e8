"""The ``GarminPersonalApiClient`` that the site's code gets, for one user and with our settings.

Its methods are Garmin's, but they raise our exceptions, and we exchange the key.
"""

from typing import Any

import requests
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables
from garmin_personal_api import GarminPersonalApiClient, GarminPersonalApiError

from ...conf import conf
from ...exceptions import GarminUnavailable
from ..base import After, Before, Renew
from ..calls import ApiCalls, api_base
from ..http.redaction import redaction
from ..http.transport import get_transport
from ..tracebacks import hide_frames
from .session import parse_session

HOST = "personal.connectapi"


class _Requests:
    """What Garmin's client has in place of a ``requests.Session``: its requests are API calls."""

    def __init__(self, session: requests.Session, calls: ApiCalls) -> None:
        self._session, self._calls = session, calls

    def get(self, url: str, **kwargs: Any) -> requests.Response:
        response = self._calls.request("GET", url, **kwargs)
        if not response.content:
            raise GarminUnavailable("Garmin sent an empty file.")
        return response

    def close(self) -> None:
        # Not the session's close(), which would close the adapter that all sessions share.
        self._session.cookies.clear()


class SessionClient(GarminPersonalApiClient):
    """Garmin's client, with one user's access token, for any number of threads.

    It does not know the key. Its API calls raise GarminAuthErrors. For a mistake in the caller's
    own arguments they raise ValueError or TypeError.

    Args:
        domain: Garmin's domain.
        session_data: the stored session.
        renew, before, after: as for ``Engine.open``.

    Raises:
        SessionUnreadable: this is not a session of the Personal API for this domain.
    """

    def __init__(
        self, domain: str, session_data: str, renew: Renew, before: Before, after: After
    ) -> None:
        stored, session = parse_session(session_data, domain), get_transport(domain).new_session()
        self._domain, base_url = domain, api_base(domain, HOST)
        self._renew_session = renew
        self.calls = ApiCalls(
            session,
            lambda: f"Bearer {self._token}",
            lambda: self._access_ends_at <= timezone.now(),
            self._renew,
            before,
            after,
            base_url,
        )
        requests_of_ours = _Requests(session, self.calls)
        super().__init__(stored.token, timeout=conf.TIMEOUT, session=requests_of_ours)
        self.base_url = base_url  # Whatever GARMIN_PERSONAL_API_BASE_URL says.
        self._access_ends_at = stored.access_ends_at

    def update_bearer_token(self, bearer_token: str) -> None:
        """Replace the access token for the calls that follow in this block."""
        super().update_bearer_token(bearer_token)
        self._token = bearer_token

    @sensitive_variables()
    def connectapi(self, path: str, method: str = "GET", **kwargs: Any) -> Any:
        """Call the API and return its JSON, None for an empty answer.

        Args:
            path: the path, with or without a query.
            method: the HTTP method, which must be GET.
            kwargs: as for requests: ``params``, ``headers``, ``timeout``.

        Raises:
            GarminRequestError: Garmin answered this request with a 4xx.
            SessionExpired, RateLimited, GarminUnavailable: as for ``garmin_client``.
            ValueError: the method is not GET. The Personal API only reads.
        """
        if method.upper() != "GET":
            raise ValueError(
                f"Garmin's Personal API can only be read, so a {method} cannot be sent. With the "
                "engine 'personal', connectapi() takes GET only."
            )
        kwargs.setdefault("timeout", self.timeout)
        kwargs["headers"] = {"Accept": "application/json", **(kwargs.get("headers") or {})}
        return hide_frames(lambda: self.calls.connectapi(path, **kwargs))

    def get(self, path: str, *, params: Any = None) -> Any:
        """Call the API, as ``connectapi`` does."""
        return self.connectapi(path, params=params)

    def download_activity(self, activity_id: int | str) -> bytes:
        """Return the original file of an activity, as a ZIP.

        Args:
            activity_id: the activity's number.

        Raises:
            GarminAuthError, ValueError: as for ``connectapi``.
        """
        return hide_frames(lambda: self._download_activity(activity_id))

    def _download_activity(self, activity_id: int | str) -> bytes:
        problem = ""
        try:
            with redaction():
                return super().download_activity(activity_id)
        except GarminPersonalApiError as exc:
            problem = str(exc)
        raise ValueError(problem)

    def _renew(self) -> None:
        fresh = parse_session(self._renew_session(), self._domain)
        self.update_bearer_token(fresh.token)
        self._access_ends_at = fresh.access_ends_at
