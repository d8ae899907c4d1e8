"""Every transition is one compare-and-set UPDATE."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from garmin_auth.models import EndedReason, GarminAuthenticationState, Status
from garmin_auth.storage.lifetimes import Lifetime
from garmin_auth.storage.querysets import UNREPORTED
from tests.conftest import raw_row, state_of
from tests.rows import store

pytestmark = [pytest.mark.django_db, pytest.mark.every_database]
states = GarminAuthenticationState.objects


def test_a_new_session_is_active(user):
    store(user)

    state = state_of(user)
    assert state.status == Status.ACTIVE
    assert state.session_data.decrypt() == "session"
    assert state.account_name.decrypt() == "ana@example.com"
    assert state.connected_at is not None
    assert state.ended_reason == ""


def test_a_pending_login_leaves_the_session_stored(user):
    store(user)
    states.begin_challenge(user.pk, "{}")

    assert list(states.with_session()) == [state_of(user)]
    assert state_of(user).session_data.decrypt() == "session"


def test_each_write_of_the_session_raises_its_version(user):
    store(user)
    first = state_of(user)

    assert states.replace_session(first.pk, first.session_version, "new")
    assert state_of(user).session_version == first.session_version + 1
    assert state_of(user).session_data.decrypt() == "new"


def test_a_late_writer_does_not_overwrite(user):
    store(user)
    stale = state_of(user).session_version
    states.replace_session(state_of(user).pk, stale, "newer")

    assert not states.replace_session(state_of(user).pk, stale, "late")
    assert state_of(user).session_data.decrypt() == "newer"


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

    assert not states.end_session(state_of(user).pk, stale, "expired")
    assert state_of(user).session_data.decrypt() == "newer"


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


@pytest.mark.skipif(connection.vendor != "sqlite", reason="SQLite's planner")
def test_who_was_refused_is_looked_up_in_an_index(user):
    with CaptureQueriesContext(connection) as queries:
        states.refused_users()
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {queries[0]['sql']}")
        plan = " ".join(row[3] for row in cursor.fetchall())

    assert "refused_at" in plan
    assert "SCAN" not in plan


def test_a_lease_is_taken_by_one_only(user, connect):
    state = connect(user)

    assert states.take_lease(state.pk, state.session_version, "one", 20)
    assert not states.take_lease(state.pk, state.session_version, "another", 20)
    assert states.get_lease(state.pk).owner == "one"


def test_a_lease_that_is_over_can_be_taken(user, connect):
    state = connect(user)
    states.take_lease(state.pk, state.session_version, "one", 0.01)
    time.sleep(0.1)

    assert states.take_lease(state.pk, state.session_version, "another", 20)


def test_a_lease_is_of_one_version_only(user, connect):
    state = connect(user)

    assert not states.take_lease(state.pk, state.session_version + 1, "one", 20)


def test_only_the_owner_gives_a_lease_back(user, connect):
    state = connect(user)
    states.take_lease(state.pk, state.session_version, "one", 20)

    assert not states.release_lease(state.pk, "another")
    assert states.release_lease(state.pk, "one")
    assert states.get_lease(state.pk).owner == ""


# A database whose times are in a zone of its own


@pytest.fixture(params=["Europe/Berlin", "America/New_York"])
def zone(request, db, monkeypatch):
    """Django stores times in a zone that is hours ahead of UTC, or behind it."""
    if not connection.features.supports_timezones:
        monkeypatch.setitem(connection.settings_dict, "TIME_ZONE", request.param)
        forget_zone()
    yield request.param
    monkeypatch.undo()
    forget_zone()


def forget_zone():
    for name in ("timezone", "timezone_name"):
        connections[connection.alias].__dict__.pop(name, None)


def is_in(seconds, moment):
    return abs(moment - timezone.now() - timedelta(seconds=seconds)) < timedelta(seconds=30)


def test_a_lease_in_another_zone_lasts_as_long(user, connect, zone):
    state = connect(user)

    assert states.take_lease(state.pk, state.session_version, "one", 60)
    assert is_in(60, state_of(user).lease_expires_at)
    assert not states.take_lease(state.pk, state.session_version, "another", 60)


@pytest.mark.parametrize(("seconds", "is_free"), [(-60, True), (60, False)])
def test_a_lease_that_django_wrote_in_another_zone_is_compared(
    user, connect, zone, seconds, is_free
):
    state = connect(user)
    expires_at = timezone.now() + timedelta(seconds=seconds)
    states.update(lease_owner="one", lease_expires_at=expires_at)

    assert states.take_lease(state.pk, state.session_version, "another", 60) == is_free


def test_a_claim_in_another_zone_lasts_as_long(user, connect, zone):
    connect(user)

    assert states.all().claim_checks("one", 1, 60)
    assert is_in(60, state_of(user).check_expires_at)
    assert not states.all().claim_checks("another", 1, 60)
    assert (states.claimed_checks(), states.oldest_run()) == (1, "one")


def test_a_login_under_way_in_another_zone_is_kept(user, zone):
    states.begin_login(user.pk, "one", 60)
    states.keep_login(user.pk, "one", 60)

    states.purge_logins(timezone.now() - timedelta(hours=1))

    assert states.login_record(user.pk).under_way
    assert is_in(60, states.login_record(user.pk).ended_at)
    assert not states.begin_login(user.pk, "another", 60)


def test_a_failed_login_in_another_zone_is_kept_for_an_hour(user, zone):
    states.begin_login(user.pk, "one", 60)
    states.fail_login(user.pk, "one", "GarminUnavailable")

    states.purge_logins(timezone.now() - timedelta(hours=1))
    assert is_in(0, states.login_record(user.pk).ended_at)

    states.purge_logins(timezone.now() + timedelta(seconds=30))
    assert states.login_record(user.pk) is None


def test_a_login_that_waits_gets_its_turn_when_the_one_before_it_is_over(user):
    states.begin_login(user.pk, "first", 60)
    states.queue_login(user.pk, "second")
    assert states.take_turn(user.pk, "second", 60) is False
    assert states.take_turn(user.pk, "another", 60) is None

    states.update(login_expires_at=timezone.now() - timedelta(seconds=1))  # Its process has died.
    assert states.take_turn(user.pk, "second", 60) is True

    row = state_of(user)
    assert (row.login_id, row.next_login_id) == ("second", "")
    assert states.login_record(user.pk).under_way


def test_the_end_of_a_login_makes_way_for_the_one_that_waits(user):
    states.begin_login(user.pk, "first", 60)
    states.queue_login(user.pk, "second")
    store(user, login_id="first")
    row = state_of(user)
    assert (row.login_id, row.next_login_id) == ("second", "")
    assert row.login_expires_at is not None

    store(user, login_id="second")
    row = state_of(user)
    assert (row.login_id, row.login_expires_at) == ("", None)


def test_what_fails_and_works_counts_for_its_engine_and_domain(user, other_user):
    store(user)
    store(other_user, engine="garminconnect", domain="garmin.cn")
    since = timezone.now() - timedelta(days=4)
    states.update(failing_since=since)

    assert states.count_failed("garth", "garmin.com") == 1
    assert states.count_failed("garth", "garmin.cn") == 0
    assert states.outages() == {
        ("garth", "garmin.com"): since,
        ("garminconnect", "garmin.cn"): since,
    }
    working = {"failing_since": None, "last_validated": timezone.now()}
    states.filter(user=other_user).update(**working)
    assert states.outages() == {("garth", "garmin.com"): since}
    states.filter(user=other_user).update(engine="garth", domain="garmin.com")
    assert states.outages() == {}


# Another user's row that looks the same

THEN = datetime(2026, 1, 1, tzinfo=UTC)
# A row whose session Garmin has ended.
ENDED = {
    **{"session_data": None, "connected_at": None, "ended_reason": "expired"},
    **{"mfa_pending": False, "mfa_challenge": None},
}


def restore(row, version):
    """Restore what was read in this version."""
    how = {"session_data": "x", "account_name": None, "connected_at": THEN, "life": Lifetime()}
    return states.restore_session(row.pk, version, **how)


TRANSITIONS = {
    "connect": (lambda row: store(row.user), {}),
    "connect from a challenge": (lambda row: store(row.user, challenge_from=THEN), {}),
    "connect from a login": (lambda row: store(row.user, login_id="a login"), {}),
    "replace_session": (lambda row: states.replace_session(row.pk, row.session_version, "x"), {}),
    "take_lease": (lambda row: states.take_lease(row.pk, row.session_version, "me", 20), {}),
    "release_lease": (lambda row: states.release_lease(row.pk, "owner"), {}),
    "refuse_exchange": (lambda row: states.refuse_exchange(row.pk, "garth", "garmin.com"), {}),
    "end_session": (lambda row: states.end_session(row.pk, row.session_version, "expired"), {}),
    "disconnect": (lambda row: states.disconnect(row.user_id, "user"), {}),
    "disconnect of a login that waits for its code": (
        lambda row: states.disconnect(row.user_id, "user"),
        {"session_data": None, "connected_at": None, "login_id": "", "login_expires_at": None},
    ),
    "restore_session": (lambda row: restore(row, row.session_version - 1), ENDED),
    "disconnect after a failure": (
        lambda row: not states.disconnect(row.user_id, "user"),
        {
            **{"session_data": None, "connected_at": None, "login_failure": "{}"},
            **{"mfa_pending": False, "mfa_challenge": None},
        },
    ),
    "mark_validated": (lambda row: states.mark_validated(row.pk, THEN), {}),
    "mark_failed": (lambda row: states.mark_failed(row.pk, THEN, "account"), {}),
    "mark_checked": (lambda row: states.mark_checked([row.user_id]), {}),
    "mark_unreported": (
        lambda row: states.mark_unreported([row.user_id]),
        {"session_data": None, "connected_at": None, "ended_reason": "expired"},
    ),
    "report_failing": (lambda row: states.report_failing(row.pk, THEN), {}),
    "end_failing": (lambda row: states.end_failing(row.user_id), {"failing_told_at": THEN}),
    "begin_login": (lambda row: states.begin_login(row.user_id, "x", 60), {"login_failure": "{}"}),
    "queue_login": (lambda row: states.queue_login(row.user_id, "next"), {}),
    "take_turn": (lambda row: states.take_turn(row.user_id, "a login", 60), {}),
    "keep_login": (lambda row: states.keep_login(row.user_id, "a login", 60), {}),
    "fail_login": (lambda row: states.fail_login(row.user_id, "a login", "{}"), {}),
    "end_login": (lambda row: states.end_login(row.user_id), {}),
    "begin_challenge": (lambda row: states.begin_challenge(row.user_id, "{}"), {}),
    "begin_challenge of a login": (
        lambda row: states.begin_challenge(row.user_id, "{}", "a login"),
        {},
    ),
    "count_attempt": (lambda row: states.count_attempt(row.pk, THEN, 5), {}),
    "give_attempt_back": (lambda row: states.give_attempt_back(row.pk, THEN), {}),
    "update_challenge": (lambda row: states.update_challenge(row.pk, THEN, "[]"), {}),
    "end_challenge": (lambda row: states.end_challenge(row.user_id), {}),
    "end_challenge of a time": (lambda row: states.end_challenge(row.user_id, THEN), {}),
}

# What changes neither the connection nor a login for its user: updated_at stays.
BOOKKEEPING = {
    *("take_lease", "release_lease", "refuse_exchange", "report_failing", "end_failing"),
    *("mark_validated", "mark_failed", "mark_checked", "mark_unreported"),
    *("queue_login", "take_turn", "keep_login", "fail_login"),
}


@pytest.mark.parametrize("name", TRANSITIONS)
def test_a_transition_is_of_one_users_row(user, other_user, name):
    transition, columns = TRANSITIONS[name]
    for one in (user, other_user):
        store(one)
    looks = {
        **{"connected_at": THEN, "lease_owner": "owner", "failing_since": THEN},
        **{"mfa_pending": True, "mfa_challenge": "{}", "mfa_started_at": THEN, "mfa_attempts": 1},
        **{"login_id": "a login", "login_expires_at": timezone.now() + timedelta(hours=1)},
        "updated_at": THEN,
    }
    states.update(**{**looks, **columns})
    before, others = raw_row(user), raw_row(other_user)

    assert transition(state_of(user))

    assert raw_row(user) != before
    assert raw_row(other_user) == others
    assert (state_of(user).updated_at > THEN) == (name not in BOOKKEEPING)


# A row that has changed since it was read

# Each with a column that is not what the transition is for.
TOO_LATE = {
    "connect from a login that failed": (
        lambda row: store(row.user, login_id="a login"),
        {"login_failure": "{}"},
    ),
    "mark_failed of another session": (
        lambda row: states.mark_failed(row.pk, THEN, "account"),
        {"connected_at": THEN + timedelta(days=1)},
    ),
    "mark_unreported of a disconnected user": (
        lambda row: states.mark_unreported([row.user_id]),
        {**ENDED, "ended_reason": "user"},
    ),
    "mark_unreported of who has connected again": (
        lambda row: states.mark_unreported([row.user_id]),
        {"ended_reason": "expired"},
    ),
    "mark_reported of what is reported": (
        lambda row: states.mark_reported([row.user_id]),
        {**ENDED, "check_run": "a run"},
    ),
    "keep_checks of another run": (
        lambda row: states.keep_checks("a run", [row.pk], 60),
        {"check_run": "another", "check_expires_at": THEN},
    ),
    "release_checks of others": (
        lambda row: states.release_checks("a run", [0]),
        {"check_run": "a run", "check_expires_at": THEN},
    ),
    "restore_session of a later one": (
        lambda row: restore(row, row.session_version),
        ENDED,
    ),
    "restore_session of who has disconnected": (
        lambda row: restore(row, row.session_version - 1),
        {**ENDED, "ended_reason": "user"},
    ),
    "restore_session of who has connected again": (
        lambda row: restore(row, row.session_version - 1),
        {"ended_reason": "expired"},
    ),
    "disconnect of nothing": (
        lambda row: states.disconnect(row.user_id, "user"),
        {**ENDED, "login_id": ""},
    ),
    "report_failing twice": (
        lambda row: states.report_failing(row.pk, THEN),
        {"failing_told_at": THEN},
    ),
    "report_failing of another failure": (
        lambda row: states.report_failing(row.pk, THEN),
        {"failing_since": THEN + timedelta(days=1)},
    ),
    "end_failing of what nobody was told": (lambda row: states.end_failing(row.user_id), {}),
    "queue_login behind one that has failed": (
        lambda row: states.queue_login(row.user_id, "next"),
        {"login_failure": "{}"},
    ),
    "queue_login behind one that has died": (
        lambda row: states.queue_login(row.user_id, "next"),
        {"login_expires_at": THEN},
    ),
    "take_turn after a failure": (
        lambda row: states.take_turn(row.user_id, "a login", 60),
        {"login_failure": "{}"},
    ),
    "keep_login of one that has failed": (
        lambda row: states.keep_login(row.user_id, "a login", 60),
        {"login_failure": "{}"},
    ),
    "fail_login of one that has failed": (
        lambda row: states.fail_login(row.user_id, "a login", "{}"),
        {"login_failure": "[]"},
    ),
    "end_login without one": (lambda row: states.end_login(row.user_id), {"login_id": ""}),
    "begin_challenge of a cancelled login": (
        lambda row: states.begin_challenge(row.user_id, "[]", "a login"),
        {"login_id": "another"},
    ),
    "give_attempt_back of another login": (
        lambda row: states.give_attempt_back(row.pk, THEN),
        {"mfa_started_at": THEN + timedelta(days=1)},
    ),
    "give_attempt_back of none": (
        lambda row: states.give_attempt_back(row.pk, THEN),
        {"mfa_attempts": 0},
    ),
    "update_challenge of another login": (
        lambda row: states.update_challenge(row.pk, THEN, "[]"),
        {"mfa_started_at": THEN + timedelta(days=1)},
    ),
}


@pytest.mark.parametrize("name", TOO_LATE)
def test_a_transition_that_comes_too_late_changes_nothing(user, name):
    transition, columns = TOO_LATE[name]
    store(user)
    looks = {
        **{"connected_at": THEN, "failing_since": THEN, "updated_at": THEN},
        **{"mfa_pending": True, "mfa_challenge": "{}", "mfa_started_at": THEN, "mfa_attempts": 1},
        **{"login_id": "a login", "login_expires_at": timezone.now() + timedelta(hours=1)},
    }
    states.update(**{**looks, **columns})
    before = raw_row(user)

    assert not transition(state_of(user))
    assert raw_row(user) == before


def test_a_new_session_begins_without_what_was_known_of_the_last(user):
    store(user)
    before = state_of(user)
    states.take_lease(before.pk, before.session_version, "owner", 60)
    states.refuse_exchange(before.pk, "garth", "garmin.com")
    states.mark_failed(before.pk, before.connected_at, "account")

    store(user, ends_at=timezone.now() + timedelta(days=90))

    row = state_of(user)
    assert row.session_version == before.session_version + 1
    assert (row.lease_owner, row.lease_expires_at, row.refused_at) == ("", None, None)
    assert (row.failing_since, row.failing_reason) == (None, "")
    assert row.session_ends_at is not None
    assert row.session_renew_at is None


@pytest.mark.parametrize(("run", "left"), [(UNREPORTED, ""), ("a run", "a run")])
def test_who_connects_again_need_not_be_reported_and_stays_claimed(user, run, left):
    store(user)
    states.update(check_run=run)

    store(user)

    assert state_of(user).check_run == left


def test_a_session_that_began_after_its_check_is_told_nothing_by_it(user):
    store(user)
    row = state_of(user)
    states.mark_failed(row.pk, row.connected_at, "account")
    states.update(last_validated=THEN, check_run="a run", check_expires_at=THEN)

    for result in ({"worked": True}, {"failed": "unavailable"}):
        states.mark_checked([user.pk], began=row.connected_at - timedelta(seconds=1), **result)

    row = state_of(user)
    assert (row.last_validated, row.failing_reason) == (THEN, "account")
    assert row.failing_since is not None
    assert (row.check_run, row.check_expires_at) == ("", None)
    assert row.last_checked_at is not None


def test_claims_are_renewed_for_these_rows_of_the_run_alone(user, other_user):
    for one in (user, other_user):
        store(one)
    states.update(check_run="a run", check_expires_at=THEN)

    assert states.keep_checks("a run", [state_of(user).pk], 60) == 1

    assert is_in(60, state_of(user).check_expires_at)
    assert state_of(other_user).check_expires_at == THEN


def test_what_is_claimed_comes_with_its_user(user, django_assert_num_queries):
    store(user)

    (claimed,) = states.all().claim_checks("a run", 1, 60)

    with django_assert_num_queries(0):
        assert claimed.user.get_username() == user.get_username()


def test_the_end_of_a_session_is_reported_once(user, other_user):
    for one in (user, other_user):
        store(one)
        states.end_session(state_of(one).pk, state_of(one).session_version, "expired")
        assert states.mark_unreported([one.pk]) == 1

    assert states.mark_reported([user.pk]) == 1

    assert state_of(user).check_run == ""
    assert list(states.unreported()) == [state_of(other_user)]


def test_who_was_refused_first_stays_so(user):
    store(user)
    pk = state_of(user).pk
    states.refuse_exchange(pk, "garth", "garmin.com")
    first = state_of(user).refused_at

    assert states.refuse_exchange(pk, "garth", "garmin.com") == 1
    assert state_of(user).refused_at == first is not None


@pytest.mark.parametrize("service", [("garminconnect", "garmin.com"), ("garth", "garmin.cn")])
def test_a_refusal_of_what_the_user_no_longer_has_is_not_recorded(user, service):
    store(user)

    assert states.refuse_exchange(state_of(user).pk, *service) == 0
    assert state_of(user).refused_at is None


SERVICES = [
    ("garth", "garmin.com"),
    ("garth", "garmin.cn"),
    ("garminconnect", "garmin.com"),
    ("garminconnect", "garmin.cn"),
]


@pytest.mark.parametrize("works", SERVICES)
@pytest.mark.parametrize("fails", SERVICES)
def test_that_one_service_works_proves_nothing_of_another(
    user, other_user, django_user_model, fails, works
):
    unused = django_user_model.objects.create_user("cleo")
    for one, (engine, domain) in ((user, fails), (other_user, works), (unused, works)):
        store(one, engine=engine, domain=domain)
    since = timezone.now() - timedelta(days=4)
    states.filter(user=user).update(failing_since=since)
    states.filter(user=other_user).update(last_validated=timezone.now())

    assert states.outages() == ({} if fails == works else {fails: since})
    assert [row.user for row in states.failing()] == ([user] if fails == works else [])


def test_an_exchange_that_is_accepted_forgets_the_refusals_of_its_service(django_user_model):
    users = [django_user_model.objects.create_user(f"user{n}") for n in range(4)]
    for user, (engine, domain) in zip(users, SERVICES, strict=True):
        store(user, engine=engine, domain=domain)
        states.refuse_exchange(state_of(user).pk, engine, domain)
    store(django_user_model.objects.create_user("never refused"))

    assert states.accept_exchange("garth", "garmin.com") == 1
    assert states.refused_users() == dict.fromkeys(SERVICES[1:], 1)


def test_logins_that_are_over_are_purged(user, other_user):
    for one in (user, other_user):
        states.begin_challenge(one.pk, "{}")
    states.update(updated_at=THEN)
    states.filter(user=user).update(mfa_started_at=THEN)

    assert states.purge_challenges(THEN + timedelta(seconds=1)) == 1

    row, other = state_of(user), state_of(other_user)
    assert (row.mfa_pending, row.mfa_challenge, row.mfa_started_at) == (False, None, None)
    assert row.updated_at > THEN
    assert (other.mfa_pending, other.updated_at) == (True, THEN)


def test_who_has_disconnected_need_not_be_reported(user):
    store(user)
    states.update(**ENDED, check_run=UNREPORTED)
    assert list(states.unreported()) == [state_of(user)]

    states.update(ended_reason="user")

    assert not states.unreported()


def test_claims_are_released_by_name_or_all(user, other_user):
    for one in (user, other_user):
        store(one)
    states.update(check_run="a run", check_expires_at=THEN)

    assert states.release_checks("a run", [state_of(user).pk]) == 1
    assert (state_of(user).check_run, state_of(other_user).check_run) == ("", "a run")
    assert states.release_checks("another") == 0
    assert states.release_checks("a run") == 1
    assert state_of(other_user).check_expires_at is None


def test_what_use_prolongs_is_warned_of_once(user, django_assert_num_queries):
    now = timezone.now()
    store(user)
    times = {"session_ends_at": now + timedelta(days=3), "session_ends_soon_at": now}
    states.update(**times, session_renew_at=None, ending_warnings=1)
    (due,) = states.unwarned()
    with django_assert_num_queries(0):
        assert due.user == user

    states.update(session_renew_at=now, last_checked_at=now + timedelta(seconds=1))
    assert not states.unwarned()


def test_a_warning_is_counted_once(user, other_user):
    for one in (user, other_user):
        store(one)
    ends = timezone.now() + timedelta(days=20)
    states.update(session_ends_at=ends)
    row = state_of(user)

    assert states.count_warning(row)
    assert not states.count_warning(row)
    assert (state_of(user).ending_warnings, state_of(other_user).ending_warnings) == (1, 0)
    row = state_of(user)
    states.update(session_ends_at=ends + timedelta(days=1))
    assert not states.count_warning(row)


def test_a_login_begins_without_the_one_that_waited_for_a_dead_one(user):
    states.begin_login(user.pk, "first", 60)
    states.queue_login(user.pk, "second")
    states.update(login_expires_at=THEN)

    assert states.begin_login(user.pk, "third", 60)

    assert state_of(user).next_login_id == ""


def test_the_purge_of_a_login_is_a_change_of_the_row(user):
    states.begin_login(user.pk, "one", 60)
    states.update(login_expires_at=THEN, updated_at=THEN)

    assert states.purge_logins(timezone.now()) == 1

    assert state_of(user).updated_at > THEN
