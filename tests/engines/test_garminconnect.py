"""The garminconnect engine against the simulator: what comes out of it, call by call.

The library is as it was installed, but for the length of its pauses, which are for Garmin's eyes;
test_garminconnect_sessions.py and the demo wait for them.
"""

import base64
import contextlib
import io
import json
import logging
import os
import pickle
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import trustme

pytest.importorskip("garminconnect", reason="garminconnect needs Python 3.12 or newer")

import garminconnect

from garmin_auth.engines import get_engine
from garmin_auth.engines.base import Challenge, NewSession, RefreshIncomplete
from garmin_auth.engines.garminconnect.client import SessionClient
from garmin_auth.engines.garminconnect.login import HOOKS, LoginClient
from garmin_auth.exceptions import (
    AccountLocked,
    ActionRequired,
    CaptchaRequired,
    ChallengeExpired,
    GarminAuthError,
    GarminRequestError,
    GarminUnavailable,
    InvalidCredentials,
    RateLimited,
    SessionExpired,
    SessionUnreadable,
)
from garmin_auth.login import start_login
from tests.conftest import EMAIL, PASSWORD

PROFILE = "/userprofile-service/socialProfile"
PASSWORD_STEPS = ("login", "widget_login", "portal_login")
LOGIN_STEPS = ("sign_in", "widget_embed", "portal_sign_in")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    for flow in ("MOBILE_DELAY", "WIDGET_DELAY", "LOGIN_DELAY"):
        for end in ("MIN_S", "MAX_S"):
            monkeypatch.setattr(f"garminconnect.client.sso.{flow}_{end}", 0.01)


@pytest.fixture
def engine():
    return get_engine("garminconnect")


@pytest.fixture
def stored(garmin, account):
    return garmin.issue_session(account, engine="garminconnect")


@pytest.fixture
def expired(garmin, account):
    return garmin.issue_session(account, engine="garminconnect", access_expired=True)


@pytest.fixture
def session(engine, stored):
    return engine.open(stored, None)


@pytest.fixture
def challenge(engine, mfa_account):
    challenge = engine.login(mfa_account, PASSWORD)
    return json.loads(json.dumps(challenge.state))


class Clock:
    """In place of the module time: what is slept passes at once."""

    def __init__(self):
        self.slept = []

    def sleep(self, seconds):
        self.slept.append(seconds)

    def monotonic(self):
        return time.monotonic() + sum(self.slept)


def tokens(data):
    return json.loads(data)


def outcome(call, *arguments):
    """What a call returned or raised, by name; nothing may be chained to it."""
    try:
        result = call(*arguments)
    except GarminAuthError as exc:
        result = exc
    assert getattr(result, "__cause__", None) is None
    assert getattr(result, "__context__", None) is None
    return type(result).__name__


# Login


def test_a_login_gives_exactly_what_the_library_dumps(engine, account, garmin):
    result = engine.login(account, PASSWORD)

    assert isinstance(result, NewSession)
    assert (result.account_name, result.validated) == (EMAIL, True)
    client = garminconnect.client.Client()
    client.loads(result.session_data)
    ours = json.loads(result.session_data)
    assert ours.pop("di_refresh_token_ends") > time.time()  # The library drops this figure.
    assert json.loads(client.dumps()) == ours
    steps = [entry["step"] for entry in garmin.log if entry["step"] != "connect"]
    assert steps == ["sign_in", "login", "di_exchange", "api"]
    assert engine.fetch_account_name(engine.open(result.session_data, None)) == EMAIL


def test_a_code_is_finished_by_another_client(engine, challenge, garmin):
    result = engine.submit_code(challenge, garmin.mfa_code(EMAIL))

    assert (result.account_name, result.validated) == (EMAIL, True)
    assert challenge["sent_to"].startswith("an")
    assert "*" in challenge["sent_to"]


def test_the_challenge_holds_no_password_and_no_code(challenge, garmin):
    text = json.dumps(challenge)

    assert PASSWORD not in text
    assert garmin.mfa_code(EMAIL) not in text


def test_a_wrong_code_is_asked_once_and_the_right_one_still_works(engine, challenge, garmin):
    again = engine.submit_code(challenge, "000000")

    assert isinstance(again, Challenge)
    # The library would try the same code at a second address, and use up two of Garmin's tries.
    assert garmin.counts["verify_code"] + garmin.counts["portal_verify_code"] == 1
    state = json.loads(json.dumps(again.state))
    assert isinstance(engine.submit_code(state, garmin.mfa_code(EMAIL)), NewSession)


def test_a_fault_at_the_code_is_no_wrong_code(engine, challenge, garmin):
    for step in ("verify_code", "portal_verify_code"):
        garmin.fail(step, "status", status=503)

    with pytest.raises(GarminUnavailable):
        engine.submit_code(challenge, "123456")

    assert isinstance(engine.submit_code(challenge, garmin.mfa_code(EMAIL)), NewSession)


def test_a_rate_limit_at_the_code_is_said(engine, challenge, garmin):
    for step in ("verify_code", "portal_verify_code"):
        garmin.fail(step, "rate_limited", retry_after=77)

    with pytest.raises(RateLimited) as caught:
        engine.submit_code(challenge, "123456")

    assert caught.value.retry_after == 77


def test_a_404_with_a_string_for_an_error_is_unavailable(engine, challenge, garmin):
    garmin.fail("verify_code", "error_string")

    with pytest.raises(GarminUnavailable):
        engine.submit_code(challenge, "123456")


def test_a_fault_after_an_accepted_code_says_that_it_is_spent(engine, challenge, garmin):
    garmin.fail("di_exchange", "status", status=503, times=None)

    with pytest.raises(ChallengeExpired) as caught:
        engine.submit_code(challenge, garmin.mfa_code(EMAIL))

    assert caught.value.reason == "spent"


@pytest.mark.parametrize(
    "change",
    [
        {"engine": "garth"},
        {"domain": "garmin.cn"},
        {"client_state": None},
        {"client_state": {"domain": "garmin.com"}},
        {"client_state": []},
        {"account_name": 1},
    ],
)
def test_a_foreign_challenge_is_unreadable(engine, challenge, change):
    with pytest.raises(SessionUnreadable):
        engine.submit_code({**challenge, **change}, "123456")


def test_what_garmin_says_at_the_password(engine, garmin, settings):
    """Verdicts end the login; what says nothing certain lets the library try its other flows."""
    expected = {
        "wrong password": (None, InvalidCredentials),
        "locked": ("locked", AccountLocked),
        "disabled": ("disabled", AccountLocked),
    }
    for name, (fault, _) in expected.items():
        email = f"{name.replace(' ', '.')}@example.com"
        garmin.add_account(email, PASSWORD)
        if fault:
            garmin.fail("login", fault, account=email, times=None)

    def login(name):
        email = f"{name.replace(' ', '.')}@example.com"
        return outcome(engine.login, email, "wrong" if "wrong" in name else PASSWORD)

    with ThreadPoolExecutor() as pool:
        found = dict(zip(expected, pool.map(login, expected), strict=True))

    assert found == {name: error.__name__ for name, (_, error) in expected.items()}
    assert garmin.counts["login"] == 3  # No other flow, no other fingerprint was tried.
    assert garmin.counts["portal_login"] == 0


def test_a_login_refused_by_all_flows_is_rate_limited(engine, account, garmin):
    for step in LOGIN_STEPS:
        garmin.fail(step, "rate_limited", times=None, retry_after=120)

    with pytest.raises(RateLimited) as caught:
        engine.login(account, PASSWORD)

    assert caught.value.retry_after == 120
    assert garmin.counts["login"] == 0


@pytest.mark.parametrize(
    ("fault", "options", "error"),
    [
        ("blocked", {}, GarminUnavailable),
        ("status", {"status": 503}, GarminUnavailable),
        ("reset", {}, GarminUnavailable),
    ],
)
def test_a_fault_at_the_door_is_unavailable(engine, account, garmin, fault, options, error):
    for step in ("login", "portal_login"):
        garmin.fail(step, "blocked", times=None)
    for step in LOGIN_STEPS:
        garmin.fail(step, fault, times=None, **options)

    # A 503 for a page does not stop the library: it goes on to the password after its pause.
    if fault == "status":
        garmin.fail("sign_in", "blocked", times=None)
        garmin.heal("portal_sign_in")
        garmin.fail("portal_sign_in", "reset", times=None)
    assert outcome(engine.login, account, PASSWORD) == error.__name__


def test_a_captcha_lets_the_next_flow_try(engine, account, garmin):
    garmin.fail("login", "captcha")

    assert isinstance(engine.login(account, PASSWORD), NewSession)


def test_a_captcha_everywhere_is_said(engine, account, garmin):
    garmin.fail("login", "captcha", times=None)
    for step in ("widget_embed", "portal_sign_in"):
        garmin.fail(step, "reset", times=None)

    with pytest.raises(CaptchaRequired):
        engine.login(account, PASSWORD)


def test_a_login_that_ends_with_a_cookie_has_failed(engine, account, garmin):
    """The library's JWT_WEB fallback would give a session of nulls."""
    garmin.fail("di_exchange", "status", status=503, times=None)
    garmin.fail("portal_sign_in", "reset", times=None)

    with pytest.raises(GarminUnavailable):
        engine.login(account, PASSWORD)

    assert garmin.counts["jwt_web"] == 0


def test_a_deadline_ends_a_login_before_its_next_request(engine, account, garmin, monkeypatch):
    # Long enough for the first request to arrive on a busy machine.
    monkeypatch.setattr("garmin_auth.engines.garminconnect.engine.LOGIN_TIMEOUT", 6)
    garmin.fail("sign_in", "stall", seconds=30, times=None)
    garmin.fail("portal_sign_in", "stall", seconds=30, times=None)

    assert outcome(engine.login, account, PASSWORD) == "GarminUnavailable"
    assert garmin.counts["sign_in"] == 1


def test_a_pause_that_begins_late_ends_within_the_logins_time(engine, account, garmin, monkeypatch):
    """The library sleeps whatever the time; only the request after its pause is not sent."""
    clock = Clock()
    for module in ("garminconnect.client.sso", "garmin_auth.engines.http.deadline"):
        monkeypatch.setattr(f"{module}.time", clock)
    monkeypatch.setattr("garmin_auth.engines.garminconnect.engine.LOGIN_TIMEOUT", 100)
    for end in ("MIN", "MAX"):
        monkeypatch.setattr(f"garminconnect.client.sso.LOGIN_DELAY_{end}_S", 200)
    monkeypatch.setattr("garmin_auth.engines.garminconnect.engine.LOGIN_DELAY_MAX_S", 200)
    for step in ("sign_in", "widget_embed"):
        garmin.fail(step, "reset", times=None)

    assert outcome(engine.login, account, PASSWORD) == "GarminUnavailable"
    assert clock.slept.count(200) == 1
    assert sum(clock.slept) <= engine.login_timeout
    assert garmin.counts["portal_sign_in"] == 1
    assert garmin.counts["portal_login"] == 0


def test_a_fresh_token_that_is_not_active_lets_the_next_flow_try(engine, account, garmin):
    garmin.fail("api", "token_inactive", times=2)  # The library's call, and its repetition.

    assert isinstance(engine.login(account, PASSWORD), NewSession)
    assert (garmin.counts["login"], garmin.counts["widget_login"]) == (1, 1)


def test_fresh_tokens_that_are_never_active_are_no_wrong_password(engine, account, garmin):
    garmin.fail("api", "token_inactive", times=None)

    assert outcome(engine.login, account, PASSWORD) == "GarminUnavailable"


def test_a_fresh_token_that_is_not_active_says_that_the_code_is_spent(engine, challenge, garmin):
    garmin.fail("api", "token_inactive", times=None)

    with pytest.raises(ChallengeExpired) as caught:
        engine.submit_code(challenge, garmin.mfa_code(EMAIL))

    assert caught.value.reason == "spent"


def passwords_sent(garmin):
    return sum(garmin.counts[step] for step in PASSWORD_STEPS)


@pytest.mark.parametrize(
    ("fault", "options"),
    [
        ("rate_limited", {}),
        ("rate_limited_427", {}),
        ("rate_limited_200", {}),
        ("blocked", {}),
        ("status", {"status": 503}),
    ],
)
def test_a_try_sends_the_password_once_a_flow(engine, account, garmin, fault, options):
    for step in PASSWORD_STEPS:
        garmin.fail(step, fault, times=None, **options)

    with pytest.raises((RateLimited, GarminUnavailable)):
        engine.login(account, PASSWORD)

    assert {step: garmin.counts[step] for step in PASSWORD_STEPS} == dict.fromkeys(
        PASSWORD_STEPS, 1
    )


@pytest.mark.parametrize("step", ["sign_in", "login"])
def test_a_rate_limit_that_says_for_how_long_ends_the_try(engine, account, garmin, step):
    garmin.fail(step, "rate_limited", times=None, retry_after=1800)

    with pytest.raises(RateLimited) as caught:
        engine.login(account, PASSWORD)

    assert caught.value.retry_after == 1800
    assert garmin.counts["sign_in"] == 1
    assert passwords_sent(garmin) == (step == "login")


@pytest.mark.django_db(transaction=True)
def test_a_rate_limit_that_says_for_how_long_holds_for_the_account(user, account, garmin, settings):
    settings.GARMIN_AUTH_ENGINE = "garminconnect"
    garmin.fail("login", "rate_limited", times=None, retry_after=1800)

    for _ in range(3):
        with pytest.raises(RateLimited) as caught:
            start_login(user, f" {EMAIL.upper()}", PASSWORD)
        assert 1790 <= caught.value.retry_after <= 1800

    assert passwords_sent(garmin) == 1


@pytest.mark.parametrize("kind", ["CONSENT_REQUIRED", "PHONE_NUMBER_UPDATE", "SOMETHING_NEW"])
def test_a_type_that_nobody_knows_ends_the_login_and_is_told(engine, account, garmin, caplog, kind):
    garmin.fail("login", "unknown_type", kind=kind)

    with pytest.raises(ActionRequired, match=kind):
        engine.login(account, PASSWORD)

    assert passwords_sent(garmin) == 1
    assert kind in caplog.text


def test_a_type_that_nobody_knows_after_a_code_ends_the_login(engine, challenge, garmin):
    garmin.fail("verify_code", "unknown_type", kind="CONSENT_REQUIRED")

    with pytest.raises(ActionRequired):
        engine.submit_code(challenge, garmin.mfa_code(EMAIL))


class TestWidget:
    @pytest.fixture(autouse=True)
    def only_the_widget(self, garmin):
        for step in ("sign_in", "portal_sign_in"):
            garmin.fail(step, "rate_limited", times=None)

    def test_a_login(self, engine, account, garmin):
        assert isinstance(engine.login(account, PASSWORD), NewSession)
        assert garmin.counts["widget_login"] == 1

    def test_a_code(self, engine, mfa_account, garmin):
        state = json.loads(json.dumps(engine.login(mfa_account, PASSWORD).state))

        again = engine.submit_code(state, "000000")
        assert isinstance(again, Challenge)
        assert isinstance(engine.submit_code(again.state, garmin.mfa_code(EMAIL)), NewSession)

    @pytest.mark.parametrize(
        ("title", "error"),
        [
            ("Invalid sign in", InvalidCredentials),
            ("Account Locked", AccountLocked),
            ("Unable To Sign In", ActionRequired),
            ("Update Phone Number", ActionRequired),
            ("Account Error", ActionRequired),
            ("Something New", ActionRequired),
            ("Bad Gateway", RateLimited),  # As the other flows have met.
            ("Just a moment...", RateLimited),
            ("GARMIN Authentication Application", RateLimited),
        ],
    )
    def test_the_title_of_its_page_is_the_verdict(self, engine, account, garmin, title, error):
        garmin.fail("widget_login", "titled_page", title=title)

        assert outcome(engine.login, account, PASSWORD) == error.__name__
        assert passwords_sent(garmin) == 1

    def test_the_title_is_told_to_the_operator(self, engine, account, garmin, caplog):
        garmin.fail("widget_login", "titled_page", title="Update Phone Number")

        with pytest.raises(ActionRequired, match="Update Phone Number"):
            engine.login(account, PASSWORD)

        assert "Update Phone Number" in caplog.text

    @pytest.mark.parametrize(
        ("title", "error"),
        [
            ("Account Locked", "AccountLocked"),
            ("Invalid Code", "Challenge"),
            ("Update Phone Number", "ActionRequired"),
            ("Service Unavailable", "GarminUnavailable"),
        ],
    )
    def test_the_title_of_the_page_after_a_code(self, engine, mfa_account, garmin, title, error):
        state = engine.login(mfa_account, PASSWORD).state
        garmin.fail("widget_verify_code", "titled_page", title=title)

        assert outcome(engine.submit_code, state, garmin.mfa_code(EMAIL)) == error

    def test_a_stall_ends_with_the_logins_deadline(self, engine, account, garmin, monkeypatch):
        monkeypatch.setattr("garmin_auth.engines.garminconnect.engine.LOGIN_TIMEOUT", 6)
        garmin.fail("widget_embed", "stall", seconds=30, times=None)

        assert outcome(engine.login, account, PASSWORD) == "RateLimited"  # As the first flow met.
        assert garmin.counts["portal_sign_in"] == 0

    def test_it_sends_nothing_to_another_host(self, engine, account, garmin):
        garmin.fail("widget_login", "redirect", location="https://evil.example/")

        assert outcome(engine.login, account, PASSWORD) == "RateLimited"
        assert garmin.counts["refused_host"] == 0


@pytest.mark.parametrize("refused", [(), ("sign_in", "portal_sign_in")], ids=["mobile", "widget"])
def test_the_environment_leads_no_flow_astray(
    engine, account, garmin, monkeypatch, tmp_path, refused
):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("GARMINTOKENS", "/nonexistent/tokens")
    for step in refused:
        garmin.fail(step, "rate_limited", times=None)

    assert isinstance(engine.login(account, PASSWORD), NewSession)
    assert garmin.counts["widget_login"] == bool(refused)
    assert not (tmp_path / "keys").exists()


def test_only_the_settings_name_whom_to_trust(
    engine, account, garmin, settings, monkeypatch, tmp_path
):
    for name in ("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, garmin.ca_bundle)
    settings.GARMIN_AUTH_CA_BUNDLE = str(tmp_path / "other.pem")
    trustme.CA().cert_pem.write_to_path(settings.GARMIN_AUTH_CA_BUNDLE)

    assert outcome(engine.login, account, PASSWORD) == "GarminUnavailable"
    assert garmin.counts["connect"] > 2
    assert [garmin.counts[step] for step in LOGIN_STEPS] == [0, 0, 0]


# Tokens that cannot be used

UNUSABLE = ["", None, 5, [], "a\nb", "a\tb", "\u0100"]


@pytest.mark.parametrize("token", UNUSABLE)
@pytest.mark.parametrize("field", ["access_token", "refresh_token"])
def test_an_unusable_token_at_login_is_a_fault_of_garmins(engine, account, garmin, field, token):
    for step in ("di_exchange", "di_refresh"):  # The library refreshes what the API refuses.
        garmin.fail(step, "changed_json", times=None, changes={field: token})

    assert outcome(engine.login, account, PASSWORD) == "GarminUnavailable"
    assert passwords_sent(garmin) <= 3


# Each of them is tried above.
@pytest.mark.parametrize("token", [None, "a\nb"])
@pytest.mark.parametrize("field", ["access_token", "refresh_token"])
def test_an_unusable_token_after_a_code_spends_it(engine, challenge, garmin, field, token):
    for step in ("di_exchange", "di_refresh"):
        garmin.fail(step, "changed_json", times=None, changes={field: token})

    with pytest.raises(ChallengeExpired) as caught:
        engine.submit_code(challenge, garmin.mfa_code(EMAIL))

    assert caught.value.reason == "spent"


@pytest.mark.parametrize("token", UNUSABLE)
def test_a_refresh_token_beside_an_unusable_access_token_is_kept(engine, expired, garmin, token):
    garmin.fail("di_refresh", "changed_json", changes={"access_token": token})

    with pytest.raises(RefreshIncomplete) as caught:
        engine.refresh(expired)

    kept = tokens(caught.value.session_data)
    assert kept["di_token"] == tokens(expired)["di_token"]
    assert isinstance(engine.refresh(caught.value.session_data), str)


@pytest.mark.parametrize("token", UNUSABLE)
def test_an_access_token_beside_an_unusable_refresh_token_is_used(engine, expired, garmin, token):
    garmin.fail("di_refresh", "changed_json", changes={"refresh_token": token})

    fresh = engine.refresh(expired)

    assert tokens(fresh)["di_refresh_token"] == tokens(expired)["di_refresh_token"]
    assert engine.fetch_account_name(engine.open(fresh, None)) == EMAIL


def test_an_incomplete_refresh_shows_no_token(engine, expired, garmin):
    garmin.fail("di_refresh", "changed_json", changes={"access_token": ""})

    with pytest.raises(RefreshIncomplete) as caught:
        engine.refresh(expired)

    told = str(caught.value) + repr(caught.value) + str(pickle.dumps(caught.value))
    for data in (expired, caught.value.session_data):
        assert tokens(data)["di_refresh_token"] not in told
    assert type(pickle.loads(pickle.dumps(caught.value))) is GarminUnavailable


@pytest.mark.parametrize("exp", [None, "soon", True, [], 1e300, -1e300, float("nan")])
def test_an_access_token_may_not_say_when_it_ends(engine, stored, exp):
    payload = base64.urlsafe_b64encode(json.dumps({"exp": exp}).encode()).decode()
    data = json.dumps({**tokens(stored), "di_token": f"e30.{payload}.c2ln"})

    assert engine.access_ends_at(data) is None


# Refresh


def test_a_refresh_rotates_both_tokens(engine, expired, garmin):
    fresh = engine.refresh(expired)

    assert tokens(fresh)["di_token"] != tokens(expired)["di_token"]
    assert tokens(fresh)["di_refresh_token"] != tokens(expired)["di_refresh_token"]
    assert engine.fetch_account_name(engine.open(fresh, None)) == EMAIL


def test_a_used_refresh_token_is_dead(engine, expired):
    engine.refresh(expired)

    with pytest.raises(SessionExpired):
        engine.refresh(expired)


@pytest.mark.parametrize(
    ("fault", "options", "error"),
    [
        ("invalid_grant", {}, SessionExpired),
        ("oauth_error", {}, GarminUnavailable),
        ("rate_limited", {}, RateLimited),
        ("rate_limited_427", {}, RateLimited),
        ("rate_limited_200", {}, RateLimited),
        ("blocked", {}, GarminUnavailable),
        ("status", {"status": 401}, GarminUnavailable),
        ("status", {"status": 500}, GarminUnavailable),
        ("status", {"status": 400}, GarminUnavailable),
        ("html", {}, GarminUnavailable),
        ("truncated_json", {}, GarminUnavailable),
        ("wrong_json", {}, GarminUnavailable),
        ("reset", {}, GarminUnavailable),
        ("reset_mid_body", {}, GarminUnavailable),
        ("drop_after", {}, GarminUnavailable),
    ],
)
def test_only_invalid_grant_is_death(engine, expired, garmin, fault, options, error):
    """The library raises one authentication error for all of them."""
    garmin.fail("di_refresh", fault, **options)

    assert outcome(engine.refresh, expired) == error.__name__


def test_a_refresh_has_a_deadline(engine, expired, garmin, monkeypatch):
    monkeypatch.setattr("garmin_auth.engines.garminconnect.engine.REFRESH_TIMEOUT", 0.5)
    garmin.fail("di_refresh", "trickle", interval=0.2)

    assert outcome(engine.refresh, expired) == "GarminUnavailable"


def test_a_redirect_to_another_host_is_not_followed(engine, expired, garmin):
    garmin.fail("di_refresh", "redirect", location="https://evil.example/")

    assert outcome(engine.refresh, expired) == "GarminUnavailable"
    assert garmin.counts["refused_host"] == 0


# A session in use


def test_the_client_is_the_librarys(session):
    client = session.client

    assert isinstance(client, garminconnect.Garmin)
    assert client.get_stats("2026-11-22")["calendarDate"] == "2026-11-22"
    assert client.connectapi(PROFILE)["userName"] == EMAIL
    assert client.full_name == "Ana"
    assert client.get_full_name() == "Ana"
    assert session.worked


def test_the_units_are_asked_for_once_and_when_they_are_wanted(session, garmin):
    assert garmin.counts["api"] == 0
    assert session.client.get_unit_system() == "metric"
    assert session.client.get_unit_system() == "metric"
    assert garmin.counts["api"] == 1


def test_an_expired_access_token_is_renewed_before_the_call(engine, expired, garmin):
    session = engine.open(expired, lambda: engine.refresh(expired))

    assert session.client.connectapi(PROFILE)["userName"] == EMAIL
    assert garmin.counts["di_refresh"] == 1
    assert garmin.counts["api"] == 1


def test_a_refused_access_token_is_renewed_once_and_the_body_sent_again(
    engine, stored, garmin, account
):
    session = engine.open(stored, lambda: engine.refresh(stored))
    garmin.expire_access_tokens(account)

    uploaded = io.BytesIO(b"the whole file")
    session.client.client.post(
        "connectapi", "/upload-service/upload", files={"file": ("run.fit", uploaded)}, api=True
    )

    assert garmin.counts["di_refresh"] == 1
    assert garmin.uploads[-1]["size"] == len(b"the whole file")


def test_what_renewal_raises_is_what_the_call_raises(engine, expired):
    def renew():
        raise SessionExpired("over")

    session = engine.open(expired, renew)

    for call in (lambda: session.client.connectapi(PROFILE), lambda: session.client.full_name):
        assert outcome(call) == "SessionExpired"
    assert outcome(session.client.get_stats, "2026-11-22") == "SessionExpired"


@pytest.mark.parametrize(
    ("fault", "options", "error"),
    [
        ("status", {"status": 404}, GarminRequestError),
        ("status", {"status": 400}, GarminRequestError),
        ("status", {"status": 500}, GarminUnavailable),
        ("blocked", {}, GarminUnavailable),
        ("rate_limited", {}, RateLimited),
        ("rate_limited_427", {}, RateLimited),
        ("rate_limited_200", {}, RateLimited),
        ("html", {}, GarminUnavailable),
        ("truncated_json", {}, GarminUnavailable),
        ("reset", {}, GarminUnavailable),
        ("reset_mid_body", {}, GarminUnavailable),
    ],
)
def test_what_a_call_meets_is_ours(session, garmin, fault, options, error):
    garmin.fail("api", fault, times=None, **options)

    assert outcome(session.client.connectapi, PROFILE) == error.__name__
    assert outcome(session.client.get_stats, "2026-11-22") == error.__name__


def test_a_mistake_of_the_caller_stays_one(session, garmin):
    with pytest.raises(ValueError, match="cdate"):
        session.client.get_stats("yesterday")
    with pytest.raises(TypeError):
        session.client.get_stats()

    assert garmin.counts["api"] == 0


def test_a_missing_thing_is_what_the_library_wants_to_know(session, garmin):
    """Its own code catches its own 404; ours comes out of the outermost call only."""
    garmin.fail("api", "status", status=404, times=None)

    with pytest.raises(GarminRequestError) as caught:
        session.client.get_activity("1")

    assert caught.value.status == 404


def test_before_and_after_see_each_call(engine, stored, garmin):
    seen = []
    session = engine.open(
        stored, None, before=lambda: seen.append("before"), after=lambda error: seen.append(error)
    )

    session.client.connectapi(PROFILE)

    assert seen == ["before", None]


def test_before_may_refuse(engine, stored, garmin):
    def refuse():
        raise RateLimited(5)

    session = engine.open(stored, None, before=refuse)

    assert outcome(session.client.connectapi, PROFILE) == "RateLimited"
    assert garmin.counts["api"] == 0


def test_a_call_has_a_deadline(session, garmin, settings):
    settings.GARMIN_AUTH_TIMEOUT = 0.5
    garmin.fail("api", "trickle", interval=0.2)

    assert outcome(session.client.connectapi, PROFILE) == "GarminUnavailable"


def test_the_client_can_neither_log_in_nor_write_files(session, tmp_path):
    client = session.client
    for call in (client.login, client.resume_login, client.logout, client.client.login):
        with pytest.raises(NotImplementedError):
            call()
    with pytest.raises(NotImplementedError):
        client.client.dump(str(tmp_path))
    with pytest.raises(NotImplementedError):
        client.client.loads("{}")


def test_a_token_store_in_the_environment_is_left_alone(
    engine, expired, garmin, tmp_path, monkeypatch
):
    monkeypatch.setenv("GARMINTOKENS", str(tmp_path))
    session = engine.open(expired, lambda: engine.refresh(expired))

    session.client.connectapi(PROFILE)

    assert list(tmp_path.iterdir()) == []


# Session data


@pytest.mark.parametrize(
    "data",
    [
        "",
        "null",
        "[]",
        "{}",
        "not JSON",
        '{"di_token": null, "di_refresh_token": null, "di_client_id": null}',
        '{"di_token": "a\\nb", "di_refresh_token": "b", "di_client_id": "c"}',
        '{"di_token": "a", "di_refresh_token": 1, "di_client_id": "c"}',
        "[" * 100_000,
    ],
)
def test_other_data_is_unreadable(engine, data):
    with pytest.raises(SessionUnreadable):
        engine.open(data, None)
    with pytest.raises(SessionUnreadable):
        engine.refresh(data)


def test_the_other_domains_session_is_unreadable(stored, settings):
    """It says its domain only in its token; a refresh there would look like death."""
    settings.GARMIN_AUTH_DOMAIN = "garmin.cn"

    with pytest.raises(SessionUnreadable, match=r"garmin\.com"):
        get_engine("garminconnect").open(stored, None)


def test_a_garth_token_is_told_from_ours(engine, garmin, account):
    with pytest.raises(SessionUnreadable, match="--engine garth"):
        engine.read_export(garmin.issue_session(account))


def test_an_export_and_a_folder_are_read(engine, stored, tmp_path):
    (tmp_path / "garmin_tokens.json").write_text(stored)

    assert engine.read_export(f" {stored}\n") == stored
    assert engine.read_folder(tmp_path) == stored


def test_a_folder_without_tokens_says_so(engine, tmp_path):
    with pytest.raises(SessionUnreadable, match=r"There is no garmin_tokens\.json"):
        engine.read_folder(tmp_path)


# What escapes


def test_errors_hold_no_secret_and_can_be_pickled(engine, garmin, expired, caplog):
    caplog.set_level(logging.DEBUG)
    garmin.fail("di_refresh", "status", status=500, times=None)
    session = engine.open(expired, lambda: engine.refresh(expired))

    with pytest.raises(GarminUnavailable) as caught:
        session.client.connectapi(PROFILE)

    text = str(pickle.dumps(caught.value)) + caplog.text + str(caught.value)
    for secret in tokens(expired).values():
        if not secret.startswith("GARMIN_CONNECT"):
            assert secret not in text


def test_tls_keys_are_not_logged(expired, run_python, tmp_path):
    keys = tmp_path / "keys"
    code = """
        import os, sys
        from garmin_auth.engines import get_engine
        assert get_engine("garminconnect").refresh(sys.argv[1]) != sys.argv[1]
        print(os.environ["SSLKEYLOGFILE"])
    """

    assert run_python(textwrap.dedent(code), expired, SSLKEYLOGFILE=str(keys)) == str(keys)

    assert not keys.exists()


def test_logins_leave_no_secret_in_any_log(engine, garmin, caplog):
    caplog.set_level(logging.DEBUG)
    garmin.add_account(EMAIL, PASSWORD, mfa=True)
    secrets = {EMAIL, PASSWORD, "another password"}
    for others in ((), ("sign_in", "portal_sign_in")):
        for step in others:
            garmin.fail(step, "reset", times=None)
        challenge = engine.login(EMAIL, PASSWORD)
        secrets |= {cookie["value"] for cookie in challenge.state["client_state"]["cookies"]}
        secrets.add(garmin.mfa_code(EMAIL))
        session = engine.submit_code(challenge.state, garmin.mfa_code(EMAIL))
        stored = tokens(session.session_data)
        secrets |= {stored["di_token"], stored["di_refresh_token"]}
        outcome(engine.login, EMAIL, "another password")
    for fault in ("rate_limited", "html", "wrong_json", "reset", "error_string"):
        garmin.heal()
        garmin.fail("login", fault, times=None)
        garmin.fail("widget_login", "html", times=None)
        garmin.fail("portal_sign_in", "reset", times=None)
        assert outcome(engine.login, EMAIL, PASSWORD) in ("RateLimited", "GarminUnavailable")

    assert garmin.counts["widget_login"] > 1
    assert any(record.name.startswith("garminconnect") for record in caplog.records)
    assert [secret for secret in secrets if secret in caplog.text] == []


def test_a_dead_refresh_token_is_in_no_log_and_no_exception(engine, garmin, account, caplog):
    """Garmin's answer repeats it."""
    caplog.set_level(logging.DEBUG)
    data = garmin.issue_session(account, engine="garminconnect", access_expired=True)
    garmin.revoke(account)

    with pytest.raises(SessionExpired) as caught:
        engine.refresh(data)

    token = tokens(data)["di_refresh_token"]
    said = caplog.text + repr(caught.value) + str(caught.value) + str(vars(caught.value))
    assert token not in said


@pytest.mark.parametrize(
    "outcome", ["connected", "refused", "captcha", "fault", "second flow", "widget"]
)
def test_a_login_leaves_its_password_to_nobody(engine, account, garmin, outcome):
    """The library keeps what a flow has met in frames that know the password."""
    wrong = " and wrong" if outcome == "refused" else ""
    password = f"{PASSWORD}{wrong} "[:-1]  # Made here, so that nobody else has it.
    if outcome in ("captcha", "fault"):
        garmin.fail("login", {"captcha": "captcha", "fault": "reset"}[outcome], times=None)
        garmin.fail("widget_login", "reset", times=None)
        garmin.fail("portal_sign_in", "reset", times=None)
    if outcome == "second flow":
        garmin.fail("login", "reset")
    if outcome == "widget":
        garmin.fail("login", "reset", times=None)
    before = sys.getrefcount(password)

    with contextlib.suppress(GarminAuthError):
        engine.login(account, password)

    assert sys.getrefcount(password) == before
    assert garmin.counts["login"] > 0


# Another release of the library

WITHOUT = """
import importlib, sys
from garminconnect.client import Client
hooks = sys.argv[1:]
for hook in hooks:
    owners = [(owner, vars(owner)[hook]) for owner in Client.__mro__ if hook in vars(owner)]
    init = Client.__init__
    if owners:
        for owner, _ in owners:
            delattr(owner, hook)
    else:
        def without(self, *args, **kwargs):
            init(self, *args, **kwargs)
            delattr(self, hook)
        Client.__init__ = without
    try:
        importlib.import_module("garmin_auth.engines.garminconnect")
    except ImportError as exc:
        print(hook, "refused" if hook in str(exc) else exc)
    else:
        print(hook, "used")
    for owner, method in owners:
        setattr(owner, hook, method)
    Client.__init__ = init
    for name in [name for name in sys.modules if "engines.garminconnect" in name]:
        del sys.modules[name]
import garmin_auth.engines.garminconnect
"""


def test_a_release_without_a_hook_is_refused(run_python):
    lines = run_python(WITHOUT, *HOOKS).splitlines()

    assert lines == [f"{hook} refused" for hook in HOOKS]


@pytest.mark.parametrize("ours", [LoginClient, SessionClient])
def test_whatever_is_overridden_is_one_of_the_hooks(ours):
    library = set(dir(garminconnect.client.Client()))
    private = {name for name in vars(ours) if name.startswith("_") and not name.startswith("__")}

    assert private & library
    assert private & library <= set(HOOKS)
