"""What an engine does: speak to Garmin for one account, plain data in and plain data out.

An engine knows no model and no user. It reads ``conf``, keeps no state of any account between
calls, and raises the exceptions of ``garmin_auth.exceptions`` and no others, with nothing secret
in them and nothing chained to them. Each of its calls ends within ``conf.TIMEOUT`` seconds, a login
within ``login_timeout``.

To write a third engine: subclass ``Engine``, and name its dotted path in ``GARMIN_AUTH_ENGINES``.
It is imported and made without arguments on first use, once a process, and its methods are called
by many threads.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ..conf import conf
from ..exceptions import GarminAuthError, SessionUnreadable

# Returns session data with a fresh access token, already stored.
Renew = Callable[[], str]


# Called before each API call; may raise, and then Garmin is not asked.
Before = Callable[[], None]
# Called with the error of each API call, None for a success.
After = Callable[[GarminAuthError | None], None]


def nothing(*arguments: Any) -> None:
    """Do nothing: for callers that need no ``before`` or ``after``."""


@dataclass(frozen=True)
class NewSession:
    """A login that has succeeded.

    Args:
        session_data: the engine's own serialisation, opaque to everybody else.
        account_name: the Garmin user name, None if not known.
        validated: whether the session has already been used with success.
    """

    session_data: str = field(repr=False)
    account_name: str | None = field(repr=False)
    validated: bool


@dataclass(frozen=True)
class Challenge:
    """A login that waits for the user's code.

    Args:
        state: all that any process needs to go on, as JSON-compatible data; never the password.
            It is the engine's own: nobody else looks into it.
        sent_to: where Garmin sent the code, masked by Garmin; "" if it did not say.
    """

    state: dict[str, Any] = field(repr=False)
    sent_to: str


class OpenSession(ABC):
    """A stored session in use.

    Attributes:
        client: the engine's own client, ready for API calls in this process.
        worked: whether Garmin has answered an API call of this session with success.
    """

    client: Any

    @property
    @abstractmethod
    def worked(self) -> bool: ...

    @abstractmethod
    def session_data(self) -> str:
        """Return the session as it is now, in the engine's own serialisation."""

    @abstractmethod
    def close(self) -> None:
        """Give back what the client holds. It must not be used afterwards."""


class Engine(ABC):
    """One way of speaking to Garmin.

    Attributes:
        name: the short name that rows store, at most 50 characters.
        slow_login: whether a login may take longer than a web request should. The pages then run
            it outside the request, and show that it is under way.
        rotates: whether ``refresh`` makes the session data before it worthless.
        login_timeout: seconds within which ``login`` ends.
        login_note: what users should know before they log in, in translated sentences; "" if
            nothing. The login page shows it.
    """

    name: str
    slow_login: bool = False
    rotates: bool = False
    login_note: Any = ""

    @property
    def login_timeout(self) -> float:
        return conf.TIMEOUT

    @abstractmethod
    def login(self, email: str, password: str) -> NewSession | Challenge:
        """Log in with a password.

        Args:
            email: the Garmin account's e-mail address.
            password: its password; it is forgotten when the call ends.

        Returns:
            The session, or a challenge where Garmin wants a code.

        Raises:
            LoginRejected: a subclass, as Garmin says.
            RateLimited, GarminUnavailable: Garmin did not judge the login.
        """

    @abstractmethod
    def submit_code(self, state: dict[str, Any], code: str) -> NewSession | Challenge:
        """Finish a login with the user's code, in any process.

        Args:
            state: the ``state`` of the challenge.
            code: what the user typed.

        Returns:
            The session, or, where the code was wrong, the challenge as it is for the next try, with
            the cookies that this answer has set. Its ``sent_to`` may be "": it is known already.

        Raises:
            LoginRejected: a subclass, as Garmin says; the challenge has ended.
            RateLimited, GarminUnavailable: Garmin did not judge the code; the challenge goes on.
            SessionUnreadable: ``state`` is not a challenge of this engine and this domain.
        """

    @abstractmethod
    def refresh(self, session_data: str) -> str:
        """Fetch a fresh access token, within ``REFRESH_TIMEOUT``.

        Args:
            session_data: the stored session.

        Returns:
            The session data to store in its place.

        Raises:
            SessionExpired: Garmin refused this session's token in the words it uses for that. The
                caller reads the row again before it believes that: another may have rotated it.
            RateLimited, GarminUnavailable: anything else; the session may well be alive.
            SessionUnreadable: not a session of this engine and this domain.
        """

    @abstractmethod
    def open(
        self, session_data: str, renew: Renew, *, before: Before = nothing, after: After = nothing
    ) -> OpenSession:
        """Make a client for a stored session, without asking Garmin.

        Args:
            session_data: the stored session.
            renew: to be called when the access token has expired, or an API call was answered 401,
                which is then repeated once. Returns fresh session data, already stored, or raises;
                the client must not call ``refresh`` itself.
            before: called before each API call; may raise, and then Garmin is not asked.
            after: called with the error of each API call, None for a success.

        Raises:
            SessionUnreadable: not a session of this engine and this domain.
        """

    @abstractmethod
    def read_export(self, text: str) -> str:
        """Turn what the engine's library exports as text into session data, for an import.

        Args:
            text: what the user of that library has.

        Raises:
            SessionUnreadable: it is something else; ``detail`` says what, and what to do, without
                repeating any of it.
        """

    def read_folder(self, path: Path) -> str:
        """Turn a folder in which the engine's library keeps a session into session data.

        Args:
            path: the folder.

        Raises:
            SessionUnreadable: it is something else, or this engine has no such folders.
        """
        raise SessionUnreadable(f"The engine {self.name} keeps no sessions in folders.")

    def ends_at(self, session_data: str) -> datetime | None:
        """Tell when a session that is stored now will end by itself, at the latest.

        Args:
            session_data: the session.

        Returns:
            The time; None if nothing is known, or if use prolongs it.
        """
        return None

    @abstractmethod
    def account_name(self, session: OpenSession) -> str:
        """Ask Garmin for the user name, with one cheap call that proves that the session works.

        Raises:
            GarminAuthError: as the call ended.
        """


# Seconds for one refresh, connect to last byte.
REFRESH_TIMEOUT = 15
