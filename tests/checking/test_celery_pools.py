"""Celery workers of greenlets, and of processes that have few database connections each."""

import importlib.util
import re

import pytest
from django.db import connection

from garmin_auth.models import GarminAuthenticationState
from tests.conftest import needs_redis

pytestmark = [
    pytest.mark.usefixtures("many_connections"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.every_database,
    pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no connections to count"),
    needs_redis,
]
states = GarminAuthenticationState.objects
SESSIONS = 200
GREENLETS = 20
PROCESSES, POOL_SIZE = 2, 4
POOL = f"""
DATABASES["default"]["OPTIONS"] = {{
    "pool": {{"min_size": 1, "max_size": {POOL_SIZE}, "timeout": 20}}
}}
"""
COUNT = {
    "postgresql": """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
            AND backend_type = 'client backend'
    """,
    "mysql": """
        SELECT count(*) FROM information_schema.processlist
        WHERE db = database() AND id <> connection_id()
    """,
}


def open_connections():
    """How many connections to the database others have."""
    with connection.cursor() as cursor:
        cursor.execute(COUNT[connection.vendor])
        return cursor.fetchone()[0]


@pytest.fixture
def check_all(start_site, people, garmin):
    """Let a worker check 200 sessions, each with an expired access token; all are then active.

    Idle, it has at most so many connections to the database, and none when it has ended. Returned
    is the highest number of connections that was seen on the way.
    """

    def check_all(*lines, idle, **options):
        people(SESSIONS, access_expired=True)
        before = open_connections()
        site = start_site("redis", *lines)
        assert site.enqueue() == SESSIONS
        worker, seen = site.start_worker(**options), []

        def all_answered():
            seen.append(open_connections() - before)
            return len(re.findall("succeeded in", site.said(worker))) >= SESSIONS

        site.wait_for(all_answered, 180)

        assert site.said(worker).count("'outcome': 'active', 'refreshed': True") == SESSIONS
        assert states.with_session().exclude(last_validated=None).count() == SESSIONS
        assert garmin.counts["exchange"] == SESSIONS
        assert states.claimed_checks() == 0
        site.wait_for(lambda: open_connections() <= before + idle)
        site.stop_worker(worker)
        site.wait_for(lambda: open_connections() == before)
        return max(seen)

    return check_all


def test_greenlets_judge_all_and_leave_no_connection(check_all, garmin):
    garmin.latency = 0.1

    # With one message for each greenlet, Celery looks only every two seconds for more in Redis.
    most = check_all(pool="gevent", concurrency=GREENLETS, prefetch=4, idle=0)

    # One for each greenlet, and one for what refreshes for it.
    assert most <= 2 * GREENLETS


@pytest.mark.skipif(connection.vendor != "postgresql", reason="only PostgreSQL has a pool")
@pytest.mark.skipif(
    importlib.util.find_spec("psycopg_pool") is None, reason="psycopg_pool is not installed"
)
def test_processes_with_a_pool_each_judge_all_and_leave_no_connection(check_all):
    most = check_all(POOL, pool="prefork", concurrency=PROCESSES, idle=PROCESSES * POOL_SIZE)

    assert most <= PROCESSES * POOL_SIZE
