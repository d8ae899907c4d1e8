"""The app's own threads: they run in the caller's context and close their connections."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from django.db import connections
from django.utils.module_loading import import_string

from ..conf import conf

T = TypeVar("T")

_thread = threading.local()


class NoThread(RuntimeError):
    """The machine can start no further thread."""


class Context:
    """What surrounds the thread that makes it, for another thread to run in.

    That is a copy of the ``contextvars``, and whatever ``GARMIN_AUTH_THREAD_CONTEXT`` names: a
    callable that is called here, and whose context manager the other thread enters.
    """

    def __init__(self) -> None:
        self._variables = copy_context()
        path = conf.THREAD_CONTEXT
        self._manager: Any = import_string(path)() if path else nullcontext()

    @property
    def tenant(self) -> str:
        """What tells this tenant from others: the manager's ``key``, "" if it has none."""
        return str(getattr(self._manager, "key", ""))

    def run(self, call: Callable[..., T], *args: Any) -> T:
        """Make a call in it. Only one thread may at a time."""
        return self._variables.copy().run(self.within, call, *args)

    def within(self, call: Callable[..., T], *args: Any) -> T:
        """Make a call in it, in a thread that has the caller's ``contextvars`` already."""
        with self._manager:
            return call(*args)


def run_in_thread(call: Callable[[], T], name: str, timeout: float, context: Context) -> T:
    """Run ``call`` in its own thread, and so on its own database connections.

    Args:
        call: what to run.
        name: the thread's name.
        timeout: seconds to wait for the result.
        context: what it runs in.

    Returns:
        What ``call`` returns. What it raises is raised here.

    Raises:
        TimeoutError: the call is still running, and continues.
        NoThread: no thread can be started.
    """
    future: Future[T] = Future()
    made = partial(context.run, close_connections_after, call)
    thread = threading.Thread(target=_fulfil, args=(future, made), name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as exc:
        raise NoThread(str(exc)) from None
    return future.result(timeout)


def _fulfil(future: "Future[T]", call: Callable[[], T]) -> None:
    try:
        future.set_result(call())
    except BaseException as exc:  # noqa: BLE001 - raised by result()
        future.set_exception(exc)


def close_connections_after(call: Callable[..., T], *args: Any) -> T:
    """Make a call in one of the app's threads, then close the connections it has opened."""
    _thread.is_ours = True
    try:
        return call(*args)
    finally:
        connections.close_all()


@contextmanager
def lent_to_site() -> Iterator[None]:
    """Run the site's own code in one of the app's threads.

    It begins without an open connection, so none is held while that code asks Garmin. What it opens
    itself may be in a transaction, or have a server-side cursor, so it stays open until the end.
    """
    if not is_own_thread():
        yield
        return
    connections.close_all()
    _thread.is_ours, _thread.is_lent = False, True
    try:
        yield
    finally:
        _thread.is_ours, _thread.is_lent = True, False


def is_lent_thread() -> bool:
    """Return whether this is one of the app's threads, and the site's own code runs in it."""
    return getattr(_thread, "is_lent", False)


class KeptConnections:
    """Connections that a group of the app's threads keeps open from one call to the next.

    Opening one for each call would cost more than the call. Pooled ones go back to their pool.
    """

    def __init__(self) -> None:
        self._kept: dict[int, Any] = {}

    def during(self, call: Callable[..., T], *args: Any) -> T:
        """Make a call in one of the threads."""
        _thread.is_ours = True
        try:
            return call(*args)
        finally:
            release_pooled_connections()
            for connection in _open_connections():
                left_open = connection.in_atomic_block or not connection.get_autocommit()
                if connection.errors_occurred or left_open:
                    connection.close()
                    continue
                connection.health_check_done = False  # For CONN_HEALTH_CHECKS, as in a request.
                if id(connection) not in self._kept:
                    connection.inc_thread_sharing()  # Another thread will close it.
                    self._kept[id(connection)] = connection

    def close(self) -> None:
        """Close the connections. No thread of the group may still be working."""
        for connection in self._kept.values():
            connection.close()


def is_own_thread() -> bool:
    """Return whether this is one of the app's threads, which close their connections."""
    return getattr(_thread, "is_ours", False)


@contextmanager
def connections_left_as_found() -> Iterator[None]:
    """Close the connections that this thread opens inside the block, because nothing else would.

    Connections that are already open belong to the thread, and stay open.
    """
    found = {connection.alias for connection in _open_connections()}
    try:
        yield
    finally:
        for connection in _open_connections():
            if connection.alias not in found:
                connection.close()


def release_pooled_connections() -> None:
    """In one of the app's threads, return pooled connections to the pool.

    In one of the site's threads, a server-side cursor may still be reading from a connection. A
    connection in a transaction, which a receiver has opened, is kept: to close it loses that.
    """
    if not is_own_thread():
        return
    for connection in _open_connections():
        pooled = connection.settings_dict.get("OPTIONS", {}).get("pool")
        if pooled and not connection.in_atomic_block:
            connection.close()


def _open_connections() -> list[Any]:
    return [
        connection
        for connection in connections.all(initialized_only=True)
        if connection.connection is not None
    ]
