"""Read one user's stored session from the table."""

from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

from ..exceptions import NotConnected
from ..models import GarminAuthenticationState
from .fields import Ciphertext
from .lifetimes import Lifetime


@dataclass(frozen=True)
class SessionRow:
    """A row that holds a session.

    Args:
        pk: the row's primary key.
        engine: name of the engine that wrote the session.
        domain: Garmin's domain, where the session's account is.
        session_data: the session, decrypted.
        version: the version that compare-and-set compares.
        account_name: the Garmin user name, encrypted, None if not known.
        connected_at: when the session started, which tells it from that of a later login.
        life: when it ends at the latest, and the times that follow from that.
        last_validated: when it last worked, as of the last minute; None if it has not been used.
        failing_since: since when its uses have said nothing certain, None if it works.
        failing_told_at: when its user was told of that, None if not.
    """

    pk: Any
    engine: str
    domain: str
    session_data: str = field(repr=False)
    version: int
    account_name: Ciphertext | None
    connected_at: datetime | None
    life: Lifetime
    last_validated: datetime | None
    failing_since: datetime | None
    failing_told_at: datetime | None


@cache
def _rows(alias: str) -> Any:
    """Return the queryset of what is read of a session. To build it for each use costs more."""
    return (
        GarminAuthenticationState.objects.using(alias)
        .with_session()
        .values_list(
            "pk",
            "engine",
            "domain",
            "session_data",
            "session_version",
            "account_name",
            "connected_at",
            "last_validated",
            "failing_since",
            "failing_told_at",
            "session_ends_at",
            "session_renew_at",
            "session_ends_soon_at",
        )
    )


def read_session(user: Any) -> SessionRow:
    """Read the user's session with one SELECT.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.

    Raises:
        NotConnected: the user has no session.
        SessionUnreadable: the session cannot be decrypted.
    """
    alias = GarminAuthenticationState.objects.using_write_db().db
    rows = list(_rows(alias).filter(user_id=user.pk))
    if not rows:
        raise NotConnected("The user has no stored session.")
    pk, engine, domain, data, version, account_name, connected_at, *rest = rows[0]
    last_validated, since, told_at, *times = rest
    return SessionRow(
        pk,
        engine,
        domain,
        data.decrypt(),
        version,
        account_name,
        connected_at,
        Lifetime(*times),
        last_validated,
        since,
        told_at,
    )
