"""Logging in at the simulator, with garth and at the pages that garminconnect uses."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from garth.exc import GarthException, GarthHTTPError

from tests.testing.wire import (
    ADA,
    IOS_QUERY,
    IOS_SERVICE,
    LOGIN,
    PORTAL_LOGIN,
    PORTAL_QUERY,
    PORTAL_VERIFY,
    SIGN_IN,
    SSO,
    VERIFY,
    exchange_ticket,
    message,
    post_code,
    post_ios_login,
    post_login,
    wrong,
)


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


# The pages for iOS and the portal


AT_BOTH_PAGES = pytest.mark.parametrize(
    ("page", "login", "verify"),
    [
        (SIGN_IN, LOGIN, VERIFY),
        (f"{SSO}/portal/sso/en-US/sign-in{PORTAL_QUERY}", PORTAL_LOGIN, PORTAL_VERIFY),
    ],
    ids=["mobile", "portal"],
)


@AT_BOTH_PAGES
def test_both_pages_log_in_with_a_code(garmin, ada_mfa, http, page, login, verify):
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


def test_a_code_is_taken_at_the_other_page(garmin, ada_mfa, http):
    post_ios_login(http)
    body = {"mfaMethod": "email", "mfaVerificationCode": garmin.mfa_code(ADA[0])}

    answer = http.post(PORTAL_VERIFY, json=body, timeout=5).json()

    assert answer["serviceURL"] == IOS_SERVICE
    assert exchange_ticket(http, answer["serviceTicketId"]).status_code == 200


def test_wrong_codes_at_both_pages_count_together(garmin, ada_mfa, http):
    post_ios_login(http)
    code = garmin.mfa_code(ADA[0])
    body = {"mfaMethod": "email", "mfaVerificationCode": wrong(code)}

    for url in (VERIFY, PORTAL_VERIFY, VERIFY, PORTAL_VERIFY, VERIFY):
        assert message(http.post(url, json=body, timeout=5)) == "codeEntryInvalid"

    assert message(post_code(http, code)) == "codeEntryMaxLimit"
