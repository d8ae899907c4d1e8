"""PostgreSQL's own connection pool, as Django offers it, with fewer connections than threads."""

import importlib.util
import json

import pytest
from django.db import connection

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.every_database,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="only PostgreSQL has a pool"),
    pytest.mark.skipif(
        importlib.util.find_spec("psycopg_pool") is None, reason="psycopg_pool is not installed"
    ),
]

POOL = "DATABASES['default']['OPTIONS'] = {'pool': {'min_size': 1, 'max_size': 4, 'timeout': 20}}"
BEGIN = """
import json, threading
from django.contrib.auth import get_user_model
from django.db import connection, connections
from garmin_auth.health import check_sessions
from garmin_auth.models import GarminAuthenticationState
from garmin_auth.sessions import garmin_client

def left():
    connection.close()
    stats = connection.pool.get_stats()
    return stats["pool_size"] - stats["pool_available"]
"""
CHECK = (
    BEGIN
    + """
report = check_sessions(workers=8)
print(json.dumps([report.as_dict(), left()]))
"""
)
THREADS_OF_A_BLOCK = (
    BEGIN
    + """
user = get_user_model().objects.get(username="user0000")
results = []
with garmin_client(user) as client:
    def call():
        results.append(client.connectapi("/userprofile-service/socialProfile")["userName"])
    threads = [threading.Thread(target=call) for _ in range(12)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
print(json.dumps([len(results), left()]))
"""
)
IN_A_RECEIVERS_TRANSACTION = (
    BEGIN
    + """
from contextvars import copy_context
from django.db import transaction
from garmin_auth.storage.threads import run_in_thread
users = get_user_model().objects
def receiver():
    user = users.get(username="user0000")
    with garmin_client(user) as client, transaction.atomic():
        users.create_user("kept")
        client.connectapi("/userprofile-service/socialProfile")
    return users.filter(username="kept").exists()
print(json.dumps(run_in_thread(receiver, "garmin_auth login", 60, copy_context())))
"""
)
WHILE_GARMIN_IS_ASKED = (
    BEGIN
    + """
from garmin_auth.engines.garth import GarthEngine
held = []
refresh = GarthEngine.refresh
def counting(engine, session_data):
    held.append(connection.connection is not None)
    return refresh(engine, session_data)
GarthEngine.refresh = counting
check_sessions(workers=4)
print(json.dumps(held))
"""
)


@pytest.mark.parametrize("expired", [False, True])
def test_more_workers_than_connections_judge_all_and_leave_none(people, run_python, site, expired):
    people(40, access_expired=expired)

    report, left = json.loads(run_python(CHECK, **site(POOL)))

    assert (report["active"], report["unknown"], left) == (40, 0, 0)
    assert report["refreshed"] == (40 if expired else 0)


def test_more_threads_of_a_block_than_connections_leave_none(people, run_python, site, garmin):
    people(1)
    garmin.expire_access_tokens("user0000@example.com")

    answered, left = json.loads(run_python(THREADS_OF_A_BLOCK, **site(POOL)))

    assert (answered, left) == (12, 0)
    assert garmin.counts["exchange"] == 1


def test_a_receiver_in_a_thread_of_ours_keeps_its_transaction(people, run_python, site, garmin):
    people(1)
    garmin.expire_access_tokens("user0000@example.com")

    assert json.loads(run_python(IN_A_RECEIVERS_TRANSACTION, **site(POOL))) is True


def test_no_worker_holds_a_connection_while_it_asks_garmin(people, run_python, site):
    people(8, access_expired=True)

    assert json.loads(run_python(WHILE_GARMIN_IS_ASKED, **site(POOL))) == [False] * 8
