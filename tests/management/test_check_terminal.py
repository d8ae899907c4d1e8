"""``check_garmin_sessions`` as somebody at a terminal sees it; how it waits; what it keeps."""

import contextlib
import gc
import os
import re
import signal
import termios
import time
import weakref
from io import StringIO

import pytest
from django.core.management import call_command

from garmin_auth.management.commands import check_garmin_sessions
from garmin_auth.models import GarminAuthenticationState
from tests.rows import damage

pytestmark = pytest.mark.django_db(transaction=True)
states = GarminAuthenticationState.objects


@pytest.fixture
def terminal(start_python):
    """Run the command on a terminal, and return what was written to it."""

    def terminal(*arguments, stdout=None):
        ours, theirs = os.openpty()
        termios.tcsetwinsize(ours, (24, 120))
        process = start_python(
            *("manage.py", "check_garmin_sessions", *arguments),
            streams={"stdout": theirs if stdout is None else stdout.fileno(), "stderr": theirs},
        )
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed.
            while piece := os.read(ours, 4096):
                written += piece
        os.close(ours)
        process.wait(60)
        return written.decode()

    return terminal


def test_a_terminal_shows_rate_remaining_and_counts(terminal, people, garmin):
    people(20, access_expired=True)
    garmin.revoke("user0003@example.com")
    garmin.set_latency(0.05)

    written = terminal()

    assert re.search(r"\d+%\|.*\d+/20 \[\d\d:\d\d<\d\d:\d\d, .*sessions.*active=\d+", written)
    assert "expired=1" in written
    # A line of its own, above the bar.
    assert re.search(r"(^|[\r\n])(\x1b\S*)?expired +(\x1b\S*)? *user0003", written)
    # And the report when the bar is gone.
    assert re.search(r"[\r\n]Checked 20 Garmin sessions in ", written)


def test_the_bar_knows_the_limit(terminal, people, garmin):
    people(20)
    garmin.set_latency(0.1)

    assert "/7 [" in terminal("--limit", "7")


@pytest.mark.parametrize("options", [["--format", "json"], ["-v", "0"], ["--dry-run"]])
def test_there_is_no_bar_where_none_is_wanted(terminal, people, garmin, options):
    people(4)
    garmin.set_latency(0.1)

    assert "%|" not in terminal(*options)


def test_without_a_terminal_there_is_no_bar(start_python, people, garmin):
    people(4)
    garmin.set_latency(0.1)

    process = start_python("manage.py", "check_garmin_sessions")
    output, errors = process.communicate(timeout=60)

    assert errors == ""
    assert output.count("\n") == 1
    assert "\r" not in output


def test_a_bar_does_not_get_into_a_pipe(terminal, people, garmin, tmp_path):
    people(4)
    garmin.set_latency(0.1)

    with open(tmp_path / "output", "w") as output:
        written = terminal(stdout=output)

    assert "%|" in written
    assert (tmp_path / "output").read_text().count("\r") == 0


# A wait by chance


def test_jitter_waits_up_to_so_long(people, garmin, monkeypatch):
    people(1)
    monkeypatch.setattr(check_garmin_sessions.random, "uniform", lambda shortest, longest: longest)
    began = time.monotonic()

    call_command("check_garmin_sessions", "--jitter", "1", stdout=StringIO())

    assert time.monotonic() - began >= 1
    assert garmin.counts["api"] == 1


@pytest.mark.parametrize("options", [[], ["--enqueue"]])
def test_a_signal_ends_the_wait_and_nothing_is_done(start_python, site, people, garmin, options):
    people(1)
    process = start_python(
        *("manage.py", "check_garmin_sessions", "--jitter", "10h", *options),
        **site(
            "import sys, tests.checking.celery_app",
            "import garmin_auth.limits.rate as rate",
            "wait = rate.sleep_until",
            # The signal must not come before there is somebody who hears it.
            "def told(*rest): print('waiting', flush=True); wait(*rest)",
            "rate.sleep_until = told",
        ),
    )
    assert process.stdout.readline() == "waiting\n"

    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)

    assert process.returncode == 4
    assert "It was interrupted." in errors
    assert garmin.counts["api"] == states.claimed_checks() == 0


# Memory


def test_no_result_is_kept_when_it_has_been_told(people, monkeypatch):
    for user in people(60):
        damage(user)
    alive, most = weakref.WeakSet(), []

    class Command(check_garmin_sessions.Command):
        def show(self, check):
            super().show(check)
            alive.add(check)
            gc.collect()
            most.append(len(alive))

    monkeypatch.setattr("garmin_auth.health.NOTES", 5)
    monkeypatch.setattr("garmin_auth.checks.SAMPLE", 0)
    errors = StringIO()
    gc.freeze()  # What is there already would be looked at 60 times.
    try:
        call_command(Command(), stdout=StringIO(), stderr=errors)
    finally:
        gc.unfreeze()

    assert len(most) == 60
    assert max(most) <= 5 + 2
    assert errors.getvalue().endswith(" and 40 more\n")
