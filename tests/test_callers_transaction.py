"""A refresh is never part of the caller's transaction, and locks no row beyond itself."""

import asyncio
import threading
from contextvars import copy_context
from datetime import timedelta

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connection, connections, transaction
from django.db.migrations import Migration, RunPython
from django.db.migrations.state import ProjectState
from django.utils import timezone

from garmin_auth import signals
from garmin_auth.engines import get_engine
from garmin_auth.exceptions import GarminUnavailable, SessionExpired
from garmin_auth.login import disconnect, import_session
from garmin_auth.models import GarminAuthenticationState, Status
from garmin_auth.sessions import garmin_client
from garmin_auth.storage.threads import NoThread, run_in_thread
from garmin_auth.storage.transactions import non_atomic_everywhere, refuse_atomic
from tests.conftest import BUILT_IN, EMAIL, REFRESH, state_of
from tests.waiting import in_threads, wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.every_database]
states = GarminAuthenticationState.objects
PROFILE = "/userprofile-service/socialProfile"
needs_several_writers = pytest.mark.skipif(
    connection.vendor == "sqlite", reason="SQLite has one writer at a time"
)


class RolledBack(Exception):
    pass


@pytest.fixture(params=BUILT_IN)
def engine(request):
    return request.param


@pytest.fixture
def connected(user, connect, engine):
    """A user with a session of the engine."""
    connect(user, engine=engine)
    return user


def stored(user):
    return states.values_list("session_data", flat=True).get(user_id=user.pk).decrypt()


def use(user):
    with garmin_client(user) as client:
        return client.connectapi(PROFILE)["userName"]


def in_a_thread(call):
    """Make a call on another connection, and return its result."""
    return in_threads(lambda number: call(), 1)[0]


@needs_several_writers
def test_what_garmin_has_rotated_survives_a_rollback(connected, django_user_model, garmin, engine):
    before = stored(connected)
    garmin.expire_access_tokens(EMAIL)

    with (
        pytest.raises(RolledBack),
        garmin_client(connected) as client,
        transaction.atomic(),
    ):
        django_user_model.objects.create_user("caller", password="x")
        assert client.connectapi(PROFILE)["userName"] == EMAIL
        raise RolledBack

    assert not django_user_model.objects.filter(username="caller").exists()
    assert stored(connected) != before
    garmin.expire_access_tokens(EMAIL)
    assert use(connected) == EMAIL
    assert garmin.counts[REFRESH[engine]] == 2


@needs_several_writers
def test_a_receiver_in_a_thread_of_ours_may_open_a_transaction(connected, garmin, engine):
    """As a site's receiver of a signal does that a login in the background sends."""
    before = stored(connected)

    def receiver():
        with garmin_client(connected) as client, transaction.atomic():
            garmin.expire_access_tokens(EMAIL)
            client.connectapi(PROFILE)
            raise RolledBack

    with pytest.raises(RolledBack):
        run_in_thread(receiver, "garmin_auth login", 60, copy_context())

    assert stored(connected) != before


@needs_several_writers
def test_no_row_is_locked_while_the_callers_transaction_lasts(connected, garmin):
    garmin.expire_access_tokens(EMAIL)

    with garmin_client(connected) as client, transaction.atomic():
        client.connectapi(PROFILE)

        assert in_a_thread(lambda: use(connected)) == EMAIL


@needs_several_writers
def test_a_long_block_notes_nothing_in_the_callers_transaction(connected, monkeypatch):
    monkeypatch.setattr("garmin_auth.sessions.NOTE_EVERY", 0)

    with garmin_client(connected) as client, transaction.atomic():
        client.connectapi(PROFILE)

        assert in_a_thread(lambda: states.filter(user_id=connected.pk).update(engine="x")) == 1


def test_a_block_that_ends_after_the_transaction_notes_its_success(connected):
    with garmin_client(connected) as client, transaction.atomic():
        client.connectapi(PROFILE)

    assert state_of(connected).last_validated is not None


@needs_several_writers
def test_a_death_in_the_callers_transaction_stays_one_after_a_rollback(connected, garmin):
    garmin.expire_access_tokens(EMAIL)
    garmin.revoke(EMAIL)

    with (
        pytest.raises(SessionExpired),
        garmin_client(connected) as client,
        transaction.atomic(),
    ):
        client.connectapi(PROFILE)

    assert state_of(connected).connected_at is None


@pytest.mark.skipif(connection.vendor != "sqlite", reason="others have several writers")
def test_where_the_caller_holds_sqlites_lock_garmin_is_not_asked(connected, garmin, engine):
    before = stored(connected)
    garmin.expire_access_tokens(EMAIL)

    with (
        garmin_client(connected) as client,
        transaction.atomic(),
        pytest.raises(GarminUnavailable, match="End the open transaction") as caught,
    ):
        client.connectapi(PROFILE)

    assert "locked" in str(caught.value)
    assert garmin.counts[REFRESH[engine]] == 0
    assert stored(connected) == before
    assert use(connected) == EMAIL


def test_a_callers_transaction_needs_no_refresh_where_the_block_has_made_it(
    connected, garmin, engine
):
    """What ends within minutes is refreshed when the block begins, before any transaction."""
    lifetime = garmin.access_token_lifetime
    garmin.access_token_lifetime = 120
    states.filter(user_id=connected.pk).update(
        session_data=garmin.issue_session(EMAIL, engine=engine)
    )
    garmin.access_token_lifetime = lifetime

    with garmin_client(connected) as client, transaction.atomic():
        assert garmin.counts[REFRESH[engine]] == 1
        client.connectapi(PROFILE)

    assert garmin.counts[REFRESH[engine]] == 1
    ends_at = get_engine(engine).access_ends_at(stored(connected))
    assert ends_at > timezone.now() + timedelta(minutes=5)


def test_a_refresh_that_fails_early_costs_a_token_that_is_still_good_nothing(
    connected, garmin, engine
):
    garmin.access_token_lifetime = 120
    states.filter(user_id=connected.pk).update(
        session_data=garmin.issue_session(EMAIL, engine=engine)
    )
    garmin.fail(REFRESH[engine], "status", times=None)

    assert use(connected) == EMAIL


@needs_several_writers
def test_a_row_that_the_caller_has_locked_ends_the_call_in_time(connected, garmin, monkeypatch):
    monkeypatch.setattr("garmin_auth.sessions.REFRESH_TIMEOUT", 1)
    monkeypatch.setattr("garmin_auth.conf.Settings.LEASE", 1)
    garmin.expire_access_tokens(EMAIL)

    with garmin_client(connected) as client, transaction.atomic():
        states.filter(user_id=connected.pk).update(updated_at=timezone.now())
        with pytest.raises(GarminUnavailable, match="row is locked"):
            client.connectapi(PROFILE)

    # It goes on now, and is not to take longer than a lease of one second.
    wait_until(lambda: not any("refresh" in thread.name for thread in threading.enumerate()))
    assert use(connected) == EMAIL


@pytest.mark.parametrize(
    ("error", "raised"),
    [(RuntimeError("a bug"), RuntimeError), (NoThread("none"), GarminUnavailable)],
)
def test_a_bug_in_a_refresh_is_not_taken_for_a_fault_of_garmins(
    connected, garmin, monkeypatch, error, raised
):
    def fail(*args):
        raise error

    monkeypatch.setattr("garmin_auth.sessions.run_in_thread", fail)
    garmin.expire_access_tokens(EMAIL)

    with pytest.raises(raised), garmin_client(connected) as client:
        client.connectapi(PROFILE)


# Another database than the default


class Router:
    def db_for_write(self, model, **hints):
        return "another"


@pytest.fixture
def on_another_database(transactional_db, settings, monkeypatch):
    """The app is not on the default database; both are one here, by two names."""
    monkeypatch.setitem(connections.settings, "another", {**connections.settings["default"]})
    settings.DATABASE_ROUTERS = [f"{__name__}.Router"]
    connection.ensure_connection()
    # On SQLite, a transaction that has not written anything must lock nothing.
    monkeypatch.setattr(connections["default"], "transaction_mode", "DEFERRED", raising=False)
    connections["another"].connect()
    yield
    connections["another"].close()
    del connections["another"]


def test_a_transaction_on_another_database_is_the_callers_affair(
    user, connect, on_another_database
):
    connect(user)

    with transaction.atomic(), garmin_client(user) as client:
        client.connectapi(PROFILE)

    assert state_of(user).last_validated is not None


def test_a_transaction_on_the_apps_database_is_refused(user, connect, on_another_database):
    connect(user)

    with transaction.atomic(using="another"), pytest.raises(RuntimeError, match="must not run"):
        use(user)


def test_a_signal_waits_for_no_commit_on_another_database(user, connect, on_another_database):
    heard = []

    def receiver(**kwargs):
        heard.append(kwargs["user"])

    signals.session_disconnected.connect(receiver)
    connect(user)
    try:
        with transaction.atomic():
            disconnect(user)
            assert heard == [user]
    finally:
        signals.session_disconnected.disconnect(receiver)


def test_a_view_is_exempt_from_atomic_requests_on_every_database(on_another_database):
    def view(request):
        return "an answer"

    exempt = non_atomic_everywhere(view)

    assert exempt(None) == "an answer"
    assert exempt._non_atomic_requests == {"default", "another"}


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("start_login", r"await astart_login\(\)$"),
        ("cancel_mfa", r"await sync_to_async\(cancel_mfa\)\(\)$"),
    ],
)
def test_in_async_code_the_message_says_what_to_await(name, instead):
    async def block():
        refuse_atomic(name)

    with pytest.raises(SynchronousOnlyOperation, match=rf"^{name}\(\) .*{instead}"):
        asyncio.run(block())


def migrate(operation, **attributes):
    """Run an operation as the migration of a site."""
    migration = type("Migration", (Migration,), {"operations": [operation], **attributes})
    applied = migration("0001_connect", "tests")
    with connection.schema_editor(atomic=applied.atomic) as editor:
        applied.apply(ProjectState(), editor)


def test_a_migration_is_told_what_fits_it(user, garmin, account):
    data = garmin.issue_session(account)
    operation = RunPython(lambda apps, schema_editor: import_session(user, data, engine="garth"))

    with pytest.raises(RuntimeError, match="set atomic = False on the Migration class"):
        migrate(operation)
    assert state_of(user) is None

    migrate(operation, atomic=False)
    assert state_of(user).status == Status.ACTIVE
