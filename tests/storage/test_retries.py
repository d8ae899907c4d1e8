"""A database that is away for a moment, as the functions that write see it."""

import pytest
from django.db import DatabaseError, DataError, IntegrityError, connection

from garmin_auth.storage import retries
from garmin_auth.storage.retries import WRITE_EVERY, WRITE_FOR, bookkeeping, write_again
from tests.waiting import Clock

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def clock(monkeypatch):
    """The time, which passes by pauses alone; and the pauses."""

    clock = Clock()
    monkeypatch.setattr(retries, "time", clock)
    return clock


def away(times):
    """Return a write that fails so many times, and each time finds a new connection."""
    given = []

    def write():
        given.append(connection.connection)
        if len(given) <= times:
            connection.ensure_connection()
            raise DatabaseError("away")
        assert given[-1] is None
        return "stored"

    return write


def test_a_write_is_repeated_on_a_new_connection_after_a_pause(clock):
    assert write_again(away(3)) == "stored"

    assert clock.pauses == [WRITE_EVERY] * 3


def test_a_database_that_stays_away_is_given_up(clock):
    with pytest.raises(DatabaseError, match="away"):
        write_again(away(1000))

    assert WRITE_FOR <= sum(clock.pauses) <= WRITE_FOR + 1


@pytest.mark.parametrize("error", [IntegrityError, DataError])
def test_what_the_database_will_never_take_is_not_repeated(clock, error):
    def write():
        raise error("the user was deleted, or a text is too long")

    with pytest.raises(error):
        write_again(write)

    assert clock.pauses == []


def test_failed_bookkeeping_is_logged_without_what_the_database_said(caplog):
    with bookkeeping("that a session works"):
        raise DatabaseError("a secret")

    assert caplog.messages == ["Could not record that a session works: DatabaseError"]


@pytest.mark.django_db
def test_nothing_is_repeated_in_the_transaction_of_a_testcase(clock):
    with pytest.raises(DatabaseError):
        write_again(away(1))

    assert clock.pauses == []
