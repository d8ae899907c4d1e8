"""Decide whether a connection that keeps failing is to be reported, or whether it is an outage.

A failure says nothing certain about the session, so nothing is ever cleared here. After
``GARMIN_AUTH_FAILING_AFTER`` the user is told, once, provided that others of the engine work. If
none has worked since, Garmin is down or this site is blocked, and it is the site that is told.
"""

import logging
from datetime import UTC, datetime
from typing import Any

from .. import signals
from ..exceptions import GarminRequestError, GarminUnavailable
from ..models import FailingReason, GarminAuthenticationState
from ..storage.querysets import failing_before
from ..storage.session_rows import SessionRow
from ..storage.transactions import send_on_commit
from .mass_failure import MASS
from .shared_cache import shared_cache, tenant_cache_key

logger = logging.getLogger("garmin_auth")

# An outage is logged at most once in this many seconds.
QUIET = 3600


def reason_of(error: Exception | None) -> str:
    """Return the ``FailingReason`` that an error is for the session, "" if it is none.

    Args:
        error: what a refresh or a check raised, None if it succeeded. The request of a check is
            always the same, so that a refusal of it concerns the account; any other may be the
            caller's mistake, and is not for this function.
    """
    if isinstance(error, GarminUnavailable):
        return error.failing_reason
    return FailingReason.ACCOUNT if isinstance(error, GarminRequestError) else ""


def report_if_too_long(user: Any, row: SessionRow, reason: str) -> bool:
    """Send ``session_failing`` if the connection has failed for too long, and the user is not told.

    This takes no query unless it has failed for ``GARMIN_AUTH_FAILING_AFTER``.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.
        row: the row as it was read before the present failure.
        reason: the ``FailingReason`` of the present failure.

    Returns:
        Whether the connection has failed for too long, whoever tells the user.
    """
    since = row.failing_since
    if since is None or since > failing_before():
        return False
    if row.failing_told_at:
        return True
    if not _is_its_own(row, since, reason):
        if shared_cache.add(tenant_cache_key("outage", row.engine, row.domain), 1, QUIET):
            logger.error(
                "No session of the engine %s has worked at %s since %s, so its failures are "
                "considered an outage, and no user is told.",
                row.engine,
                row.domain,
                f"{since.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
                extra={"event": "outage", "engine": row.engine, "domain": row.domain},
            )
        return False
    if GarminAuthenticationState.objects.report_failing(row.pk, since):
        send_on_commit(signals.session_failing, user, since=since, reason=str(reason))
    return True


def report_recovery(user: Any) -> None:
    """Send ``session_recovered`` if the user was told that the connection fails, and not since.

    Args:
        user: an ``AUTH_USER_MODEL`` instance, whose session works.
    """
    if since := GarminAuthenticationState.objects.end_failing(user.pk):
        send_on_commit(signals.session_recovered, user, failed_since=since)


def _is_its_own(row: SessionRow, since: datetime, reason: str) -> bool:
    """Return whether it is the connection that fails, not the engine or all of Garmin."""
    states = GarminAuthenticationState.objects
    if states.others_work(row.engine, row.domain, since):
        return True
    # On a site with one or two connections, nobody else could have worked. What Garmin says about
    # this one is not an outage then.
    return (
        reason != FailingReason.UNAVAILABLE and states.count_failed(row.engine, row.domain) < MASS
    )
