"""Celery with Redis: the same 4,000 sessions with 1, 2 and 4 worker processes, 50 ms to Garmin.

The pool is prefork, with ``--concurrency`` 1, 2 or 4, ``worker_prefetch_multiplier`` 1, late
acknowledgement and no result backend. The time runs from the first message sent to the last session
checked. The overhead is what a task takes besides Garmin's 50 ms and the time of the same check in
a plain loop. On so few cores, workers, Redis, PostgreSQL and the simulator wait for one another.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.figures import Figure
from benchmarks.stage import ROOT, Stage
from tests.services import BROKERS, why_not_broker

DATABASES = ("postgresql",)
LATENCY = 0.05  # seconds


def why_not() -> str:
    """Return why this cannot be measured here, "" if it can."""
    return why_not_broker("redis")


def measure(stage: Stage) -> Iterator[Figure]:
    os.environ["GARMIN_AUTH_TEST_BROKER"] = BROKERS["redis"]
    os.environ["GARMIN_AUTH_TEST_QUEUE"] = f"garmin_auth_benchmark_{os.getpid()}"
    os.environ["GARMIN_AUTH_TEST_PARENT"] = str(os.getpid())
    import tests.checking.celery_app  # noqa: F401 - becomes the current app
    from garmin_auth.health import check_session
    from garmin_auth.tasks import enqueue_due_sessions

    number = stage.size(4000, 20)
    sessions = stage.connect(number)
    stage.garmin.latency = LATENCY
    some = [user for user, _ in sessions[: stage.size(100, 5)]]
    check_session(some[0])
    began = time.perf_counter()
    for user in some:
        check_session(user)
    alone = (time.perf_counter() - began) / len(some)
    yield Figure(
        "a check in a plain loop, beside Garmin's 50 ms", (alone - LATENCY) * 1000, unit="ms"
    )
    first = 0.0
    for processes in stage.size((1, 2, 4), (1,)):  # type: ignore[arg-type]
        with worker(processes):
            warm_up([user for user, _ in sessions[: 8 * processes]])
            began, since = time.perf_counter(), now()
            enqueue_due_sessions()
            sent = time.perf_counter() - began
            wait_for(number, since)
            seconds = time.perf_counter() - began
        rate = number / seconds
        first = first or rate
        taken = seconds * processes / number
        yield Figure(
            f"{processes} processes" if processes > 1 else "1 process",
            rate,
            unit="checks/s",
            note=f"{rate / first:.2f} times one process; {seconds:.1f} s, of which {sent:.1f} s to "
            f"send; a task takes {taken * 1000:.1f} ms of its process: "
            f"{(taken - alone) * 1000:.1f} ms more than the check itself",
        )


def now() -> Any:
    from django.utils import timezone

    return timezone.now()


def warm_up(users: list[Any]) -> None:
    """Let every process of the worker import its modules."""
    from garmin_auth.models import GarminAuthenticationState as State
    from garmin_auth.tasks import check_stored_session

    since = now()
    for pk in State.objects.filter(user__in=users).values_list("pk", flat=True):
        check_stored_session.apply_async((pk,), ignore_result=True)
    wait_for(len(users), since)


def wait_for(number: int, since: Any) -> None:
    """Wait until this many sessions have been checked."""
    from garmin_auth.models import GarminAuthenticationState as State

    patience = time.monotonic() + 120 + number * 0.2
    while State.objects.filter(last_checked_at__gt=since).count() < number:
        assert time.monotonic() < patience, "the workers do not get done"
        time.sleep(0.2)


@contextmanager
def worker(processes: int) -> Iterator[None]:
    """Run a Celery worker with this many processes."""
    options = ["--pool", "prefork", "--concurrency", str(processes), "--loglevel", "ERROR"]
    options += ["--without-gossip", "--without-mingle"]
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "tests.checking.celery_app", "worker", *options],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # In its own process group.
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
