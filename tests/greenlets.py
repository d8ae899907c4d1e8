"""A process that gevent has patched, as gunicorn's and Celery's workers of that kind are.

``python -m tests.greenlets <function> [argument …]`` prints what the function returns, as JSON.
"""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

import django  # noqa: E402

django.setup()

import gevent  # noqa: E402
from django.contrib.auth import get_user_model  # noqa: E402

from garmin_auth.exceptions import GarminAuthError  # noqa: E402
from garmin_auth.login import start_login  # noqa: E402
from garmin_auth.sessions import garmin_client  # noqa: E402

PROFILE = "/userprofile-service/socialProfile"


def the_user():
    return get_user_model().objects.get()


def call(timeout=None):
    """Ask for the profile in a block of its own; return the user name, or what was raised."""
    try:
        with garmin_client(the_user()) as client:
            return client.connectapi(PROFILE, timeout=timeout)["userName"]
    except GarminAuthError as exc:
        return f"{type(exc).__name__}: {exc}"


class Heartbeat:
    """Counts how often another greenlet could run."""

    def __init__(self):
        self.beats = 0
        self._greenlet = gevent.spawn(self._beat)

    def _beat(self):
        while True:
            gevent.sleep(0.01)
            self.beats += 1


def twenty():
    """Use the session in twenty greenlets, each with a block of its own."""
    greenlets = [gevent.spawn(call) for _ in range(20)]
    gevent.joinall(greenlets, raise_error=True)
    return [greenlet.value for greenlet in greenlets]


def twenty_in_a_block():
    """Use one client in twenty greenlets."""
    with garmin_client(the_user()) as client:
        greenlets = [
            gevent.spawn(lambda: client.connectapi(PROFILE)["userName"]) for _ in range(20)
        ]
        gevent.joinall(greenlets, raise_error=True)
    return [greenlet.value for greenlet in greenlets]


def timed(timeout="1"):
    """Make a call, and tell what came of it and after how many seconds."""
    _import_engine()
    started = time.monotonic()
    said = call(float(timeout))
    return said, time.monotonic() - started


def timed_each(timeout="1"):
    """For each line of input make a timed call, and print what came of it."""
    for _ in sys.stdin:
        print(json.dumps(timed(timeout)), flush=True)


def timed_twice(timeout="1"):
    """Make a call, wait for a line of input, and make a timed call on the open connection."""
    call()
    print("ready", flush=True)
    sys.stdin.readline()
    return timed(timeout)


def timed_refreshes(timeout="1"):
    """The same with refreshes."""
    for _ in sys.stdin:
        print(json.dumps(timed_refresh(timeout)), flush=True)


def timed_refresh(timeout="1"):
    """Refresh a session in so many seconds at most, and tell how often others ran."""
    from garmin_auth.engines import get_stored_engine
    from garmin_auth.engines.garminconnect import engine as module
    from garmin_auth.models import GarminAuthenticationState

    module.REFRESH_TIMEOUT = float(timeout)
    row = GarminAuthenticationState.objects.get()
    engine, data = get_stored_engine(row.engine, row.domain), row.session_data.decrypt()
    heartbeat, started = Heartbeat(), time.monotonic()
    try:
        said = "refreshed" if engine.refresh(data) else ""
    except GarminAuthError as exc:
        said = f"{type(exc).__name__}: {exc}"
    return said, time.monotonic() - started, heartbeat.beats


def killed_refresh():
    """Kill a greenlet while curl waits in it, then refresh in another one."""
    from garmin_auth.engines import get_stored_engine
    from garmin_auth.models import GarminAuthenticationState

    row = GarminAuthenticationState.objects.get()
    engine, data = get_stored_engine(row.engine, row.domain), row.session_data.decrypt()
    with gevent.Timeout(0.5, False):
        engine.refresh(data)
    return bool(engine.refresh(data))


def lookup_that_hangs():
    """Make a call where the system's resolver does not answer."""
    gevent.get_hub().resolver.getaddrinfo = lambda *args, **kwargs: gevent.sleep(60)
    return timed()


def login(email, password):
    """Log in, and tell what came of it."""
    return type(start_login(the_user(), email, password)).__name__


def _import_engine():
    """Import what the first use imports, which takes a moment."""
    from garmin_auth.engines import get_engine

    get_engine()


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
