"""How often a login may be tried."""

import pytest
import time_machine
from django.core.cache.backends.locmem import LocMemCache

from garmin_auth.exceptions import (
    GarminUnavailable,
    InvalidCredentials,
    LoginThrottled,
    RateLimited,
)
from garmin_auth.limits import throttle
from garmin_auth.login import Connected, begin_login, pending_login, start_login, submit_mfa
from tests.conftest import EMAIL, PASSWORD, state_of
from tests.waiting import wait_for_logins

pytestmark = pytest.mark.django_db


class ForgetfulCache(LocMemCache):
    """Its incr() and decr() reset a key's timeout to the default, as some backends' do."""

    def incr(self, key, delta=1, version=None):
        value = super().incr(key, delta, version)
        self.touch(key, version=version)
        return value


def fail_to_log_in(user, times):
    for _ in range(times):
        with pytest.raises(InvalidCredentials):
            start_login(user, EMAIL, "wrong")


def test_wrong_passwords_are_throttled(user, account, garmin):
    fail_to_log_in(user, throttle.USER_LIMIT)

    with pytest.raises(LoginThrottled) as caught:
        start_login(user, EMAIL, PASSWORD)

    assert "tried to sign in too many times" in caught.value.user_message
    assert throttle.USER_WINDOW - 60 < caught.value.retry_after <= throttle.USER_WINDOW
    assert garmin.counts["login"] == throttle.USER_LIMIT


def test_a_window_begins_with_its_first_login_and_ends_in_time(user, settings):
    settings.CACHES = {"default": {"BACKEND": "tests.limits.test_throttle.ForgetfulCache"}}
    with time_machine.travel(0, tick=False) as clock:
        throttle.count_login(user, "account")
        clock.shift(throttle.USER_WINDOW + 1)
        for _ in range(throttle.USER_LIMIT):
            throttle.give_back(throttle.count_login(user, "account"))
            throttle.count_login(user, "account")
        clock.shift(throttle.USER_WINDOW - 10)
        with pytest.raises(LoginThrottled) as caught:
            throttle.count_login(user, "account")
        assert caught.value.retry_after == 10
        clock.shift(9.5)
        with pytest.raises(LoginThrottled) as caught:
            throttle.count_login(user, "account")
        assert caught.value.retry_after == 1
        clock.shift(1.5)

        throttle.count_login(user, "account")


def test_nobody_is_locked_out_by_somebody_who_types_his_address(user, other_user, account):
    fail_to_log_in(other_user, throttle.USER_LIMIT)

    assert start_login(user, EMAIL, PASSWORD) == Connected()


def test_a_success_forgives_the_tries(user, account):
    fail_to_log_in(user, throttle.USER_LIMIT - 1)
    start_login(user, EMAIL, PASSWORD)

    fail_to_log_in(user, throttle.USER_LIMIT)


def test_a_right_password_that_leads_to_a_code_is_no_failure(user, mfa_account, garmin):
    """Starting over does not lock out an honest user."""
    for _ in range(throttle.USER_LIMIT + 1):
        start_login(user, EMAIL, PASSWORD)

    assert submit_mfa(user, garmin.mfa_code(EMAIL)) == Connected()


@pytest.mark.django_db(transaction=True)
def test_a_right_password_of_a_slow_login_counts_for_the_client_only(
    user, other_user, mfa_account, slow_logins, monkeypatch
):
    times = throttle.USER_LIMIT + 1
    monkeypatch.setattr(throttle, "CLIENT_LIMIT", times)
    for _ in range(times):
        begin_login(user, EMAIL, PASSWORD, client_address="192.0.2.1")
        wait_for_logins()

    assert pending_login(user)
    with pytest.raises(LoginThrottled):
        begin_login(other_user, EMAIL, PASSWORD, client_address="192.0.2.1")


def test_a_right_password_does_not_forgive_the_wrong_ones(user, mfa_account):
    """Only the right code does."""
    fail_to_log_in(user, throttle.USER_LIMIT - 1)
    start_login(user, EMAIL, PASSWORD)
    fail_to_log_in(user, 1)

    with pytest.raises(LoginThrottled):
        start_login(user, EMAIL, PASSWORD)


def test_whoever_knows_the_password_cannot_guess_codes_without_end(user, mfa_account, garmin):
    for _ in range(throttle.TOTAL_LIMIT):
        start_login(user, EMAIL, PASSWORD)

    with pytest.raises(LoginThrottled):
        start_login(user, EMAIL, PASSWORD)

    assert garmin.counts["login"] == throttle.TOTAL_LIMIT


def test_the_right_code_forgives_the_tries(user, mfa_account, garmin):
    fail_to_log_in(user, throttle.USER_LIMIT - 1)
    start_login(user, EMAIL, PASSWORD)
    submit_mfa(user, garmin.mfa_code(EMAIL))

    fail_to_log_in(user, throttle.USER_LIMIT)


# One user, many accounts


def try_accounts(user, number, **options):
    for n in range(number):
        with pytest.raises(InvalidCredentials):
            start_login(user, f"stolen{n}@example.com", PASSWORD, **options)


def test_a_user_who_tries_many_accounts_is_stopped(user, garmin):
    try_accounts(user, throttle.TOTAL_LIMIT)

    with pytest.raises(LoginThrottled) as caught:
        start_login(user, "another@example.com", PASSWORD)

    assert 0 < caught.value.retry_after <= throttle.TOTAL_WINDOW
    assert garmin.counts["login"] == throttle.TOTAL_LIMIT


def test_a_success_does_not_forgive_the_tries_of_other_accounts(user, account):
    try_accounts(user, throttle.TOTAL_LIMIT - 1)
    start_login(user, EMAIL, PASSWORD)

    with pytest.raises(LoginThrottled):
        start_login(user, "another@example.com", PASSWORD)


def test_another_user_is_not_stopped(user, other_user, account):
    try_accounts(user, throttle.TOTAL_LIMIT)

    assert start_login(other_user, EMAIL, PASSWORD) == Connected()


def test_the_limit_of_an_account_is_its_own(django_user_model, monkeypatch):
    monkeypatch.setattr(throttle, "ACCOUNT_LIMIT", 2)
    users = [django_user_model.objects.create_user(f"user{number}") for number in range(3)]
    for user in users[:2]:
        throttle.count_login(user, "account")
    with pytest.raises(LoginThrottled):
        throttle.count_login(users[2], "account")

    assert throttle.count_login(users[2], "another account")


def test_a_refused_login_does_not_count(user, account, monkeypatch):
    monkeypatch.setattr(throttle, "TOTAL_LIMIT", throttle.USER_LIMIT + 1)
    fail_to_log_in(user, throttle.USER_LIMIT)
    for _ in range(3):
        with pytest.raises(LoginThrottled):
            start_login(user, EMAIL, PASSWORD)

    try_accounts(user, 1)


# One client, many users


def test_a_client_who_tries_with_many_users_is_stopped(
    user, other_user, account, garmin, monkeypatch
):
    monkeypatch.setattr(throttle, "CLIENT_LIMIT", 3)
    try_accounts(user, 3, client_address="192.0.2.1")

    with pytest.raises(LoginThrottled):
        start_login(other_user, EMAIL, PASSWORD, client_address="192.0.2.1")

    assert garmin.counts["login"] == 3
    assert start_login(other_user, EMAIL, PASSWORD, client_address="192.0.2.2") == Connected()


def test_the_site_says_what_a_clients_address_is(settings, rf):
    request = rf.get("/", HTTP_X_REAL_IP="192.0.2.1")
    assert throttle.address_of(request) == ""

    settings.GARMIN_AUTH_CLIENT_ADDRESS = f"{__name__}.real_address"
    assert throttle.address_of(request) == "192.0.2.1"
    assert throttle.address_of(rf.get("/")) == ""


def real_address(request):
    return request.headers.get("X-Real-IP")


def test_without_an_address_no_client_is_counted(user, other_user, account, monkeypatch):
    monkeypatch.setattr(throttle, "CLIENT_LIMIT", 1)
    try_accounts(user, 3)

    assert start_login(other_user, EMAIL, PASSWORD) == Connected()


# Outages


@pytest.mark.parametrize("fault", [{"fault": "status", "status": 503}, {"fault": "reset"}])
def test_an_outage_counts_against_nobody(user, account, garmin, fault, monkeypatch):
    for limit in ("ACCOUNT_LIMIT", "TOTAL_LIMIT", "CLIENT_LIMIT"):
        monkeypatch.setattr(throttle, limit, throttle.USER_LIMIT)
    garmin.fail("login", times=throttle.USER_LIMIT, **fault)
    for _ in range(throttle.USER_LIMIT):
        with pytest.raises(GarminUnavailable):
            start_login(user, EMAIL, PASSWORD, client_address="192.0.2.1")

    assert start_login(user, EMAIL, PASSWORD, client_address="192.0.2.1") == Connected()


def test_a_rate_limit_of_garmins_counts_against_nobody(user, account, garmin):
    garmin.fail("login", "rate_limited", retry_after=1, times=throttle.TOTAL_LIMIT)
    for n in range(throttle.TOTAL_LIMIT):
        with pytest.raises(RateLimited):
            start_login(user, f"account{n}@example.com", PASSWORD)

    assert start_login(user, EMAIL, PASSWORD) == Connected()


@pytest.mark.django_db(transaction=True)
def test_an_outage_of_a_slow_login_counts_against_nobody(user, account, garmin, slow_logins):
    garmin.fail("login", "status", status=503, times=throttle.USER_LIMIT)
    for _ in range(throttle.USER_LIMIT + 1):
        begin_login(user, EMAIL, PASSWORD)
        wait_for_logins()

    assert state_of(user).session_data


def test_an_outage_between_wrong_passwords_gives_none_of_them_back(user, account, garmin):
    fail_to_log_in(user, throttle.USER_LIMIT - 1)
    garmin.fail("login", "status", status=503)
    with pytest.raises(GarminUnavailable):
        start_login(user, EMAIL, PASSWORD)
    fail_to_log_in(user, 1)

    with pytest.raises(LoginThrottled):
        start_login(user, EMAIL, PASSWORD)


@pytest.mark.parametrize("fault", [{"fault": "status", "status": 503}, {"fault": "reset"}])
def test_an_outage_costs_no_attempt_of_a_code(user, mfa_account, garmin, settings, fault):
    settings.GARMIN_AUTH_MFA_MAX_ATTEMPTS = 2
    start_login(user, EMAIL, PASSWORD)
    garmin.fail("verify_code", times=3, **fault)
    for _ in range(3):
        with pytest.raises(GarminUnavailable):
            submit_mfa(user, garmin.mfa_code(EMAIL))

    assert pending_login(user).attempts_left == 2
    assert submit_mfa(user, garmin.mfa_code(EMAIL)) == Connected()
