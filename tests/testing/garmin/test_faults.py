"""Each fault that the simulator can be told to have."""

import contextlib
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from garmin_auth.testing import GarminSimulator
from tests.testing.wire import (
    ADA,
    API,
    BOB,
    IOS_SERVICE,
    PORTAL_LOGIN,
    PORTAL_VERIFY,
    PROFILE,
    SIGN_IN,
    VERIFY,
    ask_widget_for_code,
    assert_reset,
    bearer,
    exchange_ticket,
    issue_tokens,
    message,
    post_code,
    post_ios_login,
    post_login,
    post_widget_code,
    post_widget_login,
    refresh,
    title_of,
    tunnel,
)
from tests.waiting import wait_until


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


@pytest.mark.parametrize(("fault", "interval"), [("slow_headers", 0.005), ("trickle", 0.03)])
def test_slow_answer_beats_a_read_timeout_with_every_byte(garmin, http, fault, interval):
    garmin.fail("sign_in", fault, interval=interval)
    start = time.monotonic()

    answer = http.get(SIGN_IN, timeout=(20, 3))

    assert answer.text.endswith("</html>")
    assert time.monotonic() - start > 3


def test_late_answer_has_been_processed_long_before(garmin, ada, http):
    _, token = issue_tokens(garmin)
    garmin.fail("di_refresh", "late", seconds=1)

    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(refresh, http, token)
        wait_until(lambda: garmin.log[-1:] and garmin.log[-1]["fault"] == "late")
        assert refresh(http, token).json()["error"] == "invalid_grant"
        assert not late.done()

    assert late.result().status_code == 200


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
        (("login", "status"), {"times": 0}, "times must be at least 1"),
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
