from datetime import timedelta

import pytest
from django.contrib.auth.models import AnonymousUser
from django.utils import timezone

from garmin_auth.accounts import Account, account_of, badge_of
from garmin_auth.exceptions import InvalidCredentials, LoginInterrupted
from garmin_auth.logins.records import to_record
from garmin_auth.models import EndedReason, GarminAuthenticationState, Status
from tests.conftest import EMAIL, state_of
from tests.rows import damage

pytestmark = pytest.mark.every_database
states = GarminAuthenticationState.objects


def test_of_a_user_without_a_row_there_is_nothing(user):
    assert account_of(user) == Account(Status.NONE)


def test_a_user_without_a_row_was_never_connected(user):
    assert account_of(user).ended_reason == EndedReason.NEVER


def test_a_stored_session_is_connected(user, connect):
    state = connect(user)
    assert account_of(user) == Account(
        Status.ACTIVE,
        connected=True,
        name=EMAIL,
        engine="garth",
        domain="garmin.com",
        connected_at=state.connected_at,
        ended_reason="",
    )


def test_it_says_when_the_session_last_worked(user, connect):
    state = connect(user)
    states.mark_validated(state.pk, state.connected_at)
    assert account_of(user).last_validated == state_of(user).last_validated is not None


@pytest.mark.parametrize(
    ("days", "soon", "overdue"), [(31, False, False), (29, True, False), (-1, True, True)]
)
def test_it_says_when_the_session_ends(user, connect, days, soon, overdue):
    connect(user)
    ends_at = timezone.now() + timedelta(days=days)
    states.update(session_ends_at=ends_at)
    account = account_of(user)
    assert (account.ends_at, account.ends_soon, account.overdue) == (ends_at, soon, overdue)


def test_a_session_whose_end_is_not_known_does_not_end_soon(user, connect):
    connect(user)
    account = account_of(user)
    assert (account.ends_at, account.ends_soon, account.overdue) == (None, False, False)


def test_a_session_stays_connected_while_a_login_is_pending(user, connect):
    connect(user)
    states.begin_challenge(user.pk, "{}")
    account = account_of(user)
    assert (account.status, account.connected) == (Status.MFA_PENDING, True)


def test_a_pending_login_alone_is_not_connected(user):
    states.begin_challenge(user.pk, "{}")
    account = account_of(user)
    assert (account.status, account.connected) == (Status.MFA_PENDING, False)


@pytest.mark.parametrize("reason", [EndedReason.USER, EndedReason.STAFF])
def test_a_disconnected_account_says_by_whom(user, connect, reason):
    connect(user)
    states.disconnect(user.pk, reason)
    assert account_of(user) == Account(
        Status.DISCONNECTED, engine="garth", domain="garmin.com", ended_reason=reason
    )


def test_an_ended_session_says_so(user, connect):
    state = connect(user)
    states.end_session(state.pk, state.session_version, "expired")
    account = account_of(user)
    assert (account.status, account.ended_reason) == (Status.DISCONNECTED, EndedReason.EXPIRED)


def test_an_ended_session_still_says_how_the_user_had_connected(user, connect):
    state = connect(user)
    states.end_session(state.pk, state.session_version, "expired")
    account = account_of(user)
    assert (account.engine, account.domain) == ("garth", "garmin.com")


@pytest.mark.parametrize(
    "columns", [("session_data",), ("account_name",), ("session_data", "account_name")]
)
def test_a_row_that_no_key_opens_is_connected_but_not_readable(user, connect, columns):
    connect(user)
    damage(user, *columns)
    account = account_of(user)
    assert (account.connected, account.readable, account.name) == (True, False, "")


def test_a_row_that_no_key_opens_still_says_since_when(user, connect):
    state = connect(user)
    damage(user, "session_data")
    assert account_of(user).connected_at == state.connected_at


def test_a_pending_login_that_no_key_opens_harms_no_session(user, connect):
    connect(user)
    states.begin_challenge(user.pk, "{}")
    damage(user, "mfa_challenge")
    assert account_of(user).readable


def test_another_users_session_is_not_shown(user, other_user, connect):
    connect(other_user)
    assert account_of(user) == Account(Status.NONE)


def test_a_readable_row_costs_one_query(user, connect, django_assert_num_queries):
    connect(user)
    with django_assert_num_queries(1):
        account_of(user)


def test_no_secret_is_in_its_repr(user, connect):
    state = connect(user)
    assert state.session_data.decrypt() not in repr(account_of(user))


def test_a_session_of_a_known_engine_that_is_not_installed_cannot_be_read(user, connect, settings):
    connect(user)
    settings.GARMIN_AUTH_ENGINES = {"lost": "no_such_package.Engine"}
    GarminAuthenticationState.objects.update(engine="lost")

    assert not account_of(user).readable


def test_a_session_of_an_engine_that_is_not_installed_cannot_be_read(user, connect):
    connect(user)
    GarminAuthenticationState.objects.update(engine="another")

    account = account_of(user)

    assert (account.connected, account.readable, account.name) == (True, False, "")


def test_a_login_under_way_is_told(user):
    states.begin_login(user.pk, "a login", 60)
    found = account_of(user)
    assert (found.login_under_way, found.login_failure) == (True, None)


def test_a_login_that_gives_no_sign_of_life_was_interrupted(user):
    states.begin_login(user.pk, "a login", -1)
    found = account_of(user)
    assert not found.login_under_way
    assert isinstance(found.login_failure, LoginInterrupted)


def test_a_failed_login_is_told(user):
    states.begin_login(user.pk, "a login", 60)
    states.fail_login(user.pk, "a login", to_record(InvalidCredentials()))
    found = account_of(user)
    assert not found.login_under_way
    assert isinstance(found.login_failure, InvalidCredentials)


def test_a_login_under_way_is_told_where_no_key_opens_the_row(user, connect):
    connect(user)
    states.begin_login(user.pk, "a login", 60)
    damage(user, "session_data")
    found = account_of(user)
    assert (found.readable, found.login_under_way) == (False, True)


# In a few words


def not_connected(user, connect):
    pass


def cancelled(user, connect):
    states.begin_challenge(user.pk, "{}")
    states.end_challenge(user.pk)


def disconnected(user, connect):
    connect(user)
    states.disconnect(user.pk, EndedReason.USER)


def connected(user, connect):
    connect(user)


def unreadable(user, connect):
    connect(user)
    damage(user, "session_data", "account_name")


def ends_soon(user, connect):
    connect(user)
    states.update(session_ends_at=timezone.now() + timedelta(days=29))


def ended(user, connect):
    state = connect(user)
    states.end_session(state.pk, state.session_version, "expired")


def waiting(user, connect):
    states.begin_challenge(user.pk, "{}")


def connected_and_waiting(user, connect):
    connect(user)
    states.begin_challenge(user.pk, "{}")


def ended_and_waiting(user, connect):
    ended(user, connect)
    states.begin_challenge(user.pk, "{}")


def connected_and_too_late(user, connect):
    connected_and_waiting(user, connect)
    states.update(mfa_started_at=timezone.now() - timedelta(hours=1))


def connecting(user, connect):
    states.begin_login(user.pk, "a login", 60)


@pytest.mark.parametrize(
    ("there_is", "status", "url", "session_ended"),
    [
        (not_connected, "not_connected", "/garmin/login/", False),
        (cancelled, "not_connected", "/garmin/login/", False),
        (disconnected, "not_connected", "/garmin/login/", False),
        (connected, "connected", "/garmin/", False),
        (unreadable, "connected", "/garmin/", False),
        (ends_soon, "ends_soon", "/garmin/login/", False),
        (ended, "ended", "/garmin/login/", True),
        (waiting, "waiting", "/garmin/mfa/", False),
        (connected_and_waiting, "waiting", "/garmin/mfa/", False),
        (ended_and_waiting, "waiting", "/garmin/mfa/", True),
        (connected_and_too_late, "connected", "/garmin/", False),
        (connecting, "connecting", "/garmin/progress/", False),
    ],
)
def test_a_badge_says_what_there_is(
    user, connect, there_is, status, url, session_ended, django_assert_num_queries
):
    there_is(user, connect)
    with django_assert_num_queries(1):
        badge = badge_of(user)
    assert (badge.status, badge.url, badge.session_ended) == (status, url, session_ended)
    assert badge.label
    assert badge.action


@pytest.mark.parametrize("nobody", [None, AnonymousUser()])
def test_a_visitor_has_no_badge(nobody):
    assert badge_of(nobody) is None  # No database is allowed here.
