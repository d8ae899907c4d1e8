"""What greenlets need and threads do not, if gevent has patched the standard library.

gevent counts only if it has patched sockets. A gevent worker of gunicorn or Celery does that before
it loads anything else, so gevent is already in ``sys.modules``.
"""

import sys
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")


def _gevent() -> Any:
    """Return the module gevent, None if it has not patched sockets."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("socket"):
        return None
    return sys.modules["gevent"]


def time_limit(seconds: float) -> AbstractContextManager[Any]:
    """Raise TimeoutError in the block after this time. Without gevent, do nothing.

    A socket has its own timeout, but gevent restarts it with each byte that arrives before a TLS
    record is complete.

    Args:
        seconds: how long the block may wait.
    """
    gevent = _gevent()
    if gevent is None:
        return nullcontext()
    limit: AbstractContextManager[Any] = gevent.Timeout(seconds, TimeoutError("timed out"))
    return limit


def run_blocking(call: Callable[[], T]) -> T:
    """Make a call that would block all greenlets, as libcurl does, in a native thread.

    Without gevent, make it in this thread. If the greenlet is killed meanwhile, this function still
    waits for the call, because libcurl keeps using what the caller would release.

    Args:
        call: makes the call.

    Returns:
        What ``call`` returns. What it raises is raised here.
    """
    gevent = _gevent()
    if gevent is None:
        return call()
    from gevent.threadpool import ThreadPool  # Imported here, because gevent is optional.

    # A future, because gevent would print the traceback of what the thread raises, and its message.
    future: Future[T] = Future()
    # Its own pool: the hub's ten threads also look up host names, and its queue has no deadline.
    pool = ThreadPool(1)
    interruption: BaseException | None = None
    try:
        task = pool.spawn(copy_context().run, _fulfil, future, call)
        while not task.ready():
            try:
                task.wait()
            except BaseException as exc:  # noqa: BLE001 - raised below
                interruption = exc
    finally:
        pool.kill()
    if interruption is not None:
        raise interruption
    return future.result()


def _fulfil(future: "Future[T]", call: Callable[[], T]) -> None:
    try:
        future.set_result(call())
    except BaseException as exc:  # noqa: BLE001 - raised by result()
        future.set_exception(exc)
