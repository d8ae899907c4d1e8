"""The keys are changed while workers use the sessions, and the rotation is killed on the way.

GARMIN_AUTH_ROTATED=10000 and GARMIN_AUTH_WORKERS=8 make a soak of it.
"""

import json
import os
import time

import pytest
from django.contrib.auth import get_user_model
from django.db import connections
from django.utils import timezone

from garmin_auth.models import GarminAuthenticationState
from tests.conftest import PASSWORD
from tests.settings import FERNET_KEYS

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.every_database]
SESSIONS = int(os.environ.get("GARMIN_AUTH_ROTATED", "300"))
WORKERS = int(os.environ.get("GARMIN_AUTH_WORKERS", "2"))
NEW = "the new key"
OPEN_ALL = """
from garmin_auth.models import GarminAuthenticationState as State
rows = State.objects.with_session().iterator()
print(sum(bool(row.session_data.decrypt() and row.account_name.decrypt()) for row in rows))
"""


def with_keys(*keys):
    return {
        "DJANGO_SETTINGS_MODULE": "tests.rotation_settings",
        "GARMIN_AUTH_TEST_FERNET_KEYS": json.dumps(keys),
    }


@pytest.fixture
def sessions(garmin):
    """Many connected users; the access token of every tenth has expired."""
    user_model = get_user_model()
    emails = [f"user{number}@example.com" for number in range(SESSIONS)]
    user_model.objects.bulk_create(
        [user_model(username=email, email=email) for email in emails], batch_size=500
    )
    rows = []
    for number, user in enumerate(user_model.objects.order_by("pk")):
        garmin.add_account(user.email, PASSWORD)
        rows.append(
            GarminAuthenticationState(
                user=user,
                engine="garth",
                session_data=garmin.issue_session(user.email, access_expired=number % 10 == 0),
                account_name=user.email,
                connected_at=timezone.now(),
                ended_reason="",
            )
        )
    GarminAuthenticationState.objects.bulk_create(rows, batch_size=200)
    connections.close_all()


def test_no_session_is_lost_and_no_worker_notices(
    sessions, start_python, run_python, tmp_path, garmin
):
    both = with_keys(NEW, *FERNET_KEYS)
    stop = tmp_path / "stop"
    workers = [start_python("-m", "tests.rotation_worker", stop, **both) for _ in range(WORKERS)]
    gives_up_at = time.monotonic() + 120
    while not garmin.counts["api"]:  # Until they are at work.
        assert time.monotonic() < gives_up_at
        assert [worker.poll() for worker in workers] == [None] * WORKERS
        time.sleep(0.05)

    killed = start_python("manage.py", "rotate_garmin_keys", "--batch-size", "50", **both)
    time.sleep(1.2 + SESSIONS / 3000)
    killed.kill()
    killed.wait()
    for _ in range(5):  # What is being refreshed is left for the next run.
        again = start_python("manage.py", "rotate_garmin_keys", **both)
        output, errors = again.communicate(timeout=900)
        if again.returncode == 0:
            break
    assert again.returncode == 0, output + errors

    stop.touch()
    reports = [worker.communicate(timeout=60)[0].splitlines() for worker in workers]
    calls = sum(int(report[0]) for report in reports)
    print(f"{SESSIONS} sessions, {WORKERS} workers, {calls} calls. Last run: {output.strip()}")
    assert [line for report in reports for line in report[1:]] == []
    assert calls > 0
    assert run_python(OPEN_ALL, **with_keys(NEW)) == str(SESSIONS)
