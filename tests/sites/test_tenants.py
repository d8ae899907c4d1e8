"""A site with django-tenants: the tenant is on the connection, and threads have their own."""

import importlib.util
import json
import re
import signal

import pytest
from django.db import connection

from tests.conftest import EMAIL, PASSWORD
from tests.sites.browser import Browser

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.every_database,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="schemas are PostgreSQL's"),
    pytest.mark.skipif(
        importlib.util.find_spec("django_tenants") is None, reason="django-tenants is not installed"
    ),
]

JOURNEY = """
import json, sys, threading
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django_tenants.utils import get_tenant_model, tenant_context
from garmin_auth.accounts import account_of
from garmin_auth.health import check_sessions
from garmin_auth.logins.background import THREAD_NAME
from garmin_auth.login import begin_login
from garmin_auth.models import GarminAuthenticationState
from garmin_auth.sessions import garmin_client

call_command("migrate_schemas", "--shared", verbosity=0, interactive=False)
clubs = [
    get_tenant_model().objects.create(schema_name=name, name=name) for name in ("north", "south")
]
found = {}
for club in clubs:
    with tenant_context(club):
        people = [
            get_user_model().objects.create_user(f"{club.name}{n}", password="x") for n in range(4)
        ]
        for person in people:
            begin_login(person, f"{person.username}@example.com", sys.argv[1])
            for thread in threading.enumerate():
                if thread.name == THREAD_NAME:
                    thread.join(60)
        report = check_sessions(workers=2)
        with garmin_client(people[0]) as client:
            def call():
                client.refresh_oauth2()
            thread = threading.Thread(target=call)
            thread.start()
            thread.join(60)
        found[club.name] = [
            [account_of(person).name for person in people],
            report.active,
            GarminAuthenticationState.objects.get(user=people[0]).session_version,
        ]
print(json.dumps(found))
"""


SET_UP = """
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django_tenants.utils import get_tenant_domain_model, get_tenant_model, tenant_context

call_command("migrate_schemas", "--shared", verbosity=0, interactive=False)
for name in ("public", "north", "south"):
    club = get_tenant_model().objects.create(schema_name=name, name=name)
    get_tenant_domain_model().objects.create(domain=f"{name}.clubs.example", tenant=club)
    if name != "public":
        with tenant_context(club):
            get_user_model().objects.create_superuser("staff", password="site password")
            get_user_model().objects.create_user("ana", password="site password")
"""
SYNC = """
import sys
from django.contrib.auth import get_user_model
from django_tenants.utils import get_tenant_model, tenant_context
from garmin_auth.exceptions import NotConnected
from garmin_auth.sessions import garmin_client

with tenant_context(get_tenant_model().objects.get(schema_name=sys.argv[1])):
    try:
        with garmin_client(get_user_model().objects.get(username="ana")) as client:
            print(client.connectapi("/userprofile-service/socialProfile")["userName"])
    except NotConnected:
        print("not connected")
"""
CONNECT = """
import sys
from django.contrib.auth import get_user_model
from django_tenants.utils import get_tenant_model, tenant_context
from garmin_auth.login import import_session

for name, session in zip(("north", "south"), sys.argv[1:]):
    with tenant_context(get_tenant_model().objects.get(schema_name=name)):
        import_session(get_user_model().objects.get(username="ana"), session, engine="garth")
"""
BREAK = """
from django.db import connection

connection.cursor().execute("DROP TABLE north.garmin_auth_garminauthenticationstate")
"""
SELECTABLE = re.compile(r'name="_selected_action" value="(\d+)"')
ADMIN = "/admin/garmin_auth/garminauthenticationstate/"


@pytest.fixture
def clubs(new_database, run_python):
    """The environment of a site of two clubs, each with a user ana and with staff of its own."""
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.sites.tenants.settings",
        "GARMIN_AUTH_DATABASE_NAME": new_database,
    }
    run_python(SET_UP, **environment)
    return environment


@pytest.fixture
def check_all(start_python, clubs):
    """Check the sessions of all clubs; return the reports and the exit code."""

    def check_all():
        process = start_python("manage.py", "check_tenants", **clubs)
        output, errors = process.communicate(timeout=60)
        reports = [json.loads(line) for line in output.splitlines()]
        assert len(reports) == 2, output + errors
        return reports, process.returncode

    return check_all


def test_a_journey_in_one_tenant_leaves_no_trace_in_the_other(
    clubs, serve, mfa_account, garmin, run_python, check_all
):
    gunicorn = (
        "-m",
        "gunicorn",
        "--bind",
        "127.0.0.1:0",
        "django.core.wsgi:get_wsgi_application()",
    )
    url = serve(*gunicorn, **clubs)

    def visit(club, name):
        return Browser(url, host=f"{club}.clubs.example").log_in(name)

    ana, namesake = visit("north", "ana"), visit("south", "ana")
    ana.begin_to_connect(EMAIL, PASSWORD)
    assert "garmin/mfa/" in ana.get("/garmin/").text
    assert "garmin/mfa/" not in namesake.get("/garmin/").text
    ana.give_code(garmin.mfa_code(EMAIL))
    garmin.expire_access_tokens()

    assert run_python(SYNC, "north", **clubs) == EMAIL
    assert run_python(SYNC, "south", **clubs) == "not connected"

    reports, code = check_all()
    assert [report["active"] for report in reports] == [1, 0]
    assert [report["checked"] for report in reports] == [1, 0]
    assert code == 0

    staff = visit("north", "staff")
    [pk] = SELECTABLE.findall(staff.get(ADMIN).text)
    done = staff.submit(ADMIN, action="check_now", _selected_action=pk)
    assert "“ana”: The connection works." in done.text
    assert SELECTABLE.findall(visit("south", "staff").get(ADMIN).text) == []
    assert EMAIL in ana.get("/garmin/").text
    assert EMAIL not in namesake.get("/garmin/").text


def test_all_tenants_are_checked_though_a_session_of_the_first_has_ended(
    clubs, garmin, run_python, check_all
):
    emails = ("ana@north.example", "ana@south.example")
    for email in emails:
        garmin.add_account(email, PASSWORD)
    run_python(CONNECT, *map(garmin.issue_session, emails), **clubs)
    garmin.revoke(emails[0])

    reports, code = check_all()

    assert [(report["expired"], report["active"]) for report in reports] == [(1, 0), (0, 1)]
    assert code == 3


def test_all_others_are_checked_though_the_tables_of_the_first_are_broken(
    clubs, garmin, run_python, start_python
):
    emails = ("ana@north.example", "ana@south.example")
    for email in emails:
        garmin.add_account(email, PASSWORD)
    run_python(CONNECT, *map(garmin.issue_session, emails), **clubs)
    run_python(BREAK, **clubs)

    process = start_python("manage.py", "check_tenants", **clubs)
    output, errors = process.communicate(timeout=60)

    assert [json.loads(line)["active"] for line in output.splitlines()] == [1], output + errors
    assert "north: The database cannot be used" in errors
    assert process.returncode == 1


def test_after_a_signal_no_other_tenant_is_checked(clubs, garmin, run_python, start_python, hold):
    emails = ("ana@north.example", "ana@south.example")
    for email in emails:
        garmin.add_account(email, PASSWORD)
    run_python(CONNECT, *map(garmin.issue_session, emails), **clubs)
    held = hold("api")
    process = start_python("manage.py", "check_tenants", **clubs)
    held.wait()
    process.send_signal(signal.SIGTERM)
    held.release()
    output, errors = process.communicate(timeout=60)

    assert len(output.splitlines()) == 1, output + errors
    assert process.returncode == 4


def test_logins_checks_and_refreshes_in_threads_stay_with_their_tenant(
    new_database, garmin, run_python
):
    for club in ("north", "south"):
        for n in range(4):
            garmin.add_account(f"{club}{n}@example.com", PASSWORD)

    printed = run_python(
        JOURNEY,
        PASSWORD,
        DJANGO_SETTINGS_MODULE="tests.sites.tenants.settings",
        GARMIN_AUTH_DATABASE_NAME=new_database,
    )
    found = json.loads(printed.splitlines()[-1])  # After what the migrations say.

    for club in ("north", "south"):
        names, active, version = found[club]
        assert names == [f"{club}{n}@example.com" for n in range(4)]
        assert active == 4
        assert version == 2  # Stored by the login, and by the refresh in a thread.
