"""The whole journey through the API, with each kind of authentication, each step in a process."""

import json

import pytest

from tests.api.conftest import CONNECTION, KEY, LOGIN, MFA
from tests.conftest import EMAIL, PASSWORD, needs_personal
from tests.sites.conftest import new_database  # noqa: F401 - a fixture
from tests.test_views import another_code
from tests.waiting import wait_until

pytest.importorskip("rest_framework_simplejwt", reason="simplejwt is not installed")
pytestmark = [pytest.mark.django_db(transaction=True), needs_personal]

# Prints what each kind of client of two users sends with its requests.
MIGRATE = """
import json
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client
from rest_framework.authtoken.models import Token
from rest_framework_simplejwt.tokens import AccessToken
call_command("migrate", verbosity=0)
known = {"session": {}, "token": {}, "jwt": {}}
for name in ("ana", "ben"):
    user = get_user_model().objects.create_user(name)
    client = Client()
    client.force_login(user)
    csrf = "a" * 32
    cookies = {"csrftoken": csrf, "sessionid": client.cookies["sessionid"].value}
    known["session"][name] = {"cookies": cookies, "headers": {"X-CSRFToken": csrf}}
    for kind, header in (
        ("token", f"Token {Token.objects.create(user=user)}"),
        ("jwt", f"Bearer {AccessToken.for_user(user)}"),
    ):
        known[kind][name] = {"cookies": {}, "headers": {"Authorization": header}}
print(json.dumps(known))
"""
STEP = """
import json, sys
from django.test import Client
from tests.waiting import wait_for_logins
who, method, path, data = map(json.loads, sys.argv[1:])
client = Client(enforce_csrf_checks=True, headers=who["headers"])
for name, value in who["cookies"].items():
    client.cookies[name] = value
body = {} if data is None else {"data": json.dumps(data), "content_type": "application/json"}
response = getattr(client, method)(path, **body)
print(json.dumps([response.status_code, response.json()]), flush=True)
wait_for_logins()
"""


class Front:
    """A front end of a user: each of its requests is made, and answered, in a new process."""

    def __init__(self, start, who):
        self._start, self.who = start, who

    def start(self, method, path, data=None):
        return self._start("-c", STEP, *map(json.dumps, (self.who, method, path, data)))

    def ask(self, method, path, data=None):
        process = self.start(method, path, data)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        status, answer = json.loads(output)
        return status, answer

    def status(self):
        return self.ask("get", CONNECTION)[1]["status"]


@pytest.fixture(params=["session", "token", "jwt"])
def fronts(request, start_python, run_python, new_database):  # noqa: F811
    """The front ends of two users of a site with a database of its own."""
    site = {
        "DJANGO_SETTINGS_MODULE": "tests.api.rest_settings",
        "GARMIN_AUTH_DATABASE_NAME": new_database,
        "GARMIN_TEST_API": {"session": ""}.get(request.param, request.param),
        "GARMIN_TEST_SLOW_LOGIN": "1",
    }
    known = json.loads(run_python(MIGRATE, **site))[request.param]

    def start(option, code, *arguments):
        return start_python(option, f"import django; django.setup()\n{code}", *arguments, **site)

    return Front(start, known["ana"]), Front(start, known["ben"]), Front(start, nobody())


def nobody():
    return {"cookies": {}, "headers": {}}


def test_the_journey(fronts, mfa_account, garmin):
    ana, ben, visitor = fronts
    form = {"email": EMAIL, "password": PASSWORD, "engine": "garth"}

    assert visitor.ask("post", LOGIN, form)[0] == 401
    status, problem = ana.ask("post", LOGIN, {**form, "password": "wrong"})
    assert (status, problem["code"]) == (422, "invalid_credentials")
    assert ana.ask("post", LOGIN, form)[1]["status"] == "waiting"

    # A wrong code, and what belongs to somebody else.
    code = garmin.mfa_code(EMAIL)
    status, problem = ana.ask("post", MFA, {"code": another_code(code)})
    assert (status, problem["attempts_left"]) == (422, 4)
    status, problem = ben.ask("post", MFA, {"code": code})
    assert (status, problem["code"]) == (409, "challenge_expired")
    assert ben.ask("delete", CONNECTION)[1]["status"] == "not_connected"

    # Garmin's time for the code is over, and a new login.
    garmin.expire_mfa(EMAIL)
    status, problem = ana.ask("post", MFA, {"code": code})
    assert (status, problem["code"]) in [(422, "invalid_code"), (409, "challenge_expired")]
    assert ana.ask("delete", LOGIN)[1]["pending"] is None
    assert ana.ask("post", LOGIN, form)[0] == 202
    status, connection = ana.ask("post", MFA, {"code": garmin.mfa_code(EMAIL)})
    assert (status, connection["account_name"]) == (200, EMAIL)
    assert ben.status() == "not_connected"

    # A slow login, whose process goes on while others look.
    slow = ana.start("post", LOGIN, {**form, "engine": "slow"})
    status, connection = json.loads(slow.stdout.readline())
    assert (status, connection["login"]["under_way"], connection["connected"]) == (202, True, True)
    wait_until(lambda: ana.status() == "waiting")
    assert ana.ask("delete", LOGIN)[1]["status"] == "connected"

    # A key in place of the password, and the end.
    status, connection = ana.ask("post", KEY, {"key": garmin.add_key(EMAIL)})
    assert (status, connection["engine"]) == (200, "personal")
    assert ana.ask("delete", CONNECTION)[1]["ended_reason"] == "user"
    assert ana.status() == ben.status() == "not_connected"
