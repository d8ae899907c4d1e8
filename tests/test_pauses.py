"""After a rate limit nobody asks, and everybody is told until when."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.cache import cache
from django.db import connections

from garmin_auth import door, pauses
from garmin_auth.exceptions import (
    GarminAuthError,
    GarminUnavailable,
    InvalidCredentials,
    InvalidMFACode,
    LoginThrottled,
    RateLimited,
    TooManyAttempts,
)
from garmin_auth.health import check_sessions
from garmin_auth.login import Connected, import_session, start_login, submit_mfa
from garmin_auth.sessions import garmin_client
from garmin_auth.testing import resources, steps

from .conftest import EMAIL, PASSWORD, state_of

pytestmark = pytest.mark.django_db
PROFILE = "/userprofile-service/socialProfile"


def call(user):
    with garmin_client(user) as client:
        return client.connectapi(PROFILE)


@pytest.mark.parametrize("fault", ["rate_limited", "rate_limited_427", "rate_limited_200"])
def test_a_rate_limit_of_the_api_pauses_the_site(user, other_user, connect, garmin, fault):
    connect(user)
    connect(other_user, "ben@example.com")
    garmin.fail("api", fault)
    with pytest.raises(RateLimited):
        call(user)

    with pytest.raises(RateLimited) as caught:
        call(other_user)

    assert 0 < caught.value.retry_after <= pauses.FIRST
    assert garmin.counts["api"] == 1


def test_a_rate_limit_of_the_exchange_pauses_the_site(user, other_user, connect, garmin):
    connect(user, access_expired=True)
    connect(other_user, "ben@example.com")
    garmin.fail("exchange", "rate_limited", retry_after=30)
    with pytest.raises(RateLimited):
        call(user)

    with pytest.raises(RateLimited) as caught:
        call(other_user)

    assert 0 < caught.value.retry_after <= 30
    assert garmin.counts["api"] == 0


def test_a_block_pauses_nothing(user, connect, garmin):
    connect(user)
    garmin.fail("api", "blocked")
    with pytest.raises(GarminUnavailable):
        call(user)

    assert call(user)["userName"] == EMAIL


def test_a_success_after_the_pause_forgets_it(user, connect, garmin):
    connect(user)
    garmin.fail("api", "rate_limited", retry_after=1)
    with pytest.raises(RateLimited):
        call(user)
    time.sleep(1.1)

    call(user)

    pauses.begin(pauses.SITE, None)
    assert pauses.seconds_left(pauses.SITE) == pauses.FIRST


@pytest.mark.django_db(transaction=True)
def test_a_success_that_was_under_way_does_not_end_the_pause(
    user, other_user, connect, garmin, monkeypatch
):
    connect(user)
    connect(other_user, "ben@example.com")
    asked, go_on, answer = threading.Event(), threading.Event(), resources.answer

    def answer_ben_late(request, account):
        if account.email == "ben@example.com":
            asked.set()
            go_on.wait(60)
        return answer(request, account)

    monkeypatch.setattr(resources, "answer", answer_ben_late)
    garmin.fail("api", "rate_limited", retry_after=300, account=EMAIL)
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(call_and_close, other_user)
        assert asked.wait(60)
        with pytest.raises(RateLimited):
            call(user)
        go_on.set()

        assert under_way.result()["userName"] == "ben@example.com"

    assert pauses.seconds_left(pauses.SITE) > 200


def call_and_close(user):
    try:
        return call(user)
    finally:
        connections.close_all()


def test_pauses_grow_up_to_the_longest():
    lengths = []
    for _ in range(8):
        pauses.begin("scope", None)
        lengths.append(pauses.seconds_left("scope"))
        key = next(key for key in cache._cache if "scope" in key).split(":", 2)[2]
        _, length = cache.get(key)
        cache.set(key, (0, length))  # It is over.

    assert lengths == [60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_calls_that_were_under_way_do_not_make_a_pause_longer():
    for _ in range(5):
        pauses.begin("scope", None)

    assert pauses.seconds_left("scope") == pauses.FIRST


def test_a_shorter_word_of_garmin_does_not_shorten_a_pause():
    pauses.begin("scope", 300)
    pauses.begin("scope", 10)

    assert 290 < pauses.seconds_left("scope") <= 300


def test_the_check_asks_nobody_during_a_pause(user, connect, garmin):
    connect(user)
    pauses.begin(pauses.SITE, 60)

    report = check_sessions()

    assert (report.stopped, report.checked) == ("rate_limited", 0)
    assert garmin.counts["api"] == 0


def test_a_login_during_the_accounts_pause_is_refused_without_asking(user, account, garmin):
    garmin.fail("login", "rate_limited", retry_after=120)
    with pytest.raises(RateLimited):
        start_login(user, EMAIL, PASSWORD)

    with pytest.raises(RateLimited) as caught:
        start_login(user, EMAIL.upper(), PASSWORD)

    assert "in 2 minutes" in caught.value.user_message
    assert garmin.counts["login"] == 1


def test_an_accounts_pause_is_of_that_account_only(user, other_user, account, garmin, connect):
    garmin.add_account("ben@example.com", PASSWORD)
    garmin.fail("login", "rate_limited", retry_after=120)
    with pytest.raises(RateLimited):
        start_login(user, EMAIL, PASSWORD)

    assert start_login(other_user, "ben@example.com", PASSWORD) == Connected()


def test_a_code_during_the_pause_is_no_attempt(user, mfa_account, garmin):
    start_login(user, EMAIL, PASSWORD)
    garmin.fail("verify_code", "rate_limited", retry_after=120)
    with pytest.raises(RateLimited):
        submit_mfa(user, garmin.mfa_code(EMAIL))

    with pytest.raises(RateLimited):
        submit_mfa(user, garmin.mfa_code(EMAIL))

    assert state_of(user).mfa_attempts == 1
    assert garmin.counts["verify_code"] == 1


def test_no_key_of_the_cache_tells_an_address(user, account, garmin):
    garmin.fail("login", "rate_limited", retry_after=120)
    with pytest.raises(RateLimited):
        start_login(user, EMAIL, PASSWORD)

    assert cache._cache
    assert not any("ana" in f"{key}{value}" for key, value in cache._cache.items())


# The door


def fail_to_log_in(user, times):
    for _ in range(times):
        with pytest.raises(InvalidCredentials):
            start_login(user, EMAIL, "wrong")


def test_wrong_passwords_are_throttled(user, account, garmin):
    fail_to_log_in(user, door.USER_LIMIT)

    with pytest.raises(LoginThrottled) as caught:
        start_login(user, EMAIL, PASSWORD)

    assert "tried to log in too often" in caught.value.user_message
    assert garmin.counts["login"] == door.USER_LIMIT


def test_nobody_is_locked_out_by_somebody_who_types_his_address(user, other_user, account):
    fail_to_log_in(other_user, door.USER_LIMIT)

    assert start_login(user, EMAIL, PASSWORD) == Connected()


def test_a_success_forgives_the_tries(user, account):
    fail_to_log_in(user, door.USER_LIMIT - 1)
    start_login(user, EMAIL, PASSWORD)

    fail_to_log_in(user, door.USER_LIMIT)


def test_a_password_that_leads_to_a_code_is_still_counted(user, mfa_account, garmin):
    """Else whoever knows the password could begin logins, and guess codes, without an end."""
    for _ in range(door.USER_LIMIT):
        start_login(user, EMAIL, PASSWORD)

    with pytest.raises(LoginThrottled):
        start_login(user, EMAIL, PASSWORD)

    assert garmin.counts["login"] == door.USER_LIMIT


def test_the_right_code_forgives_the_tries(user, mfa_account, garmin):
    for _ in range(door.USER_LIMIT):
        start_login(user, EMAIL, PASSWORD)
    submit_mfa(user, garmin.mfa_code(EMAIL))

    start_login(user, EMAIL, PASSWORD)


def test_a_checked_import_asks_nobody_during_a_pause(user, account, garmin):
    pauses.begin(pauses.SITE, 60)

    with pytest.raises(RateLimited):
        import_session(user, garmin.issue_session(EMAIL, access_expired=True), check=True)

    assert (garmin.counts["api"], garmin.counts["exchange"]) == (0, 0)


def test_a_rate_limit_of_a_checked_import_pauses_the_site(user, account, garmin):
    garmin.fail("exchange", "rate_limited", retry_after=30)

    with pytest.raises(RateLimited):
        import_session(user, garmin.issue_session(EMAIL, access_expired=True), check=True)

    assert pauses.seconds_left(pauses.SITE)


def in_threads(number, call):
    """Call at the same time, and return the results or exceptions."""
    results, barrier = [], threading.Barrier(number)

    def run():
        barrier.wait()
        try:
            results.append(call())
        except GarminAuthError as exc:
            results.append(exc)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture
def second_click(monkeypatch):
    """Set when a second login of the same user waits for the first."""
    waiting = threading.Event()

    class Clock:
        time, monotonic = time.time, time.monotonic

        @staticmethod
        def sleep(seconds):
            waiting.set()
            time.sleep(seconds)

    monkeypatch.setattr(door, "time", Clock)
    return waiting


@pytest.fixture
def slow_garmin(second_click, monkeypatch):
    """Garmin, who answers a login when the second click has come."""
    answer = steps.answer

    def answer_late(step, *arguments):
        if step == "login":
            second_click.wait(60)
        return answer(step, *arguments)

    monkeypatch.setattr(steps, "answer", answer_late)


@pytest.mark.django_db(transaction=True)
def test_a_double_click_sends_one_login_and_both_get_its_result(user, account, garmin, slow_garmin):
    results = in_threads(2, lambda: start_login(user, EMAIL, PASSWORD))

    assert results == [Connected(), Connected()]
    assert garmin.counts["login"] == 1


@pytest.mark.django_db(transaction=True)
def test_a_double_click_with_a_wrong_password_says_so_twice(user, account, garmin, slow_garmin):
    results = in_threads(2, lambda: start_login(user, EMAIL, "wrong"))

    assert [type(result) for result in results] == [InvalidCredentials] * 2
    assert garmin.counts["login"] == 1


class OwnError(GarminUnavailable):
    """An exception of a third engine's, which no cache can hold."""

    def __init__(self, email, password):
        super().__init__(f"{email} {password}")
        self.lock = threading.Lock()


@pytest.mark.django_db(transaction=True)
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

    def click():
        next(clicks)()
        return start_login(user, EMAIL, PASSWORD)

    results = in_threads(2, click)

    assert {type(result) for result in results} == {OwnError, GarminUnavailable}
    assert [text for text in cached() if PASSWORD in text or EMAIL in text] == []


@pytest.mark.django_db(transaction=True)
def test_twenty_parallel_wrong_codes_are_at_most_five_for_garmin(user, mfa_account, garmin):
    start_login(user, EMAIL, PASSWORD)

    results = in_threads(20, lambda: submit_mfa(user, "000000"))

    assert garmin.counts["verify_code"] <= 5
    assert not any(isinstance(result, Connected) for result in results)
    assert {type(result) for result in results} & {InvalidMFACode, TooManyAttempts}
