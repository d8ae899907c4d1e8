"""When a session ends, when its user is warned of that, and when a check prolongs it."""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q
from django.utils import timezone

# How long before its end a session is shown as ending soon, and how long before that the user is
# warned once more.
WARN_BEFORE, WARN_AGAIN_BEFORE = timedelta(days=30), timedelta(days=7)
# The parts of its life after which a session that use prolongs is prolonged by a check, and after
# which its user is warned, because neither uses nor checks have prolonged it.
RENEW_AFTER, WARN_AFTER = 1 / 3, 3 / 4


@dataclass(frozen=True)
class Lifetime:
    """The times of a session, by the names of their columns.

    Args:
        session_ends_at: when it ends at the latest, None if not known.
        session_renew_at: from when on a check prolongs it; None if use does not prolong it, or if
            its end is not known.
        session_ends_soon_at: from when on its user is warned that no check has, None likewise.
    """

    session_ends_at: datetime | None = None
    session_renew_at: datetime | None = None
    session_ends_soon_at: datetime | None = None

    def columns(self) -> dict[str, Any]:
        """Return the values to store. No warning of this end has been sent yet."""
        return {**asdict(self), "ending_warnings": 0}


def lifetime(ends_at: datetime | None, *, prolonged_at: datetime | None = None) -> Lifetime:
    """Return the times of a session.

    Args:
        ends_at: when it ends at the latest, None if not known.
        prolonged_at: when it was last prolonged, by a login or a refresh; None if nothing prolongs
            it.
    """
    if ends_at is None or prolonged_at is None:
        return Lifetime(ends_at)
    life = ends_at - prolonged_at
    return Lifetime(ends_at, prolonged_at + RENEW_AFTER * life, prolonged_at + WARN_AFTER * life)


def ends_soon(ends_at: datetime | None, soon_at: datetime | None) -> bool:
    """Return whether it is time to warn the user of a session's end, or whether it has ended.

    Args:
        ends_at: the column ``session_ends_at``.
        soon_at: the column ``session_ends_soon_at``.
    """
    now = timezone.now()
    within = ends_at is not None and ends_at <= now + WARN_BEFORE
    return within and (soon_at is None or soon_at <= now)


def soon() -> Q:
    """Return the condition for rows of which ``ends_soon`` is true."""
    now = timezone.now()
    unprolonged = Q(session_ends_soon_at=None) | Q(session_ends_soon_at__lte=now)
    return Q(session_ends_at__lte=now + WARN_BEFORE) & unprolonged
