"""Several threads use one client: they share a refresh and its failure, and leave no connection."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from django.db import connection

from garmin_auth.engines import get_engine
from garmin_auth.exceptions import GarminAuthError, GarminUnavailable, NotAsked, SessionExpired
from garmin_auth.models import GarminAuthenticationState
from garmin_auth.sessions import garmin_client
from garmin_auth.testing.garmin import steps
from tests.conftest import BUILT_IN, EMAIL, REFRESH, Held, state_of
from tests.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.every_database]
states = GarminAuthenticationState.objects
PROFILE = "/userprofile-service/socialProfile"
THREADS = 6


@pytest.fixture(params=BUILT_IN)
def engine(request):
    return request.param


@pytest.fixture
def connected(user, connect, garmin, engine):
    """A user whose access token Garmin's API refuses."""
    connect(user, engine=engine)
    garmin.expire_access_tokens(EMAIL)
    return user


def call_in_threads(client):
    """Let all threads call at the same time, and return their results or errors."""
    results, together = [], threading.Barrier(THREADS, timeout=60)

    def call():
        together.wait()
        try:
            results.append(client.connectapi(PROFILE)["userName"])
        except GarminAuthError as exc:
            results.append(exc)

    threads = [threading.Thread(target=call) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return results


def test_threads_that_meet_a_refused_token_share_one_refresh(connected, garmin, engine):
    with garmin_client(connected) as client:
        results = call_in_threads(client)

    assert results == [EMAIL] * THREADS
    assert garmin.counts[REFRESH[engine]] == 1


def test_threads_that_wait_for_a_refresh_share_its_failure(connected, garmin, engine, hold):
    garmin.revoke(EMAIL)
    answer = hold(REFRESH[engine])
    results = []

    with garmin_client(connected) as client:
        caller = threading.Thread(target=lambda: results.extend(call_in_threads(client)))
        caller.start()
        answer.wait()
        # All have met the refused token before Garmin answers the one refresh.
        wait_until(lambda: garmin.counts["api"] >= THREADS)
        answer.release()
        caller.join(120)

    assert [type(result) for result in results] == [SessionExpired] * THREADS
    assert garmin.counts[REFRESH[engine]] == 1


def test_a_thread_that_hears_of_the_old_token_after_the_refresh_asks_for_no_other(
    connected, garmin, engine, monkeypatch
):
    held, answer = Held(), steps.answer
    first = [held]

    def answer_the_first_late(step, *arguments):
        given = answer(step, *arguments)
        if step == "api" and first:
            first.pop().keep()
        return given

    monkeypatch.setattr(steps, "answer", answer_the_first_late)
    with ThreadPoolExecutor(1) as thread, garmin_client(connected) as client:
        late = thread.submit(client.connectapi, PROFILE)
        held.wait()
        client.connectapi(PROFILE)
        held.release()

        assert late.result(60)["userName"] == EMAIL
    assert garmin.counts[REFRESH[engine]] == 1


def test_a_thread_that_waits_for_a_refresh_is_told_of_a_bug_as_unavailable(
    connected, garmin, engine, monkeypatch
):
    waits = threading.Event()

    class Watched(Future):
        def result(self, timeout=None):
            waits.set()
            return super().result(timeout)

    def broken(self, session_data):
        assert waits.wait(60)
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("garmin_auth.sessions.Future", Watched)
    monkeypatch.setattr(type(get_engine(engine)), "refresh", broken)
    with ThreadPoolExecutor(2) as threads, garmin_client(connected) as client:
        calls = [threads.submit(client.connectapi, PROFILE) for _ in range(2)]
        errors = {type(call.exception(60)) for call in calls}

    assert errors == {ZeroDivisionError, NotAsked}


def test_a_refresh_in_a_thread_leaves_no_connection_behind(connected, django_assert_num_queries):
    left = []

    def call(client):
        client.connectapi(PROFILE)
        # Each thread has a connection object of its own.
        left.append(connection.connection)

    with garmin_client(connected) as client:
        thread = threading.Thread(target=call, args=(client,))
        thread.start()
        thread.join(60)

    assert left == [None]


def test_a_database_cache_in_a_thread_leaves_no_connection_behind(connected, settings):
    from django.core.management import call_command

    settings.CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.db.DatabaseCache",
            "LOCATION": "cache_of_threads",
        }
    }
    call_command("createcachetable", verbosity=0)
    left = []

    def call(client):
        client.connectapi(PROFILE)
        left.append(connection.connection)

    with garmin_client(connected) as client:
        thread = threading.Thread(target=call, args=(client,))
        thread.start()
        thread.join(60)
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE cache_of_threads")

    assert left == [None]


def test_a_refused_fresh_token_is_unavailable_and_asks_for_no_other(connected, garmin, engine):
    garmin.fail("api", "unauthorized_other", times=None)

    for _ in range(3):
        with pytest.raises(GarminUnavailable, match="just issued"), garmin_client(connected) as c:
            c.connectapi(PROFILE)

    assert garmin.counts[REFRESH[engine]] == 1
    assert state_of(connected).connected_at is not None
