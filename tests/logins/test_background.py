"""Logins of slow engines, outside of the request, with a real engine, threads and processes."""

import logging
import os
import signal
import sys
import threading
import time
from datetime import timedelta

import pytest
from django.core.cache import cache
from django.db import OperationalError, connection, transaction
from django.db.backends.signals import connection_created
from django.utils import timezone

from garmin_auth import signals
from garmin_auth.accounts import account_of
from garmin_auth.exceptions import (
    GarminAuthError,
    GarminUnavailable,
    InvalidCredentials,
    LoginInterrupted,
    LoginThrottled,
    RateLimited,
    TooManyLogins,
)
from garmin_auth.health import purge_challenges
from garmin_auth.limits import cooldown, throttle
from garmin_auth.login import (
    Connected,
    LoginUnderWay,
    MFARequired,
    begin_login,
    cancel_mfa,
    disconnect,
    pending_login,
    start_login,
    submit_mfa,
)
from garmin_auth.logins import attending, background
from garmin_auth.logins.records import to_record
from garmin_auth.models import GarminAuthenticationState, Status
from garmin_auth.sessions import garmin_client
from garmin_auth.storage.querysets import StateQuerySet
from tests.conftest import BUILT_IN, EMAIL, PASSWORD, raw_row, state_of
from tests.slow_engine import SlowGarthEngine
from tests.storage.test_threads import enter, entered
from tests.waiting import wait_for_logins, wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.every_database]
states = GarminAuthenticationState.objects
SLOW_SETTINGS = {"DJANGO_SETTINGS_MODULE": "tests.slow_settings"}

# Begins a login in a process of its own, whose signs of life come and go fast.
BEGIN = """
import sys, time
from django.contrib.auth import get_user_model
from garmin_auth import login
from garmin_auth.logins import attending
attending.SIGN_OF_LIFE, attending.LIFE = 0.2, 1.5
user = get_user_model().objects.get(pk=sys.argv[1])
print(type(login.begin_login(user, *sys.argv[2:])).__name__, flush=True)
time.sleep(60)
"""


@pytest.fixture
def quick_life(monkeypatch):
    """Signs of life come fast, and do not count for long."""
    monkeypatch.setattr(attending, "SIGN_OF_LIFE", 0.1)
    monkeypatch.setattr(attending, "LIFE", 5)


def log_in(user, password=PASSWORD, email=EMAIL):
    """Log in, and wait for the end."""
    assert begin_login(user, email, password) == LoginUnderWay()
    wait_for_logins()


# The way through


def test_garmin_is_not_asked_before_the_call_returns(user, account, garmin, gate):
    assert begin_login(user, EMAIL, PASSWORD) == LoginUnderWay()

    assert sum(garmin.counts.values()) == 0
    assert account_of(user).login_under_way


def test_the_login_finishes_by_itself(user, account, slow_logins):
    log_in(user)

    found = account_of(user)
    assert (found.status, found.engine, found.name) == (Status.ACTIVE, "slow", EMAIL)
    assert (found.login_under_way, found.login_failure) == (False, None)


def test_the_session_works(user, account, slow_logins):
    log_in(user)

    with garmin_client(user) as client:
        assert client.connectapi("/userprofile-service/socialProfile")["userName"] == EMAIL


def test_a_code_is_asked_for_where_garmin_wants_one(user, mfa_account, garmin, slow_logins):
    log_in(user)

    assert "*" in pending_login(user).sent_to
    assert not account_of(user).login_under_way
    assert submit_mfa(user, garmin.mfa_code(EMAIL)) == Connected()


def test_signals_are_sent(user, account, slow_logins):
    sent = []

    def receiver(user, **kwargs):
        sent.append((user, connection.in_atomic_block, state_of(user).status))

    signals.session_connected.connect(receiver)
    try:
        log_in(user)
    finally:
        signals.session_connected.disconnect(receiver)
    assert sent == [(user, False, Status.ACTIVE)]


def test_an_engine_that_is_fast_ends_in_the_call(user, account, garmin):
    assert begin_login(user, EMAIL, PASSWORD) == Connected()
    assert account_of(user).engine == "garth"


def test_a_script_waits_for_a_slow_engine(user, account, slow_logins):
    assert start_login(user, EMAIL, PASSWORD) == Connected()


def test_nothing_begins_inside_a_transaction(user, account, garmin, slow_logins):
    with pytest.raises(RuntimeError, match="must not run inside"), transaction.atomic():
        begin_login(user, EMAIL, PASSWORD)

    assert state_of(user) is None


# Failures


def test_a_wrong_password_is_noted(user, account, slow_logins):
    log_in(user, "wrong")

    failure = account_of(user).login_failure
    assert type(failure) is InvalidCredentials
    assert not account_of(user).login_under_way


def test_another_process_knows_the_same_sentence(user, account, slow_logins, run_python):
    log_in(user, "wrong")

    code = (
        "import sys; from django.contrib.auth import get_user_model\n"
        "from garmin_auth.accounts import account_of\n"
        "user = get_user_model().objects.get(pk=sys.argv[1])\n"
        "print(account_of(user).login_failure.user_message)"
    )
    assert run_python(code, user.pk) == str(InvalidCredentials().user_message)


def test_a_rate_limit_begins_the_accounts_pause(user, account, garmin, slow_logins):
    garmin.fail("login", "rate_limited", retry_after=300)
    log_in(user)

    assert 298 <= account_of(user).login_failure.retry_after <= 300
    assert cooldown.seconds_left(cooldown.account_scope(EMAIL, "garmin.com")) > 290


def test_what_a_rate_limit_says_grows_shorter(user, account, garmin, slow_logins):
    garmin.fail("login", "rate_limited", retry_after=300)
    log_in(user)
    states.update(login_expires_at=state_of(user).login_expires_at - timedelta(minutes=2))

    assert "in 3 minutes" in account_of(user).login_failure.user_message


def test_a_pause_refuses_at_once(user, account, garmin, slow_logins):
    cooldown.start(cooldown.account_scope(EMAIL, "garmin.com"), 300)

    with pytest.raises(RateLimited):
        begin_login(user, EMAIL, PASSWORD)
    assert sum(garmin.counts.values()) == 0
    assert state_of(user) is None


def test_too_many_logins_of_a_user_are_refused_at_once(user, account, garmin, slow_logins):
    for _ in range(5):
        log_in(user, "wrong")
    asked = garmin.counts["login"]

    with pytest.raises(LoginThrottled):
        begin_login(user, EMAIL, PASSWORD)
    assert garmin.counts["login"] == asked == 5


def test_too_many_logins_of_an_address_are_refused_at_once(
    user, other_user, account, slow_logins, monkeypatch
):
    monkeypatch.setattr(throttle, "CLIENT_LIMIT", 1)
    begin_login(user, EMAIL, "wrong", client_address="192.0.2.1")

    with pytest.raises(LoginThrottled):
        begin_login(other_user, EMAIL, PASSWORD, client_address="192.0.2.1")


def test_a_refused_login_leaves_its_room_to_others(user, account, settings, slow_logins):
    settings.GARMIN_AUTH_LOGIN_WORKERS = 1
    cooldown.start(cooldown.account_scope(EMAIL, "garmin.com"), 300)
    for _ in range(3):
        with pytest.raises(RateLimited):
            begin_login(user, EMAIL, PASSWORD)

    cache.clear()  # It is over.
    log_in(user)
    assert account_of(user).connected


def test_a_bug_is_an_honest_failure(user, account, settings, slow_logins):
    settings.GARMIN_AUTH_ENGINE = "broken"
    log_in(user)

    failure = account_of(user).login_failure
    assert type(failure) is GarminAuthError
    assert "Something went wrong" in failure.user_message


class BrokenAfterLoginEngine(SlowGarthEngine):
    """An engine with a bug that shows when the session is stored."""

    name = "broken after login"

    def ends_at(self, session_data):
        raise AttributeError(f"a bug with {EMAIL} and {PASSWORD}")


@pytest.mark.parametrize(
    ("engine", "place"), [("broken", "slow_engine.py"), ("later", "test_background.py")]
)
def test_the_log_says_where_a_bug_is_and_nothing_secret(
    user, account, settings, slow_logins, caplog, engine, place
):
    settings.GARMIN_AUTH_ENGINES["later"] = f"{__name__}.BrokenAfterLoginEngine"
    settings.GARMIN_AUTH_ENGINE = engine
    with caplog.at_level("DEBUG"):
        log_in(user)

    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "AttributeError" in record.getMessage()
    assert place in record.getMessage()
    assert record.exc_info is record.exc_text is None
    assert PASSWORD not in caplog.text
    assert EMAIL not in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_log_handler_that_raises_hides_no_failure(user, account, settings, slow_logins):
    settings.GARMIN_AUTH_ENGINE = "broken"

    class Broken(logging.Handler):
        def emit(self, record):
            raise ValueError("a bug in a log handler")

    handler = Broken()
    logging.getLogger("garmin_auth").addHandler(handler)
    try:
        log_in(user)
    finally:
        logging.getLogger("garmin_auth").removeHandler(handler)
    assert "Something went wrong" in account_of(user).login_failure.user_message


@pytest.fixture
def given_up_soon(monkeypatch):
    """A login has 0.3 s."""
    monkeypatch.setattr(attending, "GRACE", 0.1)
    monkeypatch.setattr(SlowGarthEngine, "timeout", 0.2)


def test_a_call_that_never_ends_is_given_up(user, account, gate, given_up_soon):
    begin_login(user, EMAIL, PASSWORD)
    wait_until(lambda: account_of(user).login_failure)

    assert type(account_of(user).login_failure) is GarminUnavailable


def test_what_comes_after_it_was_given_up_is_discarded(user, account, gate, given_up_soon):
    begin_login(user, EMAIL, PASSWORD)
    wait_until(lambda: account_of(user).login_failure)

    gate.set()
    wait_for_logins()
    assert not account_of(user).connected


def test_a_call_that_never_ends_keeps_its_room(
    user, other_user, account, gate, given_up_soon, settings
):
    settings.GARMIN_AUTH_LOGIN_WORKERS = 1
    begin_login(user, EMAIL, PASSWORD)
    wait_until(lambda: account_of(user).login_failure)

    with pytest.raises(TooManyLogins):
        begin_login(other_user, "ben@example.com", PASSWORD)


def test_a_failure_is_forgotten_after_an_hour(user, account, slow_logins):
    log_in(user, "wrong")
    states.update(login_expires_at=state_of(user).login_expires_at - timedelta(minutes=61))

    assert account_of(user).login_failure is None
    purge_challenges()
    assert state_of(user).login_id == ""


def test_a_failure_of_a_moment_ago_is_not_purged(user, account, slow_logins):
    log_in(user, "wrong")

    purge_challenges()
    assert account_of(user).login_failure


@pytest.mark.parametrize(
    "forget",
    [
        cancel_mfa,
        disconnect,
        lambda user: start_login(user, EMAIL, PASSWORD),
        lambda user: begin_login(user, EMAIL, PASSWORD),
    ],
)
def test_a_failure_is_forgotten(user, account, slow_logins, forget):
    log_in(user, "wrong")

    forget(user)
    assert account_of(user).login_failure is None


def test_cancelling_a_failure_cancels_no_login(user, account, slow_logins):
    log_in(user, "wrong")

    assert not cancel_mfa(user)


# One login at a time


def test_a_double_click_sends_one_login(user, account, garmin, gate):
    assert begin_login(user, EMAIL, PASSWORD) == LoginUnderWay()
    assert begin_login(user, EMAIL, PASSWORD) == LoginUnderWay()
    gate.set()
    wait_for_logins()

    assert garmin.counts["login"] == 1
    assert account_of(user).connected


def test_a_double_click_needs_no_room_and_is_not_counted(user, account, gate, settings):
    settings.GARMIN_AUTH_LOGIN_WORKERS = 1
    for _ in range(10):
        assert begin_login(user, EMAIL, PASSWORD) == LoginUnderWay()


def test_many_clicks_at_once_send_one_login(user, account, garmin, gate):
    def click():
        begin_login(user, EMAIL, PASSWORD)
        connection.close()

    clicks = [threading.Thread(target=click) for _ in range(4)]
    for thread in clicks:
        thread.start()
    for thread in clicks:
        thread.join()
    gate.set()
    wait_for_logins()

    assert garmin.counts["login"] == 1


def test_a_second_login_of_another_process_is_not_sent(user, account, garmin, gate, run_python):
    begin_login(user, EMAIL, PASSWORD)

    code = BEGIN.replace("time.sleep(60)", "")
    assert run_python(code, user.pk, EMAIL, PASSWORD, **SLOW_SETTINGS) == "LoginUnderWay"
    assert garmin.counts["login"] == 0


def test_a_login_that_another_forestalls_is_neither_sent_nor_counted(
    user, account, garmin, slow_logins, monkeypatch
):
    begin = StateQuerySet.begin_login

    def begin_second(self, user_id, login_id, seconds):
        begin(self, user_id, "another's", seconds)
        return begin(self, user_id, login_id, seconds)

    with monkeypatch.context() as patch:
        patch.setattr(StateQuerySet, "begin_login", begin_second)
        for _ in range(6):
            assert begin_login(user, EMAIL, PASSWORD) == LoginUnderWay()
            states.end_login(user.pk)
    assert garmin.counts["login"] == 0
    log_in(user)
    assert account_of(user).connected


# Cancelled, replaced


@pytest.mark.parametrize("mfa", [False, True])
@pytest.mark.parametrize("end", [cancel_mfa, disconnect])
def test_what_a_cancelled_login_brings_is_discarded(user, garmin, gate, mfa, end):
    garmin.add_account(EMAIL, PASSWORD, mfa=mfa)
    begin_login(user, EMAIL, PASSWORD)

    assert end(user)
    gate.set()
    wait_for_logins()

    assert garmin.counts["login"] == 1
    row = raw_row(user)
    assert row["session_data"] is row["mfa_challenge"] is None
    assert row["login_id"] == row["login_failure"] == ""
    assert row["login_expires_at"] is None


def test_the_failure_of_a_cancelled_login_is_not_shown(user, account, gate):
    begin_login(user, EMAIL, "wrong")
    cancel_mfa(user)
    gate.set()
    wait_for_logins()

    assert account_of(user).login_failure is None


def test_a_cancelled_login_is_not_revived(user, account, gate, quick_life):
    begin_login(user, EMAIL, PASSWORD)
    cancel_mfa(user)
    time.sleep(0.3)

    assert not account_of(user).login_under_way


def test_after_a_cancel_another_login_can_begin_at_once(user, account, garmin, gate):
    garmin.add_account("other@example.com", PASSWORD)
    begin_login(user, EMAIL, PASSWORD)
    cancel_mfa(user)
    begin_login(user, "other@example.com", PASSWORD)
    gate.set()
    wait_for_logins()

    assert account_of(user).name == "other@example.com"


def test_a_script_replaces_a_login_under_way(user, garmin, account, gate, settings):
    garmin.add_account("other@example.com", PASSWORD)
    begin_login(user, EMAIL, PASSWORD)
    settings.GARMIN_AUTH_ENGINE = "garth"
    start_login(user, "other@example.com", PASSWORD)
    gate.set()
    wait_for_logins()

    assert account_of(user).name == "other@example.com"


def test_a_user_who_is_deleted_meanwhile_harms_nothing(user, account, gate, caplog):
    begin_login(user, EMAIL, PASSWORD)
    user.delete()
    gate.set()
    wait_for_logins()

    assert not states.exists()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


# Another login while one is under way


@pytest.fixture
def waits(monkeypatch):
    """Set when a login waits for its turn."""
    waiting, take_turn = threading.Event(), StateQuerySet.take_turn

    def look(self, *arguments):
        found = take_turn(self, *arguments)
        if found is False:
            waiting.set()
        return found

    monkeypatch.setattr(StateQuerySet, "take_turn", look)
    monkeypatch.setattr(attending, "TURN_POLL", 0.05)
    return waiting


@pytest.fixture(params=["slow", *BUILT_IN[1:]])
def slow_engine(request, slow_logins, settings):
    """Each engine whose logins are slow."""
    settings.GARMIN_AUTH_ENGINE = request.param


def test_another_password_waits_and_is_tried(
    user, account, garmin, slow_engine, hold, waits, quick_life
):
    first = hold("login")
    begin_login(user, EMAIL, "wrong")
    first.wait()
    assert begin_login(user, EMAIL, PASSWORD) == LoginUnderWay()
    assert waits.wait(60)
    assert garmin.counts["login"] == 1
    first.release()
    wait_for_logins()

    assert garmin.counts["login"] == 2
    assert account_of(user).connected
    assert account_of(user).login_failure is None


def test_the_first_ones_failure_is_not_shown_while_another_waits(
    user, account, garmin, slow_engine, hold, waits
):
    first = hold("login")
    begin_login(user, EMAIL, "wrong")
    first.wait()
    begin_login(user, EMAIL, "wrong too")
    states.fail_login(user.pk, state_of(user).login_id, to_record(GarminUnavailable()))

    assert account_of(user).login_failure is None
    assert account_of(user).login_under_way
    first.release()
    wait_for_logins()
    assert type(account_of(user).login_failure) is InvalidCredentials


@pytest.mark.parametrize("mfa", [False, True])
def test_what_the_first_brings_is_kept_when_the_second_is_wrong(
    user, garmin, slow_engine, hold, waits, mfa
):
    garmin.add_account(EMAIL, PASSWORD, mfa=mfa)
    first = hold("login")
    begin_login(user, EMAIL, PASSWORD)
    first.wait()
    begin_login(user, EMAIL, "wrong")
    assert waits.wait(60)
    first.release()
    wait_for_logins()

    assert type(account_of(user).login_failure) is InvalidCredentials
    if mfa:
        submit_mfa(user, garmin.mfa_code(EMAIL))
    assert account_of(user).connected


def test_only_the_last_of_those_that_wait_is_tried(user, account, garmin, gate, waits):
    begin_login(user, EMAIL, "wrong")
    begin_login(user, EMAIL, "wrong too")
    begin_login(user, EMAIL, PASSWORD)
    gate.set()
    wait_for_logins()

    assert garmin.counts["login"] == 2
    assert account_of(user).connected


def test_the_same_as_the_one_that_waits_is_not_begun_again(user, account, garmin, gate):
    begin_login(user, EMAIL, "wrong")
    begin_login(user, EMAIL, PASSWORD)
    begin_login(user, EMAIL, PASSWORD)
    gate.set()
    wait_for_logins()

    assert garmin.counts["login"] == 2


def test_a_cancel_ends_the_one_that_waits_too(user, account, garmin, gate, waits):
    begin_login(user, EMAIL, "wrong")
    begin_login(user, EMAIL, PASSWORD)
    cancel_mfa(user)
    gate.set()
    wait_for_logins()

    assert garmin.counts["login"] == 1
    assert not account_of(user).connected


def test_a_login_that_was_never_tried_does_not_count(user, account, garmin, gate, waits, settings):
    settings.GARMIN_AUTH_LOGIN_WORKERS = 5
    for n in range(5):
        begin_login(user, EMAIL, f"wrong {n}")
    cancel_mfa(user)
    gate.set()
    wait_for_logins()
    for _ in range(3):
        log_in(user, "wrong")

    log_in(user)
    assert garmin.counts["login"] == 5
    assert account_of(user).connected


def test_a_rate_limit_of_the_first_stops_the_second(user, account, garmin, gate, waits):
    garmin.fail("login", "rate_limited", retry_after=300)
    begin_login(user, EMAIL, "wrong")
    begin_login(user, EMAIL, PASSWORD)
    gate.set()
    wait_for_logins()

    assert garmin.counts["login"] == 1
    assert isinstance(account_of(user).login_failure, RateLimited)


@pytest.fixture
def slow_site(cached, site, settings):
    """The environment of another process of this site, which shares its cache."""
    return site(
        f"CACHES = {settings.CACHES!r}",
        f"GARMIN_AUTH_ENGINE = {settings.GARMIN_AUTH_ENGINE!r}",
        f"GARMIN_AUTH_ENGINES = {settings.GARMIN_AUTH_ENGINES!r}",
    )


def test_it_waits_for_the_login_of_another_process(
    user, account, garmin, slow_engine, slow_site, hold, waits, start_python
):
    first = hold("login")
    code = f"import django; django.setup()\n{BEGIN}"
    child = start_python("-c", code, user.pk, EMAIL, "wrong", **slow_site)
    assert child.stdout.readline() == "LoginUnderWay\n", child.communicate()[1]
    first.wait()
    begin_login(user, EMAIL, PASSWORD)
    assert waits.wait(60)
    assert garmin.counts["login"] == 1
    first.release()
    wait_for_logins()

    assert garmin.counts["login"] == 2
    assert account_of(user).connected


def test_it_waits_no_longer_for_a_process_that_was_killed(
    user, account, garmin, gate, slow_site, waits, start_python
):
    code = f"import django; django.setup()\n{BEGIN}"
    child = start_python(
        "-c", code, user.pk, EMAIL, "wrong", GARMIN_TEST_SLOW_LOGIN="30", **slow_site
    )
    assert child.stdout.readline() == "LoginUnderWay\n", child.communicate()[1]
    gate.set()
    begin_login(user, EMAIL, PASSWORD)
    assert waits.wait(60)
    os.kill(child.pid, signal.SIGKILL)
    wait_for_logins()

    assert garmin.counts["login"] == 1
    assert account_of(user).connected


def test_it_waits_for_as_long_as_the_login_before_it_may_take(
    user, account, slow_logins, waits, monkeypatch
):
    monkeypatch.setattr(SlowGarthEngine, "timeout", 0)
    monkeypatch.setattr(attending, "GRACE", 20)
    log_in(user, "wrong")
    states.begin_login(user.pk, "of another process", 60)
    begin_login(user, EMAIL, PASSWORD)
    assert waits.wait(30)
    states.update(login_expires_at=timezone.now() - timedelta(seconds=1))  # That has died.
    wait_for_logins()

    assert account_of(user).connected


# A user who is connected


def test_the_working_session_stays_until_the_new_one_is_stored(user, connect, gate):
    before = connect(user).session_data
    begin_login(user, EMAIL, PASSWORD)

    found = account_of(user)
    assert (found.connected, found.login_under_way) == (True, True)
    with garmin_client(user) as client:
        assert client.connectapi("/userprofile-service/socialProfile")
    gate.set()
    wait_for_logins()
    assert state_of(user).session_data != before


def test_the_working_session_stays_when_the_login_fails(user, connect, slow_logins):
    before = connect(user).session_data
    log_in(user, "wrong")

    assert state_of(user).session_data == before
    assert account_of(user).status == Status.ACTIVE


# Signs of life


def test_a_login_that_takes_longer_than_a_sign_of_life_counts_stays_under_way(
    user, account, gate, quick_life
):
    begin_login(user, EMAIL, PASSWORD)
    first = state_of(user).login_expires_at
    # It had counted until then; each sign of life counts as long, from its own moment.
    wait_until(lambda: state_of(user).login_expires_at > first + timedelta(seconds=1))

    assert account_of(user).login_under_way


@pytest.mark.parametrize("mfa", [False, True])
def test_a_killed_process_leaves_an_honest_sentence(user, garmin, gate, start_python, mfa):
    garmin.add_account(EMAIL, PASSWORD, mfa=mfa)
    code = f"import django; django.setup()\n{BEGIN}"
    child = start_python(
        "-c", code, user.pk, EMAIL, PASSWORD, GARMIN_TEST_SLOW_LOGIN="30", **SLOW_SETTINGS
    )
    assert child.stdout.readline() == "LoginUnderWay\n", child.communicate()[1]
    assert account_of(user).login_under_way

    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    wait_until(lambda: not account_of(user).login_under_way, 5)

    assert isinstance(account_of(user).login_failure, LoginInterrupted)
    for constraint in GarminAuthenticationState._meta.constraints:
        assert not states.exclude(constraint.condition).exists()
    gate.set()
    log_in(user)
    if mfa:
        submit_mfa(user, garmin.mfa_code(EMAIL))
    assert account_of(user).connected
    assert account_of(user).login_failure is None


# Room


def test_where_there_is_no_room_nothing_is_sent(user, other_user, account, garmin, gate, settings):
    settings.GARMIN_AUTH_LOGIN_WORKERS = 1
    begin_login(user, EMAIL, PASSWORD)

    with pytest.raises(TooManyLogins) as caught:
        begin_login(other_user, "ben@example.com", PASSWORD)
    assert "try again in a minute" in caught.value.user_message
    assert state_of(other_user) is None
    gate.set()
    wait_for_logins()
    assert garmin.counts["login"] == 1


def test_room_is_given_back(user, account, slow_logins, settings):
    settings.GARMIN_AUTH_LOGIN_WORKERS = 1
    for _ in range(3):
        log_in(user, "wrong")
    log_in(user)

    assert account_of(user).connected


@pytest.mark.parametrize("threads", [0, 1])
def test_where_the_machine_has_no_thread_nothing_is_left_under_way(
    user, account, slow_logins, monkeypatch, settings, threads
):
    settings.GARMIN_AUTH_LOGIN_WORKERS = 1
    start, started = threading.Thread.start, []

    def refuse(self):
        if len(started) == threads:
            raise RuntimeError("can't start new thread")
        started.append(self)
        start(self)

    for _ in range(6):  # None of them counts.
        started.clear()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(TooManyLogins):
                begin_login(user, EMAIL, PASSWORD)
        wait_for_logins()
    assert not account_of(user).login_under_way
    log_in(user)
    assert account_of(user).connected


def test_a_place_is_one_calls_until_it_is_given_back(settings):
    settings.GARMIN_AUTH_LOGIN_WORKERS = 2
    room = background.Room()

    assert [room.take() for _ in range(3)] == [True, True, False]
    room.give_back()
    assert [room.take() for _ in range(2)] == [True, False]
    room.give_back()
    room.give_back()
    assert [room.take() for _ in range(3)] == [True, True, False]


def test_a_call_is_waited_for_to_the_end_of_its_time():
    call = background.Call()
    call.begin()

    assert call.outlast(0.9, 0.01, meanwhile=lambda: call.make(lambda: "its result"))
    assert call.result() == "its result"


def test_both_threads_are_within_the_sites_context(
    user, account, slow_logins, settings, monkeypatch
):
    settings.GARMIN_AUTH_THREAD_CONTEXT = "tests.storage.test_threads.tenant_for_a_thread"
    seen = []

    class Look:
        def wait(self, seconds):
            seen.append(("engine", getattr(entered, "name", None)))

    def receiver(**kwargs):
        seen.append(("receiver", getattr(entered, "name", None)))

    monkeypatch.setattr(SlowGarthEngine, "gate", Look())
    signals.session_connected.connect(receiver)
    try:
        with enter("ana's site"):
            log_in(user)
    finally:
        signals.session_connected.disconnect(receiver)
    assert seen == [("engine", "ana's site"), ("receiver", "ana's site")]


def test_a_login_keeps_no_process_alive(user, account, gate):
    begin_login(user, EMAIL, PASSWORD)

    threads = [thread for thread in threading.enumerate() if thread.name == background.THREAD_NAME]
    assert [thread.daemon for thread in threads] == [True, True]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_has_all_its_room(run_python):
    code = """
import os
from contextlib import ExitStack
from garmin_auth.logins import background
with ExitStack() as stack:
    for _ in range(4):
        stack.enter_context(background.slot())
    child = os.fork()
    if child == 0:
        with background.slot():
            os.write(1, b"room")
        os._exit(0)
    os.waitpid(child, 0)
"""
    assert run_python(code) == "room"


# The database


@pytest.fixture
def connections_of_threads():
    """The database connections that other threads than the test's have made."""
    made, here = [], threading.get_ident()

    def note(connection, **kwargs):
        if threading.get_ident() != here:
            made.append((threading.get_ident(), connection))

    connection_created.connect(note)
    yield made
    connection_created.disconnect(note)


def test_the_threads_leave_no_connection_open(user, account, slow_logins, connections_of_threads):
    log_in(user)
    log_in(user, "wrong")

    assert connections_of_threads
    assert [made for _, made in connections_of_threads if made.connection is not None] == []


def test_no_connection_is_held_while_garmin_is_asked(
    user, account, gate, quick_life, connections_of_threads
):
    begin_login(user, EMAIL, PASSWORD)
    wait_until(lambda: len(connections_of_threads) > 1)
    wait_until(lambda: all(made.connection is None for _, made in connections_of_threads))


def test_one_thread_uses_the_database(user, account, gate, quick_life, connections_of_threads):
    begin_login(user, EMAIL, PASSWORD)
    wait_until(lambda: len(connections_of_threads) > 1)
    gate.set()
    wait_for_logins()

    assert len({thread for thread, _ in connections_of_threads}) == 1


@pytest.mark.parametrize("times", [1, 2])
def test_a_database_that_is_locked_for_a_moment_breaks_no_login(user, account, slow_logins, times):
    refused = []

    def refuse(execute, sql, *rest):
        stores = sql.startswith("UPDATE") and "session_data" in sql.partition("WHERE")[0]
        if stores and len(refused) < times:
            refused.append(sql)
            raise OperationalError("database is locked")
        return execute(sql, *rest)

    def wrap(connection, **kwargs):
        connection.execute_wrappers.append(refuse)

    connection_created.connect(wrap)
    try:
        log_in(user)
    finally:
        connection_created.disconnect(wrap)
    assert len(refused) == times
    assert account_of(user).connected


def test_a_database_that_is_away_for_signs_of_life_breaks_no_login(user, account, gate, quick_life):
    refused = []

    def refuse(execute, sql, *rest):
        if not gate.is_set():
            refused.append(sql)
            raise OperationalError("database is locked")
        return execute(sql, *rest)

    def wrap(connection, **kwargs):
        connection.execute_wrappers.append(refuse)

    begin_login(user, EMAIL, PASSWORD)
    connection_created.connect(wrap)
    try:
        wait_until(lambda: len(refused) > 2)
        gate.set()
        wait_for_logins()
    finally:
        connection_created.disconnect(wrap)
    assert account_of(user).connected


# Secrets


def test_password_and_address_are_in_no_row_and_no_cache(user, account, gate, cached):
    begin_login(user, EMAIL, PASSWORD)
    places = [repr(raw_row(user)), *cached()]
    gate.set()
    wait_for_logins()
    places.append(repr(raw_row(user)))

    assert [place for place in places if PASSWORD in place or EMAIL in place] == []


@pytest.mark.parametrize("outcome", ["connected", "refused", "bug"])
def test_nothing_keeps_the_password(user, account, slow_logins, settings, outcome):
    wrong = "" if outcome == "connected" else " wrong"
    password = f"{PASSWORD}{wrong} "[:-1]  # Made here, so that nobody else has it.
    if outcome == "bug":
        settings.GARMIN_AUTH_ENGINE = "broken"
    before = sys.getrefcount(password)

    log_in(user, password)

    assert account_of(user).connected == (outcome == "connected")
    assert sys.getrefcount(password) == before


def test_nothing_of_an_error_is_noted_but_its_class_and_facts(user, account, garmin, slow_logins):
    garmin.fail("login", "rate_limited", retry_after=300)
    log_in(user)

    assert state_of(user).login_failure == '{"error": "RateLimited", "retry_after": 300}'


def test_a_place_of_a_bug_is_told_without_values():
    secret = "a secret"
    try:
        raise ValueError(f"about {secret}")
    except ValueError as exc:
        told = background.describe(exc)
    assert told.startswith("ValueError > ")
    assert secret not in told


def test_an_error_brings_no_frame_that_knew_the_password():
    def call(password="a secret"):
        try:
            raise ValueError(password)
        except ValueError:
            raise GarminUnavailable("Garmin did not answer.")  # noqa: B904

    made = background.Call()
    made.begin()
    made.make(call)
    with pytest.raises(GarminUnavailable) as caught:
        made.result()

    assert caught.value.__context__ is caught.value.__cause__ is None
    assert "call" not in {frame.name for frame in caught.traceback}


# The same form again, after the login has ended


def begin_again(user, password=PASSWORD):
    return begin_login(user, EMAIL, password, idempotency_key="one form")


def test_the_same_form_after_an_outage_is_tried_again(user, account, garmin, slow_logins):
    garmin.fail("login", "status")
    begin_again(user)
    wait_for_logins()
    assert account_of(user).login_failure

    assert begin_again(user) == LoginUnderWay()
    wait_for_logins()

    assert account_of(user).connected


def test_the_same_form_after_a_disconnect_is_tried_again(user, account, slow_logins):
    begin_again(user)
    wait_for_logins()
    disconnect(user)

    begin_again(user)
    wait_for_logins()

    assert account_of(user).connected


def test_the_same_form_after_a_success_is_not_sent_again(user, account, garmin, slow_logins):
    begin_again(user)
    wait_for_logins()

    assert begin_again(user) == Connected()
    assert garmin.counts["login"] == 1


def test_the_same_form_leads_to_the_code_that_is_awaited(user, mfa_account, garmin, slow_logins):
    begin_again(user)
    wait_for_logins()

    assert isinstance(begin_again(user), MFARequired)
    assert garmin.counts["login"] == 1


def test_the_same_form_with_a_wrong_password_is_not_sent_again(user, account, garmin, slow_logins):
    begin_again(user, "wrong")
    wait_for_logins()

    assert begin_again(user, "wrong") == LoginUnderWay()
    assert type(account_of(user).login_failure) is InvalidCredentials
    assert garmin.counts["login"] == 1
