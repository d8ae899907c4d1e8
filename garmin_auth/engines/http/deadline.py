"""A deadline for a whole call, from connecting to the last byte of the body.

It applies to the context (a thread or greenlet) that sets it. The module ``sockets`` enforces it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from ...conf import LARGEST, conf


class _Deadline(NamedTuple):
    ends_at: float  # On the monotonic clock.
    seconds: float


_current: ContextVar[_Deadline | None] = ContextVar("garmin_auth_deadline", default=None)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """End every network wait inside the block within ``seconds``.

    If deadlines are nested, the earliest applies. A wait that takes longer raises TimeoutError, or
    what urllib3 and requests turn it into.

    Args:
        seconds: how long the block may wait for the network.
    """
    inner = _Deadline(time.monotonic() + seconds, seconds)
    outer = _current.get()
    token = _current.set(inner if outer is None else min(outer, inner))
    try:
        yield
    finally:
        _current.reset(token)


def remaining() -> float | None:
    """Return the seconds left until the current deadline, None if there is no deadline.

    Raises:
        TimeoutError: the deadline has passed.
    """
    current = _current.get()
    if current is None:
        return None
    left = current.ends_at - time.monotonic()
    if left <= 0:
        raise TimeoutError("The call's deadline has passed.")
    return left


def length() -> float | None:
    """Return how many seconds the current deadline started with, None if there is no deadline."""
    current = _current.get()
    return None if current is None else current.seconds


def pause(seconds: float) -> bool:
    """Sleep, unless the current deadline would end first. Return whether it has slept.

    Args:
        seconds: how long to sleep.
    """
    current = _current.get()
    if current is not None and time.monotonic() + seconds >= current.ends_at:
        return False
    time.sleep(seconds)
    return True


def seconds_of(timeout: Any) -> float:
    """Return how many seconds a call with this ``timeout=`` may take, at most a year.

    Args:
        timeout: a number of seconds; or a pair of them, for connecting and reading, which are
            added. If it or one of the pair is None, which means "for ever" to requests,
            ``GARMIN_AUTH_TIMEOUT`` applies.

    Raises:
        ValueError: it is something else.
    """
    parts = timeout if isinstance(timeout, tuple) and len(timeout) == 2 else (timeout,)
    if None in parts:
        return float(conf.TIMEOUT)
    if not all(map(_is_positive, parts)):
        raise ValueError(
            f"timeout must be a number of seconds above 0, or a pair of them, not {timeout!r}."
        )
    return float(min(sum(parts), LARGEST))


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0  # Nor NaN.
