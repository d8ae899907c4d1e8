"""Many processes, one session; and what is left when one of them is killed.

GARMIN_AUTH_WORKERS=8, GARMIN_AUTH_THREADS=8 and GARMIN_AUTH_STALL=60 make a soak of the stalls.
"""

import os
import time
from collections import Counter
from datetime import timedelta

import pytest
from django.db import connections
from django.utils import timezone

from garmin_auth.conf import conf
from garmin_auth.exceptions import GarminUnavailable
from garmin_auth.login import disconnect
from garmin_auth.models import GarminAuthenticationState, Status
from garmin_auth.sessions import garmin_client
from tests.conftest import BUILT_IN, EMAIL, PASSWORD, REFRESH, needs_personal, raw_row, state_of
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.every_database,
    pytest.mark.usefixtures("many_connections"),
]
states = GarminAuthenticationState.objects
PROFILE = "/userprofile-service/socialProfile"
WORKERS = 32
# Of the storm in which Garmin stalls. A refresh waits 15 seconds at most.
PROCESSES = int(os.environ.get("GARMIN_AUTH_WORKERS", "2"))
THREADS = int(os.environ.get("GARMIN_AUTH_THREADS", "4"))
STALL = float(os.environ.get("GARMIN_AUTH_STALL", "1"))  # seconds
STALLS, PATIENCE = 2, 60

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

    def storm(user, workers=WORKERS, threads=1, seconds=0):
        connections.close_all()
        process = start_python("-m", "tests.storm", user.pk, workers, threads, seconds)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        return output.split()

    return storm


@pytest.fixture
def worker(start_python):
    """Start one worker that uses the only user's session."""
    return lambda: start_python("-c", f"import django; django.setup()\n{ONE}")


def test_an_expired_session_is_refreshed_once_for_all(user, connect, garmin, storm):
    connect(user, access_expired=True)
    garmin.latency = 0.3

    assert storm(user) == [EMAIL] * WORKERS
    assert garmin.counts["exchange"] == 1


@needs_personal
def test_a_key_is_exchanged_once_for_all(user, connect, garmin, storm):
    name = garmin.add_account(EMAIL, PASSWORD)["display_name"]
    connect(user, engine="personal", access_expired=True)
    garmin.latency = 0.3

    assert storm(user) == [name] * WORKERS
    assert garmin.counts["personal_token"] == 1


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


@pytest.mark.parametrize("engine", BUILT_IN)
def test_threads_of_processes_ask_once_for_each_stall_and_once_when_it_is_over(
    user, connect, garmin, storm, engine
):
    connect(user, engine=engine, access_expired=True)
    garmin.fail(REFRESH[engine], "stall", seconds=STALL, times=STALLS)

    results = Counter(storm(user, PROCESSES, THREADS, PATIENCE))

    assert results[EMAIL] == PROCESSES * THREADS
    # More threads than PostgreSQL has connections for are refused by it.
    assert results.keys() <= {EMAIL, "GarminUnavailable", "NotAsked", "OperationalError"}
    assert garmin.counts[REFRESH[engine]] == STALLS + 1
    assert state_of(user).lease_owner == ""
    print(engine, dict(results))


def test_a_dead_session_expires_once(user, connect, garmin, storm):
    connect(user, access_expired=True)
    garmin.revoke(EMAIL)

    assert set(storm(user, 8)) <= {"SessionExpired", "NotConnected"}
    assert garmin.counts["exchange"] == 1
    assert state_of(user).status == Status.DISCONNECTED


def test_a_holder_killed_in_mid_exchange_holds_the_others_up_no_longer_than_the_lease(
    user, connect, garmin, worker
):
    connect(user, access_expired=True)
    garmin.fail("exchange", "stall", seconds=60)
    holder = worker()
    wait_until(lambda: garmin.counts["exchange"] == 1)
    holder.kill()
    holder.wait()
    assert state_of(user).lease_expires_at <= timezone.now() + timedelta(seconds=conf.LEASE)
    # The test does not wait so long.
    states.update(lease_expires_at=None)
    started = time.monotonic()
    states.take_lease(state_of(user).pk, state_of(user).session_version, "the killed one", 2)

    with garmin_client(user) as client:
        assert client.username == EMAIL

    assert 1.9 < time.monotonic() - started < conf.LEASE
    assert garmin.counts["exchange"] == 2


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

    assert "connected again in the meantime" in errors
    with garmin_client(user) as client:
        assert client.username == "other@example.com"
