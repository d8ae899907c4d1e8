import os

from tests.conftest import EMAIL, PASSWORD

SITE = """
from django.contrib.auth.models import User
from django.core.management import call_command
from garmin_auth.models import GarminAuthenticationState as State
for alias in ("default", "primary", "replica"):
    call_command("migrate", database=alias, verbosity=0)
user = User.objects.create_user("ana")
"""


def test_sessions_are_read_where_they_are_written(garmin, run_python, tmp_path):
    garmin.add_account(EMAIL, PASSWORD)

    printed = run_python(
        SITE
        + f"""
from garmin_auth.login import start_login
from garmin_auth.metrics import collect_metrics
from garmin_auth.sessions import garmin_client
start_login(user, {EMAIL!r}, {PASSWORD!r})
with garmin_client(user) as client:
    print(client.username)
print(*[State.objects.using(alias).count() for alias in ("default", "primary", "replica")])
print(*[collect_metrics(using).services[0].connections["active"] for using in (None, "primary")])
""",
        **replicated(tmp_path),
    )

    # The router sends what may be read anywhere to the replica, which has nothing yet.
    assert printed.splitlines() == [EMAIL, "0 1 0", "0 1"]


def test_pages_open_no_transaction_on_any_database(garmin, run_python, tmp_path):
    garmin.add_account(EMAIL, PASSWORD, mfa=True)

    printed = run_python(
        SITE
        + f"""
from django.test import RequestFactory
from django.core.handlers.base import BaseHandler
from django.urls import resolve
from garmin_auth.login import pending_login
request = RequestFactory().post("/garmin/login/", {{"email": {EMAIL!r}, "password": {PASSWORD!r}}})
request.user, request._dont_enforce_csrf_checks = user, True
request.session = {{}}
match = resolve("/garmin/login/")
view = BaseHandler().make_view_atomic(match.func)
print(view(request).status_code, pending_login(user) is not None)
""",
        **replicated(tmp_path),
    )

    assert printed == "302 True"


def replicated(folder):
    return {
        "DJANGO_SETTINGS_MODULE": "tests.replicated_settings",
        "DATABASE_FOLDER": os.fspath(folder),
    }
