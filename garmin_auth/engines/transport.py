"""How bytes travel to Garmin: by whom we are led, whom we trust, and which hosts we speak to.

Everything comes from the app's own settings. The environment (``REQUESTS_CA_BUNDLE``,
``HTTPS_PROXY``, ``~/.netrc``, ``SSLKEYLOGFILE``) changes nothing, also not for sessions that a
library makes on its own, because the adapter ignores what they pass to it.
"""

import os
import re
import ssl
import threading
from urllib.parse import urljoin, urlsplit

import certifi
import requests
from requests.adapters import HTTPAdapter
from requests.utils import prepend_scheme_if_needed
from urllib3.util import Retry

from ..conf import conf, is_consumer
from ..exceptions import GarminAuthError, GarminUnavailable
from .answers import Answer, judge_page
from .deadline import DeadlinePool, DeadlineTLSSocket, deadline, remaining
from .redaction import redaction

# Where garth publishes the consumer key of Garmin's Android app (recorded traffic).
CONSUMER_URL = "https://thegarth.s3.amazonaws.com/oauth_consumer.json"
CONSUMER_TIMEOUT = 10  # seconds
# A site has one; settings that change, as in tests, leave so many behind.
KEPT = 8

# A connection that the server closed while it lay in the pool is opened again, once, and a read
# is repeated only for methods that change nothing. Statuses are never repeated and Retry-After
# never slept through: urllib3 would obey up to six hours of it.
RETRIES = Retry(
    total=1, status=0, redirect=0, other=0, respect_retry_after_header=False, backoff_factor=0
)


def require_garmin(url: str, domain: str) -> None:
    """Refuse to send anything to a host that is not Garmin's.

    Args:
        url: where a request is about to go.
        domain: Garmin's domain.

    Raises:
        GarminUnavailable: it is another host, or not https.
    """
    parts = urlsplit(url)
    host = rf"[a-z0-9.-]+\.{re.escape(domain)}"
    if parts.scheme == "https" and re.fullmatch(host, parts.hostname or ""):
        return
    raise GarminUnavailable(
        f"Refused to send a request to {parts.scheme}://{parts.hostname}, "
        f"which is not a host of {domain}."
    )


class GarminPool(DeadlinePool):
    """Logs no ticket."""

    def urlopen(self, method, url, *args, **kwargs):
        if "ticket=" in url:
            # urllib3 logs the URL of what it repeats. A ticket works only once anyway.
            kwargs["retries"] = Retry(total=0)
        return super().urlopen(method, url, *args, **kwargs)


class GarminAdapter(HTTPAdapter):
    """The only way out: TLS to Garmin's hosts, through the site's proxy, within the deadline.

    Args:
        domain: Garmin's domain.
        proxy: URL of the proxy, or None.
        ca_bundle: path of the PEM file to trust.
    """

    def __init__(self, domain: str, proxy: str | None, ca_bundle: str) -> None:
        self._domain = domain
        self._proxies = {"https": proxy} if proxy else {}
        # Not ssl.create_default_context(): it obeys SSLKEYLOGFILE.
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self._tls.load_verify_locations(ca_bundle)
        self._tls.sslsocket_class = DeadlineTLSSocket
        super().__init__(pool_maxsize=32, max_retries=RETRIES)
        if proxy:
            # Now: requests would make one for each of several threads that come at once.
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
        """Leave it to the TLS context: what a session says of verification does not count."""

    @redaction()  # Here too, for what a site sends through the session itself.
    def send(self, request, stream=False, timeout=None, verify=True, cert=None, proxies=None):
        if request.url != CONSUMER_URL or "Authorization" in request.headers:
            require_garmin(request.url, self._domain)
        response = super().send(request, stream=stream, timeout=remaining(), proxies=self._proxies)
        if response.is_redirect:
            try:
                require_garmin(urljoin(request.url, response.headers["location"]), self._domain)
            except GarminUnavailable:
                response.close()
                raise
        return response

    @staticmethod
    def _use_deadlines(manager) -> None:
        manager.pool_classes_by_scheme = {
            **manager.pool_classes_by_scheme,
            "https": GarminPool,
        }


class Transport:
    """One pool of connections, and the consumer key that came through it.

    Connections are shared by all users of the process. Cookies and headers never are: those live
    in the session that ``new_session`` makes for one user.
    """

    def __init__(self, domain: str, proxy: str | None, ca_bundle: str) -> None:
        self._adapter = GarminAdapter(domain, proxy, ca_bundle)
        self._consumer: dict[str, str] | None = None
        self._consumer_lock = threading.Lock()

    def new_session(self) -> requests.Session:
        """Return a session of its own for one user."""
        session = requests.Session()
        session.trust_env = False
        session.adapters.clear()
        session.mount("https://", self._adapter)
        return session

    def consumer(self) -> dict[str, str]:
        """Return the OAuth consumer: the setting's, or the published one, fetched once a process.

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
        problem = ""
        try:
            with deadline(CONSUMER_TIMEOUT):  # Closing the session would close the shared adapter.
                answer = Answer.of(self.new_session().get(CONSUMER_URL))
        except GarminAuthError:
            raise
        except (requests.RequestException, OSError, ValueError) as exc:
            problem = type(exc).__name__
        if problem:
            raise GarminUnavailable(f"The OAuth consumer could not be fetched: {problem}.")
        judge_page(answer)
        if not is_consumer(answer.json):
            raise GarminUnavailable("The OAuth consumer was fetched, but is not of a known form.")
        return {key: answer.json[key] for key in ("consumer_key", "consumer_secret")}


_transports: dict[tuple[int, str, str | None, str], Transport] = {}


def get_transport() -> Transport:
    """Return this process's transport for the settings as they are now.

    Raises:
        GarminUnavailable: the CA bundle cannot be read.
    """
    bundle = conf.CA_BUNDLE or certifi.where()
    try:
        return _transport(os.getpid(), conf.DOMAIN, conf.PROXIES.get("https"), bundle)
    except OSError as exc:
        problem = exc.strerror or type(exc).__name__
    raise GarminUnavailable(f"The CA bundle {bundle} cannot be used: {problem}.")


def _transport(pid: int, domain: str, proxy: str | None, ca_bundle: str) -> Transport:
    # By process: a TLS connection must not be used on both sides of a fork.
    key = (pid, domain, proxy, ca_bundle)
    transport = _transports.get(key)
    if transport is None:
        # All threads use the first one, whoever else has made one meanwhile. No lock: a fork could
        # leave it locked in the child.
        transport = _transports.setdefault(key, Transport(domain, proxy, ca_bundle))
        for old in list(_transports)[:-KEPT]:
            _transports.pop(old, None)
    return transport
