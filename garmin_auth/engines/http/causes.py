"""Explain to the site's operators why a request got no answer, without revealing secrets.

The messages of the libraries' exceptions are never repeated, because they contain URLs with service
tickets, and the proxy's URL with its password. Only a status, a reason or an error number is taken
from them.
"""

import http.client
import logging
import os
import re
import socket
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3 import exceptions as urllib3

from ...conf import conf
from ...exceptions import GarminUnavailable
from .deadline import length

logger = logging.getLogger("garmin_auth")

# A proxy refuses to open a tunnel, in the words of urllib3 and of curl.
TUNNEL_REFUSED = re.compile(
    r"Tunnel connection failed: (\d{3})|CONNECT tunnel failed, response (\d{3})"
)
# The reason in curl's message about a certificate, in the words of its TLS library.
CERTIFICATE_PROBLEM = re.compile(r"(?:certificate problem|verify result): ([\w ,'-]*[\w])")
CLOSED = (
    ConnectionError,
    EOFError,
    http.client.HTTPException,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
    urllib3.ProtocolError,
)
# libcurl's error codes (libcurl-errors(3)).
NO_PROXY_NAME, NO_HOST_NAME, NO_CONNECTION, TIMED_OUT, TLS_FAILED = 5, 6, 7, 28, 35
UNTRUSTED = (51, 60)
BROKEN = (18, 52, 55, 56)
BAD_ENCODING = 61


def unanswered(error: BaseException, url: str, seconds: float | None = None) -> GarminUnavailable:
    """Log why a request got no complete answer, and return the exception to raise for it.

    Raise it outside the ``except`` clause, because ``error`` holds the request.

    Args:
        error, url, seconds: as for ``explain``.
    """
    why = explain(error, url, seconds)
    logger.warning("Garmin did not answer. %s", why, extra={"event": "no_answer"})
    return GarminUnavailable(why)


def explain(error: BaseException, url: str, seconds: float | None = None) -> str:
    """Return a sentence that explains why a request got no complete answer.

    Args:
        error: what requests, urllib3, curl_cffi or the standard library raised.
        url: the URL of the request. Only its host is named.
        seconds: how many seconds the request had, None for the length of the current deadline.
    """
    links = list(_links(error))
    host = _host(url)
    code = next((code for link in links if (code := _curl_code(link)) is not None), None)
    if status := next(filter(None, map(_tunnel_status, links)), ""):
        return _refused_by_proxy(status)
    if code is not None:
        return _explain_curl(code, str(error), host, seconds)
    peer = _proxy() if _find(links, urllib3.ProxyError) and _proxy() else host
    if found := _find(links, ssl.SSLCertVerificationError):
        return f"The certificate of {peer} is not trusted: {found.verify_message}."
    if _find(links, socket.gaierror, urllib3.NameResolutionError):
        return _unresolved(_host(conf.PROXIES.get("https", url)))
    if _find(links, ConnectionRefusedError):
        return f"The connection to {_proxy() or host} was refused."
    if _find(links, TimeoutError, urllib3.TimeoutError, requests.Timeout):
        return _too_slow(host, seconds)
    if _find(links, ConnectionResetError):
        return f"The connection to {peer} was reset."
    if _find(links, *CLOSED):
        return f"{_capital(peer)} closed the connection before its answer was complete."
    if found := _find(links, ssl.SSLError):
        return f"No encrypted connection to {peer} could be made: {found.reason}."
    if _find(links, urllib3.DecodeError, requests.exceptions.ContentDecodingError):
        return f"The answer of {host} could not be decompressed."
    if _find(links, requests.TooManyRedirects):
        return f"{host} redirected the request too often."
    if found := _find(links, OSError, only=lambda link: link.errno):
        return f"The connection to {_proxy() or host} failed: {os.strerror(found.errno)}."
    return f"The request to {host} failed: {type(links[-1]).__name__}."


def _explain_curl(code: int, text: str, host: str, seconds: float | None) -> str:
    if code in UNTRUSTED:
        found = CERTIFICATE_PROBLEM.search(text)
        return f"The certificate of {host} is not trusted: {found[1] if found else 'unknown'}."
    if code in (NO_PROXY_NAME, NO_HOST_NAME):
        return _unresolved(host if code == NO_HOST_NAME else _host(conf.PROXIES["https"]))
    if code == NO_CONNECTION:
        return f"The connection to {_proxy() or host} was refused, or there is no route to it."
    if code == TIMED_OUT:
        return _too_slow(host, seconds)
    if code == TLS_FAILED:
        return f"No encrypted connection to {host} could be made."
    if code in BROKEN:
        return f"{host} closed the connection before its answer was complete."
    if code == BAD_ENCODING:
        return f"The answer of {host} could not be decompressed."
    return f"The request to {host} failed: curl's error {code}."


def _links(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those it refers to: causes, contexts, reasons and arguments."""
    found: list[BaseException] = [error]
    for link in found:
        yield link
        carried = (
            link.__cause__,
            link.__context__,
            getattr(link, "reason", None),
            getattr(link, "original_error", None),
            *link.args,
        )
        known = set(map(id, found))
        found += [
            more for more in carried if isinstance(more, BaseException) and id(more) not in known
        ]


def _find(links: list[BaseException], *kinds: type[BaseException], only: Any = bool) -> Any:
    return next((link for link in links if isinstance(link, kinds) and only(link)), None)


def _curl_code(link: BaseException) -> int | None:
    """Return libcurl's error code, None if there is none. curl_cffi need not be installed."""
    if not type(link).__module__.startswith("curl_cffi"):
        return None
    code = getattr(link, "code", None)
    return int(code) if isinstance(code, int) else None


def _tunnel_status(link: BaseException) -> str:
    found = TUNNEL_REFUSED.search(str(link))
    return (found[1] or found[2]) if found else ""


def _refused_by_proxy(status: str) -> str:
    if status != "407":
        return f"The proxy answered {status}."
    if "@" in urlsplit(conf.PROXIES.get("https", "")).netloc:
        return (
            "The proxy answered 407: it does not accept the user name and password of "
            "GARMIN_AUTH_PROXIES."
        )
    return "The proxy answered 407: it wants a user name and password."


def _unresolved(name: str) -> str:
    return f"The name {name} could not be resolved."


def _too_slow(host: str, seconds: float | None) -> str:
    seconds = length() if seconds is None else seconds
    if seconds is None:
        return f"{host} did not answer in time."
    number = f"{round(seconds, 1):g}"
    return f"{host} did not answer within {number} second{'' if number == '1' else 's'}."


def _proxy() -> str:
    """Return the proxy's name and port in words, without its password; "" if there is no proxy."""
    parts = urlsplit(conf.PROXIES.get("https", ""))
    if not parts.hostname:
        return ""
    return f"the proxy {parts.hostname}" + (f":{parts.port}" if parts.port else "")


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or "Garmin"
    except ValueError:
        return "Garmin"


def _capital(words: str) -> str:
    return f"The{words[3:]}" if words.startswith("the ") else words
