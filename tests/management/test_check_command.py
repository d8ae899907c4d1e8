"""``check_garmin_sessions``, mostly as cron runs it: in a process of its own."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import StringIO
from zoneinfo import ZoneInfo

import pytest
from django.contrib.auth.models import UserManager
from django.core.management import CommandError, call_command
from django.db import connections
from django.utils import timezone

from garmin_auth.checking.claims import CheckRun, due_sessions
from garmin_auth.management.commands.check_garmin_sessions import EXIT_EXPIRED
from garmin_auth.models import GarminAuthenticationState, Status
from garmin_auth.storage.querysets import UNREPORTED
from tests.conftest import ROOT, child_environment, raw_row, state_of
from tests.fork_server import CLOSED
from tests.rows import damage
from tests.waiting import wait_until

KEYS = [
    "checked",
    "active",
    "refreshed",
    "expired",
    "unknown",
    "unreadable",
    "failing",
    "skipped",
    "stopped",
    "left_out",
    "duration_s",
    "rate",
    "engines",
]
in_a_process = pytest.mark.django_db(transaction=True)
states = GarminAuthenticationState.objects


@dataclass
class Run:
    code: int
    output: str
    errors: str

    @property
    def counts(self):
        """What ``--format json`` printed, proven to add up."""
        counts = json.loads(self.output)
        assert list(counts) == KEYS
        judged = sum(counts[name] for name in ("active", "expired", "unknown", "unreadable"))
        assert counts["checked"] == judged
        assert counts["refreshed"] <= counts["active"]
        assert counts["duration_s"] >= 0
        for name in ("checked", "active", "expired", "unknown", "unreadable"):
            assert sum(engine[name] for engine in counts["engines"].values()) == counts[name]
        return counts


@pytest.fixture
def begin(start_python):
    """Start the command as a process."""

    def begin(*arguments, **environment):
        return start_python("manage.py", "check_garmin_sessions", *arguments, **environment)

    return begin


@pytest.fixture
def run(begin):
    """Run the command as a process, to its end."""

    def run(*arguments, **environment):
        return ended(begin(*arguments, **environment))

    return run


@pytest.fixture
def call(db):
    """Run the command in this process."""

    def call(*arguments):
        output, errors, code = StringIO(), StringIO(), 0
        try:
            call_command("check_garmin_sessions", *arguments, stdout=output, stderr=errors)
        except SystemExit as exc:
            code = exc.code
        return Run(code, output.getvalue(), errors.getvalue())

    return call


@pytest.fixture
def connected(django_user_model, connect):
    """Return users of these names, with a session of <name>@example.com each."""

    def connected(*names, **options):
        users = [django_user_model.objects.create_user(name) for name in names]
        for user in users:
            connect(user, email_of(user), **options)
        return users

    return connected


def ended(process):
    output, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    return Run(process.returncode, output, errors)


def email_of(user):
    return f"{user.username}@example.com"


def asked(garmin):
    """Whose sessions Garmin was asked about, in order."""
    return [entry["account"] for entry in garmin.log if entry["step"] == "api"]


def checked_ago(user, **ago):
    states.filter(user_id=user.pk).update(last_checked_at=timezone.now() - timedelta(**ago))


def validated_ago(user, **ago):
    states.filter(user_id=user.pk).update(last_validated=timezone.now() - timedelta(**ago))


# All is well


@in_a_process
def test_a_live_session_exits_0_and_is_silent_on_standard_error(run, connected):
    connected("ana")

    result = run()

    assert (result.code, result.errors) == (0, "")
    assert result.output.startswith("Checked 1 Garmin session in ")
    assert result.output.endswith("/s): 1 active (0 refreshed).\n")


@in_a_process
def test_json_is_one_line_with_exactly_the_documented_keys(run, connected):
    connected("ana", "ben")

    result = run("--format", "json")

    assert (result.code, result.errors) == (0, "")
    assert result.output.count("\n") == 1
    assert result.counts | {"duration_s": 0, "rate": 0} == {
        "checked": 2,
        "active": 2,
        "refreshed": 0,
        "expired": 0,
        "unknown": 0,
        "unreadable": 0,
        "failing": 0,
        "skipped": 0,
        "stopped": None,
        "left_out": [],
        "duration_s": 0,
        "rate": 0,
        "engines": {
            "garth": {"checked": 2, "active": 2, "expired": 0, "unknown": 0, "unreadable": 0}
        },
    }


def test_no_session_at_all_exits_0(call):
    result = call()

    assert (result.code, result.errors) == (0, "")
    assert result.output.startswith("Checked 0 Garmin sessions in ")


def test_the_duration_is_that_of_the_run(call, connected, garmin):
    connected("ana")
    garmin.set_latency(0.3)

    assert 0.3 <= call("--format", "json").counts["duration_s"] < 10


def test_a_session_costs_one_call(call, connected, garmin):
    connected("ana")

    call()

    assert (garmin.counts["api"], garmin.counts["exchange"]) == (1, 0)


def test_an_expired_access_token_is_refreshed_and_stored(call, connected, garmin):
    ana, _ = *connected("ana", access_expired=True), *connected("ben")
    before = raw_row(ana)["session_data"]

    counts = call("--format", "json").counts

    assert (counts["active"], counts["refreshed"]) == (2, 1)
    assert raw_row(ana)["session_data"] != before
    assert garmin.counts["exchange"] == 1


def test_a_refreshed_session_is_counted_in_the_text(call, connected):
    connected("ana", access_expired=True)

    assert "1 active (1 refreshed)." in call().output


def test_active_sessions_are_not_listed(call, connected):
    connected("ana")

    assert "ana" not in call().output


def test_verbosity_2_lists_active_sessions(call, connected):
    connected("ana")
    connected("ben", access_expired=True)

    first, second, _ = call("-v", "2").output.splitlines()

    assert first.split() == ["active", "ana"]
    assert second.split() == ["active", "ben", "refreshed"]


# Somebody must act


@in_a_process
def test_a_dead_session_exits_3_and_names_the_user_on_standard_error(run, connected, garmin):
    ana, _ = connected("ana", "ben")
    garmin.revoke(email_of(ana))

    result = run()

    assert result.code == 3
    assert result.errors == (
        "Garmin has ended these users' sessions. They have to connect again: ana\n"
    )
    assert "1 active (0 refreshed), 1 expired." in result.output
    assert state_of(ana).status == Status.DISCONNECTED


def test_a_dead_session_is_listed(call, connected, garmin):
    garmin.revoke(email_of(*connected("ana")))

    assert call().output.splitlines()[0].split()[:2] == ["expired", "ana"]


def test_a_dead_session_is_reported_once(call, connected, garmin):
    garmin.revoke(email_of(*connected("ana")))
    call()

    result = call("--format", "json")

    assert (result.code, result.counts["checked"], result.errors) == (0, 0, "")


def test_many_dead_are_named_up_to_twenty(call, connected, garmin):
    for number in range(22):
        (dead,) = connected(f"dead{number:02}")
        garmin.revoke(email_of(dead))
        # Garmin accepts somebody in between: it is about these sessions, not about all.
        connected(f"live{number:02}", access_expired=True)

    errors = call().errors

    assert "connect again: dead00, dead01, " in errors
    assert errors.endswith(", dead19 and 2 more\n")


@in_a_process
def test_a_fault_exits_4_keeps_the_session_and_names_the_user(run, connected, garmin):
    (ana,) = connected("ana")
    before = raw_row(ana)["session_data"]
    garmin.fail("api", "status")

    result = run("--format", "json")

    assert (result.code, result.counts["unknown"], result.counts["stopped"]) == (4, 1, None)
    assert result.errors == "The state of these users' sessions is unknown. They are kept: ana\n"
    assert raw_row(ana)["session_data"] == before


def test_times_are_told_in_utc_whatever_zone_the_database_has(
    call, connected, garmin, monkeypatch, caplog
):
    (ana,) = connected("ana")
    # As with TIME_ZONE in DATABASES.
    monkeypatch.setitem(vars(connections["default"]), "timezone", ZoneInfo("Asia/Tokyo"))
    began = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    times = dict.fromkeys(("connected_at", "failing_since", "last_checked_at"), began)
    states.filter(user_id=ana.pk).update(**times)
    garmin.fail("api", "status", status=503)

    assert "(last checked 2026-01-02 03:04 UTC)" in call("--dry-run").output
    assert "has worked at garmin.com since 2026-01-02 03:04 UTC." in call().errors
    assert "has worked at garmin.com since 2026-01-02 03:04 UTC," in caplog.text


@in_a_process
def test_4_beats_3(run, connected, garmin):
    ana, ben = connected("ana", "ben")
    garmin.revoke(email_of(ana))
    garmin.fail("api", "status", account=email_of(ben))

    result = run("--format", "json")

    assert (result.counts["expired"], result.counts["unknown"]) == (1, 1)
    assert result.code == 4
    assert [line.rpartition(": ")[2] for line in result.errors.splitlines()] == ["ana", "ben"]


@in_a_process
def test_unreadable_alone_exits_0_and_is_said_once(run, connected, garmin):
    ana, _ = connected("ana", "ben")
    damage(ana)

    result = run("--format", "json")

    assert result.code == 0
    assert (result.counts["unreadable"], result.counts["active"]) == (1, 1)
    assert result.errors.startswith(
        "No key in FERNET_KEYS decrypts 1 of the 2 stored Garmin sessions "
    )
    assert result.errors.count("\n") == 1
    assert bytes(raw_row(ana)["session_data"]) == b"x"


def test_unreadable_rows_that_the_sample_misses_are_said_once(call, connected, monkeypatch):
    monkeypatch.setattr("garmin_auth.checks.SAMPLE", 1)
    _, ben, _ = connected("ana", "ben", "cleo")
    damage(ben)

    result = call()

    assert result.code == 0
    assert result.errors == "These users' sessions cannot be opened. They are kept: ben\n"


def test_unreadable_does_not_hide_a_death(call, connected, garmin):
    ana, ben = connected("ana", "ben")
    damage(ana)
    garmin.revoke(email_of(ben))

    assert call().code == 3


# Two engines


def of_engine(name, *users):
    states.filter(user__in=users).update(engine=name)


def test_one_engine_has_no_line_of_its_own(call, connected):
    connected("ana", "ben")

    assert call().output.count("\n") == 1


def test_two_engines_have_a_line_each(call, connected, garmin, settings):
    settings.GARMIN_AUTH_ENGINES = {"other": "garmin_auth.engines.garth.GarthEngine"}
    ana, _, cleo = connected("ana", "ben", "cleo")
    of_engine("other", ana)
    garmin.revoke(email_of(cleo))

    lines = call().output.splitlines()

    assert lines[-2:] == [
        "  garth: 2 checked, 1 active, 1 expired",
        "  other: 1 checked, 1 active",
    ]


def test_sessions_of_an_engine_that_is_not_installed_are_said_once(call, connected):
    ana, ben, _ = connected("ana", "ben", "cleo")
    of_engine("another", ana, ben)

    result = call("--format", "json")

    assert (result.code, result.counts["unreadable"]) == (0, 2)
    assert result.counts["engines"]["another"]["unreadable"] == 2
    assert result.errors.startswith("Garmin sessions of the engine 'another' are stored, ")
    assert result.errors.count("\n") == 1


def test_an_engine_that_is_not_installed_does_not_hide_a_row_that_no_key_opens(
    call, connected, monkeypatch
):
    monkeypatch.setattr("garmin_auth.checks.SAMPLE", 1)
    ana, ben, _ = connected("ana", "ben", "cleo")
    of_engine("another", ana)
    damage(ben)

    errors = call().errors.splitlines()

    assert errors[1:] == ["These users' sessions cannot be opened. They are kept: ben"]


# Early ends


@in_a_process
def test_a_rate_limit_stops_the_run(run, connected, garmin):
    connected("ana", "ben", "cleo")
    garmin.fail("api", "rate_limited")

    result = run("--format", "json")

    assert (result.counts["stopped"], result.counts["checked"]) == ("rate_limited", 1)
    assert result.code == 4
    assert "The run stopped early. Garmin is rate limiting this site." in result.errors
    assert "services were skipped: garth at garmin.com\n" in result.errors
    assert result.counts["left_out"] == ["garth at garmin.com"]
    assert garmin.counts["api"] == 1


def test_a_rate_limit_of_the_exchange_stops_the_run(call, connected, garmin):
    connected("ana", "ben", access_expired=True)
    garmin.fail("exchange", "rate_limited")

    result = call("--format", "json")

    assert (result.counts["stopped"], result.code) == ("rate_limited", 4)


@in_a_process
def test_five_faults_in_a_row_stop_the_run(run, connected, garmin):
    connected(*(f"user{number}" for number in range(7)))
    garmin.fail("api", "status", times=None)

    result = run("--format", "json")

    assert (result.counts["stopped"], result.counts["unknown"]) == ("unavailable", 5)
    assert result.code == 4
    assert "The run stopped early. Garmin is down" in result.errors
    assert "services were skipped: garmin.com\n" in result.errors
    assert garmin.counts["api"] == 5


def test_a_session_that_works_interrupts_the_faults(call, connected, garmin):
    users = connected(*(f"user{number}" for number in range(9)))
    for user in users[:4] + users[5:]:
        garmin.fail("api", "status", account=email_of(user))

    counts = call("--format", "json").counts

    assert (counts["stopped"], counts["checked"], counts["unknown"]) == (None, 9, 8)


def test_a_row_about_which_garmin_was_not_asked_does_not_interrupt_the_faults(
    call, connected, garmin
):
    users = connected(*(f"user{number}" for number in range(8)))
    damage(users[2])
    garmin.fail("api", "status", times=None)

    counts = call("--format", "json").counts

    assert (counts["stopped"], counts["unknown"], counts["unreadable"]) == ("unavailable", 5, 1)


@in_a_process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_what_is_in_flight_and_reports(begin, run, connected, garmin, number):
    users = connected("ana", "ben", "cleo")
    garmin.set_latency(1)
    process = begin("--format", "json")
    wait_until(lambda: garmin.counts["connect"])

    process.send_signal(number)
    first = ended(process)
    garmin.set_latency(0)
    second = run("--format", "json", "--max-age", "1h")

    assert first.code == 4
    assert (first.counts["stopped"], first.counts["active"]) == ("signal", 1)
    assert first.errors == (
        "The run stopped early. It was interrupted. The next run continues where it stopped.\n"
    )
    assert (second.code, second.counts["checked"], second.counts["skipped"]) == (0, 2, 1)
    assert asked(garmin) == [email_of(user) for user in users]


@in_a_process
def test_a_signal_during_the_last_check_changes_nothing(begin, connected, garmin):
    connected("ana")
    garmin.set_latency(1)
    process = begin("--format", "json")
    wait_until(lambda: garmin.counts["connect"])

    process.send_signal(signal.SIGTERM)
    result = ended(process)

    assert (result.code, result.counts["active"], result.counts["stopped"]) == (0, 1, None)


def test_the_command_gives_the_signals_back(call, connected):
    before = signal.getsignal(signal.SIGTERM)
    connected("ana")

    call()

    assert signal.getsignal(signal.SIGTERM) is before


def test_a_caller_who_handles_a_signal_is_told_of_it_too(call, connected, garmin):
    """Such as a command that checks one tenant after the other."""
    connected("ana", "ben")
    garmin.set_latency(1)
    told = []
    before = signal.signal(signal.SIGTERM, lambda *received: told.append(received))

    def interrupt():
        wait_until(lambda: garmin.counts["api"])
        os.kill(os.getpid(), signal.SIGTERM)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    try:
        result = call("--format", "json")
    finally:
        interrupting.join()
        signal.signal(signal.SIGTERM, before)

    assert (result.code, json.loads(result.output)["stopped"]) == (4, "signal")
    assert len(told) == 1


# Which sessions, and in which order


def test_the_oldest_check_comes_first_and_never_checked_before_that(call, connected, garmin):
    ana, ben, cleo, dora = connected("ana", "ben", "cleo", "dora")
    checked_ago(ana, hours=1)
    checked_ago(cleo, days=2)
    checked_ago(dora, days=1)

    call()

    assert asked(garmin) == [email_of(user) for user in (ben, cleo, dora, ana)]


def test_more_rows_than_a_batch_are_checked_once_each(call, connected, garmin, monkeypatch):
    monkeypatch.setattr("garmin_auth.health.MIN_BATCH", 2)
    users = connected("ana", "ben", "cleo", "dora", "emil")

    assert call("--format", "json").counts["checked"] == 5
    assert asked(garmin) == [email_of(user) for user in users]


def test_faults_and_unreadable_rows_do_not_come_twice(call, connected, garmin, monkeypatch):
    monkeypatch.setattr("garmin_auth.health.MIN_BATCH", 1)
    users = connected("ana", "ben", "cleo")
    damage(users[1])
    garmin.fail("api", "status", account=email_of(users[0]), times=None)

    assert call("--format", "json").counts["checked"] == 3


@pytest.mark.parametrize(("limit", "checked"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (99, 5)])
def test_limit_holds_over_batches(call, connected, garmin, monkeypatch, limit, checked):
    monkeypatch.setattr("garmin_auth.health.MIN_BATCH", 2)
    connected("ana", "ben", "cleo", "dora", "emil")

    assert call("--limit", str(limit), "--format", "json").counts["checked"] == checked
    assert garmin.counts["api"] == checked


@in_a_process
def test_limited_runs_take_turns(run, connected, garmin):
    users = connected("ana", "ben", "cleo")

    codes = [run("--limit", "2").code for _ in range(2)]

    assert codes == [0, 0]
    ana, ben, cleo = map(email_of, users)
    assert asked(garmin) == [ana, ben, cleo, ana]


@pytest.mark.parametrize(
    ("age", "validated", "checked"),
    [
        ("0", {"seconds": 1}, 1),
        ("60", {"seconds": 90}, 1),
        ("60", {"seconds": 30}, 0),
        ("90s", {"seconds": 60}, 0),
        ("30m", {"minutes": 31}, 1),
        ("30m", {"minutes": 29}, 0),
        ("12h", {"hours": 13}, 1),
        ("12h", {"hours": 11}, 0),
        ("2d", {"hours": 49}, 1),
        ("2d", {"hours": 47}, 0),
    ],
)
def test_max_age_skips_what_was_validated_since(call, connected, age, validated, checked):
    validated_ago(*connected("ana"), **validated)

    counts = call("--max-age", age, "--format", "json").counts

    assert (counts["checked"], counts["skipped"]) == (checked, 1 - checked)


def test_max_age_checks_what_was_never_validated(call, connected):
    connected("ana")

    assert call("--max-age", "2d", "--format", "json").counts["checked"] == 1


def test_max_age_goes_by_validation_not_by_checks(call, connected):
    (ana,) = connected("ana")
    validated_ago(ana, days=3)
    checked_ago(ana, hours=1)

    assert call("--max-age", "2d", "--format", "json").counts["checked"] == 1


def test_what_max_age_skips_is_said_in_the_text(call, connected):
    validated_ago(*connected("ana"), minutes=1)

    assert "0 active (0 refreshed), 1 skipped." in call("--max-age", "1h").output


@in_a_process
def test_user_checks_only_that_user(run, connected, garmin):
    _, ben = connected("ana", "ben")

    result = run("--user", "ben", "--format", "json")

    assert (result.code, result.counts["checked"], result.counts["skipped"]) == (0, 1, 0)
    assert asked(garmin) == [email_of(ben)]


def test_user_and_max_age_count_only_that_user(call, connected):
    for user in connected("ana", "ben"):
        validated_ago(user, minutes=1)

    counts = call("--user", "ben", "--max-age", "1h", "--format", "json").counts

    assert (counts["checked"], counts["skipped"]) == (0, 1)


def test_a_user_without_a_session_is_no_fault(call, user):
    result = call("--user", "ana", "--format", "json")

    assert (result.code, result.counts["checked"], result.errors) == (0, 0, "")


def test_a_connected_user_with_a_pending_login_is_checked(call, connected):
    (ana,) = connected("ana")
    states.begin_challenge(ana.pk, "{}")

    assert call("--format", "json").counts["active"] == 1


# What is written


def test_an_active_session_is_validated_and_checked_now(call, connected):
    (ana,) = connected("ana")
    before = timezone.now()

    call()

    assert state_of(ana).last_checked_at >= before
    assert state_of(ana).last_validated >= before


@pytest.mark.parametrize("fate", ["dead", "fault", "rate_limited", "unreadable", "other_engine"])
def test_a_check_that_fails_is_noted_as_a_check_and_not_as_a_success(call, connected, garmin, fate):
    (ana,) = connected("ana")
    before = timezone.now()
    if fate == "dead":
        garmin.revoke(email_of(ana))
    elif fate == "unreadable":
        damage(ana)
    elif fate == "other_engine":
        states.update(engine="another")
    else:
        garmin.fail("api", "status" if fate == "fault" else fate)

    call()

    assert state_of(ana).last_checked_at >= before
    assert state_of(ana).last_validated is None


def test_stale_challenges_are_purged_and_fresh_ones_kept(call, connected, user, other_user):
    (cleo,) = connected("cleo")
    for someone in (user, other_user, cleo):
        states.begin_challenge(someone.pk, "{}")
    stale = timezone.now() - timedelta(seconds=601)
    states.exclude(user_id=other_user.pk).update(mfa_started_at=stale)

    call()

    assert state_of(user).status == Status.DISCONNECTED
    assert state_of(other_user).status == Status.MFA_PENDING
    assert state_of(cleo).status == Status.ACTIVE


@in_a_process
def test_dry_run_names_who_is_due_and_asks_and_writes_nothing(run, connected, garmin):
    ana, ben, cleo = connected("ana", "ben", "cleo")
    checked_ago(ana, days=1)
    states.begin_challenge(ben.pk, "{}")
    states.filter(user_id=ben.pk).update(mfa_started_at=timezone.now() - timedelta(days=1))
    damage(cleo)
    before = [raw_row(user) for user in (ana, ben, cleo)]

    result = run("--dry-run")

    assert result.code == 0
    first, second, third, last = result.output.splitlines()
    assert first == "would check ben (never checked)"
    assert second == "would check cleo (never checked)"
    assert third.startswith("would check ana (last checked 20")
    assert last == "3 sessions would be checked. Nothing was done."
    assert [raw_row(user) for user in (ana, ben, cleo)] == before
    assert sum(garmin.counts.values()) == 0


def test_dry_run_of_one_session_is_in_the_singular(call, connected):
    connected("ana")

    assert "\n1 session would be checked." in call("--dry-run").output


def test_dry_run_follows_user_limit_and_max_age(call, connected):
    ana, *_ = connected("ana", "ben", "cleo", "dora")
    validated_ago(ana, minutes=1)

    assert "\n1 session " in call("--dry-run", "--user", "ben").output
    assert "\n2 sessions " in call("--dry-run", "--limit", "2").output
    assert "\n3 sessions " in call("--dry-run", "--max-age", "1h").output


def test_dry_run_in_json_says_how_many_are_due(call, connected):
    connected("ana", "ben")

    said = json.loads(call("--dry-run", "--format", "json").output)

    assert said["dry_run"] is True
    assert (said["due"], said["checked"]) == (2, 0)


# Bad use, and a broken set-up


@in_a_process
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--no-such-option"], "unrecognized arguments: --no-such-option"),
        (["--max-age", "nonsense"], "'nonsense' is not a time: write seconds"),
        (["--max-age", "-1"], "'-1' is not a time"),
        (["--max-age", "1.5h"], "'1.5h' is not a time"),
        (["--max-age", ""], "'' is not a time"),
        (["--max-age", "999999d"], "'999999d' is more than 3650 days"),
        (["--max-age", "9" * 400], "is not a time"),
        (["--jitter", "soon"], "'soon' is not a time: write seconds"),
        (["--workers", "0"], "'0' is not a number greater than 0"),
        (["--workers", "257"], "257 is too many: at most 256 are allowed"),
        (["--rate", "0"], "'0' is not a rate: write checks a second"),
        (["--rate", "-1"], "'-1' is not a rate"),
        (["--rate", "5/d"], "'5/d' is not a rate"),
        (["--rate", "nan"], "'nan' is not a rate"),
        (["--limit", "0"], "'0' is not a number greater than 0"),
        (["--limit", "-1"], "'-1' is not a number greater than 0"),
        (["--limit", "x"], "'x' is not a number greater than 0"),
        (["--format", "xml"], "invalid choice: 'xml'"),
    ],
)
def test_bad_use_exits_2_with_a_sentence(run, arguments, sentence):
    result = run(*arguments)

    assert (result.code, result.output) == (2, "")
    assert sentence in result.errors


@in_a_process
def test_an_unknown_user_exits_1_with_a_sentence(run):
    result = run("--user", "nobody")

    assert (result.code, result.output) == (1, "")
    assert result.errors == "CommandError: There is no user whose username is 'nobody'.\n"


@in_a_process
@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_huge_limit_is_no_limit(run, connected, options):
    connected("ana")

    result = run("--limit", "9" * 30, *options)

    assert (result.code, result.errors) == (0, "")
    assert "1 " in result.output


@in_a_process
@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--user", "ana"], ["--max-age", "1h"]])
def test_a_database_without_tables_exits_1_with_a_sentence(run, tmp_path, options):
    database = str(tmp_path / "empty.sqlite3")

    result = run(
        *options,
        GARMIN_AUTH_TEST_DATABASE="sqlite",
        GARMIN_AUTH_DATABASE_NAME=database,
    )

    assert (result.code, result.output) == (1, "")
    assert result.errors.startswith("CommandError: The database cannot be used: no such table")
    assert result.errors.endswith(". Run manage.py migrate.\n")


@in_a_process
def test_a_database_that_is_away_is_not_one_to_migrate(run, site):
    away = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "garmin_auth",
        "HOST": "127.0.0.1",
        "PORT": "1",
    }
    result = run(**site(f"DATABASES = {{'default': {away!r}}}"))

    assert result.code == 1
    assert result.errors.startswith("CommandError: The database cannot be used: ")
    assert "migrate" not in result.errors


@in_a_process
@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("GARMIN_AUTH_DOMAIN = 'evil.example'", "GARMIN_AUTH_DOMAIN must be one of"),
        ("GARMIN_AUTH_ENGINE = 'nonsense'", "which is not a known engine"),
        ("GARMIN_AUTH_CA_BUNDLE = '/no/such/file'", "GARMIN_AUTH_CA_BUNDLE cannot be used"),
        ("FERNET_KEYS = []", "FERNET_KEYS must be a list with at least one key"),
        ("FERNET_KEYS = ['short']\nFERNET_USE_HKDF = False", "FERNET_KEYS[0] is not a usable key"),
    ],
)
def test_bad_settings_exit_1_with_a_sentence(run, connected, site, garmin, line, sentence):
    (ana,) = connected("ana")
    before = raw_row(ana)

    result = run(**site(line))

    assert (result.code, result.output) == (1, "")
    assert sentence in result.errors
    assert raw_row(ana) == before
    assert sum(garmin.counts.values()) == 0


@in_a_process
def test_bad_settings_exit_1_also_when_checks_are_skipped(run, connected, site):
    (ana,) = connected("ana")
    before = raw_row(ana)

    result = run("--skip-checks", **site("GARMIN_AUTH_TIMEOUT = 'long'"))

    assert (result.code, result.output) == (1, "")
    assert result.errors.startswith("CommandError: GARMIN_AUTH_TIMEOUT must be a number above 0")
    assert raw_row(ana) == before


def test_bad_settings_are_a_command_error(call, connected, settings):
    connected("ana")
    settings.GARMIN_AUTH_MFA_TTL = "soon"

    with pytest.raises(CommandError, match="GARMIN_AUTH_MFA_TTL must be a number above 0"):
        call()


@in_a_process
def test_another_key_makes_every_row_unreadable_and_keeps_it(run, connected, site):
    ana, _ = connected("ana", "ben")
    before = raw_row(ana)["session_data"]

    result = run("--format", "json", **site("FERNET_KEYS = ['another']"))

    assert (result.code, result.counts["unreadable"]) == (0, 2)
    assert result.errors.count("\n") == 1
    assert raw_row(ana)["session_data"] == before


# What is queued, or checked by others


def claim_all():
    """Claim all sessions, as a fan-out does for its messages."""
    run = CheckRun(due_sessions(), batch=100, seconds=3600)
    return list(run.batches())


def test_a_run_that_finds_all_queued_exits_4(call, connected, garmin):
    ana, _ = connected("ana", "ben")
    garmin.revoke(email_of(ana))
    claim_all()

    result = call("--format", "json")

    assert (result.code, result.counts["checked"], result.counts["stopped"]) == (4, 0, None)
    assert result.errors == (
        "All sessions that are due are queued for Celery or claimed by another run, so none was "
        "checked. If this lasts, see whether Celery's workers take messages.\n"
    )
    assert garmin.counts["api"] == 0


def test_a_run_that_checks_what_is_not_queued_exits_0(call, connected):
    connected("ana")
    claim_all()
    connected("ben")

    result = call("--format", "json")

    assert (result.code, result.counts["checked"], result.errors) == (0, 1, "")


def test_what_is_queued_and_not_due_is_no_matter(call, connected):
    (ana,) = connected("ana")
    claim_all()
    validated_ago(ana, minutes=1)

    assert call("--max-age", "1h").code == 0


# Streams that break

BROKEN = ["closed", "nobody reads", "full"]


@pytest.fixture
def run_with(begin):
    """Run the command as a process whose streams are broken in these ways."""

    def run_with(*arguments, stdout=None, stderr=None, **environment):
        with contextlib.ExitStack() as stack:
            given = {"stdout": stdout, "stderr": stderr}
            streams = {name: stack.enter_context(stream(how)) for name, how in given.items()}
            process = begin(*arguments, streams=streams, **environment)
        result = ended(process)
        assert "Exception ignored" not in result.errors
        return result

    return run_with


@contextlib.contextmanager
def stream(how):
    """A stream that is broken like this; a pipe to the test if it is not."""
    if how == "full":
        with open("/dev/full", "w") as full:
            yield full.fileno()
    elif how == "nobody reads":
        reader, writer = os.pipe()
        os.close(reader)
        yield writer
        os.close(writer)
    else:
        yield CLOSED if how == "closed" else None


@pytest.fixture
def dead_and_alive(connected, garmin):
    """Ana's session is dead, and comes first; Ben's and Cleo's work."""
    users = connected("ana", access_expired=True) + connected("ben", "cleo")
    garmin.revoke("ana@example.com")
    return users


def all_were_checked(users):
    return [state_of(user).last_checked_at is not None for user in users] == [True] * 3


@in_a_process
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["-v", "2"], ["--format", "json"]], ids=["text", "json"])
@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_standard_output_ends_no_check(
    run_with, dead_and_alive, how, arguments, unbuffered
):
    result = run_with(*arguments, stdout=how, PYTHONUNBUFFERED=unbuffered)

    assert result.code == 3
    assert result.errors == (
        "Garmin has ended these users' sessions. They have to connect again: ana\n"
    )
    assert all_were_checked(dead_and_alive)


@in_a_process
@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_standard_error_ends_no_check(run_with, dead_and_alive, garmin, how):
    garmin.fail("api", "status", account="ben@example.com")

    result = run_with(stderr=how)

    assert result.code == 4
    assert "1 active (0 refreshed), 1 expired, 1 unknown." in result.output
    assert all_were_checked(dead_and_alive)


@in_a_process
@pytest.mark.parametrize("arguments", [["--no-such-option"], ["--user", "nobody"]])
@pytest.mark.parametrize("how", BROKEN)
def test_the_exit_code_of_bad_use_is_right_though_nobody_hears_why(run_with, how, arguments):
    code = 2 if arguments == ["--no-such-option"] else 1

    assert run_with(*arguments, stdout=how, stderr=how).code == code


@in_a_process
@pytest.mark.parametrize("arguments", [["--dry-run"], ["--dry-run", "--format", "json"]])
def test_a_dry_run_whose_reader_has_gone_exits_0(run_with, connected, arguments):
    connected("ana", "ben")

    assert run_with(*arguments, stdout="nobody reads", PYTHONUNBUFFERED="1").code == 0


@in_a_process
def test_head_takes_what_it_wants(garmin, dead_and_alive):
    script = '{ "$0" manage.py check_garmin_sessions -v 2; echo "$?" >&2; } | head -n 1'

    process = subprocess.run(
        ["sh", "-c", script, sys.executable],
        cwd=ROOT,
        env={**child_environment(garmin), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert process.stdout.split()[:2] == ["expired", "ana"]
    assert process.stderr.splitlines()[1:] == ["3"]
    assert all_were_checked(dead_and_alive)


@in_a_process
@pytest.mark.parametrize("arguments", [[], ["--dry-run"], ["--format", "json"]])
def test_a_name_that_a_stream_cannot_take_is_escaped(run, connected, garmin, arguments):
    connected("zo\xeb", "\u6771\u4eac", access_expired=True)
    garmin.revoke("zo\xeb@example.com")

    result = run(*arguments, PYTHONIOENCODING="ascii")

    assert result.code == (0 if arguments == ["--dry-run"] else 3)
    assert r"zo\xeb" in result.output + result.errors
    assert arguments != ["--dry-run"] or r"\u6771\u4eac" in result.output


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_stream_of_the_callers_may_be_of_any_kind(connected, garmin, name):
    (zoe,) = connected("zo\xeb")
    garmin.revoke("zo\xeb@example.com")
    written = io.BytesIO()
    streams = {"stdout": StringIO(), "stderr": StringIO()}
    streams[name] = io.TextIOWrapper(written, encoding="ascii", write_through=True)

    with pytest.raises(SystemExit):
        call_command("check_garmin_sessions", **streams)

    assert rb"zo\xeb" in written.getvalue()
    assert state_of(zoe).status == Status.DISCONNECTED


# A death that could not be told

EARLIER = (
    "Garmin ended these users' sessions in another run, which has not named them. "
    "They have to connect again: "
)


@in_a_process
@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("format", ["text", "json"])
def test_who_could_not_be_named_is_named_by_the_next_run(
    run, run_with, dead_and_alive, how, format
):
    stdout = how if format == "text" else None  # The JSON holds no names.
    assert run_with("--format", format, stdout=stdout, stderr=how).code == 3

    second, third = run(), run()

    assert (second.code, second.errors) == (0, f"{EARLIER}ana\n")
    assert (third.code, third.errors) == (0, "")


@in_a_process
@pytest.mark.parametrize("broken", ["stdout", "stderr"])
def test_who_was_named_on_one_stream_is_not_named_again(run, run_with, dead_and_alive, broken):
    run_with(**{broken: "nobody reads"})

    assert run().errors == ""


@in_a_process
def test_who_a_killed_run_could_not_name_is_named_by_the_next(
    begin, run, dead_and_alive, garmin, hold
):
    held = hold("api")
    process = begin()
    held.wait()  # Ana's check is over, and Ben's is under way.
    process.kill()
    process.communicate()
    held.release()

    assert run("--user", "ana").errors == f"{EARLIER}ana\n"
    assert run("--user", "ana").errors == ""


@in_a_process
def test_who_has_connected_again_is_not_named(run, run_with, dead_and_alive, connect):
    run_with(stdout="closed", stderr="closed")
    connect(dead_and_alive[0], "ana.again@example.com")

    assert run().errors == ""


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_stream_of_the_callers_may_be_closed(connected, name):
    (ana,) = connected("ana")
    streams = {"stdout": StringIO(), "stderr": StringIO()}
    streams[name].close()

    call_command("check_garmin_sessions", **streams)

    assert state_of(ana).last_validated is not None


@in_a_process
def test_neither_a_dry_run_nor_the_run_for_somebody_else_names_them(run, run_with, dead_and_alive):
    run_with(stdout="closed", stderr="closed")

    assert run("--dry-run").errors == ""
    assert run("--user", "ben").errors == ""
    assert run().errors == f"{EARLIER}ana\n"


def test_of_many_who_could_not_be_named_each_is_named_once(call, connected, monkeypatch):
    names = [f"dead{number}" for number in range(5)]
    users = connected(*names)
    states.update(connected_at=None, session_data=None, ended_reason="expired")
    states.mark_unreported([user.pk for user in users])
    monkeypatch.setattr("garmin_auth.management.commands.check_garmin_sessions.MAX_NAMES", 3)

    assert call().errors == f"{EARLIER}dead0, dead1, dead2 and 2 more\n"
    assert call().errors == f"{EARLIER}dead3, dead4\n"
    assert call().errors == ""


# Users of a site's own kind


def test_user_names_that_are_no_text_are_printed(call, connected, garmin, monkeypatch):
    """As those of a model whose USERNAME_FIELD is a number, or a phone number."""
    ana, _ben = connected("ana", "ben", access_expired=True)
    monkeypatch.setattr(type(ana), "get_username", lambda self: self.pk)
    garmin.revoke(email_of(ana))

    result = call()

    assert result.code == EXIT_EXPIRED
    assert f"They have to connect again: {ana.pk}\n" in result.errors
    states.filter(user=ana).update(check_run=UNREPORTED)
    result = call()
    assert result.code == 0
    assert f"They have to connect again: {ana.pk}\n" in result.errors


def test_a_user_whom_the_default_manager_hides_can_be_named(call, connected, monkeypatch):
    class Nobody(UserManager):
        def get_queryset(self):
            return super().get_queryset().none()

    (ana,) = connected("ana")
    manager = Nobody()
    manager.model = type(ana)
    monkeypatch.setitem(vars(ana._meta), "default_manager", manager)

    assert call("--user", "ana", "--format", "json").counts["active"] == 1


def test_a_name_of_several_users_is_refused(call, connected, monkeypatch):
    """As where it is only unique together with a tenant."""
    ana, ben = connected("ana", "ben")
    monkeypatch.setattr(type(ana), "USERNAME_FIELD", "first_name")
    type(ana).objects.filter(pk__in=[ana.pk, ben.pk]).update(first_name="Eve")

    with pytest.raises(CommandError, match="More than one user has the first_name 'Eve'"):
        call("--user", "Eve")
