"""Begin and end a user's session: password, code, cancel, disconnect, import.

The pending login belongs to the user, not to a browser or a process: any of them may finish it.
No function here runs inside ``atomic()``, for a rollback would undo what Garmin has done.
"""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.fernet import InvalidToken
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from . import door, evidence, pauses, signals
from .conf import conf
from .engines import get_engine, get_stored_engine
from .engines.base import Challenge, Engine, NewSession
from .exceptions import (
    ChallengeExpired,
    GarminUnavailable,
    InvalidMFACode,
    LoginRejected,
    RateLimited,
    SessionUnreadable,
    TooManyAttempts,
)
from .lifecycle import announce
from .models import EndedReason, GarminAuthenticationState
from .transactions import refuse_atomic


@dataclass(frozen=True)
class Connected:
    """The login has succeeded and its session is stored."""


@dataclass(frozen=True)
class MFARequired:
    """Garmin has sent the user a code, which ``submit_mfa`` takes.

    Args:
        sent_to: where it went, masked by Garmin, "" if Garmin did not say.
        expires_at: until when this site keeps the pending login.
    """

    sent_to: str
    expires_at: datetime

    @property
    def expired(self) -> bool:
        return self.expires_at <= timezone.now()


@sensitive_variables()
def start_login(user: Any, email: str, password: str) -> Connected | MFARequired:
    """Log the user in at Garmin.

    A session that is already stored stays in use until the new one replaces it; a pending login is
    replaced.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.
        email: the Garmin account's e-mail address.
        password: its password; kept nowhere.

    Returns:
        ``Connected``, or ``MFARequired`` where Garmin wants a code.

    Raises:
        LoginRejected: a subclass, as Garmin says.
        RateLimited, GarminUnavailable: Garmin did not judge the login.
        RuntimeError: called inside ``atomic()``.
    """
    refuse_atomic("start_login")
    began = timezone.now()
    result = door.one_at_a_time(user, conf.TIMEOUT, lambda: _login(user, email, password))
    # A double click: the page that the user will see is the second one's.
    result = result or _result_since(user, began)
    if result is None:
        raise GarminUnavailable("Another login of this user was under way, and did not end well.")
    return result


def _login(user: Any, email: str, password: str) -> Connected | MFARequired:
    scope = pauses.account_scope(email)
    pauses.respect(scope)
    door.admit(user, scope)
    engine = get_engine()
    try:
        result = engine.login(email, password)
    except RateLimited as exc:
        pauses.heed(scope, exc)
        raise
    pauses.heed(scope, None)
    if isinstance(result, NewSession):
        door.forgive(user, scope)
        evidence.accepted()
        _store(user, engine.name, result)
        return Connected()
    result = Challenge({**result.state, "pause_scope": scope}, result.sent_to)
    started_at = GarminAuthenticationState.objects.begin_challenge(user.pk, _dump(result))
    required = MFARequired(result.sent_to, _expiry(started_at))
    announce(signals.mfa_required, user, sent_to=required.sent_to, expires_at=required.expires_at)
    return required


@sensitive_variables()
def submit_mfa(user: Any, code: str) -> Connected:
    """Finish the user's pending login with the code that Garmin sent.

    The attempt is counted before Garmin is asked.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.
        code: what the user typed.

    Raises:
        InvalidMFACode: wrong; the login goes on, with so many attempts left.
        ChallengeExpired, TooManyAttempts: the login has ended; start again.
        LoginRejected: another subclass, as Garmin says; the login has ended.
        RateLimited, GarminUnavailable: Garmin did not judge the code; the login goes on.
        RuntimeError: called inside ``atomic()``.
    """
    refuse_atomic("submit_mfa")
    states = GarminAuthenticationState.objects
    pk, started_at, state = _load(user)
    if _expiry(started_at) <= timezone.now():
        states.end_challenge(user.pk, started_at)
        raise ChallengeExpired("expired")
    scope = str(state.get("pause_scope", ""))
    pauses.respect(scope)
    if not states.count_attempt(pk, started_at, conf.MFA_MAX_ATTEMPTS):
        if not states.end_challenge(user.pk, started_at):
            raise ChallengeExpired("gone")
        raise TooManyAttempts("This login has had all its codes.")
    engine = get_stored_engine(state["engine"])
    try:
        result = engine.submit_code(state, code)
    except RateLimited as exc:
        pauses.heed(scope, exc)
        raise
    except (LoginRejected, SessionUnreadable):
        states.end_challenge(user.pk, started_at)
        raise
    if isinstance(result, Challenge):
        states.update_challenge(pk, started_at, _dump(result))
        raise _wrong_code(user, pk, started_at)
    door.forgive(user, scope)
    evidence.accepted()
    if not _store(user, engine.name, result, challenge_from=started_at):
        raise ChallengeExpired("gone", "The login was cancelled or replaced while it finished.")
    return Connected()


@sensitive_variables()
def pending_login(user: Any) -> MFARequired | None:
    """Return the login that waits for the user's code, also one whose time is over; None: none.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.
    """
    try:
        _, started_at, state = _load(user)
    except ChallengeExpired:
        return None
    return MFARequired(state.get("sent_to", ""), _expiry(started_at))


def cancel_mfa(user: Any) -> bool:
    """Drop the user's pending login. A stored session stays.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.

    Returns:
        Whether a login was pending.
    """
    refuse_atomic("cancel_mfa")
    return GarminAuthenticationState.objects.end_challenge(user.pk)


@sensitive_variables()
def import_session(
    user: Any, session_data: str, *, engine: str | None = None, check: bool = False
) -> None:
    """Store a session that was made elsewhere, such as garth's ``GARTH_TOKEN``, for the user.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.
        session_data: what the engine's library exports (garth: ``client.dumps()``).
        engine: the engine that wrote it; None for ``GARMIN_AUTH_ENGINE``.
        check: ask Garmin first whether it works, and refresh it where that is due.

    Raises:
        SessionUnreadable: it is not a session of that engine and this domain; ``detail`` says why.
        SessionExpired, RateLimited, GarminUnavailable: the check's result; nothing was stored.
        RuntimeError: called inside ``atomic()``.
    """
    refuse_atomic("import_session")
    chosen = get_engine(engine)
    _store_import(user, chosen, chosen.read_export(session_data), check)


@sensitive_variables()
def import_session_folder(
    user: Any, path: Path, *, engine: str | None = None, check: bool = False
) -> None:
    """Store a session that the engine's library keeps in a folder, such as ``~/.garth``.

    Args:
        path: the folder. The rest is as for ``import_session``.
    """
    refuse_atomic("import_session_folder")
    chosen = get_engine(engine)
    _store_import(user, chosen, chosen.read_folder(path), check)


def disconnect(user: Any, reason: str = EndedReason.USER) -> bool:
    """Forget the user's session and pending login. Garmin is not told: it has no call for that.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.
        reason: ``"user"`` or ``"staff"``: who asked for it.

    Returns:
        Whether there was anything to forget.
    """
    refuse_atomic("disconnect")
    if not GarminAuthenticationState.objects.disconnect(user.pk, reason):
        return False
    announce(signals.session_disconnected, user, reason=str(reason))
    return True


@sensitive_variables()
def _store_import(user: Any, engine: Engine, session_data: str, check: bool) -> None:
    def refresh() -> str:
        try:
            fresh = engine.refresh(session_data)
        except RateLimited as exc:
            pauses.heed(pauses.SITE, exc)
            raise
        evidence.accepted()
        return fresh

    name = None
    if check:
        pauses.respect(pauses.SITE)
        session = engine.open(session_data, refresh, after=partial(pauses.heed, pauses.SITE))
        try:
            name = engine.account_name(session)
            session_data = session.session_data()
        finally:
            session.close()
    _store(user, engine.name, NewSession(session_data, account_name=name, validated=check))


def _result_since(user: Any, began: datetime) -> Connected | MFARequired | None:
    """Return how a login of the user's that another request sent has ended, None: not well."""
    if pending := pending_login(user):
        return pending
    rows = GarminAuthenticationState.objects.current().with_session()
    return Connected() if rows.filter(user_id=user.pk, connected_at__gte=began).exists() else None


def _store(
    user: Any, engine: str, session: NewSession, challenge_from: datetime | None = None
) -> bool:
    stored = GarminAuthenticationState.objects.connect(
        user.pk,
        engine=engine,
        session_data=session.session_data,
        account_name=session.account_name,
        validated_at=timezone.now() if session.validated else None,
        challenge_from=challenge_from,
    )
    if stored:
        announce(signals.session_connected, user, engine=engine)
    return stored


def _load(user: Any) -> tuple[Any, datetime, dict[str, Any]]:
    """Read the pending login: key of its row, when it began, its state."""
    row = None
    try:
        row = (
            GarminAuthenticationState.objects.current()
            .filter(user_id=user.pk, mfa_pending=True)
            .values_list("pk", "mfa_started_at", "mfa_challenge")
            .first()
        )
        state = json.loads(row[2]) if row else None
    except (InvalidToken, ValueError, TypeError):
        # Of no use to anybody, and a login costs the user less than a key ceremony costs staff.
        state = None
    if row is None or not isinstance(state, dict):
        raise ChallengeExpired("gone")
    return row[0], row[1], state


def _dump(challenge: Challenge) -> str:
    return json.dumps(challenge.state)


def _expiry(started_at: datetime) -> datetime:
    return started_at + timedelta(seconds=conf.MFA_TTL)


def _wrong_code(user: Any, pk: Any, started_at: datetime) -> LoginRejected:
    """Tell how many attempts are left, and end a login that has none."""
    states = GarminAuthenticationState.objects
    attempts = (
        states.current()
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
    return TooManyAttempts("The last code that this login may have was wrong.")
