"""Random interleavings of all that users, Garmin and time may do, against what must always hold.

The machine keeps its own idea of who has a session, and judges what Garmin did by the simulator's
log alone. ``GARMIN_AUTH_EXAMPLES=500`` looks longer.
"""

import base64
import json
import os
from contextlib import ExitStack
from datetime import timedelta

import pytest
from django.core.cache import cache
from django.db import connection
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

from garmin_auth.conf import conf
from garmin_auth.exceptions import (
    ChallengeExpired,
    GarminAuthError,
    GarminUnavailable,
    InvalidCredentials,
    InvalidMFACode,
    LoginThrottled,
    MassFailure,
    NotConnected,
    RateLimited,
    SessionExpired,
    SessionUnreadable,
    TooManyAttempts,
)
from garmin_auth.health import Outcome, Stopped, check_session, check_sessions
from garmin_auth.login import (
    Connected,
    MFARequired,
    cancel_mfa,
    disconnect,
    start_login,
    submit_mfa,
)
from garmin_auth.models import EndedReason, GarminAuthenticationState, Status
from garmin_auth.rotation import ENCRYPTED_FIELDS
from garmin_auth.sessions import garmin_client
from tests.conftest import raw_row, state_of

pytestmark = pytest.mark.django_db(transaction=True)
states = GarminAuthenticationState.objects

EXAMPLES = int(os.environ.get("GARMIN_AUTH_EXAMPLES", "25"))
STEPS = 40
MAX_ATTEMPTS = 2
LOGINS_PER_USER, LOGINS_OF_ALL_ACCOUNTS = 5, 20
MASS = 3  # users refused, and nobody accepted
DAMAGE = b"x"
PROFILE = "/userprofile-service/socialProfile"
# Name, password, and whether the Garmin account asks for a code.
PEOPLE = [
    ("ana", "Ana's pass phrase", False),
    ("ben", "Ben's pass phrase", True),
    ("cleo", "Cleo's pass phrase", True),
]
FAULTS = ("status", "reset", "drop_after", "rate_limited", "html", "blocked", "unauthorized_other")
BREAKS = [
    ("break_garmin", step, fault, times)
    for step, times in [
        ("login", 1),
        ("verify_code", 3),
        ("exchange", 1),
        ("exchange", 3),
        ("api", 2),
    ]
    for fault in FAULTS
]
# What may happen, with its arguments, and how often compared with the rest. One rule draws from
# these: of thirty rules Hypothesis would take most of its steps where nothing is connected.
WEIGHTS = {
    ("log_in",): 30,
    ("log_in_with_a_wrong_password",): 4,
    ("submit_a_code", False): 30,
    ("submit_a_code", True): 24,
    ("cancel",): 4,
    ("disconnect", EndedReason.USER): 3,
    ("disconnect", EndedReason.STAFF): 3,
    ("use",): 30,
    ("check",): 20,
    ("check_all",): 20,
    ("open_a_client",): 20,
    ("use_an_open_client",): 40,
    ("close_a_client",): 6,
    ("revoke",): 12,
    ("revoke_everybody",): 12,
    ("expire_access_tokens",): 24,
    ("let_the_code_come_too_late",): 2,
    ("let_the_pending_login_grow_old",): 2,
    ("heal_garmin",): 16,
    ("let_pauses_end",): 20,
    ("damage",): 6,
    ("mend",): 8,
    ("damage_the_challenge",): 2,
    ("mend_the_challenge",): 8,
    **dict.fromkeys(BREAKS, 2),
}
DEEDS = [deed for deed, weight in WEIGHTS.items() for _ in range(weight)]

who = st.integers(0, len(PEOPLE) - 1)


class Person:
    """What the machine expects of one user, from what it has seen and done itself."""

    def __init__(self, user, password, mfa, display_name):
        self.user, self.password, self.mfa, self.display_name = user, password, mfa, display_name
        self.email = f"{user.username}@example.com"
        self.has_row = self.has_session = False
        self.generation = 0  # Which of the user's sessions it is.
        self.ended_reason = EndedReason.NEVER
        self.revoked = False  # Garmin has ended the stored session.
        self.undamaged = None  # The column's bytes, while damaged ones stand in their place.
        self.pending = False
        self.code = ""
        self.codes_asked = self.attempts = 0
        self.code_is_late = self.challenge_is_old = self.answer_was_lost = False
        self.undamaged_challenge = None
        self.login_paused = False
        self.logins = self.all_logins = 0
        self.opened = self.client = None
        self.opened_generation = self.opened_version = 0
        self.last_seen = (0, None)  # Version, and the raw column.

    @property
    def rows(self):
        return states.filter(user_id=self.user.pk)

    def connected(self):
        self.has_row = self.has_session = True
        self.ended_reason = ""
        self.revoked = False
        self.undamaged = None
        self.generation += 1
        self.login_ended()

    def session_ended(self, reason):
        self.has_session = self.revoked = False
        self.ended_reason = reason
        self.undamaged = None
        self.generation += 1

    def login_ended(self):
        self.pending = False
        self.codes_asked = self.attempts = 0
        self.code_is_late = self.challenge_is_old = self.answer_was_lost = False
        self.undamaged_challenge = None


class Site(RuleBasedStateMachine):
    """Three users, their Garmin accounts, and one Garmin."""

    garmin = None
    users = ()

    @initialize(
        connected=st.lists(
            st.sampled_from(["fresh", "stale", None]), min_size=len(PEOPLE), max_size=len(PEOPLE)
        )
    )
    def begin(self, connected):
        states.all().delete()
        cache.clear()
        self.garmin.reset()
        self.people = []
        for user, (name, password, mfa) in zip(self.users, PEOPLE, strict=True):
            account = self.garmin.add_account(f"{name}@example.com", password, mfa=mfa)
            self.people.append(Person(user, password, mfa, account["display_name"]))
        for person, token in zip(self.people, connected, strict=True):
            if token is None:
                continue
            data = self.garmin.issue_session(person.email, access_expired=token == "stale")
            states.connect(
                person.user.pk,
                engine="garth",
                session_data=data,
                account_name=person.email,
                validated_at=None,
            )
            person.connected()
        self.refused = set()  # Names of those refused since Garmin last accepted an exchange.
        self.site_paused = False

    def teardown(self):
        for person in getattr(self, "people", ()):
            if person.opened:
                person.opened.close()

    @rule(deed=st.sampled_from(DEEDS), i=who)
    def happens(self, deed, i):
        name, *arguments = deed
        getattr(self, name)(i, *arguments)

    def one_who(self, has, i):
        """Return the first person from the i-th on of whom it is true, else the i-th."""
        people = self.people[i:] + self.people[:i]
        return next((person for person in people if getattr(person, has)), people[0])

    # Log in

    def log_in(self, i):
        person = self.people[i]
        result, error, asked = self.attempt(person, start_login, person.email, person.password)
        if self.login_was_stopped(person, error, asked):
            return
        if isinstance(result, Connected):
            assert not person.mfa
            person.connected()
            person.logins = 0
        elif isinstance(result, MFARequired):
            assert person.mfa
            person.has_row = True
            person.login_ended()
            person.pending, person.code = True, self.garmin.mfa_code(person.email)
        else:
            assert faults_in(asked), error
            assert isinstance(error, RateLimited | GarminUnavailable)
            self.login_was_not_judged(person, error)

    def log_in_with_a_wrong_password(self, i):
        person = self.people[i]
        _, error, asked = self.attempt(person, start_login, person.email, "no such password")
        if self.login_was_stopped(person, error, asked):
            return
        assert faults_in(asked) or isinstance(error, InvalidCredentials)
        assert isinstance(error, InvalidCredentials | RateLimited | GarminUnavailable)
        if not isinstance(error, InvalidCredentials):
            self.login_was_not_judged(person, error)

    def login_was_stopped(self, person, error, asked):
        """Tell whether the site itself refused, as it must during pauses and after many tries."""
        many = person.logins >= LOGINS_PER_USER or person.all_logins >= LOGINS_OF_ALL_ACCOUNTS
        if person.login_paused or many:
            assert isinstance(error, RateLimited)
            assert isinstance(error, LoginThrottled) != person.login_paused
            assert not asked
            return True
        person.logins += 1
        person.all_logins += 1
        return False

    def login_was_not_judged(self, person, error):
        person.login_paused = isinstance(error, RateLimited)
        person.logins -= 1
        person.all_logins -= 1

    def submit_a_code(self, i, wrong):
        person = self.one_who("pending", i)
        code = person.code
        if wrong or not code:
            code = "000000" if code != "000000" else "111111"
        result, error, asked = self.attempt(person, submit_mfa, code)
        sent = [entry for entry in asked if entry["step"] == "verify_code"]
        person.codes_asked += len(sent)
        if not person.pending or person.undamaged_challenge:
            assert isinstance(error, ChallengeExpired)
            assert not asked
            return
        if person.challenge_is_old:
            assert isinstance(error, ChallengeExpired)
            assert not asked
            person.login_ended()
            return
        if person.login_paused:
            assert isinstance(error, RateLimited)
            assert not asked
            return
        if person.attempts >= MAX_ATTEMPTS:
            assert isinstance(error, TooManyAttempts)
            assert not asked
            person.login_ended()
            return
        assert len(sent) == 1
        if isinstance(error, RateLimited | GarminUnavailable):
            person.codes_asked -= 1
        else:
            person.attempts += 1
        person.answer_was_lost |= sent[0]["fault"] == "drop_after"
        if isinstance(result, Connected):
            assert not wrong
            person.connected()
            person.logins = 0
            return
        assert wrong or faults_in(asked) or person.answer_was_lost or person.code_is_late, error
        if isinstance(error, InvalidMFACode):
            assert error.attempts_left == MAX_ATTEMPTS - person.attempts > 0
        elif isinstance(error, RateLimited):
            person.login_paused = True
        elif isinstance(error, ChallengeExpired | TooManyAttempts):
            person.login_ended()
        else:
            assert isinstance(error, GarminUnavailable)
            assert faults_in(asked) or person.answer_was_lost

    def cancel(self, i):
        person = self.people[i]
        cancelled, _, asked = self.attempt(person, cancel_mfa)
        assert cancelled == person.pending
        assert not asked
        person.login_ended()

    def disconnect(self, i, reason):
        person = self.people[i]
        done, _, asked = self.attempt(person, disconnect, reason)
        assert done == (person.has_session or person.pending)
        assert not asked
        if done:
            person.session_ended(reason)
            person.login_ended()

    # Use

    def use(self, i):
        person = self.one_who("has_session", i)
        readable = person.has_session and not person.undamaged
        _, error, asked = self.attempt(person, use, person)
        if not readable:
            wanted = SessionUnreadable if person.has_session else NotConnected
            assert type(error) is wanted
            assert not asked
            return
        self.judge_use(person, error, asked)

    def check(self, i):
        person = self.people[i]
        readable = person.has_session and not person.undamaged
        check, error, asked = self.attempt(person, check_session)
        assert error is None
        if not readable:
            assert check.outcome is (Outcome.UNREADABLE if person.has_session else Outcome.GONE)
            assert not asked
            return
        assert check.error is None or isinstance(check.error, GarminAuthError)
        self.judge_use(person, check.error, asked)
        if person.has_session:
            assert check.outcome in (Outcome.ACTIVE, Outcome.UNKNOWN)
        else:
            assert check.outcome is Outcome.EXPIRED

    def check_all(self, i=None):
        checks = []
        before = {person.user.pk: person for person in self.people if person.has_session}
        started = len(self.garmin.log)
        was_paused = self.site_paused
        report = check_sessions(on_check=checks.append)
        asked = self.garmin.log[started:]
        assert not (was_paused and asked)
        for person in self.people:
            if person.challenge_is_old:
                person.login_ended()
        for check in checks:
            person = before.pop(check.user.pk)
            mine = [entry for entry in asked if entry["account"] == person.email]
            if person.undamaged:
                assert check.outcome is Outcome.UNREADABLE
                assert not mine
                continue
            self.note(mine)
            self.judge_use(person, check.error, mine)
        if before:
            assert report.stopped in (Stopped.RATE_LIMITED, Stopped.MASS_FAILURE)
        assert (report.stopped is Stopped.MASS_FAILURE) == any(
            isinstance(check.error, MassFailure) for check in checks
        )

    # A block that is left open while other things happen

    def open_a_client(self, i):
        person = self.people[i]
        if person.opened:
            return
        stack = ExitStack()
        client, error, asked = self.attempt(
            person, lambda user: stack.enter_context(garmin_client(user))
        )
        assert not asked
        if not person.has_session:
            assert type(error) is NotConnected
        elif person.undamaged:
            assert type(error) is SessionUnreadable
        else:
            assert error is None
            person.opened, person.client = stack, client
            person.opened_generation = person.generation
            person.opened_version = state_of(person.user).session_version

    def use_an_open_client(self, i):
        person = self.one_who("opened", i)
        if not person.opened:
            return
        current = person.generation == person.opened_generation
        version = state_of(person.user).session_version
        others_refreshed = version != person.opened_version
        _, error, asked = self.attempt(person, lambda user: ask(person.client, person))
        if not current:
            # A session that was replaced or ended may still be good at Garmin, and is left alone.
            assert not exchanges(asked)
            assert state_of(person.user).session_version == version
            if asked:  # What Garmin says to it is for the whole site all the same.
                self.site_paused = asked[-1]["status"] == 429
            return
        if person.undamaged and exchanges(asked, status=200):
            person.undamaged = None  # It had read the row before the damage, and has mended it.
        person.opened_version = state_of(person.user).session_version
        if person.undamaged and isinstance(error, SessionUnreadable):
            return
        self.judge_use(person, error, asked, others_refreshed=others_refreshed)

    def close_a_client(self, i):
        person = self.one_who("opened", i)
        if person.opened:
            _, error, asked = self.attempt(person, lambda user: person.opened.close())
            assert error is None
            assert not asked
            person.opened = person.client = None

    # What Garmin and time do

    def revoke(self, i):
        person = self.people[i]
        self.garmin.revoke(person.email)
        person.revoked = person.has_session

    def revoke_everybody(self, i=None):
        for i in range(len(self.people)):
            self.revoke(i)

    def expire_access_tokens(self, i):
        self.garmin.expire_access_tokens(self.people[i].email)

    def let_the_code_come_too_late(self, i):
        self.garmin.expire_mfa(self.people[i].email)
        self.people[i].code_is_late = self.people[i].pending

    def let_the_pending_login_grow_old(self, i):
        began = timezone.now() - timedelta(seconds=conf.MFA_TTL + 1)
        found = self.people[i].rows.filter(mfa_pending=True).update(mfa_started_at=began)
        self.people[i].challenge_is_old = bool(found)

    def break_garmin(self, i, step, name, times):
        self.garmin.fail(step, name, times)

    def heal_garmin(self, i=None):
        self.garmin.heal()

    def let_pauses_end(self, i=None):
        cache.clear()
        self.site_paused = False
        for person in self.people:
            person.login_paused = False
            person.logins = person.all_logins = 0

    # Damage

    def damage(self, i):
        person = self.one_who("has_session", i)
        if person.has_session and not person.undamaged:
            person.undamaged = swap(person, "session_data", DAMAGE)
            person.last_seen = (person.last_seen[0], DAMAGE)

    def mend(self, i):
        person = self.one_who("undamaged", i)
        if person.undamaged:
            assert swap(person, "session_data", person.undamaged) == DAMAGE
            person.last_seen = (person.last_seen[0], person.undamaged)
            person.undamaged = None

    def damage_the_challenge(self, i):
        person = self.one_who("pending", i)
        if person.pending and not person.undamaged_challenge:
            person.undamaged_challenge = swap(person, "mfa_challenge", DAMAGE)

    def mend_the_challenge(self, i):
        person = self.one_who("undamaged_challenge", i)
        if person.undamaged_challenge:
            swap(person, "mfa_challenge", person.undamaged_challenge)
            person.undamaged_challenge = None

    # What is said of each step

    def attempt(self, person, call, *arguments):
        """Call it for the person: what it returned, what it raised, and what Garmin was asked."""
        started = len(self.garmin.log)
        result = error = None
        try:
            result = call(person.user, *arguments)
        except GarminAuthError as exc:
            error = exc
        asked = [entry for entry in self.garmin.log[started:] if entry["step"] != "connect"]
        assert {entry["account"] for entry in asked} <= {person.email, None}
        self.say_nothing_secret(person, error)
        self.note(asked)
        return result, error, asked

    def note(self, asked):
        """Keep the evidence of a mass failure, as the design says it."""
        for entry in exchanges(asked):
            if entry["status"] == 200 and not entry["fault"]:
                self.refused.clear()
            if is_proof(entry):
                name = entry["account"].partition("@")[0]
                self.refused.add(name)

    def judge_use(self, person, error, asked, others_refreshed=False):
        """Say what the use of a readable, current session must have come to."""
        if self.site_paused:
            assert isinstance(error, RateLimited)
            assert not asked
            return
        if asked:
            # What came last counts: a success ends a pause, a limit begins one.
            self.site_paused = asked[-1]["status"] == 429
        if any(is_proof(entry) for entry in exchanges(asked)):
            assert person.revoked
            if len(self.refused) < MASS:
                assert type(error) is SessionExpired
                person.session_ended(EndedReason.EXPIRED)
            else:
                assert type(error) is MassFailure
            return
        assert not isinstance(error, SessionExpired | NotConnected | SessionUnreadable)
        if error is None:
            return
        assert others_refreshed or faults_in(asked), error

    def say_nothing_secret(self, person, error):
        while error is not None:
            assert isinstance(error, GarminAuthError)
            told = f"{error!r} {error}"
            assert person.email not in told
            assert person.password not in told
            assert not (person.code and person.code in told)
            error = error.__cause__ or error.__context__

    # What must always hold

    @invariant()
    def rows_are_legal(self):
        for person in getattr(self, "people", ()):
            state = state_of(person.user)
            assert (state is not None) == person.has_row
            if state is None:
                continue
            raw = raw_row(person.user)
            assert state.mfa_pending == (raw["mfa_challenge"] is not None) == person.pending
            assert (raw["session_data"] is not None) == person.has_session
            assert state.status == (
                Status.MFA_PENDING
                if person.pending
                else Status.ACTIVE
                if person.has_session
                else Status.DISCONNECTED
            )
            assert state.ended_reason == person.ended_reason
            assert (state.ended_reason == "") == person.has_session
            assert (state.connected_at is not None) == person.has_session
            assert (raw["account_name"] is not None) == person.has_session
            assert (state.mfa_started_at is not None) == person.pending
            assert state.mfa_attempts == min(person.attempts, MAX_ATTEMPTS)
            assert (state.lease_owner, state.lease_expires_at) == ("", None)
            assert (state.refused_at is not None) == (person.user.username in self.refused)

    @invariant()
    def stored_sessions_are_written_by_their_version_only(self):
        for person in getattr(self, "people", ()):
            if not person.has_row:
                continue
            raw = raw_row(person.user)
            seen = raw["session_version"], in_bytes(raw["session_data"])
            assert seen[0] >= person.last_seen[0]
            assert seen[0] > person.last_seen[0] or seen[1] == person.last_seen[1]
            person.last_seen = seen
            if person.undamaged:
                assert seen[1] == DAMAGE

    @invariant()
    def no_code_is_guessed_beyond_the_limit(self):
        for person in getattr(self, "people", ()):
            assert person.codes_asked <= MAX_ATTEMPTS

    @invariant()
    def credentials_stay_with_their_user(self):
        assert self.garmin.counts["foreign_bearer"] == 0
        assert self.garmin.counts["refused_host"] == 0

    @invariant()
    def nothing_stands_in_the_clear(self):
        for person in getattr(self, "people", ()):
            if not person.has_row:
                continue
            raw = raw_row(person.user)
            text = b"\n".join(
                in_bytes(value)
                for name, value in raw.items()
                if isinstance(value, str | bytes | memoryview) and not name.endswith("_at")
            )
            for secret in secrets_of(person):
                assert secret.encode() not in text
            for name in ENCRYPTED_FIELDS:
                value = in_bytes(raw[name])
                assert value is None or value == DAMAGE or value.startswith(b"gAAAA")


def ask(client, person):
    """Use the client, on a path that only this person's token opens."""
    profile = client.connectapi(f"{PROFILE}/{person.display_name}")
    assert profile["userName"] == person.email


def use(user, person):
    with garmin_client(user) as client:
        ask(client, person)


def faults_in(asked):
    return [entry["fault"] for entry in asked if entry["fault"]]


def exchanges(asked, status=None):
    return [
        entry
        for entry in asked
        if entry["step"] == "exchange" and (status is None or entry["status"] == status)
    ]


def is_proof(entry):
    """Tell whether Garmin itself has refused, and its words have arrived."""
    return entry["status"] == 401 and not entry["fault"]


def in_bytes(value):
    if value is None or isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else bytes(value)


def swap(person, column, value):
    """Put bytes into an encrypted column, as a disk fault would, and return what was there."""
    before = in_bytes(raw_row(person.user)[column])
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {states.model._meta.db_table} SET {column} = %s WHERE user_id = %s",
            [value, person.user.pk],
        )
    return before


def secrets_of(person):
    """Return all that may not be read in the row: what was typed, and every token and cookie."""
    secrets = {person.email, person.password}
    if person.code:
        secrets.add(person.code)
    if person.has_session and not person.undamaged:
        data = person.rows.values_list("session_data", flat=True).get().decrypt()
        secrets |= {data, *strings_in(json.loads(base64.b64decode(data)))}
    if person.pending and not person.undamaged_challenge:
        challenge = person.rows.values_list("mfa_challenge", flat=True).get().decrypt()
        secrets |= set(strings_in(json.loads(challenge)))
    return secrets


def strings_in(value):
    """Yield the strings in JSON that are long enough to be found on purpose only."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from strings_in(item)
    elif isinstance(value, str) and len(value) >= 12:
        yield value


def test_random_interleavings_keep_every_promise(garmin, django_user_model, settings, monkeypatch):
    settings.GARMIN_AUTH_MFA_MAX_ATTEMPTS = MAX_ATTEMPTS
    monkeypatch.setattr("garmin_auth.engines.garth.login.COMPLETION_PAUSES", (0.001, 0.001))
    # No time passes between the steps. Other tests are about what hangs on it.
    monkeypatch.setattr("garmin_auth.sessions.REFRESH_EVERY", 0)
    monkeypatch.setattr("garmin_auth.sessions.EARLY", timedelta(days=-400))
    people = [django_user_model.objects.create_user(name) for name, _, _ in PEOPLE]
    machine = type("Site", (Site,), {"garmin": garmin, "users": people})

    run_state_machine_as_test(machine, settings=LOOK)


LOOK = settings(
    max_examples=EXAMPLES,
    # The normal suite looks at the same examples each time; the soak at new ones.
    derandomize="GARMIN_AUTH_EXAMPLES" not in os.environ,
    stateful_step_count=STEPS,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
