"""The rate at which all workers of the site together begin checks: ``GARMIN_AUTH_CHECK_RATE``.

Time is cut into turns, each as long as the rate leaves for one check. A turn belongs to whoever is
the first to add its key to the cache that ``GARMIN_AUTH_CACHE`` names. Adding is atomic in Redis,
in Memcached and in the database; counting (``incr``) is not in the last.
"""

import math
import time

from django.core.cache import caches

from .conf import conf

# Seconds that a turn stays taken after it has passed: for workers whose clock is behind.
KEPT = 60


def reserve_turn(within: float) -> float | None:
    """Reserve the next turn that nobody has, and return when it comes.

    Turns that nobody took are lost: making up for them would be a burst.

    Args:
        within: how many seconds ahead to look.

    Returns:
        The moment, as ``time.time()`` tells it; now, without a limit. None: all turns are taken.
    """
    now = time.time()
    rate = conf.CHECK_RATE
    if rate is None:
        return now
    cache = caches[conf.CACHE]
    # With the rate in the keys, a new one begins with turns of its own.
    key = f"garmin_auth:turn:{rate:g}"
    last = math.floor((now + within) * rate)
    # All turns before the one that is noted are known to be taken or over.
    for turn in range(max(math.ceil(now * rate), cache.get(key, 0)), last + 1):
        until = turn / rate - now + KEPT
        if cache.add(f"{key}:{turn}", 1, until):
            cache.set(key, turn + 1, until)
            return turn / rate
    return None
