"""The checks as tasks: for Celery, if it is installed, and for Django's own framework.

Without Celery this module is empty, because Huey, Dramatiq and Procrastinate also import modules
of this name. Django's task is made on first use: making it reads the setting ``TASKS``, which need
not suit it on a site that does not use it.
"""

from importlib.util import find_spec
from typing import Any

if find_spec("celery"):
    from .checking.celery_tasks import (
        check_due_sessions,
        check_stored_session,
        enqueue_due_sessions,
    )

    __all__ = ["check_due_sessions", "check_stored_session", "enqueue_due_sessions"]


def __getattr__(name: str) -> Any:
    if name != "check_sessions":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .checking.django_tasks import check_sessions

    return check_sessions
