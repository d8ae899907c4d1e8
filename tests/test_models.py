"""The row: its status, its constraints, and that reading it decrypts nothing."""

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction

from garmin_auth.models import EndedReason, GarminAuthenticationState, Status
from tests.conftest import raw_row, state_of
from tests.rows import damage, store

pytestmark = [pytest.mark.django_db, pytest.mark.every_database]
states = GarminAuthenticationState.objects


def test_a_challenge_makes_the_status_pending(user):
    states.begin_challenge(user.pk, "{}")

    assert state_of(user).status == Status.MFA_PENDING


def test_a_row_without_session_and_challenge_is_disconnected(user):
    store(user)
    states.disconnect(user.pk, EndedReason.USER)

    state = state_of(user)
    assert state.status == Status.DISCONNECTED
    assert state.session_data is None
    assert state.account_name is None
    assert state.ended_reason == EndedReason.USER


def test_status_can_be_filtered_by(user, other_user):
    store(user)
    states.begin_challenge(other_user.pk, "{}")

    assert [state.user for state in states.filter(status=Status.ACTIVE)] == [user]


def test_status_has_a_label(user):
    store(user)

    assert state_of(user).get_status_display() == "connected"
    assert str(state_of(user)) == "ana"


def test_nothing_is_stored_in_the_clear(user):
    store(user)
    states.begin_challenge(user.pk, '{"cookies": "secret"}')

    row = raw_row(user)
    stored = b"".join(
        bytes(value) for value in row.values() if isinstance(value, bytes | memoryview)
    )
    assert stored.count(b"gAAAA") == 3
    assert not any(word in stored for word in (b"session", b"ana@", b"secret"))


@pytest.mark.parametrize("challenge", [None, "{}"])
def test_the_database_refuses_a_challenge_that_disagrees_with_mfa_pending(user, challenge):
    store(user)

    with pytest.raises(IntegrityError), transaction.atomic():
        states.update(mfa_pending=challenge is None, mfa_challenge=challenge)


def test_a_list_decrypts_nothing(user):
    store(user)
    damage(user)

    assert [str(state) for state in states.select_related("user")] == ["ana"]


def test_a_related_object_decrypts_nothing(user):
    store(user)
    damage(user)

    assert User.objects.get(pk=user.pk).garmin_authentication.status == Status.ACTIVE


def test_a_user_with_an_unreadable_row_can_be_deleted(user):
    store(user)
    damage(user)

    User.objects.get(pk=user.pk).delete()

    assert not states.exists()
