"""Who may knock at Garmin's door, and how often.

Counts live in the cache that ``GARMIN_AUTH_CACHE`` names, under HMACs, never addresses.
"""

import time
from collections.abc import Callable
from typing import Any, TypeVar
from uuid import uuid4

from django.core.cache import caches

from .conf import conf
from .exceptions import GarminAuthError, LoginThrottled
from .failures import from_record, to_record

T = TypeVar("T")

# Logins that one user may try for one Garmin account, and seconds until they are forgotten.
USER_LIMIT, USER_WINDOW = 5, 900
# A loose cap for one account, whoever tries, so that nobody locks its owner out by typing it.
ACCOUNT_LIMIT, ACCOUNT_WINDOW = 50, 3600


def admit(user: Any, account: str) -> None:
    """Count a login before Garmin is asked.

    Args:
        user: who tries.
        account: the Garmin account's ``pauses.account_scope``.

    Raises:
        LoginThrottled: too many lately; ``retry_after`` tells when the next may come.
    """
    _count(f"{user.pk}:{account}", USER_LIMIT, USER_WINDOW)
    _count(account, ACCOUNT_LIMIT, ACCOUNT_WINDOW)


def forgive(user: Any, account: str) -> None:
    """Forget this user's tries for an account: one has brought a session.

    A password that leads to a code is not enough: codes could be guessed without an end.
    """
    caches[conf.CACHE].delete(_key(f"{user.pk}:{account}"))


def one_at_a_time(user: Any, seconds: float, login: Callable[[], T]) -> T | None:
    """Let one login of a user through; another waits for it and shares its failure.

    Args:
        user: who logs in.
        seconds: how long a login may take.
        login: the login.

    Returns:
        What ``login`` returned; None if it was another's, which has not failed.

    Raises:
        GarminAuthError: as this login or the other's ended.
    """
    cache, mine = caches[conf.CACHE], uuid4().hex
    key = f"garmin_auth:login:{user.pk}"
    failure_key = f"{key}:failure"
    if cache.add(key, mine, seconds):
        cache.delete(failure_key)
        try:
            return login()
        except GarminAuthError as exc:
            # SECURITY: not the exception itself, to which a third engine may tie anything.
            cache.set(failure_key, to_record(exc), seconds)
            raise
        finally:
            if cache.get(key) == mine:
                cache.delete(key)
    gives_up_at = time.monotonic() + seconds
    while cache.get(key) is not None and time.monotonic() < gives_up_at:
        time.sleep(0.1)
    failure = cache.get(failure_key)
    if failure is not None:
        raise from_record(failure)
    return None


def _count(name: str, limit: int, window: int) -> None:
    cache, key = caches[conf.CACHE], _key(name)
    begun = time.time()
    if cache.add(key, 1, window):
        cache.set(f"{key}:since", begun, window)
        return
    try:
        count = cache.incr(key)
    except ValueError:  # It has just been forgotten.
        cache.add(key, 1, window)
        return
    since = cache.get(f"{key}:since", begun)
    # Some backends' incr() gives the key their default time-out.
    cache.touch(key, max(1, since + window - begun))
    if count > limit:
        raise LoginThrottled(max(1, int(since + window - begun)))


def _key(name: str) -> str:
    return f"garmin_auth:door:{name}"
