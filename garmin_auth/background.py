"""Run a call in a thread of this process, outside of the request that asked for it.

There is no queue, here or elsewhere: what the call needs, such as a password, is in the memory of
its own thread and nowhere else, and is gone with it. Where there is no room the call is refused.
"""

import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.views.decorators.debug import sensitive_variables

from .conf import conf
from .exceptions import GarminAuthError, TooManyLogins

THREAD_NAME = "garmin_auth login"


class CallBroke(Exception):
    """The call has a bug. ``str()`` tells of what type and where: no value of any variable."""


class Call:
    """A call that another thread makes."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._result: Any = None
        self._error: Exception | None = None

    def result(self) -> Any:
        """Return what the call has returned.

        Raises:
            GarminAuthError: what it has raised, without the frames that knew the secrets.
            CallBroke: it has raised anything else.
        """
        if self._error is not None:
            raise self._error
        return self._result

    def outlast(self, seconds: float, every: float, meanwhile: Callable[[], Any]) -> bool:
        """Wait for the call to end, and tell whether it did.

        Args:
            seconds: how long.
            every: seconds between two calls of ``meanwhile``.
            meanwhile: called in this thread.
        """
        gives_up_at = time.monotonic() + seconds
        while (left := gives_up_at - time.monotonic()) > 0:
            if self._ended.wait(min(every, left)):
                return True
            meanwhile()
        return self._ended.is_set()

    @sensitive_variables()
    def make(self, function: Callable[[], Any]) -> None:
        """Make the call in this thread."""
        try:
            self._result = function()
        except GarminAuthError as exc:
            # SECURITY: the frames of a traceback hold the password.
            exc.__cause__ = exc.__context__ = None
            self._error = exc.with_traceback(None)
        except BaseException as exc:  # noqa: BLE001
            self._error = CallBroke(describe(exc))
        finally:
            self._ended.set()

    def refuse(self, error: Exception) -> None:
        """End the call before it was made."""
        self._error = error
        self._ended.set()


class Room:
    """The calls that one process has under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = 0

    def take(self) -> bool:
        """Take room for one more call, if there is."""
        with self._lock:
            free = self._taken < conf.LOGIN_WORKERS
            self._taken += free
        return free

    def give_back(self) -> None:
        with self._lock:
            self._taken -= 1


class Slot:
    """Room for one call, kept until the call has ended: also one that takes longer than it may."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.used = False

    @sensitive_variables()
    def run(self, function: Callable[[], Any], attend: Callable[[Call], None]) -> None:
        """Make a call in a thread, and let another attend to it.

        Args:
            function: the call; it should use no database.
            attend: what waits for the call, and stores its result; it raises nothing.

        Raises:
            TooManyLogins: the machine has no room for another thread.
        """
        call = Call()
        try:
            for target, args in ((attend, (call,)), (self._make, (call, function))):
                threading.Thread(target=target, args=args, name=THREAD_NAME, daemon=True).start()
        except RuntimeError:
            no_room = TooManyLogins("The machine has no room for another thread.")
        else:
            self.used = True
            return
        call.refuse(no_room)
        raise no_room

    # SECURITY: a method, for a decorated closure is a cycle, in which the password would outlive
    # the call until the next garbage collection.
    @sensitive_variables()
    def _make(self, call: Call, function: Callable[[], Any]) -> None:
        try:
            call.make(function)
        finally:
            self._room.give_back()


@contextmanager
def slot() -> Iterator[Slot]:
    """Hold room for one call. It is given back at the end of the block, or of the call it ran.

    Raises:
        TooManyLogins: this process has ``GARMIN_AUTH_LOGIN_WORKERS`` calls under way.
    """
    room = _room
    if not room.take():
        raise TooManyLogins("This process has as many logins under way as it may.")
    taken = Slot(room)
    try:
        yield taken
    finally:
        if not taken.used:
            room.give_back()


def describe(exc: BaseException) -> str:
    """Tell of what type an exception is and where it was raised, and no value of any variable.

    Args:
        exc: a bug. Its own text may hold anything, and so may the variables of its frames.
    """
    places = [
        f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(exc.__traceback__)
    ]
    return " > ".join([type(exc).__qualname__, *places])


_room = Room()


def _after_fork() -> None:
    """The threads have stayed in the parent, and its lock may have been held by one of them."""
    global _room
    _room = Room()


if hasattr(os, "register_at_fork"):  # Not on Windows.
    os.register_at_fork(after_in_child=_after_fork)
