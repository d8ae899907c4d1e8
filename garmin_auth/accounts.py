"""What there is for one user, for pages and code that show it, an unreadable row included."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.fernet import InvalidToken
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from .engines import known_engines
from .exceptions import GarminAuthError, LoginInterrupted, RateLimited
from .failures import from_record
from .models import LOGIN_KEPT, EndedReason, GarminAuthenticationState, Status


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
        login_under_way: whether a login outside a request is being made.
        login_failure: how the last one failed, until the next, for an hour; None: it did not.
    """

    status: Status
    connected: bool = False
    readable: bool = True
    name: str = ""
    engine: str = ""
    connected_at: datetime | None = None
    last_validated: datetime | None = None
    ended_reason: str = EndedReason.NEVER
    login_under_way: bool = False
    login_failure: GarminAuthError | None = None


@sensitive_variables()
def account_of(user: Any) -> Account:
    """Return what there is for the user.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.
    """
    states = GarminAuthenticationState.objects.current().with_login_under_way()
    rows = states.filter(user_id=user.pk)
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
    under_way, failure = state.login_under_way, _failure(state)
    if readable and state.session_data is None:
        return Account(
            status,
            ended_reason=state.ended_reason,
            login_under_way=under_way,
            login_failure=failure,
        )
    return Account(
        status,
        connected=True,
        readable=openable,
        name=(openable and state.account_name) or "",
        engine=state.engine,
        connected_at=state.connected_at,
        last_validated=state.last_validated,
        ended_reason="",
        login_under_way=under_way,
        login_failure=failure,
    )


def _failure(state: Any) -> GarminAuthError | None:
    if not state.login_id or state.login_under_way:
        return None
    age = timezone.now() - state.login_expires_at
    if age > LOGIN_KEPT:
        return None
    if not state.login_failure:
        return LoginInterrupted("The process of this login has given no sign of life.")
    error = from_record(state.login_failure)
    if isinstance(error, RateLimited) and error.retry_after is not None:
        # A part of the wait is over.
        error.retry_after = max(1, error.retry_after - int(age.total_seconds()))
    return error
