"""The check for django-health-check, through that package's own view."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connections
from django.urls import path
from django.utils import timezone
from health_check.views import HealthCheckView

from garmin_auth.health_checks import GarminSessions
from garmin_auth.limits import cooldown
from garmin_auth.models import GarminAuthenticationState
from tests.conftest import EMAIL
from tests.rows import store

# Its threads have connections of their own.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.every_database]
CHECKS = [("garmin_auth.health_checks.GarminSessions", {"max_age": timedelta(days=2)})]
urlpatterns = [path("health/", HealthCheckView.as_view(checks=CHECKS))]


@pytest.fixture
def health(settings, client):
    """Ask the view, and return the status and what it says of the check."""
    settings.ROOT_URLCONF = __name__

    def health():
        response = client.get("/health/", {"format": "json"})
        ((name, said),) = response.json().items()
        assert name == "GarminSessions(max_age=datetime.timedelta(days=2))"
        return response.status_code, said

    return health


def set_times(user, **days):
    now = timezone.now()
    times = {name: number and now - timedelta(days=number) for name, number in days.items()}
    GarminAuthenticationState.objects.filter(user=user).update(**times)


def test_a_site_without_sessions_is_healthy(health):
    assert health() == (200, "OK")


def test_a_site_whose_session_was_checked_is_healthy(health, user):
    store(user)
    set_times(user, connected_at=9, last_checked_at=1)

    assert health() == (200, "OK")


@pytest.mark.parametrize("checked", [None, 3], ids=["never", "long ago"])
def test_a_session_that_waits_too_long_is_unhealthy(health, user, checked):
    store(user)
    set_times(user, connected_at=9, last_checked_at=checked, last_validated=3)

    status, said = health()

    assert status == 500
    assert said == "Unavailable: No Garmin session has been checked for 2 days, 0:00:00."


@pytest.mark.parametrize(
    "times", [{"connected_at": 9, "last_validated": 1}, {"connected_at": 1}], ids=["used", "new"]
)
def test_a_session_that_no_check_is_due_for_is_healthy(health, user, times):
    store(user)
    set_times(user, **times)

    assert health() == (200, "OK")


def test_a_mass_failure_is_unhealthy_and_names_nobody(health, people):
    for user in people(3):
        set_times(user, refused_at=1)

    status, said = health()

    assert status == 500
    assert said == "Unavailable: garmin.com refuses 3 users of the engine garth and accepts none."
    assert EMAIL not in said


def test_a_cooldown_is_a_warning(health):
    cooldown.start(cooldown.site_scope("garmin.com"), 60)

    status, said = health()

    assert status == 500
    assert said.startswith("Warning: garmin.com is rate limiting this site, for ")


def test_a_frozen_site_is_healthy(health, user, settings):
    store(user)
    set_times(user, connected_at=9, last_validated=9)
    settings.GARMIN_AUTH_FROZEN = True

    assert health() == (200, "OK")


def test_its_thread_leaves_no_connection_though_the_site_keeps_them(user, monkeypatch):
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", None)
    store(user)
    set_times(user, connected_at=9, last_checked_at=1)

    def run():
        GarminSessions().run()
        return connections["default"].connection

    with ThreadPoolExecutor() as executor:
        assert executor.submit(run).result() is None
