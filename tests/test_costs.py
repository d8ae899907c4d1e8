"""What a use of a session costs: statements to the database, and reads of the cache."""

import re
import threading
import time
from datetime import timedelta

import pytest
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.db import connection, connections
from django.db.backends.signals import connection_created
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from garmin_auth.conf import REFRESH_TIMEOUT, conf
from garmin_auth.exceptions import GarminUnavailable
from garmin_auth.models import GarminAuthenticationState
from garmin_auth.sessions import LONGEST_POLL, POLL, garmin_client
from tests.conftest import state_of
from tests.waiting import Clock, wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.every_database]
states = GarminAuthenticationState.objects
PROFILE = "/userprofile-service/socialProfile"
KINDS = ("SELECT", "UPDATE", "INSERT", "DELETE")


def use(user, calls=1):
    with garmin_client(user) as client:
        for _ in range(calls):
            client.connectapi(PROFILE)


@pytest.fixture
def statements():
    """Return the kinds of the statements that a call makes, on whichever thread's connection."""

    def statements(call):
        seen = statements.seen = []

        def note(execute, sql, params, many, context):
            seen.append(sql.split()[0])
            return execute(sql, params, many, context)

        def wrap(connection, **kwargs):
            connection.execute_wrappers.append(note)

        connection_created.connect(wrap)
        connections.close_all()
        try:
            call()
        finally:
            connection_created.disconnect(wrap)
            connections.close_all()
        return [kind for kind in seen if kind in KINDS]

    statements.seen = []
    return statements


def ago(user, seconds):
    states.filter(user=user).update(last_validated=timezone.now() - timedelta(seconds=seconds))


def test_that_a_session_works_is_recorded_at_most_once_a_minute(user, connect, statements):
    connect(user)
    assert statements(lambda: use(user)) == ["SELECT", "UPDATE"]
    assert statements(lambda: use(user)) == ["SELECT"]
    ago(user, 61)
    assert statements(lambda: use(user)) == ["SELECT", "UPDATE"]
    assert timezone.now() - state_of(user).last_validated < timedelta(seconds=60)


def test_a_time_in_the_future_is_corrected(user, connect, statements):
    """Another machine's clock may have been wrong."""
    connect(user)
    ago(user, -3600)
    use(user)
    assert state_of(user).last_validated <= timezone.now()


def test_the_end_of_a_failure_is_recorded_at_once(user, connect, garmin):
    connect(user)
    use(user)
    garmin.fail("api", "status")
    with pytest.raises(GarminUnavailable):
        use(user)
    assert state_of(user).failing_since
    use(user)
    assert state_of(user).failing_since is None


def test_a_use_changes_no_column_that_has_an_index(user, connect):
    """PostgreSQL can then update the row in place (HOT), and writes no index."""
    connect(user)
    with CaptureQueriesContext(connection) as queries:
        use(user)
    (update,) = [query["sql"] for query in queries if query["sql"].startswith("UPDATE")]
    written = update.partition(" SET ")[2].partition(" WHERE ")[0]
    meta = GarminAuthenticationState._meta
    indexed = {name for index in meta.indexes for name in index.fields}
    indexed |= {field.name for field in meta.fields if field.db_index or field.unique}
    # Of a session that works it is None, and stays so.
    assert {name for name in indexed if f"{name}" in written} <= {"failing_since", "id"}
    assert "last_validated" in written


def test_a_refresh_costs_six_statements(user, connect, statements):
    connect(user, access_expired=True)
    # Read; who refreshes it; the lease; the new session; that Garmin accepts refreshes; that it
    # works.
    expected = ["SELECT", "SELECT", "UPDATE", "UPDATE", "UPDATE", "UPDATE"]
    assert statements(lambda: use(user)) == expected


def test_who_waits_for_anothers_refresh_looks_less_and_less_often(user, connect, statements):
    state = connect(user, access_expired=True)
    assert states.take_lease(state.pk, state.session_version, "another", 60)
    began, ended = time.monotonic(), []

    def wait():
        with pytest.raises(GarminUnavailable, match="has just failed"):
            use(user)
        ended.append(time.monotonic())

    def release():
        wait_until(lambda: statements.seen.count("SELECT") >= 8)
        states.release_lease(state.pk, "another")
        connections.close_all()

    releasing = threading.Thread(target=release)
    releasing.start()
    statements(wait)
    releasing.join()

    # The session was read once, and looked at with one statement each time. Of each pause, which
    # doubles up to 0.8 s, at least half has passed.
    assert ended[0] - began >= (0.05 + 0.1 + 0.2 + 0.4 + 0.8 + 0.8) / 2


def test_another_process_is_waited_for_as_long_as_its_refresh_may_take(user, connect, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("garmin_auth.sessions.time", clock)
    state = connect(user, access_expired=True)
    assert states.take_lease(state.pk, state.session_version, "another", 3600)

    with pytest.raises(GarminUnavailable, match="takes too long"):
        use(user)

    longest = conf.LEASE + REFRESH_TIMEOUT
    assert longest < sum(clock.pauses) <= longest + LONGEST_POLL
    for number, pause in enumerate(clock.pauses):
        most = min(POLL * 2**number, LONGEST_POLL)
        assert most / 2 <= pause <= most


class CountingCache(LocMemCache):
    reads = 0

    def get(self, *args, **kwargs):
        type(self).reads += 1
        return super().get(*args, **kwargs)


def test_a_cooldown_is_read_at_most_once_a_second(user, connect, settings):
    settings.CACHES = {"default": {"BACKEND": f"{__name__}.CountingCache"}}
    connect(user)
    assert isinstance(caches["default"], CountingCache)
    CountingCache.reads, began = 0, time.monotonic()

    use(user, calls=20)

    assert CountingCache.reads <= 1 + (time.monotonic() - began)


@pytest.mark.skipif(connection.vendor != "postgresql", reason="PostgreSQL tells what it has run")
def test_for_a_connection_that_does_not_fail_nobody_looks_at_the_others(connect, user):
    """To find that none has worked since NULL takes a scan of the table, for each row of a page."""
    connect(user)

    plan = GarminAuthenticationState.objects.with_failing().explain(analyze=True)

    looks = parts_of(plan, "InitPlan")
    assert looks
    assert all("(never executed)" in look for look in looks)


@pytest.mark.skipif(connection.vendor != "postgresql", reason="PostgreSQL tells what it has run")
def test_in_an_outage_the_others_are_looked_for_once(people):
    """For each row of a page, to find none that works takes a scan of the table."""
    people(20)
    began = timezone.now() - timedelta(days=4)
    states.update(failing_since=began, last_failed_at=timezone.now(), last_validated=began)

    plan = states.with_failing().explain(analyze=True)

    assert parts_of(plan, "SubPlan") == []
    times = [
        int(re.search("loops=([0-9]+)", look)[1])
        for look in parts_of(plan, "InitPlan")
        if "loops=" in look
    ]
    assert times == [1]


def parts_of(plan, kind):
    """Return the plans of the queries within a query, uncorrelated (InitPlan) or not (SubPlan)."""
    return re.split(rf"^ *{kind} [0-9]+.*$", plan, flags=re.MULTILINE)[1:]
