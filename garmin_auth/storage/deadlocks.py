"""Retry a write that the database has rolled back because of a deadlock.

When two transactions wait for each other's rows, the database rolls one of them back: "always be
prepared to re-issue a transaction if it fails due to deadlock" (MySQL 8.4 manual, 17.7.5.3;
PostgreSQL 17 manual, 13.3.4). Each of our transactions is a single statement, which can simply be
sent again.
"""

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from django.db import DatabaseError, connections, models

T = TypeVar("T")
Row = TypeVar("Row", bound=models.Model)

# ER_LOCK_DEADLOCK of MariaDB and MySQL; and ER_CHECKREAD, with which MariaDB's
# innodb_snapshot_isolation, on by default since 11.6.2, refuses a row that has changed meanwhile.
_MYSQL_ERRORS = (1213, 1020)
# deadlock_detected, and serialization_failure under some isolation levels (appendix A there).
_SQLSTATES = {"40P01", "40001"}
# Up to how many seconds to wait before each retry: at random, so that the two do not meet again.
PAUSES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)


class RepeatingQuerySet(models.QuerySet[Row]):
    """Retries writes after a deadlock, except in a transaction, which is rolled back as a whole."""

    def update(self, **changes: Any) -> int:
        """Update the rows as Django does, possibly with several attempts."""
        return self._again_after_deadlocks(lambda: super(RepeatingQuerySet, self).update(**changes))

    update.alters_data = True  # type: ignore[attr-defined]

    def get_or_create(self, *args: Any, **kwargs: Any) -> tuple[Row, bool]:
        """Get or create the row as Django does, possibly with several attempts."""
        return self._again_after_deadlocks(
            lambda: super(RepeatingQuerySet, self).get_or_create(*args, **kwargs)
        )

    get_or_create.alters_data = True  # type: ignore[attr-defined]

    def _again_after_deadlocks(self, write: Callable[[], T]) -> T:
        for pause in PAUSES:
            try:
                return write()
            except DatabaseError as exc:
                # Without autocommit a transaction is open too, and its earlier statements are lost.
                if not is_deadlock(exc) or not connections[self.db].get_autocommit():
                    raise
            time.sleep(random.uniform(0, pause))  # noqa: S311
        return write()


def is_deadlock(error: DatabaseError) -> bool:
    """Return whether the database has rolled back a transaction because of a deadlock.

    Args:
        error: the error as Django raised it.
    """
    cause = error.__cause__
    # In psycopg, and in psycopg2.
    sqlstate = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    return sqlstate in _SQLSTATES or (error.args or [None])[0] in _MYSQL_ERRORS
