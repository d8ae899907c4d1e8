"""What Garmin says of a request goes into an exception: nothing secret may go with it."""

import pytest

from garmin_auth.engines.reasons import reason

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjE3OTAwMDAwMDB9.c2lnbmF0dXJl-0_x"


@pytest.mark.parametrize(
    "secret",
    [
        "ana@example.com",
        "ana.o+garmin@mail.example.co.uk",
        "ana%40example.com",
        JWT,
        JWT.replace(".", "\n", 1).split("\n")[0],
        "ST-0123456-0a1b2c3d4e-sso",
        "5e1f0a7c-0b1d-4c55-9a3e-51a1a70c0de5",
        "MFA-AbCdEf0123456789_-xyz",
    ],
)
@pytest.mark.parametrize(
    "text", ["{}", '{{"message": "{}"}}', "of {}, again", "a={}&b=c", "<b>{}</b>"]
)
def test_what_looks_like_a_secret_is_left_out(secret, text):
    told = reason(text.format(secret))

    assert secret not in told
    assert "[redacted]" in told


def test_what_was_sent_is_left_out():
    assert reason("You sent tok, tok!", "tok", "") == "You sent [redacted], [redacted]!"


@pytest.mark.parametrize(
    "text",
    [
        '{"message": "HTTP 404 Not Found", "error": "NotFoundException"}',
        "User has not consented to uploads.",
        "com.garmin.connect.detailedImportResult.DuplicateActivityException",
        "/activity-service/activity/12345678901 on 2026-11-22T07:00:00.0",
        "detailedImportResultFailureMessages",
    ],
)
def test_a_reason_is_left_as_it_is(text):
    assert reason(text) == text


def test_a_token_at_the_end_of_what_is_kept_is_left_out():
    assert JWT[:12] not in reason("x " * 245 + JWT)


def test_it_is_short():
    assert len(reason("word " * 1000)) <= 500


def test_it_takes_no_time():
    assert reason("a" * 100_000) == "a" * 500
    assert reason("@" * 100_000)
    assert reason("eyJ" * 30_000) == "[redacted]"
