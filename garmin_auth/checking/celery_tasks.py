"""The checks as Celery tasks. Import them from ``garmin_auth.tasks``."""

import logging
import random
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from celery import Task, current_app, shared_task
from django.utils import timezone

from ..conf import conf
from ..engines import is_limited_alone
from ..exceptions import Frozen, GarminUnavailable, MassFailure, RateLimited
from ..health import check_session, purge_challenges
from ..limits import cooldown
from ..limits.rate import reserve_turn
from ..models import GarminAuthenticationState
from .claims import CheckRun, due_sessions
from .endings import tell_of_endings
from .report import Check

logger = logging.getLogger("garmin_auth")

# How many seconds a message is valid and its row counts as queued. The two are equal, so that a
# later run enqueues again what no worker has checked.
QUEUED = 3600
# How many rows are claimed and sent at a time, and for how many seconds they are claimed while the
# messages are being sent.
BATCH, SENDING = 500, 60
# A message is postponed for at most this many seconds at a time. RabbitMQ considers a message lost
# if it is not acknowledged within 30 minutes; with Redis it is an hour.
LONGEST_WAIT = 900
# How many seconds a process pauses when it postpones a message. Postponed messages stay in the
# worker's memory; without the pause, a cooldown would move the whole queue there.
HOLD = 5
# A process sleeps for at most this many seconds until its turn. If the turn is further ahead, the
# message is postponed, because a site's time limits count the seconds that a task sleeps. After so
# many seconds a turn is lost: otherwise many checks would start at once when workers come back.
SHORT_WAIT = 5
# A postponed message returns so many seconds before its turn, in case the worker is busy.
EARLY = 2
# Seconds to wait after each failure of a session, before leaving it to a later run.
BACKOFF = (30, 120, 480)


class StampedTask(Task):
    """Carries the time when it was sent, so that a worker recognises a second delivery."""

    abstract = True

    def apply_async(self, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        """Send the task, adding ``enqueued_at`` if it is missing."""
        args, kwargs = tuple(args or ()), dict(kwargs or {})
        if len(args) < 2:
            kwargs.setdefault("enqueued_at", _now())
        return super().apply_async(args, kwargs, *rest, **options)


@shared_task(
    name="garmin_auth.tasks.check_stored_session",
    base=StampedTask,
    bind=True,
    acks_late=True,
    reject_on_worker_lost=True,
    max_retries=None,  # The task counts failures itself; other retries end when the message does.
    expires=QUEUED,
)
def check_stored_session(
    self: Any,
    pk: Any,
    enqueued_at: str | None = None,
    *,
    faults: int = 0,
    turn: float | None = None,
) -> dict[str, Any]:
    """Check one stored session, unless it was checked after the task was enqueued.

    It is safe to deliver the task more than once, even at the same time. If it is called as a
    function or runs eagerly, it checks at once and never retries.

    Args:
        pk: primary key of the user's GarminAuthenticationState.
        enqueued_at: when the task was enqueued, in ISO format; filled in when the task is sent. If
            it is None, as in a call as a function, the session is always checked.
        faults: how many earlier attempts failed.
        turn: when it is this message's turn under ``GARMIN_AUTH_CHECK_RATE``, as ``time.time()``
            counts, None if none is reserved.

    Returns:
        ``outcome``, a value of ``garmin_auth.health.Outcome`` or ``"skipped"``; ``refreshed``;
        ``engine``.
    """
    if conf.FROZEN:
        logger.info(
            "The session of row %s was not checked. %s",
            pk,
            Frozen(),
            extra={"event": "check_frozen", "row_pk": pk},
        )
        return _skipped()
    state = _due(pk, enqueued_at)
    if state is None:
        return _skipped()
    if self.request.called_directly or self.request.is_eager:  # There is no message to postpone.
        return _told(check_session(state.user))
    site = cooldown.site_scope(state.domain)
    paused = cooldown.seconds_left(site)
    if paused and not is_limited_alone(state.engine, state.domain):
        raise _again(self, pk, enqueued_at, paused, faults=faults, turn=turn)
    if turn is None or turn < time.time() - SHORT_WAIT:
        turn = reserve_turn(LONGEST_WAIT)
    if turn is None:
        raise _again(self, pk, enqueued_at, LONGEST_WAIT, faults=faults)
    wait = turn - time.time()
    if wait > SHORT_WAIT:
        raise _retry(self, pk, enqueued_at, wait - EARLY, faults=faults, turn=turn)
    time.sleep(max(0, wait))
    found = check_session(state.user)
    if isinstance(found.error, RateLimited):
        # With a new enqueued_at, because this check has just marked the session as checked.
        left = cooldown.seconds_left(site) or cooldown.FIRST
        raise _again(self, pk, _now(), left, faults=faults)
    if _may_pass(found) and faults < len(BACKOFF):
        raise _again(self, pk, _now(), BACKOFF[faults], faults=faults + 1)
    return _told(found)


@shared_task(
    name="garmin_auth.tasks.check_due_sessions",
    acks_late=True,
    reject_on_worker_lost=True,
    expires=QUEUED,
)
def check_due_sessions(max_age: float | None = None, limit: int | None = None) -> dict[str, int]:
    """Enqueue a check of each session that is due, least recently checked first.

    Sessions that are still queued from an earlier run are skipped, so you can schedule this task as
    often as you like.

    Args:
        max_age: skip sessions that were validated less than this many seconds ago.
        limit: enqueue at most this many.

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
    """Do the work of ``check_due_sessions`` in this process, and return the number of messages.

    Args:
        max_age: skip sessions that were validated less than this long ago.
        user: enqueue only this user's session, even if it is already queued.
        limit: enqueue at most this many.
        interrupted: called between batches; if it returns True, no more are sent.

    Raises:
        kombu.exceptions.OperationalError: the broker cannot be reached.
    """
    if conf.FROZEN:
        logger.warning("No checks were enqueued. %s", Frozen(), extra={"event": "enqueue_frozen"})
        return 0
    if interrupted():
        return 0
    purge_challenges()
    tell_of_endings(user, interrupted)
    due, now = due_sessions(max_age, user), _now()
    with current_app.producer_or_acquire() as producer:
        if user is not None:  # As in health.check_sessions, it need not be shared.
            return _send(producer, list(due), now)
        run = CheckRun(due, batch=BATCH, seconds=SENDING, limit=_room(limit))
        sent = 0
        for batch in run.batches():
            try:
                sent += _send(producer, batch, now)
            except BaseException:
                run.release(batch)
                raise
            # Only now, so that if the process dies while sending, its rows wait only a minute.
            run.keep(batch, QUEUED)
            if interrupted():
                break
            now = _now()
    return sent


def _send(producer: Any, batch: list[GarminAuthenticationState], now: str) -> int:
    for state in batch:
        # Nobody reads that many results, and a result backend would keep each for a day.
        check_stored_session.apply_async((state.pk, now), producer=producer, ignore_result=True)
    return len(batch)


def _room(limit: int | None) -> int | None:
    """Return how many more sessions can be checked before their messages expire."""
    rate = conf.CHECK_RATE
    if rate is None:
        return limit
    most = max(1, int(rate * QUEUED))
    room = max(0, most - GarminAuthenticationState.objects.claimed_checks())
    return room if limit is None else min(limit, room)


def _due(pk: Any, enqueued_at: str | None) -> GarminAuthenticationState | None:
    """Return the row, with its user, if it still needs the check."""
    states = GarminAuthenticationState.objects.using_write_db().with_session()
    state = states.filter(pk=pk).select_related("user").first()
    if state is None or enqueued_at is None or state.last_checked_at is None:
        return state
    return None if state.last_checked_at > datetime.fromisoformat(enqueued_at) else state


def _skipped() -> dict[str, Any]:
    return {"outcome": "skipped", "refreshed": False, "engine": ""}


def _told(found: Check) -> dict[str, Any]:
    return {
        "outcome": str(found.outcome),
        "refreshed": found.refreshed,
        "engine": found.engine,
    }


def _may_pass(found: Check) -> bool:
    """Return whether another attempt may succeed in a few minutes."""
    unavailable = isinstance(found.error, GarminUnavailable)
    return unavailable and not isinstance(found.error, MassFailure)


def _again(
    task: Any, pk: Any, enqueued_at: str | None, seconds: float, **arguments: float | None
) -> Any:
    """Postpone the message for about so long, and return the exception to raise.

    Args:
        task: the running task.
        pk: the task's argument.
        enqueued_at: the task's argument.
        seconds: for how long. Up to a tenth of it plus 10 s is added at random, so that messages do
            not all return at once; but no message is postponed for more than ``LONGEST_WAIT``.
        arguments: the task's other arguments.
    """
    hold = min(HOLD, seconds)
    time.sleep(hold)
    spread = random.uniform(0, 10 + seconds / 10)  # noqa: S311
    wait = min(seconds - hold + spread, random.uniform(0.9, 1) * LONGEST_WAIT)  # noqa: S311
    return _retry(task, pk, enqueued_at, wait, **arguments)


def _retry(
    task: Any, pk: Any, enqueued_at: str | None, seconds: float, **arguments: float | None
) -> Any:
    """Postpone the message for exactly so long, and return the exception to raise."""
    return task.retry(
        args=(pk, enqueued_at),
        kwargs=arguments,
        countdown=seconds,
        throw=False,
        ignore_result=task.request.ignore_result,  # Celery does not carry it over.
    )


def _now() -> str:
    return timezone.now().isoformat()
