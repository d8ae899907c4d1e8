"""The API calls of an open session, which behave the same with every engine.

A call sends the access token, after refreshing it if it has expired. If Garmin refuses the token,
the call refreshes it and is repeated once. It ends within its deadline. Whatever goes wrong at
Garmin or on the way there raises a GarminAuthError. A mistake in the caller's own arguments raises
ValueError or TypeError, and Garmin is not asked.
"""

import base64
import binascii
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urljoin

import requests
from django.views.decorators.debug import sensitive_variables
from requests.exceptions import UnrewindableBodyError
from requests.utils import rewind_body
from urllib3.exceptions import HTTPError

from ..exceptions import GarminAuthError, GarminUnavailable
from .base import After, Before
from .http.deadline import deadline, seconds_of
from .http.redaction import redaction
from .verdicts import api_error, disguised_limit

PROFILE_PATH = "/userprofile-service/socialProfile"
# The arguments of a call that say how to send a request, not what to send.
SENDING = ("allow_redirects", "cert", "proxies", "stream", "verify")
# How many bytes a 200 may have that is a rate limit in disguise: it is one short line (reported).
SHORT = 1000
# How many bytes of the answer to a refused request are searched for Garmin's reason.
REASON = 4096


T = TypeVar("T")


class ApiCalls:
    """Makes the API calls of one session, in any number of threads.

    Args:
        session: sends the requests, of this user only.
        authorization: returns the value of the Authorization header with the current access token.
        is_over: returns whether that token has expired.
        renew: fetches a fresh access token. It is called without a lock, and must itself make
            threads that need a token at the same time wait for each other.
        before, after: as for ``Engine.open``.
        base_url: the URL of the API's host, as ``api_base`` returns it.

    Attributes:
        worked: whether a call has succeeded.
    """

    def __init__(
        self,
        session: requests.Session,
        authorization: Callable[[], str],
        is_over: Callable[[], bool],
        renew: Callable[[], None],
        before: Before,
        after: After,
        base_url: str,
    ) -> None:
        self._session, self._base_url = session, base_url
        self._authorization, self._is_over, self._renew = authorization, is_over, renew
        self._before, self._after = before, after
        self.worked = False

    @sensitive_variables()
    def request(
        self, method: str, url: str, *, api: bool = True, **kwargs: Any
    ) -> requests.Response:
        """Send a request, and return Garmin's answer if it is a success.

        Args:
            method: the HTTP method.
            url: the URL, on one of Garmin's hosts.
            api: whether the request is for the API. Other requests do not get the access token.
            kwargs: as for ``requests.request``. ``timeout``, in seconds, limits the whole call.

        Raises:
            GarminRequestError: Garmin answered this request with a 4xx.
            SessionExpired, RateLimited, GarminUnavailable: as for ``garmin_client``.
            ValueError, TypeError: requests cannot make a request from these arguments.
        """
        return self._request(method, url, api, kwargs, lambda response: response)

    def connectapi(self, path: str, method: str = "GET", **kwargs: Any) -> Any:
        """Call the API and return its JSON, None for an empty answer.

        Args:
            path: the path on the API's host, with or without a query.
            method: the HTTP method.
            kwargs: as for ``request``. ``params`` are added to the query that the path has.

        Raises:
            GarminAuthError, ValueError, TypeError: as for ``request``.
            GarminUnavailable: also if the answer is not JSON.
        """
        return self._request(method, urljoin(self._base_url, path), True, kwargs, _json_of)

    @sensitive_variables()
    def _request(
        self,
        method: str,
        url: str,
        api: bool,
        kwargs: dict[str, Any],
        read: Callable[[requests.Response], T],
    ) -> T:
        seconds = seconds_of(kwargs.pop("timeout", None))
        sending = {name: kwargs.pop(name) for name in SENDING if name in kwargs}
        sending["timeout"] = seconds  # Each read of a stream may take as long.
        request = self._prepare(method, url, kwargs)
        send = self._send_with_token if api else self._send
        try:
            response, error = send(request, seconds, sending)
            if error is None:
                result = read(response)
                self.worked = self.worked or api
        except GarminUnavailable as exc:
            if api:
                self._after(exc)
            raise
        if error:
            response.close()
        if api:
            self._after(error)
        if error:
            raise error
        return result

    def _prepare(self, method: str, url: str, kwargs: dict[str, Any]) -> requests.PreparedRequest:
        problem = ""
        try:
            return self._session.prepare_request(requests.Request(method, url, **kwargs))
        except (requests.RequestException, ValueError) as exc:
            problem = str(exc)
        # Always a ValueError, and without the request, which some of requests' exceptions hold.
        raise ValueError(f"No request can be made of these arguments: {problem}")

    @sensitive_variables()
    def _send_with_token(
        self, request: requests.PreparedRequest, seconds: float, sending: dict[str, Any]
    ) -> tuple[requests.Response, GarminAuthError | None]:
        """Send a request. If Garmin refuses the token, send it again with a fresh one."""
        sent = self._authorization()
        if self._is_over():
            sent = self._renew_once(sent)
        self._before()
        request.headers["Authorization"] = sent
        started = time.monotonic()
        response, error = self._send(request, seconds, sending)
        if response.status_code != 401:
            return response, error
        left = max(seconds - (time.monotonic() - started), 0.001)
        response.close()
        fresh = self._renew_once(sent)
        if fresh == sent:
            return response, error
        _rewind(request)
        self._before()
        request.headers["Authorization"] = fresh
        return self._send(request, left, sending)

    def _renew_once(self, refused: str) -> str:
        """Return the header with a fresh token, or the refused header if there is none."""
        if self._authorization() == refused:  # Otherwise another thread has refreshed it.
            self._renew()
        return self._authorization()

    def _send(
        self, request: requests.PreparedRequest, seconds: float, sending: dict[str, Any]
    ) -> tuple[requests.Response, GarminAuthError | None]:
        problem = ""
        try:
            with redaction(), deadline(seconds):
                response = self._session.send(request, **sending)
                return response, _judge(response, streamed=bool(sending.get("stream")))
        except (requests.RequestException, HTTPError, OSError, RuntimeError, ValueError) as exc:
            problem = type(exc).__name__  # ValueError: a redirect to something that is not a URL.
        # Raised here, because the caught exception holds the request, and that the access token.
        raise GarminUnavailable(f"Garmin could not be reached: {problem}.")


def _judge(response: requests.Response, *, streamed: bool) -> GarminAuthError | None:
    status, headers = response.status_code, response.headers
    body, bearer = "", str(response.request.headers.get("Authorization", "")).split(" ")[-1]
    if 400 <= status < 500:
        body = next(response.iter_content(REASON), b"").decode(errors="replace")
    if error := api_error(status, headers, body, bearer=bearer):
        return error
    if streamed or len(response.content) > SHORT:
        return None
    try:
        return disguised_limit(response.json())
    except (ValueError, RecursionError):
        return None  # Not JSON: a download, an empty answer, or for the caller to judge.


def _rewind(request: requests.PreparedRequest) -> None:
    """Rewind the body of a request, so that it can be sent again.

    Raises:
        GarminUnavailable: the body can be read only once.
    """
    if request.body is None or isinstance(request.body, bytes | str):
        return
    try:
        rewind_body(request)
        return
    except UnrewindableBodyError:
        pass
    raise GarminUnavailable(
        "The access token was refused and has been refreshed, but the request's body can be read "
        "only once. Send the request again."
    )


def api_base(domain: str, host: str = "connectapi") -> str:
    """Return the URL of an API's host.

    Args:
        domain: Garmin's domain.
        host: the host's name, without the domain.
    """
    return f"https://{host}.{domain}"


def _json_of(response: requests.Response) -> Any:
    """Return the JSON of an answer, None if it is empty.

    Raises:
        GarminUnavailable: the answer is something else.
    """
    problem = ""
    try:
        return response.json() if response.content else None
    except (requests.RequestException, HTTPError, OSError, ValueError, RecursionError) as exc:
        problem = type(exc).__name__
    raise GarminUnavailable(f"Garmin answered with something other than JSON: {problem}.")


def user_name_of(profile: Any) -> str:
    """Return the user name in Garmin's answer at PROFILE_PATH, "" if it has none."""
    name = profile.get("userName") if isinstance(profile, dict) else None
    return name if isinstance(name, str) else ""


def is_header_safe(value: object) -> bool:
    """Return whether a token may be sent in a header."""
    return isinstance(value, str) and bool(value) and value.isascii() and value.isprintable()


def claims_of(token: Any) -> dict[str, Any]:
    """Return the claims of a JWT, unverified; ``{}`` if it is not a JWT."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError, binascii.Error):
        return {}
    return claims if isinstance(claims, dict) else {}


def moment_of(seconds: object) -> datetime | None:
    """Return the UTC time for Garmin's seconds since 1970, None if they are not a time."""
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
