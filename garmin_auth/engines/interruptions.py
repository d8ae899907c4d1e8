"""Exceptions that interrupt a task from outside, which ``except Exception`` must not catch."""

import sys


def interruptions() -> tuple[type[Exception], ...]:
    """Return the classes of these exceptions, for an ``except`` clause.

    Celery raises SoftTimeLimitExceeded wherever the task happens to be. The class is not imported
    here: if a task is running, its module is already loaded.
    """
    billiard = sys.modules.get("billiard.exceptions")
    return (billiard.SoftTimeLimitExceeded,) if billiard else ()
