"""Where an engine ends: nothing of what happens inside shows in what it raises."""

from collections.abc import Callable
from typing import TypeVar

from ..exceptions import GarminAuthError

T = TypeVar("T")


def clean(call: Callable[[], T]) -> T:
    """Run ``call``. What it raises gets a traceback that starts here.

    The frames below, an engine's library's and requests' among them, hold passwords, codes and
    tokens, and error reporters print the variables of each frame.

    Args:
        call: code of an engine.

    Raises:
        GarminAuthError: as ``call`` did, with no cause and no context.
    """
    try:
        return call()
    except GarminAuthError as exc:
        error = exc.with_traceback(None)
    error.__cause__ = error.__context__ = None
    try:
        raise error
    finally:
        # SECURITY: it would hold this frame, and this frame it: a cycle, in which the password in
        # the callers' frames would outlive the call until the next garbage collection.
        del error
