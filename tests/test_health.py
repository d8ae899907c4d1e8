import logging

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone

from garmin_auth.engines.base import OpenSession, PasswordEngine
from garmin_auth.exceptions import (
    GarminRequestError,
    GarminUnavailable,
    NotConnected,
    RateLimited,
    SessionExpired,
    SessionUnreadable,
    TokenRefused,
)
from garmin_auth.health import (
    Outcome,
    Stopped,
    check_session,
    check_sessions,
    due_sessions,
    purge_challenges,
)
from garmin_auth.login import disconnect
from garmin_auth.models import GarminAuthenticationState, Status
from tests.conftest import EMAIL, raw_row, state_of
from tests.rows import damage

pytestmark = [pytest.mark.django_db, pytest.mark.every_database]
states = GarminAuthenticationState.objects


class FlawedSession(OpenSession):
    """A session with a bug in one method."""

    client = None
    flaw = ""
    worked = True

    def close(self):
        if self.flaw == "close":
            raise ZeroDivisionError("a bug")


class FlawedEngine(PasswordEngine):
    """An engine of somebody else's. ``flaw`` names what is wrong with it."""

    name = "flawed"
    flaw = ""

    def login(self, email, password): ...
    def submit_code(self, state, code): ...
    def refresh(self, session_data): ...
    def read_export(self, text): ...

    def open(self, session_data, renew, **hooks):
        if self.flaw == "open":
            raise ZeroDivisionError("a bug")
        session = FlawedSession()
        session.flaw = self.flaw
        session.worked = self.flaw != "worked"
        return session

    def fetch_account_name(self, session):
        if self.flaw == "account_name":
            raise ZeroDivisionError("a bug")
        return "name"


@pytest.fixture
def flawed(settings, user):
    """Store a session of the flawed engine for the user, and return how to say what is wrong."""
    settings.GARMIN_AUTH_ENGINES = {"flawed": "tests.test_health.FlawedEngine"}
    states.connect(
        user.pk, engine="flawed", session_data="session", account_name=None, validated_at=None
    )

    def flawed(flaw):
        FlawedEngine.flaw = flaw

    yield flawed
    FlawedEngine.flaw = ""


# One session


def test_a_live_session_is_active(user, connect):
    connect(user)

    check = check_session(user)

    assert (check.user, check.outcome, check.refreshed, check.error) == (
        user,
        Outcome.ACTIVE,
        False,
        None,
    )


def test_a_live_session_is_noted_as_checked_and_validated(user, connect):
    connect(user)
    before = timezone.now()

    check_session(user)

    assert state_of(user).last_checked_at >= before
    assert state_of(user).last_validated >= before


def test_a_session_that_was_refreshed_says_so(user, connect):
    connect(user, access_expired=True)

    check = check_session(user)

    assert (check.outcome, check.refreshed) == (Outcome.ACTIVE, True)


def test_a_session_whose_token_is_refused_by_the_api_is_refreshed(user, connect, garmin):
    connect(user)
    garmin.expire_access_tokens(EMAIL)

    assert check_session(user).refreshed


def test_a_refresh_before_a_fault_is_no_success(user, connect, garmin):
    connect(user, access_expired=True)
    garmin.fail("api", "status")

    check = check_session(user)

    assert (check.outcome, check.refreshed) == (Outcome.UNKNOWN, False)
    check = check_session(user)
    assert (check.outcome, check.refreshed) == (Outcome.ACTIVE, False)
    assert garmin.counts["exchange"] == 1


def test_a_revoked_session_is_expired_and_cleared(user, connect, garmin):
    connect(user)
    garmin.revoke(EMAIL)

    check = check_session(user)

    assert check.outcome is Outcome.EXPIRED
    assert isinstance(check.error, SessionExpired)
    assert raw_row(user)["session_data"] is None


@pytest.mark.parametrize(
    ("step", "fault", "error"),
    [
        ("api", "status", GarminUnavailable),
        ("api", "unauthorized_other", TokenRefused),
        ("api", "blocked", GarminUnavailable),
        ("api", "html", GarminUnavailable),
        ("api", "truncated_json", GarminUnavailable),
        ("api", "reset", GarminUnavailable),
        ("api", "rate_limited", RateLimited),
        ("exchange", "status", GarminUnavailable),
        ("exchange", "app_validation", GarminUnavailable),
        ("exchange", "unauthorized_other", GarminUnavailable),
        ("exchange", "rate_limited", RateLimited),
    ],
)
def test_a_fault_makes_the_session_unknown_and_keeps_it(user, connect, garmin, step, fault, error):
    connect(user, access_expired=step == "exchange")
    garmin.fail(step, fault, times=None)

    check = check_session(user)

    assert (check.outcome, type(check.error)) == (Outcome.UNKNOWN, error)
    assert state_of(user).status == Status.ACTIVE


def test_a_refused_request_makes_the_session_unknown(user, connect, garmin):
    connect(user)
    garmin.fail("api", "status", status=404)

    check = check_session(user)

    assert (check.outcome, type(check.error)) == (Outcome.UNKNOWN, GarminRequestError)


def test_a_damaged_session_is_unreadable_and_kept(user, connect, garmin):
    connect(user)
    damage(user)

    check = check_session(user)

    assert (check.outcome, type(check.error)) == (Outcome.UNREADABLE, SessionUnreadable)
    assert bytes(raw_row(user)["session_data"]) == b"x"
    assert sum(garmin.counts.values()) == 0


@pytest.mark.parametrize("data", ["", "nonsense", "e30=", "W10="])
def test_what_no_engine_can_open_is_unreadable(user, data):
    states.connect(user.pk, engine="garth", session_data=data, account_name=None, validated_at=None)

    assert check_session(user).outcome is Outcome.UNREADABLE


def test_an_engine_that_is_not_installed_makes_the_session_unreadable(user, connect):
    connect(user)
    states.update(engine="another")

    assert check_session(user).outcome is Outcome.UNREADABLE


def test_a_user_without_a_session_is_gone(user):
    check = check_session(user)

    assert (check.outcome, type(check.error)) == (Outcome.GONE, NotConnected)


def test_a_broken_set_up_is_no_result(user, connect, settings):
    connect(user)
    settings.GARMIN_AUTH_TIMEOUT = "long"
    before = raw_row(user)

    with pytest.raises(ImproperlyConfigured, match="GARMIN_AUTH_TIMEOUT"):
        check_session(user)

    assert raw_row(user) == before


@pytest.mark.parametrize("flaw", ["open", "account_name", "close"])
def test_a_bug_in_an_engine_is_unknown_and_logged_with_its_traceback(user, flawed, caplog, flaw):
    flawed(flaw)

    check = check_session(user)

    assert (check.outcome, type(check.error)) == (Outcome.UNKNOWN, ZeroDivisionError)
    assert state_of(user).status == Status.ACTIVE
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("garmin_auth", logging.ERROR)
    assert record.exc_info[0] is ZeroDivisionError
    assert str(user.pk) in record.getMessage()


@pytest.mark.parametrize("flaw", ["open", "account_name", "close", "worked"])
def test_a_bug_in_an_engine_is_noted_as_a_check(user, flawed, flaw):
    flawed(flaw)
    before = timezone.now()

    check_session(user)

    assert state_of(user).last_checked_at >= before


@pytest.mark.parametrize("flaw", ["open", "account_name", "close"])
def test_the_run_goes_on_after_a_bug(user, other_user, connect, flawed, flaw):
    flawed(flaw)
    connect(other_user)

    report = check_sessions()

    assert (report.checked, report.unknown, report.active) == (2, 1, 1)
    assert report.stopped is None


def test_a_bug_does_not_make_a_run_endless(user, flawed):
    flawed("worked")
    seen = []

    def on_check(check):
        seen.append(check)
        assert len(seen) < 5

    assert check_sessions(on_check=on_check).checked == 1


def test_a_check_names_the_engine_of_the_session(user, flawed):
    assert check_session(user).engine == "flawed"


def test_a_check_names_the_engine_of_a_session_that_has_ended(user, connect, garmin):
    connect(user)
    garmin.revoke(EMAIL)

    assert check_session(user).engine == "garth"


# A run


def test_each_engine_has_its_own_counts(user, other_user, flawed, connect):
    flawed("account_name")
    connect(other_user)

    report = check_sessions()

    assert report.engines == {
        "flawed": {"checked": 1, "active": 0, "expired": 0, "unknown": 1, "unreadable": 0},
        "garth": {"checked": 1, "active": 1, "expired": 0, "unknown": 0, "unreadable": 0},
    }


def test_a_session_of_an_engine_that_is_not_installed_counts_under_its_name(user, connect):
    connect(user)
    states.update(engine="another")

    assert check_sessions().engines["another"]["unreadable"] == 1


def test_a_session_that_is_gone_counts_for_no_engine(user, other_user, connect):
    connect(user)
    connect(other_user, "ben@example.com")

    report = check_sessions(on_check=lambda check: disconnect(other_user))

    assert report.engines["garth"]["checked"] == 1


def test_engines_are_listed_by_name(user, other_user, connect):
    connect(user)
    connect(other_user, "ben@example.com")
    states.filter(user=other_user).update(engine="another")

    assert list(check_sessions().as_dict()["engines"]) == ["another", "garth"]


def test_each_result_is_handed_on(user, other_user, connect):
    connect(user)
    connect(other_user, "ben@example.com")
    seen = []

    check_sessions(on_check=seen.append)

    assert [(check.user, check.outcome) for check in seen] == [
        (user, Outcome.ACTIVE),
        (other_user, Outcome.ACTIVE),
    ]


def test_a_user_who_disconnects_during_the_run_is_skipped(user, other_user, connect, garmin):
    connect(user)
    connect(other_user, "ben@example.com")

    report = check_sessions(on_check=lambda check: disconnect(other_user))

    assert (report.checked, report.active, report.skipped) == (1, 1, 1)
    assert garmin.counts["api"] == 1
    assert state_of(other_user).status == Status.DISCONNECTED


def test_a_user_who_is_deleted_during_the_run_is_skipped(user, other_user, connect):
    connect(user)
    connect(other_user, "ben@example.com")

    report = check_sessions(
        on_check=lambda check: type(user).objects.filter(pk=other_user.pk).delete()
    )

    assert (report.checked, report.skipped) == (1, 1)


def test_an_interruption_ends_the_run_before_the_next_check(user, other_user, connect):
    connect(user)
    connect(other_user, "ben@example.com")
    seen = []

    report = check_sessions(on_check=seen.append, interrupted=lambda: bool(seen))

    assert (report.checked, report.stopped) == (1, Stopped.SIGNAL)
    assert state_of(other_user).last_checked_at is None


def test_due_sessions_decrypts_nothing(user, connect, django_assert_num_queries):
    connect(user)
    damage(user)

    with django_assert_num_queries(1):
        assert [state.user.username for state in due_sessions()] == ["ana"]


def test_a_row_without_a_session_is_not_due(user, other_user, connect):
    connect(user)
    disconnect(user)
    states.begin_challenge(other_user.pk, "{}")

    assert not due_sessions().exists()


def test_purging_says_how_many_logins_were_stale(user, other_user, settings):
    settings.GARMIN_AUTH_MFA_TTL = 60
    states.begin_challenge(user.pk, "{}")
    states.begin_challenge(other_user.pk, "{}")
    states.filter(user_id=user.pk).update(
        mfa_started_at=timezone.now() - timezone.timedelta(seconds=61)
    )

    assert purge_challenges() == 1
    assert state_of(other_user).mfa_pending


@pytest.mark.parametrize(
    "wrong", [{"rate": 0}, {"rate": -1}, {"rate": float("nan")}, {"workers": 0}]
)
def test_a_rate_or_workers_that_mean_nothing_are_refused(db, wrong):
    with pytest.raises(ValueError, match="must be"):
        check_sessions(**wrong)
