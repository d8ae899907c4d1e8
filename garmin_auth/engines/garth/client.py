"""The ``garth.Client`` that the site's code gets, and its common base with the login client."""

import os
from typing import Any
from urllib.parse import urljoin

import requests
from django.views.decorators.debug import sensitive_variables
from urllib3.exceptions import HTTPError

from ...exceptions import GarminAuthError, GarminUnavailable
from ..base import After, Before, Renew, nothing
from ..calls import ApiCalls, api_base
from ..http.redaction import redaction
from ..http.transport import get_transport
from ..tracebacks import hide_frames
from .library import USER_AGENT, OAuth2Token, Telemetry, garth
from .session import parse_session


class BaseClient(garth.Client):
    """The base of both our clients, which read no environment variables and share no state.

    Args:
        domain: Garmin's domain.
    """

    def __init__(self, domain: str) -> None:
        # garth's __init__() is not called: it reads GARTH_HOME, GARTH_TOKEN and GARTH_TELEMETRY_*,
        # and mounts an adapter that follows the environment.
        self.domain = domain
        self.sess = get_transport(domain).new_session()
        self.sess.headers.update(USER_AGENT)
        self.telemetry = Telemetry.model_construct(enabled=False)

    def configure(self, *args: Any, **kwargs: Any) -> None:
        """Refuse, because garth would mount its own adapter, without our deadline and CA bundle."""
        raise NotImplementedError(
            "This client is configured by the GARMIN_AUTH_* settings and by the stored session."
        )

    def load(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("Store the session with garmin_auth.login.import_session().")

    def loads(self, *args: Any, **kwargs: Any) -> None:
        self.load()

    def login(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("Log in with garmin_auth.login.start_login().")

    def resume_login(self, *args: Any, **kwargs: Any) -> Any:
        self.login()

    def _send(
        self,
        method: str,
        subdomain: str,
        path: str,
        referrer: str | bool,
        headers: dict[str, str],
        **kwargs: Any,
    ) -> requests.Response:
        """Send one request, within the current deadline.

        Raises:
            GarminUnavailable: there was no answer.
        """
        self._refer(referrer, headers)
        problem = ""
        try:
            with redaction():
                response = self.sess.request(
                    method,
                    urljoin(f"https://{subdomain}.{self.domain}", path),
                    headers=headers,
                    **kwargs,
                )
        except GarminAuthError:
            raise
        except (requests.RequestException, HTTPError, OSError, ValueError) as exc:
            problem = type(exc).__name__  # ValueError: a redirect to something that is not a URL.
        if problem:
            # Raised here, because the caught exception holds the request, and that the password.
            raise GarminUnavailable(f"Garmin could not be reached: {problem}.")
        return response

    def _refer(self, referrer: str | bool, headers: dict[str, str]) -> None:
        last = getattr(self, "last_resp", None)
        if referrer is True and last is not None:
            headers["referer"] = last.url


class SessionClient(BaseClient):
    """The ``garth.Client`` that the site's code gets, for one user and any number of threads.

    Its API calls raise only GarminAuthErrors, and ValueError or TypeError for wrong arguments.

    Args:
        domain: Garmin's domain.
        session_data: the stored session.
        renew, before, after: as for ``Engine.open``.

    Raises:
        SessionUnreadable: this is not a session of garth's for this domain.
    """

    oauth2_token: OAuth2Token

    def __init__(
        self,
        domain: str,
        session_data: str,
        renew: Renew,
        before: Before = nothing,
        after: After = nothing,
    ) -> None:
        super().__init__(domain)
        self.oauth1_token, self.oauth2_token = parse_session(session_data, domain)
        self._renew_session = renew
        self._calls = ApiCalls(
            self.sess,
            lambda: str(self.oauth2_token),
            lambda: not self.oauth2_token or self.oauth2_token.expired,
            self.refresh_oauth2,
            before,
            after,
            api_base(domain),
        )

    @property
    def worked(self) -> bool:
        return self._calls.worked

    @sensitive_variables()
    def request(
        self, method, subdomain, path, /, api=False, referrer=False, headers=None, **kwargs
    ):
        """Send a request. One for the API gets the access token, refreshed first if it has expired.

        If the API answers 401, the token is refreshed and the request is repeated once, with file
        bodies rewound.

        Args:
            method: the HTTP method.
            subdomain: the part of the host name before Garmin's domain.
            path: the path, with or without a query.
            api: whether the request is for the API.
            referrer: whether to send the last response's URL as the ``referer`` header.
            headers: additional headers.
            kwargs: as for ``requests.request``.

        Raises:
            GarminAuthError, ValueError, TypeError: as for ``ApiCalls.request``.
        """
        headers = dict(headers or {})  # A copy: garth's default is one dict for the whole process.
        self._refer(referrer, headers)
        url = urljoin(f"https://{subdomain}.{self.domain}", path)
        self.last_resp = hide_frames(
            lambda: self._calls.request(method, url, api=api, headers=headers, **kwargs)
        )
        return self.last_resp

    @sensitive_variables()
    def connectapi(self, path, method="GET", **kwargs):
        """Call the API and return its JSON, None for an empty answer.

        Args:
            path: the path, with or without a query.
            method: the HTTP method.
            kwargs: as for requests: ``params``, ``json``, ``data``, ``files``, ``headers``.

        Raises:
            GarminRequestError: Garmin answered this request with a 4xx.
            SessionExpired, RateLimited, GarminUnavailable: as for ``garmin_client``.
        """
        return hide_frames(lambda: self._calls.connectapi(path, method, **kwargs))

    def upload(self, fp, /, path="/upload-service/upload"):
        """Upload a file and return Garmin's JSON.

        Args:
            fp: the open file, whose name Garmin gets too.
            path: the path to upload to.

        Raises:
            GarminAuthError: as for ``connectapi``.
        """
        content = self.connectapi(
            path, method="POST", files={"file": (os.path.basename(fp.name), fp)}
        )
        if not isinstance(content, dict):
            raise GarminUnavailable("Garmin's answer to the upload has an unknown format.")
        return content

    def refresh_oauth2(self) -> None:
        """Fetch and store a fresh access token now."""
        self.oauth1_token, self.oauth2_token = parse_session(self._renew_session(), self.domain)
