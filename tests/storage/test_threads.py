"""Threads of ours see what the caller's thread sees."""

import contextvars
import threading

import pytest

from garmin_auth.checking.pool import WorkerPool
from garmin_auth.storage.threads import Context, run_in_thread

tenant = contextvars.ContextVar("tenant", default="none")
entered = threading.local()


class _entered:
    def __init__(self, name):
        self._name = name

    def __enter__(self):
        entered.name = self._name

    def __exit__(self, *exc_info):
        del entered.name


def tenant_for_a_thread():
    """What a site names in GARMIN_AUTH_THREAD_CONTEXT."""
    return _entered(getattr(entered, "name", "nobody"))


@pytest.fixture
def named(settings):
    settings.GARMIN_AUTH_THREAD_CONTEXT = "tests.storage.test_threads.tenant_for_a_thread"
    with _entered("ana's site"):
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
    with _entered("ana's site"):
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
