"""Is a stored session alive? Ask Garmin with one cheap call, and tell dead from unknown."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db.models import F, Q
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from . import pauses
from .conf import conf
from .exceptions import (
    GarminAuthError,
    GarminUnavailable,
    MassFailure,
    NotConnected,
    RateLimited,
    SessionExpired,
    SessionUnreadable,
)
from .models import GarminAuthenticationState, StateQuerySet
from .sessions import StoredSession
from .transactions import refuse_atomic

logger = logging.getLogger("garmin_auth")

BATCH = 200  # rows
# So many faults in a row are Garmin's, not the sessions': going on would only add to them.
MAX_FAULTS_IN_A_ROW = 5


class Outcome(StrEnum):
    """What a check found."""

    ACTIVE = "active"
    EXPIRED = "expired"
    UNKNOWN = "unknown"
    UNREADABLE = "unreadable"
    GONE = "gone"


class Stopped(StrEnum):
    """Why a run ended before its time."""

    RATE_LIMITED = "rate_limited"
    MASS_FAILURE = "mass_failure"
    UNAVAILABLE = "unavailable"
    SIGNAL = "signal"


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Args:
        user: whose session it is.
        outcome: what was found. GONE: the session was disconnected before it could be checked.
        refreshed: whether the access token was refreshed on the way.
        error: what was raised, None for an active session.
    """

    user: Any
    outcome: Outcome
    refreshed: bool = False
    error: Exception | None = None


@dataclass
class Report:
    """Counts of one run: ``checked`` is active + expired + unknown + unreadable.

    Args:
        checked: sessions that were looked at.
        active: sessions that work; ``refreshed`` of them needed a fresh access token.
        expired: sessions that Garmin has ended; they are cleared.
        unknown: sessions of which nothing can be said; they are kept.
        unreadable: sessions that cannot be opened; they are kept.
        skipped: sessions that were validated recently enough, or gone before their turn.
        stopped: why the run ended early, None if it did not.
        duration_s: seconds from the first row read to the last result written.
    """

    checked: int = 0
    active: int = 0
    refreshed: int = 0
    expired: int = 0
    unknown: int = 0
    unreadable: int = 0
    skipped: int = 0
    stopped: Stopped | None = None
    duration_s: float = 0.0

    def count(self, check: Check) -> None:
        if check.outcome is Outcome.GONE:
            self.skipped += 1
            return
        self.checked += 1
        self.refreshed += check.refreshed
        setattr(self, check.outcome, getattr(self, check.outcome) + 1)

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as JSON-compatible data, in the order that the command documents."""
        return {**asdict(self), "duration_s": round(self.duration_s, 3)}


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
    outcome, error = Outcome.ACTIVE, None  # type: tuple[Outcome, Exception | None]
    refreshed = noted = False
    try:
        stored = StoredSession(user)
        try:
            stored.ask_account_name()
        finally:
            stored.close(checked=True)
        refreshed, noted = stored.refreshed, stored.session.worked
    except ImproperlyConfigured:
        raise
    except NotConnected as exc:
        outcome, error = Outcome.GONE, exc
    except SessionExpired as exc:
        outcome, error = Outcome.EXPIRED, exc
    except SessionUnreadable as exc:
        outcome, error = Outcome.UNREADABLE, exc
    except GarminAuthError as exc:
        outcome, error = Outcome.UNKNOWN, exc
    except Exception as exc:  # A bug of ours or of an engine says nothing about the session.
        logger.exception("check_session failed user=%s", user.pk)
        outcome, error = Outcome.UNKNOWN, exc
    if not noted:
        GarminAuthenticationState.objects.mark_checked(user.pk)
    return Check(user, outcome, refreshed, error)


def due_sessions(max_age: timedelta | None = None, user: Any = None) -> StateQuerySet:
    """Return the rows whose sessions are to be checked, those checked longest ago first.

    Args:
        max_age: leave out what was validated less than this long ago; None leaves out nothing.
        user: only this user's.
    """
    rows = GarminAuthenticationState.objects.current().with_session()
    if user is not None:
        rows = rows.filter(user_id=user.pk)
    if max_age is not None:
        cutoff = timezone.now() - max_age
        rows = rows.filter(Q(last_validated__isnull=True) | Q(last_validated__lt=cutoff))
    return rows.order_by(F("last_checked_at").asc(nulls_first=True), "pk").select_related("user")


def check_sessions(
    *,
    max_age: timedelta | None = None,
    user: Any = None,
    limit: int | None = None,
    on_check: Callable[[Check], None] = lambda check: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Report:
    """Check the stored sessions one after the other, and purge logins whose time is over.

    Args:
        max_age: leave out what was validated less than this long ago.
        user: check only this user's session.
        limit: check at most so many.
        on_check: called with each result.
        interrupted: asked before each check; True ends the run.

    Returns:
        The counts. The run stops early where Garmin limits the rate or does not work.
    """
    started = time.monotonic()
    report = Report()
    purge_challenges()
    if max_age is not None:
        report.skipped = due_sessions(user=user).count() - due_sessions(max_age, user).count()
    faults_in_a_row = 0
    for state in _in_batches(due_sessions(max_age, user), limit):
        if interrupted():
            report.stopped = Stopped.SIGNAL
            break
        if pauses.seconds_left(pauses.SITE):
            report.stopped = Stopped.RATE_LIMITED
            break
        check = check_session(state.user)
        report.count(check)
        on_check(check)
        if isinstance(check.error, RateLimited):
            report.stopped = Stopped.RATE_LIMITED
            break
        if isinstance(check.error, MassFailure):
            report.stopped = Stopped.MASS_FAILURE
            break
        if isinstance(check.error, GarminUnavailable):
            faults_in_a_row += 1
        elif check.outcome not in (Outcome.UNREADABLE, Outcome.GONE):  # Garmin was not asked.
            faults_in_a_row = 0
        if faults_in_a_row == MAX_FAULTS_IN_A_ROW:
            report.stopped = Stopped.UNAVAILABLE
            break
    report.duration_s = time.monotonic() - started
    return report


def purge_challenges() -> int:
    """Remove the pending logins whose time is over, and return how many there were."""
    before = timezone.now() - timedelta(seconds=conf.MFA_TTL)
    return GarminAuthenticationState.objects.purge_challenges(before)


def _in_batches(rows: StateQuerySet, limit: int | None) -> Iterator[GarminAuthenticationState]:
    """Yield each row once, a batch at a time: a row that was checked no longer belongs to these."""
    began = timezone.now()
    rows = rows.filter(Q(last_checked_at__isnull=True) | Q(last_checked_at__lt=began))
    left = limit
    while batch := list(rows[: BATCH if left is None else min(BATCH, left)]):
        yield from batch
        if left is not None:
            left -= len(batch)
            if left <= 0:
                return
