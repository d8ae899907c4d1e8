"""HTTPS to Garmin: through which proxy, with which CA bundle, and to which hosts.

Only the app's settings decide. The environment (``REQUESTS_CA_BUNDLE``, ``HTTPS_PROXY``,
``~/.netrc``, ``SSLKEYLOGFILE``) changes nothing, not even for a session that a library makes and
mounts the adapter in, because the adapter ignores what the session passes to it.
"""

import os
import re
import ssl
import threading
from base64 import b64encode
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import certifi
import requests
from django.views.decorators.debug import sensitive_variables
from requests.adapters import HTTPAdapter
from requests.utils import prepend_scheme_if_needed
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from ...conf import conf, is_consumer
from ...exceptions import GarminUnavailable
from ..frozen import refuse_frozen
from ..tracebacks import hide_frames
from ..verdicts import Answer, judge_page
from .causes import unanswered
from .deadline import deadline, remaining, seconds_of
from .instruments import as_it_was, hidden_from_instruments, without_query
from .redaction import redaction
from .sockets import DeadlinePool, DeadlineTLSSocket
from .streams import as_stream

# Where garth publishes the consumer key of Garmin's Android app (recorded traffic).
CONSUMER_URL = "https://thegarth.s3.amazonaws.com/oauth_consumer.json"
CONSUMER_TIMEOUT = 10  # Seconds.
# How many transports to keep. A site needs one for each domain; settings that change, as in tests,
# add more.
KEPT = 8

# If the server closed an idle connection in the pool, it is opened again, once. If reading an
# answer fails, the request is repeated only for idempotent methods. No status causes a repetition,
# and Retry-After is ignored, because urllib3 would sleep for up to six hours.
RETRIES = Retry(
    total=1, status=0, redirect=0, other=0, respect_retry_after_header=False, backoff_factor=0
)


def require_garmin(url: str, domain: str) -> None:
    """Refuse to send a request to a host that is not Garmin's.

    Args:
        url: the URL of the request.
        domain: Garmin's domain.

    Raises:
        GarminUnavailable: the host is not in the domain, or the URL is not https.
    """
    parts = urlsplit(url)
    host = rf"[a-z0-9.-]+\.{re.escape(domain)}"
    if parts.scheme == "https" and re.fullmatch(host, parts.hostname or ""):
        return
    raise GarminUnavailable(
        f"Refused to send a request to {parts.scheme}://{parts.hostname}, "
        f"which is not a host of {domain}."
    )


def proxy_credentials(url: str) -> tuple[str, str]:
    """Return the user name and password in a proxy's URL, unquoted; "" for each that is missing."""
    parts = urlsplit(url)
    return unquote(parts.username or ""), unquote(parts.password or "")


def without_credentials(url: str) -> str:
    """Return a proxy's URL without user name and password, which libraries' messages may repeat."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


class GarminAdapter(HTTPAdapter):
    """The adapter of all our requests sessions: TLS to Garmin's hosts only, within the deadline.

    Args:
        domain: Garmin's domain.
        proxy: the URL of the site's proxy, None for no proxy.
        ca_bundle: the path of the PEM file to trust.

    Raises:
        OSError: the CA bundle cannot be read.
    """

    def __init__(self, domain: str, proxy: str | None, ca_bundle: str) -> None:
        self._domain = domain
        self._proxies = {"https": proxy} if proxy else {}
        # Not ssl.create_default_context(), which follows SSLKEYLOGFILE.
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self._tls.load_verify_locations(ca_bundle)
        self._tls.sslsocket_class = DeadlineTLSSocket
        super().__init__(pool_maxsize=32, max_retries=RETRIES)
        if proxy:
            # Created now, because requests would create one for each of several concurrent threads.
            self.proxy_manager_for(prepend_scheme_if_needed(proxy, "http"))

    def init_poolmanager(self, *args, **kwargs):
        super().init_poolmanager(*args, ssl_context=self._tls, **kwargs)
        self._use_deadlines(self.poolmanager)

    def proxy_manager_for(self, proxy, **kwargs):
        manager = super().proxy_manager_for(
            proxy, ssl_context=self._tls, proxy_ssl_context=self._tls, **kwargs
        )
        self._use_deadlines(manager)
        return manager

    def build_connection_pool_key_attributes(self, request, verify, cert=None):
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {"ssl_context": self._tls}

    def cert_verify(self, conn, url, verify, cert):
        """Leave verification to the TLS context, whatever the session asks for."""

    def proxy_headers(self, proxy):
        """Encode the proxy's user name and password in UTF-8, as curl does. requests uses Latin-1.

        Args:
            proxy: the proxy's URL.
        """
        username, password = proxy_credentials(proxy)
        if not username:
            return {}
        token = b64encode(f"{username}:{password}".encode()).decode()
        return {"Proxy-Authorization": f"Basic {token}"}

    def request_url(self, request, proxies):
        return without_query(super().request_url(request, proxies))

    @redaction()  # Here too, for requests that the site sends through the session itself.
    def send(self, request, stream=False, timeout=None, verify=True, cert=None, proxies=None):
        """Send a request within ``timeout``, or within the current deadline if that is earlier.

        Args:
            request: the prepared request.
            stream: whether the caller reads the body.
            timeout: as for ``seconds_of``.
            verify, cert, proxies: ignored.

        Raises:
            Frozen: this site must not connect to Garmin.
            GarminUnavailable: there was no answer, or the request or its redirect goes to a host
                that is not Garmin's.
        """
        refuse_frozen()
        with as_it_was(request):
            return self._send(request, stream, timeout)

    def _send(self, request: Any, stream: bool, timeout: Any) -> requests.Response:
        if request.url != CONSUMER_URL or "Authorization" in request.headers:
            require_garmin(request.url, self._domain)
        seconds, fault = seconds_of(timeout), None
        with deadline(seconds):
            try:
                response = super().send(
                    request, stream=stream, timeout=remaining(), proxies=self._proxies
                )
            except (requests.RequestException, HTTPError, OSError) as exc:
                fault = unanswered(exc, request.url)
        if fault:
            raise fault
        as_stream(response.raw, request.url, seconds)
        if response.is_redirect:
            self._require_garmins_redirect(request.url, response)
        return response

    def _require_garmins_redirect(self, url: str, response: requests.Response) -> None:
        problem = ""
        try:
            require_garmin(urljoin(url, response.headers["location"]), self._domain)
        except GarminUnavailable as exc:
            problem = str(exc)
        except ValueError:
            problem = "Garmin redirected a request to something that is not a URL."
        if problem:
            response.close()
            raise GarminUnavailable(problem)

    @staticmethod
    def _use_deadlines(manager) -> None:
        manager.pool_classes_by_scheme = {
            **manager.pool_classes_by_scheme,
            "https": DeadlinePool,
        }


class GarminSession(requests.Session):
    """One user's cookies and headers. A request and its redirects share one deadline.

    Args:
        adapter: the adapter that all sessions share.
        on_fault: called with the error if there is no answer.
    """

    def __init__(
        self, adapter: GarminAdapter, on_fault: Callable[[GarminUnavailable], None]
    ) -> None:
        super().__init__()
        self.trust_env = False
        self.adapters.clear()
        self.mount("https://", adapter)
        self._on_fault = on_fault

    @sensitive_variables()
    def send(self, request, **kwargs):
        try:
            return hide_frames(lambda: self._send(request, **kwargs))
        except GarminUnavailable as exc:
            self._on_fault(exc)
            raise

    def _send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        with deadline(seconds_of(kwargs.get("timeout"))):
            try:
                with hidden_from_instruments(request):
                    return super().send(request, **kwargs)
            except (requests.RequestException, UnicodeError) as exc:
                fault = unanswered(exc, str(request.url))
        raise fault


class Transport:
    """A connection pool, and the OAuth consumer fetched through it.

    All users of the process share the connections. They never share cookies and headers, which
    belong to the session that ``new_session`` makes for one user.

    Args:
        domain, proxy, ca_bundle: as for ``GarminAdapter``.
    """

    def __init__(self, domain: str, proxy: str | None, ca_bundle: str) -> None:
        self._adapter = GarminAdapter(domain, proxy, ca_bundle)
        self._consumer: dict[str, str] | None = None
        self._consumer_lock = threading.Lock()

    def new_session(
        self, on_fault: Callable[[GarminUnavailable], None] = lambda error: None
    ) -> requests.Session:
        """Return a new session for one user.

        Requests that get no answer and streams that break raise GarminUnavailable, which says why.
        A request without a ``timeout`` has ``GARMIN_AUTH_TIMEOUT`` seconds.

        Args:
            on_fault: called with the error if there is no answer.
        """
        return GarminSession(self._adapter, on_fault)

    def consumer(self) -> dict[str, str]:
        """Return the OAuth consumer: the one in the settings, or the published one.

        The published one is fetched once per process.

        Returns:
            A dict with ``consumer_key`` and ``consumer_secret``.

        Raises:
            GarminUnavailable: it could not be fetched. The next call tries again.
        """
        if conf.OAUTH_CONSUMER is not None:
            return dict(conf.OAUTH_CONSUMER)
        if self._consumer is None:
            wait = min(remaining() or CONSUMER_TIMEOUT, CONSUMER_TIMEOUT)
            if not self._consumer_lock.acquire(timeout=wait):
                raise GarminUnavailable("Waited too long for another thread to fetch the consumer.")
            try:
                if self._consumer is None:
                    self._consumer = self._fetch_consumer()
            finally:
                self._consumer_lock.release()
        return dict(self._consumer)

    def _fetch_consumer(self) -> dict[str, str]:
        # Closing the session would close the shared adapter.
        answer = Answer.of(self.new_session().get(CONSUMER_URL, timeout=CONSUMER_TIMEOUT))
        judge_page(answer)
        if not is_consumer(answer.json):
            raise GarminUnavailable("The OAuth consumer was fetched, but has an unknown format.")
        return {key: answer.json[key] for key in ("consumer_key", "consumer_secret")}


_transports: dict[tuple[int, str, str | None, str], Transport] = {}


def get_transport(domain: str) -> Transport:
    """Return this process's transport for one of Garmin's domains, with the current settings.

    Args:
        domain: Garmin's domain, whose hosts are the only ones that can be reached.

    Raises:
        GarminUnavailable: the CA bundle cannot be read.
    """
    bundle = conf.CA_BUNDLE or certifi.where()
    try:
        return _transport(os.getpid(), domain, conf.PROXIES.get("https"), bundle)
    except OSError as exc:
        problem = exc.strerror or type(exc).__name__
    raise GarminUnavailable(f"The CA bundle {bundle} cannot be used: {problem}.")


def _transport(pid: int, domain: str, proxy: str | None, ca_bundle: str) -> Transport:
    # One per process, because a TLS connection must not be used on both sides of a fork.
    key = (pid, domain, proxy, ca_bundle)
    transport = _transports.get(key)
    if transport is None:
        # If several threads make one at the same time, all use the first. There is no lock, because
        # a fork could leave it locked in the child.
        transport = _transports.setdefault(key, Transport(domain, proxy, ca_bundle))
        for old in list(_transports)[:-KEPT]:
            _transports.pop(old, None)
    return transport
