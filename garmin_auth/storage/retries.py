"""Retry writes while the database is away for a moment, and let failed bookkeeping do no harm."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from django.db import DataError, Error, IntegrityError, connections

from ..models import GarminAuthenticationState

logger = logging.getLogger("garmin_auth")

T = TypeVar("T")

# How many seconds to go on trying to store what Garmin has issued while the database is away, in a
# failover or a restart, and how many to wait between two attempts.
WRITE_FOR, WRITE_EVERY = 15, 0.5


def write_again(write: Callable[[], T]) -> T:
    """Write, retrying on a new connection if the database has dropped this one or is away.

    Any database error is retried, not only OperationalError: during a switchover PostgreSQL may
    report a read-only transaction, which is an InternalError. Only an IntegrityError, such as that
    of a user who was deleted meanwhile, and a DataError are not: no attempt would succeed.

    Args:
        write: makes the write, in statements that can be repeated.

    Returns:
        What ``write`` returns.

    Raises:
        IntegrityError, DataError: the database does not accept the write.
        django.db.Error: every attempt failed.
    """
    connection = connections[GarminAuthenticationState.objects.using_write_db().db]
    gives_up_at = time.monotonic() + WRITE_FOR
    while True:
        try:
            return write()
        except (IntegrityError, DataError):
            raise
        except Error:
            # A TestCase's transaction is lost; nothing can be retried in it.
            if connection.in_atomic_block or time.monotonic() > gives_up_at:
                raise
        connection.close()
        time.sleep(WRITE_EVERY)


@contextmanager
def bookkeeping(what: str) -> Iterator[None]:
    """Log a database error instead of raising it: the work itself is done.

    Args:
        what: what is being recorded, for the log.
    """
    try:
        yield
    except Error as exc:
        logger.warning(
            "Could not record %s: %s",
            what,
            type(exc).__qualname__,
            extra={"event": "not_recorded", "error": type(exc).__qualname__},
        )
