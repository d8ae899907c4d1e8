"""Two transactions wait for each other, and the database undoes one: no user hears of it."""

import re
import threading
import time

import pytest
from django.db import DataError, OperationalError, connection, connections, transaction
from django.db.models.expressions import RawSQL

from garmin_auth.models import GarminAuthenticationState
from garmin_auth.rotation import Ciphertexts
from garmin_auth.storage import deadlocks
from tests.rows import store
from tests.waiting import wait_until

if connection.vendor == "sqlite":
    pytest.skip("SQLite has one writer at a time", allow_module_level=True)

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.every_database,
    pytest.mark.usefixtures("many_connections"),
]
states = GarminAuthenticationState.objects


@pytest.fixture
def rows(django_user_model):
    """The primary keys of eight rows, in the order in which one statement locks them."""
    users = [django_user_model.objects.create_user(f"user{number}") for number in range(8)]
    for user in users:
        store(user)
    # PostgreSQL goes by the place in the file, which after a VACUUM is not that of the insertion.
    place = RawSQL("ctid", ()) if connection.vendor == "postgresql" else "pk"
    return list(states.order_by(place).values_list("pk", flat=True))


@pytest.fixture
def run_in_a_thread():
    """Start a call in a thread; its results and exceptions are in the list that is returned."""
    threads = []

    def start(call):
        results = []

        def run():
            try:
                results.append(call())
            except Exception as exc:  # noqa: BLE001
                results.append(exc)
            finally:
                connections.close_all()

        thread = threading.Thread(target=run)
        thread.start()
        threads.append(thread)
        return results

    yield start
    for thread in threads:
        thread.join(30)


def execute(sql, *parameters):
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)


def lock(*pks):
    """Change these rows as a site's own SQL would, in the order given."""
    table = connection.ops.quote_name(GarminAuthenticationState._meta.db_table)
    for pk in pks:
        execute(f"UPDATE {table} SET engine = 'theirs' WHERE id = %s", pk)


def results_of(results):
    wait_until(lambda: results)
    return results


def somebody_waits():
    """Tell whether anybody in this database waits for a row."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT pg_stat_clear_snapshot()")
            cursor.execute(
                "SELECT COUNT(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        else:
            # Not INNODB_TRX: that tells nothing new while anybody, in another test too, has asked
            # within 0.1 s.
            cursor.execute("SELECT id FROM information_schema.PROCESSLIST WHERE db = DATABASE()")
            here = {row[0] for row in cursor.fetchall()}
            cursor.execute("SHOW ENGINE INNODB STATUS")
            transactions = cursor.fetchone()[2].split("---TRANSACTION ")[1:]
            waiting = {
                int(re.search(r"thread id (\d+)", transaction)[1])
                for transaction in transactions
                if "LOCK WAIT" in transaction
            }
            return not waiting.isdisjoint(here)
        return cursor.fetchone()[0] > 0


def deadlock(rows, start, call):
    """Let a call, which changes all rows, deadlock with a transaction that is not the victim."""

    def looking_late():
        # PostgreSQL looks once in each wait, and undoes whoever looks: the other wait is to be
        # there by then.
        if connection.vendor == "postgresql":
            execute("SET deadlock_timeout = '3s'")
        return call()

    with transaction.atomic():
        if connection.vendor == "postgresql":
            execute("SET LOCAL deadlock_timeout = '1min'")
        # MariaDB undoes the one that has changed fewer rows.
        lock(*rows[1:])
        results = start(looking_late)
        wait_until(somebody_waits)  # It has the first row then, and waits for the second.
        lock(rows[0])
    return results_of(results)


def check_all():
    return states.mark_checked(list(states.values_list("user_id", flat=True)))


def test_what_a_deadlock_has_undone_is_done_again_in_a_moment(rows, run_in_a_thread, monkeypatch):
    pauses, sleep = [], time.sleep

    def note(seconds):
        pauses.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(deadlocks.time, "sleep", note)

    assert deadlock(rows, run_in_a_thread, check_all) == [len(rows)]
    assert max(pauses) <= 0.01
    assert states.filter(engine="theirs", last_checked_at__isnull=False).count() == len(rows)


def test_the_rotations_table_is_written_again_too(rows, run_in_a_thread):
    def write():
        return Ciphertexts.objects.filter(pk__in=rows).update(mfa_challenge=None)

    assert deadlock(rows, run_in_a_thread, write) == [len(rows)]


def test_inside_a_transaction_that_was_undone_wholly_nothing_is_repeated(rows, run_in_a_thread):
    def in_a_transaction():
        with transaction.atomic():
            return check_all()

    [error] = deadlock(rows, run_in_a_thread, in_a_transaction)

    assert isinstance(error, OperationalError)
    assert not states.filter(last_checked_at__isnull=False).exists()


def test_without_autocommit_nothing_is_repeated_either(rows, run_in_a_thread):
    """What the transaction did before has been undone too, and nobody would hear of it."""

    def without_autocommit():
        transaction.set_autocommit(False)
        return check_all()

    [error] = deadlock(rows, run_in_a_thread, without_autocommit)

    assert isinstance(error, OperationalError)


def test_a_deadlock_that_comes_each_time_is_an_error_in_the_end(rows, run_in_a_thread, monkeypatch):
    monkeypatch.setattr(deadlocks, "PAUSES", ())

    [error] = deadlock(rows, run_in_a_thread, check_all)

    assert isinstance(error, OperationalError)


@pytest.mark.skipif(connection.vendor != "postgresql", reason="PostgreSQL's isolation levels")
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_what_a_sites_isolation_level_refuses_is_done_again(rows, run_in_a_thread, level):
    def check_all_isolated():
        execute(f"SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL {level}")
        return check_all()

    with transaction.atomic():
        lock(*rows)
        results = run_in_a_thread(check_all_isolated)
        wait_until(somebody_waits)

    assert results_of(results) == [len(rows)]


def test_other_errors_are_not_repeated(rows, monkeypatch):
    monkeypatch.setattr(deadlocks.time, "sleep", lambda seconds: pytest.fail("repeated"))

    with pytest.raises(DataError):
        states.update(engine="a name that is too long for the column " * 9)


def test_a_row_is_made_as_django_makes_it(user):
    defaults = {"engine": "garth"}

    for is_new in (True, False):
        row, created = states.get_or_create(defaults, user=user)
        assert (row.engine, created) == ("garth", is_new)


class Psycopg2Error(Exception):
    """As psycopg2 raises it, which need not be installed here."""

    def __init__(self, code):
        self.pgcode = code


def test_each_driver_tells_of_a_deadlock_in_its_own_way():
    def is_deadlock(error, cause=None):
        error.__cause__ = cause
        return deadlocks.is_deadlock(error)

    assert is_deadlock(OperationalError("deadlock detected"), Psycopg2Error("40P01"))
    assert not is_deadlock(OperationalError("out of memory"), Psycopg2Error("53200"))
    assert is_deadlock(OperationalError(1213, "Deadlock found when trying to get lock"))
    assert is_deadlock(OperationalError(1020, "Record has changed since last read in table"))
    assert not is_deadlock(OperationalError(2006, "Server has gone away"))


def test_codes_counted_while_the_login_ends_get_in_nobodys_way(user, run_in_a_thread):
    """InnoDB finds the row by one index for the one and by another for the other."""
    for _ in range(20):
        begun = states.begin_challenge(user.pk, "{}")
        pk = states.get(user=user).pk

        def count_or_end(pk=pk, begun=begun):
            return states.count_attempt(pk, begun, 5) or states.end_challenge(user.pk, begun)

        everybody = [run_in_a_thread(count_or_end) for _ in range(20)]

        assert sum(results_of(results)[0] for results in everybody) == 6
