"""When a session ends, who is warned of it, and which sessions a check prolongs."""

from datetime import timedelta

import pytest
from django.core.checks import run_checks
from django.db import OperationalError, connection
from django.db.models import F
from django.utils import timezone

from garmin_auth import signals
from garmin_auth.accounts import account_of, badge_of
from garmin_auth.checking.claims import due_sessions
from garmin_auth.checking.endings import tell_of_endings
from garmin_auth.health import check_session, check_sessions
from garmin_auth.login import import_session, start_login
from garmin_auth.models import GarminAuthenticationState
from garmin_auth.sessions import garmin_client
from garmin_auth.storage.lifetimes import ends_soon
from tests.conftest import EMAIL, PASSWORD, needs_garminconnect, state_of

states = GarminAuthenticationState.objects
pytestmark = [pytest.mark.every_database, pytest.mark.django_db(transaction=True)]
PROFILE = "/userprofile-service/socialProfile"
DAY = timedelta(days=1)
LIFE = timedelta(seconds=2_591_999)  # of a refresh token, as recorded


@pytest.fixture
def warned():
    """The signals of sessions that end soon: user and days that are left."""
    heard = []

    def on_ending(user, engine, ends_at, **kwargs):
        heard.append((user.username, engine, round((ends_at - timezone.now()) / DAY)))

    signals.session_ending.connect(on_ending)
    yield heard
    signals.session_ending.disconnect(on_ending)


@pytest.fixture
def prolonged(user, connect):
    """A garminconnect session, whose end is known from its last refresh."""
    connect(user, engine="garminconnect", access_expired=True)
    check_session(user)
    return user


def days_pass(days):
    """Move all times of the rows back."""
    for field in states.model._meta.fields:
        if field.get_internal_type() == "DateTimeField":
            rows = states.exclude(**{field.name: None})
            rows.update(**{field.name: F(field.name) - timedelta(days=days)})


@needs_garminconnect
def test_a_refresh_moves_the_end_of_what_use_prolongs(prolonged, garmin):
    row = state_of(prolonged)
    assert abs(row.session_ends_at - timezone.now() - LIFE) < timedelta(minutes=1)

    days_pass(20)
    garmin.expire_access_tokens(EMAIL)
    with garmin_client(prolonged) as client:
        client.connectapi(PROFILE)

    row = state_of(prolonged)
    assert abs(row.session_ends_at - timezone.now() - LIFE) < timedelta(minutes=1)
    assert row.session_renew_at < row.session_ends_soon_at < row.session_ends_at


@needs_garminconnect
def test_a_login_and_an_import_know_the_end_as_far_as_garmin_names_it(
    user, other_user, garmin, settings, slow_logins
):
    garmin.add_account(EMAIL, PASSWORD)
    settings.GARMIN_AUTH_ENGINE = "garminconnect"
    start_login(user, EMAIL, PASSWORD)
    assert abs(state_of(user).session_ends_at - timezone.now() - LIFE) < timedelta(minutes=1)
    assert state_of(user).session_renew_at is not None

    data = garmin.issue_session(EMAIL, engine="garminconnect")
    import_session(other_user, data, engine="garminconnect")
    assert state_of(other_user).session_ends_at is None


@needs_garminconnect
@pytest.mark.parametrize("life", [None, "soon", -1, True, 1e300, float("nan"), [1]])
def test_a_life_that_is_none_is_not_believed(life):
    from garmin_auth.engines.garminconnect.session import ENDS, with_end

    before = {"di_token": "a", ENDS: 1}
    tokens = with_end(before, {"refresh_token_expires_in": life})
    assert tokens == {"di_token": "a"} or life is True


@needs_garminconnect
def test_a_check_prolongs_what_a_third_of_its_life_has_not_whatever_its_age(prolonged, garmin):
    fresh = timedelta(days=365)
    assert not due_sessions(max_age=fresh).exists()
    days_pass(11)
    # Its access token is good for a long time yet.
    counts = garmin.counts["di_refresh"]

    assert check_sessions(max_age=fresh).refreshed == 1

    assert garmin.counts["di_refresh"] == counts + 1
    assert not due_sessions(max_age=fresh).exists()


def test_a_year_is_not_prolonged(user, connect, garmin):
    garmin.add_account(EMAIL, PASSWORD)
    start_login(user, EMAIL, PASSWORD)
    before = state_of(user).session_ends_at
    assert abs(before - timezone.now() - 365 * DAY) < timedelta(minutes=1)
    garmin.expire_access_tokens(EMAIL)
    assert check_sessions().refreshed == 1
    assert (state_of(user).session_ends_at, state_of(user).session_renew_at) == (before, None)


def test_a_year_is_warned_of_twice(user, connect, warned):
    connect(user)
    states.update(session_ends_at=timezone.now() + 31 * DAY)
    for days in (0, 2, 1, 20, 3, 1, 1):
        days_pass(days)
        check_sessions()
        tell_of_endings()
    assert warned == [("ana", "garth", 29), ("ana", "garth", 5)]


def test_who_learns_of_it_in_the_last_week_is_warned_once(user, connect, warned):
    connect(user)
    states.update(session_ends_at=timezone.now() + 3 * DAY)
    for _ in range(3):
        check_sessions()
    assert warned == [("ana", "garth", 3)]


def test_a_database_that_fails_the_warnings_costs_no_report(user, connect, caplog):
    def fail(execute, sql, params, many, context):
        if sql.startswith("SELECT") and "ending_warnings" in sql.partition("WHERE")[2]:
            raise OperationalError("away")
        return execute(sql, params, many, context)

    connect(user)
    with connection.execute_wrapper(fail):
        assert check_sessions().active == 1
    assert "OperationalError" in caplog.text


def test_no_end_is_told_that_has_passed(user, connect, warned):
    connect(user)
    states.update(session_ends_at=timezone.now() - DAY)
    check_sessions()
    assert warned == []


@needs_garminconnect
def test_what_use_prolongs_is_warned_of_once_and_only_after_a_check_in_vain(
    prolonged, garmin, warned
):
    days_pass(24)
    assert badge_of(prolonged).status == "ends_soon"
    assert account_of(prolonged).ends_soon
    tell_of_endings()
    assert warned == []

    garmin.fail("di_refresh", "status", times=None, status=503)
    for days in (0, 1, 3):
        days_pass(days)
        check_sessions()
    assert warned == [("ana", "garminconnect", 6)]

    garmin.heal()
    check_sessions()
    assert badge_of(prolonged).status == "connected"
    days_pass(24)
    garmin.fail("di_refresh", "status", times=None, status=503)
    check_sessions()
    assert len(warned) == 2


@needs_garminconnect
def test_what_is_in_use_does_not_end_soon(prolonged, garmin, warned):
    check_sessions()
    assert badge_of(prolonged).status == "connected"
    days_pass(20)
    assert badge_of(prolonged).status == "connected"
    assert warned == []


@needs_garminconnect
def test_a_site_that_neither_uses_nor_checks_its_sessions_is_warned(prolonged):
    def warnings():
        found = run_checks(databases=["default"])
        return [message.msg for message in found if message.id == "garmin_auth.W019"]

    assert warnings() == []
    days_pass(9)
    assert warnings() == []
    days_pass(2)
    [sentence] = warnings()
    assert sentence.startswith("For 9 days no Garmin session has been used or checked.")
    check_session(prolonged)
    assert warnings() == []


def test_what_ends_at_no_known_time_does_not_end_soon():
    assert not ends_soon(None, None)
    assert ends_soon(timezone.now() + 29 * DAY, None)
