"""Weeks in the life of a site: outages, single failures, cron that rests, users who do nothing.

Python's clock is moved, and nothing sleeps. ``GARMIN_AUTH_EXAMPLES=500`` looks longer.
"""

import os
from collections import Counter
from contextlib import suppress
from datetime import timedelta

import pytest
import time_machine
from django.core import mail
from django.core.cache import cache
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from garmin_auth import notices
from garmin_auth.exceptions import GarminAuthError
from garmin_auth.health import check_sessions
from garmin_auth.login import import_session
from garmin_auth.models import EndedReason, GarminAuthenticationState
from garmin_auth.sessions import garmin_client
from tests import services
from tests.conftest import PASSWORD, state_of
from tests.test_notices import receivers  # noqa: F401 - a fixture

pytestmark = pytest.mark.django_db(transaction=True)
states = GarminAuthenticationState.objects
OTHER = "garth" if services.why_not_garminconnect() else "garminconnect"
PEOPLE = {"ana": "garth", "ben": OTHER, "cleo": OTHER, "dora": "garth"}
DAY = timedelta(days=1)
# When the sessions of the engine garth end here, so that weeks are enough to see it.
GARTH_ENDS = 40 * DAY
# A garminconnect session ends so long after its last refresh (recorded by the simulator too).
UNUSED_ENDS = timedelta(seconds=2_591_999)
KINDS = {
    "Your Garmin connection is not working": "failing",
    "Your Garmin connection works again": "recovered",
    "Your Garmin connection expires soon": "ending",
    "Please connect your Garmin account again": "expired",
}
FAULTS = [
    ("status", {"status": 503}),
    ("status", {"status": 404}),
    ("unauthorized_other", {}),
    ("reset", {}),
]
EXAMPLES = int(os.environ.get("GARMIN_AUTH_EXAMPLES", "6"))
LOOK = settings(
    max_examples=EXAMPLES,
    derandomize="GARMIN_AUTH_EXAMPLES" not in os.environ,
    stateful_step_count=25,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
who = st.sampled_from(sorted(PEOPLE))


class Weeks(RuleBasedStateMachine):
    garmin = users = None

    @initialize()
    def connect_all(self):
        self.clock = time_machine.travel(timezone.now(), tick=False)
        self.time = self.clock.start()
        cache.clear()
        mail.outbox.clear()
        self.garmin.reset()
        states.all().delete()
        self.mails = []  # (time, kind, name)
        self.faults = {}  # who fails alone, and how
        self.down = False
        self.looked = dict.fromkeys(PEOPLE)  # when a run last asked Garmin about the session
        for name, user in self.users.items():
            self.garmin.add_account(f"{name}@example.com", PASSWORD)
            self.connect(name, user)

    def connect(self, name, user):
        data = self.garmin.issue_session(
            f"{name}@example.com", engine=PEOPLE[name], access_expired=True
        )
        import_session(user, data, engine=PEOPLE[name], check=True)
        if PEOPLE[name] == "garth":
            states.filter(user=user).update(session_ends_at=timezone.now() + GARTH_ENDS)
        self.connected = {**getattr(self, "connected", {}), name: timezone.now()}

    def teardown(self):
        if hasattr(self, "clock"):
            self.clock.stop()

    def run_cron(self):
        before = {name: state_of(user) for name, user in self.users.items()}
        check_sessions(max_age=timedelta(hours=12))
        for name, row in before.items():
            if row.session_data and state_of(self.users[name]).last_checked_at == timezone.now():
                self.looked[name] = timezone.now()
        self.read_mail()

    def read_mail(self):
        for message in mail.outbox:
            name = message.to[0].partition("@")[0]
            self.mails.append((timezone.now(), KINDS[message.subject], name))
            if KINDS[message.subject] == "failing":
                assert name in self.faults, "told of an outage, or of nothing"
        mail.outbox.clear()

    def mails_of(self, name, *kinds):
        since = self.connected[name]
        return [kind for at, kind, to in self.mails if to == name and kind in kinds and at >= since]

    # What may happen

    @rule(days=st.integers(1, 10))
    def days_pass_with_daily_checks(self, days):
        for _ in range(days):
            self.time.shift(DAY)
            self.run_cron()

    @rule(weeks=st.integers(1, 4))
    def weeks_pass_with_weekly_checks(self, weeks):
        for _ in range(weeks):
            self.time.shift(7 * DAY)
            self.run_cron()

    @rule()
    def cron_rests(self):
        self.time.shift(20 * DAY)
        self.run_cron()

    @rule(days=st.integers(1, 6))
    def garmin_is_down(self, days):
        self.down = True
        self.break_garmin()
        self.days_pass_with_daily_checks(days)

    @rule()
    def garmin_is_back(self):
        self.down = False
        self.break_garmin()

    @rule(name=who)
    def one_answer_fails(self, name):
        if not self.faults and not self.down:
            account = f"{name}@example.com"
            self.garmin.fail("api", "status", times=1, status=503, account=account)
            self.time.shift(DAY)
            self.run_cron()
            self.garmin.heal()

    @rule(name=who, fault=st.sampled_from(FAULTS))
    def one_fails(self, name, fault):
        if name not in self.faults:
            self.faults[name] = fault
            self.break_garmin()

    @rule()
    def all_work_again(self):
        self.faults.clear()
        self.break_garmin()

    def break_garmin(self):
        self.garmin.heal()
        for step in ("api", "exchange", "di_refresh") if self.down else ():
            self.garmin.fail(step, "status", times=None, status=503)
        for name, (fault, options) in self.faults.items():
            account = f"{name}@example.com"
            self.garmin.fail("api", fault, times=None, account=account, **options)

    @rule()
    def garmin_limits_us(self):
        self.garmin.fail("api", "rate_limited", times=1, retry_after=60)
        self.time.shift(DAY)
        self.run_cron()
        self.break_garmin()

    @rule(name=who)
    def a_worker_syncs(self, name):
        self.time.shift(timedelta(hours=1))
        with suppress(GarminAuthError), garmin_client(self.users[name]) as client:
            client.connectapi("/userprofile-service/socialProfile")
        self.read_mail()

    @rule(name=who)
    def who_was_told_connects_again(self, name):
        if self.mails_of(name, *KINDS.values()) and name not in self.faults and not self.down:
            self.connect(name, self.users[name])
            self.read_mail()

    # What must always hold

    @invariant()
    def nobody_is_told_twice(self):
        for name in PEOPLE if hasattr(self, "mails") else ():
            told = [kind for _, kind, to in self.mails if to == name]
            changes = [kind for kind in told if kind in ("failing", "recovered")]
            assert changes == ["failing", "recovered"] * (len(changes) // 2) + ["failing"] * (
                len(changes) % 2
            )
            of_this_connection = Counter(self.mails_of(name, "ending", "expired"))
            assert of_this_connection["ending"] <= (2 if PEOPLE[name] == "garth" else 1)
            assert of_this_connection["expired"] <= 1

    @invariant()
    def nobody_is_lost_whom_a_check_could_have_kept(self):
        for name, user in self.users.items() if hasattr(self, "mails") else ():
            row = state_of(user)
            if row.session_data is not None:
                continue
            assert row.ended_reason == EndedReason.EXPIRED
            assert PEOPLE[name] == "garminconnect"
            assert self.mails_of(name, "expired") == ["expired"]
            assert row.updated_at - (row.last_validated or self.connected[name]) > 28 * DAY

    @invariant()
    def who_can_be_told_of_the_end_is_told(self):
        for name, user in self.users.items() if hasattr(self, "mails") else ():
            row, looked, now = state_of(user), self.looked[name], timezone.now()
            if row.session_ends_at is None or looked is None or row.session_ends_at <= now:
                continue
            told = len(self.mails_of(name, "ending"))
            left = row.session_ends_at - looked
            if PEOPLE[name] == "garth":
                assert told == (0 if left > 30 * DAY else 1 if left > 7 * DAY else told or 1)
            elif row.session_ends_soon_at < looked:
                assert told == 1
            else:
                assert told == 0

    @invariant()
    def a_connection_that_fails_alone_is_reported_in_time(self):
        for name in self.faults if hasattr(self, "mails") else ():
            row = state_of(self.users[name])
            if row.failing_told_at:
                assert row.failing_told_at - row.failing_since >= 3 * DAY


def test_weeks_of_a_site(garmin, django_user_model, receivers):  # noqa: F811
    notices.mail_users("https://site.example")
    users = {
        name: django_user_model.objects.create_user(name, f"{name}@site.example") for name in PEOPLE
    }
    machine = type("Site", (Weeks,), {"garmin": garmin, "users": users})
    run_state_machine_as_test(machine, settings=LOOK)
