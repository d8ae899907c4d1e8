"""``forget_garmin_sessions``: a copy of production is emptied, and nobody is asked or told."""

import io
import os

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from garmin_auth import signals
from garmin_auth.accounts import account_of
from garmin_auth.models import GarminAuthenticationState, Status
from tests.conftest import BUILT_IN, state_of
from tests.rows import damage

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.every_database]
states = GarminAuthenticationState.objects


@pytest.fixture
def forget():
    """Run the command in this process, and return what it printed."""

    def forget(*arguments):
        output = io.StringIO()
        call_command("forget_garmin_sessions", *arguments, stdout=output)
        return output.getvalue()

    return forget


@pytest.fixture
def answer(monkeypatch):
    """Say what is typed at the terminal, and return what was asked."""

    def answer(text):
        asked = []
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda prompt: asked.append(prompt) or text)
        return asked

    return answer


@pytest.mark.parametrize("engine", BUILT_IN)
def test_everything_is_removed(forget, user, other_user, connect, garmin, engine):
    connect(user, engine=engine)
    states.begin_challenge(other_user.pk, "{}")

    said = forget("--no-input")

    assert said == "Deleted 1 Garmin session and 2 rows in all. Garmin was not asked.\n"
    assert states.count() == 0
    assert account_of(user).status == Status.NONE
    assert garmin.log == []


def test_the_users_stay(forget, user, connect, django_user_model):
    connect(user)

    forget("--no-input")

    assert django_user_model.objects.get() == user


def test_no_signal_is_sent(forget, user, connect):
    connect(user)
    heard = []
    for signal in (signals.session_disconnected, signals.session_expired):
        signal.connect(lambda **kwargs: heard.append(kwargs), weak=False, dispatch_uid="heard")
    try:
        forget("--no-input")
    finally:
        for signal in (signals.session_disconnected, signals.session_expired):
            signal.disconnect(dispatch_uid="heard")

    assert heard == []


def test_rows_that_no_key_decrypts_are_removed_too(forget, user, connect):
    connect(user)
    damage(user, "session_data", "account_name")

    forget("--no-input")

    assert state_of(user) is None


def test_a_copy_that_is_frozen_can_be_emptied(forget, user, connect, settings):
    connect(user)
    settings.GARMIN_AUTH_FROZEN = True

    forget("--no-input")

    assert state_of(user) is None


@pytest.mark.parametrize("option", ["--no-input", "--noinput"])
def test_an_empty_table_is_no_failure(forget, db, option):
    assert forget(option) == "No Garmin sessions are stored. Nothing was deleted.\n"


def test_on_a_terminal_the_number_is_asked_back(forget, answer, user, other_user, connect):
    connect(user)
    connect(other_user, "ben@example.com")
    asked = answer(" 2 ")

    said = forget()

    assert "Type 2 to continue: " in asked[0]
    assert "Deleted 2 Garmin sessions" in said
    assert states.count() == 0


def test_the_question_names_the_database(forget, answer, user, connect):
    connect(user)
    asked = answer("1")

    forget()

    assert str(connection.settings_dict["NAME"]) in asked[0]


@pytest.mark.parametrize("typed", ["", "yes", "2", "-1"])
def test_any_other_answer_deletes_nothing(forget, answer, user, connect, typed):
    connect(user)
    answer(typed)

    with pytest.raises(CommandError, match="Nothing was done") as caught:
        forget()

    assert caught.value.returncode == 1
    assert states.count() == 1


def test_without_a_terminal_it_must_be_said(user, connect, start_python):
    connect(user)
    process = start_python("manage.py", "forget_garmin_sessions")

    output, errors = process.communicate(timeout=120)

    assert (process.returncode, output) == (2, "")
    assert errors.count("\n") == 1
    assert "--no-input" in errors
    assert states.count() == 1


def test_a_terminal_whose_input_ends_deletes_nothing(user, connect, start_python):
    connect(user)
    ours, theirs = os.openpty()
    try:
        process = start_python("manage.py", "forget_garmin_sessions", streams={"stdin": theirs})
        os.write(ours, b"\x04")  # Ctrl-D
        _output, errors = process.communicate(timeout=120)
    finally:
        os.close(ours)
        os.close(theirs)

    assert process.returncode == 1
    assert "Nothing was done" in errors
    assert states.count() == 1
