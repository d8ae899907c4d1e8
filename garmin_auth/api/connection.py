"""A user's Garmin connection as JSON."""

from datetime import UTC, datetime
from typing import Any

from .. import accounts, login
from ..accounts import Account, badge_status
from ..conf import conf
from ..exceptions import Frozen
from ..logins.permission import refusal_of
from ..logins.ways import Way, offered_ways
from .problems import Problem


def connection_of(user: Any) -> dict[str, Any]:
    """Return what the API says of the user's connection: the schema Connection of openapi.json.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.
    """
    # In this order: a login under way may turn into one that waits for a code, but not vice versa.
    account = accounts.account_of(user)
    pending = login.pending_login(user)
    if pending is not None and pending.expired:
        pending = None
    refusal = str(Frozen.user_message) if conf.FROZEN else refusal_of(user)
    return {
        "status": badge_status(account, waiting=pending is not None),
        "connected": account.connected,
        "readable": account.readable,
        "engine": (account.connected and account.engine) or None,
        "domain": (account.connected and account.domain) or None,
        "account_name": account.name or None,
        "connected_at": _moment(account.connected_at),
        "last_validated": _moment(account.last_validated),
        "ends_at": _moment(account.ends_at),
        "failing_since": _moment(account.failing_since),
        "failing_reason": account.failing_reason or None,
        "ended_reason": str(account.ended_reason) or None,
        "pending": pending and _pending(pending),
        "login": _login(account),
        "refusal": refusal or None,
        "offers": [] if refusal else [_offer(way) for way in offered_ways()],
    }


def _pending(pending: login.MFARequired) -> dict[str, Any]:
    return {
        "sent_to": pending.sent_to,
        "expires_at": _moment(pending.expires_at),
        "attempts_left": pending.attempts_left,
        "engine": pending.engine,
        "domain": pending.domain,
    }


def _login(account: Account) -> dict[str, Any] | None:
    if not account.login_under_way and account.login_failure is None:
        return None
    failure = account.login_failure
    return {
        "under_way": account.login_under_way,
        "error": failure and Problem.of(failure).contents,
    }


def _offer(way: Way) -> dict[str, Any]:
    return {
        "engine": way.engine,
        "kind": "key" if way.takes_key else "password",
        "label": str(way.label),
        "note": str(way.note) or None,
        "domains": list(way.domains),
    }


def _moment(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
