"""Requests that look like a browser's, led by our settings: curl_cffi with our proxy and deadline.

curl_cffi speaks through libcurl, which follows the environment (``HTTPS_PROXY``, ``NO_PROXY``,
``CURL_CA_BUNDLE``) wherever it is told nothing. Here it is told everything.
"""

import os
from typing import Any
from urllib.parse import urljoin

import certifi
from curl_cffi import Curl, CurlOpt
from curl_cffi import requests as curl_requests

from ..conf import conf
from ..exceptions import GarminUnavailable
from .answers import Answer
from .deadline import remaining
from .redaction import redaction
from .transport import require_garmin

REDIRECTS = 5
REDIRECT_STATUSES = (301, 302, 303, 307, 308)


def _log_no_keys() -> None:
    """Let libcurl make its first handle, when it looks once whether to log the keys of TLS."""
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
        impersonate: the browser to look like, in curl_cffi's words.
        on_answer: called with the URL and each answer, before the caller sees it.
    """

    def __init__(self, impersonate: str, on_answer: Any = lambda url, answer: None) -> None:
        self._on_answer = on_answer
        super().__init__(
            impersonate=impersonate,
            # "" is libcurl's word for: none, whatever the environment says.
            proxies={"all": conf.PROXIES.get("https", "")},
            verify=conf.CA_BUNDLE or certifi.where(),
            curl_options={CurlOpt.NOPROXY: ""},
        )

    def request(self, method: Any, url: str, **kwargs: Any) -> Any:
        """Send a request. A GET is led on by redirects within Garmin; nothing else is.

        libcurl would send a password on to whatever host a 307 names.

        Raises:
            GarminUnavailable: the host is not Garmin's, or nothing came.
        """
        for _ in range(REDIRECTS + 1):
            response = self._send(method, url, **kwargs)
            target = response.headers.get("location")
            if method != "GET" or response.status_code not in REDIRECT_STATUSES or not target:
                self._on_answer(url, Answer.of(response))
                return response
            url = urljoin(url, target)
            kwargs.pop("params", None)
        raise GarminUnavailable("Garmin redirected a request too often.")

    def _send(self, method: Any, url: str, **kwargs: Any) -> Any:
        require_garmin(url, conf.DOMAIN)
        problem = ""
        try:
            left = remaining()
            asked = kwargs.pop("timeout", None) or self.timeout
            timeout = asked if left is None else min(asked, left)
            with redaction():
                return super().request(
                    method, url, timeout=timeout, **{**kwargs, "allow_redirects": False}
                )
        except (curl_requests.exceptions.RequestException, OSError, ValueError) as exc:
            problem = type(exc).__name__
        # Raised here, for what was caught holds the request, and that the password.
        raise GarminUnavailable(f"Garmin could not be reached: {problem}.")
