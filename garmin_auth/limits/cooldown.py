"""Stop asking Garmin, in every process, after it has answered 429.

A rate limit on a refresh or an API call starts a cooldown for all sessions of that Garmin domain;
or, if the session's engine says so, for those with the same credential. A rate limit on a login
starts one for that Garmin account's logins only. Cooldowns are kept in the cache that
``GARMIN_AUTH_CACHE`` names. A site's tenants share them: to Garmin they are one address.
"""

import time

from django.utils.crypto import salted_hmac

from ..engines.base import Engine
from ..engines.secret import Secret
from ..exceptions import GarminAuthError, RateLimited
from .shared_cache import cache_key, shared_cache

# Seconds. If Garmin does not say how long to wait, the first cooldown lasts FIRST, and each further
# one twice as long as the previous one, up to LONGEST.
FIRST = 60
LONGEST = 3600
# How the scope of all sessions of a domain begins.
SITE = "site-"
# How the scope of a credential begins.
CREDENTIAL = "credential-"
# For how many seconds a process relies on having seen that nothing is stored for a scope, and of
# how many scopes it remembers that. The cache is read twice for each API call otherwise.
SEEN_FOR, MOST_SEEN = 1, 1000
nothing_seen: dict[str, float] = {}
# How many cooldowns this process has started.
_started = 0


def site_scope(domain: str) -> str:
    """Return the scope of all sessions of one of Garmin's domains.

    Args:
        domain: Garmin's domain. The two are different services, and limit rates separately.
    """
    return SITE + domain


def account_scope(email: str, domain: str) -> str:
    """Return the scope of one Garmin account's logins: an HMAC, never the address itself.

    Args:
        email: the account's e-mail address.
        domain: Garmin's domain. The same address may have an account in each.
    """
    return _hmac(f"{domain} {email.strip().lower()}")


def credential_scope(credential: Secret) -> str:
    """Return the scope of all requests with a user's own credential: an HMAC of it."""
    return CREDENTIAL + _hmac(credential.reveal())


def session_scope(engine: Engine, session_data: str) -> str:
    """Return the scope of a session's refreshes and API calls.

    Args:
        engine: the session's engine, which knows to what Garmin's rate limits apply.
        session_data: the session.
    """
    credential = engine.rate_limited_by(session_data)
    return site_scope(engine.domain) if credential is None else credential_scope(credential)


def seconds_left(scope: str) -> int:
    """Return how many seconds are left of the cooldown, 0 if there is none."""
    stored = _stored(scope)
    return max(0, -int(-(stored[0] - time.time()) // 1)) if stored else 0


def require_none(scope: str) -> None:
    """Raise if a cooldown is in force.

    Args:
        scope: what one of the functions above returned.

    Raises:
        RateLimited: with the seconds left in ``retry_after``.
    """
    if left := seconds_left(scope):
        raise RateLimited(left, "Garmin is rate limiting us; it is not asked during the cooldown.")


def update(scope: str, error: GarminAuthError | None) -> None:
    """Start a cooldown after a rate limit, end it after a success; ignore any other error.

    Args:
        scope: what one of the functions above returned.
        error: what the call raised; None if it succeeded.
    """
    if error is None:
        end(scope)
    elif isinstance(error, RateLimited):
        start(scope, error.retry_after)


def start(scope: str, retry_after: int | None) -> None:
    """Start a cooldown of the length that Garmin asked for.

    If it named no time, the cooldown is twice as long as the previous one, and a cooldown of logins
    is the longest.

    Args:
        scope: what one of the functions above returned.
        retry_after: the seconds that Garmin asked for; None if it named no time.
    """
    global _started
    now = time.time()
    until, length = shared_cache.get(_key(scope), (0, 0))
    if until > now and retry_after is None:
        return  # Calls already in progress when the cooldown started do not extend it.
    first = FIRST if scope.startswith((SITE, CREDENTIAL)) else LONGEST
    length = retry_after or min(LONGEST, 2 * length or first)
    # Kept for a while after the cooldown ends, so that the next one can be longer.
    shared_cache.set(_key(scope), (max(until, now + length), length), length + 2 * LONGEST)
    # In this order: a thread that has read the cache before notes nothing any more.
    _started += 1
    nothing_seen.pop(scope, None)


def end(scope: str) -> None:
    """Forget a cooldown that is over, and its length, because Garmin answers again.

    A cooldown still in force stays: the successful call was in progress when it started.
    """
    stored = _stored(scope)
    if stored is not None and stored[0] <= time.time():
        shared_cache.delete(_key(scope))


def _stored(scope: str) -> tuple[float, int] | None:
    """Return until when the cooldown lasts, and its length; None if nothing is stored."""
    seen_at = nothing_seen.get(scope)
    if seen_at is not None and time.monotonic() < seen_at + SEEN_FOR:
        return None
    before = _started, shared_cache.failures
    stored: tuple[float, int] | None = shared_cache.get(_key(scope))
    if stored is None and before == (_started, shared_cache.failures):
        if len(nothing_seen) >= MOST_SEEN:
            nothing_seen.clear()
        nothing_seen[scope] = time.monotonic()
    return stored


def _hmac(text: str) -> str:
    return salted_hmac("garmin_auth.limits.cooldown", text, algorithm="sha256").hexdigest()


def _key(scope: str) -> str:
    return cache_key("cooldown", scope)
