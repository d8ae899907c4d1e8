"""Connections that fail without dying: who is told, when, and who is not."""

import contextlib
import json
import time
from datetime import timedelta

import pytest
import time_machine
from django.core.cache import cache
from django.core.management import call_command
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from garmin_auth import signals
from garmin_auth.accounts import account_of, badge_of
from garmin_auth.engines.garth import GarthEngine
from garmin_auth.exceptions import GarminUnavailable, RateLimited, TokenRefused
from garmin_auth.health import Outcome, check_session, check_sessions
from garmin_auth.limits.failing import QUIET
from garmin_auth.login import disconnect, start_login
from garmin_auth.models import GarminAuthenticationState
from garmin_auth.sessions import garmin_client
from tests.conftest import BUILT_IN, EMAIL, PASSWORD, state_of
from tests.rows import damage

states = GarminAuthenticationState.objects
pytestmark = [pytest.mark.every_database, pytest.mark.django_db(transaction=True)]
PROFILE = "/userprofile-service/socialProfile"
BEN = "ben@example.com"
# A fault of the API for one account, the exception, and the reason to be told.
FAULTS = [
    ("unauthorized_other", {}, TokenRefused, "refused"),
    ("status", {"status": 503}, GarminUnavailable, "unavailable"),
    ("html", {}, GarminUnavailable, "unavailable"),
    ("reset", {}, GarminUnavailable, "unavailable"),
]


class SecondEngine(GarthEngine):
    """A site's own."""

    name = "second"


@pytest.fixture
def told():
    """The signals of failing connections, in the order in which they were sent."""
    heard = []

    def on_failing(user, since, reason, **kwargs):
        heard.append(("failing", user.username, reason, since))

    def on_recovered(user, failed_since, **kwargs):
        heard.append(("recovered", user.username, failed_since))

    signals.session_failing.connect(on_failing)
    signals.session_recovered.connect(on_recovered)
    yield heard
    signals.session_failing.disconnect(on_failing)
    signals.session_recovered.disconnect(on_recovered)


@pytest.fixture
def both(user, other_user, connect):
    """Ana and Ben, both connected."""
    connect(user)
    connect(other_user, BEN)
    return user, other_user


def use(user):
    with garmin_client(user) as client:
        return client.connectapi(PROFILE)


def fail(garmin, fault="status", email=EMAIL, **options):
    if fault == "status":
        options.setdefault("status", 503)
    garmin.fail("api", fault, times=None, account=email, **options)


def days_pass(days, *users):
    """Move the failures of these users back, as if they had begun so many days earlier."""
    time = timedelta(days=days)
    for name in ("failing_since", "last_failed_at", "last_validated", "last_checked_at"):
        rows = states.filter(user__in=users).exclude(**{name: None})
        rows.update(**{name: F(name) - time})


@pytest.mark.parametrize("engine", BUILT_IN)
@pytest.mark.parametrize(("fault", "options", "error", "reason"), FAULTS)
def test_the_first_failure_of_a_use_is_recorded_and_the_next_success_forgets_it(
    user, connect, garmin, told, engine, fault, options, error, reason
):
    connect(user, engine=engine)
    fail(garmin, fault, **options)

    for _ in range(2):
        with pytest.raises(error):
            use(user)
        row = state_of(user)
        assert (row.failing_since is not None, row.failing_reason) == (True, reason)
        assert row.failing_since <= row.last_failed_at

    garmin.heal()
    cache.clear()  # A refused token is not refreshed again for five minutes.
    use(user)
    row = state_of(user)
    assert (row.failing_since, row.failing_reason, told) == (None, "", [])


@pytest.mark.parametrize(("fault", "options", "error", "reason"), FAULTS)
def test_a_failed_check_is_recorded_and_a_good_one_forgets_it(
    user, connect, garmin, fault, options, error, reason
):
    connect(user)
    fail(garmin, fault, **options)
    since = None
    for _ in range(2):
        assert check_session(user).outcome is Outcome.UNKNOWN
        row = state_of(user)
        since = since or row.failing_since
        assert (row.failing_since, row.failing_reason) == (since, reason)

    garmin.heal()
    check_session(user)
    assert state_of(user).failing_since is None


def test_a_refused_profile_is_the_accounts_fault_in_a_check_and_the_callers_in_a_use(
    user, connect, garmin
):
    connect(user)
    fail(garmin, status=404)
    with pytest.raises(Exception, match="404"):
        use(user)
    assert state_of(user).failing_since is None
    check_session(user)
    assert state_of(user).failing_reason == "account"


@pytest.mark.parametrize("use_or_check", [use, check_session])
def test_neither_a_rate_limit_nor_an_unreadable_row_is_a_failing_connection(
    user, connect, garmin, use_or_check
):
    connect(user)
    garmin.fail("api", "rate_limited", times=None)
    with contextlib.suppress(RateLimited):
        use_or_check(user)
    damage(user)
    check_session(user)
    assert state_of(user).failing_since is None


def test_who_fails_for_days_while_others_work_is_told_once(both, garmin, told):
    ana, ben = both
    fail(garmin)
    check_sessions()
    since = state_of(ana).failing_since
    days_pass(2, ana)
    assert check_sessions().failing == 0
    assert told == []

    days_pass(1, ana)
    for _ in range(2):
        report = check_sessions()
        assert (report.failing, report.unknown, report.active) == (1, 1, 1)

    assert [(kind, name, reason) for kind, name, reason, _ in told] == [
        ("failing", "ana", "unavailable")
    ]
    assert list(states.failing()) == [state_of(ana)]
    assert state_of(ana).failing_since == told[0][3] == since - timedelta(days=3)
    assert state_of(ana).session_data is not None
    assert badge_of(ana).status == "failing"
    assert account_of(ana).failing_since == state_of(ana).failing_since
    assert badge_of(ben).status == "connected"


def test_who_was_told_is_told_when_it_works_again_and_nobody_else_is(both, garmin, told):
    ana, _ben = both
    fail(garmin)
    check_sessions()
    days_pass(4, ana)
    with pytest.raises(GarminUnavailable):
        use(ana)
    garmin.heal()

    for _ in range(2):
        use(ana)
        check_sessions()

    assert [entry[:2] for entry in told] == [("failing", "ana"), ("recovered", "ana")]
    assert told[0][2] == "unavailable"
    assert told[1][2] == told[0][3]
    assert badge_of(ana).status == "connected"


def test_a_check_recovers_it_too(both, garmin, told):
    ana, _ben = both
    fail(garmin)
    check_sessions()
    days_pass(4, ana)
    check_sessions()
    garmin.heal()
    check_sessions()
    assert [entry[:2] for entry in told] == [("failing", "ana"), ("recovered", "ana")]


def test_a_new_login_recovers_it_and_a_disconnect_ends_it_silently(both, garmin, told):
    ana, _ben = both
    fail(garmin)
    check_sessions()
    days_pass(4, ana)
    check_sessions()
    garmin.heal()
    start_login(ana, EMAIL, PASSWORD)
    assert [entry[0] for entry in told] == ["failing", "recovered"]
    assert badge_of(ana).status == "connected"

    fail(garmin)
    check_sessions()
    days_pass(4, ana)
    check_sessions()
    disconnect(ana)
    assert [entry[0] for entry in told] == ["failing", "recovered", "failing"]
    assert state_of(ana).failing_since is None


def test_an_outage_tells_nobody(both, garmin, told, caplog):
    garmin.fail("api", "status", times=None, status=503)
    check_sessions()
    days_pass(4, *both)
    report = check_sessions()
    assert (report.failing, report.unknown, told) == (0, 2, [])
    assert [badge_of(user).status for user in both] == ["connected", "connected"]
    assert "considered an outage" in caplog.text
    assert states.outages().keys() == {("garth", "garmin.com")}


def test_when_an_outage_ends_those_who_still_fail_have_a_day(both, garmin, told):
    ana, ben = both
    garmin.fail("api", "status", times=None, status=503)
    check_sessions()
    days_pass(4, *both)
    check_sessions()
    garmin.heal()
    fail(garmin)  # One unlucky answer more.
    check_sessions()
    assert state_of(ben).failing_since is None
    assert told == []

    days_pass(2, ana, ben)
    check_sessions()
    assert [entry[:2] for entry in told] == [("failing", "ana")]


def test_a_site_that_wants_to_know_within_hours_does_not_wait_a_day(both, garmin, told, settings):
    ana, ben = both
    settings.GARMIN_AUTH_FAILING_AFTER = 3600
    garmin.fail("api", "status", times=None, status=503)
    check_sessions()
    garmin.heal()
    fail(garmin)
    check_sessions()
    days_pass(0.1, ana)
    assert badge_of(ana).status == "connected"  # Ben failed a moment ago too.

    states.filter(user=ben).update(last_failed_at=timezone.now() - timedelta(hours=1.1))
    assert badge_of(ana).status == "failing"
    check_sessions()
    assert [entry[:2] for entry in told] == [("failing", "ana")]


@pytest.mark.parametrize(("fault", "tells"), [("unauthorized_other", True), ("status", False)])
def test_the_only_connection_of_a_site_fails_if_garmin_says_so_and_not_in_an_outage(
    user, connect, garmin, told, fault, tells
):
    connect(user)
    fail(garmin, fault)
    check_sessions()
    days_pass(4, user)
    check_sessions()
    assert bool(told) is tells


@pytest.mark.parametrize(("failing", "tells"), [(2, 2), (3, 0)])
def test_two_whom_garmin_refuses_are_told_and_three_are_an_outage(
    people, garmin, told, failing, tells
):
    users = people(failing)
    garmin.fail("api", "unauthorized_other", times=None)
    check_sessions()
    days_pass(4, *users)
    check_sessions()
    assert len(told) == tells


def test_an_outage_is_logged_once_for_each_engine_and_domain(
    both, django_user_model, connect, garmin, settings, caplog
):
    settings.GARMIN_AUTH_DOMAIN = ["garmin.com", "garmin.cn"]
    settings.GARMIN_AUTH_ENGINES = {"second": "tests.test_failing.SecondEngine"}
    ana, ben = both
    cleo = django_user_model.objects.create_user("cleo")
    states.filter(user=ben).update(engine="second")
    connect(cleo, "cleo@example.com", domain="garmin.cn")
    garmin.fail("api", "status", times=None, status=503)
    check_sessions()
    days_pass(4, ana, ben, cleo)

    for _ in range(2):
        check_sessions()

    def logged():
        return [record for record in caplog.records if getattr(record, "event", "") == "outage"]

    outages = logged()
    with time_machine.travel(time.time() + QUIET + 1):
        check_sessions()
    assert len(logged()) == 2 * len(outages)
    assert sorted((record.engine, record.domain) for record in outages) == [
        ("garth", "garmin.cn"),
        ("garth", "garmin.com"),
        ("second", "garmin.com"),
    ]


def test_another_engine_that_works_proves_nothing(both, garmin, told):
    ana, ben = both
    states.filter(user=ben).update(engine="other")
    fail(garmin)
    check_session(ana)
    days_pass(4, ana)
    states.filter(user=ben).update(last_validated=F("updated_at"))
    check_session(ana)
    assert told == []


def test_the_command_names_who_fails_and_the_outage(both, garmin, capsys):
    ana, _ben = both
    fail(garmin)
    check_sessions()
    days_pass(4, ana)
    with pytest.raises(SystemExit):
        call_command("check_garmin_sessions", format="json")
    output = capsys.readouterr()
    report = json.loads(output.out)
    assert (report["unknown"], report["failing"]) == (1, 1)
    assert list(report)[:7] == [
        "checked",
        "active",
        "refreshed",
        "expired",
        "unknown",
        "unreadable",
        "failing",
    ]
    assert "should connect again: ana\n" in output.err
    assert "unknown" not in output.err

    garmin.fail("api", "status", times=None, status=503)
    states.update(failing_told_at=None, last_validated=None)
    with pytest.raises(SystemExit):
        call_command("check_garmin_sessions")
    assert (
        "No session of the engine garth has worked at garmin.com since " in capsys.readouterr().err
    )


def test_staff_see_who_fails_and_count_them(both, garmin, admin_client):
    ana, _ben = both
    fail(garmin)
    check_sessions()
    days_pass(4, ana)
    url = "/admin/garmin_auth/garminauthenticationstate/"
    page = admin_client.get(url, {"act": "failing", "_facets": "True"})
    assert [row.user for row in page.context["cl"].result_list] == [ana]
    assert '<span class="ga-state ga-bad">failing</span>' in page.content.decode()
    bars = {bar.query: bar.count for figure in page.context["figures"] for bar in figure.bars}
    assert (bars["act=failing"], bars["act=soon"]) == (1, 0)


def test_the_users_page_says_what_to_do_and_the_banner_leads_there(both, garmin, client):
    ana, _ben = both
    client.force_login(ana)
    fail(garmin, "unauthorized_other")
    check_sessions()
    assert "Not working" not in client.get("/garmin/").content.decode()
    days_pass(4, ana)
    page = client.get("/garmin/").content.decode()
    assert "Not working" in page
    assert "Garmin refuses the connection." in page
    assert page.index(">Connect again</a>") < page.index("<dl>")
    assert "https://connect.garmin.com/" in page


def test_uses_and_checks_cost_what_they_did(both, garmin):
    ana, _ben = both
    use(ana)
    fail(garmin)
    with CaptureQueriesContext(connection) as queries, pytest.raises(GarminUnavailable):
        use(ana)
    assert kinds(queries) == ["SELECT", "UPDATE"]
    garmin.heal()
    with CaptureQueriesContext(connection) as queries:
        use(ana)
    assert kinds(queries) == ["SELECT", "UPDATE"]
    with CaptureQueriesContext(connection) as queries:
        use(ana)
    assert kinds(queries) == ["SELECT"]
    for works in (True, False):
        if not works:
            fail(garmin)
        with CaptureQueriesContext(connection) as queries:
            check_session(ana)
        assert kinds(queries) == ["SELECT", "UPDATE"]


def kinds(queries):
    said = [query["sql"].split()[0] for query in queries.captured_queries]
    return [kind for kind in said if kind in ("SELECT", "UPDATE", "INSERT", "DELETE")]
