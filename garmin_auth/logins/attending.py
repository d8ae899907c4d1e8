"""Logins that go on in the background, outside the request that began them."""

import logging
import time
from copy import copy
from datetime import datetime
from functools import partial
from typing import Any
from uuid import uuid4

from django.core.cache import caches
from django.db import Error, connections
from django.views.decorators.debug import sensitive_variables

from ..engines.base import Engine, PasswordEngine
from ..exceptions import GarminAuthError, GarminUnavailable, LoginRejected, TooManyLogins
from ..limits import cooldown, repetitions, throttle
from ..limits.repetitions import Submission
from ..models import GarminAuthenticationState
from ..storage.retries import write_again
from . import background
from .outcomes import NOT_JUDGED, admit, conclude, connected_since
from .pending import pending_login
from .records import from_record, to_record
from .results import Connected, LoginUnderWay, MFARequired

logger = logging.getLogger("garmin_auth")

# Seconds between two heartbeats of a background login, and how long each counts. If the process
# dies, the user waits that long.
SIGN_OF_LIFE, LIFE = 5, 20
# Seconds between two looks whether a background login that waits may begin.
TURN_POLL = 1
# How many seconds an engine may exceed the time that it declares.
GRACE = 10


@sensitive_variables()
def begin(
    user: Any, engine: PasswordEngine, submission: Submission, client_address: str
) -> Connected | MFARequired | LoginUnderWay:
    states, (email, password) = GarminAuthenticationState.objects, submission.contents
    began = repetitions.began_background(submission)
    if began and (result := _result_since(user, began)):
        return result
    under_way = is_under_way(user)
    if under_way and repetitions.is_in_background(submission):
        return LoginUnderWay()
    with background.slot() as slot:
        scope = cooldown.account_scope(email.reveal(), engine.domain)
        counted = admit(user, scope, client_address)
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


def _result_since(user: Any, began: datetime) -> Connected | MFARequired | LoginUnderWay | None:
    """Return what has come of a login, None if it was cancelled or Garmin did not judge it."""
    record = GarminAuthenticationState.objects.login_record(user.pk)
    if record and (record.under_way or _is_rejected(record.failure)):
        return LoginUnderWay()  # Its page tells of the failure too.
    return pending_login(user) or connected_since(user, began)


def _is_rejected(failure: str) -> bool:
    return bool(failure) and isinstance(from_record(failure), LoginRejected)


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
        conclude(user, engine, scope, call.result, login_id)
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
        logger.error(
            "A background login crashed, user=%s: %s",
            user.pk,
            bug,
            extra={"event": "login_crashed", "user_pk": user.pk},
        )


def _note_failure(user: Any, login_id: str, failure: GarminAuthError) -> None:
    note = partial(
        GarminAuthenticationState.objects.fail_login, user.pk, login_id, to_record(failure)
    )
    try:
        write_again(note)
    except Exception as exc:  # noqa: BLE001
        # The page will say that the login was interrupted, which is close enough.
        logger.error(
            "A failed login was not saved, user=%s: %s",
            user.pk,
            background.describe(exc),
            extra={"event": "login_failure_not_saved", "user_pk": user.pk},
        )
    finally:
        _let_go()
    logger.info(
        "login_failed user=%s %s",
        user.pk,
        type(failure).__name__,
        extra={"event": "login_failed", "user_pk": user.pk, "error": type(failure).__name__},
    )


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
            logger.warning(
                "Login turn failed, user=%s: %s",
                user.pk,
                type(exc).__name__,
                extra={
                    "event": "login_turn_failed",
                    "user_pk": user.pk,
                    "error": type(exc).__name__,
                },
            )
        finally:
            _let_go()
        time.sleep(TURN_POLL)
    raise GarminUnavailable("The login before this one did not end in time.")


def _show_life(user: Any, login_id: str) -> None:
    try:
        GarminAuthenticationState.objects.keep_login(user.pk, login_id, LIFE)
    except Error as exc:  # The next heartbeat may succeed.
        logger.warning(
            "Login heartbeat failed, user=%s: %s",
            user.pk,
            type(exc).__name__,
            extra={
                "event": "login_heartbeat_failed",
                "user_pk": user.pk,
                "error": type(exc).__name__,
            },
        )
    finally:
        _let_go()


def _let_go() -> None:
    """Close this thread's connections; no end of a request does it here."""
    connections.close_all()
    caches.close_all()


def is_under_way(user: Any) -> bool:
    record = GarminAuthenticationState.objects.login_record(user.pk)
    return record is not None and record.under_way
