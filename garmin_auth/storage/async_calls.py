"""Await a synchronous function: in a thread of the app, or where Django's own queries run."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import TypeVar

from asgiref.sync import AsyncToSync, sync_to_async

from ..conf import conf
from .threads import Context, close_connections_after, connections_left_as_found, is_lent_thread
from .transactions import in_testcase, in_transaction, refuse_atomic

T = TypeVar("T")


async def in_database_thread(call: Callable[[], T]) -> T:
    """Await a call that takes no longer than its queries, where Django's own async queries run.

    Args:
        call: what to run. It leaves no connection open that was not.

    Returns:
        What ``call`` returns.
    """
    return await sync_to_async(connections_left_as_found()(call))()


async def in_own_thread(name: str, call: Callable[[], T]) -> T:
    """Await a call that asks Garmin, in one of the app's threads.

    In the thread of Django's queries it would hold up all of them: there is one for each request,
    and outside of requests, as in Channels, one for the whole process.

    Args:
        name: the name of the async function, for messages.
        call: what to run. No connection is left open. Its end is not waited for if the coroutine is
            cancelled; if it has not begun then, it never does.

    Returns:
        What ``call`` returns.

    Raises:
        RuntimeError: ``async_to_sync()`` was called inside ``atomic()``.
    """
    context = None
    if _has_sync_caller() or conf.THREAD_CONTEXT:
        context = await sync_to_async(_context_for)(name)
        if context is None:
            return await sync_to_async(call)()
    # An event loop in one of our threads occupies it, and all of them may wait for another one.
    executor = ThreadPoolExecutor(1) if is_lent_thread() else _executor(conf.ASYNC_WORKERS)
    # sync_to_async() gives the thread the coroutine's contextvars, and lets async_to_sync() in the
    # thread find the event loop.
    run = sync_to_async(partial(_run, context, call), thread_sensitive=False, executor=executor)
    return await run()


def _has_sync_caller() -> bool:
    """Return whether a thread waits for this coroutine in ``async_to_sync()``.

    It may be inside a transaction, such as that of a ``TestCase``. Django's own queries run in it,
    so asking it is quick. asgiref offers no other way to find out.
    """
    waiting = getattr(getattr(AsyncToSync, "executors", None), "current", None)
    loops = getattr(AsyncToSync, "loop_thread_executors", {})
    return waiting is not None or asyncio.get_running_loop() in loops


def _context_for(name: str) -> Context | None:
    """Return what surrounds the thread of Django's queries. None if the call has to run there.

    It has to in a transaction of a ``TestCase``, whose rows no other thread sees; and in a thread
    of ours, because all of them may wait for another one.

    Raises:
        RuntimeError: a transaction is open.
    """
    with connections_left_as_found():
        if is_lent_thread() or in_testcase():
            return None
        if in_transaction():
            refuse_atomic(name)
        return Context()


def _run(context: Context | None, call: Callable[[], T]) -> T:
    if context is None:
        return close_connections_after(call)
    return context.within(partial(close_connections_after, call))


@lru_cache(maxsize=1)
def _executor(workers: int) -> ThreadPoolExecutor:
    """Return the threads of this process. They end with it, after what they are doing."""
    return ThreadPoolExecutor(workers, thread_name_prefix="garmin_auth async")


if hasattr(os, "register_at_fork"):  # Not on Windows.
    # The threads stayed in the parent.
    os.register_at_fork(after_in_child=_executor.cache_clear)
