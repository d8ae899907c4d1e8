"""How a login has failed, as another process reads it."""

import pytest

from garmin_auth import exceptions
from garmin_auth.exceptions import (
    ChallengeExpired,
    GarminAuthError,
    GarminRequestError,
    GarminUnavailable,
    InvalidKey,
    InvalidMFACode,
    LoginThrottled,
    RateLimited,
)
from garmin_auth.logins.records import KNOWN, from_record, to_record
from garmin_auth.models import GarminAuthenticationState

EXAMPLES = [
    RateLimited(),
    RateLimited(300),
    LoginThrottled(61),
    InvalidMFACode(3),
    InvalidKey("spaces"),
    InvalidKey("password"),
    ChallengeExpired("expired"),
    ChallengeExpired("spent"),
    ChallengeExpired("gone"),
    GarminRequestError(404),
]
GENERAL = str(GarminAuthError.user_message)


class OfAThirdEngine(GarminUnavailable):
    """An exception of a site's own engine."""


@pytest.fixture(params=[*EXAMPLES, *(name for name in KNOWN)], ids=str)
def error(request):
    """Each error there is, with facts or without."""
    if isinstance(request.param, GarminAuthError):
        return request.param
    kind = KNOWN[request.param]
    if kind in {type(example) for example in EXAMPLES}:
        return next(e for e in EXAMPLES if type(e) is kind)
    return kind("a secret detail")


def test_a_record_says_the_same_to_the_user(error):
    again = from_record(to_record(error))

    assert type(again) is type(error)
    assert str(again.user_message) == str(error.user_message)


def test_a_record_fits_its_column(error):
    column = GarminAuthenticationState._meta.get_field("login_failure")

    assert 0 < len(to_record(error)) <= column.max_length


def test_a_record_has_no_detail(error):
    assert "secret" not in to_record(error)
    assert "secret" not in str(from_record(to_record(error)))


def test_every_exception_is_known():
    assert set(KNOWN.values()) >= {exceptions.LoginInterrupted, exceptions.TooManyLogins}


def test_an_exception_of_another_engine_is_its_nearest_base():
    assert type(from_record(to_record(OfAThirdEngine("a secret")))) is GarminUnavailable


def test_a_fact_that_is_free_text_is_not_kept():
    record = to_record(RateLimited("a secret"))

    assert "secret" not in record
    assert from_record(record).user_message == GENERAL


@pytest.mark.parametrize(
    "record",
    [
        "",
        "nonsense",
        "[]",
        "5",
        "{}",
        '{"error": "OfTheNextRelease"}',
        '{"error": ["RateLimited"]}',
        '{"error": "RateLimited", "retry_after": "soon"}',
        '{"error": "RateLimited", "until": 5}',
        '{"error": "ChallengeExpired", "reason": "another"}',
        '{"error": "InvalidMFACode"}',
    ],
)
def test_a_record_that_is_not_known_has_the_general_sentence(record):
    assert str(from_record(record).user_message) == GENERAL
