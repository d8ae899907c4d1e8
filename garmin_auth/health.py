"""Is a stored session alive? Ask Garmin with one cheap call, and tell dead from unknown."""

import logging
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from . import pauses
from .claims import CheckRun, due_sessions
from .conf import conf
from .crew import Crew, Pace
from .exceptions import (
    GarminAuthError,
    GarminUnavailable,
    MassFailure,
    NotConnected,
    RateLimited,
    SessionExpired,
    SessionUnreadable,
)
from .models import LOGIN_KEPT, GarminAuthenticationState, StateQuerySet
from .reports import Check, Outcome, Report, Stopped
from .sessions import StoredSession
from .transactions import refuse_atomic

# What a check returns belongs to it, wherever it is written down.
__all__ = [
    "Check",
    "Outcome",
    "Report",
    "Stopped",
    "check_session",
    "check_sessions",
    "purge_challenges",
]

logger = logging.getLogger("garmin_auth")

# Rows that a run claims at a time: a few for each worker; where the rate is low, so many seconds'
# worth, for those of a run that is killed wait until the claim has ended.
MIN_BATCH, BATCHES, BATCH_SECONDS = 16, 4, 60
# Seconds for a claim: of a slow check, by one worker, and to spare. If that is not enough, another
# run may check a session a second time, and no harm is done.
SLOW_CHECK, CLAIM_SLACK = 10, 60
# Results that are written together, and seconds that they may wait.
NOTES, NOTES_AGE = 50, 2
# So many faults in a row are Garmin's, not the sessions': going on would only add to them.
MAX_FAULTS_IN_A_ROW = 5


@sensitive_variables()
def check_session(user: Any) -> Check:
    """Check the user's session now, refreshing it where that is due, and note when it was checked.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.

    Returns:
        What was found. Garmin's faults are results, not exceptions.

    Raises:
        ImproperlyConfigured: a setting cannot be used, which says nothing about any session.
        RuntimeError: called inside ``atomic()``.
    """
    refuse_atomic("check_session")
    began = timezone.now()
    check = _check(user)
    _note([check], began)
    return check


@sensitive_variables()
def _check(user: Any, engine: str = "") -> Check:
    """Ask Garmin, and write nothing of what was found but what a refresh or a death does."""
    outcome, error = Outcome.ACTIVE, None  # type: tuple[Outcome, Exception | None]
    refreshed = worked = False
    try:
        stored = StoredSession(user)
        engine = stored.engine_name
        try:
            stored.ask_account_name()
        finally:
            stored.close(note=False)
        refreshed, worked = stored.refreshed, stored.session.worked
    except ImproperlyConfigured:
        raise
    except NotConnected as exc:
        outcome, error = Outcome.GONE, exc
    except SessionExpired as exc:
        outcome, error = Outcome.EXPIRED, exc
    except SessionUnreadable as exc:
        outcome, error = Outcome.UNREADABLE, exc
        engine = engine or _engine_of(user)
    except GarminAuthError as exc:
        outcome, error = Outcome.UNKNOWN, exc
    except Exception as exc:  # A bug of ours or of an engine says nothing about the session.
        logger.exception("check_session failed user=%s", user.pk)
        outcome, error = Outcome.UNKNOWN, exc
    return Check(user, outcome, refreshed, error, engine, worked)


def _note(checks: list[Check], began: datetime) -> None:
    """Write when these sessions were checked, and which of them have worked.

    Args:
        checks: what was found.
        began: when the first of them began.
    """
    states = GarminAuthenticationState.objects
    if worked := [check.user.pk for check in checks if check.worked]:
        states.mark_checked(worked, worked_before=began)
    if others := [check.user.pk for check in checks if not check.worked]:
        states.mark_checked(others)


def check_sessions(
    *,
    max_age: timedelta | None = None,
    user: Any = None,
    limit: int | None = None,
    workers: int = 1,
    rate: float | None = None,
    on_check: Callable[[Check], None] = lambda check: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Report:
    """Check the stored sessions, those checked longest ago first, and purge logins that are over.

    Runs at the same time, in any number of processes, share the sessions among them.

    Args:
        max_age: leave out what was validated less than this long ago.
        user: check only this user's session.
        limit: check at most so many.
        workers: how many threads check at the same time; 1: the caller's own.
        rate: how many checks may begin in a second; None: as many as Garmin answers.
        on_check: called with each result, in the caller's thread.
        interrupted: asked before each check; True ends the run when what is in flight is finished.

    Returns:
        The counts. The run stops early where Garmin limits the rate or does not work.

    Raises:
        ValueError: ``workers`` below 1, or a ``rate`` that is not above 0.
        RuntimeError: called inside ``atomic()``.
    """
    refuse_atomic("check_sessions")
    if workers < 1:
        raise ValueError("workers must be 1 or more: the threads that check at the same time.")
    if rate is not None and not rate > 0:
        raise ValueError("rate must be above 0 checks a second, or None for no limit.")
    started = time.monotonic()
    report = Report()
    purge_challenges()
    due = due_sessions(max_age, user)
    if max_age is not None:
        report.skipped = due_sessions(user=user).count() - due.count()
    run = _run(due, workers, rate, limit)
    pace, stop = Pace(rate), StopRule()

    def next_ones() -> Iterator[GarminAuthenticationState]:
        # One user's session is asked for by name: it is nobody else's work.
        for state in due if user is not None else run:
            pace.wait(interrupted)
            if interrupted():
                stop.reason = Stopped.SIGNAL
            elif not stop.reason and pauses.seconds_left(pauses.SITE):
                stop.reason = Stopped.RATE_LIMITED
            if stop.reason:
                return
            yield state

    crew: Crew[GarminAuthenticationState, Check] = Crew(
        workers, lambda state: _check(state.user, state.engine)
    )
    notes = Notes()
    try:
        for check in crew.map(next_ones()):
            notes.add(check)
            report.count(check)
            stop.hear(check)
            on_check(check)
    finally:
        notes.write()
        run.release()
    report.stopped = stop.reason
    report.duration_s = time.monotonic() - started
    return report


def _run(due: StateQuerySet, workers: int, rate: float | None, limit: int | None) -> CheckRun:
    """Return a run with batches for so many workers at such a rate."""
    batch = max(MIN_BATCH, BATCHES * workers)
    if rate:
        batch = min(batch, max(workers, int(rate * BATCH_SECONDS)))
    seconds = CLAIM_SLACK + batch * (SLOW_CHECK / workers + (1 / rate if rate else 0))
    return CheckRun(due, batch=batch, seconds=seconds, limit=limit)


class StopRule:
    """Tells from the results when to go on would do no good.

    Attributes:
        reason: why the run has to stop, None while it may go on. The first reason holds.
    """

    def __init__(self) -> None:
        self.reason: Stopped | None = None
        self._faults_in_a_row = 0

    def hear(self, check: Check) -> None:
        """Take one result into account."""
        if self.reason:
            return
        if isinstance(check.error, RateLimited):
            self.reason = Stopped.RATE_LIMITED
        elif isinstance(check.error, MassFailure):
            self.reason = Stopped.MASS_FAILURE
        elif isinstance(check.error, GarminUnavailable):
            self._faults_in_a_row += 1
            if self._faults_in_a_row == MAX_FAULTS_IN_A_ROW:
                self.reason = Stopped.UNAVAILABLE
        elif check.outcome not in (Outcome.UNREADABLE, Outcome.GONE):  # Garmin was not asked.
            self._faults_in_a_row = 0


class Notes:
    """Results that wait to be written, many with one UPDATE: on SQLite each is a wait for the disk.

    The sessions stay claimed until then, and a process that dies has checked them for nothing.
    """

    def __init__(self) -> None:
        self._checks: list[Check] = []
        self._began, self._oldest = timezone.now(), time.monotonic()

    def add(self, check: Check) -> None:
        """Keep a result, and write all of them when there are enough, or when they grow old."""
        self._checks.append(check)
        if len(self._checks) >= NOTES or time.monotonic() > self._oldest + NOTES_AGE:
            self.write()

    def write(self) -> None:
        """Write what there is."""
        checks, self._checks = self._checks, []
        began, self._began, self._oldest = self._began, timezone.now(), time.monotonic()
        _note(checks, began)


def purge_challenges() -> int:
    """Remove the pending logins whose time is over, and return how many there were."""
    GarminAuthenticationState.objects.purge_logins(timezone.now() - LOGIN_KEPT)
    before = timezone.now() - timedelta(seconds=conf.MFA_TTL)
    return GarminAuthenticationState.objects.purge_challenges(before)


def _engine_of(user: Any) -> str:
    """Return the name of the engine that wrote the user's session; nothing is decrypted."""
    rows = GarminAuthenticationState.objects.current().with_session().filter(user_id=user.pk)
    return rows.values_list("engine", flat=True).first() or ""
