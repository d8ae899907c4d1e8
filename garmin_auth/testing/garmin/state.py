"""The state of one region of the simulated Garmin: accounts, SSO, keys and tokens.

Garmin runs two services that know nothing of each other, garmin.com and garmin.cn.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from .accounts import Account, Accounts
from .bearers import AccessTokens
from .diauth import RefreshTokens
from .keys import Keys
from .oauth1 import OAuth1Tokens
from .sso import SignOn

DOMAINS = ("garmin.com", "garmin.cn")


@dataclass
class Garmin:
    """One region. Its methods, and those of its parts, can be called from any thread."""

    domain: str
    lock: threading.RLock
    code_sent: Callable[[str, str], None] | None = None
    accounts: Accounts = field(init=False)
    sso: SignOn = field(init=False)
    access: AccessTokens = field(init=False)
    oauth1: OAuth1Tokens = field(init=False)
    diauth: RefreshTokens = field(init=False)
    keys: Keys = field(init=False)

    def __post_init__(self):
        self.reset()

    def reset(self) -> None:
        """Forget everything, including the region's options."""
        with self.lock:
            self.accounts = Accounts(self.lock, self.domain)
            self.sso = SignOn(self.lock, self.accounts, self.code_sent)
            self.access = AccessTokens(self.lock, self.domain)
            self.oauth1 = OAuth1Tokens(self.lock, self.access)
            self.diauth = RefreshTokens(self.lock, self.access)
            self.keys = Keys(self.lock, self.access)

    def account(self, email: str) -> Account:
        return self.accounts.get(email)

    def mfa_code(self, email: str) -> str:
        code = self.account(email).code
        if code is None:
            raise LookupError(f"No code has been sent to {email} yet.")
        return code

    def set_password(self, email: str, password: str, sign_out_everywhere: bool = True) -> None:
        with self.lock:
            self.account(email).password = password
            if sign_out_everywhere:
                self.sign_out(email)

    def sign_out(self, email: str) -> None:
        """End the sessions of logins. That it leaves keys alone is assumed."""
        account = self.account(email)
        with self.lock:
            self.oauth1.revoke(account)
            self.diauth.revoke(account)
            self.access.expire(account)

    def revoke(self, email: str) -> None:
        with self.lock:
            self.sign_out(email)
            self.keys.revoke(self.account(email))

    def expire_access_tokens(self, email: str | None = None) -> None:
        self.access.expire(self.account(email) if email is not None else None)

    def expire_mfa(self, email: str) -> None:
        self.sso.expire_mfa(self.account(email))
