"""Celery ends a task by an exception, raised wherever the task is, which nobody may swallow."""

import contextlib
import re
import signal
import threading
import traceback
from functools import partial

import pytest

pytest.importorskip("billiard", reason="Celery is not installed")

from billiard.exceptions import SoftTimeLimitExceeded

from garmin_auth.engines import get_engine
from garmin_auth.health import check_session
from garmin_auth.login import start_login, submit_mfa
from garmin_auth.sessions import garmin_client
from tests.conftest import BUILT_IN, EMAIL, PASSWORD, needs_garminconnect, raw_row

pytestmark = pytest.mark.django_db(transaction=True)
PROFILE = "/userprofile-service/socialProfile"
# Seconds: while curl waits, Python raises nothing.
STALL = 2


@pytest.fixture(params=BUILT_IN)
def engine(request, settings):
    settings.GARMIN_AUTH_ENGINE = request.param
    return request.param


@pytest.fixture
def connect(engine, user, connect):
    return partial(connect, user, engine=engine)


def libraries_in(exc):
    """Return whose frames an error reporter would show: theirs hold tokens and passwords."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(exc.__traceback__)]
    library = re.compile(r"site-packages/(urllib3|requests|garth|garminconnect)")
    return {match[1] for file in files if (match := library.search(file))}


@pytest.fixture
def interrupted(garmin):
    """Raise what Celery raises as soon as Garmin has been asked for a step."""

    @contextlib.contextmanager
    def interrupted(step, *, after=0.0):
        def end_task(number, frame):
            raise SoftTimeLimitExceeded

        former = signal.signal(signal.SIGUSR1, end_task)
        asked = garmin.counts[step]
        done = threading.Event()

        def watch():
            while garmin.counts[step] == asked and not done.wait(0.01):
                pass
            if not done.wait(after):
                signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            with pytest.raises(SoftTimeLimitExceeded) as caught:
                yield
            assert caught.value.__context__ is None
            assert libraries_in(caught.value) == set()
        finally:
            done.set()
            watcher.join()
            signal.signal(signal.SIGUSR1, former)

    return interrupted


def test_a_call(connect, user, garmin, interrupted):
    connect()
    garmin.fail("api", "stall", seconds=60)

    with garmin_client(user) as client, interrupted("api"):
        client.connectapi(PROFILE)


def test_a_check(connect, user, garmin, interrupted):
    connect()
    garmin.fail("api", "stall", seconds=60)

    with interrupted("api"):
        check_session(user)


def test_a_refresh_is_stored_all_the_same(connect, engine, user, garmin, hold, interrupted):
    connect(access_expired=True)
    step = "exchange" if engine == "garth" else "di_refresh"
    before = bytes(raw_row(user)["session_data"])
    held = hold(step)

    with interrupted(step), garmin_client(user) as client:
        client.connectapi(PROFILE)
    held.release()

    with garmin_client(user) as client:
        assert client.connectapi(PROFILE)["userName"] == EMAIL
    assert garmin.counts[step] == 1
    assert bytes(raw_row(user)["session_data"]) != before


@needs_garminconnect
@pytest.mark.parametrize("name", ["get_user_timezone", "now", "get_activities", "get_devices"])
def test_a_method_of_the_library_that_takes_no_exception_seriously(
    garmin, account, interrupted, name
):
    data = garmin.issue_session(account, engine="garminconnect")
    client = get_engine("garminconnect").open(data, None).client
    client.display_name = "ana"
    garmin.fail("api", "stall", seconds=60)

    with interrupted("api"):
        getattr(client, name)()


@pytest.fixture
def short_pauses(monkeypatch):
    if get_engine("garminconnect"):
        for flow in ("MOBILE_DELAY", "WIDGET_DELAY", "LOGIN_DELAY"):
            for end in ("MIN_S", "MAX_S"):
                monkeypatch.setattr(f"garminconnect.client.sso.{flow}_{end}", 0.01)


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("step", ["sign_in", "login"])
def test_a_login(engine, user, garmin, account, interrupted, step):
    garmin.fail(step, "stall", seconds=STALL)

    with interrupted(step):
        start_login(user, EMAIL, PASSWORD)

    assert garmin.counts[step] == 1
    assert garmin.counts["portal_sign_in"] == 0


@needs_garminconnect
def test_a_login_in_a_pause_of_the_library(
    user, garmin, account, settings, interrupted, monkeypatch
):
    settings.GARMIN_AUTH_ENGINE = "garminconnect"
    for end in ("MIN_S", "MAX_S"):  # As it is outside of tests.
        monkeypatch.setattr(f"garminconnect.client.sso.MOBILE_DELAY_{end}", 5.0)

    with interrupted("sign_in", after=0.5):
        start_login(user, EMAIL, PASSWORD)

    assert garmin.counts["login"] == garmin.counts["portal_sign_in"] == 0


@pytest.mark.usefixtures("short_pauses")
def test_a_login_at_its_tokens(engine, user, garmin, account, interrupted):
    step = "exchange" if engine == "garth" else "di_exchange"
    garmin.fail(step, "stall", seconds=STALL)

    with interrupted(step):
        start_login(user, EMAIL, PASSWORD)

    assert garmin.counts[step] == 1


@pytest.mark.usefixtures("short_pauses")
def test_a_code(engine, user, garmin, mfa_account, interrupted):
    start_login(user, EMAIL, PASSWORD)
    garmin.fail("verify_code", "stall", seconds=STALL)

    with interrupted("verify_code"):
        submit_mfa(user, garmin.mfa_code(EMAIL))

    assert garmin.counts["verify_code"] + garmin.counts["portal_verify_code"] == 1
