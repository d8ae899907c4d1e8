"""A mass failure of one engine stops the clearing of that engine's sessions, and nothing else."""

import io
import json
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse
from django.utils import timezone

from garmin_auth.exceptions import MassFailure, SessionExpired
from garmin_auth.health import Stopped, check_sessions
from garmin_auth.models import EndedReason, GarminAuthenticationState
from garmin_auth.sessions import garmin_client
from tests.conftest import needs_garminconnect

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.every_database]
states = GarminAuthenticationState.objects
PROFILE = "/userprofile-service/socialProfile"


@pytest.fixture
def dead(people, garmin):
    """So many users with dead sessions of garth."""

    def dead(number):
        users = people(number, access_expired=True)
        for user in users:
            garmin.revoke(f"{user.username}@example.com")
        return users

    return dead


@pytest.fixture
def healthy(django_user_model, garmin):
    """So many users with sessions of garminconnect that work; they were checked last."""

    def healthy(number):
        for n in range(number):
            user = django_user_model.objects.create_user(f"healthy{n}", password="x")
            email = f"{user.username}@example.com"
            garmin.add_account(email, "password")
            states.connect(
                user.pk,
                engine="garminconnect",
                session_data=garmin.issue_session(email, engine="garminconnect"),
                account_name=email,
                validated_at=None,
            )
            states.filter(user_id=user.pk).update(last_checked_at=timezone.now())

    return healthy


def ended():
    return states.filter(ended_reason=EndedReason.EXPIRED).count()


def check(*options):
    output = io.StringIO()
    with pytest.raises(SystemExit) as caught:
        call_command(
            "check_garmin_sessions", "--format", "json", *options, stdout=output, stderr=output
        )
    return json.loads(output.getvalue().splitlines()[0]), caught.value.code


@needs_garminconnect
def test_other_engines_sessions_are_checked_as_ever(dead, healthy):
    dead(6)
    healthy(20)

    report = check_sessions()

    assert report.engines["garminconnect"]["active"] == 20
    assert (report.expired, report.stopped) == (2, None)


@needs_garminconnect
def test_with_a_limit_other_engines_sessions_get_their_share(dead, healthy):
    dead(10)
    healthy(5)

    report = check_sessions(limit=8)

    assert report.engines["garminconnect"]["active"] == 5


def test_a_run_in_which_no_engine_can_go_on_has_stopped(dead):
    dead(6)

    report = check_sessions()

    assert (report.checked, report.stopped) == (3, Stopped.MASS_FAILURE)


def test_a_session_past_its_end_is_believed_and_is_no_evidence(dead):
    users = dead(5)
    states.filter(user__in=users).update(session_ends_at=timezone.now() - timedelta(days=1))

    report = check_sessions()

    assert (report.expired, report.stopped) == (5, None)
    assert states.refused_users() == {}


def test_a_use_of_a_session_past_its_end_clears_it_in_a_mass_failure_too(dead):
    users = dead(6)
    check_sessions()
    last = states.with_session().order_by("pk").last()
    assert last.user in users
    with pytest.raises(MassFailure), garmin_client(last.user) as client:
        client.connectapi(PROFILE)

    states.filter(pk=last.pk).update(session_ends_at=timezone.now())
    with pytest.raises(SessionExpired), garmin_client(last.user) as client:
        client.connectapi(PROFILE)


def test_staff_can_believe_an_engines_refusals(dead):
    dead(6)
    assert check()[0]["stopped"] == "mass_failure"

    report, code = check("--believe-refusals", "garth")

    assert (report["expired"], report["stopped"], code) == (4, None, 3)
    assert ended() == 6


def test_what_works_is_kept_when_staff_believe(dead, user, connect):
    dead(6)
    connect(user)

    check("--believe-refusals", "garth")

    assert states.with_session().get().user == user


def test_an_engine_that_is_not_known_is_refused():
    with pytest.raises(CommandError, match="unknown engine 'gart'") as caught:
        call_command("check_garmin_sessions", "--believe-refusals", "gart")

    assert caught.value.returncode == 2


@pytest.mark.parametrize(("answer", "cleared"), [("3", 6), ("yes", 2), ("", 2)])
def test_on_a_terminal_the_number_is_asked_back(dead, monkeypatch, answer, cleared):
    dead(6)
    check_sessions()
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: asked.append(prompt) or answer)

    with pytest.raises((SystemExit, CommandError)):
        call_command(
            "check_garmin_sessions",
            "--believe-refusals",
            "garth",
            stdout=io.StringIO(),
            stderr=io.StringIO(),
        )

    assert "Garmin has refused 3 users of the engine garth" in asked[0]
    assert ended() == cleared


def test_the_admins_check_leaves_out_an_engine_in_a_mass_failure(dead, admin_client, garmin):
    dead(12)
    selected = list(states.values_list("pk", flat=True))
    garmin.latency = 0.05

    admin_client.post(
        reverse("admin:garmin_auth_garminauthenticationstate_changelist"),
        {"action": "check_now", "_selected_action": selected},
    )

    # The eight workers may have begun before the third refusal was known.
    assert garmin.counts["exchange"] < 12
