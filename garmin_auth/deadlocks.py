"""Write again what the database has undone because two transactions were in each other's way.

Of two transactions that wait for each other's rows a database undoes one, and says so: "always be
prepared to re-issue a transaction if it fails due to deadlock" (MySQL 8.4 manual, 17.7.5.3;
PostgreSQL 17 manual, 13.3.4). Ours can: each is a single statement, and what was undone has changed
nothing.
"""

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from django.db import DatabaseError, connections, models

T = TypeVar("T")
Row = TypeVar("Row", bound=models.Model)

# ER_LOCK_DEADLOCK of MariaDB and MySQL.
_MYSQL_ERROR = 1213
# deadlock_detected; serialization_failure, under a site's own isolation level (appendix A there).
_SQLSTATES = {"40P01", "40001"}
# Seconds before each further attempt, at the most: by chance, so that the same two part.
PAUSES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)


class RepeatingQuerySet(models.QuerySet[Row]):
    """Writes again after a deadlock. In a transaction it does not: that is undone as a whole."""

    def update(self, **changes: Any) -> int:
        """Change the rows as Django does; the statement may be sent more than once."""
        return self._again_after_deadlocks(lambda: super(RepeatingQuerySet, self).update(**changes))

    update.alters_data = True  # type: ignore[attr-defined]

    def get_or_create(self, *args: Any, **kwargs: Any) -> tuple[Row, bool]:
        """Read or make the row as Django does; the statements may be sent more than once."""
        return self._again_after_deadlocks(
            lambda: super(RepeatingQuerySet, self).get_or_create(*args, **kwargs)
        )

    get_or_create.alters_data = True  # type: ignore[attr-defined]

    def _again_after_deadlocks(self, write: Callable[[], T]) -> T:
        for pause in PAUSES:
            try:
                return write()
            except DatabaseError as exc:
                # Without autocommit too a transaction is open, whose earlier statements are lost.
                if not is_deadlock(exc) or not connections[self.db].get_autocommit():
                    raise
            time.sleep(random.uniform(0, pause))  # noqa: S311
        return write()


def is_deadlock(error: DatabaseError) -> bool:
    """Tell whether the database has undone a transaction because another was in its way.

    Args:
        error: what Django has raised for it.
    """
    cause = error.__cause__
    # psycopg's name, and psycopg2's.
    sqlstate = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    return sqlstate in _SQLSTATES or error.args[:1] == (_MYSQL_ERROR,)
