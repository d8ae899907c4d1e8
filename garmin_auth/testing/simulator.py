"""The simulator as a test holds it."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from . import sessions
from .control import PREFIX
from .faults import Faults
from .garmin import Garmin
from .journal import Journal
from .server import LOOPBACK, Server
from .steps import HOSTS


class GarminSimulator:
    """A Garmin on 127.0.0.1, for the tests of a site: a real server that keeps state.

    It is reached through its proxy only (`settings` says how), so that the client under test
    talks TLS to sso.garmin.com and connectapi.garmin.com as it does in production. It connects to
    nothing itself, and refuses hosts that are not Garmin's. Other processes, forked ones too, steer
    it with a `RemoteGarminSimulator`::

        with GarminSimulator() as garmin:
            garmin.add_account("ada@example.com", "correct horse", mfa=True)
            with override_settings(**garmin.settings):
                ...

    `port`: where to listen; 0 takes a free one. `code_sent(email, code)` is called, in a thread
    of the server, with every MFA code that Garmin would have mailed. Starting raises `OSError`
    when the port is taken.
    """

    def __init__(self, port: int = 0, *, code_sent: Callable[[str, str], None] | None = None):
        self.garmin = Garmin(code_sent=code_sent)
        self.faults = Faults(self.garmin.lock)
        self.journal = Journal(self.garmin.lock)
        self.latency = 0.0
        self._wanted_port = port
        self._server: Server | None = None
        self._ca_bundle: str | None = None
        self._pid: int | None = None

    def __enter__(self) -> "GarminSimulator":
        return self.start()

    def __exit__(self, *exc_info) -> None:
        self.stop()

    def start(self) -> "GarminSimulator":
        """Listen. Raises `OSError` when the port is taken, `RuntimeError` when already started."""
        if self._server is not None:
            raise RuntimeError("This simulator has been started already.")
        self._server = Server(self, self._wanted_port)
        handle, self._ca_bundle = tempfile.mkstemp(prefix="garmin-simulator-", suffix=".pem")
        with open(handle, "wb") as bundle:
            bundle.write(self._server.ca_pem)
        self._pid = os.getpid()
        return self

    def stop(self) -> None:
        """Close everything: the port, every connection, every thread, the CA file. Idempotent."""
        # A forked child has the object, but the server is its parent's.
        if self._server is None or os.getpid() != self._pid:
            return
        self._server.stop()
        if self._ca_bundle is not None:
            Path(self._ca_bundle).unlink(missing_ok=True)
            self._ca_bundle = None
        self._server = None

    # Where it is

    @property
    def port(self) -> int:
        if self._server is None:
            raise RuntimeError("The simulator is not running: call start(), or use it in a with.")
        return self._server.port

    @property
    def proxy_url(self) -> str:
        """The proxy that leads to it: `http://127.0.0.1:<port>`."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def ca_bundle(self) -> str:
        """The path of a PEM file with the authority that signed its certificates."""
        if self._ca_bundle is None:
            raise RuntimeError("The simulator is not running: call start(), or use it in a with.")
        return self._ca_bundle

    @property
    def settings(self) -> dict:
        """The Django settings that point a site at it."""
        return {
            "GARMIN_AUTH_PROXIES": {"https": self.proxy_url},
            "GARMIN_AUTH_CA_BUNDLE": self.ca_bundle,
        }

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables by which another process can find it."""
        return {
            "GARMIN_SIMULATOR_PROXY": self.proxy_url,
            "GARMIN_SIMULATOR_CA_BUNDLE": self.ca_bundle,
        }

    @property
    def library_environment(self) -> dict[str, str]:
        """Environment variables that lead a library here which takes no proxy and no CA file.

        That is garminconnect, unpatched, in a child process. Both cases of the names are set:
        the lower one wins where both are, and nobody's own proxy or exception may let a login
        slip past the simulator.
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
        """What `RemoteGarminSimulator` needs to steer it from another process."""
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
    ) -> dict:
        """Open an account and return it as a dict.

        `mfa_method` is Garmin's word for where codes go ("email", "phone"). `display_name` and
        `full_name` default to something of the account's own. `steps`: the steps of every day;
        None lets them differ from day to day. Raises `ValueError` for an e-mail address or
        display name that is taken.
        """
        account = self.garmin.accounts.add(
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

    def mfa_code(self, email: str) -> str:
        """The code last sent to the account. Raises `LookupError` when none was."""
        return self.garmin.mfa_code(email)

    def issue_session(
        self,
        email: str,
        engine: str = "garth",
        *,
        access_expired: bool = False,
        domain: str = "garmin.com",
    ) -> str:
        """Mint a valid session without a login: the text that the library's `dumps()` gives.

        `engine` is the library: "garth" or "garminconnect". With `access_expired` its access
        token is over and the session must be refreshed. Raises `ValueError` naming what is legal.
        """
        if f"connectapi.{domain}" not in HOSTS:
            raise ValueError(f"{domain!r} is no domain. Legal: garmin.cn, garmin.com.")
        return sessions.issue(self.garmin, email, engine, access_expired, domain)

    def set_password(self, email: str, new_password: str, sign_out_everywhere: bool = True) -> None:
        """Change the password; with `sign_out_everywhere` as `revoke` too, as Garmin offers."""
        self.garmin.set_password(email, new_password, sign_out_everywhere)

    def revoke(self, email: str) -> None:
        """Kill the account's sessions: exchange and refresh say so, the API refuses its tokens."""
        self.garmin.revoke(email)

    def expire_access_tokens(self, email: str | None = None) -> None:
        """Make the API refuse the access tokens of one account, or all, until a new exchange."""
        self.garmin.expire_access_tokens(email)

    def expire_mfa(self, email: str) -> None:
        """Let the account's pending logins run out: their codes come too late."""
        self.garmin.expire_mfa(email)

    # Faults and behaviour

    def fail(
        self,
        step: str,
        fault: str,
        times: int | None = 1,
        *,
        account: str | None = None,
        **options,
    ) -> None:
        """Queue a fault for the next `times` requests of a step; None: until healed.

        Faults of a step are used up in the order they were queued. With `account` (an e-mail
        address) only requests with that account's credentials meet it. `faults.KINDS` lists the
        faults, with their steps and options. Raises `ValueError` naming what is legal.
        """
        self.faults.add(step, fault, times, account, **options)

    def heal(self, step: str | None = None) -> None:
        """Forget the faults queued for one step, or all."""
        self.faults.heal(step)

    def set_latency(self, seconds: float) -> None:
        """Wait so long before each answer."""
        self.latency = float(seconds)

    @property
    def access_token_lifetime(self) -> int:
        """Seconds for which an access token issued from now on is good."""
        return self.garmin.access.lifetime

    @access_token_lifetime.setter
    def access_token_lifetime(self, seconds: int) -> None:
        self.set_access_token_lifetime(seconds)

    def set_access_token_lifetime(self, seconds: int) -> None:
        self.garmin.access.lifetime = int(seconds)

    @property
    def rotate_mfa_cookie(self) -> bool:
        """Whether a wrong code answers with a new SESSION cookie, needed for the next try."""
        return self.garmin.sso.rotate_mfa_cookie

    @rotate_mfa_cookie.setter
    def rotate_mfa_cookie(self, rotate: bool) -> None:
        self.set_rotate_mfa_cookie(rotate)

    def set_rotate_mfa_cookie(self, rotate: bool) -> None:
        self.garmin.sso.rotate_mfa_cookie = bool(rotate)

    @property
    def rotate_refresh_tokens(self) -> bool:
        """Whether diauth's refresh tokens work once, each refresh answering with another."""
        return self.garmin.diauth.rotate

    @rotate_refresh_tokens.setter
    def rotate_refresh_tokens(self, rotate: bool) -> None:
        self.set_rotate_refresh_tokens(rotate)

    def set_rotate_refresh_tokens(self, rotate: bool) -> None:
        self.garmin.diauth.rotate = bool(rotate)

    @property
    def consumer(self) -> dict[str, str]:
        """The consumer key and secret it publishes and demands."""
        return dict(self.garmin.oauth1.consumer)

    def set_consumer(self, key: str, secret: str) -> None:
        """Replace the consumer key: clients that hold the old one are refused from now on."""
        self.garmin.oauth1.consumer = {"consumer_key": key, "consumer_secret": secret}

    # What it was asked

    @property
    def counts(self) -> dict[str, int]:
        """Requests received by step; also "other", "refused_host", "foreign_bearer",
        "bad_signature"."""
        return self.journal.counts

    @property
    def log(self) -> list[dict]:
        """The last 10,000 requests: step, method, host, path, status (None: no answer was sent),
        account (owner of the credential used, or None), user_agent, fault. Never secrets."""
        return self.journal.log

    @property
    def uploads(self) -> list[dict]:
        """The last 10,000 files uploaded: account, filename, sha256, size in bytes."""
        return self.journal.uploads

    def reset(self) -> None:
        """Forget accounts, tokens, faults, counts and changed options; the server goes on."""
        with self.garmin.lock:
            self.garmin.reset()
            self.faults.heal()
            self.journal.reset()
            self.latency = 0.0
