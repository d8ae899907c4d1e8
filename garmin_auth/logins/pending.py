"""Logins that wait for the user's code, as they are stored."""

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.views.decorators.debug import sensitive_variables

from ..conf import conf
from ..engines.base import Challenge, Engine
from ..exceptions import (
    ChallengeExpired,
    InvalidMFACode,
    LoginRejected,
    SessionUnreadable,
    TooManyAttempts,
)
from ..models import GarminAuthenticationState
from ..storage.fields import Ciphertext
from ..storage.keys import encrypt
from .results import MFARequired

# What is stored of a pending login. Only the engine reads "state".
RECORD = {"engine", "domain", "sent_to", "pause_scope", "state"}


@dataclass(frozen=True)
class Pending:
    """A login that waits for its code, as stored.

    Args:
        pk: primary key of the row.
        started_at: when it started, which tells it from a later one.
        attempts: how many codes have been tried.
        record: what ``RECORD`` lists.
    """

    pk: Any
    started_at: datetime
    attempts: int
    record: dict[str, Any] = field(repr=False)

    def changed_by(self, challenge: Challenge) -> Ciphertext:
        """Return the record to store after a wrong code."""
        sent_to = challenge.sent_to or self.record["sent_to"]
        return encrypt(json.dumps({**self.record, "state": challenge.state, "sent_to": sent_to}))


def new_record(engine: Engine, scope: str, challenge: Challenge) -> Ciphertext:
    """Return the record to store of a login for which Garmin wants a code.

    Args:
        engine: the engine that logs in.
        scope: the cooldown's scope of the account's logins.
        challenge: what the engine returned.
    """
    return encrypt(
        json.dumps(
            {
                "engine": engine.name,
                "domain": engine.domain,
                "sent_to": challenge.sent_to,
                "pause_scope": scope,
                "state": challenge.state,
            }
        )
    )


@sensitive_variables()
def pending_login(user: Any) -> MFARequired | None:
    """Return the login that is waiting for the user's code, even an expired one; None if there is
    none.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.
    """
    try:
        pending = load(user)
    except ChallengeExpired:
        return None
    left = max(0, conf.MFA_MAX_ATTEMPTS - pending.attempts)
    record = pending.record
    return MFARequired(
        record["sent_to"], expiry(pending.started_at), left, record["engine"], record["domain"]
    )


def load(user: Any) -> Pending:
    """Return the user's pending login.

    Raises:
        ChallengeExpired: there is none, or it cannot be read.
    """
    row: Any = None
    record: Any = None
    try:
        row = (
            GarminAuthenticationState.objects.using_write_db()
            .filter(user_id=user.pk, mfa_pending=True)
            .values_list("pk", "mfa_started_at", "mfa_attempts", "mfa_challenge")
            .first()
        )
        record = json.loads(row[3].decrypt()) if row else None
    except (SessionUnreadable, ValueError):
        # Treated as gone: a new login is easier for the user than restoring a key is for staff.
        pass
    if row is None or not isinstance(record, dict) or not record.keys() >= RECORD:
        raise ChallengeExpired("gone")
    return Pending(row[0], row[1], row[2], record)


def expiry(started_at: datetime) -> datetime:
    return started_at + timedelta(seconds=conf.MFA_TTL)


def wrong_code(user: Any, pk: Any, started_at: datetime) -> LoginRejected:
    """Return the error for a wrong code, and end a login that has no attempts left."""
    states = GarminAuthenticationState.objects
    attempts = (
        states.using_write_db()
        .filter(pk=pk, mfa_pending=True, mfa_started_at=started_at)
        .values_list("mfa_attempts", flat=True)
        .first()
    )
    if attempts is None:
        return ChallengeExpired("gone", "The code was wrong, and the login has ended meanwhile.")
    left = conf.MFA_MAX_ATTEMPTS - attempts
    if left > 0:
        return InvalidMFACode(left)
    states.end_challenge(user.pk, started_at)
    return TooManyAttempts("The code was wrong, and no attempts are left for this login.")
