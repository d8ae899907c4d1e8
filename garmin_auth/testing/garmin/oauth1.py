"""OAuth1, which garth's sessions use: the consumer key, the year-long tokens, and the exchange."""

import secrets
import threading
import time
import uuid
from dataclasses import dataclass

from .accounts import Account, Refused
from .bearers import AccessTokens

MFA_TOKEN_LIFETIME = 365 * 86400  # seconds; recorded traffic
CLIENT_ID = "GARMIN_CONNECT_MOBILE_ANDROID_DI"

CONSUMER = {
    "consumer_key": "5e1f0a7c-0b1d-4c55-9a3e-51a1a70c0de5",
    "consumer_secret": "S1MULAT0RconsumerSecretOfNoOtherUse",
}


@dataclass(slots=True)
class OAuth1:
    account: Account
    token: str
    secret: str
    mfa_token: str | None
    mfa_expires_at: float | None
    active: bool = True


class OAuth1Tokens:
    def __init__(self, lock: threading.RLock, access: AccessTokens):
        self.consumer = dict(CONSUMER)
        self._lock = lock
        self._access = access
        self._tokens: dict[str, OAuth1] = {}

    def secret_of(self, consumer_key: str, oauth_token: str) -> tuple[str, str]:
        """Return the consumer secret and the token secret, which is "" without a token.

        Raises `Refused` (signature for a wrong consumer key, oauth1 for an unknown token).
        """
        with self._lock:
            if consumer_key != self.consumer["consumer_key"]:
                raise Refused("signature")
            if not oauth_token:
                return self.consumer["consumer_secret"], ""
            if oauth_token not in self._tokens:
                raise Refused("oauth1")
            return self.consumer["consumer_secret"], self._tokens[oauth_token].secret

    def issue(self, account: Account) -> OAuth1:
        oauth1 = OAuth1(
            account=account,
            token=str(uuid.uuid4()),
            secret=secrets.token_urlsafe(26),
            mfa_token=f"MFA-{secrets.token_urlsafe(32)}" if account.mfa else None,
            mfa_expires_at=time.time() + MFA_TOKEN_LIFETIME if account.mfa else None,
        )
        with self._lock:
            self._tokens[oauth1.token] = oauth1
        return oauth1

    def exchange(self, oauth_token: str, mfa_token: str | None) -> dict:
        """Issue an access token, and return the exchange's JSON.

        Raises `Refused` (oauth1; mfa_token if that is missing or wrong).
        """
        with self._lock:
            oauth1 = self._tokens.get(oauth_token)
            if oauth1 is None or not oauth1.active:
                raise Refused("oauth1")
            if oauth1.mfa_token and mfa_token != oauth1.mfa_token:
                raise Refused("mfa_token")
            return self._access.issue(oauth1.account, CLIENT_ID)

    def revoke(self, account: Account) -> None:
        with self._lock:
            for token in self._tokens.values():
                if token.account is account:
                    token.active = False

    def owner(self, token: str) -> str | None:
        with self._lock:
            found = self._tokens.get(token)
            return found.account.email if found else None
