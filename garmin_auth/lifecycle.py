"""Tell the world what happened to a session: one log line and one signal, after commit."""

import logging
from functools import partial
from typing import Any

from django.db import transaction
from django.dispatch import Signal

from . import signals
from .models import GarminAuthenticationState

logger = logging.getLogger("garmin_auth")

NAMES = {signal: name for name, signal in vars(signals).items() if isinstance(signal, Signal)}


def announce(signal: Signal, user: Any, **facts: Any) -> None:
    """Send ``signal`` for ``user`` once the current transaction is committed, and log it.

    Args:
        signal: one of ``garmin_auth.signals``.
        user: whose session it is.
        facts: the signal's other arguments. They are not logged, for ``sent_to`` is personal.
    """
    transaction.on_commit(
        partial(_send, signal, user, facts), using=GarminAuthenticationState.objects.current().db
    )


def _send(signal: Signal, user: Any, facts: dict[str, Any]) -> None:
    logger.info("%s user=%s", NAMES[signal], user.pk)
    signal.send_robust(GarminAuthenticationState, user=user, **facts)
