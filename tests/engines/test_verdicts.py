"""The table of verdicts: what each answer of garmin-wire.md means."""

import json
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from requests import Response
from requests.structures import CaseInsensitiveDict

from garmin_auth.engines.verdicts import (
    Answer,
    CodeRefused,
    api_error,
    disguised_limit,
    exchange_error,
    judge_code,
    judge_login,
    judge_page,
    judge_sso,
    judge_widget_code,
    key_error,
    login_exchange_error,
    title_rejection,
    token_error,
    where_sent,
)
from garmin_auth.exceptions import (
    AccountLocked,
    ActionRequired,
    CaptchaRequired,
    ChallengeExpired,
    GarminRequestError,
    GarminUnavailable,
    InvalidCredentials,
    RateLimited,
    SessionExpired,
    TooManyAttempts,
)

HTML, JSON, TEXT = "text/html;charset=UTF-8", "application/json", "text/plain"
DEAD = "<html><p><b>Message</b> OAuthToken is invalid</p></html>"
APP_VALIDATION = "<html>Client app validation failed</html>"
DISGUISED = json.dumps({"error": {"status-code": "429", "request-id": "r"}})


def answer(status=200, text="", kind=JSON, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, CaseInsensitiveDict({"Content-Type": kind, **headers}), text)


def sso(kind, message="", status=200, **more):
    verdict = {"type": kind, "message": message, "httpStatus": "OK"}
    return answer(status, json.dumps({"responseStatus": verdict, **more}))


def outcome(judge, *args):
    """What a judge raises, or returns."""
    try:
        return judge(*args)
    except Exception as error:  # noqa: BLE001
        return error


NOTHING_CERTAIN = [
    (answer(200, "", JSON), GarminUnavailable),
    (answer(200, "<html>Just a moment...</html>", HTML), GarminUnavailable),
    (answer(200, '{"responseSta', JSON), GarminUnavailable),
    (answer(200, "[" * 100_000, JSON), GarminUnavailable),
    (answer(200, "null", JSON), GarminUnavailable),
    (answer(200, "[]", JSON), GarminUnavailable),
    (answer(200, '"text"', JSON), GarminUnavailable),
    (answer(200, "{}", JSON), GarminUnavailable),
    (answer(200, '{"responseStatus": null}', JSON), GarminUnavailable),
    (answer(200, '{"responseStatus": "SUCCESSFUL"}', JSON), GarminUnavailable),
    (answer(200, '{"responseStatus": {"type": ["a"], "message": {}}}'), GarminUnavailable),
    (answer(204, "", JSON), GarminUnavailable),
    (answer(302, "", HTML), GarminUnavailable),
    (answer(400, "{}", JSON), GarminUnavailable),
    (answer(401, "", JSON), GarminUnavailable),
    (answer(401, DEAD, HTML), GarminUnavailable),
    (answer(403, "<html>Sorry, you have been blocked</html>", HTML), GarminUnavailable),
    (answer(404, "", HTML), GarminUnavailable),
    (answer(500, "", HTML), GarminUnavailable),
    (answer(503, "", HTML), GarminUnavailable),
    (sso("SOMETHING_NEW", "somethingNew", 500), GarminUnavailable),
    (sso("SERVICE_UNAVAILABLE", "somethingNew"), GarminUnavailable),
    (sso("INTERNAL_SERVER_ERROR", "somethingNew"), GarminUnavailable),
    (sso("ERROR", "somethingNew", 400), GarminUnavailable),
    (sso("", "somethingNew"), GarminUnavailable),
    (sso("SUCCESSFUL", serviceTicketId=None), GarminUnavailable),
    (sso("SUCCESSFUL", serviceTicketId=""), GarminUnavailable),
    (sso("SUCCESSFUL", serviceTicketId=5), GarminUnavailable),
    (sso("SUCCESSFUL", status=500, serviceTicketId="ST-1-sso"), GarminUnavailable),
    (sso("MFA_REQUIRED", status=401), GarminUnavailable),
]
LIMITS = [
    (answer(429, "<html>Error 1015</html>", HTML), RateLimited),
    (answer(427, "{}", JSON), RateLimited),
    (answer(200, DISGUISED, JSON), RateLimited),
    (answer(200, DISGUISED.replace('"429"', "429"), JSON), RateLimited),
    (answer(200, DISGUISED.replace("429", "427"), JSON), RateLimited),
    (answer(429, DEAD, HTML), RateLimited),
    (sso("INVALID_USERNAME_PASSWORD", status=429), RateLimited),
]
WORDS = [
    (
        sso("INVALID_USERNAME_PASSWORD", "generalLoginInvalidUsernameOrPassword", 401),
        InvalidCredentials,
    ),
    (sso("INVALID_USERNAME_PASSWORD", "", 200), InvalidCredentials),
    (sso("X", "generalLoginInvalidUsernameOrPassword", 403), InvalidCredentials),
    (sso("CAPTCHA_REQUIRED", "", 200), CaptchaRequired),
    (sso("CAPTCHA_REQUIRED", None, 200), CaptchaRequired),
    (sso("X", "generalLoginAccountLocked", 401), AccountLocked),
    (sso("X", "generalLoginAccountLocked", 200), AccountLocked),
    (sso("X", "generalLoginAccountDisabled", 401), AccountLocked),
    (sso("INVALID_USERNAME_PASSWORD", "generalLoginAccountLocked", 401), AccountLocked),
    (sso("CONSENT_REQUIRED", "somethingNew"), ActionRequired),
    (sso("CONSENT_REQUIRED", "somethingNew", 401), ActionRequired),
    (sso("CONSENT_REQUIRED", None, 403), ActionRequired),
    (sso("X", "codeEntryInvalid", 409), CodeRefused),
    (sso("X", "codeEntryInvalid", 200), CodeRefused),
    (sso("codeEntryInvalid", "", 400), CodeRefused),
    (sso("X", "codeEntryExpired", 409), ChallengeExpired),
    (sso("X", "codeEntryExpired", 200), ChallengeExpired),
    (sso("X", "codeEntryMaxLimit", 409), TooManyAttempts),
    (sso("X", "codeEntryMaxLimit", 200), TooManyAttempts),
]


@pytest.mark.parametrize(("given", "expected"), NOTHING_CERTAIN + LIMITS + WORDS)
def test_verdicts_on_a_password(given, expected):
    assert type(outcome(judge_sso, given)) is expected


@pytest.mark.parametrize(("given", "expected"), NOTHING_CERTAIN + LIMITS + WORDS)
def test_verdicts_on_a_code(given, expected):
    assert type(outcome(judge_code, given)) is expected


@pytest.mark.parametrize("judge", [judge_sso, judge_code])
def test_a_success_is_returned_with_its_ticket(judge):
    result = judge(sso("SUCCESSFUL", serviceTicketId="ST-1-sso"))

    assert result["serviceTicketId"] == "ST-1-sso"


def test_a_demand_for_a_code_is_returned():
    result = judge_sso(sso("MFA_REQUIRED", customerMfaInfo={"email": "a*@b"}))

    assert result["customerMfaInfo"] == {"email": "a*@b"}


@pytest.mark.parametrize(
    "given",
    [sso("CONFLICT", "somethingElse", 409), answer(409, "", HTML), answer(409, "{}", JSON)],
)
def test_a_409_in_no_known_words_is_a_wrong_code(given):
    assert type(outcome(judge_code, given)) is CodeRefused


def test_a_409_to_a_password_is_nothing_certain():
    assert type(outcome(judge_sso, sso("CONFLICT", "x", 409))) is GarminUnavailable


def test_an_expired_code_is_said_to_be_expired():
    assert outcome(judge_code, sso("X", "codeEntryExpired", 409)).reason == "expired"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        *LIMITS[:5],
        (answer(200, "<html></html>", HTML), type(None)),
        (answer(200, "", HTML), type(None)),
        (answer(204, "", HTML), type(None)),
        (answer(300, "", HTML), GarminUnavailable),
        (answer(302, "", HTML), GarminUnavailable),
        (answer(403, "", HTML), GarminUnavailable),
        (answer(404, "", HTML), GarminUnavailable),
        (answer(500, "", HTML), GarminUnavailable),
    ],
)
def test_verdicts_on_a_page(given, expected):
    assert type(outcome(judge_page, given)) is expected


EXCHANGES = [
    *LIMITS[:6],
    (None, GarminUnavailable),
    (answer(200, "{}", JSON), GarminUnavailable),
    (answer(200, "[]", JSON), GarminUnavailable),
    (answer(200, DEAD, HTML), GarminUnavailable),
    (answer(204, "", JSON), GarminUnavailable),
    (answer(400, DEAD, HTML), GarminUnavailable),
    (answer(401, "", HTML), GarminUnavailable),
    (answer(401, '{"error": "NotAuthorizedException"}', JSON), GarminUnavailable),
    (answer(401, "<html>MFA token is required</html>", HTML), GarminUnavailable),
    (answer(401, "<html>Ticket is invalid</html>", HTML), GarminUnavailable),
    (answer(403, APP_VALIDATION, HTML), GarminUnavailable),
    (answer(403, DEAD, HTML), GarminUnavailable),
    (answer(403, "<html>Sorry, you have been blocked</html>", HTML), GarminUnavailable),
    (answer(404, "{}", JSON), GarminUnavailable),
    (answer(500, DEAD, HTML), GarminUnavailable),
    (answer(503, "", HTML), GarminUnavailable),
]


@pytest.mark.parametrize(
    ("given", "expected"),
    [*EXCHANGES, (answer(401, DEAD, HTML), SessionExpired)],
)
def test_verdicts_on_a_refresh(given, expected):
    assert type(exchange_error(given, "HTTPError")) is expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [*EXCHANGES, (answer(401, DEAD, HTML), GarminUnavailable)],
)
def test_verdicts_on_the_exchange_of_a_login(given, expected):
    assert type(login_exchange_error(given, "HTTPError")) is expected


INVALID_GRANT = '{"error": "invalid_grant"}'


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        *EXCHANGES,
        (answer(400, INVALID_GRANT), SessionExpired),
        (answer(401, INVALID_GRANT), GarminUnavailable),
        (answer(400, '{"error": "invalid_request"}'), GarminUnavailable),
        (answer(400, '["invalid_grant"]'), GarminUnavailable),
    ],
)
def test_verdicts_on_a_refresh_token(given, expected):
    assert type(token_error(given, "HTTPError")) is expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        *LIMITS[:5],
        (answer(401, "", JSON), SessionExpired),
        (answer(401, "no", TEXT), SessionExpired),
        (answer(401, "", HTML), GarminUnavailable),
        (answer(401, " <html>", TEXT), GarminUnavailable),
        (answer(400, "", JSON), GarminUnavailable),
        (answer(403, "", JSON), GarminUnavailable),
    ],
)
def test_verdicts_on_a_key(given, expected):
    assert type(key_error(given)) is expected


def test_an_uncertain_verdict_tells_the_operator_what_came():
    for verdict in (exchange_error, login_exchange_error, token_error):
        told = str(verdict(answer(503, "", HTML), "HTTPError"))
        assert told == ("Garmin answered 503 with text/html, which proves nothing (HTTPError).")
        assert str(verdict(None, "ReadTimeout")).endswith("got no answer: ReadTimeout.")
    nameless = Answer(503, CaseInsensitiveDict(), "")
    assert str(key_error(nameless)) == (
        "Garmin answered 503 with no content type, which proves nothing."
    )


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        (200, JSON, type(None)),
        (201, JSON, type(None)),
        (202, JSON, type(None)),
        (204, "", type(None)),
        (200, "application/zip", type(None)),
        (200, HTML, GarminUnavailable),
        (300, JSON, GarminUnavailable),
        (302, HTML, GarminUnavailable),
        (304, "", GarminUnavailable),
        (400, JSON, GarminRequestError),
        (401, JSON, GarminRequestError),
        (403, JSON, GarminRequestError),
        (403, HTML, GarminUnavailable),
        (404, JSON, GarminRequestError),
        (404, HTML, GarminRequestError),
        (405, JSON, GarminRequestError),
        (408, JSON, GarminUnavailable),
        (409, JSON, GarminRequestError),
        (412, JSON, GarminRequestError),
        (427, JSON, RateLimited),
        (429, HTML, RateLimited),
        (500, JSON, GarminUnavailable),
        (502, HTML, GarminUnavailable),
        (503, HTML, GarminUnavailable),
        (520, HTML, GarminUnavailable),
    ],
)
def test_verdicts_on_an_api_answer(status, kind, expected):
    headers = CaseInsensitiveDict({"content-type": kind} if kind else {})

    assert type(api_error(status, headers)) is expected


@pytest.mark.parametrize("kind", [HTML, JSON])
def test_an_empty_answer_is_no_page_of_cloudflares(kind):
    empty = CaseInsensitiveDict({"Content-Type": kind, "Content-Length": "0"})

    assert api_error(200, empty) is None
    assert api_error(204, CaseInsensitiveDict({"Content-Type": kind})) is None


@pytest.mark.parametrize("status", [400, 401, 403, 404, 499])
def test_a_request_error_tells_its_status(status):
    error = api_error(status, CaseInsensitiveDict(), "bad date; sent abc123", bearer="abc123")

    assert (error.status, error.body) == (status, "bad date; sent [redacted]")
    assert api_error(status, CaseInsensitiveDict()).body == ""


@pytest.mark.parametrize(
    "content",
    [None, [], {}, "429", 429, {"error": None}, {"error": "429"}, {"error": {}}]
    + [{"error": {"status-code": code}} for code in (None, "500", 500, [429], {})],
)
def test_other_json_is_no_disguised_limit(content):
    assert disguised_limit(content) is None


def test_a_disguised_limit_names_no_time():
    assert disguised_limit(json.loads(DISGUISED)).retry_after is None


HOUR, MINUTES = 3600, timedelta(seconds=600)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        (" ", None),
        ("1", 1),
        (" 30 ", 30),
        ("007", 7),
        (str(HOUR), HOUR),
        (str(HOUR + 1), None),
        ("0", None),
        ("-1", None),
        ("1.5", None),
        ("1e3", None),
        ("soon", None),
        ("²", None),
        ("9" * 5000, None),
        ("30, 30", None),
        ("Mon", None),
        ("Wed, ", None),
        (",", None),
        ("Wed, 99 Foo 2026 99:99:99 GMT", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", None),
    ],
)
def test_retry_after(value, seconds):
    headers = {} if value is None else {"Retry_After": value}

    assert exchange_error(answer(429, "", HTML, **headers), "").retry_after == seconds


@pytest.mark.parametrize("hours", [0, 9, -8, None])
def test_retry_after_as_a_date(hours):
    now = datetime.now(timezone(timedelta(hours=hours or 0)))
    # A date in "-0000" has no zone to Python, and is in UTC.
    when = format_datetime((now if hours is not None else now.replace(tzinfo=None)) + MINUTES)

    seconds = exchange_error(answer(429, "", HTML, Retry_After=when), "").retry_after

    assert 540 <= seconds <= 600


@pytest.mark.parametrize(("seconds", "sane"), [(-60, False), (HOUR - 60, True), (HOUR + 60, False)])
def test_retry_after_as_a_date_is_sane(seconds, sane):
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)

    retry_after = exchange_error(answer(429, "", HTML, Retry_After=when), "").retry_after

    assert (retry_after is not None) == sane


def test_retry_after_of_an_api_answer_is_read():
    assert api_error(429, CaseInsensitiveDict({"RETRY-AFTER": "5"})).retry_after == 5


@pytest.mark.parametrize("judge", [judge_sso, judge_code, judge_page])
@pytest.mark.parametrize("status", [200, 400, 401, 403, 409, 429, 500])
def test_no_verdict_repeats_what_garmin_sent(judge, status):
    given = sso("NEW_TYPE", "secret-message", status, secret="secret-value")

    assert "secret" not in str(outcome(judge, given))


def test_a_word_that_nobody_knows_is_told_to_the_operator(caplog):
    assert "CONSENT_REQUIRED" in str(outcome(judge_sso, sso("CONSENT_REQUIRED")))
    assert "CONSENT_REQUIRED" in caplog.text


def test_a_word_that_nobody_knows_is_short_and_without_secrets():
    told = str(outcome(judge_sso, sso("NEW ana@example.com " + "long " * 1000)))

    assert "ana@" not in told
    assert len(told) < 200


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Account Locked", AccountLocked),
        ("Your account is LOCKED", AccountLocked),
        ("Invalid sign in", InvalidCredentials),
        ("Incorrect password", InvalidCredentials),
        ("Account Error", ActionRequired),
        ("Unable To Sign In", ActionRequired),
        ("Update Phone Number", ActionRequired),
        ("Terms of Use", ActionRequired),
        ("", type(None)),
        (" ", type(None)),
        ("GARMIN Authentication Application", type(None)),
        ("Garmin SSO Portal", type(None)),
        ("Just a moment...", type(None)),
        ("Attention Required! | Cloudflare", type(None)),
        ("Error 1015", type(None)),
        ("502 Bad Gateway", type(None)),
        ("Service Unavailable", type(None)),
        ("Internal Server Error", type(None)),
        ("HTTP Status 403", type(None)),
        ("Scheduled Maintenance", type(None)),
    ],
)
def test_verdicts_on_the_title_of_a_page(title, expected):
    assert type(title_rejection(title)) is expected


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (answer(200, "<title>Success</title>", HTML), "Success"),
        (answer(429, "<title>Success</title>", HTML), RateLimited),
        (answer(500, "<title>Success</title>", HTML), GarminUnavailable),
        (answer(200, '<title>Sign in</title><input name="mfa-code">', HTML), CodeRefused),
        (answer(200, "<script>var mfaMethod = 1</script>", HTML), CodeRefused),
        (answer(200, "<title>Invalid code</title>", HTML), CodeRefused),
        (answer(200, "<title>Account Locked</title>", HTML), AccountLocked),
        (answer(200, "<title>Terms of Use</title>", HTML), ActionRequired),
        (answer(200, "<title>Just a moment...</title>", HTML), GarminUnavailable),
        (answer(200, "", HTML), GarminUnavailable),
    ],
)
def test_verdicts_on_the_page_after_a_code(page, expected):
    verdict = outcome(judge_widget_code, page)

    assert expected in (verdict, type(verdict))


def test_no_code_can_be_wrong_in_a_login():
    refused = sso("X", "codeEntryInvalid", 409)

    assert str(outcome(judge_login, refused)).startswith("Garmin answered 409 with")
    assert judge_login(sso("SUCCESSFUL", serviceTicketId="ST-1"))["serviceTicketId"] == "ST-1"


@pytest.mark.parametrize(
    ("info", "place"),
    [
        ({"mfaLastMethodUsed": "email", "email": "a*@b", "phoneNumber": "*1"}, "a*@b"),
        ({"mfaLastMethodUsed": "phone", "email": "a*@b", "phoneNumber": "*1"}, "*1"),
        ({"mfaLastMethodUsed": "sms", "phoneNumber": "*1"}, "*1"),
        ({"mfaLastMethodUsed": None, "email": "a*@b"}, "a*@b"),
        ({"email": "a*@b"}, "a*@b"),
        ({"mfaLastMethodUsed": "authenticator", "email": "a*@b"}, ""),
        ({"mfaLastMethodUsed": ["sms"], "phoneNumber": "*1"}, ""),
        ({"mfaLastMethodUsed": "email", "email": 5}, ""),
        ({}, ""),
        ("email", ""),
    ],
)
def test_where_a_code_was_sent(info, place):
    assert where_sent({"customerMfaInfo": info}) == place


@pytest.mark.parametrize("content", [None, [], {}])
def test_where_a_code_was_sent_may_be_unknown(content):
    assert where_sent(content) == ""


def test_an_answer_is_made_of_a_response():
    response = Response()
    response.status_code, response._content = 404, b"nothing"
    response.headers["Content-Type"] = HTML

    given = Answer.of(response)

    assert (given.status, given.text, given.is_html) == (404, "nothing", True)


def test_an_answer_does_not_show_its_body():
    assert "secret" not in repr(answer(200, "secret", "secret", x="secret"))


def dead_at(date):
    return str(exchange_error(answer(401, DEAD, HTML, Date=date), ""))


@pytest.mark.parametrize(("minutes", "word"), [(-10, "s ahead of"), (10, "s behind")])
def test_a_clock_that_is_off_is_named(minutes, word):
    theirs = datetime.now(UTC) + timedelta(minutes=minutes)

    assert word in dead_at(format_datetime(theirs, usegmt=True))


@pytest.mark.parametrize("date", ["", "yesterday", "Wed, 99 Foo 2026 99:99:99 GMT"])
def test_a_date_that_is_none_says_nothing_of_the_clock(date):
    assert dead_at(date) == "Garmin refused the session's token at the exchange."


def test_a_right_clock_is_not_mentioned():
    told = dead_at(format_datetime(datetime.now(UTC), usegmt=True))

    assert told == "Garmin refused the session's token at the exchange."
