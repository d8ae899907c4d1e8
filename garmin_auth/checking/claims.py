"""Choose the sessions that a run checks next, and share them between simultaneous runs."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from django.db.models import Q
from django.utils import timezone

from ..models import GarminAuthenticationState
from ..storage.querysets import StateQuerySet

STAMP = "%Y%m%dT%H%M%S.%f%z"


def due_sessions(max_age: timedelta | None = None, user: Any = None) -> StateQuerySet:
    """Return the rows whose sessions are due for a check, least recently checked first.

    Args:
        max_age: skip sessions that were validated less than this long ago, except those that the
            check would prolong; None skips none.
        user: return only this user's row.
    """
    rows = GarminAuthenticationState.objects.using_write_db().with_session()
    if user is not None:
        rows = rows.filter(user_id=user.pk)
    if max_age is not None:
        cutoff = timezone.now() - max_age
        is_old = Q(last_validated__isnull=True) | Q(last_validated__lt=cutoff)
        rows = rows.filter(is_old | Q(session_renew_at__lte=timezone.now()))
    return rows.order_by("check_order", "pk").select_related("user")


@dataclass(frozen=True)
class LeftOut:
    """The sessions that a run does not check.

    Args:
        domains: those of these Garmin domains.
        services: those of these engines, each at one domain.
    """

    domains: frozenset[str] = frozenset()
    services: frozenset[tuple[str, str]] = frozenset()

    def has(self, state: GarminAuthenticationState) -> bool:
        """Return whether a row's session is one of them."""
        return state.domain in self.domains or (state.engine, state.domain) in self.services

    def names(self) -> list[str]:
        """Return what to call them: a domain, or an engine at a domain."""
        engines = (
            f"{engine} at {domain}"
            for engine, domain in self.services
            if domain not in self.domains
        )
        return sorted([*self.domains, *engines])

    def exclude_from(self, rows: StateQuerySet) -> StateQuerySet:
        """Return the rows without them."""
        if self.domains:
            rows = rows.exclude(domain__in=self.domains)
        for engine, domain in self.services:
            rows = rows.exclude(engine=engine, domain=domain)
        return rows


def _after(rows: StateQuerySet, last: GarminAuthenticationState | None) -> StateQuerySet:
    """Return the rows that follow one in the order of checks."""
    if last is None:
        return rows
    # Both conditions, because databases start an index scan at a range, not at an OR.
    later = Q(check_order__gt=last.check_order) | Q(check_order=last.check_order, pk__gt=last.pk)
    return rows.filter(later, check_order__gte=last.check_order)


class CheckRun:
    """The sessions that one run checks. It claims a few of them at a time.

    A run that starts while others are in progress joins them: it skips what they have checked since
    the first of them started, and what they have claimed.

    Args:
        due: the rows to choose from.
        batch: how many rows to claim at a time.
        seconds: how long other runs leave a batch alone if this process dies.
        limit: how many rows to claim at most; None for all.
    """

    def __init__(
        self, due: StateQuerySet, *, batch: int, seconds: float, limit: int | None = None
    ) -> None:
        self._due, self._batch, self._seconds, self._limit = due, batch, seconds, limit
        self._left_out = LeftOut()
        self._states = GarminAuthenticationState.objects
        began = timezone.now()
        self.name = f"{began:{STAMP}} {uuid4().hex}"
        oldest = self._states.oldest_run().partition(" ")[0]
        self.began = min(began, datetime.strptime(oldest, STAMP)) if oldest else began

    def __iter__(self) -> Iterator[GarminAuthenticationState]:
        for batch in self.batches():
            for state in batch:
                if not self._left_out.has(state):
                    yield state
                elif self._limit is not None:
                    self._limit += 1

    def batches(self) -> Iterator[list[GarminAuthenticationState]]:
        """Claim one batch after another, and yield each."""
        rows = self._due.filter(check_order__lt=self.began)
        last: GarminAuthenticationState | None = None
        while self._limit is None or self._limit > 0:
            number = self._batch if self._limit is None else min(self._batch, self._limit)
            # After the previous batch, or each would scan again what the others have skipped.
            wanted = self._left_out.exclude_from(_after(rows, last))
            claimed = wanted.claim_checks(self.name, number, self._seconds)
            if claimed:
                if self._limit is not None:
                    self._limit -= len(claimed)
                yield claimed
            elif last is None:
                break
            # At the end once more from the start: another run may have released its claims. A row
            # whose session has ended meanwhile has no place any more.
            last = next((row for row in reversed(claimed) if row.check_order), None)

    def give_back(self, left_out: LeftOut) -> None:
        """Do the same, and count the row that was yielded last as not claimed.

        Args:
            left_out: the sessions to leave out.
        """
        self.leave_out(left_out)
        if self._limit is not None:
            self._limit += 1

    def leave_out(self, left_out: LeftOut) -> None:
        """Claim no more of these sessions, and yield none that are already claimed."""
        self._left_out = left_out

    def keep(self, batch: list[GarminAuthenticationState], seconds: float) -> None:
        """Renew the claims of a batch.

        Args:
            batch: the claimed rows.
            seconds: how long the claims last from now.
        """
        self._states.keep_checks(self.name, [state.pk for state in batch], seconds)

    def release(self, batch: list[GarminAuthenticationState] | None = None) -> None:
        """Release the claimed rows that have not been checked: those of a batch, or all."""
        pks = None if batch is None else [state.pk for state in batch]
        self._states.release_checks(self.name, pks)
