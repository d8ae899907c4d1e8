"""Requests that look like a browser's: curl_cffi with our proxy, CA bundle and deadline.

curl_cffi uses libcurl, which follows the environment (``HTTPS_PROXY``, ``NO_PROXY``,
``CURL_CA_BUNDLE``) for every option that is not set. Here all of them are set.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urljoin

import certifi
from curl_cffi import Curl, CurlOpt
from curl_cffi import requests as curl_requests

from ...conf import conf
from ...exceptions import GarminUnavailable
from ..frozen import refuse_frozen
from ..verdicts import Answer
from .causes import unanswered
from .deadline import remaining, seconds_of
from .greenlets import run_blocking
from .redaction import redaction
from .transport import proxy_credentials, require_garmin, without_credentials

# Seconds. curl would round less to 0, which means no limit to it.
SHORTEST = 0.001
REDIRECTS = 5
# The redirects to follow. A POST becomes a GET, as in browsers, and is not followed if the status
# asks to send its body again.
FOLLOWED = {"GET": (301, 302, 303, 307, 308), "POST": (301, 302, 303)}


def _log_no_keys() -> None:
    """Keep libcurl from logging TLS keys: it reads SSLKEYLOGFILE once, with its first handle."""
    path = os.environ.pop("SSLKEYLOGFILE", None)
    try:
        Curl().close()
    finally:
        if path is not None:
            os.environ["SSLKEYLOGFILE"] = path


_log_no_keys()


class CurlSession(curl_requests.Session):
    """A curl_cffi session to Garmin's hosts only, through the site's proxy, within the deadline.

    Args:
        domain: Garmin's domain.
        impersonate: curl_cffi's name of the browser to look like.
        on_answer: called with the URL of each request and its final answer, before the caller
            sees it.
        on_fault: called with the error if there is no answer.
    """

    def __init__(
        self,
        domain: str,
        impersonate: str,
        on_answer: Callable[[str, Answer], None] = lambda url, answer: None,
        on_fault: Callable[[GarminUnavailable], None] = lambda error: None,
    ) -> None:
        self._domain, self._on_answer, self._on_fault = domain, on_answer, on_fault
        proxy = conf.PROXIES.get("https", "")
        super().__init__(
            impersonate=impersonate,
            # To libcurl, "" means no proxy, whatever the environment says.
            proxies={"all": without_credentials(proxy)},
            proxy_auth=proxy_credentials(proxy) if "@" in proxy else None,
            verify=conf.CA_BUNDLE or certifi.where(),
            curl_options={CurlOpt.NOPROXY: ""},
            # One handle per session, because run_blocking() may send from another thread.
            use_thread_local_curl=False,
        )

    def request(self, method: Any, url: str, **kwargs: Any) -> Any:
        """Send a request, and follow redirects to Garmin's hosts, without the body.

        libcurl would send a password to whatever host a 307 names.

        Args:
            method: the HTTP method.
            url: the URL.
            kwargs: as for curl_cffi's ``Session.request``.

        Raises:
            Frozen: this site must not connect to Garmin.
            GarminUnavailable: a host is not Garmin's, there was no answer, or there were more than
                5 redirects.
        """
        target = url
        for _ in range(REDIRECTS + 1):
            response = self._send(method, target, **kwargs)
            location = response.headers.get("location")
            if not location or response.status_code not in FOLLOWED.get(method, ()):
                self._on_answer(url, Answer.of(response))
                return response
            method, target = "GET", urljoin(target, location)
            for name in ("params", "data", "json"):
                kwargs.pop(name, None)
        raise GarminUnavailable("Garmin redirected a request too often.")

    def _send(self, method: Any, url: str, **kwargs: Any) -> Any:
        refuse_frozen()
        require_garmin(url, self._domain)
        timeout = seconds_of(kwargs.pop("timeout", None) or self.timeout)
        try:
            timeout = min(timeout, remaining() or timeout)
            if timeout < SHORTEST:
                raise TimeoutError("The call's deadline has passed.")
            with redaction():
                return run_blocking(partial(self._ask, method, url, timeout=timeout, **kwargs))
        except (curl_requests.exceptions.RequestException, OSError, ValueError) as exc:
            fault = unanswered(exc, url, timeout)
        self._on_fault(fault)
        raise fault

    def _ask(self, method: Any, url: str, **kwargs: Any) -> Any:
        # If a connection that it has used before is closed without an answer, libcurl sends the
        # request again: a password or a code would count as two attempts.
        self.curl_options[CurlOpt.FRESH_CONNECT] = int(method != "GET")
        return super().request(method, url, **{**kwargs, "allow_redirects": False})
