"""What there is for one user, for pages and code that show it, an unreadable row included."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.fernet import InvalidToken
from django.views.decorators.debug import sensitive_variables

from .engines import known_engines
from .models import EndedReason, GarminAuthenticationState, Status


@dataclass(frozen=True)
class Account:
    """A user's Garmin connection.

    Args:
        status: NONE, MFA_PENDING, ACTIVE or DISCONNECTED.
        connected: whether a session is stored, whatever the status.
        readable: whether the keys open what is stored, and its engine is installed.
        name: the Garmin user name; "" if not connected, not known or not readable.
        engine: the engine that wrote the session; "" if not connected.
        connected_at: when this session began.
        last_validated: when it last worked.
        ended_reason: why there is no session; "" while there is one.
    """

    status: Status
    connected: bool = False
    readable: bool = True
    name: str = ""
    engine: str = ""
    connected_at: datetime | None = None
    last_validated: datetime | None = None
    ended_reason: str = EndedReason.NEVER


@sensitive_variables()
def account_of(user: Any) -> Account:
    """Return what there is for the user.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.
    """
    rows = GarminAuthenticationState.objects.current().filter(user_id=user.pk)
    readable = True
    try:
        # The session too: what cannot be opened is of no use, however readable its name.
        state = rows.defer(None).defer("mfa_challenge").first()
    except (InvalidToken, UnicodeDecodeError, TypeError):
        state, readable = rows.first(), False
    if state is None:
        return Account(Status.NONE)
    status = Status(state.status)
    openable = readable and state.engine in known_engines()
    if readable and state.session_data is None:
        return Account(status, ended_reason=state.ended_reason)
    return Account(
        status,
        connected=True,
        readable=openable,
        name=(openable and state.account_name) or "",
        engine=state.engine,
        connected_at=state.connected_at,
        last_validated=state.last_validated,
        ended_reason="",
    )
