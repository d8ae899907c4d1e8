"""What is sent twice goes to Garmin once; what differs waits for its turn."""

import contextlib
import threading
import time

import pytest
import time_machine
from django.utils import timezone

from garmin_auth.engines.secret import Secret
from garmin_auth.exceptions import (
    ChallengeExpired,
    GarminUnavailable,
    InvalidCredentials,
    InvalidMFACode,
    TooManyAttempts,
)
from garmin_auth.limits import turns
from garmin_auth.limits.repetitions import MEMORY, Submission
from garmin_auth.login import (
    Connected,
    MFARequired,
    begin_login,
    cancel_mfa,
    disconnect,
    pending_login,
    start_login,
    submit_mfa,
)
from garmin_auth.testing.garmin import steps
from tests.conftest import EMAIL, PASSWORD
from tests.waiting import in_threads, wait_for_logins

pytestmark = pytest.mark.django_db(transaction=True)
WRONG = "000000"


@pytest.fixture
def pending(user, mfa_account):
    """A login that waits for its code. Before ``slow_garmin``, which is not slow at this one."""
    return start_login(user, EMAIL, PASSWORD)


@pytest.fixture
def second_click(monkeypatch):
    """Set when a second request of the same user waits for the first."""
    waiting = threading.Event()

    class Clock:
        time, monotonic = time.time, time.monotonic

        @staticmethod
        def sleep(seconds):
            waiting.set()
            time.sleep(seconds)

    monkeypatch.setattr(turns, "time", Clock)
    return waiting


@pytest.fixture
def slow_garmin(second_click, monkeypatch):
    """Garmin, who answers when the second click has come."""
    answer = steps.answer

    def answer_late(step, *arguments):
        if step in ("login", "verify_code"):
            second_click.wait(60)
        return answer(step, *arguments)

    monkeypatch.setattr(steps, "answer", answer_late)


def test_a_double_click_sends_one_login_and_both_get_its_result(user, account, garmin, slow_garmin):
    results = in_threads(lambda number: start_login(user, EMAIL, PASSWORD), 2)

    assert results == [Connected(), Connected()]
    assert garmin.counts["login"] == 1


def test_the_same_in_two_forms_is_one_login(user, account, garmin, slow_garmin):
    results = in_threads(
        lambda number: start_login(user, EMAIL, PASSWORD, idempotency_key=f"form {number}"), 2
    )

    assert results == [Connected(), Connected()]
    assert garmin.counts["login"] == 1


def test_a_double_click_with_a_wrong_password_says_so_twice(user, account, garmin, slow_garmin):
    results = in_threads(lambda number: start_login(user, EMAIL, "wrong"), 2)

    assert [type(result) for result in results] == [InvalidCredentials] * 2
    assert garmin.counts["login"] == 1


class OwnError(GarminUnavailable):
    """An exception of a third engine's, which no cache can hold."""

    def __init__(self, email, password):
        super().__init__(f"{email} {password}")
        self.lock = threading.Lock()


def test_a_double_click_gets_a_third_engines_own_failure_twice(
    user, garmin, monkeypatch, cached, second_click
):
    inside = threading.Event()

    def login(engine, email, password):
        inside.set()
        second_click.wait(60)
        raise OwnError(email, password)

    monkeypatch.setattr("garmin_auth.engines.garth.GarthEngine.login", login)
    # In files, two that come at the very same time may both be the first.
    clicks = iter([lambda: None, lambda: inside.wait(60)])

    def click(number):
        next(clicks)()
        return start_login(user, EMAIL, PASSWORD)

    results = in_threads(click, 2)

    assert {type(result) for result in results} == {OwnError, GarminUnavailable}
    assert [text for text in cached() if PASSWORD in text or EMAIL in text] == []


@pytest.mark.parametrize("first", ["wrong", PASSWORD])
def test_another_password_waits_and_is_tried(user, account, garmin, slow_garmin, first):
    passwords = [first, "wrong" if first == PASSWORD else PASSWORD]

    results = in_threads(lambda number: start_login(user, EMAIL, passwords[number]), 2)

    assert type(results[passwords.index("wrong")]) is InvalidCredentials
    assert results[passwords.index(PASSWORD)] == Connected()
    assert garmin.counts["login"] == 2


def test_another_address_waits_and_is_tried(user, account, garmin, slow_garmin):
    emails = [EMAIL, "other@example.com"]

    results = in_threads(lambda number: start_login(user, emails[number], PASSWORD), 2)

    assert [type(result) for result in results] == [Connected, InvalidCredentials]


def test_the_right_code_sent_twice_connects_both(user, pending, garmin, slow_garmin):
    code = garmin.mfa_code(EMAIL)

    results = in_threads(lambda number: submit_mfa(user, code), 2)

    assert results == [Connected(), Connected()]
    assert garmin.counts["verify_code"] == 1


def test_a_wrong_code_sent_twice_is_one_attempt(user, pending, garmin, slow_garmin):
    results = in_threads(lambda number: submit_mfa(user, WRONG), 2)

    assert [type(result) for result in results] == [InvalidMFACode] * 2
    assert [result.attempts_left for result in results] == [4, 4]
    assert garmin.counts["verify_code"] == 1


def test_another_code_waits_and_is_tried(user, pending, garmin, slow_garmin):
    codes = [WRONG, garmin.mfa_code(EMAIL)]

    results = in_threads(lambda number: submit_mfa(user, codes[number]), 2)

    assert results[1] == Connected()


def test_a_code_does_not_wait_for_a_login(user, pending, garmin, monkeypatch):
    under_way, code_sent, answer = threading.Event(), threading.Event(), steps.answer

    def answer_late(step, *arguments):
        if step == "login":
            under_way.set()
            code_sent.wait(60)
        return answer(step, *arguments)

    monkeypatch.setattr(steps, "answer", answer_late)

    def work(number):
        if number:
            return start_login(user, EMAIL, PASSWORD)
        under_way.wait(60)
        try:
            return submit_mfa(user, garmin.mfa_code(EMAIL))
        finally:
            code_sent.set()

    results = in_threads(work, 2)

    assert [type(result) for result in results] == [Connected, MFARequired]


@pytest.mark.every_database
def test_twenty_parallel_wrong_codes_are_at_most_five_for_garmin(user, mfa_account, garmin):
    start_login(user, EMAIL, PASSWORD)

    results = in_threads(lambda number: submit_mfa(user, f"{number:06}"), 20)

    assert garmin.counts["verify_code"] <= 5
    assert not any(isinstance(result, Connected) for result in results)
    assert {type(result) for result in results} & {InvalidMFACode, TooManyAttempts}


# One after the other, as a single synchronous worker handles a double click


def test_a_form_sent_again_makes_no_second_login(user, mfa_account, garmin):
    results = [start_login(user, EMAIL, PASSWORD, idempotency_key="form") for _ in range(2)]

    assert [type(result) for result in results] == [MFARequired] * 2
    assert garmin.counts["login"] == 1
    assert submit_mfa(user, garmin.mfa_code(EMAIL)) == Connected()


def test_a_form_sent_again_is_refused_again(user, account, garmin):
    for _ in range(2):
        with pytest.raises(InvalidCredentials):
            start_login(user, EMAIL, "wrong", idempotency_key="form")

    assert garmin.counts["login"] == 1


def test_the_same_in_another_form_is_tried(user, account, garmin):
    for form in ("first", "second"):
        with pytest.raises(InvalidCredentials):
            start_login(user, EMAIL, "wrong", idempotency_key=form)

    assert garmin.counts["login"] == 2


def test_another_password_in_the_same_form_is_tried(user, account, garmin):
    with pytest.raises(InvalidCredentials):
        start_login(user, EMAIL, "wrong", idempotency_key="form")

    assert start_login(user, EMAIL, PASSWORD, idempotency_key="form") == Connected()


def test_a_form_that_an_outage_met_is_tried_again(user, account, garmin):
    garmin.fail("login", "status", status=503)
    with pytest.raises(GarminUnavailable):
        start_login(user, EMAIL, PASSWORD, idempotency_key="form")

    assert start_login(user, EMAIL, PASSWORD, idempotency_key="form") == Connected()


def test_a_form_sent_again_after_a_cancel_makes_a_login(user, mfa_account, garmin):
    start_login(user, EMAIL, PASSWORD, idempotency_key="form")
    cancel_mfa(user)

    assert isinstance(start_login(user, EMAIL, PASSWORD, idempotency_key="form"), MFARequired)
    assert garmin.counts["login"] == 2


def test_another_users_form_is_not_the_same(user, other_user, account, garmin):
    start_login(user, EMAIL, PASSWORD, idempotency_key="form")

    assert start_login(other_user, EMAIL, PASSWORD, idempotency_key="form") == Connected()
    assert garmin.counts["login"] == 2


def test_another_users_failure_is_not_the_same(user, other_user, account, garmin):
    for each in (user, other_user):
        with pytest.raises(InvalidCredentials):
            start_login(each, EMAIL, "wrong", idempotency_key="form")

    assert garmin.counts["login"] == 2


def test_a_form_sent_again_after_a_disconnect_is_not_called_connected(user, mfa_account, garmin):
    start_login(user, EMAIL, PASSWORD)
    code = garmin.mfa_code(EMAIL)
    submit_mfa(user, code, idempotency_key="form")
    disconnect(user)

    with pytest.raises(ChallengeExpired):
        submit_mfa(user, code, idempotency_key="form")


def test_a_right_code_sent_again_is_connected_again(user, mfa_account, garmin):
    start_login(user, EMAIL, PASSWORD)
    code = garmin.mfa_code(EMAIL)

    assert submit_mfa(user, code, idempotency_key="form") == Connected()
    assert submit_mfa(user, code, idempotency_key="form") == Connected()
    assert garmin.counts["verify_code"] == 1


def test_a_wrong_code_sent_again_is_one_attempt(user, mfa_account, garmin):
    start_login(user, EMAIL, PASSWORD)

    for _ in range(2):
        with pytest.raises(InvalidMFACode):
            submit_mfa(user, WRONG, idempotency_key="form")

    assert pending_login(user).attempts_left == 4
    assert garmin.counts["verify_code"] == 1


# Logins outside of requests


def test_a_slow_login_sent_again_is_one(user, mfa_account, garmin, slow_logins):
    begin_login(user, EMAIL, PASSWORD, idempotency_key="form")
    wait_for_logins()

    again = begin_login(user, EMAIL, PASSWORD, idempotency_key="form")
    wait_for_logins()

    assert garmin.counts["login"] == 1
    assert again == pending_login(user)


def test_the_same_is_not_begun_again_while_it_is_under_way(user, account, garmin, gate):
    begin_login(user, EMAIL, PASSWORD)
    begin_login(user, EMAIL, PASSWORD)
    gate.set()
    wait_for_logins()

    assert garmin.counts["login"] == 1


@pytest.mark.parametrize("password", [PASSWORD, "wrong"])
@pytest.mark.parametrize("log_in", [start_login, begin_login])
def test_a_form_is_remembered_for_ten_minutes(user, account, garmin, slow_logins, log_in, password):
    def send():
        with contextlib.suppress(InvalidCredentials):
            log_in(user, EMAIL, password, idempotency_key="form")
        wait_for_logins()
        return garmin.counts["login"]

    with time_machine.travel(timezone.now()) as clock:
        assert send() == 1
        clock.shift(MEMORY - 60)
        assert send() == 1
        clock.shift(61)
        assert send() == 2


def test_the_same_is_not_begun_again_after_another_users_login(
    user, other_user, account, garmin, gate
):
    begin_login(user, EMAIL, PASSWORD)
    begin_login(other_user, EMAIL, "wrong")
    begin_login(user, EMAIL, PASSWORD)
    gate.set()
    wait_for_logins()

    assert garmin.counts["login"] == 2


def test_the_cache_knows_no_password(user, mfa_account, garmin, cached):
    start_login(user, EMAIL, PASSWORD, idempotency_key="form")
    code = garmin.mfa_code(EMAIL)
    submit_mfa(user, code, idempotency_key="form")

    assert [text for text in cached() if PASSWORD in text or EMAIL in text or code in text] == []


def test_what_the_cache_knows_fits_too_many_passwords_to_find_one(user):
    assert len(Submission("login", user, (Secret(PASSWORD),)).fingerprint) == 4


def test_an_earlier_connection_is_not_the_result_of_a_cancelled_login(user, connect, garmin):
    connect(user)
    garmin.add_account("mfa@example.com", PASSWORD, mfa=True)
    for _ in range(2):
        result = start_login(user, "mfa@example.com", PASSWORD, idempotency_key="one form")
        assert isinstance(result, MFARequired)
        assert cancel_mfa(user)
