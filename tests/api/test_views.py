"""The API as a front end meets it, with a real Garmin behind it."""

import logging
import sys
from datetime import timedelta
from http import HTTPStatus
from types import ModuleType

import django
import pytest
from django.db import connection
from django.test import Client
from django.urls import include, path
from django.utils import timezone, translation
from django.utils.log import AdminEmailHandler

from garmin_auth.accounts import account_of
from garmin_auth.engines.garth import GarthEngine
from garmin_auth.limits import throttle
from garmin_auth.logins.kept import KEPT
from garmin_auth.models import EndedReason, GarminAuthenticationState
from tests.api.conftest import API, CONNECTION, KEY, LOGIN, MFA, ApiClient
from tests.conftest import EMAIL, PASSWORD, needs_personal, state_of
from tests.rows import damage
from tests.test_views import another_code, let_challenge_expire
from tests.waiting import wait_for_logins

pytestmark = pytest.mark.django_db(transaction=True)
states = GarminAuthenticationState.objects

FORM = {"email": EMAIL, "password": PASSWORD}
WRONG = {"email": EMAIL, "password": "s3cret and wrong"}
EVERY_VIEW = [CONNECTION, LOGIN, MFA, KEY]


def connection_seen(client):
    return client.get(CONNECTION).json()


def log_in(api, form=FORM, **headers):
    response = api.send(LOGIN, form, **headers)
    wait_for_logins()
    return response


# The connection


def test_a_user_who_has_never_connected(api):
    response = api.get(CONNECTION)

    assert response.status_code == 200
    assert response.json() == {
        "status": "not_connected",
        "connected": False,
        "readable": True,
        "engine": None,
        "domain": None,
        "account_name": None,
        "connected_at": None,
        "last_validated": None,
        "ends_at": None,
        "failing_since": None,
        "failing_reason": None,
        "ended_reason": "never",
        "pending": None,
        "login": None,
        "refusal": None,
        "offers": [
            {
                "engine": "garth",
                "kind": "password",
                "label": str(GarthEngine.label),
                "note": str(GarthEngine.login_note),
                "domains": ["garmin.com"],
            }
        ],
    }


def test_a_login_answers_with_the_connection(api, user, account):
    response = log_in(api)

    seen = response.json()
    assert (response.status_code, seen["status"], seen["connected"]) == (200, "connected", True)
    assert (seen["engine"], seen["domain"], seen["account_name"]) == ("garth", "garmin.com", EMAIL)
    assert seen["ended_reason"] is seen["pending"] is seen["login"] is None
    state = state_of(user)
    for name, moment in (
        ("connected_at", state.connected_at),
        ("last_validated", state.last_validated),
        ("ends_at", state.session_ends_at),
    ):
        assert seen[name] == f"{moment:%Y-%m-%dT%H:%M:%SZ}"
    assert seen == connection_seen(api)


def test_a_wrong_password(api, account):
    response = log_in(api, WRONG)

    assert response.status_code == 422
    assert response["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert "did not accept this email address and password" in problem.pop("detail")
    assert problem == {
        "type": "about:blank",
        "title": HTTPStatus(422).phrase,
        "status": 422,
        "code": "invalid_credentials",
    }
    assert connection_seen(api)["status"] == "not_connected"


def test_where_to_look_is_told_as_an_address_must_be(api, mfa_account, settings, monkeypatch):
    module = ModuleType("urls_of_this_test")
    module.urlpatterns = [path("学/my api/", include("garmin_auth.api.urls"))]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    settings.ROOT_URLCONF = module.__name__

    response = api.send("/学/my api/connection/login/", FORM)
    wait_for_logins()

    assert (response.status_code, response["Location"]) == (
        202,
        "/%E5%AD%A6/my%20api/connection/",
    )


def test_a_code_is_awaited_and_taken(api, mfa_account, garmin):
    response = log_in(api)

    assert (response.status_code, response["Location"]) == (202, CONNECTION)
    assert "Retry-After" not in response
    seen = response.json()
    assert (seen["status"], seen["connected"]) == ("waiting", False)
    pending = seen["pending"]
    assert pending["sent_to"]
    assert (pending["attempts_left"], pending["engine"]) == (5, "garth")

    response = api.send(MFA, {"code": garmin.mfa_code(EMAIL)})
    assert (response.status_code, response.json()["status"]) == (200, "connected")


def test_a_wrong_code_says_how_many_attempts_are_left(api, mfa_account, garmin):
    log_in(api)

    response = api.send(MFA, {"code": another_code(garmin.mfa_code(EMAIL))})

    problem = response.json()
    assert (response.status_code, problem["code"]) == (422, "invalid_code")
    assert problem["attempts_left"] == connection_seen(api)["pending"]["attempts_left"] == 4
    assert problem["errors"] == {"code": [{"code": "invalid_code", "message": problem["detail"]}]}


def test_too_many_wrong_codes(api, mfa_account, garmin, settings):
    settings.GARMIN_AUTH_MFA_MAX_ATTEMPTS = 1
    log_in(api)

    response = api.send(MFA, {"code": another_code(garmin.mfa_code(EMAIL))})

    assert (response.status_code, response.json()["code"]) == (422, "too_many_attempts")
    assert connection_seen(api)["pending"] is None


def test_a_code_that_comes_too_late(api, user, mfa_account, garmin):
    log_in(api)
    let_challenge_expire(user)
    assert connection_seen(api)["pending"] is None
    assert connection_seen(api)["status"] == "not_connected"

    response = api.send(MFA, {"code": garmin.mfa_code(EMAIL)})

    problem = response.json()
    assert (response.status_code, problem["code"]) == (409, "challenge_expired")
    assert problem["reason"] == "expired"


def test_a_code_that_nobody_awaits(api):
    response = api.send(MFA, {"code": "123456"})

    problem = response.json()
    assert (response.status_code, problem["code"], problem["reason"]) == (
        409,
        "challenge_expired",
        "gone",
    )


def test_a_login_that_waits_is_cancelled(api, mfa_account):
    log_in(api)

    response = api.delete(LOGIN)

    assert (response.status_code, response.json()["pending"]) == (200, None)
    assert api.delete(LOGIN).status_code == 200  # Again: there is nothing left to do.


def test_a_user_disconnects(api, account):
    log_in(api)

    response = api.delete(CONNECTION)

    seen = response.json()
    assert (response.status_code, seen["status"], seen["ended_reason"]) == (
        200,
        "not_connected",
        "user",
    )
    assert seen["engine"] is seen["domain"] is seen["account_name"] is None
    assert api.delete(CONNECTION).status_code == 200


def test_a_session_that_garmin_has_ended(api, user, connect):
    states.disconnect(connect(user).user_id, EndedReason.EXPIRED)

    seen = connection_seen(api)
    assert (seen["status"], seen["ended_reason"]) == ("ended", "expired")


def test_a_session_that_cannot_be_read(api, user, connect):
    connect(user)
    damage(user)

    seen = connection_seen(api)
    assert (seen["connected"], seen["readable"], seen["account_name"]) == (True, False, None)


def test_a_session_that_fails(api, user, connect):
    connect(user)
    since = timezone.now() - timedelta(days=4)
    states.filter(user=user).update(
        failing_since=since, failing_told_at=since, failing_reason="refused"
    )

    seen = connection_seen(api)
    assert (seen["status"], seen["failing_reason"]) == ("failing", "refused")
    assert seen["failing_since"] == f"{since:%Y-%m-%dT%H:%M:%SZ}"


# A login that goes on outside of the request


def test_a_slow_login_says_where_and_when_to_look(api, account, gate):
    response = api.send(LOGIN, FORM)

    assert response.status_code == 202
    assert (response["Location"], response["Retry-After"]) == (CONNECTION, "2")
    assert response.json()["status"] == "connecting"
    assert response.json()["login"] == {"under_way": True, "error": None}
    assert api.get(CONNECTION)["Retry-After"] == "2"

    gate.set()
    wait_for_logins()
    response = api.get(CONNECTION)
    assert (response.json()["status"], response.json()["login"]) == ("connected", None)
    assert "Retry-After" not in response


def test_a_slow_login_that_failed_says_why(api, account, slow_logins):
    assert log_in(api, WRONG).status_code == 202

    seen = connection_seen(api)
    assert (seen["status"], seen["login"]["under_way"]) == ("not_connected", False)
    assert seen["login"]["error"]["code"] == "invalid_credentials"


def test_a_slow_login_that_has_to_wait_says_how_long(api, account, garmin, slow_logins):
    garmin.fail("login", "rate_limited", retry_after=600)
    log_in(api)

    error = connection_seen(api)["login"]["error"]
    assert error["code"] == "rate_limited"
    assert 590 <= error["retry_after"] <= 600


def test_a_slow_login_is_cancelled(api, user, account, gate):
    api.send(LOGIN, FORM)

    assert api.delete(LOGIN).json()["login"] is None
    gate.set()
    wait_for_logins()
    assert not account_of(user).connected


# Keys


@pytest.fixture
def keys(settings):
    settings.GARMIN_AUTH_ENGINE = ["garth", "personal"]


@needs_personal
def test_both_ways_are_offered(api, keys):
    assert [(offer["engine"], offer["kind"]) for offer in connection_seen(api)["offers"]] == [
        ("garth", "password"),
        ("personal", "key"),
    ]


@needs_personal
def test_a_key_connects(api, account, garmin, keys):
    response = api.send(KEY, {"key": garmin.add_key(EMAIL)})

    assert response.status_code == 200
    assert (response.json()["engine"], response.json()["ends_at"]) == ("personal", None)


@needs_personal
@pytest.mark.parametrize("offset", ["Z", "+00:00", "+09:00"])
def test_a_key_is_told_when_it_ends(api, account, garmin, keys, offset):
    end = (timezone.now() + timedelta(days=90)).replace(microsecond=0)
    sent = f"{end:%Y-%m-%dT%H:%M:%S}{offset}"

    response = api.send(KEY, {"key": garmin.add_key(EMAIL), "ends_at": sent, "engine": None})

    hours = 9 if offset == "+09:00" else 0
    assert response.json()["ends_at"] == f"{end - timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ}"


@needs_personal
@pytest.mark.parametrize(
    ("ends_at", "code"),
    [
        ("tomorrow", "not_a_moment"),
        ("2027-11-22T00:00:00", "not_a_moment"),
        ("0001-01-01T00:00:00+14:00", "not_a_moment"),
        ("2020-11-22T00:00:00Z", "out_of_range"),
        ("9999-12-31T23:59:59Z", "out_of_range"),
    ],
)
def test_an_end_that_cannot_be(api, keys, ends_at, code):
    response = api.send(KEY, {"key": "k" * 100, "ends_at": ends_at})

    assert response.status_code == 422
    assert [error["code"] for error in response.json()["errors"]["ends_at"]] == [code]


@needs_personal
@pytest.mark.parametrize(("key", "reason"), [("not a key", "spaces"), ("password", "password")])
def test_a_key_that_cannot_be_one(api, keys, key, reason):
    response = api.send(KEY, {"key": key})

    problem = response.json()
    assert (response.status_code, problem["code"]) == (422, "invalid_key")
    assert problem["reason"] == reason
    assert problem["errors"] == {"key": [{"code": "invalid_key", "message": problem["detail"]}]}


@needs_personal
def test_a_key_that_garmin_refuses(api, account, garmin, keys):
    key = garmin.add_key(EMAIL)
    garmin.delete_key(key)

    response = api.send(KEY, {"key": key})

    assert (response.status_code, response.json()["code"]) == (422, "key_refused")
    assert "key" in response.json()["errors"]


# What is not offered


@pytest.mark.parametrize(
    ("path", "values", "field"),
    [
        (LOGIN, {**FORM, "engine": "personal"}, "engine"),
        (LOGIN, {**FORM, "engine": "no engine"}, "engine"),
        (LOGIN, {**FORM, "domain": "garmin.cn"}, "domain"),
        (LOGIN, {**FORM, "domain": "evil.example"}, "domain"),
        (KEY, {"key": "k" * 100}, "engine"),
    ],
)
def test_only_what_the_site_offers_can_be_chosen(api, garmin, path, values, field):
    response = api.send(path, values)

    assert (response.status_code, response.json()["code"]) == (422, "validation")
    assert [error["code"] for error in response.json()["errors"][field]] == ["not_offered"]
    assert sum(garmin.counts.values()) == 0


def test_the_user_chooses_garmins_service(api, garmin, settings):
    garmin.add_account(EMAIL, PASSWORD, domain="garmin.cn")
    settings.GARMIN_AUTH_DOMAIN = ["garmin.com", "garmin.cn"]

    (offer,) = connection_seen(api)["offers"]
    response = api.send(LOGIN, {**FORM, "domain": "garmin.cn"})

    assert offer["domains"] == ["garmin.com", "garmin.cn"]
    assert (response.status_code, response.json()["domain"]) == (200, "garmin.cn")
    assert not [each["host"] for each in garmin.log if each["host"].endswith("garmin.com")]


def test_a_user_who_may_not_connect(api, account, garmin, settings):
    settings.GARMIN_AUTH_MAY_CONNECT = "tests.api.test_views.nobody_may"

    seen, response = connection_seen(api), api.send(LOGIN, FORM)

    assert (seen["refusal"], seen["offers"]) == ("Not on this site.", [])
    assert (response.status_code, response.json()["code"]) == (403, "not_allowed")
    assert response.json()["detail"] == "Not on this site."
    assert sum(garmin.counts.values()) == 0


def nobody_may(user):
    return "Not on this site."


def test_a_frozen_site(api, account, settings):
    settings.GARMIN_AUTH_FROZEN = True

    seen, response = connection_seen(api), api.send(LOGIN, FORM)

    assert (response.status_code, response.json()["code"]) == (503, "frozen")
    assert seen["refusal"] == response.json()["detail"]


# One flow with the pages


@pytest.fixture
def browser(user):
    browser = Client()
    browser.force_login(user)
    return browser


def test_a_login_begun_on_a_page_is_finished_by_the_api(api, browser, mfa_account, garmin):
    browser.post("/garmin/login/", FORM)

    assert connection_seen(api)["status"] == "waiting"
    assert api.send(MFA, {"code": garmin.mfa_code(EMAIL)}).json()["status"] == "connected"


def test_a_login_begun_by_the_api_is_finished_on_a_page(api, browser, mfa_account, garmin):
    log_in(api)

    browser.post("/garmin/mfa/", {"code": garmin.mfa_code(EMAIL)})
    assert connection_seen(api)["status"] == "connected"


def test_what_a_page_has_kept_of_a_login_is_forgotten_when_the_api_ends_it(
    api, mfa_account, garmin
):
    api.post("/garmin/login/", FORM)
    assert KEPT in api.session

    api.send(MFA, {"code": garmin.mfa_code(EMAIL)})
    assert KEPT not in api.session


def test_logins_on_pages_and_of_the_api_count_together(api, browser, account, garmin):
    for number in range(throttle.USER_LIMIT):
        form = {**WRONG, "password": f"wrong password {number}"}
        if number % 2:
            browser.post("/garmin/login/", form)
        else:
            api.send(LOGIN, form)
    asked = garmin.counts["login"]

    response = api.send(LOGIN, FORM)

    problem = response.json()
    assert (response.status_code, problem["code"]) == (429, "login_throttled")
    assert response["Retry-After"] == str(problem["retry_after"])
    assert 0 < problem["retry_after"] <= throttle.USER_WINDOW
    assert garmin.counts["login"] == asked


def test_what_is_sent_twice_with_one_key_goes_to_garmin_once(api, mfa_account, garmin):
    key = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}

    first, second = log_in(api, FORM, **key), log_in(api, FORM, **key)

    assert first.json() == second.json()
    assert garmin.counts["login"] == 1


def test_a_client_address_is_limited(api, account, settings, monkeypatch):
    settings.GARMIN_AUTH_CLIENT_ADDRESS = "tests.api.test_views.address_of"
    monkeypatch.setattr(throttle, "CLIENT_LIMIT", 1)
    log_in(api, WRONG)

    assert log_in(api).json()["code"] == "login_throttled"


def address_of(request):
    return request.META["REMOTE_ADDR"]


# Garmin's answers


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ({"fault": "rate_limited", "retry_after": 60}, 429, "rate_limited"),
        ({"fault": "status"}, 503, "unavailable"),
        ({"fault": "captcha"}, 422, "captcha_required"),
        ({"fault": "locked"}, 422, "account_locked"),
    ],
)
def test_what_garmin_says_has_a_status_and_a_code(api, account, garmin, fault, status, code):
    garmin.fail("login", times=None, **fault)

    response = log_in(api)

    assert (response.status_code, response.json()["code"]) == (status, code)


def test_an_outage_is_no_bug_in_djangos_log(api, account, garmin, caplog):
    garmin.fail("login", "status", times=None)
    log_in(api)

    records = [record for record in caplog.records if record.name == "django.request"]
    assert [record.levelname for record in records] == ["WARNING"]


# What is wrong with a request


@pytest.mark.parametrize(
    "body", [b" ", b"{", b"\xff", b"[" * 50_000, b"email=a", b"1" * 5000, b"\xef\xbb\xbf{}"]
)
def test_a_body_that_is_not_json(api, body):
    response = api.post(LOGIN, body, content_type="application/json")

    assert (response.status_code, response.json()["code"]) == (400, "not_json")


def test_a_body_that_is_too_large(api):
    response = api.send(LOGIN, {**FORM, "password": "x" * 65_536})

    assert (response.status_code, response.json()["code"]) == (400, "too_large")


@pytest.mark.parametrize("body", [[], "text", 5, None, True])
def test_a_body_that_is_no_object(api, body):
    response = api.send(LOGIN, body)

    assert (response.status_code, response.json()["code"]) == (422, "validation")


@pytest.mark.parametrize("path", [LOGIN, MFA, KEY])
@pytest.mark.parametrize(
    "content_type",
    ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", ""],
)
def test_another_content_type(api, path, content_type):
    response = api.post(path, b"email=a", content_type=content_type)

    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("values", "errors"),
    [
        ({}, {"email": "required", "password": "required"}),
        ({"email": " ", "password": ""}, {"email": "required", "password": "required"}),
        ({**FORM, "email": "a" * 255}, {"email": "max_length"}),
        ({**FORM, "password": 5}, {"password": "not_text"}),
        ({**FORM, "password": ["a"]}, {"password": "not_text"}),
        ({**FORM, "password": "\ud800"}, {"password": "not_text"}),
        ({**FORM, "email": "a\0"}, {"email": "null_characters_not_allowed"}),
        ({**FORM, "Password": "a"}, {"Password": "unknown"}),
    ],
)
def test_values_that_are_missing_or_wrong(api, garmin, values, errors):
    response = api.send(LOGIN, values)

    assert (response.status_code, response.json()["code"]) == (422, "validation")
    found = {field: each[0]["code"] for field, each in response.json()["errors"].items()}
    assert found == errors
    assert sum(garmin.counts.values()) == 0


def test_an_idempotency_key_that_is_too_long(api):
    response = api.send(LOGIN, FORM, **{"Idempotency-Key": "x" * 256})

    assert response.status_code == 422
    assert "Idempotency-Key" in response.json()["errors"]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (CONNECTION, "GET, HEAD, DELETE"),
        (LOGIN, "POST, DELETE"),
        (MFA, "POST"),
        (KEY, "POST"),
        (f"{API}openapi.json", "GET, HEAD"),
    ],
)
def test_another_method(api, path, allowed):
    for method in {"get", "head", "post", "put", "patch", "delete", "options", "trace"} - {
        *allowed.lower().split(", ")
    }:
        response = getattr(api, method)(path)
        assert (response.status_code, response["Allow"]) == (405, allowed)
        assert method == "head" or response.json()["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["connection", "connection/none/", "connection/login"])
def test_an_address_where_there_is_nothing(api, path, settings):
    settings.DEBUG = True
    response = api.send(f"{API}{path}", FORM)

    assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_head_answers_as_get_without_a_body(api):
    response = api.head(CONNECTION)

    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("path", [CONNECTION, f"{API}openapi.json", f"{API}connection/none/"])
def test_nothing_is_cached(api, path):
    assert {"no-store", "private"} <= set(api.get(path)["Cache-Control"].split(", "))


def test_it_works_with_atomic_requests(api, account, monkeypatch):
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)

    assert log_in(api).status_code == 200
    assert api.delete(CONNECTION).status_code == 200


def test_a_user_is_alone_with_their_connection(
    api, other_api, user, other_user, mfa_account, garmin
):
    log_in(api)
    assert connection_seen(other_api)["status"] == "not_connected"

    response = other_api.send(MFA, {"code": garmin.mfa_code(EMAIL)})
    assert response.json()["code"] == "challenge_expired"
    other_api.delete(LOGIN)
    other_api.delete(CONNECTION)
    assert connection_seen(api)["status"] == "waiting"
    assert api.send(MFA, {"code": garmin.mfa_code(EMAIL)}).status_code == 200
    assert not account_of(other_user).connected


def test_the_language_is_the_requests(api, account, settings):
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.middleware.locale.LocaleMiddleware"]

    with translation.override("en"):  # The middleware leaves the language active.
        response = log_in(api, WRONG, **{"Accept-Language": "de"})

    assert "Garmin hat" in response.json()["detail"]


# Bugs


@pytest.fixture
def bug(settings, db):
    settings.GARMIN_AUTH_ENGINE = "broken"
    settings.GARMIN_AUTH_ENGINES = {"broken": "tests.test_views.BrokenEngine"}
    admin = "admin@site.example"
    settings.ADMINS = [admin if django.VERSION >= (6, 0) else ("Admin", admin)]


@pytest.mark.parametrize("debug", [False, True])
def test_a_bug_is_answered_in_json(user, api_urls, bug, settings, caplog, debug):
    settings.DEBUG = debug
    client = ApiClient(raise_request_exception=False)
    client.force_login(user)

    response = client.send(LOGIN, FORM)

    assert (response.status_code, response.json()["code"]) == (500, "server_error")
    assert "a bug" not in response.content.decode()
    assert PASSWORD not in response.content.decode()
    (record,) = [record for record in caplog.records if record.name == "django.request"]
    assert (record.levelname, str(record.exc_info[1])) == ("ERROR", "a bug")


class Reports(AdminEmailHandler):
    """Keeps what Django would mail to the admins."""

    def __init__(self):
        super().__init__(include_html=True)
        self.reports = []

    def send_mail(self, subject, message, *args, html_message=None, **kwargs):
        self.reports.append(f"{subject} {message} {html_message}")


def test_a_bugs_report_has_no_secret(user, api_urls, bug):
    client, handler = ApiClient(raise_request_exception=False), Reports()
    client.force_login(user)
    logger = logging.getLogger("django.request")
    logger.addHandler(handler)
    try:
        client.send(LOGIN, FORM)
    finally:
        logger.removeHandler(handler)

    (report,) = handler.reports
    assert "a bug" in report
    assert PASSWORD not in report
    assert EMAIL not in report
