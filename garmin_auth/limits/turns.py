"""A user's logins, and their codes, go to Garmin one at a time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from ..exceptions import GarminUnavailable
from ..storage.threads import release_pooled_connections
from .shared_cache import shared_cache, tenant_cache_key

# Seconds between two looks at a request that is waited for.
PAUSE = 0.1


@contextmanager
def turn(kind: str, user: Any, seconds: float, mark: Any = None) -> Iterator[list[Any]]:
    """Hold the user's turn for a kind of request, once their other requests of it have ended.

    Args:
        kind: what they request, such as ``"login"``.
        user: the user.
        seconds: how long the turn may last, and how long to wait for it.
        mark: what a request that waits for this one is told about it. It may not be secret.

    Yields:
        The marks of the requests that were waited for.

    Raises:
        GarminUnavailable: the wait took too long.
    """
    cache, key = shared_cache, tenant_cache_key("turn", kind, user.pk)
    lock, marks = [uuid4().hex, mark], []
    gives_up_at = time.monotonic() + seconds
    while not cache.add(key, lock, seconds):
        holder = cache.get(key)
        if holder and holder[1] not in marks:
            marks.append(holder[1])
        if time.monotonic() > gives_up_at:
            raise GarminUnavailable(f"Another {kind} of this user is in progress.")
        release_pooled_connections()
        time.sleep(PAUSE)
    try:
        yield marks
    finally:
        if (cache.get(key) or lock)[0] == lock[0]:
            cache.delete(key)
