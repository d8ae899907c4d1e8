"""The checks as Celery tasks: ``check_session`` and ``check_due_sessions``. Needs ``[celery]``."""

import random
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from celery import Task, current_app, shared_task
from django.utils import timezone

from . import pauses, rates
from .claims import CheckRun, due_sessions
from .conf import conf
from .exceptions import GarminUnavailable, MassFailure, RateLimited
from .health import check_session as check
from .health import purge_challenges
from .models import GarminAuthenticationState
from .reports import Check

# Seconds that a message lives, and that its row counts as queued: one as long as the other, so that
# what nobody came to check is sent again by a later run. Longer would keep it from being so.
QUEUED = 3600
# Rows that are claimed and sent at a time, and seconds of the claim while they are being sent.
BATCH, SENDING = 500, 60
# Seconds that a message waits at the most before it is looked at again. RabbitMQ takes one that has
# not been acknowledged for 30 minutes for lost, Redis one of an hour.
LONGEST_WAIT = 900
# Seconds that a process takes to put a message off. Those that wait lie in the worker's memory, so
# without this all that are queued would come to lie there during a pause; so it is a few.
HOLD = 10
# Seconds after each network fault of one session; then it is left to a later run.
BACKOFF = (30, 120, 480)


class StampedTask(Task):
    """Tells the worker when it was asked for, so that a second delivery is known as one."""

    abstract = True

    def apply_async(self, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        """Send the task, as every Celery task does."""
        args, kwargs = tuple(args or ()), dict(kwargs or {})
        if len(args) < 2:
            kwargs.setdefault("enqueued_at", _now())
        return super().apply_async(args, kwargs, *rest, **options)


@shared_task(
    base=StampedTask,
    bind=True,
    acks_late=True,
    reject_on_worker_lost=True,
    max_retries=None,  # It counts its own; a message's time is what ends the others.
    expires=QUEUED,
)
def check_session(
    self: Any,
    pk: Any,
    enqueued_at: str | None = None,
    *,
    faults: int = 0,
) -> dict[str, Any]:
    """Check one stored session, unless that has been done since it was enqueued.

    It may be delivered more than once, also at the same time: a session dies once. Called as a
    function, or eagerly, it checks at once, and tries nothing again.

    Args:
        pk: the key of the user's GarminAuthenticationState.
        enqueued_at: when the check was asked for, in ISO format; it is filled in on sending. None,
            where the task is called as a function: check in any case.
        faults: how many network faults earlier attempts have met.

    Returns:
        ``outcome``: what was found, as in ``garmin_auth.reports.Outcome``, or ``"skipped"``;
        ``refreshed``; ``engine``.
    """
    state = _due(pk, enqueued_at)
    if state is None:
        return {"outcome": "skipped", "refreshed": False, "engine": ""}
    if self.request.called_directly or self.request.is_eager:  # No message that could wait.
        return _told(check(state.user))
    if paused := pauses.seconds_left(pauses.SITE):
        raise _again(self, pk, enqueued_at, paused, faults=faults)
    # The process waits, and not the message: no more turns are taken than there are processes.
    turn = rates.reserve_turn(LONGEST_WAIT)
    if turn is None:
        raise _again(self, pk, enqueued_at, LONGEST_WAIT, faults=faults)
    time.sleep(max(0, turn - time.time()))
    found = check(state.user)
    if isinstance(found.error, RateLimited):
        # Asked for anew: a check has just looked at it.
        left = pauses.seconds_left(pauses.SITE) or pauses.FIRST
        raise _again(self, pk, _now(), left, faults=faults)
    if _may_pass(found) and faults < len(BACKOFF):
        raise _again(self, pk, _now(), BACKOFF[faults], faults=faults + 1)
    return _told(found)


@shared_task(acks_late=True, reject_on_worker_lost=True, expires=QUEUED)
def check_due_sessions(max_age: float | None = None, limit: int | None = None) -> dict[str, int]:
    """Enqueue a check of each session that is due, those checked longest ago first.

    What is still queued from an earlier run is left out, so it may run as often as it likes.

    Args:
        max_age: seconds; leave out what was validated less than this long ago.
        limit: enqueue at most so many.

    Returns:
        ``enqueued``: how many messages were sent.
    """
    age = None if max_age is None else timedelta(seconds=max_age)
    return {"enqueued": enqueue_due_sessions(age, limit=limit)}


def enqueue_due_sessions(
    max_age: timedelta | None = None,
    *,
    user: Any = None,
    limit: int | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> int:
    """Do what ``check_due_sessions`` does, here and now, and return how many messages were sent.

    Args:
        max_age: leave out what was validated less than this long ago.
        user: only this user's, also if it is queued already.
        limit: enqueue at most so many.
        interrupted: asked between batches; True ends it.

    Raises:
        kombu.exceptions.OperationalError: the broker cannot be reached.
    """
    if interrupted():
        return 0
    purge_challenges()
    due, now = due_sessions(max_age, user), _now()
    with current_app.producer_or_acquire() as producer:
        if user is not None:  # Asked for by name, as in health.check_sessions.
            return _send(producer, list(due), now)
        run = CheckRun(due, batch=BATCH, seconds=SENDING, limit=_room(limit))
        sent = 0
        for batch in run.batches():
            try:
                sent += _send(producer, batch, now)
            except BaseException:
                run.release(batch)
                raise
            # Only now: a process that dies while it sends keeps the others waiting a minute.
            run.keep(batch, QUEUED)
            if interrupted():
                break
            now = _now()
    return sent


def _send(producer: Any, batch: list[GarminAuthenticationState], now: str) -> int:
    for state in batch:
        # Nobody reads the results of so many; a result backend would keep each for a day.
        check_session.apply_async((state.pk, now), producer=producer, ignore_result=True)
    return len(batch)


def _room(limit: int | None) -> int | None:
    """Return how many more can be checked before their messages' time is over."""
    rate = conf.CHECK_RATE
    if rate is None:
        return limit
    most = max(1, int(rate * QUEUED))
    room = max(0, most - GarminAuthenticationState.objects.claimed_checks())
    return room if limit is None else min(limit, room)


def _due(pk: Any, enqueued_at: str | None) -> GarminAuthenticationState | None:
    """Return the row, with its user, if it is still to be checked."""
    states = GarminAuthenticationState.objects.current().with_session()
    state = states.filter(pk=pk).select_related("user").first()
    if state is None or enqueued_at is None or state.last_checked_at is None:
        return state
    return None if state.last_checked_at > datetime.fromisoformat(enqueued_at) else state


def _told(found: Check) -> dict[str, Any]:
    return {
        "outcome": str(found.outcome),
        "refreshed": found.refreshed,
        "engine": found.engine,
    }


def _may_pass(found: Check) -> bool:
    """Tell whether the same may succeed in a few minutes."""
    unavailable = isinstance(found.error, GarminUnavailable)
    return unavailable and not isinstance(found.error, MassFailure)


def _again(task: Any, pk: Any, enqueued_at: str | None, seconds: float, *, faults: int) -> Any:
    """Put the message off for so many seconds, and return what to raise.

    A tenth more by chance, and up to 10 s: those who wait for the same do not all come at once.
    """
    hold = min(HOLD, seconds)
    time.sleep(hold)
    spread = random.uniform(0, 10 + seconds / 10)  # noqa: S311
    wait = min(seconds - hold + spread, random.uniform(0.9, 1) * LONGEST_WAIT)  # noqa: S311
    return task.retry(
        args=(pk, enqueued_at),
        kwargs={"faults": faults},
        countdown=wait,
        throw=False,
        ignore_result=task.request.ignore_result,  # Celery would forget it.
    )


def _now() -> str:
    return timezone.now().isoformat()
