"""Keep what instruments requests, urllib3 or http.client from adding headers and seeing queries.

Error reporters and tracers (Sentry, OpenTelemetry) patch these libraries. They would send the
site's trace headers to Garmin, and record the URLs of a login, whose queries hold tickets.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import requests

# What urllib3 and http.client add to a request themselves.
ADDED_BY_LIBRARIES = {
    "accept-encoding",
    "connection",
    "content-length",
    "host",
    "transfer-encoding",
    "user-agent",
}
# What requests and requests_oauthlib set.
OF_OTHER_SESSIONS = frozenset(
    {"accept", "authorization", "content-type", "cookie", *ADDED_BY_LIBRARIES}
)


@dataclass
class Sending:
    """A request on its way through the libraries.

    Args:
        request: the request.
        url: its URL, with its query.
        headers: the lower-case names of the headers that the request has.
        target: what to ask the server for, with its query; "" until that is known.
    """

    request: requests.PreparedRequest
    url: str
    headers: frozenset[str]
    target: str = ""


_sending: ContextVar[Sending | None] = ContextVar("garmin_auth_sending", default=None)


@contextmanager
def hidden_from_instruments(request: requests.PreparedRequest) -> Iterator[None]:
    """Hide the request's query from here on, until ``as_it_was`` brings it back."""
    url = str(request.url)
    names = frozenset(name.lower() for name in request.headers)
    token = _sending.set(Sending(request, url, names))
    request.url = url.partition("?")[0]
    try:
        yield
    finally:
        request.url = url
        _sending.reset(token)


@contextmanager
def as_it_was(request: requests.PreparedRequest) -> Iterator[None]:
    """Bring back the query, and remove headers that were added in the meantime.

    A session that is not ours, such as garth's for OAuth1, has hidden nothing. Of its headers,
    those that such a session sets are kept.
    """
    sending = _sending.get()
    if sending is None or sending.request is not request:  # Another's, sent by a response hook.
        sending = Sending(request, str(request.url), OF_OTHER_SESSIONS)
    request.url = sending.url
    for name in list(request.headers):
        if name.lower() not in sending.headers:
            del request.headers[name]
    token = _sending.set(sending)
    try:
        yield
    finally:
        _sending.reset(token)


@contextmanager
def unobserved() -> Iterator[None]:
    """Keep OpenTelemetry from observing requests, if the site uses it."""
    utils: Any = sys.modules.get("opentelemetry.instrumentation.utils")
    # Versions before 0.43 do not have it.
    with getattr(utils, "suppress_http_instrumentation", nullcontext)():
        yield


def without_query(target: str) -> str:
    """Return the target to pass on to urllib3, and keep the whole for the connection."""
    sending = _sending.get()
    if sending is None:
        return target
    sending.target = target
    return target.partition("?")[0]


class Uninstrumented:
    """A mixin for connections: asks for the whole target, and sends only the request's headers."""

    _target = ""

    def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        sending = _sending.get()
        self._target = (sending and sending.target) or url
        self._validate_path(self._target)  # type: ignore[attr-defined] # Of http.client.
        return super().putrequest(method, url, *args, **kwargs)  # type: ignore[misc]

    def _encode_request(self, request: str) -> bytes:
        # http.client builds the request line from what instruments see of it.
        method, _, rest = request.partition(" ")
        version = rest.rpartition(" ")[2]
        line = f"{method} {self._target} {version}"
        return bytes(super()._encode_request(line))  # type: ignore[misc]

    def putheader(self, header: str | bytes, *values: Any) -> Any:
        sending = _sending.get()
        name = (header.decode("latin-1") if isinstance(header, bytes) else header).lower()
        if sending is None or name in sending.headers | ADDED_BY_LIBRARIES:
            return super().putheader(header, *values)  # type: ignore[misc]
        return None
