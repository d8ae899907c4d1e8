"""Start and end a user's session: password, code, key, cancel, disconnect, import.

A pending login belongs to the user, not to a browser or a process: any of them can finish it.
No function here may run inside ``atomic()``: a rollback would lose what Garmin has already done.
"""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, cast

from django.db import IntegrityError
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from . import signals
from .conf import conf
from .engines import get_key_engine, get_password_engine, get_stored_engine
from .engines.base import Challenge, Engine, NewSession, PasswordEngine
from .engines.frozen import refuse_frozen
from .engines.secret import Secret
from .engines.tracebacks import hide_frames
from .exceptions import (
    ChallengeExpired,
    GarminUnavailable,
    LoginRejected,
    SessionUnreadable,
    TooManyAttempts,
)
from .limits import cooldown, repetitions, throttle
from .limits.repetitions import Submission
from .limits.turns import turn
from .logins import attending
from .logins.importing import import_session, import_session_folder
from .logins.outcomes import (
    NOT_JUDGED,
    admit,
    conclude,
    connected_since,
    cool_down,
    is_there,
    record_accepted,
    store,
)
from .logins.pending import expiry, load, pending_login, wrong_code
from .logins.permission import require_allowed
from .logins.results import Connected, LoginUnderWay, MFARequired
from .models import EndedReason, GarminAuthenticationState
from .storage.async_calls import in_database_thread, in_own_thread
from .storage.threads import release_pooled_connections
from .storage.transactions import in_testcase, refuse_atomic, send_on_commit

# The public names, wherever they are defined.
__all__ = [
    "Connected",
    "LoginUnderWay",
    "MFARequired",
    "aconnect_with_key",
    "adisconnect",
    "astart_login",
    "asubmit_mfa",
    "begin_login",
    "cancel_mfa",
    "connect_with_key",
    "disconnect",
    "import_session",
    "import_session_folder",
    "pending_login",
    "start_login",
    "submit_mfa",
]

# How many seconds the preparation of a background login may take.
PREPARATION = 10


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
        submission = Submission("login", user, (email, password), idempotency_key, chosen.service)
        return attending.begin(user, chosen, submission, client_address)


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
        Submission("login", user, (email, password), idempotency_key, chosen.service),
        chosen.login_timeout,
        lambda: _login(
            user,
            chosen,
            cooldown.account_scope(email.reveal(), chosen.domain),
            partial(chosen.login, email, password),
            client_address,
        ),
        lambda began: pending_login(user) or connected_since(user, began),
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
        Submission("key", user, (key,), idempotency_key, chosen.service),
        chosen.login_timeout,
        lambda: _login(
            user,
            chosen,
            cooldown.credential_scope(key),
            partial(chosen.connect, key, ends_at),
            client_address,
        ),
        lambda began: connected_since(user, began),
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
    counted = admit(user, scope, client_address)
    try:
        return conclude(user, engine, scope, login)
    except NOT_JUDGED:
        throttle.give_back(counted)
        raise
    except IntegrityError:
        if is_there(user):
            raise
    raise ChallengeExpired("gone", "The user was deleted during the login.")


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
        conf.TIMEOUT + attending.GRACE,
        lambda: _submit_mfa(user, code),
        lambda began: connected_since(user, began),
    )


async def asubmit_mfa(user: Any, code: str | Secret, *, idempotency_key: str = "") -> Connected:
    """Async version of ``submit_mfa``."""
    code = Secret(code)  # SECURITY: as in start_login().
    call = partial(submit_mfa, user, code, idempotency_key=idempotency_key)
    return await in_own_thread("asubmit_mfa", call)


@sensitive_variables()
def _submit_mfa(user: Any, code: Secret) -> Connected:
    states = GarminAuthenticationState.objects
    pending = load(user)
    pk, started_at, scope = pending.pk, pending.started_at, pending.record["pause_scope"]
    if expiry(started_at) <= timezone.now():
        states.end_challenge(user.pk, started_at)
        raise ChallengeExpired("expired")
    cooldown.require_none(scope)
    stored_engine = get_stored_engine(pending.record["engine"], pending.record["domain"])
    engine = cast(PasswordEngine, stored_engine)
    if not states.count_attempt(pk, started_at, conf.MFA_MAX_ATTEMPTS):
        if not states.end_challenge(user.pk, started_at):
            raise ChallengeExpired("gone")
        raise TooManyAttempts("No attempts are left for this login.")
    release_pooled_connections()
    try:
        result = hide_frames(lambda: engine.submit_code(pending.record["state"], code))
    except NOT_JUDGED as exc:
        states.give_attempt_back(pk, started_at)
        cool_down(scope, exc)
        raise
    except (LoginRejected, SessionUnreadable):
        states.end_challenge(user.pk, started_at)
        raise
    if isinstance(result, Challenge):
        states.update_challenge(pk, started_at, pending.changed_by(result))
        raise wrong_code(user, pk, started_at)
    try:
        stored = store(user, engine, result, challenge_from=started_at)
    except GarminUnavailable as exc:
        problem = str(exc)
    else:
        problem = ""
    if problem:
        states.end_challenge(user.pk, started_at)
        raise ChallengeExpired("spent", problem)
    throttle.reset(user, scope)
    record_accepted(engine)
    if not stored:
        raise ChallengeExpired("gone", "The login was cancelled or replaced meanwhile.")
    return Connected()


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
    under_way = attending.is_under_way(user)
    # In this order: a running login may turn into one that waits for a code, but not vice versa.
    ended = states.end_login(user.pk) and under_way
    return states.end_challenge(user.pk) or ended


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
    return _disconnect("disconnect", user, reason)


async def adisconnect(user: Any, reason: str = EndedReason.USER) -> bool:
    """Async version of ``disconnect``."""
    return await in_database_thread(partial(_disconnect, "adisconnect", user, reason))


def _disconnect(name: str, user: Any, reason: str) -> bool:
    refuse_atomic(name)
    if not GarminAuthenticationState.objects.disconnect(user.pk, reason):
        return False
    send_on_commit(signals.session_disconnected, user, reason=str(reason))
    return True
