"""The ``garminconnect.Garmin`` that a site's code gets, for one user, led by our settings.

Its methods are the library's. What they raise is ours, and a refused access token is refreshed by
us: the library would take any fault of a refresh for nothing, and go on with the old token.
"""

import functools
import http.cookiejar
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

import requests
from django.views.decorators.debug import sensitive_variables
from garminconnect import Garmin
from garminconnect.client import Client
from garminconnect.exceptions import (
    GarminConnectAuthenticationError,
    GarminConnectConnectionError,
    GarminConnectTooManyRequestsError,
)
from urllib3.exceptions import HTTPError

from ..conf import conf
from ..exceptions import GarminAuthError, GarminRequestError, GarminUnavailable, RateLimited
from .answers import api_error, disguised_limit
from .base import After, Before, Renew
from .boundary import clean
from .deadline import deadline
from .redaction import redaction
from .transport import get_transport

C = TypeVar("C", bound=type)

PROFILE_PATH = "/userprofile-service/socialProfile"
# Bytes up to which a 200 may be a rate limit in disguise: it is one short line (reported).
SHORT = 1000

_inside: ContextVar[bool] = ContextVar("garmin_auth_inside_garminconnect", default=False)


def _translated(cls: C) -> C:
    """Let each public method of a class, the library's too, raise our exceptions."""
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        if not name.startswith("_"):
            setattr(cls, name, _translating(method))
    return cls


def _translating(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    @sensitive_variables()
    def call(*args: Any, **kwargs: Any) -> Any:
        if _inside.get():  # The library, which wants its own exceptions, calls itself.
            return method(*args, **kwargs)
        return clean(lambda: _outermost(method, args, kwargs))

    return call


@sensitive_variables()
def _outermost(method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    token = _inside.set(True)
    try:
        with redaction():
            return method(*args, **kwargs)
    except Exception as exc:
        error = _meaning(exc)
        if error is None:  # A mistake in the caller's own arguments.
            raise
    finally:
        _inside.reset(token)
    raise error


def _meaning(exc: BaseException) -> GarminAuthError | None:
    """Tell what the library's exception means; None if it is none of Garmin's."""
    for link in _chain(exc):
        if isinstance(link, GarminAuthError):
            return link
    response = getattr(exc, "response", None)
    if response is not None and (error := api_error(response.status_code, response.headers)):
        return error
    if isinstance(exc, GarminConnectTooManyRequestsError):
        return RateLimited()
    if isinstance(exc, OF_THE_ANSWER):
        return GarminUnavailable(f"Garmin answered in an unknown form: {type(exc).__name__}.")
    return None


# What the library raises when Garmin's answer is not of the form that it expects.
OF_THE_ANSWER = (
    GarminConnectConnectionError,
    GarminConnectAuthenticationError,
    requests.RequestException,
    HTTPError,
    AttributeError,
    LookupError,
    RecursionError,
)


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


class ApiSession:
    """Stands where the library has a ``requests.Session``: sends a request, and judges the answer.

    Args:
        before, after: as for ``Engine.open``.
    """

    def __init__(self, before: Before, after: After) -> None:
        self._before, self._after = before, after
        self._session = get_transport().new_session()
        self._session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        self._call = threading.local()
        self.worked = False

    def begin_call(self) -> None:
        """Begin the deadline of one call, which its repetition shares."""
        self._call.left = float(conf.TIMEOUT)
        self._call.bearer = None

    @property
    def bearer(self) -> str | None:
        """The access token that this thread's call has sent, None: nothing was sent yet."""
        return self._call.bearer

    def request(self, method: str, url: str, **kwargs: Any) -> requests.Response:
        """Send, and return Garmin's answer where the library can tell what it means.

        Raises:
            RateLimited, GarminUnavailable: it cannot.
        """
        self._before()
        self._call.bearer = kwargs.get("headers", {}).get("Authorization", "")[len("Bearer ") :]
        started, problem = time.monotonic(), ""
        try:
            with deadline(self._call.left):
                response = self._session.request(method, url, **kwargs)
                error = self._judge(response, streamed=bool(kwargs.get("stream")))
        except (requests.RequestException, HTTPError, OSError, RuntimeError) as exc:
            problem = type(exc).__name__
        finally:
            self._call.left = max(self._call.left - (time.monotonic() - started), 0.001)
        if problem:
            # Raised here, for what was caught holds the request, and that the bearer.
            raise GarminUnavailable(f"Garmin could not be reached: {problem}.")
        self._after(error)
        if error is None:
            self.worked = True
        elif not isinstance(error, GarminRequestError):
            response.close()
            raise error
        return response

    def _judge(self, response: requests.Response, *, streamed: bool) -> GarminAuthError | None:
        error = api_error(response.status_code, response.headers)
        if error or streamed or len(response.content) > SHORT:
            return error
        try:
            return disguised_limit(response.json())
        except ValueError:
            return None  # Not JSON: a download, an empty answer, or what the caller will see.

    def close(self) -> None:
        # Not the session: its adapter is everybody's.
        self._session.cookies.clear()


@_translated
class SessionClient(Client):
    """The library's transport with one user's tokens.

    Args:
        session_data: the stored session, known to be readable.
        renew, before, after: as for ``Engine.open``.
    """

    def __init__(self, session_data: str, renew: Renew, before: Before, after: After) -> None:
        super().__init__(domain=conf.DOMAIN)
        self.cs = get_transport().new_session()
        self._api_session = ApiSession(before, after)
        self._renew_session = renew
        self._take(session_data)

    @property
    def worked(self) -> bool:
        return self._api_session.worked

    def close(self) -> None:
        self._api_session.close()

    def login(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("Log in with garmin_auth.login.start_login().")

    def resume_login(self, *args: Any, **kwargs: Any) -> Any:
        self.login()

    def load(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("Store the session with garmin_auth.login.import_session().")

    def loads(self, *args: Any, **kwargs: Any) -> None:
        self.load()

    def dump(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("The site's database keeps this session, and no file does.")

    def _take(self, session_data: str) -> None:
        Client.loads(self, session_data)

    def _persist_tokens(self) -> None:
        """Write no file, whatever the environment names."""

    def _run_request(self, method: str, path: str, **kwargs: Any) -> Any:
        self._api_session.begin_call()
        return super()._run_request(method, path, **kwargs)

    def _refresh_session(self) -> None:
        """Renew under the site's lease. The library calls it before a call, and after a 401.

        Raises:
            GarminAuthError: as ``renew`` does; the library's own way swallows every fault.
        """
        if self._api_session.bearer not in (None, self.di_token):
            return  # Another thread of this block has done it.
        self._take(self._renew_session())


class _FromProfile:
    """An attribute that the library's ``login()`` sets, read from Garmin when it is wanted."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, client: Any, owner: type | None = None) -> Any:
        if client is None:
            return self
        if client.__dict__.get(self._name) is None and not client.__dict__.get("_profile_read"):
            client._load_social_profile()
        return client.__dict__.get(self._name)

    def __set__(self, client: Any, value: Any) -> None:
        client.__dict__[self._name] = value


@_translated
class GarminClient(Garmin):
    """``garminconnect.Garmin`` with one user's stored session; its calls raise GarminAuthError."""

    display_name = _FromProfile()
    full_name = _FromProfile()
    profile_id = _FromProfile()

    def __init__(self, client: SessionClient) -> None:
        # Not repeated by the library, whose pauses know no deadline.
        super().__init__(is_cn=client.domain == "garmin.cn", retry_attempts=0)
        self.client = client

    def login(self, *args: Any, **kwargs: Any) -> Any:
        self.client.login()

    def resume_login(self, *args: Any, **kwargs: Any) -> Any:
        self.client.login()

    def logout(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("Disconnect with garmin_auth.login.disconnect().")

    def connectapi(self, path: str, **kwargs: Any) -> Any:
        """Call the API with GET and return its JSON, ``{}`` for an empty answer.

        Raises:
            GarminRequestError: Garmin answered 4xx to this request.
            SessionExpired, RateLimited, GarminUnavailable: as for ``garmin_client``.
        """
        return self.client.connectapi(path, **kwargs)

    def _load_social_profile(self) -> None:
        profile = self.client.connectapi(PROFILE_PATH)
        if not isinstance(profile, dict):
            raise GarminUnavailable("Garmin answered with a profile of an unknown form.")
        self.__dict__["_profile_read"] = True
        self.display_name = profile.get("displayName")
        self.full_name = profile.get("fullName", "")
        self.profile_id = profile.get("profileId")
