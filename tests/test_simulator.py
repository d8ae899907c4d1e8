"""The simulator, driven by garth itself and by plain requests."""

import base64
import contextlib
import hashlib
import io
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import garth
import garth.sso
import pytest
import requests
from garth.exc import GarthException, GarthHTTPError
from requests.adapters import HTTPAdapter

from garmin_auth.testing import GarminSimulator, RemoteGarminSimulator

ROOT = Path(__file__).resolve().parent.parent

ADA = ("ada@example.com", "correct horse")
BOB = ("bob@example.com", "battery staple")

SSO = "https://sso.garmin.com"
API = "https://connectapi.garmin.com"
PROFILE = f"{API}/userprofile-service/socialProfile"
EXCHANGE = f"{API}/oauth-service/oauth/exchange/user/2.0"
SIGN_IN = f"{SSO}/mobile/sso/en/sign-in?clientId=GCM_ANDROID_DARK"
LOGIN_QUERY = (
    "?clientId=GCM_ANDROID_DARK&locale=en-US"
    "&service=https://mobile.integration.garmin.com/gcm/android"
)
LOGIN = f"{SSO}/mobile/api/login{LOGIN_QUERY}"
VERIFY = f"{SSO}/mobile/api/mfa/verifyCode{LOGIN_QUERY}"
IOS_SERVICE = "https://mobile.integration.garmin.com/gcm/ios"
IOS_QUERY = f"?clientId=GCM_IOS_DARK&locale=en-US&service={IOS_SERVICE}"
PORTAL_QUERY = "?clientId=GarminConnect&locale=en-US&service=https://connect.garmin.com/app"
PORTAL_LOGIN = f"{SSO}/portal/api/login{PORTAL_QUERY}"
PORTAL_VERIFY = f"{SSO}/portal/api/mfa/verifyCode{PORTAL_QUERY}"
EMBED = f"{SSO}/sso/embed"
WIDGET_LOGIN = f"{SSO}/sso/signin?service={EMBED}"
WIDGET_SEND = f"{SSO}/sso/verifyMFA/mfaCode"
WIDGET_VERIFY = f"{SSO}/sso/verifyMFA/loginEnterMfaCode?service={EMBED}"
DIAUTH = "https://diauth.garmin.com/di-oauth2-service/oauth/token"
DI_CLIENT = "GARMIN_CONNECT_MOBILE_ANDROID_DI_2025Q2"
TICKET_GRANT = "https://connectapi.garmin.com/di-oauth2-service/oauth/grant/service_ticket"


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    # garth's OAuth1 session reads these, and they beat what the client was told.
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GARTH_HOME", "GARTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(garth.sso, "OAUTH_CONSUMER", {})


@pytest.fixture
def new_client(garmin):
    clients = []

    def make(session=None, **options):
        client = garth.Client(
            proxies={"https": garmin.proxy_url}, ssl_verify=garmin.ca_bundle, **options
        )
        if session:
            client.loads(session)
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.sess.close()


@pytest.fixture
def http(garmin):
    with requests.Session() as session:
        session.trust_env = False
        session.proxies = {"https": garmin.proxy_url}
        session.verify = garmin.ca_bundle
        session.mount("https://", HTTPAdapter(max_retries=0))
        yield session


@pytest.fixture
def ada(garmin):
    return garmin.add_account(*ADA)


@pytest.fixture
def ada_mfa(garmin):
    return garmin.add_account(*ADA, mfa=True)


@pytest.fixture
def as_ada(garmin, ada, http):
    http.headers["Authorization"] = bearer(garmin.issue_session(ada["email"]))
    return http


def post_ios_login(http, email=ADA[0], password=ADA[1]):
    http.get(f"{SSO}/mobile/sso/en_US/sign-in{IOS_QUERY}", timeout=5)
    body = {"username": email, "password": password}
    return http.post(f"{SSO}/mobile/api/login{IOS_QUERY}", json=body, timeout=5)


def post_widget_login(http, email=ADA[0], password=ADA[1], **form):
    http.get(EMBED, params={"id": "gauth-widget"}, timeout=5)
    form = {"username": email, "password": password, "_csrf": csrf_of(open_widget(http))} | form
    return http.post(WIDGET_LOGIN, data=form, timeout=5)


def open_widget(http):
    return http.get(WIDGET_LOGIN, timeout=5)


def ask_widget_for_code(http, page, **changes):
    body = {"customerGuid": script_of(page)["customerGuid"], "mfaMethod": "email"} | changes
    return http.post(WIDGET_SEND, json=body, timeout=5)


def post_widget_code(http, page, code, **form):
    form = {"mfa-code": code, "_csrf": csrf_of(page), "fromPage": "setupEnterMfaCode"} | form
    return http.post(WIDGET_VERIFY, data=form, timeout=5)


def csrf_of(page):
    return re.search(r'name="_csrf"\s+value="(.+?)"', page.text)[1]


def script_of(page):
    return dict(re.findall(r'var (\w+) = "([^"]*)";', page.text))


def title_of(page):
    return re.search("<title>(.+?)</title>", page.text)[1]


def ticket_of(page):
    return re.search(r'\?ticket=(ST-[^"&\s]+)', page.text)[1]


def post_di(http, url=DIAUTH, basic=DI_CLIENT, **form):
    form = {"client_id": DI_CLIENT} | form
    return http.post(url, data=form, auth=(basic, ""), timeout=5)


def exchange_ticket(http, ticket, service=IOS_SERVICE, **options):
    form = {"grant_type": TICKET_GRANT, "service_ticket": ticket, "service_url": service}
    return post_di(http, **form, **options)


def refresh(http, token, **options):
    return post_di(http, grant_type="refresh_token", refresh_token=token, **options)


def issue_tokens(garmin, email=ADA[0], **options):
    session = json.loads(garmin.issue_session(email, "garminconnect", **options))
    return session["di_token"], session["di_refresh_token"]


def claims_of(access_token):
    payload = access_token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def get_profile(http, access_token):
    headers = {"Authorization": f"Bearer {access_token}"}
    return http.get(PROFILE, headers=headers, timeout=5)


def bearer(session):
    return "Bearer " + json.loads(base64.b64decode(session))[1]["access_token"]


def post_login(http, email, password):
    return http.post(LOGIN, json={"username": email, "password": password}, timeout=5)


def post_code(http, code, method="email"):
    body = {"mfaMethod": method, "mfaVerificationCode": code}
    return http.post(VERIFY, json=body, timeout=5)


def wrong(code):
    return f"{(int(code) + 1) % 10**6:06}"


def message(response):
    return response.json()["responseStatus"]["message"]


def wait_until(true, seconds=20):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


# Logging in, with garth


def test_garth_logs_in(ada, new_client):
    client = new_client()

    client.login(*ADA)

    assert client.username == ada["email"]
    assert client.oauth1_token.mfa_token is None


def test_garth_logs_in_with_a_code(garmin, ada_mfa, new_client):
    client = new_client()

    kind, state = client.login(*ADA, return_on_mfa=True)
    assert kind == "needs_mfa"
    client.resume_login(state, garmin.mfa_code(ada_mfa["email"]))

    assert client.username == ada_mfa["email"]
    assert client.oauth1_token.mfa_token
    in_360_days = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=360)
    assert client.oauth1_token.mfa_expiration_timestamp > in_360_days


def test_login_goes_through_the_recorded_steps_in_order(garmin, ada, new_client):
    new_client().login(*ADA)

    steps = [entry["step"] for entry in garmin.log if entry["step"] != "connect"]
    assert steps == ["sign_in", "login", "embed", "consumer", "preauthorized", "exchange"]


def test_garth_logs_in_at_garmin_china(ada, new_client):
    client = new_client(domain="garmin.cn")

    client.login(*ADA)

    assert client.username == ada["email"]


def test_wrong_password_is_garmins_401(ada, new_client):
    with pytest.raises(GarthHTTPError) as refused:
        new_client().login(ada["email"], "wrong")

    response = refused.value.error.response
    assert response.status_code == 401
    assert response.json()["responseStatus"] == {
        "type": "INVALID_USERNAME_PASSWORD",
        "message": "generalLoginInvalidUsernameOrPassword",
        "httpStatus": "UNAUTHORIZED",
    }


def test_unknown_account_is_refused_like_a_wrong_password(garmin, http):
    http.get(SIGN_IN, timeout=5)

    answer = post_login(http, *ADA)

    assert answer.status_code == 401
    assert message(answer) == "generalLoginInvalidUsernameOrPassword"


def test_mfa_answer_masks_the_address(garmin, http):
    garmin.add_account("marie@gmail.com", "radium", mfa=True)
    http.get(SIGN_IN, timeout=5)

    info = post_login(http, "marie@gmail.com", "radium").json()["customerMfaInfo"]

    assert (info["email"], info["mfaLastMethodUsed"]) == ("ma*****@gmail.com", "email")


def test_right_code_is_accepted_after_a_wrong_one(garmin, ada_mfa, new_client):
    client = new_client()
    _, state = client.login(*ADA, return_on_mfa=True)
    code = garmin.mfa_code(ada_mfa["email"])

    with pytest.raises(GarthException):
        client.resume_login(state, wrong(code))
    client.resume_login(state, code)

    assert client.username == ada_mfa["email"]


def test_each_login_sends_another_code(garmin, ada_mfa, http):
    http.get(SIGN_IN, timeout=5)
    codes = set()

    for _ in range(4):
        post_login(http, *ADA)
        codes.add(garmin.mfa_code(ada_mfa["email"]))

    assert len(codes) > 1
    assert all(len(code) == 6 and code.isdigit() for code in codes)


def test_code_works_once(garmin, ada_mfa, http):
    http.get(SIGN_IN, timeout=5)
    post_login(http, *ADA)
    code = garmin.mfa_code(ada_mfa["email"])

    assert post_code(http, code).status_code == 200
    assert post_code(http, code).status_code == 400


def test_parallel_answers_spend_a_code_once(garmin, ada_mfa, http):
    garmin.rotate_mfa_cookie = False
    http.get(SIGN_IN, timeout=5)
    post_login(http, *ADA)
    code = garmin.mfa_code(ada_mfa["email"])

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post_code(http, code).status_code, range(8)))

    assert sorted(answers) == [200] + [400] * 7


def test_code_of_another_method_is_refused(garmin, http):
    garmin.add_account(*ADA, mfa=True, mfa_method="phone")
    http.get(SIGN_IN, timeout=5)
    post_login(http, *ADA)
    code = garmin.mfa_code(ADA[0])

    assert message(post_code(http, code, method="email")) == "codeEntryInvalid"
    assert post_code(http, code, method="phone").status_code == 200


def test_code_after_expiry_comes_too_late(garmin, ada_mfa, http):
    http.get(SIGN_IN, timeout=5)
    post_login(http, *ADA)

    garmin.expire_mfa(ada_mfa["email"])

    assert message(post_code(http, garmin.mfa_code(ada_mfa["email"]))) == "codeEntryExpired"


def test_right_code_after_five_wrong_ones_is_over_the_limit(garmin, ada_mfa, http):
    http.get(SIGN_IN, timeout=5)
    post_login(http, *ADA)
    code = garmin.mfa_code(ada_mfa["email"])

    for _ in range(5):
        assert message(post_code(http, wrong(code))) == "codeEntryInvalid"

    assert message(post_code(http, code)) == "codeEntryMaxLimit"


def test_no_code_before_a_login(garmin, ada_mfa):
    with pytest.raises(LookupError, match="No code has been sent"):
        garmin.mfa_code(ada_mfa["email"])


# Cookies


def test_cloudflares_cookies_have_a_domain_and_the_others_do_not(garmin, http):
    http.get(SIGN_IN, timeout=5)

    domains = {cookie.name: cookie.domain for cookie in http.cookies}

    assert domains == {
        "SESSION": "sso.garmin.com",
        "__VCAP_ID__": "sso.garmin.com",
        "__cflb": "sso.garmin.com",
        "__cf_bm": ".garmin.com",
        "_cfuvid": ".garmin.com",
    }
    assert all(cookie.secure for cookie in http.cookies)


def test_login_without_the_cookies_of_sign_in_fails(ada, http):
    assert post_login(http, *ADA).status_code == 400


@pytest.mark.parametrize("lost", ["SESSION", "__VCAP_ID__", "__cflb", "__cf_bm", "_cfuvid"])
def test_code_without_one_of_the_logins_cookies_fails(garmin, ada_mfa, http, lost):
    http.get(SIGN_IN, timeout=5)
    post_login(http, *ADA)

    http.cookies.clear(*next((c.domain, c.path, c.name) for c in http.cookies if c.name == lost))

    assert post_code(http, garmin.mfa_code(ada_mfa["email"])).status_code == 400


def test_code_with_the_cookies_of_another_login_fails(garmin, ada_mfa, http):
    http.get(SIGN_IN, timeout=5)
    post_login(http, *ADA)
    http.cookies.clear()
    http.get(SIGN_IN, timeout=5)

    assert post_code(http, garmin.mfa_code(ada_mfa["email"])).status_code == 400


@pytest.mark.parametrize(("rotate", "status"), [(True, 400), (False, 200)])
def test_rotated_cookie_is_needed_for_the_next_try(garmin, ada_mfa, http, rotate, status):
    garmin.rotate_mfa_cookie = rotate
    http.get(SIGN_IN, timeout=5)
    post_login(http, *ADA)
    before = http.cookies.copy()
    code = garmin.mfa_code(ada_mfa["email"])

    post_code(http, wrong(code))
    http.cookies = before

    assert post_code(http, code).status_code == status


# Tokens


def test_expired_access_token_is_exchanged(garmin, ada, new_client):
    session = garmin.issue_session(ada["email"], access_expired=True)
    client = new_client(session)

    assert client.username == ada["email"]
    assert garmin.counts["exchange"] == 1
    assert client.dumps() != session


def test_access_token_of_an_expired_session_is_refused(garmin, ada, http):
    token = bearer(garmin.issue_session(ada["email"], access_expired=True))

    assert http.get(PROFILE, headers={"Authorization": token}, timeout=5).status_code == 401


def test_issued_session_is_what_garth_dumps(garmin, ada_mfa, new_client):
    session = garmin.issue_session(ada_mfa["email"])

    assert new_client(session).dumps() == session


def test_issued_session_needs_no_exchange(garmin, ada, new_client):
    assert new_client(garmin.issue_session(ada["email"])).username == ada["email"]
    assert garmin.counts["exchange"] == 0


def test_session_for_an_unknown_domain_is_a_value_error(garmin, ada):
    with pytest.raises(ValueError, match=r"garmin\.cn, garmin\.com"):
        garmin.issue_session(ada["email"], domain="garmin.example")


def test_forgotten_access_token_works_again_after_an_exchange(garmin, ada, new_client):
    client = new_client(garmin.issue_session(ada["email"]))
    garmin.expire_access_tokens()

    with pytest.raises(GarthHTTPError) as refused:
        client.connectapi("/userprofile-service/socialProfile")
    assert "Token is not active" in refused.value.error.response.headers["www-authenticate"]

    client.refresh_oauth2()
    assert client.username == ada["email"]


def test_access_tokens_of_one_account_can_be_forgotten(garmin, ada, http):
    garmin.add_account(*BOB)
    adas, bobs = (bearer(garmin.issue_session(email)) for email in (ADA[0], BOB[0]))

    garmin.expire_access_tokens(ADA[0])

    assert http.get(PROFILE, headers={"Authorization": adas}, timeout=5).status_code == 401
    assert http.get(PROFILE, headers={"Authorization": bobs}, timeout=5).status_code == 200


def test_access_token_ends_with_its_lifetime(garmin, ada, http):
    garmin.access_token_lifetime = 0
    token = bearer(garmin.issue_session(ada["email"]))

    assert http.get(PROFILE, headers={"Authorization": token}, timeout=5).status_code == 401


def test_revoked_session_is_dead_at_the_exchange(garmin, ada, new_client):
    client = new_client(garmin.issue_session(ada["email"]))
    garmin.revoke(ada["email"])

    with pytest.raises(requests.HTTPError) as refused:
        client.refresh_oauth2()

    assert refused.value.response.status_code == 401
    assert "OAuthToken is invalid" in refused.value.response.text
    assert refused.value.response.headers["content-type"].startswith("text/html")


def test_revoked_access_token_is_not_active(garmin, as_ada, ada):
    garmin.revoke(ada["email"])

    answer = as_ada.get(PROFILE, timeout=5)

    assert answer.status_code == 401
    assert "Token is not active" in answer.headers["www-authenticate"]


def test_revoking_one_account_leaves_the_others(garmin, ada, new_client):
    garmin.add_account(*BOB)
    client = new_client(garmin.issue_session(BOB[0], access_expired=True))

    garmin.revoke(ada["email"])

    assert client.username == BOB[0]


@pytest.mark.parametrize(("everywhere", "exchanges"), [(True, False), (False, True)])
def test_password_change_ends_sessions_if_asked_to(garmin, ada, new_client, everywhere, exchanges):
    client = new_client(garmin.issue_session(ada["email"]))

    garmin.set_password(ada["email"], "new", sign_out_everywhere=everywhere)

    if exchanges:
        client.refresh_oauth2()
    else:
        with pytest.raises(requests.HTTPError, match="401"):
            client.refresh_oauth2()
    new_client().login(ada["email"], "new")


def test_oldest_access_token_gives_way_to_the_hundred_newest(garmin, ada, http):
    oldest, *_, newest = (bearer(garmin.issue_session(ada["email"])) for _ in range(101))

    assert http.get(PROFILE, headers={"Authorization": oldest}, timeout=5).status_code == 401
    assert http.get(PROFILE, headers={"Authorization": newest}, timeout=5).status_code == 200


def test_service_ticket_works_once(ada, new_client):
    client = new_client()
    client.get("sso", "/mobile/sso/en/sign-in", params={"clientId": garth.sso.CLIENT_ID})
    answer = post_login(client.sess, *ADA)
    ticket = answer.json()["serviceTicketId"]

    garth.sso.get_oauth1_token(ticket, client)

    with pytest.raises(requests.HTTPError, match="401"):
        garth.sso.get_oauth1_token(ticket, client)


def test_wrong_consumer_key_gets_the_words_of_a_dead_session(garmin, ada, new_client):
    garth.sso.OAUTH_CONSUMER = {"consumer_key": "old", "consumer_secret": "old"}
    client = new_client(garmin.issue_session(ada["email"]))

    with pytest.raises(requests.HTTPError) as refused:
        client.refresh_oauth2()

    assert "OAuthToken is invalid" in refused.value.response.text
    assert garmin.counts["bad_signature"] == 1


def test_replaced_consumer_key_refuses_those_who_hold_the_old_one(garmin, ada, new_client):
    client = new_client(garmin.issue_session(ada["email"]))
    client.refresh_oauth2()

    garmin.set_consumer("new-key", "new-secret")

    with pytest.raises(requests.HTTPError, match="401"):
        client.refresh_oauth2()
    garth.sso.OAUTH_CONSUMER = {}
    client.refresh_oauth2()


@pytest.mark.parametrize("part", ["oauth_token_secret", "consumer_secret"])
def test_wrong_signature_is_refused(garmin, ada, new_client, part):
    client = new_client(garmin.issue_session(ada["email"]))
    if part == "consumer_secret":
        garth.sso.OAUTH_CONSUMER = garmin.consumer | {"consumer_secret": "guess"}
    else:
        client.oauth1_token.oauth_token_secret = "guess"

    with pytest.raises(requests.HTTPError, match="401"):
        client.refresh_oauth2()

    assert garmin.counts["bad_signature"] == 1


def test_exchange_without_the_mfa_token_is_refused_in_other_words(garmin, ada_mfa, new_client):
    client = new_client(garmin.issue_session(ada_mfa["email"]))
    client.oauth1_token.mfa_token = None

    with pytest.raises(requests.HTTPError) as refused:
        client.refresh_oauth2()

    assert refused.value.response.status_code == 401
    assert "OAuthToken is invalid" not in refused.value.response.text


# What garminconnect asks: three flows

BY_BOTH_DOORS = pytest.mark.parametrize(
    ("page", "login", "verify"),
    [
        (SIGN_IN, LOGIN, VERIFY),
        (f"{SSO}/portal/sso/en-US/sign-in{PORTAL_QUERY}", PORTAL_LOGIN, PORTAL_VERIFY),
    ],
    ids=["mobile", "portal"],
)


@BY_BOTH_DOORS
def test_both_doors_log_in_with_a_code(garmin, ada_mfa, http, page, login, verify):
    http.get(page, timeout=5)
    answer = http.post(login, json={"username": ADA[0], "password": ADA[1]}, timeout=5)
    assert answer.json()["responseStatus"]["type"] == "MFA_REQUIRED"

    body = {"mfaMethod": "email", "mfaVerificationCode": garmin.mfa_code(ADA[0])}
    answer = http.post(verify, json=body, timeout=5).json()

    assert answer["serviceTicketId"].startswith("ST-")
    assert answer["serviceURL"] == login.rpartition("service=")[2]


def test_ios_login_without_the_cookies_of_sign_in_is_rate_limited(ada, http):
    body = {"username": ADA[0], "password": ADA[1]}

    assert http.post(f"{SSO}/mobile/api/login{IOS_QUERY}", json=body, timeout=5).status_code == 429


def test_code_comes_in_by_the_other_door(garmin, ada_mfa, http):
    post_ios_login(http)
    body = {"mfaMethod": "email", "mfaVerificationCode": garmin.mfa_code(ADA[0])}

    answer = http.post(PORTAL_VERIFY, json=body, timeout=5).json()

    assert answer["serviceURL"] == IOS_SERVICE
    assert exchange_ticket(http, answer["serviceTicketId"]).status_code == 200


def test_wrong_codes_at_both_doors_count_together(garmin, ada_mfa, http):
    post_ios_login(http)
    code = garmin.mfa_code(ADA[0])
    body = {"mfaMethod": "email", "mfaVerificationCode": wrong(code)}

    for url in (VERIFY, PORTAL_VERIFY, VERIFY, PORTAL_VERIFY, VERIFY):
        assert message(http.post(url, json=body, timeout=5)) == "codeEntryInvalid"

    assert message(post_code(http, code)) == "codeEntryMaxLimit"


def test_widget_logs_in(ada, http):
    page = post_widget_login(http)

    assert (page.status_code, title_of(page)) == (200, "Success")
    assert exchange_ticket(http, ticket_of(page), EMBED).status_code == 200


def test_widget_shows_the_form_again_after_a_wrong_password(ada, http):
    page = post_widget_login(http, password="wrong")

    assert (page.status_code, title_of(page)) == (401, "GARMIN Authentication Application")
    assert script_of(page) == {}
    again = {"username": ADA[0], "password": ADA[1], "_csrf": csrf_of(page)}
    assert title_of(http.post(WIDGET_LOGIN, data=again, timeout=5)) == "Success"


@pytest.mark.parametrize("csrf", ["", "GUESS"])
def test_widget_refuses_a_form_that_is_not_its_own(garmin, ada, http, csrf):
    assert post_widget_login(http, _csrf=csrf).status_code == 403


def test_widget_refuses_a_form_without_cookies(ada, http):
    csrf = csrf_of(open_widget(http))
    http.cookies.clear()

    form = {"username": ADA[0], "password": ADA[1], "_csrf": csrf}

    assert http.post(WIDGET_LOGIN, data=form, timeout=5).status_code == 403


def test_widget_sends_a_code_when_asked_to(garmin, ada_mfa, http):
    page = post_widget_login(http)
    script = script_of(page)
    assert (script["mfaMethod"], script["codeSentTo"]) == ("email", "")
    with pytest.raises(LookupError, match="No code has been sent"):
        garmin.mfa_code(ADA[0])

    assert ask_widget_for_code(http, page).status_code == 200
    page = post_widget_code(http, page, garmin.mfa_code(ADA[0]))

    assert title_of(page) == "Success"
    assert exchange_ticket(http, ticket_of(page), EMBED).status_code == 200


def test_widget_sends_no_code_for_another_account(garmin, ada_mfa, http):
    page = post_widget_login(http)

    assert ask_widget_for_code(http, page, customerGuid="another").status_code == 400


def test_widget_sends_no_code_before_a_login(ada_mfa, http):
    open_widget(http)

    assert http.post(WIDGET_SEND, json={"mfaMethod": "email"}, timeout=5).status_code == 400


@pytest.mark.parametrize(("method", "word"), [("phone", "sms"), ("totp", "totp")])
def test_widget_names_the_method_in_its_own_word(garmin, http, method, word):
    garmin.add_account(*ADA, mfa=True, mfa_method=method)

    assert script_of(post_widget_login(http))["mfaMethod"] == word


def test_widget_has_nothing_to_send_to_an_authenticator(garmin, http):
    garmin.add_account(*ADA, mfa=True, mfa_method="totp")
    page = post_widget_login(http)

    assert title_of(post_widget_code(http, page, garmin.mfa_code(ADA[0]))) == "Success"


def test_widget_refuses_the_code_that_another_one_has_replaced(garmin, ada_mfa, http):
    page = post_widget_login(http)
    codes = []
    while len(set(codes)) < 2:
        ask_widget_for_code(http, page)
        codes.append(garmin.mfa_code(ADA[0]))

    assert title_of(post_widget_code(http, page, codes[0])) != "Success"
    assert title_of(post_widget_code(http, page, codes[-1])) == "Success"


def test_widget_takes_the_right_code_after_a_wrong_one(garmin, ada_mfa, http):
    page = post_widget_login(http)
    ask_widget_for_code(http, page)
    code = garmin.mfa_code(ADA[0])

    again = post_widget_code(http, page, wrong(code))

    assert title_of(again) == "GARMIN Authentication Application"
    assert "codeEntryInvalid" in again.text
    assert csrf_of(again) == csrf_of(page)
    assert title_of(post_widget_code(http, page, code)) == "Success"


def test_widget_says_that_a_code_comes_too_late(garmin, ada_mfa, http):
    page = post_widget_login(http)
    ask_widget_for_code(http, page)
    garmin.expire_mfa(ADA[0])

    assert "codeEntryExpired" in post_widget_code(http, page, garmin.mfa_code(ADA[0])).text


@pytest.mark.parametrize("csrf", ["", "GUESS"])
def test_widget_refuses_a_code_in_a_form_that_is_not_its_own(garmin, ada_mfa, http, csrf):
    page = post_widget_login(http)
    ask_widget_for_code(http, page)

    refused = post_widget_code(http, page, garmin.mfa_code(ADA[0]), _csrf=csrf)

    assert refused.status_code == 403


# What garminconnect asks: diauth


def test_ticket_is_exchanged_for_tokens_that_the_api_takes(ada, http):
    ticket = post_ios_login(http).json()["serviceTicketId"]

    tokens = exchange_ticket(http, ticket).json()

    claims = claims_of(tokens["access_token"])
    assert (claims["client_id"], claims["iss"]) == (DI_CLIENT, "https://diauth.garmin.com")
    assert claims["exp"] == pytest.approx(time.time() + tokens["expires_in"], abs=5)
    assert get_profile(http, tokens["access_token"]).json()["userName"] == ADA[0]
    assert refresh(http, tokens["refresh_token"]).status_code == 200


def test_ticket_is_exchanged_once(ada, http):
    ticket = post_ios_login(http).json()["serviceTicketId"]
    exchange_ticket(http, ticket)

    again = exchange_ticket(http, ticket)

    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")


def test_ticket_of_another_service_is_refused(ada, http):
    ticket = post_ios_login(http).json()["serviceTicketId"]

    assert exchange_ticket(http, ticket, EMBED).json()["error"] == "invalid_grant"


@pytest.mark.parametrize(
    "client",
    [{"client_id": "STRANGER", "basic": "STRANGER"}, {"basic": "STRANGER"}, {"client_id": ""}],
)
def test_ticket_survives_a_client_that_diauth_does_not_know(ada, http, client):
    ticket = post_ios_login(http).json()["serviceTicketId"]

    refused = exchange_ticket(http, ticket, **client)

    assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")
    assert exchange_ticket(http, ticket).status_code == 200


@pytest.mark.parametrize("authorization", ["", "Basic ~~~", "Basic /w==", f"Bearer {DI_CLIENT}"])
def test_client_that_does_not_name_itself_is_refused(garmin, ada, http, authorization):
    form = {"grant_type": "refresh_token", "refresh_token": issue_tokens(garmin)[1]}
    headers = {"Authorization": authorization}

    refused = http.post(DIAUTH, data=form | {"client_id": DI_CLIENT}, headers=headers, timeout=5)

    assert refused.json()["error"] == "invalid_client"


def test_unknown_grant_is_refused(http):
    refused = post_di(http, grant_type="password")

    assert (refused.status_code, refused.json()["error"]) == (400, "unsupported_grant_type")


def test_refresh_token_works_once(garmin, ada, http):
    _, first = issue_tokens(garmin)

    second = refresh(http, first).json()["refresh_token"]

    refused = refresh(http, first)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    assert refresh(http, second).status_code == 200


def test_parallel_refreshes_spend_a_token_once(garmin, ada, http):
    _, token = issue_tokens(garmin)

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: refresh(http, token).status_code, range(8)))

    assert sorted(statuses) == [200] + [400] * 7


def test_refresh_token_stays_where_rotation_is_off(garmin, ada, http):
    garmin.rotate_refresh_tokens = False
    _, token = issue_tokens(garmin)

    assert [refresh(http, token).json()["refresh_token"] for _ in "ab"] == [token, token]


def test_lost_answer_of_a_refresh_spends_the_token(garmin, ada, http):
    _, token = issue_tokens(garmin)
    garmin.fail("di_refresh", "drop_after")

    with pytest.raises(requests.exceptions.ConnectionError):
        refresh(http, token)

    assert refresh(http, token).json()["error"] == "invalid_grant"


def test_refresh_token_of_another_client_is_refused(garmin, ada, http):
    _, token = issue_tokens(garmin)
    other = "GARMIN_CONNECT_MOBILE_IOS_DI"

    assert refresh(http, token, client_id=other, basic=other).json()["error"] == "invalid_grant"


def test_refresh_token_of_garmin_china_is_refused_elsewhere(garmin, ada, http):
    _, token = issue_tokens(garmin, domain="garmin.cn")

    assert refresh(http, token).json()["error"] == "invalid_grant"
    china = DIAUTH.replace("garmin.com", "garmin.cn")
    answer = refresh(http, token, url=china).json()
    assert claims_of(answer["access_token"])["iss"] == "https://diauth.garmin.cn"


@pytest.mark.parametrize(
    "end",
    [lambda garmin: garmin.revoke(ADA[0]), lambda garmin: garmin.set_password(ADA[0], "new")],
    ids=["revoked", "signed out everywhere"],
)
def test_ended_session_is_dead_at_the_refresh(garmin, ada, http, end):
    access, token = issue_tokens(garmin)

    end(garmin)

    assert get_profile(http, access).status_code == 401
    refused = refresh(http, token)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")


def test_password_change_alone_ends_no_session(garmin, ada, http):
    _, token = issue_tokens(garmin)

    garmin.set_password(ADA[0], "new", sign_out_everywhere=False)

    assert refresh(http, token).status_code == 200


def test_forgotten_access_token_is_refreshed(garmin, ada, http):
    access, token = issue_tokens(garmin)
    garmin.expire_access_tokens()
    assert "Token is not active" in get_profile(http, access).headers["www-authenticate"]

    fresh = refresh(http, token).json()["access_token"]

    assert get_profile(http, fresh).status_code == 200


def test_access_token_of_an_expired_session_says_so_itself(garmin, ada, http):
    access, _ = issue_tokens(garmin, access_expired=True)

    assert claims_of(access)["exp"] < time.time()
    assert get_profile(http, access).status_code == 401


def test_session_of_an_unknown_engine_is_a_value_error(garmin, ada):
    with pytest.raises(ValueError, match="garminconnect, garth"):
        garmin.issue_session(ADA[0], "fitbit")


@pytest.mark.parametrize(
    ("log_in", "service"),
    [
        (lambda http: post_ios_login(http).json()["serviceTicketId"], IOS_SERVICE),
        (lambda http: ticket_of(post_widget_login(http)), EMBED),
    ],
    ids=["ios", "widget"],
)
def test_ticket_at_its_service_gives_a_cookie_that_the_api_takes(ada, http, log_in, service):
    ticket = log_in(http)

    http.get(service, params={"ticket": ticket}, timeout=5)

    cookie = {"Cookie": f"JWT_WEB={http.cookies['JWT_WEB']}"}
    http.cookies.clear()
    assert http.get(PROFILE, headers=cookie, timeout=5).json()["userName"] == ADA[0]
    assert exchange_ticket(http, ticket, service).status_code == 400


def test_spent_ticket_gives_no_cookie(ada, http):
    ticket = post_ios_login(http).json()["serviceTicketId"]
    exchange_ticket(http, ticket)

    http.get(IOS_SERVICE, params={"ticket": ticket}, timeout=5)

    assert "JWT_WEB" not in http.cookies


# The API


def test_garth_reads_the_profile(ada, garmin, new_client):
    client = new_client(garmin.issue_session(ada["email"]))

    profile = garth.UserProfile.get(client=client)

    assert (profile.user_name, profile.display_name) == (ada["email"], ada["display_name"])


def test_garth_reads_the_daily_summary_of_the_day(garmin, new_client):
    garmin.add_account(*ADA, steps=12345)
    client = new_client(garmin.issue_session(ADA[0]))

    summary = garth.DailySummary.get("2026-02-03", client=client)

    assert (summary.total_steps, str(summary.calendar_date)) == (12345, "2026-02-03")


def test_daily_summary_is_the_accounts_own_and_the_days(garmin, ada, http):
    garmin.add_account(*BOB)
    url = f"{API}/usersummary-service/usersummary/daily/"

    def read(email, day):
        headers = {"Authorization": bearer(garmin.issue_session(email))}
        return http.get(url, params={"calendarDate": day}, headers=headers, timeout=5).json()

    first = read(ADA[0], "2026-02-03")
    assert read(ADA[0], "2026-02-03") == first
    assert read(ADA[0], "2026-02-04")["uuid"] != first["uuid"]
    assert read(BOB[0], "2026-02-03")["uuid"] != first["uuid"]


def test_daily_summary_under_ones_own_name(as_ada, garmin, ada):
    url = f"{API}/usersummary-service/usersummary/daily/{ada['display_name']}"

    answer = as_ada.get(url, params={"calendarDate": "2026-02-03"}, timeout=5)

    assert answer.json()["userProfileId"] == ada["profile_id"]
    assert garmin.counts["foreign_bearer"] == 0


def test_ones_bearer_on_anothers_path_is_counted(as_ada, garmin):
    bob = garmin.add_account(*BOB)
    url = f"{API}/usersummary-service/usersummary/daily/{bob['display_name']}"

    answer = as_ada.get(url, params={"calendarDate": "2026-02-03"}, timeout=5)

    assert answer.status_code == 403
    assert garmin.counts["foreign_bearer"] == 1


def test_garth_uploads_a_file(garmin, ada, new_client):
    client = new_client(garmin.issue_session(ada["email"]))
    content = bytes(range(256)) * 300 + b"\r\n--\r\n"
    file = io.BytesIO(content)
    file.name = "/somewhere/run.fit"

    result = client.upload(file)

    assert result["detailedImportResult"]["fileName"] == "run.fit"
    assert garmin.uploads == [
        {
            "account": ada["email"],
            "filename": "run.fit",
            "sha256": hashlib.sha256(content).hexdigest(),
            "size": len(content),
        }
    ]


def test_upload_in_chunks_is_read(as_ada, garmin):
    body = b'--b\r\nContent-Disposition: form-data; filename="a.fit"\r\n\r\nDATA\r\n--b--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}

    as_ada.post(
        f"{API}/upload-service/upload",
        data=iter([body[:50], body[50:]]),
        headers=headers,
        timeout=5,
    )

    assert garmin.uploads[0]["size"] == 4


def test_download_gives_the_same_bytes_again(as_ada):
    url = f"{API}/download-service/files/activity/"

    assert as_ada.get(url + "1", timeout=5).content == as_ada.get(url + "1", timeout=5).content
    assert as_ada.get(url + "1", timeout=5).content != as_ada.get(url + "2", timeout=5).content


def test_delete_is_answered_without_content(as_ada):
    answer = as_ada.delete(f"{API}/activity-service/activity/1", timeout=5)

    assert (answer.status_code, answer.content) == (204, b"")


def test_unknown_resource_is_garmins_404(as_ada):
    answer = as_ada.get(f"{API}/nothing-service/nothing", timeout=5)

    assert answer.status_code == 404
    assert answer.json() == {"message": "HTTP 404 Not Found", "error": "NotFoundException"}


def test_api_without_a_bearer_is_refused_in_other_words(garmin, http):
    answer = http.get(PROFILE, timeout=5)

    assert answer.status_code == 401
    assert "www-authenticate" not in answer.headers


# Proxy and TLS


@pytest.mark.parametrize("url", ["https://example.com/", f"{API}:8443/"])
def test_unknown_host_is_refused_and_counted(garmin, http, url):
    with pytest.raises(requests.exceptions.ProxyError, match="403"):
        http.get(url, timeout=5)

    assert garmin.counts["refused_host"] == 1
    assert garmin.counts["connect"] == 0


def test_certificate_is_not_trusted_without_the_ca_file(garmin, http):
    http.verify = True

    with pytest.raises(requests.exceptions.SSLError):
        http.get(SIGN_IN, timeout=5)


def test_connection_is_kept_alive(as_ada, garmin):
    for _ in range(5):
        as_ada.get(PROFILE, timeout=5)

    assert (garmin.counts["connect"], garmin.counts["api"]) == (1, 5)


def test_150_connections_are_held_at_once(garmin):
    context = ssl.create_default_context(cafile=garmin.ca_bundle)
    connections = [tunnel(garmin, context) for _ in range(150)]
    try:
        for connection in connections:
            connection.sendall(b"GET /mobile/sso/en/sign-in HTTP/1.1\r\nHost: x\r\n\r\n")
        answers = [connection.recv(12) for connection in connections]
    finally:
        for connection in connections:
            connection.close()

    assert answers == [b"HTTP/1.1 200"] * 150


def tunnel(garmin, context, host="sso.garmin.com"):
    plain = socket.create_connection(("127.0.0.1", garmin.port), timeout=10)
    plain.sendall(f"CONNECT {host}:443 HTTP/1.1\r\n\r\n".encode())
    assert plain.recv(1000).startswith(b"HTTP/1.1 200")
    return context.wrap_socket(plain, server_hostname=host)


def test_server_speaks_http_1_also_to_who_would_rather_have_2(garmin):
    context = ssl.create_default_context(cafile=garmin.ca_bundle)
    context.set_alpn_protocols(["h2", "http/1.1"])

    with tunnel(garmin, context) as connection:
        assert connection.selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize("noise", [b"\x16\x03\x01", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nx\r\n\r\n"])
def test_noise_closes_the_connection_and_nothing_else(garmin, http, noise):
    with socket.create_connection(("127.0.0.1", garmin.port), timeout=5) as client:
        client.sendall(noise)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""

    assert http.get(SIGN_IN, timeout=5).status_code == 200


# Faults


@pytest.mark.parametrize(
    ("fault", "options", "status", "words"),
    [
        ("status", {}, 503, "503"),
        ("status", {"status": 418, "body": "tea", "headers": {"X-Pot": "1"}}, 418, "tea"),
        ("rate_limited", {}, 429, "rate limited"),
        ("rate_limited_427", {}, 427, "427"),
        ("rate_limited_200", {}, 200, '{"error": {"status-code": "429"'),
        ("blocked", {}, 403, "you have been blocked"),
        ("challenge_page", {}, 200, "Just a moment"),
        ("captcha", {}, 200, "CAPTCHA_REQUIRED"),
        ("locked", {}, 401, "generalLoginAccountLocked"),
        ("disabled", {}, 401, "generalLoginAccountDisabled"),
        ("disabled", {"status": 200}, 200, "generalLoginAccountDisabled"),
        ("unknown_type", {"kind": "NEWS"}, 200, '"type": "NEWS"'),
        ("unauthorized_other", {}, 401, "HTTP 401 Unauthorized"),
        ("html", {}, 200, "<html>"),
        ("wrong_json", {}, 200, '["unexpected"]'),
        ("wrong_json", {"value": 7}, 200, "7"),
        ("empty", {}, 200, ""),
        ("no_content", {}, 204, ""),
    ],
)
def test_fault_answers_in_place_of_the_login(garmin, ada, http, fault, options, status, words):
    http.get(SIGN_IN, timeout=5)
    garmin.fail("login", fault, **options)

    answer = post_login(http, *ADA)

    assert answer.status_code == status
    assert words in answer.text
    assert bool(answer.text) == bool(words)
    assert post_login(http, *ADA).json()["responseStatus"]["type"] == "SUCCESSFUL"


@pytest.mark.parametrize("fault", ["rate_limited", "blocked", "challenge_page"])
def test_cloudflare_pages_are_html_from_cloudflare(garmin, http, fault):
    garmin.fail("sign_in", fault)

    headers = http.get(SIGN_IN, timeout=5).headers

    assert headers["server"] == "cloudflare"
    assert headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(("options", "header"), [({}, None), ({"retry_after": 7}, "7")])
def test_retry_after_is_optional(garmin, http, options, header):
    garmin.fail("sign_in", "rate_limited", **options)

    assert http.get(SIGN_IN, timeout=5).headers.get("retry-after") == header


@pytest.mark.parametrize(
    ("fault", "key"),
    [
        ("code_409", "somethingElse"),
        ("code_invalid", "codeEntryInvalid"),
        ("code_expired", "codeEntryExpired"),
        ("code_max", "codeEntryMaxLimit"),
    ],
)
def test_code_faults_refuse_a_right_code(garmin, ada_mfa, http, fault, key):
    http.get(SIGN_IN, timeout=5)
    post_login(http, *ADA)
    garmin.fail("verify_code", fault)

    answer = post_code(http, garmin.mfa_code(ada_mfa["email"]))

    assert (answer.status_code, message(answer)) == (409, key)


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        ("dead", 401, "OAuthToken is invalid"),
        ("app_validation", 403, "Client app validation failed"),
    ],
)
def test_exchange_faults(garmin, ada, new_client, fault, status, words):
    client = new_client(garmin.issue_session(ada["email"]))
    garmin.fail("exchange", fault)

    with pytest.raises(requests.HTTPError) as refused:
        client.refresh_oauth2()

    assert refused.value.response.status_code == status
    assert words in refused.value.response.text
    client.refresh_oauth2()


def test_token_inactive_fault(garmin, as_ada):
    garmin.fail("api", "token_inactive")

    answer = as_ada.get(PROFILE, timeout=5)

    assert answer.headers["www-authenticate"] == (
        'Bearer error="invalid_token", error_description="Token is not active"'
    )


def test_redirect_leads_out_of_garmin_and_is_refused(garmin, as_ada):
    garmin.fail("api", "redirect")

    with pytest.raises(requests.exceptions.ProxyError):
        as_ada.get(PROFILE, timeout=5)

    assert garmin.counts["refused_host"] == 1


def test_truncated_json_is_complete_for_http(garmin, as_ada):
    garmin.fail("api", "truncated_json")

    answer = as_ada.get(PROFILE, timeout=5)

    assert int(answer.headers["content-length"]) == len(answer.content)
    with pytest.raises(ValueError, match="line 1"):
        answer.json()


@pytest.mark.parametrize("fault", ["reset", "drop_after"])
def test_connection_is_reset_in_place_of_an_answer(garmin, fault):
    garmin.fail("sign_in", fault)
    context = ssl.create_default_context(cafile=garmin.ca_bundle)

    with tunnel(garmin, context) as connection:
        assert_reset(connection)

    assert garmin.log[-1]["status"] is None


def assert_reset(connection):
    """Ask, and find that the answer is an RST (which `ssl` would show as an ordinary end)."""
    with socket.socket(fileno=os.dup(connection.fileno())) as below:
        below.settimeout(5)
        connection.sendall(b"GET /mobile/sso/en/sign-in HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            below.recv(1)


@pytest.mark.parametrize(("fault", "uploads"), [("reset", 0), ("drop_after", 1)])
def test_only_a_lost_answer_was_processed(garmin, as_ada, fault, uploads):
    garmin.fail("api", fault)

    with pytest.raises(requests.exceptions.ConnectionError):
        as_ada.post(f"{API}/upload-service/upload", files={"file": ("a.fit", b"1")}, timeout=5)

    assert len(garmin.uploads) == uploads


def test_reset_mid_body_comes_after_the_headers(garmin, as_ada):
    garmin.fail("api", "reset_mid_body")

    with as_ada.get(PROFILE, timeout=5, stream=True) as answer:
        assert answer.status_code == 200
        with pytest.raises(requests.exceptions.RequestException):
            _ = answer.content


@pytest.mark.parametrize(("fault", "interval"), [("slow_headers", 0.005), ("trickle", 0.025)])
def test_slow_answer_beats_a_read_timeout_with_every_byte(garmin, http, fault, interval):
    garmin.fail("sign_in", fault, interval=interval)
    start = time.monotonic()

    answer = http.get(SIGN_IN, timeout=(20, 3))

    assert answer.text.endswith("</html>")
    assert time.monotonic() - start > 3


@pytest.mark.parametrize("fault", ["slow_headers", "trickle", "stall"])
def test_slow_fault_ends_with_its_client(fault):
    with GarminSimulator() as own, requests.Session() as http:
        before = set(threading.enumerate())
        http.trust_env = False
        own.fail("sign_in", fault)
        with contextlib.suppress(requests.exceptions.RequestException):
            http.get(
                SIGN_IN,
                proxies={"https": own.proxy_url},
                verify=own.ca_bundle,
                timeout=(20, 0.5),
                stream=True,
            ).close()
        wait_until(lambda: own.counts["sign_in"] == 1)
        http.close()
        wait_until(lambda: not set(threading.enumerate()) - before)


def test_stall_ends_after_its_seconds(garmin, http):
    garmin.fail("sign_in", "stall", seconds=0.1)

    with pytest.raises(requests.exceptions.ConnectionError):
        http.get(SIGN_IN, timeout=5)


@pytest.mark.parametrize(
    ("fault", "options", "error"),
    [
        ("refused", {}, requests.exceptions.ConnectionError),
        ("reset", {}, requests.exceptions.ConnectionError),
        ("status", {"status": 502}, requests.exceptions.ProxyError),
        ("stall", {}, requests.exceptions.ReadTimeout),
        ("tls_failure", {}, requests.exceptions.SSLError),
    ],
)
def test_connect_faults(garmin, http, fault, options, error):
    garmin.fail("connect", fault, **options)

    with pytest.raises(error):
        http.get(SIGN_IN, timeout=1 if fault == "stall" else 20)

    assert http.get(SIGN_IN, timeout=5).status_code == 200


def test_slow_headers_of_the_proxy_arrive(garmin, http):
    garmin.fail("connect", "slow_headers", interval=0.001)

    assert http.get(SIGN_IN, timeout=5).status_code == 200


def test_faults_of_a_step_are_used_up_in_order(garmin, http):
    garmin.fail("sign_in", "status", status=500, times=2)
    garmin.fail("sign_in", "blocked")

    assert [http.get(SIGN_IN, timeout=5).status_code for _ in range(4)] == [500, 500, 403, 200]


def test_fault_without_times_lasts_until_healed(garmin, http):
    garmin.fail("sign_in", "status", times=None)

    assert {http.get(SIGN_IN, timeout=5).status_code for _ in range(5)} == {503}
    garmin.heal("sign_in")
    assert http.get(SIGN_IN, timeout=5).status_code == 200


def test_healing_one_step_leaves_the_others(garmin, http):
    garmin.fail("sign_in", "status")
    garmin.fail("api", "status")

    garmin.heal("sign_in")

    assert http.get(SIGN_IN, timeout=5).status_code == 200
    assert http.get(PROFILE, timeout=5).status_code == 503


def test_fault_of_one_account_spares_the_others(garmin, as_ada, http):
    garmin.add_account(*BOB)
    garmin.fail("api", "status", account=BOB[0], times=None)
    bobs = {"Authorization": bearer(garmin.issue_session(BOB[0]))}

    assert as_ada.get(PROFILE, timeout=5).status_code == 200
    assert as_ada.get(PROFILE, headers=bobs, timeout=5).status_code == 503


@pytest.mark.parametrize(
    ("fault", "options", "status", "error"),
    [
        ("invalid_grant", {}, 400, "invalid_grant"),
        ("oauth_error", {}, 400, "invalid_client"),
        ("oauth_error", {"error": "server_error", "status": 500}, 500, "server_error"),
    ],
)
def test_refresh_faults_leave_the_token(garmin, ada, http, fault, options, status, error):
    _, token = issue_tokens(garmin)
    garmin.fail("di_refresh", fault, **options)

    refused = refresh(http, token)

    assert (refused.status_code, refused.json()["error"]) == (status, error)
    assert refresh(http, token).status_code == 200


@pytest.mark.parametrize("step", ["verify_code", "portal_verify_code"])
def test_error_may_be_a_string(garmin, ada_mfa, http, step):
    post_ios_login(http)
    garmin.fail(step, "error_string")

    answer = http.post(VERIFY if step == "verify_code" else PORTAL_VERIFY, json={}, timeout=5)

    assert (answer.status_code, type(answer.json()["error"])) == (404, str)


@pytest.mark.parametrize("title", ["Account Locked", "Unable to sign in"])
def test_widget_page_can_have_another_title(garmin, ada, http, title):
    garmin.fail("widget_login", "titled_page", title=title)

    assert title_of(post_widget_login(http)) == title


@pytest.mark.parametrize(
    ("step", "ask"),
    [
        ("login", post_ios_login),
        ("portal_login", lambda http: http.post(PORTAL_LOGIN, json={"username": ADA[0]})),
        ("portal_verify_code", lambda http: http.post(PORTAL_VERIFY, json={})),
        ("widget_login", post_widget_login),
        ("widget_send_code", lambda http: ask_widget_for_code(http, post_widget_login(http))),
        ("widget_verify_code", lambda http: post_widget_code(http, post_widget_login(http), "1")),
    ],
)
def test_fault_of_one_account_finds_it_at_every_step(garmin, ada_mfa, http, step, ask):
    garmin.add_account(*BOB)
    garmin.fail(step, "status", account=BOB[0], status=500)
    garmin.fail(step, "status", account=ADA[0], status=502)
    if step == "portal_verify_code":
        post_ios_login(http)

    assert ask(http).status_code == 502


@pytest.mark.parametrize("step", ["di_exchange", "di_refresh", "jwt_web"])
def test_fault_of_one_account_finds_its_ticket_and_tokens(garmin, ada, http, step):
    garmin.fail(step, "status", account=ADA[0], times=None, status=502)
    ticket = post_ios_login(http).json()["serviceTicketId"]
    ask = {
        "di_exchange": lambda: exchange_ticket(http, ticket),
        "di_refresh": lambda: refresh(http, issue_tokens(garmin)[1]),
        "jwt_web": lambda: http.get(IOS_SERVICE, params={"ticket": ticket}, timeout=5),
    }

    assert ask[step]().status_code == 502
    assert garmin.log[-1]["account"] == ADA[0]


@pytest.mark.parametrize(
    ("args", "options", "named"),
    [
        (("logon", "status"), {}, "verify_code"),
        (("exchange", "invalid_grant"), {}, "di_refresh"),
        (("login", "titled_page"), {}, "widget_login"),
        (("login", "flood"), {}, "rate_limited"),
        (("login", "dead"), {}, "exchange"),
        (("login", "status"), {"code": 1}, "headers"),
        (("login", "reset"), {"status": 1}, "none"),
        (("login", "status"), {"times": 0}, "times is a number from 1"),
        (("login", "wrong_json"), {"value": {1, 2}}, "wrong_json"),
        (("login", "stall"), {"seconds": "long"}, "seconds"),
        (("login", "status"), {"status": "many"}, "status"),
    ],
)
def test_illegal_fault_names_what_is_legal(garmin, args, options, named):
    with pytest.raises(ValueError, match=named):
        garmin.fail(*args, **options)


def test_latency_delays_each_answer(garmin, http):
    http.get(SIGN_IN, timeout=5)
    garmin.latency = 0.2
    start = time.monotonic()

    http.get(SIGN_IN, timeout=5)

    assert time.monotonic() - start >= 0.2


# What it was asked


def test_log_names_the_owner_of_the_credential(garmin, as_ada, ada):
    as_ada.get(PROFILE, params={"secret": "1"}, headers={"User-Agent": "probe"}, timeout=5)

    assert garmin.log[-1] == {
        "step": "api",
        "method": "GET",
        "host": "connectapi.garmin.com",
        "path": "/userprofile-service/socialProfile",
        "status": 200,
        "account": ada["email"],
        "user_agent": "probe",
        "fault": None,
    }


def test_every_step_of_an_mfa_login_is_logged_with_its_account(garmin, ada_mfa, new_client):
    client = new_client()
    _, state = client.login(*ADA, return_on_mfa=True)
    client.resume_login(state, garmin.mfa_code(ada_mfa["email"]))
    assert client.username

    owners = {entry["step"]: entry["account"] for entry in garmin.log}

    for step in ("login", "verify_code", "preauthorized", "exchange", "api"):
        assert owners[step] == ada_mfa["email"], step


def test_log_holds_no_secrets(garmin, ada_mfa, new_client):
    client = new_client()
    _, state = client.login(*ADA, return_on_mfa=True)
    code = garmin.mfa_code(ada_mfa["email"])
    client.resume_login(state, code)
    assert client.username

    log = json.dumps(garmin.log)

    for secret in (
        ADA[1],
        code,
        "ST-",
        client.oauth1_token.oauth_token,
        client.oauth1_token.oauth_token_secret,
        client.oauth1_token.mfa_token,
        client.oauth2_token.access_token,
    ):
        assert secret not in log


def test_log_of_diauth_and_the_widget_holds_no_secrets(garmin, ada_mfa, http):
    page = post_widget_login(http)
    ask_widget_for_code(http, page)
    code = garmin.mfa_code(ADA[0])
    ticket = ticket_of(post_widget_code(http, page, code))
    tokens = exchange_ticket(http, ticket, EMBED).json()
    refresh(http, tokens["refresh_token"])
    http.get(EMBED, params={"ticket": ticket}, timeout=5)

    log = json.dumps(garmin.log)

    for secret in (ADA[1], code, ticket, tokens["refresh_token"], tokens["access_token"]):
        assert secret not in log


def test_path_no_client_uses_is_counted_as_other(garmin, http):
    assert http.get(f"{SSO}/sso/login", timeout=5).status_code == 404
    assert http.get(EXCHANGE, timeout=5).status_code == 404
    assert garmin.counts["other"] == 2


def test_reset_forgets_everything_but_the_server(garmin, as_ada, http):
    as_ada.post(f"{API}/upload-service/upload", files={"file": ("a.fit", b"1")}, timeout=5)
    garmin.fail("api", "status", times=None)
    garmin.latency = 5
    garmin.access_token_lifetime = 1
    url = garmin.proxy_url

    garmin.reset()

    assert (garmin.proxy_url, garmin.latency, garmin.access_token_lifetime) == (url, 0, 75017)
    assert (garmin.log, garmin.uploads, set(garmin.counts.values())) == ([], [], {0})
    assert as_ada.get(PROFILE, timeout=5).status_code == 401
    garmin.add_account(*ADA)


def test_account_cannot_be_added_twice(garmin, ada):
    with pytest.raises(ValueError, match="already"):
        garmin.add_account(ada["email"].upper(), "x")


def test_unknown_account_is_a_lookup_error(garmin):
    with pytest.raises(LookupError, match="add_account"):
        garmin.revoke("nobody@example.com")


# Life


def test_stop_closes_everything():
    before = set(threading.enumerate())
    simulator = GarminSimulator().start()
    port, ca_bundle = simulator.port, simulator.ca_bundle
    with socket.create_connection(("127.0.0.1", port), timeout=5) as idle:
        wait_until(lambda: len(set(threading.enumerate()) - before) == 2)

        simulator.stop()

        assert idle.recv(1) == b""
    assert not os.path.exists(ca_bundle)
    assert set(threading.enumerate()) - before == set()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    simulator.stop()


def test_stop_ends_a_stalled_answer_at_once():
    simulator = GarminSimulator().start()
    context = ssl.create_default_context(cafile=simulator.ca_bundle)
    simulator.fail("sign_in", "stall")
    with tunnel(simulator, context) as connection:
        connection.sendall(b"GET /mobile/sso/en/sign-in HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: simulator.counts["sign_in"] == 1)
        start = time.monotonic()

        simulator.stop()

        assert time.monotonic() - start < 8  # Waiting for its thread would take 10.


def test_stopped_simulator_says_that_it_is_not_running():
    with pytest.raises(RuntimeError, match=r"call start\(\)"):
        _ = GarminSimulator().settings


def test_taken_port_is_an_os_error(garmin):
    with pytest.raises(OSError, match="in use"):
        GarminSimulator(garmin.port).start()


def test_forked_child_holds_no_connection_open():
    with GarminSimulator() as simulator:
        context = ssl.create_default_context(cafile=simulator.ca_bundle)
        with tunnel(simulator, context) as connection:
            child = fork_sleeper()
            try:
                simulator.fail("sign_in", "reset")
                assert_reset(connection)
            finally:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def fork_sleeper():
    import warnings

    with warnings.catch_warnings():  # Python 3.12 warns of forks beside threads
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    return child


# From another process


def test_remote_has_the_methods_and_properties(garmin):
    remote = RemoteGarminSimulator(garmin.control_url)

    account = remote.add_account(*ADA, mfa=True, full_name="Ada Lovelace")
    remote.latency = 0.01
    remote.access_token_lifetime = 60
    remote.rotate_refresh_tokens = False
    session = remote.issue_session(account["email"])
    remote.fail("sign_in", "status", times=None, status=500)

    assert account["full_name"] == "Ada Lovelace"
    assert (garmin.latency, garmin.access_token_lifetime) == (0.01, 60)
    assert json.loads(base64.b64decode(session))[1]["expires_in"] == 60
    assert remote.settings == garmin.settings
    assert remote.environment == garmin.environment
    assert remote.library_environment == garmin.library_environment
    assert not garmin.rotate_refresh_tokens
    assert "di_token" in json.loads(remote.issue_session(ADA[0], engine="garminconnect"))
    assert remote.counts == garmin.counts
    remote.reset()
    assert (garmin.access_token_lifetime, garmin.rotate_refresh_tokens) == (75017, True)


def test_remote_is_found_by_its_proxy_url_too(garmin):
    assert RemoteGarminSimulator(garmin.proxy_url).ca_bundle == garmin.ca_bundle


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda remote: remote.fail("login", "flood"), ValueError, "'flood' is no fault"),
        (lambda remote: remote.revoke("nobody@example.com"), LookupError, "No account nobody"),
        (lambda remote: remote.revoke(), TypeError, "email"),
        (lambda remote: remote.explode(), AttributeError, "explode"),
    ],
)
def test_remote_raises_what_the_simulator_raises(garmin, call, error, sentence):
    with pytest.raises(error, match=sentence):
        call(RemoteGarminSimulator(garmin.control_url))


def test_remote_says_that_nobody_answers():
    with GarminSimulator() as simulator:
        remote = RemoteGarminSimulator(simulator.control_url)

    with pytest.raises(ConnectionError, match="No Garmin simulator answers at"):
        _ = remote.counts


def test_second_process_steers_it_whatever_its_proxies(garmin):
    script = (
        "import os; from garmin_auth.testing import RemoteGarminSimulator as R;"
        "g = R(os.environ['GARMIN_SIMULATOR_PROXY']); g.add_account('ada@example.com', 'x');"
        "print(g.issue_session('ada@example.com'))"
    )
    proxies = dict.fromkeys(["http_proxy", "HTTP_PROXY", "all_proxy"], "http://127.0.0.1:9")

    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | proxies | garmin.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    assert len(json.loads(base64.b64decode(done.stdout))) == 2


# The plugin, the command, and what an import costs


def test_fixture_points_the_settings_at_the_simulator(garmin, settings):
    assert garmin.settings["GARMIN_AUTH_PROXIES"] == settings.GARMIN_AUTH_PROXIES
    assert garmin.settings["GARMIN_AUTH_CA_BUNDLE"] == settings.GARMIN_AUTH_CA_BUNDLE


def run_pytest(folder, test, *options, **environment):
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (folder / "test_it.py").write_text(test)
    keep = {name: value for name, value in os.environ.items() if "DJANGO" not in name}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, str(folder)],
        env=keep | {"PYTHONPATH": str(ROOT)} | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


RESET_TEST = """
def test_first(garmin):
    garmin.add_account("ada@example.com", "x")

def test_second(garmin):
    garmin.add_account("ada@example.com", "x")
"""

SETTINGS_TEST = """
from django.conf import settings as live

def test_points(settings, garmin):
    settings.OTHER = 1
    assert live.GARMIN_AUTH_PROXIES["https"] == garmin.proxy_url

def test_points_no_more():
    assert not hasattr(live, "GARMIN_AUTH_PROXIES")
"""


def test_fixture_is_as_new_for_each_test_without_django(tmp_path):
    done = run_pytest(tmp_path, RESET_TEST, "-p", "no:django")

    assert "2 passed" in done.stdout, done.stdout


@pytest.mark.parametrize("options", [(), ("-p", "no:django")])
def test_fixture_gives_the_settings_back(tmp_path, options):
    (tmp_path / "conf.py").write_text("")
    test = SETTINGS_TEST if not options else SETTINGS_TEST.replace("settings, garmin", "garmin")
    test = test if not options else test.replace("settings.OTHER = 1", "pass")

    done = run_pytest(tmp_path, test, *options, DJANGO_SETTINGS_MODULE="conf")

    assert "2 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("missing", ["trustme", "oauthlib"])
def test_fixture_names_the_extra_that_is_missing(tmp_path, missing):
    (tmp_path / "conftest.py").write_text(f"import sys; sys.modules[{missing!r}] = None")

    done = run_pytest(tmp_path, RESET_TEST, "-p", "no:django")

    assert 'pip install "django-garmin-auth[testing]"' in done.stdout
    assert "2 errors" in done.stdout


def test_importing_the_plugin_imports_nothing_slow():
    script = (
        "import sys, pytest; before = set(sys.modules); import garmin_auth.testing.plugin;"
        "print(*sorted(set(sys.modules) - before))"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == [
        "garmin_auth",
        "garmin_auth.testing",
        "garmin_auth.testing.plugin",
    ]


def start_command(*options):
    return subprocess.Popen(
        [sys.executable, "manage.py", "garmin_simulator", *options],
        cwd=ROOT,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_command_serves_until_it_is_told_to_end(tmp_path, ending):
    ready = tmp_path / "ready.json"
    with start_command("--mfa-account", ":".join(ADA), "--ready-file", str(ready)) as process:
        wait_until(ready.exists, seconds=120)
        where = json.loads(ready.read_text())
        with requests.Session() as http:
            http.trust_env = False
            http.proxies, http.verify = {"https": where["proxy_url"]}, where["ca_bundle"]
            http.get(SIGN_IN, timeout=5)
            post_login(http, *ADA)
        code = RemoteGarminSimulator(where["control_url"]).mfa_code(ADA[0])
        process.send_signal(ending)
        output, _ = process.communicate(timeout=120)

    assert process.returncode == 0, output
    assert f'GARMIN_AUTH_PROXIES = {{"https": "{where["proxy_url"]}"}}' in output
    assert f"Code for {ADA[0]}: {code}" in output
    assert not ready.exists()
    assert not os.path.exists(where["ca_bundle"])


def test_command_ends_with_its_parent(tmp_path):
    ready = tmp_path / "ready.json"
    command = f"{sys.executable} manage.py garmin_simulator --exit-with-parent --ready-file {ready}"
    parent = subprocess.Popen(
        ["sh", "-c", f"{command} & wait"],
        cwd=ROOT,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"},
        stdout=subprocess.DEVNULL,
    )
    wait_until(ready.exists, seconds=120)

    parent.kill()
    parent.wait()

    wait_until(lambda: not ready.exists(), seconds=120)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--account", "nobody"], "An account is EMAIL:PASSWORD, not 'nobody'."),
        (["--account", "a@b.c:1", "--mfa-account", "a@b.c:2"], "an account a@b.c already"),
        (["--port", "70000"], "from 0 to 65535"),
        (["--latency", "-1"], "cannot be negative"),
        (["--ready-file", "/nowhere/ready"], "Cannot write /nowhere/ready"),
    ],
)
def test_command_refuses_bad_arguments_in_a_sentence(options, sentence):
    with start_command(*options) as process:
        output, _ = process.communicate(timeout=120)

    assert process.returncode == 1
    assert sentence in output
    assert "Traceback" not in output


def test_command_says_that_the_port_is_in_use(garmin):
    with start_command("--port", str(garmin.port)) as process:
        output, _ = process.communicate(timeout=120)

    assert process.returncode == 1
    assert f"Port {garmin.port} of 127.0.0.1 is in use" in output
    assert "Traceback" not in output
