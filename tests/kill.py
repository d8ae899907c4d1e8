"""Fork a process for each order read from standard input, and kill it while it acts.

Usage: kill.py CACHE_FOLDER LOGIN_TIMEOUT. An order is a line of JSON, the arguments of ``kill``,
and so is the answer. Forking makes real processes without an import of garth for each.
"""

import json
import os
import signal
import sys
import time
import warnings

warnings.simplefilter("ignore", DeprecationWarning)

import django  # noqa: E402

from tests import settings  # noqa: E402

# As in production, all processes share a cache, so that what a killed one left in it is met.
settings.CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
        "LOCATION": sys.argv[1],
    }
}
settings.GARMIN_AUTH_TIMEOUT = float(sys.argv[2])
django.setup()

from django.contrib.auth import get_user_model  # noqa: E402
from django.db.backends.signals import connection_created  # noqa: E402

from garmin_auth.engines import get_engine  # noqa: E402
from garmin_auth.login import start_login, submit_mfa  # noqa: E402
from garmin_auth.sessions import garmin_client  # noqa: E402

PROFILE = "/userprofile-service/socialProfile"


def log_in(user, begun, email, password):
    begun()
    start_login(user, email, password)


def send_code(user, begun, code):
    begun()
    submit_mfa(user, code)


def use(user, begun):
    begun()
    with garmin_client(user) as client:
        client.connectapi(PROFILE)


def write_back(user, begun):
    """Store a fresh token; it begins with that UPDATE."""
    told = False

    def before_the_first_write(execute, sql, *rest):
        nonlocal told
        if not told and sql.startswith("UPDATE") and "session_data" in sql.partition("WHERE")[0]:
            told = True
            begun()
        return execute(sql, *rest)

    def wrap(connection, **kwargs):
        connection.execute_wrappers.append(before_the_first_write)

    # A refresh has a connection of its own. This process ends after it.
    connection_created.connect(wrap, weak=False)
    with garmin_client(user) as client:
        client.connectapi(PROFILE)
        client.refresh_oauth2()


ACTIONS = {"login": log_in, "code": send_code, "use": use, "write-back": write_back}


def kill(action, user, after, **arguments):
    """Let a process act, and kill it so many seconds after it began; None: let it end.

    Returns:
        ``seconds`` that it lived from then on, whether it was ``killed``, and its ``error``.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        act(action, user, writing, arguments)
    os.close(writing)
    os.read(reading, 1)
    began = time.monotonic()
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    seconds = time.monotonic() - began
    with os.fdopen(reading) as rest:
        error = rest.read()
    return {"seconds": seconds, "killed": os.WIFSIGNALED(status), "error": error}


def act(action, pk, writing, arguments):
    try:
        user = get_user_model().objects.get(pk=pk)
        ACTIONS[action](user, lambda: os.write(writing, b"."), **arguments)
    except BaseException as exc:  # noqa: BLE001
        os.write(writing, repr(exc).encode())
    os._exit(0)


def main():
    get_engine("garth")  # Import it once, for all.
    for line in sys.stdin:
        print(json.dumps(kill(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
