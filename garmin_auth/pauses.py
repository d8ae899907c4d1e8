"""Stop asking Garmin, in all processes, when it has asked us to slow down.

A refresh's or an API call's rate limit pauses the site; a login's pauses that account's logins.
Pauses live in the cache that ``GARMIN_AUTH_CACHE`` names, under keys that tell no address.
"""

import time

from django.core.cache import caches
from django.utils.crypto import salted_hmac

from .conf import conf
from .exceptions import GarminAuthError, RateLimited

# Seconds: the first pause where Garmin says none, doubled each time, up to the longest.
FIRST = 60
LONGEST = 3600
SITE = "site"


def account_scope(email: str) -> str:
    """Return the scope of one Garmin account's logins: an HMAC, never the address itself."""
    return salted_hmac("garmin_auth.pauses", email.strip().lower(), algorithm="sha256").hexdigest()


def seconds_left(scope: str) -> int:
    """Return for how many more seconds Garmin must not be asked, 0: it may be."""
    until, _ = caches[conf.CACHE].get(_key(scope), (0, 0))
    return max(0, -int(-(until - time.time()) // 1))


def respect(scope: str) -> None:
    """Refuse to go on while a pause lasts.

    Args:
        scope: ``SITE``, or an account's.

    Raises:
        RateLimited: Garmin must not be asked yet; ``retry_after`` tells for how long.
    """
    if left := seconds_left(scope):
        raise RateLimited(left, "Garmin limits our requests; nobody asks before the pause is over.")


def heed(scope: str, error: GarminAuthError | None) -> None:
    """Begin a pause after a rate limit, forget it after a success; other errors change nothing.

    Args:
        scope: ``SITE``, or an account's.
        error: how Garmin was found; None for a success.
    """
    if error is None:
        forget(scope)
    elif isinstance(error, RateLimited):
        begin(scope, error.retry_after)


def begin(scope: str, retry_after: int | None) -> None:
    """Pause for as long as Garmin said, else for twice as long as the last time.

    Args:
        scope: ``SITE``, or an account's.
        retry_after: seconds, as Garmin said; None where it did not.
    """
    cache = caches[conf.CACHE]
    now = time.time()
    until, length = cache.get(_key(scope), (0, 0))
    if until > now and retry_after is None:
        return  # Calls that were under way when the pause began do not make it longer.
    length = retry_after or min(LONGEST, 2 * length or FIRST)
    # Remembered for a while after its end, so that the next one can be longer.
    cache.set(_key(scope), (max(until, now + length), length), length + 2 * LONGEST)


def forget(scope: str) -> None:
    """Forget a pause that is over, and how long it was: Garmin has answered.

    One that lasts goes on: a call that succeeds meanwhile was under way when it began.
    """
    cache = caches[conf.CACHE]
    pause = cache.get(_key(scope))
    if pause is not None and pause[0] <= time.time():
        cache.delete(_key(scope))


def _key(scope: str) -> str:
    return f"garmin_auth:pause:{scope}"
