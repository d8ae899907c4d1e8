"""What there is for one user, for pages and code that show it, an unreadable row included."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography.fernet import InvalidToken
from django.db.models import BooleanField, ExpressionWrapper, Q
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_variables

from .conf import conf
from .engines import is_installed
from .exceptions import GarminAuthError, LoginInterrupted, RateLimited
from .failures import from_record
from .models import LOGIN_KEPT, EndedReason, GarminAuthenticationState, Status

# For so long before a session ends by itself, its user is told.
ENDS_SOON = timedelta(days=30)


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
        ends_at: when it ends by itself at the latest, None if not known.
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
    ends_at: datetime | None = None
    ended_reason: str = EndedReason.NEVER
    login_under_way: bool = False
    login_failure: GarminAuthError | None = None

    @property
    def ends_soon(self) -> bool:
        """Whether the session ends by itself within 30 days, or should have ended already."""
        return _ends_soon(self.ends_at)

    @property
    def overdue(self) -> bool:
        """Whether the session should have ended by itself already."""
        return self.ends_at is not None and self.ends_at <= timezone.now()


@dataclass(frozen=True)
class Badge:
    """A user's Garmin connection in a few words, for a site's own pages.

    Args:
        status: ``"connected"``, ``"ends_soon"``, ``"connecting"``, ``"waiting"`` (for a code),
            ``"ended"`` (by Garmin) or ``"not_connected"``.
        label: that, for the user.
        action: what the user can do next.
        url: where; it takes ``?next=``.
        session_ended: whether Garmin has ended the session and there is no new one yet, whatever
            the status.
    """

    status: str
    label: str
    action: str
    url: str
    session_ended: bool = False


# By status: label, action, and the name of its URL.
_BADGES = {
    "connected": (_("Connected"), _("Manage your Garmin connection"), "status"),
    "ends_soon": (_("Ends soon"), _("Connect your Garmin account again"), "login"),
    "connecting": (_("Connecting"), _("See how your Garmin login goes"), "progress"),
    "waiting": (_("Waiting for a code"), _("Type the code from Garmin"), "mfa"),
    "ended": (_("Ended by Garmin"), _("Connect your Garmin account again"), "login"),
    "not_connected": (_("Not connected"), _("Connect your Garmin account"), "login"),
}


def badge_of(user: Any) -> Badge | None:
    """Return what there is for the user in a few words, with one query and nothing decrypted.

    Args:
        user: an ``AUTH_USER_MODEL`` instance; or an AnonymousUser or None, for whom there is no
            badge and no query.
    """
    if user is None or not user.is_authenticated:
        return None
    row = (
        GarminAuthenticationState.objects.current()
        .with_login_under_way()
        .annotate(
            has_session=ExpressionWrapper(
                Q(session_data__isnull=False), output_field=BooleanField()
            )
        )
        .filter(user_id=user.pk)
        .values(
            "has_session", "login_under_way", "mfa_started_at", "session_ends_at", "ended_reason"
        )
        .first()
    )
    status = _badge_status(row) if row else "not_connected"
    label, action, name = _BADGES[status]
    ended = row is not None and row["ended_reason"] == EndedReason.EXPIRED
    return Badge(status, str(label), str(action), reverse(f"garmin_auth:{name}"), ended)


def _badge_status(row: Mapping[str, Any]) -> str:
    """Return what matters most: first what the user is doing, then what they should do."""
    if row["login_under_way"]:
        return "connecting"
    began, ttl = row["mfa_started_at"], timedelta(seconds=conf.MFA_TTL)
    if began is not None and timezone.now() < began + ttl:
        return "waiting"
    if row["has_session"]:
        return "ends_soon" if _ends_soon(row["session_ends_at"]) else "connected"
    return "ended" if row["ended_reason"] == EndedReason.EXPIRED else "not_connected"


def _ends_soon(ends_at: datetime | None) -> bool:
    return ends_at is not None and ends_at - timezone.now() <= ENDS_SOON


@sensitive_variables()
def account_of(user: Any) -> Account:
    """Return what there is for the user.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.
    """
    states = GarminAuthenticationState.objects.current().with_login_under_way()
    rows = states.filter(user_id=user.pk)
    readable = True
    state: Any  # Carries login_under_way, which is no field.
    try:
        # The session too: what cannot be opened is of no use, however readable its name.
        state = rows.defer(None).defer("mfa_challenge").first()
    except (InvalidToken, UnicodeDecodeError, TypeError):
        state, readable = rows.first(), False
    if state is None:
        return Account(Status.NONE)
    status = Status(state.status)
    openable = readable and is_installed(state.engine)
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
        ends_at=state.session_ends_at,
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
