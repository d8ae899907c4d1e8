"""Stored garminconnect sessions: refresh tokens rotate, so whoever loses one loses the session."""

import contextlib
import json
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("garminconnect", reason="garminconnect needs Python 3.12 or newer")

from django.db import OperationalError, connection, connections
from django.utils import timezone

from garmin_auth.exceptions import (
    GarminUnavailable,
    MassFailure,
    NotConnected,
    SessionExpired,
    SessionUnreadable,
)
from garmin_auth.health import Outcome, check_session
from garmin_auth.login import disconnect, import_session, start_login, submit_mfa
from garmin_auth.models import EndedReason, GarminAuthenticationState, Status
from garmin_auth.rotation import rotate_keys
from garmin_auth.sessions import garmin_client
from tests.conftest import EMAIL, PASSWORD, raw_row, state_of
from tests.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.every_database]
states = GarminAuthenticationState.objects
PROFILE = "/userprofile-service/socialProfile"
WORKERS = 32

USE = """
from django.contrib.auth import get_user_model
from garmin_auth.sessions import garmin_client
with garmin_client(get_user_model().objects.get(username="ana")) as client:
    print(client.connectapi("/userprofile-service/socialProfile")["userName"])
"""
LOGIN = """
import sys
from django.contrib.auth import get_user_model
from garmin_auth.login import start_login
print(start_login(get_user_model().objects.get(username="ana"), sys.argv[1], sys.argv[2]))
"""


@pytest.fixture
def connect(connect):
    """Store a garminconnect session of a Garmin account for a user, without a login."""

    def connect_and_read(user, email=EMAIL, **options):
        return connect(user, email, engine="garminconnect", **options).session_data.decrypt()

    return connect_and_read


def stored(user):
    return states.values_list("session_data", flat=True).get(user_id=user.pk).decrypt()


def use(user):
    with garmin_client(user) as client:
        return client.connectapi(PROFILE)["userName"]


@pytest.mark.usefixtures("many_connections")
def test_an_expired_session_is_refreshed_once_for_all(user, connect, garmin, start_python):
    old = json.loads(connect(user, access_expired=True))
    garmin.latency = 0.3
    connections.close_all()

    process = start_python("-m", "tests.storm", user.pk, WORKERS)
    output, errors = process.communicate(timeout=120)

    assert process.returncode == 0, errors
    assert output.split() == [EMAIL] * WORKERS
    assert garmin.counts["di_refresh"] == 1
    new = json.loads(stored(user))
    assert new["di_refresh_token"] != old["di_refresh_token"]
    # What is stored is what Garmin has rotated to: the next refresh works too.
    garmin.latency = 0
    garmin.expire_access_tokens(EMAIL)
    assert use(user) == EMAIL
    assert garmin.counts["di_refresh"] == 2


def test_a_login_and_its_code_in_two_processes_give_a_session_for_a_third(user, garmin, run_python):
    garmin.add_account(EMAIL, PASSWORD, mfa=True)

    printed = run_python(LOGIN, EMAIL, PASSWORD, GARMIN_AUTH_TEST_ENGINE="garminconnect")
    assert "MFARequired" in printed
    submit_mfa(user, garmin.mfa_code(EMAIL))

    assert run_python(USE) == EMAIL
    assert state_of(user).engine == "garminconnect"


def test_a_refresh_token_without_an_access_token_is_stored_and_the_next_use_goes_on(
    user, connect, garmin
):
    before = json.loads(connect(user, access_expired=True))
    garmin.fail("di_refresh", "changed_json", changes={"access_token": ""})

    with pytest.raises(GarminUnavailable, match="no access token that can be used"):
        use(user)

    kept = json.loads(stored(user))
    assert kept["di_token"] == before["di_token"]
    assert kept["di_refresh_token"] != before["di_refresh_token"]
    assert use(user) == EMAIL
    assert garmin.counts["di_refresh"] == 2


def test_a_dead_session_is_cleared(user, connect, garmin):
    connect(user, access_expired=True)
    garmin.revoke(EMAIL)

    with pytest.raises(SessionExpired):
        use(user)

    assert (state_of(user).status, state_of(user).ended_reason) == (
        Status.DISCONNECTED,
        EndedReason.EXPIRED,
    )


def test_a_token_that_another_worker_has_rotated_is_no_death(user, connect, garmin):
    """Our copy is refused with invalid_grant; the row tells that somebody was faster."""
    old = connect(user, access_expired=True)
    with garmin_client(user) as client:
        fresh = garmin.issue_session(EMAIL, engine="garminconnect")
        assert states.replace_session(state_of(user).pk, state_of(user).session_version, fresh)
        garmin.fail("di_refresh", "invalid_grant", times=None)

        assert client.connectapi(PROFILE)["userName"] == EMAIL

    assert stored(user) == fresh != old
    assert state_of(user).refused_at is None  # And no evidence of a mass failure.


def test_the_rotated_token_is_stored_before_anything_else_is_done(
    user, connect, garmin, monkeypatch
):
    """Whatever ends the process after Garmin's answer finds the row written."""
    old = json.loads(connect(user, access_expired=True))

    def end(*arguments):
        raise SystemExit

    monkeypatch.setattr("garmin_auth.sessions.mass_failure.record_accepted", end)
    with pytest.raises(SystemExit):
        use(user)

    monkeypatch.undo()
    assert json.loads(stored(user))["di_refresh_token"] != old["di_refresh_token"]
    assert use(user) == EMAIL


@pytest.mark.parametrize(
    ("fault", "options"),
    [
        ("rate_limited", {}),
        ("status", {"status": 503}),
        ("status", {"status": 401}),
        ("blocked", {}),
        ("html", {}),
        ("reset", {}),
    ],
)
def test_a_fault_of_the_refresh_keeps_the_bytes(user, connect, garmin, fault, options):
    connect(user, access_expired=True)
    before = bytes(raw_row(user)["session_data"])
    garmin.fail("di_refresh", fault, times=None, **options)

    assert check_session(user).outcome == Outcome.UNKNOWN

    assert bytes(raw_row(user)["session_data"]) == before


def test_a_fresh_token_that_is_not_active_is_unknown(user, connect, garmin):
    connect(user, access_expired=True)
    garmin.fail("api", "token_inactive", times=None)

    assert check_session(user).outcome == Outcome.UNKNOWN

    garmin.heal("api")
    assert check_session(user).outcome == Outcome.ACTIVE


def test_a_rotation_of_keys_during_the_refresh_loses_no_token(user, connect, garmin, hold):
    """It raises the version of the row, but the session in it is the one that was refreshed."""
    old = connect(user, access_expired=True)
    refresh = hold("di_refresh")
    refreshed = threading.Thread(target=lambda: (use(user), connections.close_all()))
    refreshed.start()
    refresh.wait()

    row = state_of(user)
    assert states.replace_session(row.pk, row.session_version, old)  # As rotate() writes.
    refresh.release()
    refreshed.join()

    assert json.loads(stored(user))["di_refresh_token"] != json.loads(old)["di_refresh_token"]
    garmin.expire_access_tokens(EMAIL)
    assert use(user) == EMAIL


def test_rotating_keys_keeps_the_session(user, connect, settings):
    data = connect(user)
    settings.FERNET_KEYS = ["a new key", *settings.FERNET_KEYS]

    rotate_keys()

    assert stored(user) == data


def test_a_disconnect_during_the_refresh_stays(user, connect, hold):
    connect(user, access_expired=True)
    refresh, met = hold("di_refresh"), []

    def work():
        try:
            use(user)
        except NotConnected as exc:
            met.append(exc)
        connections.close_all()

    thread = threading.Thread(target=work)
    thread.start()
    refresh.wait()
    disconnect(user)
    refresh.release()
    thread.join()

    assert len(met) == 1
    assert raw_row(user)["session_data"] is None


def test_killed_while_garmin_is_asked_the_session_lives(user, connect, garmin, start_python):
    """The narrow place is between Garmin's answer and our write; before it nothing is lost."""
    connect(user, access_expired=True)
    garmin.fail("di_refresh", "stall", seconds=60)
    connections.close_all()
    process = start_python("-c", f"import django; django.setup()\n{USE}")
    wait_until(lambda: garmin.counts["di_refresh"] == 1)

    process.send_signal(signal.SIGKILL)
    process.wait()
    states.update(lease_expires_at=None)

    assert use(user) == EMAIL


def stop(process):
    """Stop a process, and wait until none of its threads runs: that takes the kernel a moment."""
    process.send_signal(signal.SIGSTOP)
    threads = Path(f"/proc/{process.pid}/task")
    wait_until(lambda: all(is_stopped(thread) for thread in threads.iterdir()))


def is_stopped(thread):
    with contextlib.suppress(FileNotFoundError):  # It has ended.
        return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"
    return True


def test_a_holder_that_was_asleep_when_its_lease_ended_stores_what_it_got(
    user, connect, garmin, start_python, hold
):
    """Such as while its virtual machine moves: who took over was refused for the holder's sake."""
    connect(user, access_expired=True)
    refresh = hold("di_refresh")
    connections.close_all()
    process = start_python("-c", f"import django; django.setup()\n{USE}")
    refresh.wait()
    stop(process)
    refresh.release()  # Garmin answers, and has rotated the token.
    states.update(lease_expires_at=None)

    with pytest.raises(GarminUnavailable):
        use(user)
    process.send_signal(signal.SIGCONT)
    output, errors = process.communicate(timeout=60)

    assert output.strip() == EMAIL, errors
    garmin.expire_access_tokens(EMAIL)
    assert use(user) == EMAIL


def test_a_session_whose_token_a_killed_holder_took_along_is_cleared_at_the_next_refusal(
    user, connect, garmin
):
    connect(user, access_expired=True)
    garmin.revoke(EMAIL)
    states.update(lease_owner="killed")

    found = [check_session(user).outcome for _ in range(2)]

    assert found == [Outcome.UNKNOWN, Outcome.EXPIRED]


def test_a_dropped_database_connection_does_not_cost_the_rotated_token(user, connect, garmin, hold):
    """On SQLite there is nobody who could drop it."""
    connection = connections["default"]
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has no connection to lose")
    connect(user, access_expired=True)
    refresh, done = hold("di_refresh"), []

    def work():
        done.append(use(user))
        connections.close_all()

    with connection.cursor() as cursor:
        ids = (
            "SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND backend_type = 'client backend'"
        )
        if connection.vendor == "mysql":
            ids = "SELECT id FROM information_schema.processlist WHERE db = database()"
        cursor.execute(ids)
        before = {row[0] for row in cursor.fetchall()}
        thread = threading.Thread(target=work)
        thread.start()
        refresh.wait()
        cursor.execute(ids)
        # The worker's, and the one that its refresh has for itself.
        opened = {row[0] for row in cursor.fetchall()} - before
        for each in opened:
            cursor.execute(
                f"KILL {each}"
                if connection.vendor == "mysql"
                else f"SELECT pg_terminate_backend({each})"
            )
    refresh.release()
    thread.join()

    assert len(opened) == 2
    assert done == [EMAIL]
    garmin.expire_access_tokens(EMAIL)
    assert use(user) == EMAIL


class Line:
    """A TCP line to the database, which can be cut."""

    def __init__(self, host, port):
        self._database, self._ends, self._is_cut = (host, port), [], False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):  # It is closed.
            while True:
                near, _ = self._listener.accept()
                if self._is_cut:
                    near.close()
                    continue
                far = socket.create_connection(self._database)
                self._ends += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    @staticmethod
    def _carry(source, target):
        with contextlib.suppress(OSError):  # It is cut.
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def cut(self):
        self._is_cut = True
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self):
        self._is_cut = False

    def close(self):
        self.cut()
        self._listener.close()


def test_a_database_that_is_away_for_a_moment_does_not_cost_the_rotated_token(
    user, connect, garmin, start_python, hold
):
    """Such as in a failover. On SQLite there is nobody who could be away."""
    database = connections["default"].settings_dict
    if connections["default"].vendor == "sqlite":
        pytest.skip("SQLite has no connection to lose")
    connect(user, access_expired=True)
    refresh = hold("di_refresh")
    line = Line(database["HOST"], database["PORT"])
    ports = {"PGPORT": str(line.port), "MYSQL_PORT": str(line.port)}
    process = start_python("-c", f"import django; django.setup()\n{USE}", **ports)
    refresh.wait()

    line.cut()
    refresh.release()
    time.sleep(4)
    line.mend()
    output, errors = process.communicate(timeout=60)
    line.close()

    assert output.strip() == EMAIL, errors
    garmin.expire_access_tokens(EMAIL)
    assert use(user) == EMAIL


def test_garths_alarm_is_not_lifted_by_an_accepted_garminconnect_refresh(
    user, connect, garmin, settings, django_user_model
):
    """With a wrong consumer key garth's sessions are refused; garminconnect needs no such key."""
    connect(user)
    people = [django_user_model.objects.create_user(f"user {n}") for n in range(4)]
    for n, person in enumerate(people):
        garmin.add_account(f"{n}@example.com", PASSWORD)
        data = garmin.issue_session(f"{n}@example.com", access_expired=True)
        states.connect(
            person.pk, engine="garth", session_data=data, account_name=None, validated_at=None
        )
    settings.GARMIN_AUTH_OAUTH_CONSUMER = {"consumer_key": "wrong", "consumer_secret": "secret"}
    found = []
    for person in people:
        garmin.expire_access_tokens(EMAIL)
        assert use(user) == EMAIL  # Garmin accepts this one's refresh between all of those.
        found.append(type(check_session(person).error))

    assert found == [SessionExpired, SessionExpired, MassFailure, MassFailure]


def test_an_import_is_checked_and_stored(user, garmin):
    garmin.add_account(EMAIL, PASSWORD)
    data = garmin.issue_session(EMAIL, engine="garminconnect", access_expired=True)

    import_session(user, data, engine="garminconnect", check=True)

    assert state_of(user).engine == "garminconnect"
    assert stored(user) != data  # Refreshed on the way, and the rotated token stored.
    assert use(user) == EMAIL
    assert state_of(user).session_ends_at > timezone.now()  # The refresh has named it.


@contextlib.contextmanager
def away_once():
    """The database is away when a session is first to be written."""
    failed = []

    def refuse(execute, sql, params, many, context):
        if not failed and sql.startswith("UPDATE") and "session_data" in sql:
            failed.append(sql)
            raise OperationalError("the database is away")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(refuse):
        yield
    assert failed


def test_an_import_survives_a_database_that_is_away_for_a_moment(user, garmin):
    garmin.add_account(EMAIL, PASSWORD)
    data = garmin.issue_session(EMAIL, engine="garminconnect", access_expired=True)

    with away_once():
        import_session(user, data, engine="garminconnect", check=True)

    assert use(user) == EMAIL


def test_a_code_survives_a_database_that_is_away_for_a_moment(user, mfa_account, garmin):
    start_login(user, mfa_account, PASSWORD)

    with away_once():
        submit_mfa(user, garmin.mfa_code(mfa_account))

    assert use(user) == EMAIL


def test_an_import_that_was_refreshed_survives_a_fault_of_its_check(user, garmin):
    """Its refresh has rotated the token: what was imported could not be imported again."""
    garmin.add_account(EMAIL, PASSWORD)
    data = garmin.issue_session(EMAIL, engine="garminconnect", access_expired=True)
    garmin.fail("api", "status", status=503)

    import_session(user, data, engine="garminconnect", check=True)

    assert garmin.counts["di_refresh"] == 1
    assert state_of(user).last_validated is None
    assert use(user) == EMAIL


def test_an_import_whose_refresh_brings_half_of_its_tokens_is_stored(user, garmin):
    """The refresh token that was imported is spent."""
    garmin.add_account(EMAIL, PASSWORD)
    data = garmin.issue_session(EMAIL, engine="garminconnect", access_expired=True)
    garmin.fail("di_refresh", "changed_json", changes={"access_token": ""})

    import_session(user, data, engine="garminconnect", check=True)

    assert stored(user) != data
    assert use(user) == EMAIL


def test_an_import_whose_check_fails_before_a_refresh_stores_nothing(user, garmin):
    garmin.add_account(EMAIL, PASSWORD)
    garmin.fail("api", "status", status=503)

    with pytest.raises(GarminUnavailable):
        import_session(
            user,
            garmin.issue_session(EMAIL, engine="garminconnect"),
            engine="garminconnect",
            check=True,
        )
    assert state_of(user) is None


def test_a_session_of_nulls_is_unreadable_and_kept(user, connect):
    connect(user)
    nulls = '{"di_token": null, "di_refresh_token": null, "di_client_id": null}'
    states.replace_session(state_of(user).pk, state_of(user).session_version, nulls)

    with pytest.raises(SessionUnreadable):
        use(user)

    assert stored(user) == nulls


def test_a_rate_limited_refresh_pauses_the_site(user, connect, garmin):
    connect(user, access_expired=True)
    garmin.fail("di_refresh", "rate_limited", retry_after=300)
    assert check_session(user).outcome == Outcome.UNKNOWN

    assert check_session(user).outcome == Outcome.UNKNOWN
    assert garmin.counts["di_refresh"] == 1


def test_unavailable_is_what_a_blocked_network_is(user, connect, garmin):
    connect(user, access_expired=True)
    garmin.fail("connect", "refused", times=None)

    with pytest.raises(GarminUnavailable):
        use(user)
