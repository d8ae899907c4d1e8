"""A few hundred examples of each kind of nonsense, the same each time.

``make soak`` runs 50,000 new ones.
"""

import pytest

from garmin_auth.engines import get_engine
from garmin_auth.exceptions import GarminUnavailable, SessionExpired
from garmin_auth.testing.garmin import answers as garmins
from tests import fuzz
from tests.conftest import PASSWORD

EXAMPLES = 300


@pytest.fixture
def site(garmin, user, settings):
    settings.GARMIN_AUTH_TIMEOUT = fuzz.TIMEOUT
    settings.GARMIN_AUTH_OAUTH_CONSUMER = garmin.consumer
    return fuzz.Site(garmin, user)


def test_any_answer_is_judged_with_our_own_exceptions():
    fuzz.run(EXAMPLES, fuzz.READ_ANSWERS, fuzz.check_judging, same="answers")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("step", fuzz.STEPS)
def test_no_answer_loses_a_session_or_lets_a_foreign_exception_out(site, step):
    fuzz.run(15, fuzz.WIRE_ANSWERS, lambda raw: site.check_wire(step, raw), same=step)


@pytest.mark.django_db(transaction=True)
def test_any_stored_text_is_a_session_or_unreadable(site):
    fuzz.run(EXAMPLES, fuzz.SESSION_DATA, site.check_session_data, same="sessions")


@pytest.mark.django_db(transaction=True)
def test_any_pending_login_ends_in_our_own_exceptions(site):
    fuzz.run(EXAMPLES // 3, fuzz.CHALLENGES, site.check_challenge, same="logins")


# What the fuzzers have found


def test_a_wrong_code_at_the_password_says_nothing(garmin, account):
    """No code has been asked for; this came out as an exception that is not ours."""
    refusal = garmins.sso_refusal("code_invalid").body.decode()
    garmin.fail("login", "status", status=200, body=refusal)

    with pytest.raises(GarminUnavailable):
        get_engine("garth").login(account, PASSWORD)


# The tests of the tests


@pytest.mark.django_db(transaction=True)
def test_the_fuzzer_sees_a_session_die(site):
    site.store(access_expired=True)
    site.say("exchange", fuzz.http(401, " OK", {}, fuzz.DEAD_WORDS.encode(), 0))

    try:
        error = fuzz.attempt(fuzz.garmin_use, site.user)
    finally:
        fuzz.steps.ANSWERS.update(fuzz.USUAL)

    assert isinstance(error, SessionExpired)
    assert site.stored()[0] is None


@pytest.mark.django_db(transaction=True)
def test_a_lost_session_is_a_finding(site):
    site.store()
    before = site.stored()
    fuzz.GarminAuthenticationState.objects.disconnect(site.user.pk, "user")

    with pytest.raises(AssertionError):
        site.check_session_kept("exchange", before, None, b"HTTP/1.1 200 OK\r\n\r\n")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (fuzz.http(401, " OK", {"content-type": "text/html"}, b"", 0), 401),
        (b"HTTP/1.7\t401\r\n\r\n", 401),
        (b"HTTP/1.1 100\r\n\r\nHTTP/1.1 200 OK\r\n", 200),
        (b"HTTP/2 401 OK\r\n\r\n", None),
        (b"HTTP/1.1 4O1 OK\r\n\r\n", None),
        (b"HTTP/1.1\r\n401\r\n\r\n", None),
        (b"\xff" * 70_000, None),
        (b"", None),
    ],
)
def test_the_fuzzer_reads_a_status_as_the_client_does(raw, status):
    assert fuzz.status_of(raw) == status


@pytest.mark.parametrize("error", [KeyError("x"), ValueError("x"), RecursionError()])
def test_a_foreign_exception_is_a_finding(error):
    def leak():
        raise error

    with pytest.raises(type(error)):
        fuzz.attempt(leak)


def test_a_chained_exception_is_a_finding():
    def leak():
        try:
            raise KeyError("a secret")
        except KeyError:
            raise fuzz.SessionUnreadable("x")  # noqa: B904

    with pytest.raises(AssertionError):
        fuzz.attempt(leak)
