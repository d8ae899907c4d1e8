"""What has to be done around a login: count it, ask the engine, and store what comes of it."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.contrib.auth import get_user_model
from django.utils import timezone

from .. import signals
from ..conf import conf
from ..engines import require_usable
from ..engines.base import Challenge, Engine, NewSession
from ..engines.tracebacks import hide_frames
from ..exceptions import ChallengeExpired, GarminAuthError, GarminUnavailable, RateLimited
from ..limits import cooldown, mass_failure, throttle
from ..limits.failing import report_recovery
from ..models import GarminAuthenticationState
from ..storage.keys import encrypt
from ..storage.retries import bookkeeping, write_again
from ..storage.threads import release_pooled_connections
from ..storage.transactions import send_on_commit
from .pending import expiry, new_record
from .results import Connected, MFARequired

# Garmin did not say whether what the user typed is right. Such an attempt counts against nobody.
NOT_JUDGED = (RateLimited, GarminUnavailable)


def admit(user: Any, scope: str, client_address: str) -> list[str]:
    """Refuse a login during a cooldown or over a limit, else count it.

    Returns:
        What was counted.
    """
    cooldown.require_none(scope)
    return throttle.count_login(user, scope, client_address)


def conclude(
    user: Any,
    engine: Engine,
    scope: str,
    login: Callable[[], NewSession | Challenge],
    login_id: str = "",
) -> Connected | MFARequired:
    """Store the result of a login, unless it was cancelled or replaced."""
    release_pooled_connections()
    try:
        result = hide_frames(login)
    except RateLimited as exc:
        cool_down(scope, exc)
        raise
    if isinstance(result, NewSession):
        # First of all: nothing that follows may cost the user this login.
        stored = store(user, engine, result, login_id=login_id)
        cooldown.update(scope, None)
        throttle.reset(user, scope)
        record_accepted(engine)
        if not stored:
            raise ChallengeExpired("gone", "The login was cancelled or replaced meanwhile.")
        return Connected()
    record = new_record(engine, scope, result)
    started_at = write_again(
        lambda: GarminAuthenticationState.objects.begin_challenge(user.pk, record, login_id)
    )
    cooldown.update(scope, None)
    throttle.accept_password(user, scope)
    if started_at is None:
        raise ChallengeExpired("gone", "The login was cancelled or replaced meanwhile.")
    required = MFARequired(
        result.sent_to,
        expiry(started_at),
        conf.MFA_MAX_ATTEMPTS,
        engine.name,
        engine.domain,
    )
    send_on_commit(
        signals.mfa_required, user, sent_to=required.sent_to, expires_at=required.expires_at
    )
    return required


def store(user: Any, engine: Engine, session: NewSession, **origin: Any) -> bool:
    """Store a session and send the signal, unless its login was cancelled in the meantime.

    Raises:
        GarminUnavailable: the session could not be opened again, so nothing was stored.
    """
    require_usable(engine, session.session_data)
    stored = write_again(lambda: write(user, engine, session, **origin))
    if stored:
        tell_connected(user, engine)
    return stored


def write(
    user: Any,
    engine: Engine,
    session: NewSession,
    challenge_from: datetime | None = None,
    login_id: str = "",
) -> bool:
    return GarminAuthenticationState.objects.connect(
        user.pk,
        engine=engine.name,
        domain=engine.domain,
        session_data=encrypt(session.session_data),
        account_name=encrypt(session.account_name) if session.account_name else None,
        validated_at=timezone.now() if session.validated else None,
        ends_at=engine.ends_at(session.session_data),
        prolonged=engine.use_prolongs,
        challenge_from=challenge_from,
        login_id=login_id,
    )


def tell_connected(user: Any, engine: Engine) -> None:
    send_on_commit(signals.session_connected, user, engine=engine.name)
    with bookkeeping("that a connection works again"):
        report_recovery(user)


def record_accepted(engine: Engine) -> None:
    with bookkeeping("that Garmin accepts logins"):
        mass_failure.record_accepted(engine.name, engine.domain)


def is_there(user: Any) -> bool:
    """Return whether the user has not been deleted meanwhile."""
    return get_user_model()._base_manager.filter(pk=user.pk).exists()


def connected_since(user: Any, began: datetime) -> Connected | None:
    """Return the result of the user's login in another request, None if there is none."""
    rows = GarminAuthenticationState.objects.using_write_db().with_session()
    return Connected() if rows.filter(user_id=user.pk, connected_at__gte=began).exists() else None


def cool_down(scope: str, error: GarminAuthError) -> None:
    """Start a cooldown after a rate limit, and let the error tell its length."""
    cooldown.update(scope, error)
    if isinstance(error, RateLimited) and error.retry_after is None:
        error.retry_after = cooldown.seconds_left(scope) or None
