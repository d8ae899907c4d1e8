"""An engine of a site's own whose users connect with a key, through the whole app."""

import pytest

from garmin_auth.accounts import account_of
from garmin_auth.exceptions import (
    GarminUnavailable,
    InvalidKey,
    KeyRefused,
    RateLimited,
    SessionExpired,
)
from garmin_auth.health import Outcome, check_session
from garmin_auth.login import Connected, connect_with_key, import_session
from garmin_auth.models import EndedReason
from garmin_auth.sessions import garmin_client
from tests.conftest import EMAIL, state_of

SETTINGS = "/userprofile-service/userprofile/settings"

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def third(settings):
    settings.GARMIN_AUTH_ENGINE = "third-key"
    settings.GARMIN_AUTH_ENGINES = {"third-key": "tests.engines.third_key_engine.ThirdKeyEngine"}


@pytest.fixture
def key(garmin, account):
    return garmin.add_key(EMAIL)


@pytest.fixture
def connected(user, key):
    assert connect_with_key(user, f" {key}\n") == Connected()
    return user


def use(user):
    with garmin_client(user) as client:
        return client.connectapi(SETTINGS)["displayName"]


def test_a_key_connects(connected):
    assert use(connected)
    assert (state_of(connected).engine, account_of(connected).connected) == ("third-key", True)


def test_what_it_can_tell_is_no_key_is_not_sent(user, garmin):
    with pytest.raises(InvalidKey):
        connect_with_key(user, "a\nb")

    assert garmin.counts["connect"] == 0


def test_a_refused_key_is_said(user, garmin):
    with pytest.raises(KeyRefused):
        connect_with_key(user, "not-a-key")


def test_a_token_is_refreshed(connected, garmin):
    garmin.expire_access_tokens()

    assert use(connected)
    assert garmin.counts["personal_token"] == 2


def test_a_deleted_key_ends_the_session(connected, key, garmin):
    garmin.delete_key(key)

    with pytest.raises(SessionExpired):
        use(connected)
    assert state_of(connected).ended_reason == EndedReason.EXPIRED


def test_a_block_proves_nothing(connected, garmin):
    garmin.expire_access_tokens()
    garmin.fail("personal_token", "blocked")

    with pytest.raises(GarminUnavailable):
        use(connected)
    assert check_session(connected).outcome == Outcome.ACTIVE


def test_a_rate_limit_is_of_its_key(connected, other_user, garmin):
    garmin.add_account("ben@example.com", "secret")
    connect_with_key(other_user, garmin.add_key("ben@example.com"))
    garmin.fail("api", "key_rate_limited", account=EMAIL)
    with pytest.raises(RateLimited):
        use(connected)

    assert use(other_user)
    with pytest.raises(RateLimited):
        use(connected)


def test_a_key_is_imported(user, key):
    import_session(user, key, check=True)

    assert use(user)
