"""Wait for what a test is about, in threads and processes, and not for a time."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from django.db import connections

from garmin_auth.exceptions import GarminAuthError
from garmin_auth.logins.background import THREAD_NAME


def wait_until(condition, seconds=60, why_not=lambda: "It did not happen in time."):
    """Wait until it is true; a test that waits in vain fails, and says why not."""
    gives_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < gives_up_at, why_not()
        time.sleep(0.01)


def in_threads(work, count):
    """Call ``work(number)`` in so many threads at the same moment.

    Returns:
        What each call returned, or the GarminAuthError that it raised.
    """
    barrier = threading.Barrier(count)

    def start(number):
        barrier.wait()
        try:
            return work(number)
        except GarminAuthError as exc:
            return exc
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(start, range(count)))


def wait_for_logins():
    """Wait for the logins that are under way outside of requests."""
    for thread in threading.enumerate():
        if thread.name == THREAD_NAME:
            thread.join(60)
            assert not thread.is_alive()


class Clock:
    """Stands in for a module's ``time``, so that time passes by its pauses alone."""

    def __init__(self):
        self.now, self.pauses = 1000.0, []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.pauses.append(seconds)
