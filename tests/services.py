"""Which databases and engines this machine offers to the tests, and why another is left out."""

import importlib.util
import os
import socket
import sys
from importlib import metadata

from tests import settings

# The oldest Python that garminconnect runs on.
GARMINCONNECT_PYTHON = (3, 12)


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


def why_not_garminconnect() -> str:
    """Return why the tests of the engine garminconnect cannot run here, "" if they can."""
    try:
        metadata.version("garminconnect")
    except metadata.PackageNotFoundError:
        wanted, running = (
            ".".join(map(str, version)) for version in (GARMINCONNECT_PYTHON, sys.version_info[:2])
        )
        if garminconnect_may_be_left_out():
            return f"it needs Python {wanted}, and this is {running}"
        return "it is not installed"
    return ""


def garminconnect_may_be_left_out() -> bool:
    """Tell whether this Python cannot have it, so that leaving it out is no failure in CI."""
    return sys.version_info[:2] < GARMINCONNECT_PYTHON


def required() -> bool:
    """Tell whether a missing service is a failure, as it is in CI."""
    return os.environ.get("GARMIN_AUTH_REQUIRE_SERVICES") == "1"
