"""Limit how many checks start per second, in one run or in all of the site's processes together."""

import time
from collections.abc import Callable

from ..conf import conf
from .shared_cache import cache_key, shared_cache

# How often to look for an interruption while waiting, in seconds.
POLL = 0.1
# Seconds until the lock of a dead process expires, and between two attempts to take the lock.
LOCK_TIMEOUT, LOCK_POLL = 5, 0.01
# How many seconds a turn is remembered after it has passed.
KEPT = 60


class Pace:
    """Starts checks at a steady rate.

    Args:
        rate: checks per second in this run; None for ``GARMIN_AUTH_CHECK_RATE``, which all
            processes share.
    """

    def __init__(self, rate: float | None) -> None:
        self._interval = 1 / rate if rate else 0.0
        self._next = time.monotonic()

    def wait(self, interrupted: Callable[[], bool]) -> None:
        """Wait until the next check may start, or until interrupted.

        Lost time is not made up for, because that would cause a burst.

        Args:
            interrupted: called repeatedly while waiting; True ends the wait.
        """
        if not self._interval:
            wait_for_turn(interrupted)
            return
        sleep_until(self._next, interrupted)
        self._next = max(self._next, time.monotonic() - self._interval) + self._interval


def sleep_until(moment: float, interrupted: Callable[[], bool]) -> None:
    """Sleep until ``time.monotonic()`` reaches ``moment``, or until interrupted."""
    while (left := moment - time.monotonic()) > 0 and not interrupted():
        time.sleep(min(left, POLL))


def wait_for_turn(interrupted: Callable[[], bool]) -> None:
    """Wait for this process's turn under ``GARMIN_AUTH_CHECK_RATE``, or until interrupted."""
    if conf.CHECK_RATE is None:
        return
    turn = reserve_turn(float("inf"), interrupted)
    if turn is not None:
        sleep_until(time.monotonic() + turn - time.time(), interrupted)


def reserve_turn(within: float, interrupted: Callable[[], bool] = lambda: False) -> float | None:
    """Reserve the next turn under ``GARMIN_AUTH_CHECK_RATE`` and return when it comes.

    Unused turns are lost: making up for them would cause a burst.

    Args:
        within: how far ahead the turn may be, in seconds.
        interrupted: called while another process holds the lock; True ends the wait.

    Returns:
        The time of the turn, as ``time.time()`` counts; the present if there is no limit; None,
        with no turn reserved, if it would be further ahead, or the wait was interrupted.
    """
    rate = conf.CHECK_RATE
    if rate is None:
        return time.time()
    # When the next check of any process may start, as time.time() counts; and a lock, held while
    # that is read and written: add() is atomic in Redis, Memcached and the database, but incr() is
    # not in the database.
    next_turn, lock = cache_key("next turn"), cache_key("lock of the next turn")
    # A process stopped while it holds the lock delays the others until the lock times out.
    while not shared_cache.add(lock, 1, LOCK_TIMEOUT):
        if interrupted():
            return None
        time.sleep(LOCK_POLL)
    try:
        now = time.time()
        turn = max(now, float(shared_cache.get(next_turn, 0)))
        if turn > now + within:
            return None
        shared_cache.set(next_turn, turn + 1 / rate, turn - now + 1 / rate + KEPT)
        return turn
    finally:
        shared_cache.delete(lock)
