"""The refresh tokens of diauth, which garminconnect's sessions use. Each works once."""

import threading
import time
from collections import deque
from dataclasses import dataclass

from .accounts import Account, Refused
from .bearers import AccessTokens

# What garminconnect 0.3.20 calls itself, newest first.
CLIENT_IDS = (
    "GARMIN_CONNECT_MOBILE_ANDROID_DI_2025Q2",
    "GARMIN_CONNECT_MOBILE_ANDROID_DI_2024Q4",
    "GARMIN_CONNECT_MOBILE_ANDROID_DI",
    "GARMIN_CONNECT_MOBILE_IOS_DI",
)
SPENT_KEPT = 10_000  # spent tokens whose owners are remembered for the log; limited for long runs


@dataclass(slots=True)
class RefreshToken:
    account: Account
    client_id: str
    ends_at: float
    active: bool = True


class RefreshTokens:
    def __init__(self, lock: threading.RLock, access: AccessTokens):
        self.rotate = True
        self._lock = lock
        self._access = access
        self._tokens: dict[str, RefreshToken] = {}
        self._spent: deque[str] = deque()

    def issue(self, account: Account, client_id: str, *, expired: bool = False) -> dict:
        """Issue an access token and a refresh token, and return the token endpoint's JSON.

        With `expired`, the access token has already expired.
        """
        with self._lock:
            answer = self._access.issue(account, client_id, expired=expired)
            ends_at = time.time() + answer["refresh_token_expires_in"]
            self._tokens[answer["refresh_token"]] = RefreshToken(account, client_id, ends_at)
            return answer

    def refresh(self, refresh_token: str, client_id: str) -> dict:
        """Return a new access token and a new refresh token, as the token endpoint's JSON.

        The old refresh token stops working; if `rotate` is off, it is kept instead. Raises
        `Refused` (refresh_token), also for a token of another client.
        """
        with self._lock:
            found = self._tokens.get(refresh_token)
            if (
                found is None
                or not found.active
                or found.ends_at <= time.time()
                or found.client_id != client_id
            ):
                raise Refused("refresh_token")
            if self.rotate:
                found.active = False
                self._forget_in_time(refresh_token)
                return self.issue(found.account, client_id)
            answer = self._access.issue(found.account, client_id)
            found.ends_at = time.time() + answer["refresh_token_expires_in"]
            return answer | {"refresh_token": refresh_token}

    def revoke(self, account: Account) -> None:
        with self._lock:
            for token in self._tokens.values():
                if token.account is account:
                    token.active = False

    def owner(self, refresh_token: str) -> str | None:
        with self._lock:
            found = self._tokens.get(refresh_token)
            return found.account.email if found else None

    def _forget_in_time(self, refresh_token: str) -> None:
        self._spent.append(refresh_token)
        if len(self._spent) > SPENT_KEPT:
            del self._tokens[self._spent.popleft()]
