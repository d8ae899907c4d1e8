"""The keys for the Personal API, which their owners make in Garmin Connect."""

import secrets
import threading
import time
from dataclasses import dataclass

from .accounts import Account, Refused
from .bearers import AccessTokens

CLIENT_ID = "GARMIN_CONNECT_PERSONAL_API"  # assumed
DAY = 86_400  # seconds
DAYS = 365  # the longest that Garmin offers; 30, 90 and 180 are the others


@dataclass(slots=True)
class Key:
    account: Account
    ends_at: float
    active: bool = True


class Keys:
    def __init__(self, lock: threading.RLock, access: AccessTokens):
        self._lock = lock
        self._access = access
        self._keys: dict[str, Key] = {}

    def add(self, account: Account, days: float) -> str:
        """Make a key that ends after so many days, and return it. What it looks like is assumed."""
        key = secrets.token_urlsafe(32)
        with self._lock:
            self._keys[key] = Key(account, time.time() + days * DAY)
        return key

    def renew(self, key: str, days: float) -> str:
        """Replace a key, which ends at once. Return the new one."""
        with self._lock:
            self.delete(key)
            return self.add(self._keys[key].account, days)

    def delete(self, key: str) -> None:
        """End a key and its access tokens. Raises `LookupError` for one that never existed."""
        with self._lock:
            if key not in self._keys:
                raise LookupError("There is no such key: add_key() returns one.")
            self._keys[key].active = False
            self._access.revoke_key(key)

    def revoke(self, account: Account) -> None:
        """End all keys of an account."""
        with self._lock:
            for key, found in self._keys.items():
                if found.account is account:
                    self.delete(key)

    def exchange(self, key: str, *, expired: bool = False) -> str:
        """Return an access token for a key. Raises `Refused` (key).

        With `expired`, the token has already expired.
        """
        with self._lock:
            found = self._keys.get(key)
            if found is None or not found.active or found.ends_at <= time.time():
                raise Refused("key")
            token = self._access.issue(
                found.account, CLIENT_ID, expired=expired, key=key, ends_at=found.ends_at
            )
            return str(token["access_token"])

    def owner(self, key: str) -> str | None:
        with self._lock:
            found = self._keys.get(key)
            return found.account.email if found else None
