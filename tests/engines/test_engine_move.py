"""A site with sessions of garth chooses garminconnect for what is new, and nobody notices."""

import ast
import json
import re

import pytest

from garmin_auth.health import check_sessions
from garmin_auth.login import (
    MFARequired,
    connect_with_key,
    import_session,
    start_login,
    submit_mfa,
)
from garmin_auth.models import GarminAuthenticationState
from garmin_auth.sessions import garmin_client
from tests.conftest import (
    PASSWORD,
    ROOT,
    needs_garminconnect,
    needs_personal,
    raw_row,
    state_of,
)

pytestmark = pytest.mark.django_db(transaction=True)
states = GarminAuthenticationState.objects

SESSIONS = 100
PROFILE = "/userprofile-service/socialProfile"
NONE = {"checked": 0, "active": 0, "expired": 0, "unknown": 0, "unreadable": 0}

# Syncs for everybody, as a worker does that knows nothing of engines.
WORKER = """
from django.contrib.auth import get_user_model
from garmin_auth.sessions import garmin_client
for user in get_user_model().objects.order_by("pk"):
    with garmin_client(user) as client:
        print(user.username, client.connectapi("/userprofile-service/socialProfile")["userName"])
"""
CHECK = ("check_garmin_sessions", "--format", "json")


@pytest.fixture
def users(django_user_model, connect):
    """A hundred users with sessions of garth, every tenth of which is to be refreshed."""
    users = [django_user_model(username=f"user{number:03}") for number in range(SESSIONS)]
    django_user_model.objects.bulk_create(users)
    users = list(django_user_model.objects.order_by("username"))
    for number, user in enumerate(users):
        connect(user, email_of(user), access_expired=number % 10 == 0)
    return users


@pytest.fixture
def moved(users, settings, monkeypatch, garmin):
    """The same site with the setting switched, in the tests' other processes too."""
    settings.GARMIN_AUTH_ENGINE = "garminconnect"
    monkeypatch.setenv("GARMIN_AUTH_TEST_ENGINE", "garminconnect")
    for name, value in garmin.library_environment.items():
        monkeypatch.setenv(name, value)
    return users


def email_of(user):
    return f"{user.username}@example.com"


def log_in_anew(garmin, user):
    """As the user does: with the password, and the code where Garmin wants one."""
    result = start_login(user, email_of(user), PASSWORD)
    if isinstance(result, MFARequired):
        submit_mfa(user, garmin.mfa_code(email_of(user)))


def have_moved(garmin, users):
    """Store what such a login brings, without its pauses."""
    for user in users:
        data = garmin.issue_session(email_of(user), engine="garminconnect")
        states.connect(
            user.pk,
            engine="garminconnect",
            session_data=data,
            account_name=email_of(user),
            validated_at=None,
        )


def by_engine():
    rows = states.with_session().order_by("pk").values_list("engine", flat=True)
    return {name: list(rows).count(name) for name in set(rows)}


def test_a_hundred_sessions_of_garth_go_on_after_the_switch(moved, run_python):
    lines = run_python(WORKER).splitlines()

    assert lines == [f"{user.username} {email_of(user)}" for user in moved]
    assert by_engine() == {"garth": SESSIONS}


def test_they_are_refreshed_and_checked_by_garth(moved, garmin):
    report = check_sessions()

    assert report.engines == {"garth": {**NONE, "checked": SESSIONS, "active": SESSIONS}}
    assert report.refreshed == SESSIONS // 10
    assert (garmin.counts["exchange"], garmin.counts["refused_host"]) == (SESSIONS // 10, 0)


def test_the_switch_alone_touches_no_row(users, settings):
    before = [raw_row(user) for user in users]

    settings.GARMIN_AUTH_ENGINE = "garminconnect"

    assert [raw_row(user) for user in users] == before


@needs_garminconnect
def test_who_logs_in_anew_is_on_garminconnect_and_the_others_stay(moved, garmin):
    new, others = moved[:3], moved[3:]
    untouched = {user.pk: bytes(raw_row(user)["session_data"]) for user in others}
    garmin.add_account("with-mfa@example.com", PASSWORD, mfa=True)

    for user in new[:2]:
        log_in_anew(garmin, user)
    begun = start_login(new[2], "with-mfa@example.com", PASSWORD)
    assert isinstance(begun, MFARequired)
    assert state_of(new[2]).engine == "garth"  # In use until the new one replaces it.
    submit_mfa(new[2], garmin.mfa_code("with-mfa@example.com"))

    assert by_engine() == {"garth": SESSIONS - 3, "garminconnect": 3}
    assert {state_of(user).engine for user in new} == {"garminconnect"}
    assert {user.pk: bytes(raw_row(user)["session_data"]) for user in others} == untouched


@needs_garminconnect
def test_one_check_handles_both_engines(moved, garmin, start_python):
    for user in moved[:3]:
        log_in_anew(garmin, user)
    garmin.expire_access_tokens(email_of(moved[0]))  # Of garminconnect: to be refreshed.
    garmin.revoke(email_of(moved[1]))  # Of garminconnect: dead.
    garmin.revoke(email_of(moved[99]))  # Of garth: dead.

    process = start_python("manage.py", *CHECK)
    output, errors = process.communicate(timeout=120)

    assert process.returncode == 3, errors
    report = json.loads(output)
    assert report["engines"] == {
        "garminconnect": {**NONE, "checked": 3, "active": 2, "expired": 1},
        "garth": {**NONE, "checked": 97, "active": 96, "expired": 1},
    }
    assert (report["checked"], report["active"], report["expired"]) == (100, 98, 2)
    assert report["stopped"] is None
    assert by_engine() == {"garth": 96, "garminconnect": 2}


@needs_garminconnect
def test_a_worker_syncs_for_both_engines(moved, garmin, run_python):
    have_moved(garmin, moved[:3])

    lines = run_python(WORKER).splitlines()

    assert lines == [f"{user.username} {email_of(user)}" for user in moved]


@needs_garminconnect
def test_the_way_back_is_as_quiet(moved, garmin, settings):
    have_moved(garmin, moved[:1])

    settings.GARMIN_AUTH_ENGINE = "garth"

    with garmin_client(moved[0]) as client:
        assert client.connectapi(PROFILE)["userName"] == email_of(moved[0])
    assert state_of(moved[0]).engine == "garminconnect"


@needs_garminconnect
@needs_personal
def test_a_site_moves_user_by_user_to_keys_too(django_user_model, connect, garmin, settings):
    """Nobody loses a session, and one check judges each by its own engine."""
    users = [django_user_model.objects.create_user(f"user{number}") for number in range(6)]
    for user in users:
        connect(user, email_of(user))
    for user in users[2:]:
        data = garmin.issue_session(email_of(user), "garminconnect")
        import_session(user, data, engine="garminconnect")
    settings.GARMIN_AUTH_ENGINE = "garminconnect"
    for user in users[4:]:
        connect_with_key(user, garmin.add_key(email_of(user)))
    for user in users[1::2]:
        garmin.revoke(email_of(user))
    garmin.expire_access_tokens()

    report = check_sessions()

    judged = {**NONE, "checked": 2, "active": 1, "expired": 1}
    assert report.engines == dict.fromkeys(("garth", "garminconnect", "personal"), judged)
    assert report.refreshed == 3


def test_the_engines_alone_know_which_engine_it_is():
    """But for what a help text gives as an example."""
    found = set()
    for path in (ROOT / "garmin_auth").rglob("*.py"):
        name = path.relative_to(ROOT / "garmin_auth").as_posix()
        if name.startswith(("engines/", "testing/", "migrations/")):
            continue
        tree = ast.parse(path.read_text())
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        found |= {
            (name, node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in prose
            and re.search("garth|garminconnect", node.value, re.IGNORECASE)
        }

    assert {name for name, _ in found} <= {
        "management/commands/import_garmin_session.py",  # "such as a GARTH_TOKEN"
        "management/commands/garmin_simulator.py",  # What the library needs to be led to it.
    }
