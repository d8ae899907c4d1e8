"""The checks as Celery tasks, if Celery is installed (``[celery]``).

Without Celery this module is empty, because Huey, Dramatiq and Procrastinate also import modules
of this name.
"""

from importlib.util import find_spec

if find_spec("celery"):
    from .checking.celery_tasks import (
        check_due_sessions,
        check_stored_session,
        enqueue_due_sessions,
    )

    __all__ = ["check_due_sessions", "check_stored_session", "enqueue_due_sessions"]
