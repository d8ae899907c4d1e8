"""An engine of a site's own, through the whole app: nothing there knows which engine it is."""

import json

import pytest

from garmin_auth.accounts import account_of
from garmin_auth.exceptions import (
    ChallengeExpired,
    GarminRequestError,
    GarminUnavailable,
    InvalidCredentials,
    InvalidMFACode,
    RateLimited,
    SessionUnreadable,
)
from garmin_auth.health import Outcome, check_session
from garmin_auth.login import (
    Connected,
    import_session,
    pending_login,
    start_login,
    submit_mfa,
)
from garmin_auth.models import EndedReason, GarminAuthenticationState
from garmin_auth.sessions import garmin_client
from tests.conftest import EMAIL, PASSWORD, raw_row, state_of
from tests.engines.third_engine import ThirdEngine

PROFILE = "/userprofile-service/socialProfile"

pytestmark = pytest.mark.django_db(transaction=True)

FINISH = """
import sys
from django.contrib.auth import get_user_model
from garmin_auth.login import submit_mfa
print(submit_mfa(get_user_model().objects.get(pk=sys.argv[1]), sys.argv[2]))
"""
THIRD = (
    "GARMIN_AUTH_ENGINE = 'third'",
    "GARMIN_AUTH_ENGINES = {'third': 'tests.engines.third_engine.ThirdEngine'}",
)


@pytest.fixture(autouse=True)
def third(settings):
    settings.GARMIN_AUTH_ENGINE = "third"
    settings.GARMIN_AUTH_ENGINES = {"third": "tests.engines.third_engine.ThirdEngine"}


@pytest.fixture
def connected(user, account):
    assert start_login(user, EMAIL, PASSWORD) == Connected()
    return user


def use(user):
    with garmin_client(user) as client:
        return client.connectapi(PROFILE)["userName"]


def test_a_login_is_of_the_third_engine(connected):
    assert use(connected) == EMAIL
    assert (state_of(connected).engine, account_of(connected).name) == ("third", EMAIL)


def test_a_wrong_password_is_said(user, account):
    with pytest.raises(InvalidCredentials):
        start_login(user, EMAIL, "wrong")


def test_a_code_is_finished_in_another_process(user, mfa_account, garmin, run_python, site):
    start_login(user, EMAIL, PASSWORD)

    assert "*" in pending_login(user).sent_to
    assert run_python(FINISH, user.pk, garmin.mfa_code(EMAIL), **site(*THIRD)) == "Connected()"
    assert use(user) == EMAIL


def test_a_wrong_code_lets_the_login_go_on(user, mfa_account, garmin):
    start_login(user, EMAIL, PASSWORD)
    with pytest.raises(InvalidMFACode):
        submit_mfa(user, "000000")

    assert "*" in pending_login(user).sent_to  # Though the engine did not say it again.
    assert submit_mfa(user, garmin.mfa_code(EMAIL)) == Connected()


def test_a_session_is_refreshed(connected, garmin):
    garmin.expire_access_tokens(EMAIL)

    assert use(connected) == EMAIL
    assert garmin.counts["di_refresh"] == 1


def test_a_dead_session_is_cleared(connected, garmin):
    garmin.revoke(EMAIL)

    assert check_session(connected).outcome == Outcome.EXPIRED
    assert state_of(connected).ended_reason == EndedReason.EXPIRED


def test_a_request_of_the_callers_own_leaves_the_session_alone(connected, garmin):
    garmin.fail("api", "status", status=404)

    with pytest.raises(GarminRequestError):
        use(connected)
    assert check_session(connected).outcome == Outcome.ACTIVE


def test_a_rate_limit_pauses_the_site(connected, garmin):
    garmin.fail("api", "rate_limited", retry_after=60)
    with pytest.raises(RateLimited):
        use(connected)
    asked = garmin.counts["api"]

    with pytest.raises(RateLimited):
        use(connected)
    assert garmin.counts["api"] == asked


def test_an_import_is_read_by_it(connected, other_user):
    data = state_of(connected).session_data.decrypt()

    import_session(other_user, data)
    assert use(other_user) == EMAIL
    with pytest.raises(SessionUnreadable):
        import_session(other_user, "[]")


class ForgetfulEngine(ThirdEngine):
    """Looks at nothing that Garmin sends."""

    name = "forgetful"

    def _refresh(self, tokens):
        fields = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
        return json.dumps(self._fetch_tokens(fields))


@pytest.mark.parametrize("token", ["", None, 5, "a\nb", "\u0100"])
def test_what_an_engine_forgets_to_look_at_is_not_stored(connected, garmin, settings, token):
    settings.GARMIN_AUTH_ENGINES = {"third": f"{__name__}.ForgetfulEngine"}
    before = bytes(raw_row(connected)["session_data"])
    garmin.expire_access_tokens(EMAIL)
    garmin.fail("di_refresh", "changed_json", changes={"access_token": token})

    with pytest.raises(GarminUnavailable):
        use(connected)

    assert bytes(raw_row(connected)["session_data"]) == before


@pytest.mark.parametrize("token", ["", None, 5, "a\nb", "\u0100"])
def test_an_unusable_token_at_login_is_a_fault_of_garmins(user, account, garmin, token):
    garmin.fail("di_exchange", "changed_json", changes={"access_token": token})

    with pytest.raises(GarminUnavailable):
        start_login(user, EMAIL, PASSWORD)

    assert not GarminAuthenticationState.objects.with_session().exists()


@pytest.mark.parametrize("token", ["", "a\nb"])
def test_an_unusable_token_after_a_code_spends_it(user, mfa_account, garmin, token):
    start_login(user, EMAIL, PASSWORD)
    garmin.fail("di_exchange", "changed_json", changes={"access_token": token})

    with pytest.raises(ChallengeExpired) as caught:
        submit_mfa(user, garmin.mfa_code(EMAIL))

    assert caught.value.reason == "spent"
