"""Checks at the same time: threads of one run on one pool of connections, and runs that overlap."""

import json
import signal
import threading
from collections import Counter
from datetime import timedelta
from itertools import pairwise

import pytest
from django.db import DatabaseError, connection, connections
from django.db.backends.signals import connection_created
from django.utils import timezone

from garmin_auth import health
from garmin_auth.health import check_sessions
from garmin_auth.limits import rate
from garmin_auth.models import GarminAuthenticationState
from garmin_auth.testing.garmin import resources
from tests.conftest import state_of
from tests.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.every_database]
states = GarminAuthenticationState.objects


@pytest.fixture
def begin(start_python):
    """Start the command as a process."""

    def begin(*arguments):
        connections.close_all()
        return start_python("manage.py", "check_garmin_sessions", "--format", "json", *arguments)

    return begin


def ended(process):
    """The counts that a run has printed, proven to add up; with its exit code."""
    output, errors = process.communicate(timeout=120)
    assert output, errors
    counts = json.loads(output)
    judged = sum(counts[name] for name in ("active", "expired", "unknown", "unreadable"))
    assert counts["checked"] == judged
    return counts | {"code": process.returncode}


def times_asked(garmin):
    """How often Garmin was asked about each account."""
    return Counter(entry["account"] for entry in garmin.log if entry["step"] == "api")


def overlap(garmin, number):
    """Where Garmin takes long, wait until so many runs have claimed something; then it is fast."""
    runs = states.exclude(check_run="").values("check_run").distinct()
    wait_until(lambda: runs.count() == number)
    garmin.set_latency(0.1)


# Runs that overlap


def test_runs_at_the_same_time_ask_for_each_session_once(begin, people, garmin):
    people(96)
    garmin.set_latency(5)

    runs = [begin("--workers", "2") for _ in range(3)]
    overlap(garmin, 3)
    counts = [ended(run) for run in runs]

    assert set(times_asked(garmin).values()) == {1}
    assert sum(run["checked"] for run in counts) == 96
    assert min(run["checked"] for run in counts) > 0
    assert {run["code"] for run in counts} == {0}
    assert states.claimed_checks() == 0


def test_a_run_that_begins_later_does_not_repeat_what_is_done(begin, people, garmin):
    people(60)
    garmin.set_latency(0.2)
    first = begin("--workers", "2")
    wait_until(lambda: states.exclude(last_checked_at=None).count() >= 20)

    garmin.set_latency(5)
    second = begin("--workers", "2")
    overlap(garmin, 2)
    counts = [ended(first), ended(second)]

    assert set(times_asked(garmin).values()) == {1}
    assert sum(run["checked"] for run in counts) == 60


def test_limits_of_overlapping_runs_add_up(begin, people, garmin):
    people(40)
    garmin.set_latency(0.2)

    counts = [ended(run) for run in [begin("--limit", "15") for _ in range(2)]]

    assert [run["checked"] for run in counts] == [15, 15]
    assert len(times_asked(garmin)) == 30


def test_what_a_killed_run_had_claimed_is_checked_when_the_claim_has_ended(begin, people, garmin):
    people(40)
    garmin.set_latency(0.1)
    killed = begin()
    wait_until(lambda: garmin.counts["api"] >= 3)
    killed.kill()
    killed.wait()
    claims = states.claimed_checks()
    ends = max(states.exclude(check_expires_at=None).values_list("check_expires_at", flat=True))
    done = 40 - states.filter(last_checked_at=None).count()
    garmin.set_latency(0)

    others = ended(begin())
    left = states.filter(last_checked_at=None).count()
    # As if the time had come.
    states.update(check_expires_at=timezone.now() - timedelta(seconds=1))
    rest = ended(begin("--max-age", "1h"))

    assert 0 < claims <= health.MIN_BATCH
    assert ends < timezone.now() + timedelta(minutes=5)
    assert (others["code"], others["checked"]) == (0, 40 - done - claims)
    assert (rest["code"], rest["checked"]) == (0, left)
    assert not states.filter(last_checked_at=None).exists()


def test_sigterm_in_the_middle_of_a_run_leaves_exactly_the_rest(begin, people, garmin):
    number = 1000 if connection.vendor == "sqlite" else 500
    people(number)
    garmin.set_latency(0.02)
    run = begin("--workers", "8")
    wait_until(lambda: garmin.counts["api"] >= 300)

    run.send_signal(signal.SIGTERM)
    first = ended(run)
    asked_first = set(times_asked(garmin))
    claims = states.claimed_checks()
    second = ended(begin("--workers", "8", "--max-age", "1h"))

    assert (first["code"], first["stopped"]) == (4, "signal")
    assert 300 <= first["checked"] == first["active"] == len(asked_first) < number
    assert claims == 0
    assert (second["code"], second["stopped"]) == (0, None)
    assert (second["checked"], second["skipped"]) == (number - first["checked"], first["checked"])
    assert len(times_asked(garmin)) == number
    assert set(times_asked(garmin).values()) == {1}


# Inside one run


def test_no_more_rows_are_claimed_than_a_few_batches(people, monkeypatch):
    monkeypatch.setattr(health, "MIN_BATCH", 4)
    monkeypatch.setattr(health, "NOTES", 4)
    people(60)
    claimed = []

    report = check_sessions(on_check=lambda check: claimed.append(states.claimed_checks()))

    assert report.checked == 60
    # A batch, and what waits to be written.
    assert max(claimed) <= 8


def test_a_run_that_cannot_write_its_results_leaves_no_row_claimed(people, monkeypatch):
    def refuse(*args):
        raise DatabaseError("the disk is full")

    monkeypatch.setattr(health, "_note", refuse)
    people(3)

    with pytest.raises(DatabaseError, match="full"):
        check_sessions()

    assert states.claimed_checks() == 0


def test_each_thread_closes_its_database_connection(people):
    people(24)
    opened = []

    def remember(connection, **kwargs):
        opened.append((connection, threading.get_ident()))

    connection_created.connect(remember)
    try:
        check_sessions(workers=6)
    finally:
        connection_created.disconnect(remember)

    threads = {thread for _, thread in opened} - {threading.get_ident()}
    assert 1 < len(threads) <= 6
    assert [c for c, thread in opened if thread in threads and c.connection is not None] == []


def test_a_connection_is_reused_across_users_and_nothing_else(people, garmin, monkeypatch):
    """Garmin gives each user cookies of their own, which nobody else may ever send."""
    seen, answer = [], resources.answer

    def with_cookies(request, account):
        seen.append((account.email, request.headers["authorization"], request.cookies))
        given = answer(request, account)
        given.headers.append(("Set-Cookie", f"whose={account.email}; Path=/"))
        given.headers.append(("Set-Cookie", f"all={account.email}; Domain=garmin.com; Path=/"))
        return given

    monkeypatch.setattr(resources, "answer", with_cookies)
    people(64)
    garmin.set_latency(0.02)
    before = garmin.counts["connect"]

    report = check_sessions(workers=8)
    check_sessions(workers=8)

    assert report.active == 64
    assert len(seen) == 128
    assert garmin.counts["connect"] - before <= 8
    assert [cookies for _, _, cookies in seen if cookies] == []
    # One bearer for each account, the same in both runs.
    assert len({bearer for _, bearer, _ in seen}) == 64
    assert len({(email, bearer) for email, bearer, _ in seen}) == 64
    assert garmin.counts["foreign_bearer"] == 0


def test_workers_divide_the_time(people, monkeypatch):
    people(32)
    answer, all_there = resources.answer, threading.Barrier(16)

    def answer_when_all_have_asked(request, account):
        all_there.wait(60)
        return answer(request, account)

    monkeypatch.setattr(resources, "answer", answer_when_all_have_asked)

    assert check_sessions(workers=16).active == 32


@pytest.mark.parametrize("workers", [1, 8])
def test_the_rate_holds_over_the_whole_run(people, garmin, monkeypatch, workers):
    turns, sleep_until = [], rate.sleep_until

    def noted(turn, interrupted):
        sleep_until(turn, interrupted)
        turns.append(turn)

    monkeypatch.setattr(rate, "sleep_until", noted)
    monkeypatch.setattr(health, "MIN_BATCH", 4)
    people(22)

    report = check_sessions(workers=workers, rate=10, limit=21)

    assert report.rate <= 10.5
    assert len(turns) >= 21
    # Nor is there a burst anywhere in between.
    assert all(later - earlier > 0.0999 for earlier, later in pairwise(turns))


def test_without_a_rate_nothing_waits(people, monkeypatch):
    people(40)
    waits = []

    def sleep_until(moment, interrupted):
        waits.append(moment)

    monkeypatch.setattr(rate, "sleep_until", sleep_until)
    check_sessions(workers=4)

    assert waits == []


def test_two_dead_sessions_die_once_whoever_meets_them(begin, people, garmin):
    users = people(24, access_expired=True)
    garmin.revoke("user0006@example.com")
    garmin.revoke("user0018@example.com")
    garmin.set_latency(5)

    runs = [begin("--workers", "2") for _ in range(2)]
    overlap(garmin, 2)
    counts = [ended(run) for run in runs]

    assert sum(run["expired"] for run in counts) == 2
    assert sum(run["checked"] for run in counts) == 24
    assert state_of(users[6]).ended_reason == "expired"
