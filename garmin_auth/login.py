"""Start and end a user's session: password, code, cancel, disconnect, import.

A pending login belongs to the user, not to a browser or a process: any of them can finish it.
No function here may run inside ``atomic()``: a rollback would lose what Garmin has already done.
"""

import json
import logging
import time
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from os import PathLike, fsdecode
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from django.contrib.auth import get_user_model
from django.core.cache import caches
from django.db import Error, IntegrityError, connections
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from . import signals
from .conf import conf
from .engines import (
    get_engine,
    get_key_engine,
    get_password_engine,
    get_stored_engine,
    offered_domains,
    require_usable,
)
from .engines.base import Challenge, Engine, NewSession, PasswordEngine, RefreshIncomplete
from .engines.frozen import refuse_frozen
from .engines.secret import Secret
from .engines.tracebacks import hide_frames
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
from .limits import cooldown, mass_failure, repetitions, throttle
from .limits.failing import report_recovery
from .limits.repetitions import Submission
from .limits.turns import turn
from .logins import background
from .logins.permission import require_allowed
from .logins.records import to_record
from .models import EndedReason, GarminAuthenticationState
from .storage.async_calls import in_database_thread, in_own_thread
from .storage.fields import Ciphertext
from .storage.keys import encrypt
from .storage.retries import bookkeeping, write_again
from .storage.threads import release_pooled_connections
from .storage.transactions import in_testcase, refuse_atomic, send_on_commit

logger = logging.getLogger("garmin_auth")

# Seconds between two heartbeats of a background login, and how long each counts. If the process
# dies, the user waits that long.
SIGN_OF_LIFE, LIFE = 5, 20
# Seconds between two looks whether a background login that waits may begin.
TURN_POLL = 1
# How many seconds the preparation of a background login may take.
PREPARATION = 10
# How many seconds an engine may exceed the time that it declares.
GRACE = 10
# What is stored of a pending login. Only the engine reads "state".
RECORD = {"engine", "domain", "sent_to", "pause_scope", "state"}


# Garmin did not say whether what the user typed is right. Such an attempt counts against nobody.
NOT_JUDGED = (RateLimited, GarminUnavailable)


@dataclass(frozen=True)
class Connected:
    """The login has succeeded, and its session is stored."""


@dataclass(frozen=True)
class MFARequired:
    """Garmin has sent the user a code. Pass it to ``submit_mfa``.

    Args:
        sent_to: where Garmin sent it, masked by Garmin; "" if it did not say.
        expires_at: when this site drops the pending login.
        attempts_left: how many codes the user may still try.
        engine: name of the engine that the login uses.
        domain: the Garmin domain that it is for.
    """

    sent_to: str
    expires_at: datetime
    attempts_left: int | None = field(default=None, compare=False)
    engine: str = field(default="", compare=False)
    domain: str = field(default="", compare=False)

    @property
    def expired(self) -> bool:
        return self.expires_at <= timezone.now()

    @property
    def seconds_left(self) -> int:
        """Seconds until this site drops the pending login."""
        return max(0, int((self.expires_at - timezone.now()).total_seconds()))


@dataclass(frozen=True)
class LoginUnderWay:
    """The login continues in the background; ``accounts.account_of`` returns its progress."""


@dataclass(frozen=True)
class _Pending:
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


def begin_login(
    user: Any,
    email: str | Secret,
    password: str | Secret,
    engine: str | None = None,
    domain: str | None = None,
    *,
    idempotency_key: str = "",
    client_address: str = "",
) -> Connected | MFARequired | LoginUnderWay:
    """Log the user in at Garmin from a web request, without waiting for a slow engine.

    With a slow engine the login continues in a thread of this process, and every process can read
    its progress from the user's row. The password is only in the memory of that thread. With any
    other engine, and in the transaction of a ``TestCase``, whose rows no thread would see, this is
    ``start_login``.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.
        email: the Garmin account's e-mail address.
        password: the account's password. It is not kept anywhere.
        engine, domain, idempotency_key, client_address: as in ``start_login``.

    Returns:
        What ``start_login`` returns, or ``LoginUnderWay``. If a login of the user with the same
        password is already in progress, no other is started. If one with another password is, this
        one waits for its end, and only the last of those that wait is tried.

    Raises:
        TooManyLogins, RateLimited, Frozen, NotAllowed: Garmin was not asked.
        LoginRejected, GarminUnavailable: as ``start_login`` does, unless the engine is slow.
        RuntimeError: called inside ``atomic()``.
    """
    email, password = Secret(email), Secret(password)
    refuse_atomic("begin_login")
    refuse_frozen()
    require_allowed(user)
    chosen = get_password_engine(engine, domain)
    if not chosen.slow_login or in_testcase():
        return start_login(
            user,
            email,
            password,
            engine,
            domain,
            idempotency_key=idempotency_key,
            client_address=client_address,
        )
    with turn("background login", user, PREPARATION):
        submission = Submission("login", user, (email, password), idempotency_key)
        return _begin_login(user, chosen, submission, client_address)


@sensitive_variables()
def _begin_login(
    user: Any, engine: PasswordEngine, submission: Submission, client_address: str
) -> LoginUnderWay:
    states, (email, password) = GarminAuthenticationState.objects, submission.contents
    if repetitions.began_background(submission):
        return LoginUnderWay()
    under_way = _is_under_way(user)
    if under_way and repetitions.is_in_background(submission):
        return LoginUnderWay()
    with background.slot() as slot:
        scope = cooldown.account_scope(email.reveal(), engine.domain)
        counted = _admit(user, scope, client_address)
        login_id = uuid4().hex
        waits = under_way and states.queue_login(user.pk, login_id)
        if not waits and not states.begin_login(user.pk, login_id, LIFE):
            throttle.give_back(counted)
            return LoginUnderWay()
        repetitions.note_background(submission)
        # SECURITY: a copy. A request's lazy user would keep the request alive, with its POST data.
        attend = partial(_attend, copy(user), engine, scope, counted, login_id, waits)
        try:
            slot.run(partial(engine.login, email, password), attend)
        except TooManyLogins:
            throttle.give_back(counted)
            if not waits:
                states.end_login(user.pk)
            raise
    return LoginUnderWay()


def start_login(
    user: Any,
    email: str | Secret,
    password: str | Secret,
    engine: str | None = None,
    domain: str | None = None,
    *,
    idempotency_key: str = "",
    client_address: str = "",
) -> Connected | MFARequired:
    """Log the user in at Garmin and wait for the result, however slow the engine is.

    A stored session stays in use until the new one replaces it. A pending login is replaced. If
    another login of the user is in progress, this one waits for it, and gets its result if it is
    the same.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.
        email: the Garmin account's e-mail address.
        password: the account's password. It is not kept anywhere.
        engine: name of an engine that takes passwords; None for the first one for new logins that
            does.
        domain: Garmin's domain, where the account is; None for the first in
            ``GARMIN_AUTH_DOMAIN``.
        idempotency_key: a random name for this login. A login that has the same key and password as
            an earlier one gets its result, for ten minutes; only an outage is tried again.
        client_address: the address of the user's device, whose logins are limited too; "" if not
            known. It is not kept, only a hash of it.

    Returns:
        ``Connected``, or ``MFARequired`` if Garmin asks for a code.

    Raises:
        NotAllowed: the site does not let the user connect. Garmin was not asked.
        LoginRejected: Garmin refused the login; a subclass says why.
        RateLimited, GarminUnavailable: Garmin did not check the password. Frozen is a
            GarminUnavailable: ``GARMIN_AUTH_FROZEN`` is True.
        RuntimeError: called inside ``atomic()``.
    """
    # SECURITY: at once, and without sensitive_variables(), whose wrapper's frame holds the
    # arguments: error reporters send the variables of every frame.
    email, password = Secret(email), Secret(password)
    refuse_atomic("start_login")
    refuse_frozen()
    require_allowed(user)
    chosen = get_password_engine(engine, domain)
    return repetitions.send_once(
        Submission("login", user, (email, password), idempotency_key),
        chosen.login_timeout,
        lambda: _login(
            user,
            chosen,
            cooldown.account_scope(email.reveal(), chosen.domain),
            partial(chosen.login, email, password),
            client_address,
        ),
        lambda began: pending_login(user) or _connected_since(user, began),
    )


async def astart_login(
    user: Any,
    email: str | Secret,
    password: str | Secret,
    engine: str | None = None,
    domain: str | None = None,
    *,
    idempotency_key: str = "",
    client_address: str = "",
) -> Connected | MFARequired:
    """Async version of ``start_login``."""
    email, password = Secret(email), Secret(password)  # SECURITY: as in start_login().
    call = partial(
        start_login,
        user,
        email,
        password,
        engine,
        domain,
        idempotency_key=idempotency_key,
        client_address=client_address,
    )
    return await in_own_thread("astart_login", call)


def connect_with_key(
    user: Any,
    key: str | Secret,
    ends_at: datetime | None = None,
    engine: str | None = None,
    domain: str | None = None,
    *,
    idempotency_key: str = "",
    client_address: str = "",
) -> Connected:
    """Connect the user with a key that they have made at Garmin, which Garmin has to accept.

    A stored session stays in use until the new one replaces it. A pending login is replaced.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.
        key: the key, as the user pasted it. It is stored encrypted, with the session.
        ends_at: when the key ends, as an aware datetime; None if not known.
        engine: name of an engine that takes keys; None for the first one for new logins that does,
            or, if none does, for ``personal``.
        domain, idempotency_key, client_address: as in ``start_login``.

    Returns:
        ``Connected``.

    Raises:
        NotAllowed: the site does not let the user connect. Garmin was not asked.
        InvalidKey: this cannot be a key. Garmin was not asked.
        KeyRefused: Garmin does not accept the key.
        RateLimited, GarminUnavailable: Garmin did not judge the key. Frozen is a
            GarminUnavailable: ``GARMIN_AUTH_FROZEN`` is True.
        ValueError: ``ends_at`` is not aware.
        RuntimeError: called inside ``atomic()``.
    """
    key = Secret(key)  # SECURITY: as in start_login().
    refuse_atomic("connect_with_key")
    refuse_frozen()
    require_allowed(user)
    if ends_at is not None and timezone.is_naive(ends_at):
        raise ValueError("ends_at must be an aware datetime.")
    chosen = get_key_engine(engine, domain)
    key = chosen.read_key(key)
    connected = repetitions.send_once(
        Submission("key", user, (key,), idempotency_key),
        chosen.login_timeout,
        lambda: _login(
            user,
            chosen,
            cooldown.credential_scope(key),
            partial(chosen.connect, key, ends_at),
            client_address,
        ),
        lambda began: _connected_since(user, began),
    )
    return cast(Connected, connected)  # No engine asks for a code after a key.


async def aconnect_with_key(
    user: Any,
    key: str | Secret,
    ends_at: datetime | None = None,
    engine: str | None = None,
    domain: str | None = None,
    *,
    idempotency_key: str = "",
    client_address: str = "",
) -> Connected:
    """Async version of ``connect_with_key``."""
    key = Secret(key)  # SECURITY: as in start_login().
    call = partial(
        connect_with_key,
        user,
        key,
        ends_at,
        engine,
        domain,
        idempotency_key=idempotency_key,
        client_address=client_address,
    )
    return await in_own_thread("aconnect_with_key", call)


def _login(
    user: Any,
    engine: Engine,
    scope: str,
    login: Callable[[], NewSession | Challenge],
    client_address: str,
) -> Connected | MFARequired:
    counted = _admit(user, scope, client_address)
    try:
        return _conclude(user, engine, scope, login)
    except NOT_JUDGED:
        throttle.give_back(counted)
        raise
    except IntegrityError:
        if get_user_model()._base_manager.filter(pk=user.pk).exists():
            raise
    raise ChallengeExpired("gone", "The user was deleted during the login.")


def _admit(user: Any, scope: str, client_address: str) -> list[str]:
    """Refuse a login during a cooldown or over a limit, else count it.

    Returns:
        What was counted.
    """
    cooldown.require_none(scope)
    return throttle.count_login(user, scope, client_address)


def _conclude(
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
        _cool_down(scope, exc)
        raise
    if isinstance(result, NewSession):
        # First of all: nothing that follows may cost the user this login.
        stored = _store(user, engine, result, login_id=login_id)
        cooldown.update(scope, None)
        throttle.reset(user, scope)
        _record_accepted(engine)
        if not stored:
            raise ChallengeExpired("gone", "The login was cancelled or replaced meanwhile.")
        return Connected()
    record = encrypt(
        json.dumps(
            {
                "engine": engine.name,
                "domain": engine.domain,
                "sent_to": result.sent_to,
                "pause_scope": scope,
                "state": result.state,
            }
        )
    )
    started_at = write_again(
        lambda: GarminAuthenticationState.objects.begin_challenge(user.pk, record, login_id)
    )
    cooldown.update(scope, None)
    throttle.accept_password(user, scope)
    if started_at is None:
        raise ChallengeExpired("gone", "The login was cancelled or replaced meanwhile.")
    required = MFARequired(
        result.sent_to,
        _expiry(started_at),
        conf.MFA_MAX_ATTEMPTS,
        engine.name,
        engine.domain,
    )
    send_on_commit(
        signals.mfa_required, user, sent_to=required.sent_to, expires_at=required.expires_at
    )
    return required


@sensitive_variables()
def _attend(
    user: Any,
    engine: Engine,
    scope: str,
    counted: list[str],
    login_id: str,
    waits: bool,
    call: background.Call,
) -> None:
    """Begin a background login, keep it marked as in progress, and store its result.

    Of the login's two threads only this one uses the database. It holds no connection while it
    waits.
    """
    failure, bug = GarminAuthError(), ""
    try:
        if waits:
            if not _take_turn(user, login_id, engine.login_timeout + GRACE + LIFE):
                throttle.give_back(counted)
                return
            cooldown.require_none(scope)  # The login before this one may have started it.
        show = partial(_show_life, user, login_id)
        call.begin()
        if not call.outlast(engine.login_timeout + GRACE, SIGN_OF_LIFE, show):
            raise GarminUnavailable("The login did not end in time.")
        show()  # Storing the result may take several attempts.
        _conclude(user, engine, scope, call.result, login_id)
        return
    except GarminAuthError as exc:
        failure = exc
        if isinstance(exc, NOT_JUDGED):
            throttle.give_back(counted)
    except Exception as exc:  # noqa: BLE001
        # SECURITY: its text and its frames may hold anything. Neither is logged.
        bug = str(exc) if isinstance(exc, background.CallBroke) else background.describe(exc)
    finally:
        _let_go()
    _note_failure(user, login_id, failure)
    if bug:  # Last, because a site's log handler may raise.
        logger.error("A background login crashed, user=%s: %s", user.pk, bug)


def _note_failure(user: Any, login_id: str, failure: GarminAuthError) -> None:
    note = partial(
        GarminAuthenticationState.objects.fail_login, user.pk, login_id, to_record(failure)
    )
    try:
        write_again(note)
    except Exception as exc:  # noqa: BLE001
        # The page will say that the login was interrupted, which is close enough.
        logger.error("A failed login was not saved, user=%s: %s", user.pk, background.describe(exc))
    finally:
        _let_go()
    logger.info("login_failed user=%s %s", user.pk, type(failure).__name__)


def _take_turn(user: Any, login_id: str, seconds: float) -> bool:
    """Wait for the user's login before this one to end.

    Returns:
        Whether this one may begin. False if it was cancelled or replaced meanwhile.
    """
    gives_up_at = time.monotonic() + seconds
    while time.monotonic() < gives_up_at:
        try:
            if (
                taken := GarminAuthenticationState.objects.take_turn(user.pk, login_id, LIFE)
            ) is not False:
                return bool(taken)
        except Error as exc:  # The next look may succeed.
            logger.warning("Login turn failed, user=%s: %s", user.pk, type(exc).__name__)
        finally:
            _let_go()
        time.sleep(TURN_POLL)
    raise GarminUnavailable("The login before this one did not end in time.")


def _show_life(user: Any, login_id: str) -> None:
    try:
        GarminAuthenticationState.objects.keep_login(user.pk, login_id, LIFE)
    except Error as exc:  # The next heartbeat may succeed.
        logger.warning("Login heartbeat failed, user=%s: %s", user.pk, type(exc).__name__)
    finally:
        _let_go()


def _let_go() -> None:
    """Close this thread's connections; no end of a request does it here."""
    connections.close_all()
    caches.close_all()


def _is_under_way(user: Any) -> bool:
    record = GarminAuthenticationState.objects.login_record(user.pk)
    return record is not None and record.under_way


def submit_mfa(user: Any, code: str | Secret, *, idempotency_key: str = "") -> Connected:
    """Finish the user's pending login with the code that Garmin sent.

    The attempt is counted before Garmin is asked. If another code of the user is at Garmin, this
    one waits for it, and gets its result if it is the same.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.
        code: what the user typed.
        idempotency_key: as in ``start_login``.

    Returns:
        ``Connected``.

    Raises:
        NotAllowed: the site does not let the user connect. The login stays pending.
        InvalidMFACode: the code is wrong. The login stays pending, with ``attempts_left`` more.
        ChallengeExpired, TooManyAttempts: the login has ended. Start a new one.
        LoginRejected: Garmin refused the login, which has ended; a subclass says why.
        RateLimited, GarminUnavailable: Garmin did not check the code. The login stays pending.
            Frozen is a GarminUnavailable: ``GARMIN_AUTH_FROZEN`` is True.
        RuntimeError: called inside ``atomic()``.
    """
    code = Secret(code)  # SECURITY: as in start_login().
    refuse_atomic("submit_mfa")
    refuse_frozen()
    require_allowed(user)
    return repetitions.send_once(
        Submission("code", user, (code,), idempotency_key),
        conf.TIMEOUT + GRACE,
        lambda: _submit_mfa(user, code),
        lambda began: _connected_since(user, began),
    )


async def asubmit_mfa(user: Any, code: str | Secret, *, idempotency_key: str = "") -> Connected:
    """Async version of ``submit_mfa``."""
    code = Secret(code)  # SECURITY: as in start_login().
    call = partial(submit_mfa, user, code, idempotency_key=idempotency_key)
    return await in_own_thread("asubmit_mfa", call)


@sensitive_variables()
def _submit_mfa(user: Any, code: Secret) -> Connected:
    states = GarminAuthenticationState.objects
    pending = _load(user)
    pk, started_at, scope = pending.pk, pending.started_at, pending.record["pause_scope"]
    if _expiry(started_at) <= timezone.now():
        states.end_challenge(user.pk, started_at)
        raise ChallengeExpired("expired")
    cooldown.require_none(scope)
    if not states.count_attempt(pk, started_at, conf.MFA_MAX_ATTEMPTS):
        if not states.end_challenge(user.pk, started_at):
            raise ChallengeExpired("gone")
        raise TooManyAttempts("No attempts are left for this login.")
    stored_engine = get_stored_engine(pending.record["engine"], pending.record["domain"])
    engine = cast(PasswordEngine, stored_engine)
    release_pooled_connections()
    try:
        result = hide_frames(lambda: engine.submit_code(pending.record["state"], code))
    except NOT_JUDGED as exc:
        states.give_attempt_back(pk, started_at)
        _cool_down(scope, exc)
        raise
    except (LoginRejected, SessionUnreadable):
        states.end_challenge(user.pk, started_at)
        raise
    if isinstance(result, Challenge):
        states.update_challenge(pk, started_at, pending.changed_by(result))
        raise _wrong_code(user, pk, started_at)
    try:
        stored = _store(user, engine, result, challenge_from=started_at)
    except GarminUnavailable as exc:
        problem = str(exc)
    else:
        problem = ""
    if problem:
        states.end_challenge(user.pk, started_at)
        raise ChallengeExpired("spent", problem)
    throttle.reset(user, scope)
    _record_accepted(engine)
    if not stored:
        raise ChallengeExpired("gone", "The login was cancelled or replaced meanwhile.")
    return Connected()


@sensitive_variables()
def pending_login(user: Any) -> MFARequired | None:
    """Return the login that is waiting for the user's code, even an expired one; None if there is
    none.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.
    """
    try:
        pending = _load(user)
    except ChallengeExpired:
        return None
    left = max(0, conf.MFA_MAX_ATTEMPTS - pending.attempts)
    record = pending.record
    return MFARequired(
        record["sent_to"], _expiry(pending.started_at), left, record["engine"], record["domain"]
    )


def cancel_mfa(user: Any) -> bool:
    """Cancel the user's login, whether it is waiting for a code or running in the background.

    A stored session stays. Garmin's answer to a running login will be discarded.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.

    Returns:
        Whether there was a login to cancel.
    """
    refuse_atomic("cancel_mfa")
    states = GarminAuthenticationState.objects
    under_way = _is_under_way(user)
    # In this order: a running login may turn into one that waits for a code, but not vice versa.
    ended = states.end_login(user.pk) and under_way
    return states.end_challenge(user.pk) or ended


@sensitive_variables()
def import_session(
    user: Any,
    session_data: str | bytes | dict[str, Any] | list[Any],
    *,
    engine: str | None = None,
    domain: str | None = None,
    check: bool = False,
) -> None:
    """Store a session that was created elsewhere, such as garth's ``GARTH_TOKEN``.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.
        session_data: what the engine's library exports (garth: ``client.dumps()``), as text or
            bytes, perhaps with a byte order mark; or a dict or a list, if that is JSON.
        engine: name of the engine that wrote it; None for the engine of new logins.
        domain: Garmin's domain, where the account is. None for the one that the session names; if
            it names none, for the first in ``GARMIN_AUTH_DOMAIN``.
        check: first ask Garmin whether the session works, refreshing it if necessary.

    Raises:
        NotAllowed: the site does not let the user connect.
        SessionUnreadable: it is not a session of that engine and domain; ``detail`` says why.
        SessionExpired, RateLimited, GarminUnavailable: the check failed, and nothing was stored.
        RuntimeError: called inside ``atomic()``.
    """
    refuse_atomic("import_session")
    require_allowed(user)
    text = _as_text(session_data)
    _store_import(user, *_read(engine, domain, lambda chosen: chosen.read_export(text)), check)


@sensitive_variables()
def import_session_folder(
    user: Any,
    path: Path | str,
    *,
    engine: str | None = None,
    domain: str | None = None,
    check: bool = False,
) -> None:
    """Store a session from the folder where the engine's library keeps it, such as ``~/.garth``.

    Args:
        path: the folder, where ``~`` is the home. For everything else see ``import_session``.
    """
    refuse_atomic("import_session_folder")
    require_allowed(user)
    folder = _as_path(path)
    _store_import(user, *_read(engine, domain, lambda chosen: chosen.read_folder(folder)), check)


def disconnect(user: Any, reason: str = EndedReason.USER) -> bool:
    """Delete the user's session and pending login. Garmin has no call to end a session.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.
        reason: who asked for it: ``"user"`` or ``"staff"``.

    Returns:
        Whether there was anything to delete.

    Raises:
        RuntimeError: called inside ``atomic()``.
    """
    refuse_atomic("disconnect")
    if not GarminAuthenticationState.objects.disconnect(user.pk, reason):
        return False
    send_on_commit(signals.session_disconnected, user, reason=str(reason))
    return True


async def adisconnect(user: Any, reason: str = EndedReason.USER) -> bool:
    """Async version of ``disconnect``."""
    return await in_database_thread(partial(disconnect, user, reason))


@sensitive_variables()
def _as_text(session_data: Any) -> str:
    """Return what was given to an import as text, without a byte order mark."""
    problem = f"A session is text, and this is of the type {type(session_data).__name__}."
    try:
        if isinstance(session_data, dict | list | tuple):
            problem = "This holds something that JSON cannot hold, so it is not a session."
            session_data = json.dumps(session_data)
        elif isinstance(session_data, bytes | bytearray):
            problem = "These bytes are not text in UTF-8, so they are not a session."
            session_data = session_data.decode()
        elif isinstance(session_data, PathLike):
            problem = "This is a path, not a session. import_session_folder() takes a folder."
    except (TypeError, ValueError, RecursionError):
        pass  # The exception may repeat a part of it.
    if not isinstance(session_data, str):
        raise SessionUnreadable(problem)
    return session_data.strip().removeprefix("\ufeff")


def _as_path(path: Any) -> Path:
    try:
        return Path(fsdecode(path)).expanduser()
    except TypeError:
        problem = f"The path of a folder is text, and this is of the type {type(path).__name__}."
    except RuntimeError:
        problem = f"{path} names no user of this machine."
    raise SessionUnreadable(problem)


def _read(
    name: str | None, domain: str | None, read: Callable[[Engine], str]
) -> tuple[Engine, str]:
    """Return a session to import, and the engine for the domain that it is for.

    Raises:
        SessionUnreadable: it is not a session of that engine, or for none of these domains.
    """
    problems = []
    for candidate in [domain] if domain else offered_domains():
        engine = get_engine(name, candidate)
        try:
            return engine, read(engine)
        except SessionUnreadable as exc:
            problems.append(exc)
    raise problems[0]


@sensitive_variables()
def _store_import(user: Any, engine: Engine, session_data: str, check: bool) -> None:
    written = False

    scope = cooldown.session_scope(engine, session_data)

    def refresh() -> str:
        nonlocal session_data, written
        problem = ""
        try:
            fresh = engine.refresh(session_data)
        except RateLimited as exc:
            cooldown.update(scope, exc)
            raise
        except RefreshIncomplete as exc:
            fresh, problem = exc.session_data, exc.detail
        require_usable(engine, fresh)
        if engine.rotates:  # At once: the imported token is now worthless.
            new = NewSession(fresh, account_name=None, validated=False)
            write_again(lambda: _write(user, engine, new))
            written = True
        if problem:
            raise GarminUnavailable(problem)
        _record_accepted(engine)
        session_data = fresh
        return fresh

    if not check:
        _store(user, engine, NewSession(session_data, account_name=None, validated=False))
        return
    refuse_frozen()
    cooldown.require_none(scope)
    session = engine.open(session_data, refresh, after=partial(cooldown.update, scope))
    try:
        name = engine.fetch_account_name(session)
    except GarminAuthError:
        if not written:
            raise
        # Garmin has accepted the token; only a later call failed.
        _tell_connected(user, engine)
    else:
        _store(user, engine, NewSession(session_data, account_name=name or None, validated=True))
    finally:
        session.close()


def _tell_connected(user: Any, engine: Engine) -> None:
    send_on_commit(signals.session_connected, user, engine=engine.name)
    with bookkeeping("that a connection works again"):
        report_recovery(user)


def _record_accepted(engine: Engine) -> None:
    with bookkeeping("that Garmin accepts logins"):
        mass_failure.record_accepted(engine.name, engine.domain)


def _connected_since(user: Any, began: datetime) -> Connected | None:
    """Return the result of the user's login in another request, None if there is none."""
    rows = GarminAuthenticationState.objects.using_write_db().with_session()
    return Connected() if rows.filter(user_id=user.pk, connected_at__gte=began).exists() else None


def _store(user: Any, engine: Engine, session: NewSession, **origin: Any) -> bool:
    """Store a session and send the signal, unless its login was cancelled in the meantime.

    Raises:
        GarminUnavailable: the session could not be opened again, so nothing was stored.
    """
    require_usable(engine, session.session_data)
    stored = write_again(lambda: _write(user, engine, session, **origin))
    if stored:
        _tell_connected(user, engine)
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
        domain=engine.domain,
        session_data=encrypt(session.session_data),
        account_name=encrypt(session.account_name) if session.account_name else None,
        validated_at=timezone.now() if session.validated else None,
        ends_at=engine.ends_at(session.session_data),
        prolonged=engine.use_prolongs,
        challenge_from=challenge_from,
        login_id=login_id,
    )


def _load(user: Any) -> _Pending:
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
    return _Pending(row[0], row[1], row[2], record)


def _cool_down(scope: str, error: GarminAuthError) -> None:
    """Start a cooldown after a rate limit, and let the error tell its length."""
    cooldown.update(scope, error)
    if isinstance(error, RateLimited) and error.retry_after is None:
        error.retry_after = cooldown.seconds_left(scope) or None


def _expiry(started_at: datetime) -> datetime:
    return started_at + timedelta(seconds=conf.MFA_TTL)


def _wrong_code(user: Any, pk: Any, started_at: datetime) -> LoginRejected:
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
