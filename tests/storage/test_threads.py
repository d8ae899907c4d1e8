"""Threads of ours see what the caller's thread sees."""

import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
from django.db import connection, connections, transaction

from garmin_auth.checking.pool import WorkerPool
from garmin_auth.storage.threads import (
    Context,
    KeptConnections,
    NoThread,
    connections_left_as_found,
    is_lent_thread,
    is_own_thread,
    lent_to_site,
    release_pooled_connections,
    run_in_thread,
)

committed = pytest.mark.django_db(transaction=True)
tenant = contextvars.ContextVar("tenant", default="none")
entered = threading.local()


class enter:
    def __init__(self, name):
        self._name = name

    def __enter__(self):
        entered.name = self._name

    def __exit__(self, *exc_info):
        del entered.name


class Keyed(nullcontext):
    key = 7


def tenant_for_a_thread():
    """What a site names in GARMIN_AUTH_THREAD_CONTEXT."""
    return enter(getattr(entered, "name", "nobody"))


@pytest.fixture
def named(settings):
    settings.GARMIN_AUTH_THREAD_CONTEXT = "tests.storage.test_threads.tenant_for_a_thread"
    with enter("ana's site"):
        yield


def test_a_thread_sees_the_callers_context_variables():
    tenant.set("ana's site")

    assert run_in_thread(tenant.get, "test", 60, Context()) == "ana's site"


def test_what_a_thread_sets_stays_in_it():
    tenant.set("ana's site")

    run_in_thread(lambda: tenant.set("ben's site"), "test", 60, Context())

    assert tenant.get() == "ana's site"


def test_each_worker_of_a_pool_sees_the_callers_context_variables():
    tenant.set("ana's site")

    assert set(WorkerPool(3, lambda n: tenant.get()).map(range(9))) == {"ana's site"}


def test_a_thread_is_within_the_sites_context_manager(named):
    assert run_in_thread(lambda: entered.name, "test", 60, Context()) == "ana's site"


def test_each_worker_of_a_pool_is_within_it(named):
    assert set(WorkerPool(3, lambda n: entered.name).map(range(9))) == {"ana's site"}


def test_without_the_setting_there_is_none():
    with enter("ana's site"):
        context = Context()
        result = []
        thread = threading.Thread(
            target=lambda: result.append(context.run(getattr, entered, "name", None))
        )
        thread.start()
        thread.join()

    assert result == [None]


def test_what_the_thread_raises_is_raised():
    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_in_thread(fail, "test", 60, Context())


def test_a_call_that_takes_too_long_is_not_waited_for():
    go = threading.Event()

    with pytest.raises(TimeoutError):
        run_in_thread(lambda: go.wait(60), "test", 0.01, Context())
    go.set()


def test_the_key_of_the_sites_context_manager_tells_tenants_apart(named, settings):
    assert Context().tenant == ""  # It has none.
    settings.GARMIN_AUTH_THREAD_CONTEXT = "tests.storage.test_threads.Keyed"
    assert Context().tenant == "7"


def test_a_thread_has_its_name_and_keeps_no_process_alive():
    def look():
        thread = threading.current_thread()
        return thread.name, thread.daemon

    assert run_in_thread(look, "a name", 60, Context()) == ("a name", True)


def test_where_the_machine_has_no_thread_its_words_are_kept(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)

    with pytest.raises(NoThread, match=r"^can't start new thread$"):
        run_in_thread(list, "test", 60, Context())


# Whose a thread is


def whose():
    return is_own_thread(), is_lent_thread()


def in_and_after_the_sites_code():
    with lent_to_site():
        inside = whose()
    return inside, whose()


def test_a_thread_of_ours_is_lent_to_the_sites_code():
    assert run_in_thread(whose, "test", 60, Context()) == (True, False)
    assert run_in_thread(in_and_after_the_sites_code, "test", 60, Context()) == (
        (False, True),
        (True, False),
    )


def test_a_thread_of_the_site_stays_its_own():
    assert whose() == (False, False)
    assert in_and_after_the_sites_code() == ((False, False), (False, False))


# Connections


def is_open():
    return connection.connection is not None


def open_connection():
    connection.ensure_connection()
    return connections["default"]


@committed
def test_a_thread_leaves_no_connection_open():
    assert run_in_thread(open_connection, "test", 60, Context()).connection is None


@committed
def test_what_a_block_opens_is_closed_and_what_was_open_stays():
    def look():
        with connections_left_as_found():
            open_connection()
        opened_inside = is_open()
        open_connection()
        with connections_left_as_found():
            open_connection()
        return opened_inside, is_open()

    assert run_in_thread(look, "test", 60, Context()) == (False, True)


@committed
def test_only_what_is_pooled_and_in_no_transaction_goes_back(monkeypatch):
    def is_kept(pool):
        with monkeypatch.context() as patch:
            patch.setitem(connection.settings_dict["OPTIONS"], "pool", pool)
            release_pooled_connections()
        return is_open()

    def look():
        open_connection()
        kept = [is_kept(pool=False)]
        with transaction.atomic():
            is_kept(pool=True)
        return [*kept, is_open(), is_kept(pool=True)]

    assert run_in_thread(look, "test", 60, Context()) == [True, True, False]
    open_connection()
    assert is_kept(pool=True)  # This thread is not ours.


@committed
def test_a_group_of_threads_keeps_its_connections_until_it_is_closed():
    kept, both = KeptConnections(), threading.Barrier(2)

    def use():
        both.wait(60)
        made = open_connection()
        return made, made.connection, is_own_thread()

    with ThreadPoolExecutor(2) as pool:
        first, second = (
            [call.result() for call in [pool.submit(kept.during, use) for _ in range(2)]]
            for _ in range(2)
        )
        assert sorted(first, key=id_of) == sorted(second, key=id_of)
        assert all(is_ours for _, _, is_ours in first)
        assert all(made.connection and not made.health_check_done for made, _, _ in first)
        assert len({id_of(call) for call in first}) == 2
        kept.close()

    assert [made.connection for made, _, _ in first] == [None, None]


def id_of(call):
    return id(call[0])


@committed
def test_a_connection_in_a_transaction_is_not_kept(monkeypatch):
    monkeypatch.setitem(connections.settings, "another", {**connections.settings["default"]})
    kept = KeptConnections()

    def leave_open():
        transaction.set_autocommit(False)
        connections["another"].connect()
        return connections["default"], connections["another"]

    with ThreadPoolExecutor(1) as pool:
        left_open, other = pool.submit(kept.during, leave_open).result()
        assert (left_open.connection is None, other.connection is None) == (True, False)
        kept.close()

    assert other.connection is None
