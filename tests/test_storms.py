"""Many processes, one session; and what is left when one of them is killed."""

import json
import os
import time

import pytest
from django.db import connections

from garmin_auth.exceptions import GarminUnavailable
from garmin_auth.health import check_session
from garmin_auth.login import disconnect
from garmin_auth.models import GarminAuthenticationState, Status
from garmin_auth.sessions import garmin_client

from .conftest import EMAIL, raw_row, state_of

pytestmark = pytest.mark.django_db(transaction=True)
states = GarminAuthenticationState.objects
PROFILE = "/userprofile-service/socialProfile"
WORKERS = 32
# GARMIN_AUTH_REFUSED=1000 makes a soak of the mass failure.
REFUSED = int(os.environ.get("GARMIN_AUTH_REFUSED", "60"))
WRONG_KEY = {"GARMIN_TEST_CONSUMER_KEY": "not Garmin's"}

ONE = """
import sys
from django.contrib.auth import get_user_model
from garmin_auth.sessions import garmin_client
with garmin_client(get_user_model().objects.get()) as client:
    print(client.username)
"""


@pytest.fixture
def storm(start_python):
    """Let processes use the user's session at once, and return what each of them got."""

    def storm(user, workers=WORKERS):
        connections.close_all()
        process = start_python("-m", "tests.storm", user.pk, workers)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        return output.split()

    return storm


@pytest.fixture
def worker(start_python):
    """Start one worker that uses the only user's session."""
    return lambda: start_python("-c", f"import django; django.setup()\n{ONE}")


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "It did not happen in time."
        time.sleep(0.02)


def test_an_expired_session_is_refreshed_once_for_all(user, connect, garmin, storm):
    connect(user, access_expired=True)
    garmin.latency = 0.3

    assert storm(user) == [EMAIL] * WORKERS
    assert garmin.counts["exchange"] == 1


def test_a_refused_access_token_is_refreshed_once_for_all(user, connect, garmin, storm):
    connect(user)
    garmin.expire_access_tokens(EMAIL)

    assert storm(user) == [EMAIL] * WORKERS
    assert garmin.counts["exchange"] == 1


def test_a_failed_refresh_is_not_repeated_by_all_who_waited(user, connect, garmin, storm):
    connect(user, access_expired=True)
    before = raw_row(user)["session_data"]
    garmin.latency = 1
    garmin.fail("exchange", "status", status=503, times=None)

    assert storm(user) == ["GarminUnavailable"] * WORKERS
    assert garmin.counts["exchange"] < WORKERS / 2
    assert bytes(raw_row(user)["session_data"]) == bytes(before)


def test_a_dead_session_expires_once(user, connect, garmin, storm):
    connect(user, access_expired=True)
    garmin.revoke(EMAIL)

    assert set(storm(user, 8)) <= {"SessionExpired", "NotConnected"}
    assert garmin.counts["exchange"] == 1
    assert state_of(user).status == Status.DISCONNECTED


def test_a_holder_killed_in_mid_exchange_holds_the_others_up_no_longer_than_the_lease(
    user, connect, garmin, worker, settings
):
    settings.GARMIN_AUTH_LEASE = 2
    connect(user, access_expired=True)
    garmin.fail("exchange", "stall", seconds=60)
    holder = worker()
    wait_for(lambda: garmin.counts["exchange"] == 1)
    states.take_lease(state_of(user).pk, state_of(user).session_version, "nobody", 1)
    holder.kill()
    holder.wait()
    # Its own lease is the default's 20 s; the test does not wait so long.
    states.update(lease_expires_at=None)
    started = time.monotonic()
    states.take_lease(state_of(user).pk, state_of(user).session_version, "the killed one", 2)

    with garmin_client(user) as client:
        assert client.username == EMAIL

    assert 1.9 < time.monotonic() - started < 15
    assert garmin.counts["exchange"] == 2


def test_a_lease_is_taken_by_one_only(user, connect):
    state = connect(user)

    assert states.take_lease(state.pk, state.session_version, "one", 20)
    assert not states.take_lease(state.pk, state.session_version, "another", 20)
    assert states.lease_owner(state.pk) == "one"


def test_a_lease_that_is_over_can_be_taken(user, connect):
    state = connect(user)
    states.take_lease(state.pk, state.session_version, "one", 0.01)
    time.sleep(0.1)

    assert states.take_lease(state.pk, state.session_version, "another", 20)


def test_a_lease_is_of_one_version_only(user, connect):
    state = connect(user)

    assert not states.take_lease(state.pk, state.session_version + 1, "one", 20)


def test_only_the_owner_gives_a_lease_back(user, connect):
    state = connect(user)
    states.take_lease(state.pk, state.session_version, "one", 20)

    assert not states.release_lease(state.pk, "another")
    assert states.release_lease(state.pk, "one")
    assert states.lease_owner(state.pk) == ""


def test_the_lease_is_given_back_after_success_and_after_failure(user, connect, garmin):
    connect(user, access_expired=True)
    garmin.fail("exchange", "status", status=503)
    with pytest.raises(GarminUnavailable), garmin_client(user) as client:
        client.connectapi(PROFILE)
    assert state_of(user).lease_owner == ""

    with garmin_client(user) as client:
        client.connectapi(PROFILE)
    assert state_of(user).lease_owner == ""


def test_a_disconnect_during_the_exchange_stays(user, connect, worker, hold):
    connect(user, access_expired=True)
    exchange = hold("exchange")
    process = worker()
    exchange.wait()

    disconnect(user)
    exchange.release()
    _, errors = process.communicate(timeout=120)

    assert "NotConnected" in errors
    assert raw_row(user)["session_data"] is None
    assert state_of(user).lease_owner == ""


def test_a_new_login_during_the_exchange_wins(user, connect, worker, hold):
    connect(user, access_expired=True)
    exchange = hold("exchange")
    process = worker()
    exchange.wait()

    connect(user, "other@example.com")
    exchange.release()
    _, errors = process.communicate(timeout=120)

    assert "connected anew meanwhile" in errors
    with garmin_client(user) as client:
        assert client.username == "other@example.com"


# Mass failures


@pytest.fixture
def people(django_user_model, connect):
    """Connected users with expired access tokens."""

    def people(number):
        users = [django_user_model.objects.create_user(f"user {n}") for n in range(number)]
        for n, user in enumerate(users):
            connect(user, f"{n}@example.com", access_expired=True)
        return users

    return people


def test_the_first_two_refused_users_are_cleared_and_the_third_is_not(people, garmin, caplog):
    first, *users = people(6)
    assert check_session(first).outcome == "active"  # With the consumer that Garmin knew.
    garmin.set_consumer("another", "consumer")

    outcomes = [check_session(user) for user in users]

    assert [check.outcome for check in outcomes] == ["expired"] * 2 + ["unknown"] * 3
    assert states.with_session().count() == 4
    assert type(outcomes[-1].error).__name__ == "MassFailure"
    alarms = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(alarms) == 1


def test_the_same_user_refused_often_is_no_mass_failure(people, connect, garmin):
    (user,) = people(1)
    for _ in range(4):
        garmin.revoke("0@example.com")
        assert check_session(user).outcome == "expired"
        connect(user, "0@example.com", access_expired=True)


def test_an_accepted_exchange_of_anybody_heals_it(people, garmin):
    users = people(4)
    for n in range(3):
        garmin.revoke(f"{n}@example.com")
    assert [check_session(user).outcome for user in users[:3]] == ["expired", "expired", "unknown"]

    assert check_session(users[3]).outcome == "active"

    assert check_session(users[2]).outcome == "expired"


def test_an_ordinary_api_success_heals_nothing(people, connect, garmin, other_user):
    users = people(3)
    connect(other_user)
    for n in range(3):
        garmin.revoke(f"{n}@example.com")
    for user in users:
        check_session(user)

    assert check_session(other_user).outcome == "active"

    assert check_session(users[2]).outcome == "unknown"


def test_the_check_stops_and_says_why(people, garmin, start_python):
    people(6)
    connections.close_all()

    process = start_python("manage.py", "check_garmin_sessions", "--format", "json", **WRONG_KEY)
    output, errors = process.communicate(timeout=60)

    report = json.loads(output)
    assert process.returncode == 4
    assert (report["stopped"], report["expired"], report["unknown"]) == ("mass_failure", 2, 1)
    assert "look at the consumer key and the clock" in errors


def test_eight_processes_lose_two_sessions_at_the_most(people, garmin, start_python):
    people(REFUSED)
    connections.close_all()

    checks = [start_python("manage.py", "check_garmin_sessions", **WRONG_KEY) for _ in range(8)]
    codes = set()
    for process in checks:
        process.communicate(timeout=120)
        codes.add(process.returncode)

    assert 4 in codes
    assert codes <= {0, 4}  # They share the work: for the late ones there may be none.
    left = states.with_session().count()
    print(f"{REFUSED} sessions, 8 processes, a wrong key: {REFUSED - left} lost")
    assert left >= REFUSED - 2


def test_the_admin_says_so(people, garmin, admin_client):
    for user in people(3):
        garmin.revoke(f"{user.username.split()[1]}@example.com")
        check_session(user)

    page = admin_client.get("/admin/garmin_auth/garminauthenticationstate/").content.decode()

    assert "look at the consumer key and the clock" in page
