"""The access tokens that the API accepts, whichever flow issued them."""

import base64
import json
import secrets
import threading
import time
import uuid
from dataclasses import dataclass

from .accounts import Account, Refused

ACCESS_TOKEN_LIFETIME = 75017  # seconds; recorded traffic (65,000 to 107,000 have been seen)
REFRESH_TOKEN_LIFETIME = 2591999  # seconds; recorded traffic
KEPT = 100  # access tokens per account; older ones are forgotten, so that long runs stay small
EXPIRED_AGO = 60  # seconds

SCOPE = (
    "COMMUNITY_COURSE_READ GARMINPAY_WRITE GOLF_API_READ ATP_READ GHS_SAMD GHS_UPLOAD "
    "INSIGHTS_READ DIVE_API_READ CONNECT_READ CONNECT_WRITE OT_READ OT_WRITE"
)


@dataclass(slots=True)
class AccessToken:
    account: Account
    expires_at: float
    key: str | None = None  # the key for the Personal API that it was issued for
    active: bool = True


class AccessTokens:
    def __init__(self, lock: threading.RLock, domain: str):
        self.lifetime = ACCESS_TOKEN_LIFETIME
        self._lock = lock
        self._domain = domain
        self._tokens: dict[str, AccessToken] = {}

    def issue(
        self,
        account: Account,
        client_id: str,
        *,
        expired: bool = False,
        key: str | None = None,
        ends_at: float | None = None,
    ) -> dict:
        """Issue an access token, and return the JSON of the token endpoints.

        With `expired`, the token has already expired, and its `exp` claim says so. With `key`, it
        is a token of the Personal API. It expires at `ends_at` at the latest.
        """
        now = int(time.time())
        expires_at = now - EXPIRED_AGO if expired else now + self.lifetime
        if ends_at is not None:
            expires_at = min(expires_at, int(ends_at))
        jti = str(uuid.uuid4())
        claims = {
            "scope": SCOPE.split(),
            "iss": f"https://diauth.{self._domain}",
            "exp": expires_at,
            "iat": now,
            "garmin_guid": account.guid,
            "jti": jti,
            "client_id": client_id,
        }
        header = {"alg": "RS256", "typ": "JWT", "kid": "di-oauth-simulator"}
        token = ".".join((_base64url(header), _base64url(claims), secrets.token_urlsafe(256)))
        with self._lock:
            self._tokens[token] = AccessToken(account, expires_at, key)
            account.access_tokens.append(token)
            if len(account.access_tokens) > KEPT:
                del self._tokens[account.access_tokens.popleft()]
        return {
            "scope": SCOPE,
            "jti": jti,
            "access_token": token,
            "token_type": "bearer",
            "refresh_token": _base64url({"refreshTokenValue": str(uuid.uuid4()), "id": jti}),
            "expires_in": self.lifetime,
            "refresh_token_expires_in": REFRESH_TOKEN_LIFETIME,
        }

    def holder(self, token: str, *, personal: bool = False) -> Account:
        """Return the owner of this access token. Raises `Refused` (bearer).

        Tokens of the Personal API are accepted there, and nowhere else (assumed).
        """
        with self._lock:
            found = self._tokens.get(token)
            if (
                found is None
                or not found.active
                or found.expires_at <= time.time()
                or personal != bool(found.key)
            ):
                raise Refused("bearer")
            return found.account

    def revoke_key(self, key: str) -> None:
        """End the access tokens that were issued for a key."""
        with self._lock:
            for token in self._tokens.values():
                if token.key == key:
                    token.active = False

    def expire(self, account: Account | None = None) -> None:
        """Expire the access tokens of one account, or of all."""
        with self._lock:
            for token in self._tokens.values():
                if account is None or token.account is account:
                    token.active = False

    def owner(self, token: str) -> str | None:
        with self._lock:
            found = self._tokens.get(token)
            return found.account.email if found else None


def _base64url(value: dict) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
