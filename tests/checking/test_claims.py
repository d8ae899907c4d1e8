"""In which order a run claims the sessions that are due, and that none is forgotten."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from garmin_auth.checking.claims import CheckRun, due_sessions
from garmin_auth.models import GarminAuthenticationState

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.every_database]
states = GarminAuthenticationState.objects


@pytest.fixture
def run():
    def run(batch=3, **options):
        return CheckRun(due_sessions(), batch=batch, seconds=60, **options)

    return run


def names(batch):
    return [state.user.username for state in batch]


def checked(users, hours):
    """Record that these users' sessions were checked so many hours ago, all at one moment."""
    moment = timezone.now() - timedelta(hours=hours)
    states.filter(user__in=users).update(last_checked_at=moment)


def test_each_session_is_claimed_once_the_longest_unchecked_first(people, run):
    users = people(11)
    checked(users[2:4], 1)
    checked(users[4:11], 5)  # More at one moment than fit into a batch.

    claimed = [names(batch) for batch in run().batches()]

    expected = [user.username for user in (*users[:2], *users[4:11], *users[2:4])]
    assert [name for batch in claimed for name in batch] == expected


def test_a_claim_that_another_run_releases_behind_is_taken_too(people, run):
    users = people(6)
    checked(users, 5)
    other = run(batch=2)
    theirs = next(iter(other.batches()))

    ours, batches = [], run(batch=2).batches()
    ours += names(next(batches))
    other.release()
    for batch in batches:
        ours += names(batch)

    assert sorted(ours) == sorted(user.username for user in users)
    assert set(names(theirs)) < set(ours)


def test_a_session_that_ends_while_it_is_claimed_stops_no_run(people, run):
    """The row has lost its place in the order then, and it may be the last of its batch."""
    users = people(5)
    checked(users, 5)
    left = iter([users[2]])

    def leave(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        if sql.startswith("UPDATE") and "check_run" in sql:
            for user in left:
                states.disconnect(user.pk, reason="user")
        return result

    with connection.execute_wrapper(leave):
        claimed = [names(batch) for batch in run().batches()]

    assert {users[3].username, users[4].username} <= {name for batch in claimed for name in batch}


def test_the_limit_holds_over_all_batches(people, run):
    people(9)
    assert [len(batch) for batch in run(limit=7).batches()] == [3, 3, 1]


@pytest.mark.parametrize("hours", [None, 5])
def test_a_batch_begins_where_the_one_before_ended(people, run, hours):
    """Or each batch would scan again what all before have skipped."""
    users = people(9)
    if hours:
        checked(users, hours)
    batches = run().batches()
    first = next(batches)

    with CaptureQueriesContext(
        connection,
    ) as queries:
        next(batches)

    select = next(each["sql"] for each in queries if each["sql"].startswith("SELECT"))
    where = select.partition(" WHERE ")[2]
    last = first[-1]
    assert f"> {last.pk}" in where  # The primary key, not a part of some time.
    if hours:
        assert f"{last.last_checked_at:%H:%M:%S.%f}" in where


def test_a_run_does_not_read_the_rows_without_a_session(people, run):
    """They have no place in the order of checks, so an index scan does not meet them."""
    users = people(3)
    checked(users, 5)
    states.disconnect(users[1].pk, reason="user")
    assert [row.check_order is None for row in states.order_by("pk")] == [False, True, False]

    with CaptureQueriesContext(connection) as queries:
        claimed = [names(batch) for batch in run().batches()]

    assert claimed == [[users[0].username, users[2].username]]
    selects = [each["sql"] for each in queries if "ORDER BY" in each["sql"]]
    assert all("check_order" in sql.partition(" WHERE ")[2] for sql in selects)
    assert not any("mfa_challenge" in each["sql"] for each in queries)  # Nor what is encrypted.
