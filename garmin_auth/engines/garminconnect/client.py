"""The ``garminconnect.Garmin`` that the site's code gets, for one user and with our settings.

Its methods are the library's, but they raise our exceptions, and we refresh the access token. The
library would ignore a failed refresh and continue with the old token.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import requests
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables
from garminconnect import Garmin, GarminConnectInvalidFileFormatError
from garminconnect.client import Client
from garminconnect.client.transport import _EmptyJSONResp
from garminconnect.exceptions import (
    GarminConnectAuthenticationError,
    GarminConnectConnectionError,
    GarminConnectNotFoundError,
    GarminConnectTooManyRequestsError,
)

from ...exceptions import GarminAuthError, GarminRequestError, GarminUnavailable
from ..base import After, Before, Renew
from ..calls import PROFILE_PATH, ApiCalls, api_base
from ..http.redaction import redaction
from ..http.transport import get_transport
from ..interruptions import interruptions
from ..tracebacks import hide_frames
from .session import access_ends_at

C = TypeVar("C", bound=type)

OF_THE_LIBRARY = (
    GarminConnectAuthenticationError,
    GarminConnectConnectionError,
    GarminConnectTooManyRequestsError,
)


@dataclass
class Call:
    """A call that the site's code makes, which may cause several calls of Garmin's API.

    Attributes:
        name: the name of the method.
        answered: whether an API call has succeeded. A later failure is due to Garmin's answer.
        interruption: the exception that interrupts the task, which the library may have caught.
    """

    name: str
    answered: bool = False
    interruption: Exception | None = None


_call: ContextVar[Call | None] = ContextVar("garmin_auth_garminconnect_call", default=None)


def _translated(cls: C) -> C:
    """Make every public method of a class, inherited ones included, raise our exceptions."""
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        if not name.startswith("_"):
            setattr(cls, name, _translating(method))
    return cls


def _translating(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    @sensitive_variables()
    def call(*args: Any, **kwargs: Any) -> Any:
        if _call.get():  # The library calls itself, and expects its own exceptions.
            return method(*args, **kwargs)
        return hide_frames(lambda: _outermost(method, args, kwargs))

    return call


@sensitive_variables()
def _outermost(method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    call, result, error = Call(method.__name__), None, None
    token = _call.set(call)
    try:
        with redaction():
            result = method(*args, **kwargs)
    except NotImplementedError:
        raise
    except Exception as exc:  # noqa: BLE001
        error = _meaning(exc, call)
    finally:
        _call.reset(token)
    error = call.interruption or error
    if error is None:
        return result
    try:
        raise error.with_traceback(None) from None
    finally:
        # SECURITY: as in hide_frames, a cycle would keep the frames and their secrets.
        del error, call


def _meaning(exc: Exception, call: Call) -> Exception:
    """Return what to raise in place of an exception that one of the library's methods raised."""
    for link in _chain(exc):
        if isinstance(link, (GarminAuthError, *interruptions())):
            return link
    if call.answered:
        return GarminUnavailable(f"Garmin's answer has an unknown format: {type(exc).__name__}.")
    # No API call has succeeded, so it is the caller's mistake, or the library gave up.
    if isinstance(exc, GarminConnectInvalidFileFormatError):
        return ValueError(str(exc))
    if isinstance(exc, OF_THE_LIBRARY):
        for link in _chain(exc):
            if isinstance(link, ValueError | TypeError):
                return link
        return GarminUnavailable(f"The library gave up: {type(exc).__name__}.")
    return exc


def _chain(exc: BaseException | None) -> Iterator[Exception]:
    while isinstance(exc, Exception):
        yield exc
        exc = exc.__cause__ or exc.__context__


@_translated
class SessionClient(Client):
    """The library's low-level client, with one user's tokens.

    Args:
        domain: Garmin's domain.
        session_data: the stored session, which ``require_session`` has accepted.
        renew, before, after: as for ``Engine.open``.
    """

    def __init__(
        self, domain: str, session_data: str, renew: Renew, before: Before, after: After
    ) -> None:
        super().__init__(domain=domain)
        self.cs = get_transport(domain).new_session()
        # No lock during a refresh, or waiting threads would fail one after the other.
        self._token_lock: Any = contextlib.nullcontext()
        self._api_session = get_transport(domain).new_session()
        self._renew_session = renew
        self.calls = ApiCalls(
            self._api_session,
            lambda: f"Bearer {self.di_token}",
            self._is_over,
            self._refresh_session,
            before,
            after,
            api_base(domain),
        )
        Client.loads(self, session_data)

    @property
    def worked(self) -> bool:
        return self.calls.worked

    def close(self) -> None:
        # Not the session's close(), which would close the adapter that all sessions share.
        self._api_session.cookies.clear()

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

    def _persist_tokens(self) -> None:
        """Write no file, even if the environment names one."""

    def _run_request(self, method: str, path: str, **kwargs: Any) -> Any:
        """Send a request, and raise what the library's own code expects if Garmin refuses it."""
        headers = self._headers(kwargs.pop("headers", None))
        try:
            response = self.calls.request(
                method, self._resolve_url(path), headers=headers, **kwargs
            )
        except GarminRequestError as exc:
            kind = GarminConnectNotFoundError if exc.status == 404 else GarminConnectConnectionError
            error = kind(f"API Error {exc.status}")
            error.response = requests.Response()
            error.response.status_code = exc.status
            raise error from exc
        except interruptions() as exc:
            if call := _call.get():
                call.interruption = exc
            raise
        if call := _call.get():
            call.answered = True
        if not kwargs.get("stream") and not response.content:
            return _EmptyJSONResp()
        return response

    def _headers(self, given: Any) -> dict[str, Any]:
        """Return the library's headers with the caller's, without the library's access token."""
        headers = self.get_api_headers()
        del headers["Authorization"]
        return {**headers, **(given or {})}

    def _is_over(self) -> bool:
        ends_at = access_ends_at(self.di_token)
        return ends_at is not None and ends_at <= timezone.now()

    def _refresh_session(self) -> None:
        """Refresh under the session's lease. The library's own refresh hides every failure.

        Raises:
            GarminAuthError: as ``renew`` does.
        """
        Client.loads(self, self._renew_session())


class _FromGarmin:
    """An attribute that the library's ``login()`` sets. Here it is fetched on first access.

    Args:
        load: the name of the method that fetches it.
    """

    def __init__(self, load: str) -> None:
        self._load = load

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, client: Any, owner: type | None = None) -> Any:
        if client is None:
            return self
        if client.__dict__.get(self._name) is None and self._load not in client._loaded:
            getattr(client, self._load)()
            client._loaded.add(self._load)
        return client.__dict__.get(self._name)

    def __set__(self, client: Any, value: Any) -> None:
        client.__dict__[self._name] = value


@_translated
class GarminClient(Garmin):
    """``garminconnect.Garmin`` with one user's stored session.

    Its API calls raise GarminAuthErrors. For a mistake in the caller's own arguments they raise
    what the library raises, or ValueError or TypeError.

    Args:
        client: the session's low-level client.
    """

    display_name = _FromGarmin("_load_social_profile")
    full_name = _FromGarmin("_load_social_profile")
    profile_id = _FromGarmin("_load_social_profile")
    unit_system = _FromGarmin("_load_settings")

    def __init__(self, client: SessionClient) -> None:
        self._loaded: set[str] = set()
        # The library does not repeat calls, because its pauses would ignore the deadline.
        super().__init__(is_cn=client.domain == "garmin.cn", retry_attempts=0)
        self.client = client

    def login(self, *args: Any, **kwargs: Any) -> Any:
        self.client.login()

    def resume_login(self, *args: Any, **kwargs: Any) -> Any:
        self.client.login()

    def logout(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("Disconnect with garmin_auth.login.disconnect().")

    def connectapi(self, path: str, method: str = "GET", **kwargs: Any) -> Any:
        """Call the API and return its JSON, None for an empty answer.

        Args:
            path: the path, with or without a query.
            method: the HTTP method.
            kwargs: as for requests: ``params``, ``json``, ``data``, ``files``, ``headers``.

        Raises:
            GarminRequestError: Garmin answered this request with a 4xx.
            SessionExpired, RateLimited, GarminUnavailable: as for ``garmin_client``.
        """
        call = _call.get()
        if call is not None and call.name != "connectapi":  # The library's own code.
            return self.client.connectapi(path, **kwargs)
        headers = self.client._headers(kwargs.pop("headers", None))
        return self.client.calls.connectapi(path, method, headers=headers, **kwargs)

    @functools.cached_property
    def typed(self) -> Any:
        """The library's typed namespace, whose methods also raise GarminAuthErrors."""
        from garminconnect.typed import TypedGarmin  # It needs pydantic, which is optional.

        return _translated(type("TypedGarmin", (TypedGarmin,), {}))(self)

    def _load_social_profile(self) -> None:
        profile = self.client.connectapi(PROFILE_PATH)
        if not isinstance(profile, dict):
            raise GarminUnavailable("Garmin's profile of the user has an unknown format.")
        name, full_name, number = map(profile.get, ("displayName", "fullName", "profileId"))
        self.display_name = name if isinstance(name, str) else None
        self.full_name = full_name if isinstance(full_name, str) else ""
        self.profile_id = number if isinstance(number, int) else None

    def _load_settings(self) -> None:
        settings = self.client.connectapi(self.garmin_connect_user_settings_url)
        user_data = settings.get("userData") if isinstance(settings, dict) else None
        if not isinstance(user_data, dict):
            raise GarminUnavailable("The user's settings at Garmin have an unknown format.")
        system = user_data.get("measurementSystem")
        self.unit_system = system if isinstance(system, str) else None
