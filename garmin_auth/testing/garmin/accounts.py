"""The accounts of the simulated Garmin, and its refusals.

Like all state in `state.Garmin`, this is plain data under one lock; it knows nothing of the network
or the wire format. A step that Garmin refuses raises `Refused` with a reason, which the modules
that answer requests translate into Garmin's words.
"""

import hashlib
import secrets
import threading
import uuid
from collections import deque
from dataclasses import dataclass, field


class Refused(Exception):
    """Garmin refuses a request.

    `reason` is one of: no_session, csrf, guid, password, code_invalid, code_expired, code_max,
    ticket, client, refresh_token, key, signature, oauth1, mfa_token, no_bearer, bearer. `cookies`
    are the cookies that the refusal sets.
    """

    def __init__(self, reason: str, cookies: dict[str, str] | None = None):
        super().__init__(reason)
        self.reason = reason
        self.cookies = cookies or {}


@dataclass(slots=True)
class Account:
    email: str
    password: str
    mfa: bool
    mfa_method: str
    display_name: str
    full_name: str
    steps: int | None
    profile_id: int
    guid: str
    domain: str
    code: str | None = None
    access_tokens: deque[str] = field(default_factory=deque)


class Accounts:
    """The accounts of one region, whose domain is `domain`."""

    def __init__(self, lock: threading.RLock, domain: str):
        self._lock = lock
        self._domain = domain
        self._by_email: dict[str, Account] = {}
        self._by_display_name: dict[str, Account] = {}

    def add(
        self,
        email: str,
        password: str,
        *,
        mfa: bool = False,
        mfa_method: str = "email",
        display_name: str | None = None,
        full_name: str | None = None,
        steps: int | None = None,
    ) -> Account:
        seed = hashlib.sha256(f"{email.lower()} {self._domain}".encode()).digest()
        account = Account(
            email=email,
            password=password,
            mfa=mfa,
            mfa_method=mfa_method,
            display_name=display_name or str(uuid.UUID(bytes=seed[:16], version=4)),
            full_name=full_name or email.partition("@")[0].replace(".", " ").title(),
            steps=steps,
            profile_id=10_000_000 + int.from_bytes(seed[16:20], "big") % 89_999_999,
            guid=str(uuid.UUID(bytes=seed[16:32], version=4)),
            domain=self._domain,
        )
        with self._lock:
            if email.lower() in self._by_email:
                raise ValueError(f"There is an account {email} already.")
            if account.display_name in self._by_display_name:
                raise ValueError(f"There is an account with the name {display_name} already.")
            self._by_email[email.lower()] = account
            self._by_display_name[account.display_name] = account
        return account

    def get(self, email: str) -> Account:
        with self._lock:
            try:
                return self._by_email[email.lower()]
            except KeyError:
                raise LookupError(
                    f"No account {email} at {self._domain}: add it with add_account()."
                ) from None

    def check_password(self, email: str, password: str) -> Account:
        """Return the account. Raises `Refused` (password), even if there is no such account."""
        with self._lock:
            account = self._by_email.get(email.lower())
            if account is None or not secrets.compare_digest(
                account.password.encode(), password.encode()
            ):
                raise Refused("password")
            return account

    def owner_of_email(self, email: str) -> str | None:
        with self._lock:
            account = self._by_email.get(email.lower())
            return account.email if account else None

    def owner_of_name(self, display_name: str) -> Account | None:
        with self._lock:
            return self._by_display_name.get(display_name)
