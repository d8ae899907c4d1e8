"""The cache that ``GARMIN_AUTH_CACHE`` names. The app works without it.

If the cache cannot be reached, the app continues without cooldowns and throttles. The log and the
report of a run of checks say so.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.utils.crypto import salted_hmac

from ..conf import conf
from ..storage.threads import Context

logger = logging.getLogger("garmin_auth")

T = TypeVar("T")

# Each process logs a failure at most once in this many seconds.
QUIET = 60


def cache_key(*parts: Any) -> str:
    """Return the key of something that concerns the whole site.

    It is an HMAC with SECRET_KEY: it reveals nothing, is legal in every backend, and differs from
    that of another site that uses the same cache.

    Args:
        parts: what is cached. Equal parts give equal keys.
    """
    name = "\0".join(map(str, parts))
    digest = salted_hmac("garmin_auth.limits.shared_cache", name, algorithm="sha256").hexdigest()
    return f"garmin_auth:{digest}"


def tenant_cache_key(*parts: Any) -> str:
    """Return the key of something that concerns one user or row of the current tenant.

    ``GARMIN_AUTH_THREAD_CONTEXT`` names the tenant.

    Args:
        parts: what is cached. Equal parts of one tenant give equal keys.
    """
    return cache_key("tenant", Context().tenant, *parts)


class CacheIsSilent(Exception):
    """The cache neither does what it is asked nor raises, so it is away.

    django-redis with ``IGNORE_EXCEPTIONS`` then returns None, and pymemcache with ``ignore_exc``
    False, which is also what ``add()`` returns for a key that is set.
    """


class SharedCache:
    """Wraps Django's cache. A call that fails is logged, and returns a default.

    Attributes:
        failures: the number of calls that have failed in this process.
    """

    def __init__(self) -> None:
        self.failures = 0
        self._logged_at = float("-inf")

    def get(self, key: str, default: Any = None) -> Any:
        return self._call(lambda cache: cache.get(key, default), default)

    def set(self, key: str, value: Any, timeout: float) -> None:
        self._call(lambda cache: cache.set(key, value, timeout), None)

    def add(self, key: str, value: Any, timeout: float) -> bool:
        """Set the key and return True, unless it is already set.

        Returns:
            False if the key was already set. True even if the cache cannot be reached.
        """

        def add(cache: Any) -> bool:
            added = cache.add(key, value, timeout)
            if not added and cache.get(key) is None:
                # Another process has just removed the key, or the cache is away.
                _require_answer(cache)
            return bool(added)

        return self._call(add, True)

    def increment(self, key: str, delta: int) -> int | None:
        """Add ``delta`` and return the sum.

        Returns:
            None if the key is not set, or the cache cannot be reached.
        """

        def increment(cache: Any) -> int | None:
            try:
                value = cache.incr(key, delta) if delta > 0 else cache.decr(key, -delta)
            except ValueError:  # The key is not set.
                return None
            if value is None or value is False:
                raise CacheIsSilent
            return int(value)

        return self._call(increment, None)

    def touch(self, key: str, timeout: float) -> None:
        self._call(lambda cache: cache.touch(key, timeout), None)

    def delete(self, key: str) -> None:
        self._call(lambda cache: cache.delete(key), None)

    def answers(self) -> bool:
        """Return whether the cache keeps what it is given. If not, that is logged."""
        failures = self.failures
        self._call(_require_answer, None)
        return self.failures == failures

    def _call(self, call: Callable[[Any], T], default: T) -> T:
        try:
            return call(caches[conf.CACHE])
        except ImproperlyConfigured:
            raise
        except Exception as exc:  # noqa: BLE001 - each backend has its own exceptions
            self._report(exc)
            return default

    def _report(self, exc: Exception) -> None:
        self.failures += 1
        if time.monotonic() < self._logged_at + QUIET:
            return
        self._logged_at = time.monotonic()
        # The exception's text may hold the cache's URL and password.
        logger.warning(
            "The cache %r cannot be used (%s). Cooldowns and throttles are not enforced.",
            conf.CACHE,
            type(exc).__qualname__,
            extra={"event": "cache_failed", "error": type(exc).__qualname__},
        )


def _require_answer(cache: Any) -> None:
    """Raise if the cache does not keep a key."""
    probe = cache_key("probe")
    cache.set(probe, 1, QUIET)
    if cache.get(probe) is None:
        raise CacheIsSilent


shared_cache = SharedCache()
