"""When many are refused and nobody is accepted, no session is cleared."""

import contextlib
import json
import os
from datetime import UTC, datetime

import pytest
import time_machine
from django.db import connections
from django.utils import timezone

from garmin_auth.exceptions import MassFailure, SessionExpired
from garmin_auth.health import check_session
from garmin_auth.limits import mass_failure
from garmin_auth.login import start_login
from garmin_auth.models import GarminAuthenticationState
from tests.conftest import EMAIL, PASSWORD, state_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.every_database]
states = GarminAuthenticationState.objects
# GARMIN_AUTH_REFUSED=1000 makes a soak of it.
REFUSED = int(os.environ.get("GARMIN_AUTH_REFUSED", "60"))
WRONG_KEY = {"GARMIN_TEST_CONSUMER_KEY": "not Garmin's"}


@pytest.fixture
def stale(people):
    """Connect so many new users whose access tokens are over, and return them."""
    return lambda number: people(number, access_expired=True)


def email_of(user):
    return f"{user.username}@example.com"


def test_the_first_two_refused_users_are_cleared_and_the_third_is_not(stale, garmin, caplog):
    first, *users = stale(6)
    assert check_session(first).outcome == "active"  # With the consumer that Garmin knew.
    garmin.set_consumer("another", "consumer")

    outcomes = [check_session(user) for user in users]

    assert [check.outcome for check in outcomes] == ["expired"] * 2 + ["unknown"] * 3
    assert states.with_session().count() == 4
    assert type(outcomes[-1].error).__name__ == "MassFailure"
    alarms = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(alarms) == 1


def test_the_same_user_refused_often_is_no_mass_failure(stale, connect, garmin):
    (user,) = stale(1)
    for _ in range(4):
        garmin.revoke(email_of(user))
        assert check_session(user).outcome == "expired"
        connect(user, email_of(user), access_expired=True)


def test_an_accepted_exchange_of_anybody_heals_it(stale, garmin):
    users = stale(4)
    for user in users[:3]:
        garmin.revoke(email_of(user))
    assert [check_session(user).outcome for user in users[:3]] == ["expired", "expired", "unknown"]

    assert check_session(users[3]).outcome == "active"

    assert check_session(users[2]).outcome == "expired"


def test_a_login_that_garmin_accepts_heals_it(stale, user, account):
    stale(3)
    states.update(refused_at=timezone.now())
    assert mass_failure.under_way()

    start_login(user, EMAIL, PASSWORD)

    assert not mass_failure.under_way()


def test_the_next_mass_failure_is_an_alarm_again(stale, caplog):
    users, refusal = stale(3), SessionExpired("refused")
    for _ in range(2):
        for user in users[:2]:
            mass_failure.record_refused(state_of(user).pk, "garth", "garmin.com", refusal)
        assert mass_failure.under_way() == {}
        for _ in range(2):
            with pytest.raises(MassFailure, match="3 users"):
                mass_failure.record_refused(state_of(users[2]).pk, "garth", "garmin.com", refusal)
        assert mass_failure.under_way() == {("garth", "garmin.com"): 3}
        mass_failure.record_accepted("garth", "garmin.com")

    alarms = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(alarms) == 2
    assert "refused the tokens of 3 users of the engine garth" in alarms[0].getMessage()


def test_each_service_has_its_own_alarm_and_repeats_it_each_hour(stale, caplog):
    users, refusal = stale(3), SessionExpired("refused")

    def refuse(engine, domain, alarms):
        caplog.clear()
        states.update(engine=engine, domain=domain)
        for user in users:
            with contextlib.suppress(MassFailure):
                mass_failure.record_refused(state_of(user).pk, engine, domain, refusal)
        assert len(caplog.records) == alarms

    with time_machine.travel(datetime.now(UTC), tick=False) as clock:
        for engine in ("garth", "garminconnect"):
            for domain in ("garmin.com", "garmin.cn"):
                refuse(engine, domain, alarms=1)
        clock.shift(mass_failure.QUIET - 1)
        refuse("garth", "garmin.com", alarms=0)
        clock.shift(2)
        refuse("garth", "garmin.com", alarms=1)


def test_an_ordinary_api_success_heals_nothing(stale, connect, garmin, other_user):
    users = stale(3)
    connect(other_user)
    for user in users:
        garmin.revoke(email_of(user))
    for user in users:
        check_session(user)

    assert check_session(other_user).outcome == "active"

    assert check_session(users[2]).outcome == "unknown"


def test_the_check_stops_and_says_why(stale, garmin, start_python):
    stale(6)
    connections.close_all()

    process = start_python("manage.py", "check_garmin_sessions", "--format", "json", **WRONG_KEY)
    output, errors = process.communicate(timeout=60)

    report = json.loads(output)
    assert process.returncode == 4
    assert (report["stopped"], report["expired"], report["unknown"]) == ("mass_failure", 2, 1)
    assert "Check the consumer key and the clock" in errors


def test_eight_processes_lose_two_sessions_at_the_most(stale, garmin, start_python):
    stale(REFUSED)
    connections.close_all()

    checks = [start_python("manage.py", "check_garmin_sessions", **WRONG_KEY) for _ in range(8)]
    codes = set()
    for process in checks:
        process.communicate(timeout=120)
        codes.add(process.returncode)

    assert 4 in codes
    assert codes <= {0, 4}  # They share the work: for the late ones there may be none.
    left = states.with_session().count()
    print(f"{REFUSED} sessions, 8 processes, a wrong key: {REFUSED - left} lost")
    assert left >= REFUSED - 2


def test_the_admin_says_so(stale, garmin, admin_client):
    for user in stale(3):
        garmin.revoke(email_of(user))
        check_session(user)

    page = admin_client.get("/admin/garmin_auth/garminauthenticationstate/").content.decode()

    assert "Check the consumer key and the clock of this server" in page
