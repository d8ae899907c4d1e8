"""Several threads at the same work, and the pace of it."""

import threading
import time

import pytest

from garmin_auth.checking.pool import WorkerPool
from garmin_auth.limits.rate import Pace, sleep_until
from tests.waiting import wait_until


def never():
    return False


# The pool


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_each_item_is_worked_on_once(workers):
    results = list(WorkerPool(workers, lambda n: n * n).map(range(100)))

    assert sorted(results) == [n * n for n in range(100)]


def test_one_worker_is_the_callers_own_thread():
    assert list(WorkerPool(1, lambda n: threading.get_ident()).map([1])) == [threading.get_ident()]


def test_several_workers_are_other_threads():
    ids = set(WorkerPool(2, lambda n: threading.get_ident()).map(range(4)))

    assert threading.get_ident() not in ids


def test_so_many_work_at_the_same_time():
    barrier = threading.Barrier(4, timeout=60)

    # Each waits for the three others: with fewer threads the barrier breaks.
    assert len(list(WorkerPool(4, lambda n: barrier.wait()).map(range(8)))) == 8


def test_items_are_asked_for_in_the_callers_thread_and_only_when_somebody_is_free():
    asked, results = [], []

    def items():
        for n in range(10):
            asked.append((n, len(results), threading.get_ident()))
            yield n

    for result in WorkerPool(3, lambda n: n).map(items()):
        results.append(result)

    assert {thread for *_, thread in asked} == {threading.get_ident()}
    assert all(n - known <= 3 for n, known, _ in asked)


def test_a_result_is_yielded_before_the_next_item_is_asked_for():
    known, heard, worked_on = [], [], []

    def items():
        for n in range(6):
            # At a low rate, all workers are free.
            wait_until(lambda: len(worked_on) == len(known))
            known.append(len(heard))
            yield n

    for result in WorkerPool(4, worked_on.append).map(items()):
        heard.append(result)

    # One may still be under way.
    assert all(n - number <= 2 for n, number in enumerate(known))


def test_no_more_threads_are_started_than_there_is_work_for():
    before = threading.active_count()
    seen = []

    list(WorkerPool(50, lambda n: seen.append(threading.active_count())).map([1, 2]))

    assert max(seen) <= before + 2


@pytest.mark.parametrize("workers", [1, 3])
def test_an_exception_of_a_worker_is_raised_in_the_caller(workers):
    def work(n):
        if n == 2:
            raise ZeroDivisionError("a bug")
        return n

    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(WorkerPool(workers, work).map(range(10)))


def test_what_is_in_flight_is_finished_when_a_worker_raises():
    finished, others = [], threading.Barrier(3, timeout=60)

    def work(n):
        others.wait()
        if n == 0:
            raise ZeroDivisionError("a bug")
        time.sleep(0.3)
        finished.append(n)

    with pytest.raises(ZeroDivisionError):
        list(WorkerPool(3, work).map(range(3)))

    assert sorted(finished) == [1, 2]


def test_what_is_in_flight_is_finished_when_the_items_end_with_an_exception():
    finished = []

    def items():
        yield 1
        raise ZeroDivisionError("a bug")

    def work(n):
        time.sleep(0.3)
        finished.append(n)

    with pytest.raises(ZeroDivisionError):
        list(WorkerPool(2, work).map(items()))

    assert finished == [1]


@pytest.mark.parametrize("end", ["exhausted", "worker raises", "caller leaves"])
def test_no_thread_is_left(end):
    before = set(threading.enumerate())

    def work(n):
        if end == "worker raises":
            raise ZeroDivisionError("a bug")
        return n

    results = WorkerPool(4, work).map(range(100))
    if end == "exhausted":
        list(results)
    elif end == "caller leaves":
        next(results)
        results.close()
    else:
        with pytest.raises(ZeroDivisionError):
            list(results)

    assert set(threading.enumerate()) <= before


# The pace


def test_a_pace_holds_from_the_first_to_the_last():
    began = time.monotonic()
    pace = Pace(20)

    for _ in range(11):
        pace.wait(never)

    assert time.monotonic() - began >= 0.5


def test_time_that_was_lost_is_not_made_up_for():
    pace = Pace(10)
    time.sleep(1)
    began = time.monotonic()

    for _ in range(6):
        pace.wait(never)

    # Five intervals; one may have been running when the others began to wait.
    assert time.monotonic() - began >= 0.4


def test_without_a_rate_nobody_waits(monkeypatch):
    monkeypatch.setattr(
        "garmin_auth.limits.rate.time.sleep", lambda seconds: pytest.fail("It slept.")
    )
    pace = Pace(None)

    for _ in range(1000):
        pace.wait(never)


def test_a_wait_for_the_next_turn_ends_with_an_interruption():
    pace, came = Pace(0.001), threading.Event()
    pace.wait(came.is_set)
    threading.Timer(0.2, came.set).start()

    pace.wait(came.is_set)  # 1000 s, if it did not end.

    assert came.is_set()


def test_a_moment_that_has_passed_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(
        "garmin_auth.limits.rate.time.sleep", lambda seconds: pytest.fail("It slept.")
    )

    sleep_until(time.monotonic() - 1, never)
