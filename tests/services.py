"""Which databases this machine offers to the tests, and why another is left out."""

import importlib.util
import os
import socket

from tests import settings


def why_not(database: str) -> str:
    """Return why the tests cannot run on ``database``, "" if they can.

    Args:
        database: ``"sqlite"``, ``"postgresql"`` or ``"mariadb"``.
    """
    options = settings._DATABASES[database]
    driver = {"postgresql": "psycopg", "mariadb": "MySQLdb"}.get(database)
    if driver is None:
        return ""
    if importlib.util.find_spec(driver) is None:
        return f"its driver {driver} is not installed (see .venv/mysqlclient.log)"
    try:
        socket.create_connection((options["HOST"], int(options["PORT"])), timeout=3).close()
    except OSError as exc:
        return f"nothing answers at {options['HOST']}:{options['PORT']} ({exc})"
    return ""


def required() -> bool:
    """Tell whether a missing service is a failure, as it is in CI."""
    return os.environ.get("GARMIN_AUTH_REQUIRE_SERVICES") == "1"
