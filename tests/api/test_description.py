"""The OpenAPI description is valid, complete, and what clients are made of."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from garmin_auth.api import bodies, problems
from garmin_auth.api.urls import urlpatterns
from garmin_auth.api.views import DESCRIPTION, UserView
from tests.api.conftest import API
from tests.conftest import EMAIL, PASSWORD, ROOT

pytestmark = pytest.mark.django_db(transaction=True)

described = json.loads(DESCRIPTION.read_text())
# Generated from the description; each step is one of the API's.
JOURNEY = """
import sys
from garmin_connection_client import AuthenticatedClient
from garmin_connection_client.api.connection import (
    disconnect, get_connection, log_in, submit_code,
)
from garmin_connection_client.models import CodeRequest, Connection, LoginRequest, Problem

url, token, email, password, code = sys.argv[1:]
client = AuthenticatedClient(url, token)
if not code:
    wrong = log_in.sync(client=client, body=LoginRequest(email, "wrong"))
    assert isinstance(wrong, Problem) and wrong.code == "invalid_credentials", wrong
    step = log_in.sync(client=client, body=LoginRequest(email, password))
    assert isinstance(step, Connection) and step.pending.attempts_left == 5, step
    print(step.status.value, step.offers[0].engine)
else:
    done = submit_code.sync(client=client, body=CodeRequest(code))
    assert isinstance(done, Connection) and done.connected_at.year > 2000, done
    print(get_connection.sync(client=client).account_name)
    print(disconnect.sync(client=client).status.value)
"""


def test_the_description_is_valid():
    validator = pytest.importorskip("openapi_spec_validator", reason="it is not installed")

    validator.validate(described)


def test_it_is_served_to_everybody(visitor):
    response = visitor.get(f"{API}openapi.json")

    assert (response.status_code, response["Content-Type"]) == (200, "application/json")
    assert response.json() == described


def test_every_path_and_method_is_described_and_no_other():
    views = {
        f"/{pattern.pattern}": pattern.callback.view_class
        for pattern in urlpatterns
        if pattern.name
    }
    assert {path: sorted(methods) for path, methods in described["paths"].items()} == {
        path: sorted({*view.http_method_names} - {"head"}) for path, view in views.items()
    }


def test_every_problem_is_an_example_under_its_status():
    found = {
        (example["value"]["status"], example["value"]["code"])
        for response in described["components"]["responses"].values()
        for example in response["content"]["application/problem+json"]["examples"].values()
    }
    assert {*problems.PROBLEMS.values()} <= found


def test_every_status_of_an_exception_is_described_where_one_can_be_raised():
    statuses = {str(status) for status, _ in problems.PROBLEMS.values()}
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            if method == "post":
                assert statuses | {"400", "401", "415", "500"} <= operation["responses"].keys(), (
                    path
                )


def test_what_is_sent_is_described():
    for name, form in (
        ("LoginRequest", bodies.LoginBody),
        ("CodeRequest", bodies.CodeBody),
        ("KeyRequest", bodies.KeyBody),
    ):
        schema = described["components"]["schemas"][name]
        assert schema["properties"].keys() == form.base_fields.keys()
        for field, given in form.base_fields.items():
            assert (field in schema["required"]) == given.required
            if field not in ("engine", "domain", "ends_at"):
                assert schema["properties"][field]["maxLength"] == given.max_length


def test_every_code_is_in_the_how_to():
    text = (ROOT / "docs" / "how-to" / "api.md").read_text()
    codes = {
        example["value"]["code"]
        for response in described["components"]["responses"].values()
        for example in response["content"]["application/problem+json"]["examples"].values()
    }
    assert not [code for code in codes if f"`{code}`" not in text]


def test_every_view_of_a_user_requires_one():
    named = [pattern.callback.view_class for pattern in urlpatterns if pattern.name]

    assert [view.__name__ for view in named if not issubclass(view, UserView)] == [
        "DescriptionView"
    ]


def test_a_client_that_is_made_of_it_takes_the_journey(serve, user, mfa_account, garmin, tmp_path):
    pytest.importorskip("openapi_python_client", reason="it is not installed")
    url = serve(
        *("-m", "gunicorn", "--bind", "127.0.0.1:0"),
        "django.core.wsgi:get_wsgi_application()",
        DJANGO_SETTINGS_MODULE="tests.api.live_settings",
    )
    generator = Path(sys.executable).with_name("openapi-python-client")
    run(tmp_path, generator, "generate", "--url", f"{url}{API}openapi.json", "--meta", "none")
    (tmp_path / "journey.py").write_text(JOURNEY)
    journey = (sys.executable, "journey.py", f"{url}{API}".rstrip("/"), user.username)

    assert run(tmp_path, *journey, EMAIL, PASSWORD, "") == ["waiting", "garth"]
    code = garmin.mfa_code(EMAIL)
    assert run(tmp_path, *journey, EMAIL, PASSWORD, code) == [EMAIL, "not_connected"]


def run(folder, *command):
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search("warning", done.stdout, re.IGNORECASE), done.stdout
    return done.stdout.split()
