"""Several threads at the same work, at a steady pace, led by the thread that wants the results."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from django.db import connections

T = TypeVar("T")
R = TypeVar("R")

# Seconds between two looks whether a wait has been interrupted.
POLL = 0.1


class Pace:
    """Lets things begin at a steady rate, which holds from the first to the last of them.

    Args:
        rate: how many may begin in a second; None: as many as like to.
    """

    def __init__(self, rate: float | None) -> None:
        self._interval = 1 / rate if rate else 0.0
        self._next = time.monotonic()

    def wait(self, interrupted: Callable[[], bool]) -> None:
        """Wait until the next may begin, or until the wait is interrupted.

        Time that was lost is not made up for: that would be a burst.
        """
        sleep_until(self._next, interrupted)
        self._next = max(self._next, time.monotonic() - self._interval) + self._interval


def sleep_until(moment: float, interrupted: Callable[[], bool]) -> None:
    """Sleep until a moment of ``time.monotonic()``, or until the sleep is interrupted."""
    while (left := moment - time.monotonic()) > 0 and not interrupted():
        time.sleep(min(left, POLL))


class Crew(Generic[T, R]):
    """Threads that each do one piece of work at a time.

    With one worker it is the caller's own thread that works.

    Args:
        workers: how many.
        work: what to do with each item. What it raises ends the crew's work, and is raised.
    """

    def __init__(self, workers: int, work: Callable[[T], R]) -> None:
        self._workers, self._work = workers, work

    def map(self, items: Iterable[T]) -> Iterator[R]:
        """Yield the result for each item as it comes.

        The next item is asked for when a worker is free and all results have been yielded, in the
        caller's thread: when there are no more, or when asking or a worker raises, what is in
        flight is finished first.
        """
        if self._workers == 1:
            yield from map(self._work, items)
            return
        tasks: SimpleQueue[Any] = SimpleQueue()
        results: SimpleQueue[tuple[R | None, BaseException | None]] = SimpleQueue()
        threads: list[threading.Thread] = []
        waiting, in_flight = iter(items), 0
        try:
            while True:
                # Results first: asking may take long, at a low rate, and depends on what they say.
                while (
                    in_flight < self._workers
                    and results.empty()
                    and (item := next(waiting, NOTHING)) is not NOTHING
                ):
                    if in_flight == len(threads):  # No more than there is work for.
                        threads.append(self._start(tasks, results))
                    tasks.put(item)
                    in_flight += 1
                if not in_flight:
                    return
                result, error = results.get()
                in_flight -= 1
                if error is not None:
                    raise error
                yield result  # type: ignore[misc]
        finally:
            for _ in threads:
                tasks.put(NOTHING)
            for thread in threads:
                thread.join()

    def _start(self, tasks: SimpleQueue[Any], results: SimpleQueue[Any]) -> threading.Thread:
        thread = threading.Thread(
            target=self._run, args=(tasks, results), name="garmin_auth check", daemon=True
        )
        thread.start()
        return thread

    def _run(self, tasks: SimpleQueue[Any], results: SimpleQueue[Any]) -> None:
        try:
            while (item := tasks.get()) is not NOTHING:
                try:
                    results.put((self._work(item), None))
                except BaseException as exc:  # noqa: BLE001 - raised where the results are wanted
                    results.put((None, exc))
        finally:
            connections.close_all()  # Each thread has its own, and nobody else closes them.


NOTHING: Any = object()
