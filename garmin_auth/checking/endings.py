"""Tell of the sessions that end soon, each run of checks again."""

from collections.abc import Callable
from typing import Any

from .. import signals
from ..models import GarminAuthenticationState
from ..storage.retries import bookkeeping
from ..storage.transactions import send_on_commit

# How many rows are read at a time.
CHUNK = 500


def tell_of_endings(user: Any = None, interrupted: Callable[[], bool] = lambda: False) -> int:
    """Send ``session_ending`` for each session that ends soon, once for each warning that is due.

    Args:
        user: only this user's session.
        interrupted: called before each; if it returns True, the rest is left to the next run.

    Returns:
        How many were sent.
    """
    states = GarminAuthenticationState.objects
    rows = states.unwarned() if user is None else states.unwarned().filter(user_id=user.pk)
    told = 0
    with bookkeeping("who was warned of the end of a session"):
        pks = list(rows.values_list("pk", flat=True))
        for first in range(0, len(pks), CHUNK):
            for row in states.unwarned().filter(pk__in=pks[first : first + CHUNK]):
                if interrupted():
                    return told
                if states.count_warning(row):
                    send_on_commit(
                        signals.session_ending,
                        row.user,
                        engine=row.engine,
                        ends_at=row.session_ends_at,
                    )
                    told += 1
    return told
