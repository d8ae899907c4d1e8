"""Run a call in a thread of this process, outside the request that asked for it.

There is no queue: the data of a call, such as a password, exists only in the memory of its thread,
and is gone when the thread ends. If all threads are busy, the call is refused.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from django.views.decorators.debug import sensitive_variables

from ..conf import conf
from ..engines.tracebacks import places_of
from ..exceptions import GarminAuthError, TooManyLogins
from ..storage.threads import Context

THREAD_NAME = "garmin_auth login"


class CallBroke(Exception):
    """The call has a bug. ``str()`` gives its type and location, without any variable's value."""


class Call:
    """A call made by another thread."""

    def __init__(self) -> None:
        self._decided, self._begun = threading.Event(), False
        self._ended = threading.Event()
        self._result: Any = None
        self._error: Exception | None = None

    def begin(self) -> None:
        """Let the other thread make the call."""
        self._begun = True
        self._decided.set()

    def drop(self) -> None:
        """Let the other thread end, without making the call unless it has begun."""
        self._decided.set()

    def result(self) -> Any:
        """Return the result of the call.

        Raises:
            GarminAuthError: raised by the call, without the stack frames that hold secrets.
            CallBroke: the call raised any other exception.
        """
        if self._error is not None:
            raise self._error
        return self._result

    def outlast(self, seconds: float, every: float, meanwhile: Callable[[], Any]) -> bool:
        """Wait for the call to end, and return whether it did.

        Args:
            seconds: how long to wait.
            every: seconds between two calls of ``meanwhile``.
            meanwhile: called repeatedly, in this thread, while waiting.
        """
        gives_up_at = time.monotonic() + seconds
        while (left := gives_up_at - time.monotonic()) > 0:
            if self._ended.wait(min(every, left)):
                return True
            meanwhile()
        return self._ended.is_set()

    @sensitive_variables()
    def make(self, function: Callable[[], Any]) -> None:
        """Make the call in this thread, once it may begin, unless it is dropped."""
        self._decided.wait()
        if not self._begun:
            return
        try:
            self._result = function()
        except GarminAuthError as exc:
            # SECURITY: the frames of the traceback hold the password.
            exc.__cause__ = exc.__context__ = None
            self._error = exc.with_traceback(None)
        except BaseException as exc:  # noqa: BLE001
            self._error = CallBroke(describe(exc))
        finally:
            self._ended.set()


class Room:
    """Counts the calls in progress in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = 0

    def take(self) -> bool:
        """Reserve a place for one more call, if there is one."""
        with self._lock:
            free = self._taken < conf.LOGIN_WORKERS
            self._taken += free
        return free

    def give_back(self) -> None:
        with self._lock:
            self._taken -= 1


class Slot:
    """A place for one call, held until the call has ended, even if it takes too long."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.used = False

    @sensitive_variables()
    def run(self, function: Callable[[], Any], attend: Callable[[Call], None]) -> None:
        """Make a call in one thread, and wait for it in another.

        Args:
            function: the call. It should not use the database.
            attend: begins the call, waits for it and stores its result. It must not raise.

        Raises:
            TooManyLogins: no thread can be started.
        """
        # Two contexts, because a context manager may keep the connection of who enters it.
        call, apart, beside = Call(), Context(), Context()
        try:
            _start_thread(partial(apart.run, self._make), call, function)
            self.used = True  # This thread gives the place back.
            _start_thread(partial(beside.run, self._attend), call, attend)
            return
        except RuntimeError:
            call.drop()
        raise TooManyLogins("No thread can be started.")

    # SECURITY: a method, because a decorated closure is a reference cycle, which would keep the
    # password in memory until the next garbage collection.
    @sensitive_variables()
    def _make(self, call: Call, function: Callable[[], Any]) -> None:
        try:
            call.make(function)
        finally:
            self._room.give_back()

    @sensitive_variables()
    def _attend(self, call: Call, attend: Callable[[Call], None]) -> None:
        try:
            attend(call)
        finally:
            call.drop()


@contextmanager
def slot() -> Iterator[Slot]:
    """Hold a place for one call until the block ends, or the call that was run in it.

    Yields:
        The ``Slot``.

    Raises:
        TooManyLogins: ``GARMIN_AUTH_LOGIN_WORKERS`` calls are in progress in this process.
    """
    room = _room
    if not room.take():
        raise TooManyLogins("GARMIN_AUTH_LOGIN_WORKERS logins are in progress in this process.")
    taken = Slot(room)
    try:
        yield taken
    finally:
        if not taken.used:
            room.give_back()


def describe(exc: BaseException) -> str:
    """Return the type of an exception and where it was raised, without the value of any variable.

    Args:
        exc: a bug. Its text, and the variables of its frames, may hold secrets.
    """
    return " > ".join([type(exc).__qualname__, *places_of(exc)])


def _start_thread(target: Callable[..., None], *args: Any) -> None:
    threading.Thread(target=target, args=args, name=THREAD_NAME, daemon=True).start()


_room = Room()


def _after_fork() -> None:
    """Start afresh: the threads stayed in the parent, and one may have held the lock."""
    global _room
    _room = Room()


if hasattr(os, "register_at_fork"):  # Not on Windows.
    os.register_at_fork(after_in_child=_after_fork)
