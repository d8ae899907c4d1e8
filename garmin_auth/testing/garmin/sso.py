"""Single sign-on: cookie sessions, logins that are waiting for a code, and service tickets."""

import base64
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .accounts import Account, Accounts, Refused

MFA_LIFETIME = 600  # seconds; Garmin's is not known, ten minutes is common
MFA_MAX_ATTEMPTS = 5  # wrong codes before every answer is "codeEntryMaxLimit"; assumed

SSO_COOKIES = ("SESSION", "__VCAP_ID__", "__cflb", "__cf_bm", "_cfuvid")


@dataclass(slots=True)
class PendingLogin:
    account: Account
    service: str
    code: str | None  # None: not sent yet
    expires_at: float
    wrong_codes: int = 0


@dataclass(slots=True)
class SsoSession:
    cookies: dict[str, str]
    csrf: str | None = None
    pending: PendingLogin | None = None


@dataclass(slots=True)
class Ticket:
    account: Account
    service: str


@dataclass(slots=True)
class Login:
    """The result of a correct password or code: a ticket, or a pending login."""

    account: Account
    service: str
    ticket: str = ""  # empty: a code is needed first


class SignOn:
    """The sessions that the mobile, portal and widget flows share."""

    def __init__(
        self,
        lock: threading.RLock,
        accounts: Accounts,
        code_sent: Callable[[str, str], None] | None,
    ):
        self.rotate_mfa_cookie = True
        self._lock = lock
        self._accounts = accounts
        self._code_sent = code_sent
        self._sessions: dict[str, SsoSession] = {}
        self._tickets: dict[str, Ticket] = {}
        self._logins: dict[str, Login] = {}

    # Sessions

    def open_session(self) -> dict[str, str]:
        """Start an SSO session, and return its cookies."""
        cookies = {
            "SESSION": _session_id(),
            "__VCAP_ID__": str(uuid.uuid4()),
            "__cflb": secrets.token_urlsafe(32),
            "__cf_bm": f"{secrets.token_urlsafe(32)}-{int(time.time())}-1.0.1.1",
            "_cfuvid": f"{secrets.token_urlsafe(32)}-{int(time.time())}-0.0.1.1-604800000",
        }
        with self._lock:
            self._sessions[cookies["SESSION"]] = SsoSession(cookies)
        return dict(cookies)

    def new_csrf(self, cookies: dict[str, str]) -> str:
        """Return the token that the session's next form must contain.

        Raises `Refused` (no_session).
        """
        with self._lock:
            session = self._session(cookies, ("SESSION",))
            session.csrf = secrets.token_hex(40).upper()
            return session.csrf

    def check_csrf(self, cookies: dict[str, str], csrf: str) -> None:
        """Raise `Refused` (no_session, csrf) unless the token is right."""
        with self._lock:
            wanted = self._session(cookies, ("SESSION",)).csrf
        if wanted is None or not secrets.compare_digest(wanted.encode(), csrf.encode()):
            raise Refused("csrf")

    # Logging in

    def log_in(
        self,
        cookies: dict[str, str],
        email: str,
        password: str,
        service: str,
        *,
        send_code: bool = True,
    ) -> Login:
        """Check the password of a login for `service`, a URL.

        Without `send_code`, an MFA account gets its code when `send_code()` is called.
        Raises `Refused` (no_session without the SESSION cookie of the sign-in page; password).
        """
        with self._lock:
            session = self._session(cookies, ("SESSION",))
            account = self._accounts.check_password(email, password)
            if not account.mfa:
                session.pending = None
                return self._logged_in(account, service)
            session.pending = PendingLogin(account, service, None, time.monotonic() + MFA_LIFETIME)
        if send_code:
            self.send_code(cookies)
        return Login(account, service)

    def send_code(self, cookies: dict[str, str], guid: str | None = None) -> None:
        """Send a new code for the pending login, which invalidates the previous one.

        `guid` is the account, if the request names it. Raises `Refused` (no_session, guid).
        """
        with self._lock:
            pending = self._session(cookies, ("SESSION",)).pending
            if pending is None:
                raise Refused("no_session")
            account = pending.account
            if guid is not None and guid != account.guid:
                raise Refused("guid")
            code = pending.code = account.code = f"{secrets.randbelow(10**6):06}"
        if self._code_sent:
            self._code_sent(account.email, code)

    def verify_code(self, cookies: dict[str, str], code: str, method: str | None) -> Login:
        """Finish the pending login of this SSO session. Its code works once.

        `method` is the client's word for where the code was sent, None if it does not say. Raises
        `Refused` (no_session if one of the session's five cookies is missing or out of date;
        code_invalid, code_expired, code_max).
        """
        with self._lock:
            session = self._session(cookies, SSO_COOKIES)
            pending = session.pending
            if pending is None:
                raise Refused("no_session")
            if pending.expires_at <= time.monotonic():
                raise Refused("code_expired")
            if pending.wrong_codes >= MFA_MAX_ATTEMPTS:
                raise Refused("code_max")
            right = pending.code is not None and secrets.compare_digest(
                pending.code.encode(), code.encode()
            )
            if not right or method not in (None, pending.account.mfa_method):
                pending.wrong_codes += 1
                raise Refused("code_invalid", self._rotate(session))
            session.pending = None
            return self._logged_in(pending.account, pending.service)

    def remember(self, login: Login) -> str:
        """Keep a login for the page after a redirect, and return the token for that page's URL."""
        token = secrets.token_hex(5)
        with self._lock:
            self._logins[token] = login
        return token

    def recall(self, token: str) -> Login | None:
        """Return the login that was kept under this token, the first time only."""
        with self._lock:
            return self._logins.pop(token, None)

    def pending(self, cookies: dict[str, str]) -> Account | None:
        """Return the account whose login is waiting for a code in this session."""
        with self._lock:
            session = self._sessions.get(cookies.get("SESSION", ""))
            return session.pending.account if session and session.pending else None

    def expire_mfa(self, account: Account) -> None:
        with self._lock:
            for session in self._sessions.values():
                if session.pending and session.pending.account is account:
                    session.pending.expires_at = 0

    def _session(self, cookies: dict[str, str], needed: Iterable[str]) -> SsoSession:
        session = self._sessions.get(cookies.get("SESSION", ""))
        if session is None or any(cookies.get(n) != session.cookies[n] for n in needed):
            raise Refused("no_session")
        return session

    def _rotate(self, session: SsoSession) -> dict[str, str]:
        if not self.rotate_mfa_cookie:
            return {}
        del self._sessions[session.cookies["SESSION"]]
        session.cookies["SESSION"] = _session_id()
        self._sessions[session.cookies["SESSION"]] = session
        return {"SESSION": session.cookies["SESSION"]}

    # Tickets

    def redeem(self, ticket: str, service: str) -> Account:
        """Return the owner of this ticket, which works once. Raises `Refused` (ticket)."""
        with self._lock:
            found = self._tickets.pop(ticket, None)
            if found is None or found.service != service:
                raise Refused("ticket")
            return found.account

    def owner_of_ticket(self, ticket: str) -> str | None:
        with self._lock:
            found = self._tickets.get(ticket)
            return found.account.email if found else None

    def _logged_in(self, account: Account, service: str) -> Login:
        ticket = f"ST-{secrets.randbelow(10**7):07}-{secrets.token_hex(10)}-sso"
        self._tickets[ticket] = Ticket(account, service)
        return Login(account, service, ticket)


def _session_id() -> str:
    return base64.b64encode(str(uuid.uuid4()).encode()).decode()
