"""The state of one user's Garmin connection, for pages and code. Unreadable rows have one too."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db.models import BooleanField, ExpressionWrapper
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy
from django.views.decorators.debug import sensitive_variables

from .conf import conf
from .engines import is_installed
from .exceptions import GarminAuthError, LoginInterrupted, RateLimited, SessionUnreadable
from .logins.permission import refusal_of
from .logins.records import from_record
from .models import EndedReason, GarminAuthenticationState, Status
from .reversing import page_url
from .storage.async_calls import in_database_thread
from .storage.lifetimes import ends_soon
from .storage.querysets import HAS_SESSION, LOGIN_KEPT


@dataclass(frozen=True)
class Account:
    """A user's Garmin connection.

    Args:
        status: NONE, MFA_PENDING, ACTIVE or DISCONNECTED.
        connected: whether a session is stored, whatever the status.
        readable: whether the session can be decrypted, and its engine is installed.
        name: the Garmin user name; "" if not connected, not known or not readable.
        engine: name of the engine that wrote the session, even one that has ended; "" if there was
            none.
        domain: the Garmin domain that it is for; "" if there was none.
        connected_at: when the session started.
        last_validated: when the session last worked.
        failing_since: since when it has not worked, None unless it has failed for
            ``GARMIN_AUTH_FAILING_AFTER`` while others worked.
        failing_reason: the ``FailingReason``, "" if it is not failing.
        ends_at: when the session ends at the latest, None if not known.
        ends_soon_at: of a session that use prolongs, from when on it counts as ending soon.
        ended_reason: why no session is stored; "" while one is.
        login_under_way: whether a background login is in progress.
        login_failure: why the last background login failed, kept for an hour or until the next
            login; None if it did not fail.
    """

    status: Status
    connected: bool = False
    readable: bool = True
    # SECURITY: an address. Django logs a page's variables when it does not find one of them.
    name: str = field(default="", repr=False)
    engine: str = ""
    domain: str = ""
    connected_at: datetime | None = None
    last_validated: datetime | None = None
    failing_since: datetime | None = None
    failing_reason: str = ""
    ends_at: datetime | None = None
    ends_soon_at: datetime | None = None
    ended_reason: str = EndedReason.NEVER
    login_under_way: bool = False
    login_failure: GarminAuthError | None = None

    @property
    def ends_soon(self) -> bool:
        """Whether the session ends within 30 days, or has ended.

        Of a session that use prolongs, whether three quarters of its life have passed without that.
        """
        return ends_soon(self.ends_at, self.ends_soon_at)

    @property
    def overdue(self) -> bool:
        """Whether the session should have ended already."""
        return self.ends_at is not None and self.ends_at <= timezone.now()


@dataclass(frozen=True)
class Badge:
    """A user's Garmin connection in a few words, for a site's own pages.

    Args:
        status: ``"connected"``, ``"failing"`` (for ``GARMIN_AUTH_FAILING_AFTER``),
            ``"ends_soon"``, ``"connecting"``, ``"waiting"`` (for a code), ``"ended"`` (by Garmin)
            or ``"not_connected"``.
        label: the status in words, for the user.
        action: what the user can do next, in words.
        url: the page for that action; it accepts ``?next=``. "" if ``GARMIN_AUTH_MAY_CONNECT`` does
            not let the user do that, or if the site has not included our URLs, or only under a
            prefix that captures what is not known here.
        session_ended: whether Garmin has ended the session and the user has not connected again but
            may do so, whatever the status.
    """

    status: str
    label: str
    action: str
    url: str
    session_ended: bool = False


# By status: label, action, and the name of its URL.
_BADGES = {
    "connected": (
        pgettext_lazy("garmin_auth", "Connected"),
        _("Manage your Garmin connection"),
        "status",
    ),
    "ends_soon": (
        pgettext_lazy("garmin_auth", "Expires soon"),
        _("Connect your Garmin account again"),
        "login",
    ),
    "failing": (
        pgettext_lazy("garmin_auth", "Not working"),
        _("View what you can do about your Garmin connection"),
        "status",
    ),
    "connecting": (
        pgettext_lazy("garmin_auth", "Connecting"),
        _("View the progress of your Garmin connection"),
        "progress",
    ),
    "waiting": (
        pgettext_lazy("garmin_auth", "Verification code required"),
        _("Enter your Garmin verification code"),
        "mfa",
    ),
    "ended": (
        _("Disconnected by Garmin"),
        _("Connect your Garmin account again"),
        "login",
    ),
    "not_connected": (
        pgettext_lazy("garmin_auth", "Not connected"),
        _("Connect your Garmin account"),
        "login",
    ),
}


def badge_of(user: Any, request: Any = None) -> Badge | None:
    """Return the state of the user's connection in a few words, without decrypting anything.

    This takes one query.

    Args:
        user: an ``AUTH_USER_MODEL`` instance, an AnonymousUser, or None.
        request: the current request, if any. It is needed for the URL where our URLs are included
            under a prefix that captures something, such as ``<slug:club>/garmin/``.

    Returns:
        The badge; None, without a query, for an anonymous user.
    """
    if user is None or not user.is_authenticated:
        return None
    row = (
        GarminAuthenticationState.objects.using_write_db()
        .with_login_under_way()
        .with_failing()
        .annotate(has_session=ExpressionWrapper(HAS_SESSION, output_field=BooleanField()))
        .filter(user_id=user.pk)
        .values(
            "has_session",
            "is_failing",
            "login_under_way",
            "mfa_started_at",
            "session_ends_at",
            "session_ends_soon_at",
            "ended_reason",
        )
        .first()
    )
    status = _badge_status(row) if row else "not_connected"
    label, action, name = _BADGES[status]
    if name in ("login", "mfa") and refusal_of(user):
        return Badge(status, str(label), str(action), url="")
    ended = row is not None and row["ended_reason"] == EndedReason.EXPIRED
    return Badge(status, str(label), str(action), page_url(name, request), ended)


def _badge_status(row: Mapping[str, Any]) -> str:
    began, ttl = row["mfa_started_at"], timedelta(seconds=conf.MFA_TTL)
    return _first_status(
        connecting=row["login_under_way"],
        waiting=began is not None and timezone.now() < began + ttl,
        failing=row["is_failing"],
        connected=row["has_session"],
        soon=ends_soon(row["session_ends_at"], row["session_ends_soon_at"]),
        ended=row["ended_reason"] == EndedReason.EXPIRED,
    )


def badge_status(account: Account, *, waiting: bool) -> str:
    """Return the ``status`` of the badge, as ``badge_of`` does, of what has been read already.

    Args:
        account: the user's account.
        waiting: whether a login waits for its code.
    """
    return _first_status(
        connecting=account.login_under_way,
        waiting=waiting,
        failing=account.failing_since is not None,
        connected=account.connected,
        soon=account.ends_soon,
        ended=account.ended_reason == EndedReason.EXPIRED,
    )


def _first_status(
    *, connecting: bool, waiting: bool, failing: bool, connected: bool, soon: bool, ended: bool
) -> str:
    """Return the badge's status. A login in progress takes precedence over the session."""
    if connecting:
        return "connecting"
    if waiting:
        return "waiting"
    if failing:
        return "failing"
    if connected:
        return "ends_soon" if soon else "connected"
    return "ended" if ended else "not_connected"


@sensitive_variables()
def account_of(user: Any) -> Account:
    """Return the state of the user's connection.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.

    Returns:
        The Account. If the user has no row, its status is NONE.
    """
    states = (
        GarminAuthenticationState.objects.using_write_db().with_login_under_way().with_failing()
    )
    state: Any = states.filter(user_id=user.pk).first()  # Any, for what is not a field.
    if state is None:
        return Account(Status.NONE)
    status = Status(state.status)
    under_way, failure = state.login_under_way, _failure(state)
    if state.session_data is None:
        return Account(
            status,
            engine=state.engine,
            domain=state.domain if state.engine else "",
            ended_reason=state.ended_reason,
            login_under_way=under_way,
            login_failure=failure,
        )
    openable, name = is_installed(state.engine), ""
    try:
        state.session_data.decrypt()  # A readable name is useless without it.
        name = state.account_name.decrypt() if state.account_name else ""
    except SessionUnreadable:
        openable = False
    return Account(
        status,
        connected=True,
        readable=openable,
        name=name if openable else "",
        engine=state.engine,
        domain=state.domain,
        connected_at=state.connected_at,
        last_validated=state.last_validated,
        failing_since=state.failing_since if state.is_failing else None,
        failing_reason=state.failing_reason if state.is_failing else "",
        ends_at=state.session_ends_at,
        ends_soon_at=state.session_ends_soon_at,
        ended_reason="",
        login_under_way=under_way,
        login_failure=failure,
    )


async def aaccount_of(user: Any) -> Account:
    """Async version of ``account_of``."""
    return await in_database_thread(partial(account_of, user))


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
        # Part of the wait is over.
        error.retry_after = max(1, error.retry_after - int(age.total_seconds()))
    return error
