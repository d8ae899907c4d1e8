"""Sessions created without a login, in the format of each library's `dumps()`.

Garmin's client for the Personal API has no such format, so those sessions are in this app's own.
"""

import base64
import json
import time
from collections.abc import Callable

from . import diauth, keys, oauth1
from .state import Garmin


def issue(garmin: Garmin, email: str, engine: str, access_expired: bool) -> str:
    """Create a session. Raises `LookupError` (unknown account) or `ValueError` (engine)."""
    if engine not in ENGINES:
        raise ValueError(f"Unknown engine {engine!r}. Choose one of {', '.join(sorted(ENGINES))}.")
    return ENGINES[engine](garmin, email, access_expired)


def _garth(garmin: Garmin, email: str, access_expired: bool) -> str:
    account = garmin.account(email)
    token = garmin.oauth1.issue(account)
    access = garmin.access.issue(account, oauth1.CLIENT_ID, expired=access_expired)
    now = int(time.time())
    tokens = [
        {
            "oauth_token": token.token,
            "oauth_token_secret": token.secret,
            "mfa_token": token.mfa_token,
            "mfa_expiration_timestamp": token.mfa_expires_at
            and time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(token.mfa_expires_at)),
            "domain": garmin.domain,
        },
        {
            "scope": access["scope"],
            "jti": access["jti"],
            "token_type": access["token_type"],
            "access_token": access["access_token"],
            "refresh_token": access["refresh_token"],
            "expires_in": access["expires_in"],
            "expires_at": now - 60 if access_expired else now + access["expires_in"],
            "refresh_token_expires_in": access["refresh_token_expires_in"],
            "refresh_token_expires_at": now + access["refresh_token_expires_in"],
        },
    ]
    return base64.b64encode(json.dumps(tokens).encode()).decode()


def _garminconnect(garmin: Garmin, email: str, access_expired: bool) -> str:
    client_id = diauth.CLIENT_IDS[0]
    tokens = garmin.diauth.issue(garmin.account(email), client_id, expired=access_expired)
    session = {
        "di_token": tokens["access_token"],
        "di_refresh_token": tokens["refresh_token"],
        "di_client_id": client_id,
    }
    return json.dumps(session)


def _personal(garmin: Garmin, email: str, access_expired: bool) -> str:
    key = garmin.keys.add(garmin.account(email), keys.DAYS)
    token = garmin.keys.exchange(key, expired=access_expired)
    now = time.time()
    session = {
        "domain": garmin.domain,
        "key": key,
        "key_ends_at": now + keys.DAYS * keys.DAY,
        "token": token,
        "token_ends_at": now - 60 if access_expired else now + garmin.access.lifetime,
    }
    return json.dumps(session)


ENGINES: dict[str, Callable[[Garmin, str, bool], str]] = {
    "garth": _garth,
    "garminconnect": _garminconnect,
    "personal": _personal,
}
