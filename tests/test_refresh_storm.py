"""Threads of several processes use few sessions of both engines, and roll back what they do.

GARMIN_AUTH_REFRESHES=10000, GARMIN_AUTH_WORKERS=8 and GARMIN_AUTH_THREADS=8 make a soak of it.
"""

import json
import os
import random
import time
from collections import Counter

import pytest
from django.db import connection, connections

from garmin_auth.models import GarminAuthenticationState
from garmin_auth.sessions import garmin_client
from tests import services
from tests.conftest import PASSWORD

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.every_database,
    pytest.mark.usefixtures("many_connections"),
]
states = GarminAuthenticationState.objects
PROFILE = "/userprofile-service/socialProfile"
REFRESHES = int(os.environ.get("GARMIN_AUTH_REFRESHES", "10"))
PROCESSES = int(os.environ.get("GARMIN_AUTH_WORKERS", "2"))
THREADS = int(os.environ.get("GARMIN_AUTH_THREADS", "4"))
ENGINES = ["garth"] if services.why_not_garminconnect() else ["garth", "garminconnect"]
STEPS = ("exchange", "di_refresh")
SECONDS_MOST = 1800


@pytest.fixture
def emails(django_user_model, garmin):
    """Connected users, of each engine in turn."""
    emails = [f"user{n}@example.com" for n in range(12)]
    for n, email in enumerate(emails):
        engine = ENGINES[n % len(ENGINES)]
        garmin.add_account(email, PASSWORD)
        user = django_user_model.objects.create_user(email)
        states.connect(
            user.pk,
            engine=engine,
            session_data=garmin.issue_session(email, engine=engine),
            account_name=email,
            validated_at=None,
        )
    return emails


def refreshes(garmin):
    return sum(garmin.counts[step] for step in STEPS)


def test_no_session_is_lost_whatever_is_rolled_back(emails, garmin, start_python):
    """Half of the time Garmin takes long to refresh, or fails before it does."""
    connections.close_all()
    processes = [start_python("-m", "tests.refresh_storm", THREADS, n) for n in range(PROCESSES)]
    chance, ends_at = random.Random(1), time.monotonic() + SECONDS_MOST
    while refreshes(garmin) < REFRESHES and time.monotonic() < ends_at:
        for process in processes:
            assert process.poll() is None, process.communicate()
        garmin.latency = chance.choice([0, 0, 0.2])
        if chance.random() < 0.2:
            garmin.fail(chance.choice(STEPS), "status", times=1)
        for email in chance.sample(emails, 3):
            garmin.expire_access_tokens(email)
        time.sleep(0.05)
    garmin.latency = 0
    garmin.heal()
    found = Counter()
    for process in processes:
        output, errors = process.communicate(timeout=300)  # It closes standard input.
        assert process.returncode == 0, errors
        found.update(json.loads(output))
    connections.close_all()

    assert refreshes(garmin) >= REFRESHES
    assert found.keys() <= {"worked", "rolled back", "unavailable", "OperationalError"}
    assert states.with_session().count() == len(emails)
    for state in states.select_related("user"):
        # Twice: what is stored is what Garmin has rotated to, or the second refresh is refused.
        for _ in range(2):
            garmin.expire_access_tokens(state.user.username)
            with garmin_client(state.user) as client:
                assert client.connectapi(PROFILE)["userName"] == state.user.username
    print(connection.vendor, f"{refreshes(garmin)} refreshes", json.dumps(found))
