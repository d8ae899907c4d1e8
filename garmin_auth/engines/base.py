"""The interface of an engine, which speaks to Garmin for one account.

How users connect is the engine's word: a ``PasswordEngine`` logs in with an email address and a
password, and a ``KeyEngine`` takes a key that the user has made at Garmin. Stored sessions are the
same for both, and are all that ``Engine`` itself is about.

An engine takes and returns plain data, and knows no models and no users. It reads ``conf``, keeps
nothing of any account between calls, and raises only the exceptions of ``garmin_auth.exceptions``,
with no secret in them and nothing chained to them. Each call ends within ``conf.TIMEOUT`` seconds,
a login within ``login_timeout``, a refresh within ``REFRESH_TIMEOUT``.

To write your own engine, subclass one of the two and add its dotted path to
``GARMIN_AUTH_ENGINES``. Each process imports it on first use and makes one instance for each of
Garmin's domains, for all threads.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from django.utils.translation import gettext_lazy as _

from ..conf import DOMAINS, conf
from ..exceptions import GarminAuthError, GarminUnavailable, SessionUnreadable
from .secret import Secret

# Returns session data with a fresh access token, already stored.
Renew = Callable[[], str]


# Called before each API call. If it raises, Garmin is not asked.
Before = Callable[[], None]
# Called after each API call with its error, None if it succeeded.
After = Callable[[GarminAuthError | None], None]


def nothing(*arguments: Any) -> None:
    """Do nothing: for callers that need no ``before`` or ``after``."""


@dataclass(frozen=True)
class NewSession:
    """A login that has succeeded.

    Args:
        session_data: the session as text. Only the engine can read it.
        account_name: the Garmin user name, None if not known.
        validated: whether the session has already worked in an API call.
    """

    session_data: str = field(repr=False)
    account_name: str | None = field(repr=False)
    validated: bool


@dataclass(frozen=True)
class Challenge:
    """A login that waits for the user's code.

    Args:
        state: JSON-compatible data with which any process can continue the login. It never contains
            the password, and only the engine can read it.
        sent_to: where Garmin sent the code, masked by Garmin; "" if it did not say.
    """

    state: dict[str, Any] = field(repr=False)
    sent_to: str


class RefreshIncomplete(GarminUnavailable):
    """Garmin has rotated the refresh token, but sent no usable access token.

    The caller of ``refresh`` must store ``session_data``, and must not let the exception out.

    Args:
        session_data: the session with the new refresh token and the previous access token.
    """

    def __init__(self, session_data: str) -> None:
        super().__init__("Garmin sent a new refresh token, but no access token that can be used.")
        self.session_data = session_data

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return GarminUnavailable, (self.detail,)


class OpenSession(ABC):
    """A stored session in use.

    Attributes:
        client: the engine's own client, ready for API calls in this process.
        worked: whether an API call has succeeded.
    """

    client: Any

    @property
    @abstractmethod
    def worked(self) -> bool: ...

    @abstractmethod
    def close(self) -> None:
        """Release what the client holds. The client must not be used afterwards."""


class Engine(ABC):
    """What all engines have in common: stored sessions. Subclass one of its subclasses.

    Args:
        domain: Garmin's domain, whose hosts are the only ones that get a credential.

    Attributes:
        name: the short name that rows store, at most 50 characters.
        rotates: whether ``refresh`` makes the previous session data worthless.
        limited_alone: whether Garmin's rate limits apply to each user's credential by itself, which
            ``rate_limited_by`` then returns.
        use_prolongs: whether each refresh moves the session's end.
        login_timeout: seconds within which a user is connected, or is not.
        label: how users connect, as a translated sentence, by which they choose an engine where the
            site offers several.
        login_note: what users should know before they connect, as translated sentences that the
            login page shows; "" if nothing.
    """

    name: str
    rotates: bool = False
    limited_alone: bool = False
    use_prolongs: bool = False
    label: Any = ""
    login_note: Any = ""

    def __init__(self, domain: str = DOMAINS[0]) -> None:
        self.domain = domain

    @property
    def service(self) -> tuple[str, str]:
        """Engine and domain, by which sessions, limits and failures are told apart."""
        return self.name, self.domain

    @property
    def login_timeout(self) -> float:
        return conf.TIMEOUT

    @abstractmethod
    def refresh(self, session_data: str) -> str:
        """Fetch a fresh access token, within ``REFRESH_TIMEOUT``.

        Args:
            session_data: the stored session.

        Returns:
            The session data to store in its place.

        Raises:
            SessionExpired: Garmin refused the token with its own answer for a dead one. The caller
                reads the row again before it believes that: another process may have rotated the
                token.
            RefreshIncomplete: there is something to store, but the session was not refreshed.
            RateLimited, GarminUnavailable: any other failure; the session may still be alive.
            SessionUnreadable: this is not a session of this engine and this domain.
        """

    @abstractmethod
    def open(
        self, session_data: str, renew: Renew, *, before: Before = nothing, after: After = nothing
    ) -> OpenSession:
        """Make a client for a stored session, without asking Garmin.

        Args:
            session_data: the stored session.
            renew: the client calls it when the access token has expired, and when Garmin answers
                an API call with 401; it then repeats that call once. ``renew`` returns fresh
                session data, already stored, or raises. The client must not call ``refresh``
                itself.
            before: the client calls it before each request to the API. If it raises, the client
                does not ask Garmin.
            after: the client calls it once each API call has ended, repetition included, with the
                call's error, None if it succeeded. If it raises, that exception replaces the error.

        Raises:
            SessionUnreadable: this is not a session of this engine and this domain.
        """

    @abstractmethod
    def read_export(self, text: str) -> str:
        """Convert the text that the engine's library exports into session data, for an import.

        Args:
            text: the exported text.

        Raises:
            SessionUnreadable: it is something else. ``detail`` says what, and what to do, without
                repeating any of it.
        """

    def read_folder(self, path: Path) -> str:
        """Convert the folder in which the engine's library keeps a session into session data.

        Args:
            path: the folder.

        Raises:
            SessionUnreadable: it is something else, or this engine has no such folders.
        """
        raise SessionUnreadable(f"The engine {self.name} keeps no sessions in folders.")

    def rate_limited_by(self, session_data: str) -> Secret | None:
        """Return the credential to which Garmin's rate limits apply.

        Args:
            session_data: a session that ``open`` accepts.

        Returns:
            The user's own credential, if a rate limit leaves all other users alone; None if rate
            limits apply to the site's address, so that Garmin must be asked nothing for a while.
        """
        return None

    def ends_at(self, session_data: str) -> datetime | None:
        """Return when a session that is stored now ends by itself, at the latest.

        If ``use_prolongs``, this is asked again after each refresh.

        Args:
            session_data: the session.

        Returns:
            The time; None if it is not known.
        """
        return None

    def access_ends_at(self, session_data: str) -> datetime | None:
        """Return when the access token ends, so that the caller can refresh it before then.

        Args:
            session_data: a session that ``open`` accepts.

        Returns:
            The time; None if it is not known.
        """
        return None

    @abstractmethod
    def fetch_account_name(self, session: OpenSession) -> str:
        """Ask Garmin for the user name, with one cheap call that proves that the session works.

        Args:
            session: a session that ``open`` returned.

        Returns:
            The name; "" if Garmin answers without one, which proves just as much.

        Raises:
            GarminAuthError: the call failed.
        """


class PasswordEngine(Engine):
    """The base class of engines that log in with an email address and a password.

    Attributes:
        slow_login: whether a login may take longer than a web request should. If so, the pages run
            it in the background and show that it is in progress.
    """

    slow_login: bool = False
    label = _("With your Garmin password")

    @abstractmethod
    def login(self, email: Secret, password: Secret) -> NewSession | Challenge:
        """Log in with a password.

        Args:
            email: the Garmin account's email address. Call ``reveal()`` where it is sent.
            password: its password, likewise. Nothing keeps it after the call.

        Returns:
            The session, or a challenge if Garmin asks for a code.

        Raises:
            LoginRejected: Garmin refuses the login; the subclass says why.
            RateLimited, GarminUnavailable: Garmin did not judge the login.
        """

    @abstractmethod
    def submit_code(self, state: dict[str, Any], code: Secret) -> NewSession | Challenge:
        """Finish a login with the user's code, in any process.

        Args:
            state: the ``state`` of the challenge.
            code: what the user typed. Call ``reveal()`` where it is sent.

        Returns:
            The session. If the code was wrong, the challenge for the next attempt, with the cookies
            that this answer set; its ``sent_to`` may be "", because the caller already knows it.

        Raises:
            LoginRejected: Garmin has ended the login; the subclass says why.
            RateLimited, GarminUnavailable: Garmin did not judge the code; the login goes on.
            SessionUnreadable: ``state`` is not a challenge of this engine and this domain.
        """


class KeyEngine(Engine):
    """The base class of engines that take a key, which the user has made at Garmin."""

    label = _("With a key from Garmin Connect")

    def read_key(self, key: Secret) -> Secret:
        """Return the key that the user has pasted, without what was copied along with it.

        Args:
            key: what the user has pasted.

        Raises:
            InvalidKey: this cannot be a key.
        """
        return Secret(key.reveal().strip())

    @abstractmethod
    def connect(self, key: Secret, ends_at: datetime | None) -> NewSession:
        """Make a session of a key, which Garmin has to accept.

        Args:
            key: what ``read_key`` returned. Call ``reveal()`` where it is sent.
            ends_at: when the key ends, as far as the user knows; None if not known. ``ends_at()``
                of the session returns it.

        Returns:
            The session.

        Raises:
            KeyRefused: Garmin does not accept the key.
            RateLimited, GarminUnavailable: Garmin did not judge the key.
        """
