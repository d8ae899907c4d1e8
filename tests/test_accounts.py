import pytest
from django.db import connection

from garmin_auth.accounts import Account, account_of
from garmin_auth.models import EndedReason, GarminAuthenticationState, Status
from tests.conftest import EMAIL, state_of

states = GarminAuthenticationState.objects


def damage(user, *columns):
    """Put bytes that no key opens into columns of the user's row."""
    table = GarminAuthenticationState._meta.db_table
    with connection.cursor() as cursor:
        for column in columns:
            cursor.execute(
                f"UPDATE {table} SET {column} = %s WHERE user_id = %s", [b"damaged", user.pk]
            )


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
        connected_at=state.connected_at,
        ended_reason="",
    )


def test_it_says_when_the_session_last_worked(user, connect):
    state = connect(user)
    states.mark_validated(state.pk, state.connected_at)
    assert account_of(user).last_validated == state_of(user).last_validated is not None


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
    assert account_of(user) == Account(Status.DISCONNECTED, ended_reason=reason)


def test_an_ended_session_says_so(user, connect):
    state = connect(user)
    states.expire_session(state.pk, state.session_version)
    assert account_of(user) == Account(Status.DISCONNECTED, ended_reason=EndedReason.EXPIRED)


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


def test_a_session_without_a_date_is_connected(user, connect):
    connect(user)
    states.filter(user=user).update(connected_at=None)
    assert account_of(user).connected


def test_another_users_session_is_not_shown(user, other_user, connect):
    connect(other_user)
    assert account_of(user) == Account(Status.NONE)


def test_a_readable_row_costs_one_query(user, connect, django_assert_num_queries):
    connect(user)
    with django_assert_num_queries(1):
        account_of(user)


def test_no_secret_is_in_its_repr(user, connect):
    state = connect(user)
    assert state.session_data not in repr(account_of(user))


def test_a_session_of_an_engine_that_is_not_installed_cannot_be_read(user, connect):
    connect(user)
    GarminAuthenticationState.objects.update(engine="another")

    account = account_of(user)

    assert (account.connected, account.readable, account.name) == (True, False, "")
