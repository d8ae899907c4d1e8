"""Check several sessions at the same time."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from ..storage.threads import Context, KeptConnections

T = TypeVar("T")
R = TypeVar("R")

_NOTHING: Any = object()


class WorkerPool(Generic[T, R]):
    """Threads that each process one item at a time. One worker is the caller's own thread.

    Args:
        workers: how many threads to use.
        work: called with each item. An exception that it raises ends the run.
    """

    def __init__(self, workers: int, work: Callable[[T], R]) -> None:
        self._workers, self._work = workers, work

    def map(self, items: Iterable[T]) -> Iterator[R]:
        """Yield the result for each item as soon as it is ready.

        The next item is taken in the caller's thread, when a worker is free and all results have
        been yielded. At the end, or after an exception, the work in progress is finished first.
        """
        if self._workers == 1:
            yield from map(self._work, items)
            return
        waiting, running = iter(items), 0
        done: SimpleQueue[Future[R]] = SimpleQueue()
        kept = KeptConnections()
        with (
            closing(kept),
            ThreadPoolExecutor(self._workers, thread_name_prefix="garmin_auth check") as executor,
        ):
            while True:
                # Yield results first: the next item depends on them, and at a low rate it may be
                # long in coming.
                while (
                    running < self._workers
                    and done.empty()
                    and (item := next(waiting, _NOTHING)) is not _NOTHING
                ):
                    work = partial(Context().run, kept.during, self._work, item)
                    executor.submit(work).add_done_callback(done.put)
                    running += 1
                if not running:
                    return
                future = done.get()
                running -= 1
                yield future.result()
