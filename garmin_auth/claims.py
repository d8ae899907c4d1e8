"""Which sessions a run of checks looks at next, shared with other runs at the same time."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from django.db.models import F, Q
from django.utils import timezone

from .models import GarminAuthenticationState, StateQuerySet

STAMP = "%Y%m%dT%H%M%S.%f%z"


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


class CheckRun:
    """The sessions that one run checks, claimed a few at a time.

    A run that begins while others are under way joins them: what they have checked since the first
    of them began is done, and what they have claimed is theirs.

    Args:
        due: the rows to choose from.
        batch: how many to claim at a time.
        seconds: for how long others leave a batch alone if this process dies.
        limit: how many at the most; None for all.
    """

    def __init__(
        self, due: StateQuerySet, *, batch: int, seconds: float, limit: int | None = None
    ) -> None:
        self._due, self._batch, self._seconds, self._limit = due, batch, seconds, limit
        self._states = GarminAuthenticationState.objects
        began = timezone.now()
        self.name = f"{began:{STAMP}} {uuid4().hex}"
        oldest = self._states.oldest_run().partition(" ")[0]
        self.began = min(began, datetime.strptime(oldest, STAMP)) if oldest else began

    def __iter__(self) -> Iterator[GarminAuthenticationState]:
        for batch in self.batches():
            yield from batch

    def batches(self) -> Iterator[list[GarminAuthenticationState]]:
        """Claim a batch after the other, and yield each."""
        left = self._limit
        # Two simple walks along the index, for databases do not agree on where NULL belongs.
        never = self._due.filter(last_checked_at__isnull=True).order_by("pk")
        before = self._due.filter(last_checked_at__lt=self.began).order_by("last_checked_at", "pk")
        for rows in (never, before):
            while left is None or left > 0:
                number = self._batch if left is None else min(self._batch, left)
                claimed = rows.claim_checks(self.name, number, self._seconds)
                if not claimed:
                    break
                yield claimed
                left = None if left is None else left - len(claimed)

    def keep(self, batch: list[GarminAuthenticationState], seconds: float) -> None:
        """Claim a batch for so much longer, from now on."""
        self._states.keep_checks(self.name, [state.pk for state in batch], seconds)

    def release(self, batch: list[GarminAuthenticationState] | None = None) -> None:
        """Give back what was claimed and not checked: of a batch, or all."""
        pks = None if batch is None else [state.pk for state in batch]
        self._states.release_checks(self.name, pks)
