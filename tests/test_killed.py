"""Processes killed with SIGKILL at random moments, and what they leave behind.

``GARMIN_AUTH_KILLS`` says how many of each action are killed; with ``-s`` the figures are shown.
``GARMIN_AUTH_KILLS_SEED`` repeats the moments of an earlier run.
"""

import json
import os
import random
import time
from collections import Counter
from datetime import timedelta

import pytest
from django.db import connections
from django.utils import timezone

from garmin_auth.conf import conf
from garmin_auth.exceptions import GarminUnavailable, LoginRejected
from garmin_auth.login import MFARequired, pending_login, start_login, submit_mfa
from garmin_auth.models import GarminAuthenticationState
from garmin_auth.sessions import garmin_client
from tests.conftest import PASSWORD, raw_row, state_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.every_database]
states = GarminAuthenticationState.objects
PROFILE = "/userprofile-service/socialProfile"
KILLS = int(os.environ.get("GARMIN_AUTH_KILLS", "5"))
SEED = int(os.environ.get("GARMIN_AUTH_KILLS_SEED") or random.randrange(2**32))
LATENCY = 0.02
# For so long the login of a killed process keeps another of the same user waiting.
LOGIN_TIMEOUT = 10
# Seconds that a use may take, one exchange and one call, on a busy machine: less than a lease, so
# that a wait for one would be seen.
PROMPT = 15


class Victim:
    """A user with a Garmin account, and a process that acts for them."""

    def __init__(self, user, action, *, email, old_email=None, arguments=None):
        self.user = user
        self.email, self.old_email = email, old_email
        self.order = {"action": action, "user": user.pk, **(arguments or {})}


@pytest.fixture
def shared_cache(settings, tmp_path):
    """The folder of a cache that the processes share with the test."""
    settings.CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
            "LOCATION": str(tmp_path),
        }
    }
    return tmp_path


@pytest.fixture
def kill(start_python, shared_cache, garmin):
    """Kill a process that acts for a victim, so many seconds after it began; None: let it end."""
    killer = start_python("-m", "tests.kill", shared_cache, LOGIN_TIMEOUT)

    def kill(victim, after):
        connections.close_all()
        garmin.latency = LATENCY
        killer.stdin.write(json.dumps({**victim.order, "after": after}) + "\n")
        killer.stdin.flush()
        answer = killer.stdout.readline()
        garmin.latency = 0
        assert answer, killer.communicate()[1]
        answer = json.loads(answer)
        assert answer["error"] == ""
        return answer

    return kill


@pytest.fixture
def victim(django_user_model, garmin, connect):
    """Make the nth user whom an action needs."""

    def login(n, user):
        email = f"new-{n}@example.com"
        garmin.add_account(email, PASSWORD, mfa=bool(n % 2))
        arguments = {"email": email, "password": PASSWORD}
        return Victim(user, "login", email=email, old_email=had(n, user), arguments=arguments)

    def code(n, user):
        email, old_email = f"new-{n}@example.com", had(n, user)
        garmin.add_account(email, PASSWORD, mfa=True)
        start_login(user, email, PASSWORD)
        arguments = {"code": garmin.mfa_code(email)}
        return Victim(user, "code", email=email, old_email=old_email, arguments=arguments)

    def use(n, user, action="use", expired=True):
        email = f"old-{n}@example.com"
        connect(user, email, access_expired=expired)
        return Victim(user, action, email=email, old_email=email)

    def had(n, user):
        """Half of the users are connected already, with another account."""
        if n // 2 % 2:
            return None
        email = f"old-{n}@example.com"
        connect(user, email)
        return email

    makers = {
        "login": login,
        "code": code,
        "refresh": use,
        "write-back": lambda n, user: use(n, user, "write-back", expired=False),
    }

    def victim(action, n):
        return makers[action](n, django_user_model.objects.create_user(f"user {n}"))

    return victim


def left_behind(user):
    """Return what the user's row is after a kill, once it is known to be legal."""
    for constraint in GarminAuthenticationState._meta.constraints:
        assert not states.exclude(constraint.condition).exists()
    if state_of(user) is None:
        return "none"
    row = raw_row(user)
    stored, pending = row["session_data"] is not None, bool(row["mfa_pending"])
    assert (row["mfa_challenge"] is not None) == pending
    assert (row["mfa_started_at"] is not None) == pending
    assert pending or row["mfa_attempts"] == 0
    assert (row["connected_at"] is not None) == stored
    assert (row["ended_reason"] == "") == stored
    assert (row["lease_expires_at"] is not None) == (row["lease_owner"] != "")
    assert row["status"] == ("mfa_pending" if pending else "active" if stored else "disconnected")
    return "leased" if row["lease_owner"] else row["status"]


def let_the_lease_end(user):
    """Let the time pass for which others wait: no longer than a lease."""
    assert state_of(user).lease_expires_at <= timezone.now() + timedelta(seconds=conf.LEASE)
    states.filter(user=user).update(lease_expires_at=timezone.now())


def use(user):
    """Return whose account the stored session is, and how many seconds the use took."""
    began = time.monotonic()
    with garmin_client(user) as client:
        name = client.connectapi(PROFILE)["userName"]
    return name, time.monotonic() - began


def finish_login(garmin, victim):
    """Finish what the killed process began, or begin anew where Garmin has taken the code."""
    asked = [(entry["step"], entry["account"]) for entry in garmin.log]
    if pending_login(victim.user):
        try:
            submit_mfa(victim.user, garmin.mfa_code(victim.email))
        except (LoginRejected, GarminUnavailable):
            # Only a code that Garmin has had from the killed process may be of no use any more.
            assert ("verify_code", victim.email) in asked
        else:
            return "finished"
    result = start_login(victim.user, victim.email, PASSWORD)
    if isinstance(result, MFARequired):
        submit_mfa(victim.user, garmin.mfa_code(victim.email))
    return "begun anew"


@pytest.mark.parametrize("action", ["login", "code", "refresh", "write-back"])
def test_a_killed_process_leaves_legal_rows_and_working_sessions(action, kill, victim, garmin):
    print(f"\n{action}: seed {SEED}")  # First, so that a test that fails has told it.
    moments = random.Random(f"{SEED} {action}")
    # With MFA and without; twice, for a first one is slower.
    lived = [kill(victim(action, n), None)["seconds"] for n in range(4)]
    durations = [min(lived[::2]), min(lived[1::2])]
    figures, waits, victims = Counter(), [], []

    while figures["killed"] < KILLS:
        n = len(lived) + len(victims)
        assert n < 100 + 10 * KILLS, "Most processes have ended before they were to be killed."
        unlucky = victim(action, n)
        answer = kill(unlucky, moments.uniform(0, durations[n % 2]))
        figures["killed" if answer["killed"] else "ended before"] += 1
        left = left_behind(unlucky.user)
        figures[left] += 1
        if left == "leased":
            let_the_lease_end(unlucky.user)
        if unlucky.old_email:
            name, seconds = use(unlucky.user)
            assert name in (unlucky.old_email, unlucky.email)
            waits.append(seconds)
        victims.append(unlucky)

    if action not in ("refresh", "write-back"):
        time.sleep(LOGIN_TIMEOUT if action != "code" else 0)
        for unlucky in victims:
            figures[finish_login(garmin, unlucky)] += 1
            assert use(unlucky.user)[0] == unlucky.email
    garmin.expire_access_tokens()
    for unlucky in victims:
        assert use(unlucky.user)[0] in (unlucky.old_email, unlucky.email)
        assert left_behind(unlucky.user) == "active"

    print(
        f"{action}: within {max(durations):.3f} s, {dict(figures)}, "
        f"longest wait for a stored session {max(waits):.2f} s"
    )
    assert max(waits) < PROMPT
