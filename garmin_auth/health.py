"""Check whether stored sessions still work: one cheap call to Garmin for each."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import InterfaceError, OperationalError
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from .checking.claims import CheckRun, LeftOut, due_sessions
from .checking.endings import tell_of_endings
from .checking.pool import WorkerPool
from .checking.report import Check, Outcome, Report, Stopped
from .conf import conf
from .engines import is_limited_alone
from .engines.interruptions import interruptions
from .exceptions import (
    Frozen,
    GarminAuthError,
    GarminUnavailable,
    MassFailure,
    NotConnected,
    RateLimited,
    SessionExpired,
    SessionUnreadable,
)
from .limits import cooldown
from .limits.failing import reason_of, report_if_too_long, report_recovery
from .limits.rate import Pace
from .limits.shared_cache import shared_cache
from .models import GarminAuthenticationState
from .sessions import StoredSession
from .storage.querysets import LOGIN_KEPT, StateQuerySet
from .storage.retries import bookkeeping
from .storage.transactions import refuse_atomic

# The public names, wherever they are defined.
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

# How many rows a run claims at a time: BATCHES for each worker, but no fewer than MIN_BATCH; at a
# low rate, only as many as it checks in BATCH_SECONDS. If the run is killed, its claimed rows wait
# until the claim expires.
MIN_BATCH, BATCHES, BATCH_SECONDS = 16, 4, 60
# How long a claim lasts, in seconds: SLOW_CHECK for each check that a worker makes, and
# CLAIM_SLACK. If it expires too early, another run may check a session again, which is harmless.
SLOW_CHECK, CLAIM_SLACK = 10, 60
# How many results are written together, and for how many seconds a result may wait.
NOTES, NOTES_AGE = 50, 2
# After this many failures in a row, Garmin is considered down, and the run stops.
MAX_FAULTS_IN_A_ROW = 5


@sensitive_variables()
def check_session(user: Any) -> Check:
    """Check the user's session now, refreshing it if necessary, and record the time of the check.

    With ``GARMIN_AUTH_FROZEN`` nothing is checked or recorded: the result is unknown.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.

    Returns:
        The result. A failure of Garmin is returned as a result, not raised.

    Raises:
        ImproperlyConfigured: a setting is wrong, so no session can be checked.
        RuntimeError: called inside ``atomic()``.
    """
    refuse_atomic("check_session")
    if conf.FROZEN:
        return Check(user, Outcome.UNKNOWN, False, Frozen(), *_service_of(user))
    began = timezone.now()
    check = _check(user)
    _note([check], began)
    return check


@sensitive_variables()
def _check(
    user: Any, engine: str = "", domain: str = "", *, believe_refusals: bool = False
) -> Check:
    """Check a session. Store its refresh or its end, but not the time of the check.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.
        engine, domain: the session's, "" if not known.
        believe_refusals: whether a refusal clears the session even in a mass failure.
    """
    outcome, error = Outcome.ACTIVE, None  # type: tuple[Outcome, Exception | None]
    refreshed = worked = limited_alone = recovers = False
    row = None
    try:
        stored = StoredSession(user, believe_refusals=believe_refusals)
        row, limited_alone = stored.row, stored.limited_alone
        engine, domain = row.engine, row.domain
        try:
            stored.fetch_account_name()
        finally:
            stored.close(note=False)
        refreshed, worked = stored.refreshed, stored.session.worked
        recovers = worked and stored.row.failing_told_at is not None
    except ImproperlyConfigured:
        raise
    except interruptions():
        raise
    except NotConnected as exc:
        outcome, error = Outcome.GONE, exc
    except SessionExpired as exc:
        outcome, error = Outcome.EXPIRED, exc
    except SessionUnreadable as exc:
        outcome, error = Outcome.UNREADABLE, exc
        engine, domain = (engine, domain) if engine else _service_of(user)
    except GarminAuthError as exc:
        outcome, error = Outcome.UNKNOWN, exc
    except (OperationalError, InterfaceError) as exc:  # The run goes on, if the database is back.
        logger.warning(
            "check_session could not use the database user=%s: %s",
            user.pk,
            type(exc).__qualname__,
            extra={"event": "check_failed", "user_pk": user.pk, "error": type(exc).__qualname__},
        )
        outcome, error = Outcome.UNKNOWN, exc
    except Exception as exc:  # A bug in the app or an engine says nothing about the session.
        logger.exception(
            "check_session failed user=%s",
            user.pk,
            extra={"event": "check_crashed", "user_pk": user.pk},
        )
        outcome, error = Outcome.UNKNOWN, exc
    reason = reason_of(error) if outcome is Outcome.UNKNOWN else ""
    failing = False
    if reason and row:
        with bookkeeping("that a session keeps failing"):
            failing = report_if_too_long(user, row, reason)
    return Check(
        user,
        outcome,
        refreshed,
        error,
        engine,
        domain,
        worked,
        limited_alone,
        reason,
        failing=failing,
        recovers=recovers,
    )


def _note(checks: list[Check], began: datetime) -> None:
    """Store when these sessions were checked, and which of them worked.

    Args:
        checks: the results.
        began: when the first check started.
    """
    states = GarminAuthenticationState.objects
    if worked := [check.user.pk for check in checks if check.worked]:
        states.mark_checked(worked, worked=True, began=began)
    others = [check for check in checks if not check.worked]
    for reason in {check.reason for check in others}:
        users = [check.user.pk for check in others if check.reason == reason]
        states.mark_checked(users, failed=reason, began=began)
    for check in checks:
        if check.recovers:
            with bookkeeping("that a connection works again"):
                report_recovery(check.user)


def check_sessions(
    *,
    max_age: timedelta | None = None,
    user: Any = None,
    limit: int | None = None,
    workers: int = 1,
    rate: float | None = None,
    believe_refusals: str = "",
    on_check: Callable[[Check], None] = lambda check: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Report:
    """Check the stored sessions, least recently checked first, and purge expired logins.

    Several runs at the same time, in any number of processes, share the sessions between them.
    With ``GARMIN_AUTH_FROZEN`` a run stops before it has read anything.

    Args:
        max_age: skip sessions that were validated less than this long ago.
        user: check only this user's session.
        limit: check at most this many sessions.
        workers: how many threads check at the same time; 1 uses the caller's thread.
        rate: how many checks may start per second; None for ``GARMIN_AUTH_CHECK_RATE``.
        believe_refusals: name of an engine. Its sessions that Garmin refuses are cleared even in a
            mass failure, because staff have decided that such sessions are dead.
        on_check: called with each result, in the caller's thread.
        interrupted: called before each check. If it returns True, the run ends once the checks in
            progress have finished.

    Returns:
        The counts. If the run stopped early, ``stopped`` says why.

    Raises:
        ValueError: ``workers`` is less than 1, or ``rate`` is not greater than 0.
        RuntimeError: called inside ``atomic()``.
    """
    refuse_atomic("check_sessions")
    if workers < 1:
        raise ValueError("workers must be 1 or more.")
    if rate is not None and not rate > 0:
        raise ValueError("rate must be greater than 0, or None for GARMIN_AUTH_CHECK_RATE.")
    if conf.FROZEN:
        return Report(stopped=Stopped.FROZEN)
    started = time.monotonic()
    report = Report()
    purge_challenges()
    due = due_sessions(max_age, user)
    if max_age is not None:
        # Two counts, between which others may connect or check.
        report.skipped = max(0, due_sessions(user=user).count() - due.count())
    run = _run(due, workers, rate, limit)
    pace, stop = Pace(rate), StopRule()
    cache_failures = shared_cache.failures

    def next_ones() -> Iterator[GarminAuthenticationState]:
        # A single user's session need not be shared with other runs.
        for state in due if user is not None else run:
            if not stop.leaves_out(state):
                pace.wait(interrupted)
                if interrupted():
                    stop.interrupt()
                    return
            if stop.leaves_out(state):  # It may have waited for long.
                run.give_back(stop.left_out)
            else:
                yield state

    pool: WorkerPool[GarminAuthenticationState, Check] = WorkerPool(
        workers,
        lambda state: _check(
            state.user,
            state.engine,
            state.domain,
            believe_refusals=state.engine == believe_refusals,
        ),
    )
    notes = Notes()
    try:
        for check in pool.map(next_ones()):
            notes.add(check)
            report.count(check)
            stop.hear(check)
            run.leave_out(stop.left_out)
            on_check(check)
    finally:
        try:
            notes.write()
        finally:
            run.release()
    report.stopped, report.left_out = stop.reason, stop.left_out.names()
    tell_of_endings(user, interrupted)
    if user is None and not report.checked and not report.stopped:
        report.elsewhere = due.claimed_checks()
    report.cache_failed = not shared_cache.answers() or shared_cache.failures > cache_failures
    report.duration_s = time.monotonic() - started
    return report


def _run(due: StateQuerySet, workers: int, rate: float | None, limit: int | None) -> CheckRun:
    """Return a run whose batches suit the number of workers and the rate."""
    batch = max(MIN_BATCH, BATCHES * workers)
    if rate:
        batch = min(batch, max(workers, int(rate * BATCH_SECONDS)))
    seconds = CLAIM_SLACK + batch * (SLOW_CHECK / workers + (1 / rate if rate else 0))
    return CheckRun(due, batch=batch, seconds=seconds, limit=limit)


class StopRule:
    """Decides from the results which sessions a run must leave out.

    Attributes:
        left_out: the sessions of Garmin domains that cannot be asked, and of engines in a mass
            failure. All others are still checked.
    """

    def __init__(self) -> None:
        self.left_out = LeftOut()
        self._reason: Stopped | None = None
        self._services: set[tuple[str, str]] = set()
        self._limited: set[str] = set()
        self._faults_in_a_row: Counter[str] = Counter()

    @property
    def reason(self) -> Stopped | None:
        """The first reason found to leave out sessions, None if there is none.

        A mass failure is one only if no engine can continue.
        """
        if not self._reason and self._services and self._services <= self.left_out.services:
            return Stopped.MASS_FAILURE
        return self._reason

    def interrupt(self) -> None:
        """Record that the run was interrupted."""
        self._reason = self._reason or Stopped.SIGNAL

    def close(self, domain: str, reason: Stopped) -> None:
        """Leave out all sessions of one of Garmin's domains."""
        self._reason = self._reason or reason
        self.left_out = replace(self.left_out, domains=self.left_out.domains | {domain})

    def leaves_out(self, state: GarminAuthenticationState) -> bool:
        """Return whether a row is not checked. A cooldown that is in force is taken into account.

        Args:
            state: the row.
        """
        if self.left_out.has(state):
            return True
        scope = cooldown.site_scope(state.domain)
        if state.domain not in self._limited and not cooldown.seconds_left(scope):
            return False
        if is_limited_alone(state.engine, state.domain):
            return False
        self._reason = self._reason or Stopped.RATE_LIMITED
        self._leave_out(state.engine, state.domain)
        return True

    def _leave_out(self, engine: str, domain: str) -> None:
        services = self.left_out.services | {(engine, domain)}
        self.left_out = replace(self.left_out, services=services)

    def hear(self, check: Check) -> None:
        """Take a result into account."""
        service = check.engine, check.domain
        if check.outcome is not Outcome.GONE:
            self._services.add(service)
        if isinstance(check.error, RateLimited) and not check.limited_alone:
            self._limited.add(check.domain)
            self._reason = self._reason or Stopped.RATE_LIMITED
            self._leave_out(*service)
        elif isinstance(check.error, MassFailure):
            self._leave_out(*service)
        elif isinstance(check.error, GarminUnavailable):
            self._faults_in_a_row[check.domain] += 1
            if self._faults_in_a_row[check.domain] == MAX_FAULTS_IN_A_ROW:
                self.close(check.domain, Stopped.UNAVAILABLE)
        elif check.outcome not in (Outcome.UNREADABLE, Outcome.GONE):  # Garmin was not asked.
            self._faults_in_a_row[check.domain] = 0


class Notes:
    """Collects results to write many with one UPDATE: on SQLite, each UPDATE waits for the disk.

    The sessions stay claimed until then. If the process dies first, they will be checked again.
    """

    def __init__(self) -> None:
        self._checks: list[Check] = []
        self._began, self._oldest = timezone.now(), time.monotonic()

    def add(self, check: Check) -> None:
        """Add a result. Write all if there are enough, or the oldest has waited long enough.

        The end of a session is written at once, before ``on_check`` reports it.
        """
        self._checks.append(check)
        enough = len(self._checks) >= NOTES or check.outcome is Outcome.EXPIRED
        if enough or time.monotonic() > self._oldest + NOTES_AGE:
            self.write()

    def write(self) -> None:
        """Write the results collected so far."""
        checks, self._checks = self._checks, []
        began, self._began, self._oldest = self._began, timezone.now(), time.monotonic()
        _note(checks, began)


def purge_challenges() -> int:
    """Remove expired pending logins and old background logins.

    Returns:
        How many pending logins were removed.
    """
    GarminAuthenticationState.objects.purge_logins(timezone.now() - LOGIN_KEPT)
    before = timezone.now() - timedelta(seconds=conf.MFA_TTL)
    return GarminAuthenticationState.objects.purge_challenges(before)


def _service_of(user: Any) -> tuple[str, str]:
    """Return the engine that wrote the user's session, and its domain, without decrypting it."""
    rows = GarminAuthenticationState.objects.using_write_db().with_session().filter(user_id=user.pk)
    return rows.values_list("engine", "domain").first() or ("", "")
