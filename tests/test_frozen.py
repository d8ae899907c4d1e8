"""A process that is stopped for longer than its lease loses nothing that Garmin has given it."""

import os
import signal

import pytest

pytest.importorskip("garminconnect", reason="garminconnect needs Python 3.12 or newer")

from django.core import checks
from django.utils import timezone

from garmin_auth.exceptions import GarminUnavailable, SessionExpired
from garmin_auth.login import start_login
from garmin_auth.models import EndedReason, GarminAuthenticationState
from garmin_auth.sessions import garmin_client
from tests.conftest import EMAIL, PASSWORD, state_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.every_database]
states = GarminAuthenticationState.objects
PROFILE = "/userprofile-service/socialProfile"
USE = """
import django
django.setup()
from django.contrib.auth import get_user_model
from garmin_auth.exceptions import GarminAuthError
from garmin_auth.sessions import garmin_client
try:
    with garmin_client(get_user_model().objects.get(username="ana")) as client:
        print(client.connectapi("/userprofile-service/socialProfile")["userName"])
except GarminAuthError as exc:
    print(type(exc).__name__)
"""


@pytest.fixture
def frozen(user, garmin, site, start_python):
    """A process that was stopped after it had refreshed the user's session at Garmin."""
    garmin.add_account(EMAIL, PASSWORD)
    states.connect(
        user.pk,
        engine="garminconnect",
        session_data=garmin.issue_session(EMAIL, engine="garminconnect"),
        account_name=EMAIL,
        validated_at=None,
    )
    garmin.expire_access_tokens(EMAIL)
    process = start_python(
        "-c",
        USE,
        new_interpreter=True,  # So that it is a child of this process.
        **site("GARMIN_AUTH_ENGINES = {'garminconnect': 'tests.frozen_engine.FrozenEngine'}"),
    )
    # WUNTRACED: it returns when the process is stopped.
    _pid, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), process.communicate()
    assert states.filter(lease_expires_at__gt=timezone.now()).update(
        lease_expires_at=timezone.now()
    )
    return process


def use(user):
    with garmin_client(user) as client:
        return client.connectapi(PROFILE)["userName"]


def thaw(process):
    os.kill(process.pid, signal.SIGCONT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output.strip()


def test_one_refusal_meanwhile_clears_nothing(frozen, user):
    with pytest.raises(GarminUnavailable, match="unfinished refresh in another process"):
        use(user)

    assert thaw(frozen) == EMAIL
    assert use(user) == EMAIL


def test_a_session_that_was_cleared_meanwhile_is_brought_back(frozen, user):
    with pytest.raises(GarminUnavailable):
        use(user)
    with pytest.raises(SessionExpired):
        use(user)
    assert state_of(user).ended_reason == EndedReason.EXPIRED

    assert thaw(frozen) == EMAIL

    assert use(user) == EMAIL
    assert state_of(user).ended_reason == ""


def test_a_session_that_the_user_has_replaced_meanwhile_stays(frozen, user, garmin, settings):
    settings.GARMIN_AUTH_ENGINE = "garth"
    start_login(user, EMAIL, PASSWORD)

    assert thaw(frozen) == "NotAsked"

    assert state_of(user).engine == "garth"
    assert use(user) == EMAIL


def test_a_user_who_has_disconnected_meanwhile_stays_disconnected(frozen, user):
    states.disconnect(user.pk, EndedReason.USER)

    assert thaw(frozen) == "NotConnected"

    assert state_of(user).ended_reason == EndedReason.USER


def test_a_lease_shorter_than_a_refresh_is_refused(user, connect, settings):
    settings.GARMIN_AUTH_LEASE = 5
    connect(user, access_expired=True)

    messages = [message.msg for message in checks.run_checks(tags=["garmin_auth"])]

    assert any("GARMIN_AUTH_LEASE must be" in message for message in messages)
    with pytest.raises(Exception, match="GARMIN_AUTH_LEASE must be"):
        use(user)
