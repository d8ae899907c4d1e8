"""The checks as a task of Django's own framework. Import it from ``garmin_auth.tasks``.

Before Django 6.0 the framework is the package ``django-tasks``.
"""

from datetime import timedelta
from importlib.util import find_spec
from typing import Any

from .. import health

if find_spec("django.tasks"):
    from django.tasks import task
else:
    from django_tasks import task  # type: ignore[no-redef]


@task
def check_sessions(
    max_age: float | None = None, limit: int | None = None, workers: int = 1
) -> dict[str, Any]:
    """Check the sessions that are due, least recently checked first.

    Runs that overlap share the sessions between them, so you can enqueue it as often as you like.

    Args:
        max_age: skip sessions that were validated less than this many seconds ago.
        limit: check at most this many sessions.
        workers: how many threads check at the same time; 1 uses the worker's own.

    Returns:
        The counts, as ``check_garmin_sessions --format json`` prints them.

    Raises:
        ValueError: ``workers`` is less than 1.
        RuntimeError: the task runs inside ``atomic()``.
    """
    age = None if max_age is None else timedelta(seconds=max_age)
    return health.check_sessions(max_age=age, limit=limit, workers=workers).as_dict()
