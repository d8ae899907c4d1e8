"""Hide the inside of an engine from the tracebacks of what it raises."""

import traceback
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from ..exceptions import GarminAuthError

T = TypeVar("T")

HIDDEN = "Raised inside the engine, whose frames are hidden because they hold secrets: "


def hide_frames(call: Callable[[], T]) -> T:
    """Run ``call``. Whatever it raises, the traceback starts here.

    The frames below, such as those of requests and the engine's library, hold passwords, codes and
    tokens, and error reporters print the variables of every frame. Of a bug, a note tells where it
    was raised.

    Args:
        call: runs the engine's code.

    Returns:
        What ``call`` returns.

    Raises:
        BaseException: what ``call`` raised, without cause and context.
    """
    try:
        return call()
    except BaseException as exc:  # noqa: BLE001 - it is raised again
        if not isinstance(exc, GarminAuthError):
            _note_places(exc)
        error = exc.with_traceback(None)
    error.__cause__ = error.__context__ = None
    try:
        raise error
    finally:
        # SECURITY: the error and this frame would refer to each other. In such a cycle, the
        # password in the callers' frames would live until the next garbage collection.
        del error


def places_of(exc: BaseException) -> list[str]:
    """Return where an exception was raised, hidden frames included, outermost first.

    No place shows the value of any variable.
    """
    notes = getattr(exc, "__notes__", ())
    hidden = [note.removeprefix(HIDDEN) for note in notes if note.startswith(HIDDEN)]
    return [*_places(exc.__traceback__), *reversed(hidden)]


def _note_places(exc: BaseException) -> None:
    outermost = exc.__traceback__
    exc.add_note(HIDDEN + " > ".join(_places(outermost and outermost.tb_next)))


def _places(tb: TracebackType | None) -> list[str]:
    return [
        f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(tb)
    ]
