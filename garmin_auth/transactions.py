"""The rule that no transaction is open while Garmin is asked."""

from collections.abc import Callable
from typing import Any

from django.db import connections, transaction

from .models import GarminAuthenticationState


def refuse_atomic(name: str) -> None:
    """Refuse to go on inside a transaction: ``atomic()``, or one without autocommit.

    A rollback would lose a token that Garmin has already rotated and uncount attempts, and a lock
    would be held while Garmin is slow. ``TestCase`` is let through, as by ``durable=True``.

    Args:
        name: what refuses, for the message.

    Raises:
        RuntimeError: a transaction is open.
    """
    alias = GarminAuthenticationState.objects.current().db
    if not transaction.get_connection(alias).in_atomic_block:
        if transaction.get_autocommit(alias):
            return
        # Then each statement is in a transaction that ends whenever somebody ends it.
        raise RuntimeError(f"{name}() must not run without autocommit: turn it on for {alias!r}.")
    try:
        with transaction.atomic(using=alias, durable=True):
            return
    except RuntimeError:
        problem = (
            f"{name}() must not run inside transaction.atomic(): a rollback would lose what has "
            "been done at Garmin, and rows would stay locked meanwhile. Call it outside; for views "
            "under ATOMIC_REQUESTS use django.db.transaction.non_atomic_requests."
        )
    raise RuntimeError(problem)


def non_atomic_everywhere(view: Callable[..., Any]) -> Callable[..., Any]:
    """Exempt a view from ATOMIC_REQUESTS on every database: a router chooses where our row lives.

    Args:
        view: a view function.
    """
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view
