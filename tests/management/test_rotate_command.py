"""``rotate_garmin_keys``, as somebody runs it in a shell: in a process of its own."""

import json
import os
import pty
import signal
from dataclasses import dataclass

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from garmin_auth.models import GarminAuthenticationState
from tests.conftest import raw_row, state_of
from tests.rows import damage, store
from tests.test_rotation import NEW, OLD, opened, overwrite, sealed, site
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
states = GarminAuthenticationState.objects

KEYS = [
    "rows",
    "rotated",
    "current",
    "left",
    "unreadable",
    "by_key",
    "stopped",
    "duration_s",
    "dry_run",
]
MANY = 1500


@dataclass
class Run:
    code: int
    output: str
    errors: str

    @property
    def counts(self):
        counts = json.loads(self.output)
        assert list(counts) == KEYS
        assert counts["current"] <= counts["rows"]
        assert counts["duration_s"] >= 0
        return counts


@pytest.fixture
def begin(start_python):
    """Start the command as a process, with NEW before OLD if no keys are said."""

    def begin(*arguments, keys=(NEW, OLD), **environment):
        return start_python(
            "manage.py", "rotate_garmin_keys", *arguments, **{**site(*keys), **environment}
        )

    return begin


@pytest.fixture
def run(begin):
    """Run the command as a process, to its end."""

    def run(*arguments, **options):
        return ended(begin(*arguments, **options))

    return run


@pytest.fixture
def many(db):
    """Store so many sessions that a run takes a while; return what they are, by user."""
    users = User.objects.bulk_create([User(username=f"user{number}") for number in range(MANY)])
    states.bulk_create(
        states.model(
            user=user,
            session_data=f"session of {user}",
            account_name=str(user),
            connected_at=timezone.now(),
        )
        for user in users
    )
    return {user.pk: f"session of {user}" for user in users}


def ended(process):
    output, errors = process.communicate(timeout=120)
    assert "Traceback" not in errors
    for key in (NEW, OLD):
        assert key not in output + errors
    return Run(process.returncode, output, errors)


def rotated():
    return states.filter(session_version__gt=0).count()


# All is well


def test_all_rotated_exits_0_and_says_so_in_one_line(run, user, other_user):
    store(user)
    store(other_user)

    result = run()

    assert (result.code, result.errors) == (0, "")
    assert result.output.startswith("Looked at 2 rows in ")
    assert result.output.endswith(" s: 2 rotated, 2 under the first key, 0 left, 0 unreadable.\n")
    assert opened(NEW, user) == b"session"


def test_json_is_one_line_with_exactly_the_documented_keys(run, user):
    store(user)

    result = run("--format", "json")

    assert (result.code, result.errors, result.output.count("\n")) == (0, "", 1)
    assert result.counts | {"duration_s": 0} == {
        "rows": 1,
        "rotated": 1,
        "current": 1,
        "left": 0,
        "unreadable": 0,
        "by_key": [1, 0],
        "stopped": None,
        "duration_s": 0,
        "dry_run": False,
    }


def test_nothing_to_do_exits_0(run, user):
    store(user)
    run()

    result = run("--format", "json")

    assert (result.code, result.errors) == (0, "")
    assert (result.counts["rotated"], result.counts["current"]) == (0, 1)


def test_an_empty_table_exits_0(run):
    result = run()

    assert (result.code, result.errors) == (0, "")
    assert result.output.startswith("Looked at 0 rows in ")


@pytest.mark.parametrize("size", ["1", "2", "3", "9" * 30])
def test_any_batch_size_rotates_all(run, django_user_model, size):
    for number in range(3):
        store(django_user_model.objects.create_user(f"user{number}"))

    result = run("--batch-size", size, "--format", "json")

    assert (result.code, result.counts["rotated"]) == (0, 3)


def test_without_fernet_keys_secret_key_is_the_only_key(run, user, tmp_path):
    lines = (
        "from tests.settings import *\ndel FERNET_KEYS\nSECRET_KEY = 'a-key-for-tests-and-the-demo'"
    )
    (tmp_path / "secret_settings.py").write_text(lines)
    store(user)

    result = run("--dry-run", DJANGO_SETTINGS_MODULE="secret_settings", PYTHONPATH=str(tmp_path))

    assert (result.code, result.errors) == (0, "")
    assert result.output.startswith("SECRET_KEY: 1 row\n")


# The dry run


def test_dry_run_counts_rows_by_key_and_writes_nothing(run, user, other_user):
    store(user)
    store(other_user)
    overwrite(other_user, "session_data", sealed(NEW, b"session"))
    before = raw_row(user), raw_row(other_user)

    result = run("--dry-run")

    assert result.output == (
        "FERNET_KEYS[0]: 1 row\nFERNET_KEYS[1]: 2 rows\nno key: 0 rows\n"
        "Looked at 2 rows. Nothing was written.\n"
    )
    assert (raw_row(user), raw_row(other_user)) == before


def test_dry_run_exits_4_while_a_former_key_is_needed(run, user):
    store(user)

    result = run("--dry-run", "--format", "json")

    assert (result.code, result.errors) == (4, "")
    assert (result.counts["by_key"], result.counts["left"]) == ([0, 1], 1)
    assert (result.counts["rotated"], result.counts["dry_run"]) == (0, True)


def test_dry_run_exits_0_once_no_former_key_is_needed(run, user):
    store(user)
    run()

    result = run("--dry-run", "--format", "json")

    assert (result.code, result.counts["by_key"]) == (0, [1, 0])


def test_dry_run_exits_3_where_no_key_opens_a_row(run, user):
    store(user)

    result = run("--dry-run", keys=("another",))

    assert result.code == 3
    assert "no key: 1 row\n" in result.output
    assert f"(primary keys): {state_of(user).pk}. " in result.errors


# Rows that no key opens


def test_unreadable_rows_exit_3_are_told_by_primary_key_and_kept(run, user, other_user):
    store(user)
    store(other_user)
    damage(user)
    damage(user, "account_name")
    before = raw_row(user)

    result = run("--format", "json")

    assert result.code == 3
    assert (result.counts["unreadable"], result.counts["current"]) == (1, 1)
    assert f"(primary keys): {state_of(user).pk}. Append the key they were" in result.errors
    assert result.errors.count("\n") == 1
    assert raw_row(user) == before
    assert opened(NEW, other_user) == b"session"


def test_many_unreadable_rows_are_told_up_to_twenty(run, django_user_model):
    for number in range(22):
        store(django_user_model.objects.create_user(f"user{number}"))
    pks = list(states.order_by("pk").values_list("pk", flat=True))

    result = run(keys=("another",))

    assert f": {', '.join(map(str, pks[:20]))} and 2 more. " in result.errors


# What is not finished


def test_a_row_that_is_in_use_throughout_exits_4_and_is_left(run, user):
    store(user)
    states.take_lease(state_of(user).pk, state_of(user).session_version, "worker", 60)
    before = raw_row(user)

    result = run("--format", "json")

    assert (result.code, result.counts["left"]) == (4, 1)
    assert result.errors.startswith("Another key is still needed for 1 row. ")
    assert raw_row(user) == before


def test_4_beats_3(run, user, other_user):
    store(user)
    store(other_user)
    damage(other_user)
    states.take_lease(state_of(user).pk, state_of(user).session_version, "worker", 60)

    assert run().code == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_the_batch_under_way(begin, run, many, number):
    process = begin("--batch-size", "50", "--format", "json")
    wait_until(rotated)

    process.send_signal(number)
    first = ended(process)
    done = rotated()
    second = run("--format", "json")

    assert (first.code, first.counts["stopped"]) == (4, "signal")
    assert first.errors == ("It was interrupted. The next run continues where this one stopped.\n")
    assert 0 < done < MANY
    assert done % 50 == 0
    assert first.counts["rotated"] == done
    assert (second.code, second.counts["rotated"]) == (0, MANY - done)


def test_a_killed_run_is_resumed_and_no_session_is_lost_or_rotated_twice(
    begin, run, run_python, many
):
    process = begin("--batch-size", "50")
    wait_until(lambda: rotated() > 200)
    process.kill()
    process.wait()
    done = rotated()

    result = run("--format", "json")

    assert done < MANY
    assert (result.code, result.counts["by_key"]) == (0, [MANY, 0])
    assert result.counts["rotated"] == MANY - done
    assert set(states.values_list("session_version", flat=True)) == {1}
    printed = run_python(
        "import json\n"
        "from garmin_auth.models import GarminAuthenticationState as State\n"
        "rows = State.objects.values_list('user_id', 'session_data')\n"
        "print(json.dumps([(pk, data.decrypt()) for pk, data in rows]))",
        **site(NEW),
    )
    assert dict(json.loads(printed)) == many


def test_two_runs_at_once_rotate_each_row_once(begin, many):
    both = [begin("--format", "json") for _ in range(2)]

    results = [ended(process) for process in both]

    assert [result.code for result in results] == [0, 0]
    assert sum(result.counts["rotated"] for result in results) == MANY
    assert set(states.values_list("session_version", flat=True)) == {1}


# Progress


def test_progress_is_rewritten_in_place_on_a_terminal(begin, user, other_user):
    store(user)
    store(other_user)

    output, errors = on_a_terminal(begin, "--batch-size", "1")

    assert output.startswith("Looked at 2 rows in ")
    assert errors.split("\r")[1:] == [
        "rotating: 1 of 2 rows",
        "rotating: 2 of 2 rows",
        "counting: 1 of 2 rows",
        "counting: 2 of 2 rows",
        "\n",
    ]


def test_a_dry_run_on_a_terminal_only_counts(begin, user):
    store(user)

    _, errors = on_a_terminal(begin, "--dry-run")

    assert errors.split("\r")[1:] == ["counting: 1 of 1 rows", "\n"]


def on_a_terminal(begin, *arguments):
    """Run the command with a terminal as standard error."""
    terminal, end = pty.openpty()
    process = begin("--no-color", *arguments, streams={"stderr": end})
    os.close(end)
    output, _ = process.communicate(timeout=60)
    errors = os.read(terminal, 65_536).decode()
    os.close(terminal)
    return output, errors


# Bad use, and a broken set-up


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--no-such-option"], "unrecognized arguments: --no-such-option"),
        (["--batch-size", "0"], "'0' is not a number greater than 0"),
        (["--batch-size", "-1"], "'-1' is not a number greater than 0"),
        (["--batch-size", "x"], "'x' is not a number greater than 0"),
        (["--format", "xml"], "invalid choice: 'xml'"),
        (["extra"], "unrecognized arguments: extra"),
    ],
)
def test_bad_use_exits_2_with_a_sentence(run, arguments, sentence):
    result = run(*arguments)

    assert (result.code, result.output) == (2, "")
    assert sentence in result.errors


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_database_without_tables_exits_1_with_a_sentence(run, tmp_path, options):
    result = run(
        *options,
        GARMIN_AUTH_TEST_DATABASE="sqlite",
        GARMIN_AUTH_DATABASE_NAME=str(tmp_path / "empty.sqlite3"),
    )

    assert (result.code, result.output) == (1, "")
    assert result.errors.startswith("CommandError: The database cannot be used: no such table")
    assert "manage.py migrate" in result.errors


@pytest.mark.parametrize("options", [[], ["--skip-checks"], ["--skip-checks", "--dry-run"]])
@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ([], "FERNET_KEYS must be a list with at least one key"),
        ([NEW, ""], "FERNET_KEYS[1] is not a usable key."),
        ([NEW, 5], "FERNET_KEYS[1] is not a usable key."),
    ],
)
def test_keys_that_cannot_be_used_exit_1_with_a_sentence(run, user, options, keys, sentence):
    store(user)
    before = raw_row(user)

    result = run(*options, keys=keys)

    assert (result.code, result.output) == (1, "")
    assert sentence in result.errors
    assert raw_row(user) == before


def test_another_bad_setting_exits_1_with_a_sentence(run, user, tmp_path):
    store(user)
    before = raw_row(user)
    (tmp_path / "bad_settings.py").write_text(
        "from tests.rotation_settings import *\nGARMIN_AUTH_DOMAIN = 'evil.example'"
    )

    result = run(DJANGO_SETTINGS_MODULE="bad_settings", PYTHONPATH=str(tmp_path))

    assert (result.code, result.output) == (1, "")
    assert "GARMIN_AUTH_DOMAIN must be one of" in result.errors
    assert raw_row(user) == before
