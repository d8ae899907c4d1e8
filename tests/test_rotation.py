"""``rotate_keys``, in processes that have other keys than this one."""

import json

import pytest
from cryptography.fernet import Fernet, InvalidToken
from django.db import connection, transaction
from fernet_fields.hkdf import derive_fernet_key

from garmin_auth.login import start_login
from garmin_auth.models import GarminAuthenticationState
from garmin_auth.rotation import rotate_keys
from garmin_auth.storage.keys import key_of, number_of_keys, under_first_key
from tests.conftest import EMAIL, PASSWORD, raw_row, state_of
from tests.rows import damage, store
from tests.settings import FERNET_KEYS

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.every_database]
states = GarminAuthenticationState.objects

NEW, (OLD,) = "a-new-key-for-tests", FERNET_KEYS
COLUMNS = ("session_data", "account_name", "mfa_challenge")

# A rotation during which somebody else acts, right before its first UPDATEs are executed.
MEANWHILE = """
from django.contrib.auth.models import User
from django.db import connection
from garmin_auth.models import GarminAuthenticationState
from garmin_auth.rotation import rotate_keys
states = GarminAuthenticationState.objects
user = User.objects.get(username="ana")
row = states.get(user=user)

def overwrite(ciphertext):
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {states.model._meta.db_table} "
            "SET session_data = %s, session_version = session_version + 1",
            [ciphertext],
        )

def rotate_while(act, times=1):
    acted = []
    def before_an_update(execute, sql, *rest):
        if sql.startswith("UPDATE") and len(acted) < times and True not in acted:
            acted.append(True)
            act()
            acted[-1] = False
        return execute(sql, *rest)
    with connection.execute_wrapper(before_an_update):
        return rotate_keys()
"""
PROFILE = "/userprofile-service/socialProfile"


def site(*keys):
    """Return the environment of a site with these keys."""
    return {
        "DJANGO_SETTINGS_MODULE": "tests.rotation_settings",
        "GARMIN_AUTH_TEST_FERNET_KEYS": json.dumps(keys),
    }


@pytest.fixture
def rotate(run_python):
    """Rotate in a process with these keys, NEW before OLD if not said; return the counts."""

    def rotate(*keys, call="rotate_keys()"):
        code = f"from garmin_auth.rotation import rotate_keys\nreport = {call}"
        return reported(run_python, code, *keys)

    return rotate


@pytest.fixture
def rotate_while(run_python):
    """Rotate, NEW before OLD, while somebody does what this code says."""

    def rotate_while(act, times=1):
        code = f"{MEANWHILE}\nreport = rotate_while(lambda: {act}, {times})"
        return reported(run_python, code)

    return rotate_while


def reported(run_python, code, *keys):
    code = f"import json\n{code}\nprint(json.dumps(report.as_dict()))"
    return json.loads(run_python(code, **site(*(keys or (NEW, OLD)))))


def ciphertexts(user):
    row = raw_row(user)
    return {name: row[name] and bytes(row[name]) for name in COLUMNS}


def opened(key, user, column="session_data"):
    """What the key, and no other, makes of a stored column."""
    return Fernet(derive_fernet_key(key)).decrypt(ciphertexts(user)[column])


def sealed(key, plaintext):
    """What a process that has only this key stores."""
    return Fernet(derive_fernet_key(key)).encrypt(plaintext)


def overwrite(user, column, ciphertext):
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {states.model._meta.db_table} SET {column} = %s WHERE user_id = %s",
            [ciphertext, user.pk],
        )


# What is rewritten


def test_every_column_comes_under_the_first_key(rotate, user):
    store(user)
    states.begin_challenge(user.pk, '{"cookies": []}')

    rotate()

    assert opened(NEW, user) == b"session"
    assert opened(NEW, user, "account_name") == b"ana@example.com"
    assert opened(NEW, user, "mfa_challenge") == b'{"cookies": []}'


def test_the_counts_are_of_rows(rotate, user, other_user):
    store(user)
    states.begin_challenge(user.pk, "{}")
    store(other_user)

    assert rotate() | {"duration_s": 0} == {
        "rows": 2,
        "rotated": 2,
        "current": 2,
        "left": 0,
        "unreadable": 0,
        "by_key": [2, 0],
        "stopped": None,
        "duration_s": 0,
    }


def test_the_plaintext_stays_byte_for_byte_also_where_it_is_no_text(rotate, user):
    store(user)
    overwrite(user, "session_data", sealed(OLD, b"\xff\x00 \r\n"))

    rotate()

    assert opened(NEW, user) == b"\xff\x00 \r\n"


def test_values_of_any_former_key_are_rewritten(rotate, user):
    store(user)
    overwrite(user, "session_data", sealed("older", b"older session"))

    counts = rotate(NEW, OLD, "older")

    assert opened(NEW, user) == b"older session"
    assert opened(NEW, user, "account_name") == b"ana@example.com"
    assert counts["by_key"] == [1, 0, 0]


def test_the_former_key_can_be_removed_afterwards(rotate, run_python, user, connect):
    connect(user)
    rotate()

    printed = run_python(
        "from django.contrib.auth.models import User\n"
        "from garmin_auth.sessions import garmin_client\n"
        "with garmin_client(User.objects.get()) as client: print(client.username)",
        **site(NEW),
    )

    assert printed == EMAIL


def test_a_second_run_writes_nothing(rotate, user):
    store(user)
    states.begin_challenge(user.pk, "{}")
    rotate()
    before = raw_row(user)

    counts = rotate()

    assert raw_row(user) == before
    assert (counts["rotated"], counts["current"]) == (0, 1)


def test_only_one_key_is_nothing_to_do(user):
    store(user)
    before = raw_row(user)

    report = rotate_keys()

    assert (report.rotated, report.current, report.by_key) == (0, 1, [1])
    assert raw_row(user) == before


def test_no_rows_are_nothing_to_do(rotate):
    assert rotate()["rows"] == 0


def test_a_row_that_holds_nothing_is_not_counted(rotate, user):
    store(user)
    states.disconnect(user.pk, "user")

    assert rotate()["rows"] == 0


def test_the_version_is_raised_by_one_where_the_session_is_rewritten(rotate, user):
    store(user)
    before = state_of(user).session_version

    rotate()

    assert state_of(user).session_version == before + 1


def test_the_version_stays_where_the_session_is_not_rewritten(rotate, user):
    states.begin_challenge(user.pk, "{}")
    before = state_of(user).session_version

    counts = rotate()

    assert counts["rotated"] == 1
    assert state_of(user).session_version == before


def test_what_says_when_things_happened_stays(rotate, user):
    store(user)
    started_at = states.begin_challenge(user.pk, "{}")
    states.count_attempt(state_of(user).pk, started_at, 5)
    before = raw_row(user)

    rotate()

    written = {name for name, value in raw_row(user).items() if value != before[name]}
    assert written == {*COLUMNS, "session_version", "updated_at"}


def test_more_rows_than_a_batch_are_rotated_once_each(rotate, django_user_model):
    users = [django_user_model.objects.create_user(f"user{number}") for number in range(5)]
    for user in users:
        store(user)

    counts = rotate(call="rotate_keys(batch_size=2)")

    assert (counts["rows"], counts["rotated"]) == (5, 5)
    assert {opened(NEW, user) for user in users} == {b"session"}


def test_no_query_asks_for_more_rows_than_a_batch_and_none_is_in_a_transaction(
    run_python, user, other_user
):
    store(user)
    store(other_user)

    printed = run_python(
        "from django.db import connection\n"
        "from garmin_auth.rotation import rotate_keys\n"
        "seen = []\n"
        "def look(execute, sql, *rest):\n"
        "    seen.append((sql, connection.in_atomic_block))\n"
        "    return execute(sql, *rest)\n"
        "with connection.execute_wrapper(look):\n"
        "    rotate_keys(batch_size=1)\n"
        "reads = [sql for sql, _ in seen if 'COUNT' not in sql and sql.startswith('SELECT')]\n"
        "writes = [sql for sql, _ in seen if sql.startswith('UPDATE')]\n"
        "print(len(reads), all(sql.endswith(' LIMIT 1') for sql in reads), len(writes))\n"
        "print(any(atomic for _, atomic in seen), any('BEGIN' in sql for sql, _ in seen))",
        **site(NEW, OLD),
    )

    assert printed.splitlines() == ["6 True 2", "False False"]


def test_it_does_not_run_inside_a_transaction(user):
    with pytest.raises(RuntimeError, match=r"rotate_keys\(\)"), transaction.atomic():
        rotate_keys()


# Rows that no key opens


@pytest.mark.parametrize("column", COLUMNS)
def test_what_no_key_opens_is_counted_and_left_byte_for_byte(rotate, user, column):
    store(user)
    states.begin_challenge(user.pk, "{}")
    damage(user, column)

    counts = rotate()

    assert (counts["unreadable"], counts["left"]) == (1, 0)
    assert ciphertexts(user)[column] == b"x"


def test_a_row_of_which_no_key_opens_anything_is_not_written_at_all(rotate, user):
    store(user)
    before = raw_row(user)

    counts = rotate(NEW, "another")

    assert (counts["unreadable"], counts["rotated"]) == (1, 0)
    assert raw_row(user) == before


def test_a_session_beside_an_unreadable_name_outlives_the_former_key(rotate, user):
    store(user)
    damage(user, "account_name")

    rotate()

    assert opened(NEW, user) == b"session"


def test_an_unreadable_session_does_not_raise_the_version(rotate, user):
    store(user)
    damage(user)
    before = state_of(user).session_version

    rotate()

    assert state_of(user).session_version == before


def test_unreadable_rows_do_not_keep_others_from_being_rotated(rotate, user, other_user):
    store(user)
    store(other_user)
    damage(user)

    counts = rotate(call="rotate_keys(batch_size=1)")

    assert (counts["rows"], counts["current"], counts["unreadable"]) == (2, 1, 1)
    assert opened(NEW, other_user) == b"session"


# Live traffic


def test_a_disconnect_during_the_rotation_stays(rotate_while, user):
    store(user)

    counts = rotate_while("states.disconnect(user.pk, 'user')")

    assert ciphertexts(user) == dict.fromkeys(COLUMNS)
    assert state_of(user).ended_reason == "user"
    assert (counts["rows"], counts["rotated"]) == (0, 0)


def test_a_deletion_during_the_rotation_stays(rotate_while, user):
    store(user)

    assert rotate_while("user.delete()")["rows"] == 0
    assert not states.exists()


def test_a_refresh_between_reading_and_writing_wins(rotate_while, user):
    store(user)

    counts = rotate_while("states.replace_session(row.pk, row.session_version, 'refreshed')")

    assert opened(NEW, user) == b"refreshed"
    assert counts["current"] == 1


def test_what_a_process_without_the_new_key_writes_meanwhile_is_rotated_too(rotate_while, user):
    store(user)
    before = state_of(user).session_version

    counts = rotate_while(f"overwrite({sealed(OLD, b'refreshed')!r})")

    assert opened(NEW, user) == b"refreshed"
    assert (counts["rotated"], counts["left"]) == (1, 0)
    assert state_of(user).session_version == before + 2


def test_a_new_login_during_the_rotation_wins(rotate_while, user):
    store(user)

    rotate_while(
        "states.connect(user.pk, engine='garth', session_data='new', account_name='new', "
        "validated_at=None)"
    )

    assert opened(NEW, user) == b"new"
    assert opened(NEW, user, "account_name") == b"new"


def test_cookies_that_a_wrong_code_changed_are_not_overwritten(rotate_while, user):
    states.begin_challenge(user.pk, "before")

    rotate_while("states.update_challenge(row.pk, row.mfa_started_at, 'after')")

    assert opened(NEW, user, "mfa_challenge") == b"after"


def test_a_cancelled_login_does_not_come_back(rotate_while, user):
    store(user)
    states.begin_challenge(user.pk, "{}")

    rotate_while("states.end_challenge(user.pk)")

    assert ciphertexts(user)["mfa_challenge"] is None
    assert opened(NEW, user) == b"session"


def test_a_second_login_during_the_rotation_wins(rotate_while, user):
    states.begin_challenge(user.pk, "first")

    rotate_while("states.begin_challenge(user.pk, 'second')")

    assert opened(NEW, user, "mfa_challenge") == b"second"


def test_an_attempt_counted_during_the_rotation_stays_counted(rotate_while, user):
    states.begin_challenge(user.pk, "{}")

    rotate_while("states.count_attempt(row.pk, row.mfa_started_at, 5)")

    assert state_of(user).mfa_attempts == 1
    assert opened(NEW, user, "mfa_challenge") == b"{}"


def test_a_row_that_keeps_changing_is_left_for_the_next_run(rotate_while, user):
    store(user)

    counts = rotate_while(
        "states.update(session_version=states.get(pk=row.pk).session_version + 1)", times=99
    )

    assert (counts["rotated"], counts["left"], counts["by_key"]) == (0, 1, [0, 1])
    assert opened(OLD, user) == b"session"


def test_what_a_process_without_the_new_key_writes_behind_the_rotation_is_told(run_python, user):
    store(user)

    counts = reported(
        run_python,
        f"{MEANWHILE}\n"
        "def behind(step, done, total):\n"
        f"    if step == 'rotating': overwrite({sealed(OLD, b'late')!r})\n"
        "report = rotate_keys(on_progress=behind)",
    )

    assert (counts["rotated"], counts["left"], counts["current"]) == (1, 1, 0)


def test_a_row_under_a_lease_is_left_until_it_is_given_back(rotate, user):
    store(user)
    state = state_of(user)
    states.take_lease(state.pk, state.session_version, "worker", 60)

    assert rotate()["left"] == 1
    assert states.replace_session(state.pk, state.session_version, "refreshed")
    assert rotate()["left"] == 0
    assert opened(NEW, user) == b"refreshed"


def test_a_lease_that_is_over_does_not_hold_the_rotation_up(rotate, user):
    store(user)
    state = state_of(user)
    states.take_lease(state.pk, state.session_version, "killed worker", -1)

    assert rotate()["left"] == 0


# With Garmin

USE = f"""
import sys
from django.contrib.auth.models import User
from garmin_auth.sessions import garmin_client
with garmin_client(User.objects.get(username="ana")) as client:
    print("open", flush=True)
    sys.stdin.readline()
    print(client.connectapi({PROFILE!r})["userName"], flush=True)
"""


@pytest.fixture
def worker(start_python):
    """Start a worker that opens ana's session, and calls Garmin once it is told to."""

    def worker():
        code = f"import django; django.setup()\n{USE}"
        process = start_python("-c", code, **site(NEW, OLD))
        assert process.stdout.readline() == "open\n"
        return process

    return worker


def finish(process):
    output, errors = process.communicate("go\n", timeout=60)
    assert process.returncode == 0, errors
    return output.strip()


def test_a_block_that_was_open_during_the_rotation_goes_on(worker, rotate, user, connect, garmin):
    connect(user)
    process = worker()

    rotate()

    assert finish(process) == EMAIL
    assert state_of(user).last_validated is not None
    assert garmin.counts["exchange"] == 0


def test_a_block_that_was_open_during_the_rotation_refreshes_and_stores(
    worker, rotate, user, connect, garmin
):
    connect(user)
    process = worker()
    before = opened(OLD, user)

    rotate()
    garmin.expire_access_tokens(EMAIL)

    assert finish(process) == EMAIL
    assert garmin.counts["exchange"] == 1
    assert opened(NEW, user) != before


def test_a_session_that_dies_after_the_rotation_is_cleared_by_a_block_that_was_open(
    start_python, worker, rotate, user, connect, garmin
):
    connect(user)
    process = worker()

    rotate()
    garmin.revoke(EMAIL)
    _, errors = process.communicate("go\n", timeout=60)

    assert "SessionExpired" in errors
    assert ciphertexts(user)["session_data"] is None


def test_a_rotation_that_races_a_refresh_loses_nothing(worker, rotate, user, connect, garmin, hold):
    connect(user)
    garmin.expire_access_tokens(EMAIL)
    before = opened(OLD, user)
    process, exchange = worker(), hold("exchange")
    process.stdin.write("go\n")
    process.stdin.flush()
    exchange.wait()

    left = rotate()["left"]  # It is left to its lease.
    exchange.release()

    assert finish(process) == EMAIL
    assert left == 1
    assert rotate()["left"] == 0
    assert garmin.counts["exchange"] == 1
    assert opened(NEW, user) != before


def test_a_pending_login_survives_and_its_code_still_works(
    rotate, run_python, user, mfa_account, garmin
):
    start_login(user, mfa_account, PASSWORD)

    rotate()
    run_python(
        "import sys\n"
        "from django.contrib.auth.models import User\n"
        "from garmin_auth.login import submit_mfa\n"
        "submit_mfa(User.objects.get(), sys.argv[1])",
        garmin.mfa_code(EMAIL),
        **site(NEW),
    )

    assert state_of(user).status == "active"
    assert opened(NEW, user, "account_name") == EMAIL.encode()


# One value


def test_the_site_of_the_tests_has_one_key():
    assert number_of_keys() == 1


def test_a_value_is_encrypted_anew_and_keeps_its_plaintext(user):
    store(user)
    former = ciphertexts(user)["session_data"]

    latter = under_first_key(former)

    assert latter != former
    assert key_of(latter) == 0
    assert Fernet(derive_fernet_key(OLD)).decrypt(latter) == b"session"


def test_a_value_that_no_key_opens_cannot_be_encrypted_anew():
    with pytest.raises(InvalidToken):
        under_first_key(b"x")
