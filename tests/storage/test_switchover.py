"""A database that is away, or for a while read-only, when Garmin has already rotated the token."""

import threading
import time

import pytest

pytest.importorskip("garminconnect", reason="garminconnect needs Python 3.12 or newer")

from django.db import InternalError, connection, connections

from garmin_auth.health import check_sessions
from garmin_auth.models import GarminAuthenticationState
from garmin_auth.sessions import garmin_client
from tests.conftest import EMAIL, PASSWORD

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.every_database,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="as PostgreSQL fails over"),
]
states = GarminAuthenticationState.objects
PROFILE = "/userprofile-service/socialProfile"


def set_read_only(switch):
    """Make the database's new transactions read-only, as a former primary's are."""
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = off")
        name = connection.ops.quote_name(connection.settings_dict["NAME"])
        cursor.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {switch}")
    # Connections that are open keep what they began with.
    close_others()


def close_others():
    """Close the database's other connections, as a restart does."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


@pytest.fixture
def read_only(db):
    yield set_read_only
    set_read_only("off")
    connections.close_all()


@pytest.fixture
def refused(monkeypatch):
    """Released whenever a write has failed, and is about to be tried again."""
    semaphore = threading.Semaphore(0)

    class Clock:
        monotonic = time.monotonic

        @staticmethod
        def sleep(seconds):
            semaphore.release()
            time.sleep(seconds)

    monkeypatch.setattr("garmin_auth.storage.retries.time", Clock)
    return semaphore


def test_a_rotated_token_is_stored_when_the_database_takes_writes_again(
    user, garmin, hold, read_only, refused
):
    garmin.add_account(EMAIL, PASSWORD)
    before = garmin.issue_session(EMAIL, engine="garminconnect")
    states.connect(
        user.pk, engine="garminconnect", session_data=before, account_name="", validated_at=None
    )
    garmin.expire_access_tokens(EMAIL)
    answer, results = hold("di_refresh"), []

    def use():
        try:
            with garmin_client(user) as client:
                results.append(client.connectapi(PROFILE)["userName"])
        finally:
            connections.close_all()

    thread = threading.Thread(target=use)
    thread.start()
    answer.wait()
    read_only("on")
    with pytest.raises(InternalError, match="read-only transaction"):
        in_new_connection(lambda: states.filter(pk=0).update(engine=""))
    answer.release()
    # First the connection is gone; on a new one the transaction is read-only.
    assert refused.acquire(timeout=60)
    assert refused.acquire(timeout=60)
    read_only("off")
    thread.join(60)

    assert results == [EMAIL]
    assert states.values_list("session_data", flat=True).get(user=user) != before
    garmin.expire_access_tokens(EMAIL)
    with garmin_client(user) as client:
        assert client.connectapi(PROFILE)["userName"] == EMAIL


def test_a_run_of_checks_goes_on_when_the_database_is_back(people, caplog):
    people(12)

    once = iter([close_others])
    report = check_sessions(workers=2, on_check=lambda check: next(once, int)())

    failed = [record for record in caplog.records if record.event == "check_failed"]
    assert report.stopped is None
    assert 1 <= report.unknown == len(failed) <= 2
    assert report.active == 12 - report.unknown
    assert [record.exc_info for record in failed] == [None] * len(failed)


def in_new_connection(call):
    """Make a call on a connection of its own, and raise what it raises."""
    raised = []

    def run():
        try:
            call()
        except InternalError as exc:
            raised.append(exc)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    for exc in raised:
        raise exc
