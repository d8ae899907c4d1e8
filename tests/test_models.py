import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, transaction
from django.db.migrations.loader import MigrationLoader
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from garmin_auth.models import EndedReason, GarminAuthenticationState, Status

from .conftest import raw_row, state_of

pytestmark = pytest.mark.django_db
states = GarminAuthenticationState.objects


def store(user, **changes):
    values = {
        "engine": "garth",
        "session_data": "session",
        "account_name": "ana@example.com",
        "validated_at": None,
        **changes,
    }
    return states.connect(user.pk, **values)


def spoil(user, column="session_data"):
    """Overwrite a column with what no key opens."""
    table = GarminAuthenticationState._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {table} SET {column} = %s WHERE user_id = %s", [b"x", user.pk])


def test_a_new_session_is_active(user):
    store(user)

    state = state_of(user)
    assert state.status == Status.ACTIVE
    assert state.session_data == "session"
    assert state.account_name == "ana@example.com"
    assert state.connected_at is not None
    assert state.ended_reason == ""


def test_a_challenge_makes_the_status_pending(user):
    states.begin_challenge(user.pk, "{}")

    assert state_of(user).status == Status.MFA_PENDING


def test_a_pending_login_leaves_the_session_stored(user):
    store(user)
    states.begin_challenge(user.pk, "{}")

    assert list(states.with_session()) == [state_of(user)]
    assert state_of(user).session_data == "session"


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
    assert str(state_of(user)) == "ana (connected)"


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
    spoil(user)

    assert [str(state) for state in states.select_related("user")] == ["ana (connected)"]


def test_a_related_object_decrypts_nothing(user):
    store(user)
    spoil(user)

    assert User.objects.get(pk=user.pk).garmin_authentication.status == Status.ACTIVE


def test_a_user_with_an_unreadable_row_can_be_deleted(user):
    store(user)
    spoil(user)

    User.objects.get(pk=user.pk).delete()

    assert not states.exists()


def test_each_write_of_the_session_raises_its_version(user):
    store(user)
    first = state_of(user)

    assert states.replace_session(first.pk, first.session_version, "new")
    assert state_of(user).session_version == first.session_version + 1
    assert state_of(user).session_data == "new"


def test_a_late_writer_does_not_overwrite(user):
    store(user)
    stale = state_of(user).session_version
    states.replace_session(state_of(user).pk, stale, "newer")

    assert not states.replace_session(state_of(user).pk, stale, "late")
    assert state_of(user).session_data == "newer"


def test_a_late_writer_does_not_resurrect_a_session(user):
    store(user)
    stale = state_of(user).session_version
    states.disconnect(user.pk, EndedReason.USER)

    assert not states.replace_session(state_of(user).pk, stale, "late")
    assert not states.replace_session(state_of(user).pk, stale + 1, "late")
    assert state_of(user).session_data is None


def test_only_the_session_that_was_refused_expires(user):
    store(user)
    stale = state_of(user).session_version
    store(user, session_data="newer")

    assert not states.expire_session(state_of(user).pk, stale)
    assert state_of(user).session_data == "newer"


def test_validation_is_noted_with_one_update_that_touches_no_session(
    user, django_assert_num_queries
):
    store(user)
    state = state_of(user)
    before = raw_row(user)["session_data"]

    with django_assert_num_queries(1) as queries:
        assert states.mark_validated(state.pk, state.connected_at)

    assert "session_data" not in queries[0]["sql"].split("WHERE")[0]
    assert raw_row(user)["session_data"] == before
    assert state_of(user).last_validated is not None


def test_validation_of_an_earlier_session_is_not_noted(user):
    store(user)
    earlier = state_of(user)
    store(user, session_data="newer")

    assert not states.mark_validated(earlier.pk, earlier.connected_at)
    assert state_of(user).last_validated is None


def test_attempts_are_counted_up_to_the_limit(user):
    started_at = states.begin_challenge(user.pk, "{}")
    pk = state_of(user).pk

    assert [states.count_attempt(pk, started_at, 2) for _ in range(3)] == [True, True, False]


def test_an_attempt_is_not_counted_for_a_later_login(user):
    earlier = states.begin_challenge(user.pk, "{}")
    states.begin_challenge(user.pk, "{}")

    assert not states.count_attempt(state_of(user).pk, earlier, 5)
    assert state_of(user).mfa_attempts == 0


def test_a_new_challenge_starts_counting_anew(user):
    started_at = states.begin_challenge(user.pk, "{}")
    states.count_attempt(state_of(user).pk, started_at, 5)

    states.begin_challenge(user.pk, "{}")

    assert state_of(user).mfa_attempts == 0


def test_a_cancelled_login_stores_no_session(user):
    started_at = states.begin_challenge(user.pk, "{}")
    states.end_challenge(user.pk)

    assert not store(user, challenge_from=started_at)
    assert state_of(user).status == Status.DISCONNECTED


def test_a_session_ends_the_login_that_brought_it(user):
    started_at = states.begin_challenge(user.pk, "{}")

    assert store(user, challenge_from=started_at)
    assert state_of(user).status == Status.ACTIVE
    assert state_of(user).mfa_started_at is None


def test_a_new_session_is_not_yet_checked(user):
    store(user)
    states.update(last_checked_at=timezone.now())

    store(user)

    assert state_of(user).last_checked_at is None


def test_disconnecting_twice_says_so(user):
    store(user)

    assert states.disconnect(user.pk, EndedReason.USER)
    assert not states.disconnect(user.pk, EndedReason.STAFF)
    assert state_of(user).ended_reason == EndedReason.USER


def test_the_former_version_can_insert_rows_while_this_one_is_deployed(user):
    loader = MigrationLoader(connection)
    former = loader.project_state(("garmin_auth", "0001_initial")).apps
    former.get_model("garmin_auth", "GarminAuthenticationState").objects.create(user_id=user.pk)

    assert (state_of(user).login_id, state_of(user).check_run) == ("", "")


@pytest.mark.skipif(connection.vendor != "sqlite", reason="SQLite's planner")
def test_who_was_refused_is_looked_up_in_an_index(user):
    with CaptureQueriesContext(connection) as queries:
        states.refused_users()
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {queries[0]['sql']}")
        plan = " ".join(row[3] for row in cursor.fetchall())

    assert "refused_at" in plan
    assert "SCAN" not in plan
