"""Limit how often a user, or a client, may log in, and how often anyone may to one Garmin account.

The counts are kept in the cache that ``GARMIN_AUTH_CACHE`` names.
"""

import time
from typing import Any

from django.http import HttpRequest
from django.utils.module_loading import import_string

from ..conf import conf
from ..exceptions import LoginThrottled
from .shared_cache import cache_key, shared_cache, tenant_cache_key

# How many logins a user may make to one Garmin account, and in how many seconds.
USER_LIMIT, USER_WINDOW = 5, 900
# How many logins a user may make to all accounts together. Without this limit the site would help
# people to try stolen passwords, until Garmin blocks its address.
TOTAL_LIMIT, TOTAL_WINDOW = 20, 3600
# How many logins all users behind one address may make. This limit is higher, because a school or a
# mobile network may have only one address.
CLIENT_LIMIT, CLIENT_WINDOW = 100, 3600
# How many logins all users together may make to one account. This limit is higher, so that nobody
# can lock out the owner by entering their address.
ACCOUNT_LIMIT, ACCOUNT_WINDOW = 50, 3600


def address_of(request: HttpRequest) -> str:
    """Return the address of the client, "" if the site does not say how to find it."""
    if conf.CLIENT_ADDRESS is None:
        return ""
    return str(import_string(conf.CLIENT_ADDRESS)(request) or "")


def count_login(user: Any, account: str, client_address: str = "") -> list[str]:
    """Count a login, before Garmin is asked. A login that is refused here does not count.

    Args:
        user: the user who logs in.
        account: the Garmin account's ``cooldown.account_scope``.
        client_address: the address of the user's device; "" if not known.

    Returns:
        What was counted, for ``give_back``.

    Raises:
        LoginThrottled: over a limit; the next login is allowed after ``retry_after`` seconds.
    """
    limits = [
        (_user_key(user, account), USER_LIMIT, USER_WINDOW),
        (tenant_cache_key("logins", user.pk), TOTAL_LIMIT, TOTAL_WINDOW),
        (cache_key("logins", account), ACCOUNT_LIMIT, ACCOUNT_WINDOW),
    ]
    if client_address:
        limits.append((cache_key("client", client_address), CLIENT_LIMIT, CLIENT_WINDOW))
    counted: list[str] = []
    try:
        for key, limit, window in limits:
            counted.append(key)
            _count(key, limit, window)
    except LoginThrottled:
        give_back(counted)
        raise
    return counted


def give_back(counted: list[str]) -> None:
    """Count a login no more, because Garmin did not judge it.

    Args:
        counted: what ``count_login`` returned.
    """
    for key in counted:
        if shared_cache.increment(key, -1) is not None:
            _keep_timeout(key)


def accept_password(user: Any, account: str) -> None:
    """Count a login no more as a failure at this account, because its password was right.

    It still counts against the limit for all accounts: else whoever knows the password could start
    logins, and guess codes, without limit.
    """
    give_back([_user_key(user, account)])


def reset(user: Any, account: str) -> None:
    """Forget this user's logins for an account, once one of them has produced a session."""
    shared_cache.delete(_user_key(user, account))


def _count(key: str, limit: int, window: int) -> None:
    cache = shared_cache
    if cache.add(key, 1, window):
        cache.set(_end_key(key), time.time() + window, window)
        return
    count = cache.increment(key, 1)
    if count is None:  # It was reset a moment ago.
        cache.add(key, 1, window)
        return
    left = _keep_timeout(key)
    if count > limit:
        raise LoginThrottled(left or window)


def _keep_timeout(key: str) -> int:
    """Return the seconds until the key's window ends, 0 if not known.

    In some backends, incr() and decr() reset the key's timeout to the default.
    """
    end = shared_cache.get(_end_key(key))
    if end is None:
        return 0
    left = max(1, int(end - time.time()))
    shared_cache.touch(key, left)
    return left


def _end_key(key: str) -> str:
    return f"{key}:end"


def _user_key(user: Any, account: str) -> str:
    return tenant_cache_key("logins", user.pk, account)
