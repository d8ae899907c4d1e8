"""The simulator, as tests use it."""

import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from .control import PREFIX
from .garmin import keys, sessions
from .garmin.faults import Faults, check
from .garmin.journal import Journal
from .garmin.server import LOOPBACK, Server
from .garmin.state import DOMAINS, Garmin


class GarminSimulator:
    """A simulated Garmin on this machine for a site's tests: a real server that keeps state.

    Clients reach it through its proxy (see `settings`), so they talk TLS to sso.garmin.com and
    connectapi.garmin.com as in production. It makes no connections itself, and refuses hosts that
    are not Garmin's. Its two regions, garmin.com and garmin.cn, know nothing of each other's
    accounts and credentials. Other processes, even forked ones, control it with a
    `RemoteGarminSimulator`::

        with GarminSimulator() as garmin:
            garmin.add_account("ada@example.com", "correct horse", mfa=True)
            with override_settings(**garmin.settings):
                ...

    `port` is the port to listen on; 0 means any free one. `host` is the address to listen on, such
    as "0.0.0.0" for other machines; anyone who reaches it can also control the simulator. `ca_file`
    is where to write the CA certificate, readable by everyone; None means a temporary file of this
    user's. `code_sent(email, code)` is called, in a
    thread of the server, for each MFA code that Garmin would send.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = LOOPBACK,
        ca_file: str | os.PathLike[str] | None = None,
        code_sent: Callable[[str, str], None] | None = None,
    ):
        self._lock = threading.RLock()
        self.regions = {domain: Garmin(domain, self._lock, code_sent) for domain in DOMAINS}
        self.faults = Faults(self._lock)
        self.journal = Journal(self._lock)
        self.latency = 0.0
        self._proxy_credentials: tuple[str, str] | None = None
        self._host, self._wanted_port = host, port
        self._ca_file = ca_file
        self._server: Server | None = None
        self._ca_bundle: str | None = None
        self._pid: int | None = None

    def __enter__(self) -> "GarminSimulator":
        return self.start()

    def __exit__(self, *exc_info) -> None:
        self.stop()

    def start(self) -> "GarminSimulator":
        """Start listening.

        Raises `OSError` if the port is in use or `ca_file` cannot be written, `RuntimeError` if the
        simulator is already running.
        """
        if self._server is not None:
            raise RuntimeError("This simulator is already running.")
        self._server = Server(self, self._host, self._wanted_port)
        self._pid = os.getpid()
        try:
            self._ca_bundle = self._write_ca(self._server.ca_pem)
        except OSError:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Close the port and all connections, end the threads, and delete the CA file.

        Calling it again does nothing.
        """
        # In a forked child, the server belongs to the parent.
        if self._server is None or os.getpid() != self._pid:
            return
        self._server.stop()
        if self._ca_bundle is not None:
            Path(self._ca_bundle).unlink(missing_ok=True)
            self._ca_bundle = None
        self._server = None

    def _running(self) -> Server:
        if self._server is None:
            raise RuntimeError("The simulator is not running: call start(), or use a with block.")
        return self._server

    def _write_ca(self, pem: bytes) -> str:
        if self._ca_file is None:
            handle, path = tempfile.mkstemp(prefix="garmin-simulator-", suffix=".pem")
            with open(handle, "wb") as bundle:
                bundle.write(pem)
            return path
        path = os.fspath(self._ca_file)
        Path(path).write_bytes(pem)
        os.chmod(path, 0o644)  # It holds no key, and others are to read it.
        return path

    # Addresses

    @property
    def port(self) -> int:
        return self._running().port

    @property
    def proxy_url(self) -> str:
        """The URL of the simulator's proxy, on this machine: `http://127.0.0.1:<port>`."""
        return f"http://{self._running().host}:{self.port}"

    @property
    def ca_bundle(self) -> str:
        """The path of a PEM file with the CA certificate of the simulator."""
        if self._ca_bundle is None:
            raise RuntimeError("The simulator is not running: call start(), or use a with block.")
        return self._ca_bundle

    @property
    def settings(self) -> dict:
        """The Django settings that point a site at the simulator."""
        return {
            "GARMIN_AUTH_PROXIES": {"https": self.proxy_url},
            "GARMIN_AUTH_CA_BUNDLE": self.ca_bundle,
        }

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that tell another process where the simulator is."""
        return {
            "GARMIN_SIMULATOR_PROXY": self.proxy_url,
            "GARMIN_SIMULATOR_CA_BUNDLE": self.ca_bundle,
        }

    @property
    def library_environment(self) -> dict[str, str]:
        """Environment variables for a library that has no options for a proxy and a CA file.

        This is for unmodified garminconnect in a child process. Names are set in upper and lower
        case, because lower case takes precedence: with a proxy of your own, or an exception from
        it, a login would otherwise bypass the simulator.
        """
        return {
            "HTTPS_PROXY": self.proxy_url,
            "https_proxy": self.proxy_url,
            "NO_PROXY": "",
            "no_proxy": "",
            "CURL_CA_BUNDLE": self.ca_bundle,
            "REQUESTS_CA_BUNDLE": self.ca_bundle,
        }

    @property
    def control_url(self) -> str:
        """The URL for `RemoteGarminSimulator`, to control this simulator from another process."""
        return self.proxy_url + PREFIX

    # Accounts and sessions

    def add_account(
        self,
        email: str,
        password: str,
        mfa: bool = False,
        mfa_method: str = "email",
        display_name: str | None = None,
        full_name: str | None = None,
        steps: int | None = None,
        domain: str = "garmin.com",
    ) -> dict:
        """Add an account and return it as a dict.

        It exists in one region, that of `domain`: "garmin.com" or "garmin.cn". The same address may
        have an account in both; the methods with an `email` then mean that of garmin.com, unless
        they are given the `domain`.
        `mfa_method` is Garmin's word for where it sends codes ("email", "phone"). `display_name`
        and `full_name` default to unique names. `steps` is the number of steps of every day; None
        varies it from day to day. Raises `ValueError` if the email address or display name is in
        use in that region, or for an unknown domain.
        """
        account = self._region(email, domain).accounts.add(
            email,
            password,
            mfa=mfa,
            mfa_method=mfa_method,
            display_name=display_name,
            full_name=full_name,
            steps=steps,
        )
        described = asdict(account)
        del described["code"], described["access_tokens"]
        return described

    def _region(self, email: str, domain: str | None) -> Garmin:
        if domain is not None:
            check(domain, DOMAINS, "domain")
            return self.regions[domain]
        regions = self.regions.values()
        with_account = (region for region in regions if region.accounts.owner_of_email(email))
        return next(with_account, self.regions[DOMAINS[0]])

    def mfa_code(self, email: str, domain: str | None = None) -> str:
        """Return the code last sent to the account. Raises `LookupError` if there is none."""
        return self._region(email, domain).mfa_code(email)

    def issue_session(
        self,
        email: str,
        engine: str = "garth",
        *,
        access_expired: bool = False,
        domain: str | None = None,
    ) -> str:
        """Create a valid session without a login, as the engine stores it.

        `engine` is "garth", "garminconnect", or "personal", with a new key. With `access_expired`,
        the access token has expired, so the session needs a refresh. Raises `ValueError` for an
        unknown engine or domain.
        """
        return sessions.issue(self._region(email, domain), email, engine, access_expired)

    def add_key(self, email: str, days: float = keys.DAYS, domain: str | None = None) -> str:
        """Make a key for the Personal API that ends after so many days, and return it.

        Garmin offers 30, 90, 180 and 365 days. Raises `ValueError` for an unknown domain.
        """
        region = self._region(email, domain)
        return region.keys.add(region.account(email), days)

    def renew_key(self, key: str, days: float = keys.DAYS) -> str:
        """Replace a key, which ends at once with its tokens, and return the new one."""
        return self._keys(key).renew(key, days)

    def delete_key(self, key: str) -> None:
        """End a key and its tokens at once."""
        self._keys(key).delete(key)

    def _keys(self, key: str) -> keys.Keys:
        found = (region.keys for region in self.regions.values() if region.keys.owner(key))
        return next(found, self.regions[DOMAINS[0]].keys)

    def set_password(
        self,
        email: str,
        new_password: str,
        sign_out_everywhere: bool = True,
        domain: str | None = None,
    ) -> None:
        """Change the password. With `sign_out_everywhere`, end all sessions, as Garmin offers.

        Keys for the Personal API stay.
        """
        self._region(email, domain).set_password(email, new_password, sign_out_everywhere)

    def revoke(self, email: str, domain: str | None = None) -> None:
        """End the account's sessions: its tokens, exchanges, refreshes and keys are now refused."""
        self._region(email, domain).revoke(email)

    def expire_access_tokens(self, email: str | None = None, domain: str | None = None) -> None:
        """Expire the access tokens of one account, or of all, so that sessions need a refresh.

        Without `email`, `domain` limits it to the accounts of one region.
        """
        if email is not None:
            return self._region(email, domain).expire_access_tokens(email)
        if domain is not None:
            check(domain, DOMAINS, "domain")
        for region in self.regions.values():
            if domain in (None, region.domain):
                region.expire_access_tokens()

    def expire_mfa(self, email: str, domain: str | None = None) -> None:
        """Expire the account's pending logins."""
        self._region(email, domain).expire_mfa(email)

    # Faults and behaviour

    def fail(
        self,
        step: str,
        fault: str,
        times: int | None = 1,
        *,
        account: str | None = None,
        domain: str | None = None,
        **options,
    ) -> None:
        """Queue a fault for the next `times` requests of a step; None means until `heal()`.

        The faults of a step are used in the order in which they were queued. With `account` (an
        email address), only requests with that account's credentials are affected; with `domain`,
        only those to that region. `faults.KINDS` lists the faults with their steps and options.
        Raises `ValueError` for an unknown one.
        """
        self.faults.add(step, fault, times, account, domain, **options)

    def heal(self, step: str | None = None) -> None:
        """Remove the faults queued for one step, or for all."""
        self.faults.heal(step)

    def set_latency(self, seconds: float) -> None:
        """Wait this many seconds before each answer."""
        self.latency = float(seconds)

    @property
    def access_token_lifetime(self) -> int:
        """Lifetime in seconds of the access tokens issued from now on."""
        return self.regions[DOMAINS[0]].access.lifetime

    @access_token_lifetime.setter
    def access_token_lifetime(self, seconds: int) -> None:
        self.set_access_token_lifetime(seconds)

    def set_access_token_lifetime(self, seconds: int) -> None:
        for region in self.regions.values():
            region.access.lifetime = int(seconds)

    @property
    def rotate_mfa_cookie(self) -> bool:
        """Whether a wrong code changes the SESSION cookie, which the next attempt has to send."""
        return self.regions[DOMAINS[0]].sso.rotate_mfa_cookie

    @rotate_mfa_cookie.setter
    def rotate_mfa_cookie(self, rotate: bool) -> None:
        self.set_rotate_mfa_cookie(rotate)

    def set_rotate_mfa_cookie(self, rotate: bool) -> None:
        for region in self.regions.values():
            region.sso.rotate_mfa_cookie = bool(rotate)

    @property
    def rotate_refresh_tokens(self) -> bool:
        """Whether each refresh replaces diauth's refresh token."""
        return self.regions[DOMAINS[0]].diauth.rotate

    @rotate_refresh_tokens.setter
    def rotate_refresh_tokens(self, rotate: bool) -> None:
        self.set_rotate_refresh_tokens(rotate)

    def set_rotate_refresh_tokens(self, rotate: bool) -> None:
        for region in self.regions.values():
            region.diauth.rotate = bool(rotate)

    @property
    def consumer(self) -> dict[str, str]:
        """The consumer key and secret that the simulator publishes and requires."""
        return dict(self.regions[DOMAINS[0]].oauth1.consumer)

    def set_consumer(self, key: str, secret: str) -> None:
        """Replace the consumer key, so that clients with the old one are refused."""
        for region in self.regions.values():
            region.oauth1.consumer = {"consumer_key": key, "consumer_secret": secret}

    @property
    def proxy_credentials(self) -> tuple[str, str] | None:
        """The user name and password that the proxy requires; None if it requires none."""
        return self._proxy_credentials

    @proxy_credentials.setter
    def proxy_credentials(self, credentials: tuple[str, str] | None) -> None:
        self.set_proxy_credentials(credentials)

    def set_proxy_credentials(self, credentials: tuple[str, str] | None) -> None:
        self._proxy_credentials = (credentials[0], credentials[1]) if credentials else None

    # Requests

    @property
    def counts(self) -> dict[str, int]:
        """The number of requests by name: those of `journal.COUNTS`.

        These are the steps, "other", "refused_host", "foreign_bearer", "foreign_region" (requests
        with a credential of the other region) and "bad_signature".
        """
        return self.journal.counts

    @property
    def log(self) -> list[dict]:
        """The last 10,000 requests, without secrets.

        Each has: step, method, host, path, status (None if no answer was sent), account (the owner
        of the credential sent, even in the wrong region, or None), user_agent, fault.
        """
        return self.journal.log

    @property
    def uploads(self) -> list[dict]:
        """The last 10,000 uploaded files. Each has: account, filename, sha256, size (in bytes)."""
        return self.journal.uploads

    def reset(self) -> None:
        """Forget accounts, tokens, faults, counts and changed options. The server keeps running."""
        with self._lock:
            for region in self.regions.values():
                region.reset()
            self.faults.heal()
            self.journal.reset()
            self.latency = 0.0
            self._proxy_credentials = None
