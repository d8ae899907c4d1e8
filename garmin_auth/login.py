"""Begin and end a user's session: password, code, cancel, disconnect, import.

The pending login belongs to the user, not to a browser or a process: any of them may finish it.
No function here runs inside ``atomic()``, for a rollback would undo what Garmin has done.
"""

import json
import logging
import time
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from cryptography.fernet import InvalidToken
from django.contrib.auth import get_user_model
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.db import IntegrityError, InterfaceError, OperationalError, connections
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from . import background, door, evidence, pauses, signals
from .conf import conf
from .engines import get_engine, get_stored_engine
from .engines.base import Challenge, Engine, NewSession
from .exceptions import (
    ChallengeExpired,
    GarminAuthError,
    GarminUnavailable,
    InvalidMFACode,
    LoginRejected,
    RateLimited,
    SessionUnreadable,
    TooManyAttempts,
    TooManyLogins,
)
from .failures import to_record
from .lifecycle import announce
from .models import EndedReason, GarminAuthenticationState
from .transactions import refuse_atomic

logger = logging.getLogger("garmin_auth")

T = TypeVar("T")

# Seconds between two signs of life of a login outside a request, and for how long one counts: so
# long a user waits if its process dies.
SIGN_OF_LIFE, LIFE = 5, 20
# Seconds that an engine may take longer than it says.
GRACE = 10
# What is stored of a pending login; "state" is the engine's own, and nobody else's business.
RECORD = {"engine", "sent_to", "pause_scope", "state"}


@dataclass(frozen=True)
class Connected:
    """The login has succeeded and its session is stored."""


@dataclass(frozen=True)
class MFARequired:
    """Garmin has sent the user a code, which ``submit_mfa`` takes.

    Args:
        sent_to: where it went, masked by Garmin, "" if Garmin did not say.
        expires_at: until when this site keeps the pending login.
        attempts_left: how many codes may still be tried for it.
    """

    sent_to: str
    expires_at: datetime
    attempts_left: int | None = field(default=None, compare=False)

    @property
    def expired(self) -> bool:
        return self.expires_at <= timezone.now()

    @property
    def seconds_left(self) -> int:
        """How many seconds this site still keeps the pending login."""
        return max(0, int((self.expires_at - timezone.now()).total_seconds()))


@dataclass(frozen=True)
class LoginUnderWay:
    """The login goes on outside the request; ``accounts.account_of`` tells how it stands."""


def login_note() -> str:
    """Return what users should know before they log in with the engine of new logins, "": nothing.

    The engine is imported for that, which the login would do anyway.
    """
    try:
        return str(get_engine().login_note)
    except ImproperlyConfigured:
        return ""  # A page that is only looked at need not break.


@sensitive_variables()
def begin_login(user: Any, email: str, password: str) -> Connected | MFARequired | LoginUnderWay:
    """Log the user in at Garmin, for a web request: without waiting for an engine that is slow.

    Such a login goes on in a thread of this process, and the user's row tells every process how
    it stands. The password is in the memory of that thread only. With another engine, this is
    ``start_login``.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.
        email: the Garmin account's e-mail address.
        password: its password; kept nowhere.

    Returns:
        As ``start_login``; or ``LoginUnderWay``, also if one was under way already, which then is
        the only one.

    Raises:
        TooManyLogins, RateLimited: Garmin is not asked.
        LoginRejected, GarminUnavailable: as ``start_login``, of an engine that is not slow.
        RuntimeError: called inside ``atomic()``.
    """
    refuse_atomic("begin_login")
    engine = get_engine()
    if not engine.slow_login:
        return start_login(user, email, password)
    states = GarminAuthenticationState.objects
    if _is_under_way(user):
        return LoginUnderWay()
    with background.slot() as slot:
        scope = _knock(user, email)
        login_id = uuid4().hex
        if not states.begin_login(user.pk, login_id, LIFE):
            return LoginUnderWay()
        # A copy: a request's lazy user would keep the request alive, and with it its POST.
        attend = partial(_attend, copy(user), engine, scope, login_id)
        try:
            slot.run(partial(engine.login, email, password), attend)
        except TooManyLogins:
            states.end_login(user.pk)
            raise
    return LoginUnderWay()


@sensitive_variables()
def start_login(user: Any, email: str, password: str) -> Connected | MFARequired:
    """Log the user in at Garmin, and wait for it, however slow the engine is.

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
    result = door.one_at_a_time(
        user, get_engine().login_timeout, lambda: _login(user, email, password)
    )
    # A double click: the page that the user will see is the second one's.
    result = result or _result_since(user, began)
    if result is None:
        raise GarminUnavailable("Another login of this user was under way, and did not end well.")
    return result


@sensitive_variables()
def _login(user: Any, email: str, password: str) -> Connected | MFARequired:
    scope = _knock(user, email)
    engine = get_engine()
    try:
        return _conclude(user, engine, scope, lambda: engine.login(email, password))
    except IntegrityError:
        if get_user_model()._base_manager.filter(pk=user.pk).exists():
            raise
    raise ChallengeExpired("gone", "The user was deleted while the login went on.")


def _knock(user: Any, email: str) -> str:
    """Refuse a login that Garmin must not be asked for; else count it and return its scope."""
    scope = pauses.account_scope(email)
    pauses.respect(scope)
    door.admit(user, scope)
    return scope


def _conclude(
    user: Any,
    engine: Engine,
    scope: str,
    login: Callable[[], NewSession | Challenge],
    login_id: str = "",
) -> Connected | MFARequired:
    """Store what a login brings, if it still is the one that the user waits for."""
    try:
        result = login()
    except RateLimited as exc:
        pauses.heed(scope, exc)
        raise
    if isinstance(result, NewSession):
        # Before anything else: the cache may be away, and the login is worth more than its counts.
        stored = _store(user, engine, result, login_id=login_id)
        pauses.heed(scope, None)
        door.forgive(user, scope)
        evidence.accepted(engine.name)
        if not stored:
            raise ChallengeExpired("gone", "The login was cancelled or replaced while it went on.")
        return Connected()
    record = json.dumps(
        {
            "engine": engine.name,
            "sent_to": result.sent_to,
            "pause_scope": scope,
            "state": result.state,
        }
    )
    started_at = GarminAuthenticationState.objects.begin_challenge(user.pk, record, login_id)
    pauses.heed(scope, None)
    if started_at is None:
        raise ChallengeExpired("gone", "The login was cancelled or replaced while it went on.")
    required = MFARequired(result.sent_to, _expiry(started_at), conf.MFA_MAX_ATTEMPTS)
    announce(signals.mfa_required, user, sent_to=required.sent_to, expires_at=required.expires_at)
    return required


@sensitive_variables()
def _attend(user: Any, engine: Engine, scope: str, login_id: str, call: background.Call) -> None:
    """Show that a login outside a request is under way, and store how it ended.

    This thread is the only one of the login that uses the database, and holds no connection to it
    while it waits.
    """
    failure, bug = GarminAuthError(), ""
    try:
        show = partial(_show_life, user, login_id)
        if not call.outlast(engine.login_timeout + GRACE, SIGN_OF_LIFE, show):
            raise GarminUnavailable("The login did not end in its time.")
        _insistently(lambda: _conclude(user, engine, scope, call.result, login_id), show)
        return
    except GarminAuthError as exc:
        failure = exc
    except Exception as exc:  # noqa: BLE001
        # SECURITY: its text and its frames may hold anything, so neither goes to the log.
        bug = str(exc) if isinstance(exc, background.CallBroke) else background.describe(exc)
    finally:
        _let_go()
    _note_failure(user, login_id, failure)
    if bug:  # Last, for a site's log handler may raise.
        logger.error("A login outside a request broke, user=%s: %s", user.pk, bug)


def _note_failure(user: Any, login_id: str, failure: GarminAuthError) -> None:
    note = partial(
        GarminAuthenticationState.objects.fail_login, user.pk, login_id, to_record(failure)
    )
    try:
        _insistently(note, lambda: None)
    except Exception as exc:  # noqa: BLE001
        # The page will say that the login was interrupted, which is true enough.
        logger.error("A failed login was not noted, user=%s: %s", user.pk, background.describe(exc))
    finally:
        _let_go()
    logger.info("login_failed user=%s %s", user.pk, type(failure).__name__)


def _show_life(user: Any, login_id: str) -> None:
    try:
        GarminAuthenticationState.objects.keep_login(user.pk, login_id, LIFE)
    except (OperationalError, InterfaceError) as exc:  # The next one comes soon enough.
        logger.warning("No sign of life, user=%s: %s", user.pk, type(exc).__name__)
    finally:
        _let_go()


def _insistently(write: Callable[[], T], between: Callable[[], None]) -> T:
    """Write once more, and again, where the database is locked or away for a moment.

    The login has cost the user a minute, and perhaps a code.
    """
    for pause in (1, 4):
        try:
            return write()
        except (OperationalError, InterfaceError):
            _let_go()
            between()
        time.sleep(pause)
    return write()


def _let_go() -> None:
    """Close this thread's connections, which no request's end will do."""
    connections.close_all()
    caches.close_all()


def _is_under_way(user: Any) -> bool:
    record = GarminAuthenticationState.objects.login_record(user.pk)
    return record is not None and record.under_way


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
    pk, started_at, _, record = _load(user)
    if _expiry(started_at) <= timezone.now():
        states.end_challenge(user.pk, started_at)
        raise ChallengeExpired("expired")
    scope = record["pause_scope"]
    pauses.respect(scope)
    if not states.count_attempt(pk, started_at, conf.MFA_MAX_ATTEMPTS):
        if not states.end_challenge(user.pk, started_at):
            raise ChallengeExpired("gone")
        raise TooManyAttempts("This login has had all its codes.")
    engine = get_stored_engine(record["engine"])
    try:
        result = engine.submit_code(record["state"], code)
    except RateLimited as exc:
        pauses.heed(scope, exc)
        raise
    except (LoginRejected, SessionUnreadable):
        states.end_challenge(user.pk, started_at)
        raise
    if isinstance(result, Challenge):
        changed = {"state": result.state, "sent_to": result.sent_to or record["sent_to"]}
        states.update_challenge(pk, started_at, json.dumps({**record, **changed}))
        raise _wrong_code(user, pk, started_at)
    stored = _store(user, engine, result, challenge_from=started_at)  # The code is spent.
    door.forgive(user, scope)
    evidence.accepted(engine.name)
    if not stored:
        raise ChallengeExpired("gone", "The login was cancelled or replaced while it finished.")
    return Connected()


@sensitive_variables()
def pending_login(user: Any) -> MFARequired | None:
    """Return the login that waits for the user's code, also one whose time is over; None: none.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.
    """
    try:
        _, started_at, attempts, record = _load(user)
    except ChallengeExpired:
        return None
    left = max(0, conf.MFA_MAX_ATTEMPTS - attempts)
    return MFARequired(record["sent_to"], _expiry(started_at), left)


def cancel_mfa(user: Any) -> bool:
    """Drop the user's login, whether it waits for a code or is under way outside a request.

    A stored session stays. What Garmin answers to a login under way will be discarded.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.

    Returns:
        Whether there was such a login.
    """
    refuse_atomic("cancel_mfa")
    states = GarminAuthenticationState.objects
    under_way = _is_under_way(user)
    # In this order: a login under way may become one that waits for a code, not the reverse.
    ended = states.end_login(user.pk) and under_way
    return states.end_challenge(user.pk) or ended


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
    written = False

    def refresh() -> str:
        nonlocal written
        try:
            fresh = engine.refresh(session_data)
        except RateLimited as exc:
            pauses.heed(pauses.SITE, exc)
            raise
        if engine.rotates:  # At once, for what was imported is worthless from now on.
            _write(user, engine, NewSession(fresh, account_name=None, validated=False))
            written = True
        evidence.accepted(engine.name)
        return fresh

    if not check:
        _store(user, engine, NewSession(session_data, account_name=None, validated=False))
        return
    pauses.respect(pauses.SITE)
    session = engine.open(session_data, refresh, after=partial(pauses.heed, pauses.SITE))
    try:
        name = engine.account_name(session)
        session_data = session.session_data()
    except GarminAuthError:
        if not written:
            raise
        # Garmin has accepted its token; what came after that was a fault.
        announce(signals.session_connected, user, engine=engine.name)
    else:
        _store(user, engine, NewSession(session_data, account_name=name, validated=True))
    finally:
        session.close()


def _result_since(user: Any, began: datetime) -> Connected | MFARequired | None:
    """Return how a login of the user's that another request sent has ended, None: not well."""
    if pending := pending_login(user):
        return pending
    rows = GarminAuthenticationState.objects.current().with_session()
    return Connected() if rows.filter(user_id=user.pk, connected_at__gte=began).exists() else None


def _store(user: Any, engine: Engine, session: NewSession, **origin: Any) -> bool:
    """Write a session and announce it, unless the login that it is of was cancelled meanwhile."""
    stored = _write(user, engine, session, **origin)
    if stored:
        announce(signals.session_connected, user, engine=engine.name)
    return stored


def _write(
    user: Any,
    engine: Engine,
    session: NewSession,
    challenge_from: datetime | None = None,
    login_id: str = "",
) -> bool:
    return GarminAuthenticationState.objects.connect(
        user.pk,
        engine=engine.name,
        session_data=session.session_data,
        account_name=session.account_name,
        validated_at=timezone.now() if session.validated else None,
        ends_at=engine.ends_at(session.session_data),
        challenge_from=challenge_from,
        login_id=login_id,
    )


def _load(user: Any) -> tuple[Any, datetime, int, dict[str, Any]]:
    """Read the pending login: key of its row, when it began, codes tried, its record."""
    row: Any = None
    record: Any = None
    try:
        row = (
            GarminAuthenticationState.objects.current()
            .filter(user_id=user.pk, mfa_pending=True)
            .values_list("pk", "mfa_started_at", "mfa_attempts", "mfa_challenge")
            .first()
        )
        record = json.loads(row[3]) if row else None
    except (InvalidToken, ValueError, TypeError):
        # Of no use to anybody, and a login costs the user less than a key ceremony costs staff.
        pass
    if row is None or not isinstance(record, dict) or not record.keys() >= RECORD:
        raise ChallengeExpired("gone")
    return row[0], row[1], row[2], record


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
