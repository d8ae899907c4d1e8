"""What this machine offers to the tests: databases, brokers, a browser, engines; or why not."""

import importlib.util
import os
import shutil
import socket
import sys
from importlib import metadata
from urllib.parse import urlsplit

from tests import settings

# The oldest Python that garminconnect runs on.
GARMINCONNECT_PYTHON = (3, 12)
BROKERS = {
    "redis": os.environ.get("GARMIN_AUTH_TEST_REDIS", "redis://127.0.0.1:6379/0"),
    "rabbitmq": os.environ.get("GARMIN_AUTH_TEST_RABBITMQ", "amqp://guest:guest@127.0.0.1:5672//"),
}


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


def why_not_broker(name: str) -> str:
    """Return why tasks cannot be tried on this broker here, "" if they can.

    Args:
        name: ``"redis"`` or ``"rabbitmq"``.
    """
    parts = urlsplit(BROKERS[name])
    if name == "redis" and importlib.util.find_spec("redis") is None:
        return "its client redis is not installed"
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=3).close()
    except OSError as exc:
        return f"nothing answers at {parts.hostname}:{parts.port} ({exc})"
    return ""


def chromium_path() -> str:
    """Return where the system's Chromium is, "" if there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next(filter(None, map(shutil.which, names)), "")


def headless_path() -> str:
    """Return where its part without windows is, which opens a page at a fifth of the cost, else it.

    Passwords are saved, and windows have their frames, in the whole only.
    """
    return shutil.which("chromium-headless-shell") or chromium_path()


def why_not_browser() -> str:
    """Return why the pages cannot be used in a browser here, "" if they can."""
    for module in ("playwright", "axe_playwright_python"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed"
    return "" if chromium_path() else "no Chromium is installed (Debian: chromium)"


def why_not_gettext() -> str:
    """Return why the source cannot be searched for messages here, "" if it can."""
    return "" if shutil.which("xgettext") else "xgettext is not installed (Debian: gettext)"


def why_not_garminconnect() -> str:
    """Return why the tests of the engine garminconnect cannot run here, "" if they can."""
    return _why_not_engine("garminconnect")


def why_not_personal() -> str:
    """Return why the tests of the engine personal cannot run here, "" if they can."""
    return _why_not_engine("garmin-connect-personal-api-python")


def _why_not_engine(distribution: str) -> str:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        wanted, running = (
            ".".join(map(str, version)) for version in (GARMINCONNECT_PYTHON, sys.version_info[:2])
        )
        if garminconnect_may_be_left_out():
            return f"it needs Python {wanted}, and this is {running}"
        return "it is not installed"
    return ""


def garminconnect_may_be_left_out() -> bool:
    """Tell whether this Python cannot have it, nor the engine personal: no failure in CI."""
    return sys.version_info[:2] < GARMINCONNECT_PYTHON


def required() -> bool:
    """Tell whether a missing service is a failure, as it is in CI."""
    return os.environ.get("GARMIN_AUTH_REQUIRE_SERVICES") == "1"
