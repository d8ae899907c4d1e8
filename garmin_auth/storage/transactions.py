"""Keep transactions closed while Garmin is asked, and send signals after commit."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from django.db import connections, transaction
from django.dispatch import Signal
from django.utils.asyncio import async_unsafe

from .. import signals
from ..models import GarminAuthenticationState

logger = logging.getLogger("garmin_auth")

# What async code awaits instead of a function. Of others, Django's sync_to_async() of them.
ASYNC_VERSIONS = {
    "garmin_client": "use_garmin(user, function)",
    "start_login": "astart_login()",
    "submit_mfa": "asubmit_mfa()",
    "connect_with_key": "aconnect_with_key()",
    "disconnect": "adisconnect()",
}

NAMES = {signal: name for name, signal in vars(signals).items() if isinstance(signal, Signal)}


def refuse_atomic(name: str) -> None:
    """Raise inside a transaction: in ``atomic()``, or with autocommit off.

    A rollback would lose a token that Garmin has already rotated and forget counted attempts, and a
    row would stay locked while Garmin answers slowly. As with ``durable=True``, the transaction of
    a ``TestCase`` is allowed.

    Args:
        name: the caller's name, for the message.

    Raises:
        RuntimeError: a transaction is open.
        SynchronousOnlyOperation: this thread runs an event loop.
    """
    _refuse_event_loop(name)
    alias = GarminAuthenticationState.objects.using_write_db().db
    if not transaction.get_connection(alias).in_atomic_block:
        if transaction.get_autocommit(alias):
            return
        # Without autocommit, every statement is part of a transaction.
        raise RuntimeError(f"{name}() needs autocommit. Turn it on for the database {alias!r}.")
    try:
        with transaction.atomic(using=alias, durable=True):
            return
    except RuntimeError:
        problem = (
            f"{name}() must not run inside transaction.atomic(): a rollback would lose what Garmin "
            "has already done, and rows would stay locked meanwhile. Call it outside. With "
            "ATOMIC_REQUESTS, decorate the view with django.db.transaction.non_atomic_requests. In "
            "RunPython, set atomic = False on the Migration class."
        )
    raise RuntimeError(problem)


def _refuse_event_loop(name: str) -> None:
    """Raise in async code, before Django does so without saying what to call instead."""
    instead = ASYNC_VERSIONS.get(name, f"sync_to_async({name})()")
    message = f"{name}() would block the event loop. In async code, use: await {instead}"
    async_unsafe(message)(lambda: None)()


def in_transaction() -> bool:
    """Return whether the caller has an open transaction on the database that is written to.

    The transaction of a ``TestCase`` does not count: no other connection would see the test's rows.
    """
    connection = _connection()
    if not connection.in_atomic_block:
        return not connection.get_autocommit()
    return not in_testcase()


def in_testcase() -> bool:
    """Return whether this thread is inside the transaction of a ``TestCase``."""
    return any(block._from_testcase for block in _connection().atomic_blocks)


def _connection() -> Any:
    return transaction.get_connection(GarminAuthenticationState.objects.using_write_db().db)


def non_atomic_everywhere(view: Callable[..., Any]) -> Callable[..., Any]:
    """Exempt a view from ATOMIC_REQUESTS on every database: a router decides which one is used.

    Args:
        view: a view function.
    """
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view


def send_on_commit(signal: Signal, user: Any, **arguments: Any) -> None:
    """Send a signal and log it, once the current transaction is committed.

    Args:
        signal: one of ``garmin_auth.signals``.
        user: an ``AUTH_USER_MODEL`` instance.
        arguments: the signal's other arguments. They are not logged, as ``sent_to`` is personal.
    """
    transaction.on_commit(
        partial(_send, signal, user, arguments),
        using=GarminAuthenticationState.objects.using_write_db().db,
    )


def _send(signal: Signal, user: Any, arguments: dict[str, Any]) -> None:
    logger.info(
        "%s user=%s", NAMES[signal], user.pk, extra={"event": NAMES[signal], "user_pk": user.pk}
    )
    signal.send_robust(GarminAuthenticationState, user=user, **arguments)
