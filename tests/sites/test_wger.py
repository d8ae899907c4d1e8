"""A user's journey on a site as wger is; the shell, the server and the worker are processes."""

import json
from uuid import uuid4

import pytest

from garmin_auth.models import Status
from tests import services
from tests.conftest import EMAIL, PASSWORD, needs_garminconnect, needs_redis, state_of
from tests.sites.browser import Browser
from tests.sites.conftest import tokens_in
from tests.waiting import wait_until

pytest.importorskip("rest_framework", reason="REST framework is not installed")
pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.every_database,
    needs_redis,
]
API = "/api/v2/garmin/"
SYNC = """
import json, sys
from tests.sites.wger.tasks import sync
print(json.dumps(sync.delay(int(sys.argv[1]), "2026-11-22").get(timeout=60)))
"""
CHECK = """
from garmin_auth.tasks import check_due_sessions
print(check_due_sessions.delay().get(timeout=60)["enqueued"])
"""


@pytest.fixture
def wger():
    """The environment of the site's processes. What they leave in Redis goes."""
    import redis

    prefix = f"garmin_auth_test_{uuid4().hex}"
    yield {
        "DJANGO_SETTINGS_MODULE": "tests.sites.wger.settings",
        "GARMIN_AUTH_TEST_QUEUE": prefix,
    }
    with redis.Redis.from_url(services.BROKERS["redis"]) as client:
        for key in client.scan_iter(match=f"*{prefix}*"):
            client.delete(key)


@pytest.fixture
def worker(start_python, wger):
    """A worker of greenlets, which is being started."""
    worker = start_python(
        *("-m", "celery", "-A", "tests.sites.wger", "worker", "-P", "gevent", "--concurrency", 4),
        *("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"),
        new_interpreter=True,
        **wger,
    )
    yield worker
    worker.kill()  # To end in order takes a worker with Redis five seconds.
    worker.communicate(timeout=30)


@pytest.fixture
def ana(serve, wger, user):
    """A user's browser at the site."""
    gunicorn = (
        "-m",
        "gunicorn",
        "--bind",
        "127.0.0.1:0",
        "django.core.wsgi:get_wsgi_application()",
    )
    return Browser(serve(*gunicorn, **wger)).log_in("ana")


@pytest.fixture
def sync_and_check(worker, wger, run_python, user):
    """Let the worker do both for the user, and see that it has."""

    def sync_and_check():
        assert json.loads(run_python(SYNC, user.pk, **wger))["totalSteps"] > 0
        assert run_python(CHECK, **wger) == "1"
        wait_until(lambda: state_of(user).last_checked_at)
        state = state_of(user)
        assert state.status == Status.ACTIVE
        assert state.last_validated >= state.last_checked_at

    return sync_and_check


def test_connect_with_a_code_sync_and_check_in_greenlets(sync_and_check, ana, mfa_account, garmin):
    ana.begin_to_connect(EMAIL, PASSWORD)
    ana.give_code(garmin.mfa_code(EMAIL))
    garmin.expire_access_tokens()

    sync_and_check()

    assert garmin.counts["exchange"] == 2  # The login's, and the worker's.


@needs_garminconnect
def test_a_session_of_garminconnect_is_refreshed_in_greenlets(
    sync_and_check, user, connect, garmin
):
    connect(user, engine="garminconnect", access_expired=True)

    sync_and_check()

    assert garmin.counts["di_refresh"] == 1


@pytest.mark.parametrize("accept", ["application/json", "text/html"])
def test_the_api_shows_ciphertext_and_no_secret(ana, user, mfa_account, garmin, accept):
    def seen():
        return ana.get(f"{API}{state_of(user).pk}/", headers={"Accept": accept}).text

    ana.begin_to_connect(EMAIL, PASSWORD)
    code = garmin.mfa_code(EMAIL)
    pending, challenge = seen(), state_of(user).mfa_challenge
    ana.give_code(code)
    connected, state = seen(), state_of(user)

    assert str(challenge) in pending
    assert str(state.session_data) in connected
    assert str(state.account_name) in connected
    tokens = [*tokens_in(challenge), *tokens_in(state.session_data)]
    assert len(tokens) > 4
    for secret in (EMAIL, PASSWORD, code, *tokens):
        assert secret not in pending + connected


def test_what_is_written_through_the_api_leaves_the_session_as_it_is(ana, user, connect):
    before = connect(user)

    ana.patch(f"{API}{before.pk}/", {"session_data": "mine", "mfa_attempts": 3})

    after = state_of(user)
    assert after.mfa_attempts == 3
    assert after.session_data == before.session_data
    assert after.session_data.decrypt() == before.session_data.decrypt()
