"""What watches a site's errors and requests (Sentry, OpenTelemetry) sees no secret, and Garmin
sees no header of theirs."""

import json

import pytest

from garmin_auth.testing.garmin import steps
from tests.conftest import BUILT_IN, PASSWORD
from tests.test_secrets_hunt import CODE, TICKET, TOKEN, Text, Wiretap

pytest.importorskip("sentry_sdk")

pytestmark = pytest.mark.django_db(transaction=True)
SUMMARY = "/usersummary-service/usersummary/daily?calendarDate=2026-11-22"
WRONG = "736251"

SENTRY = """
import sentry_sdk
from sentry_sdk.transport import Transport

class Kept(Transport):
    def capture_envelope(self, envelope):
        seen.append(envelope.serialize().decode("utf-8", "replace"))

sentry_sdk.init(
    "https://public@sentry.example/1", transport=Kept, traces_sample_rate=1.0, release="site@1"
)
"""
OPENTELEMETRY = """
from opentelemetry import trace
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter

class Kept(SpanExporter):
    def export(self, spans):
        seen.extend(span.to_json() for span in spans)

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(Kept()))
trace.set_tracer_provider(provider)
RequestsInstrumentor().instrument()
URLLib3Instrumentor().instrument()
"""
JOURNEY = """
import contextlib, json, os

from django.contrib.auth import get_user_model
from django.db import DatabaseError, connection
from django.test import Client

seen = []
# Not in the arguments, which Sentry sends.
instruments, password, code, api = json.loads(os.environ["GARMIN_TEST_JOURNEY"])
exec(instruments)

from garmin_auth.exceptions import GarminAuthError
from garmin_auth.login import start_login, submit_mfa
from garmin_auth.sessions import garmin_client
from tests.waiting import wait_for_logins

with contextlib.suppress(ImportError):
    import garminconnect.client.sso as sso
    for flow in ("MOBILE_DELAY", "WIDGET_DELAY", "LOGIN_DELAY"):  # Pauses, for Garmin's eyes.
        setattr(sso, f"{flow}_MIN_S", 0.01)
        setattr(sso, f"{flow}_MAX_S", 0.01)
people = {user.username: user for user in get_user_model().objects.all()}

@contextlib.contextmanager
def captured():
    import sentry_sdk
    try:
        with sentry_sdk.start_transaction(name="journey"):
            yield
    except Exception:
        sentry_sdk.capture_exception()

def full_disk(execute, sql, params, many, context):
    if sql.startswith("UPDATE") and "garmin_auth" in sql and "session_data" in sql:
        raise DatabaseError("the disk is full")
    return execute(sql, params, many, context)

with captured():
    start_login(people["ana"], "ana@example.com", password)
with captured():
    with garmin_client(people["ana"]) as client:
        client.connectapi(api)
with captured():
    start_login(people["ben"], "ben@example.com", password)
with captured():
    submit_mfa(people["ben"], code)
with captured():
    start_login(people["ana"], "ana@example.com", "wrong " + password)
with captured(), connection.execute_wrapper(full_disk):
    start_login(people["cleo"], "cleo@example.com", password)
browser = Client(raise_request_exception=False)
browser.force_login(people["cleo"])
with connection.execute_wrapper(full_disk):
    data = {"email": "cleo@example.com", "password": password}
    assert browser.post("/garmin/login/", data).status_code in (302, 500)
    wait_for_logins()
    body = {"data": json.dumps(data), "content_type": "application/json"}
    answer = browser.post("/garmin/api/connection/login/", **body)
    assert answer.status_code in (202, 500)
    wait_for_logins()
with captured():
    with garmin_client(people["dora"]) as client:
        client.connectapi(api)
print(json.dumps(seen))
"""


@pytest.fixture
def heard(monkeypatch):
    """What Garmin was asked and answered: the secrets in it, and all names of headers."""
    tap, names, answer = Wiretap(), set(), steps.answer

    def listen(step, request, *arguments):
        given = answer(step, request, *arguments)
        tap.hear(request, given)
        names.update(request.headers)
        return given

    monkeypatch.setattr(steps, "answer", listen)
    return tap, names


@pytest.fixture
def journey(garmin, run_python, heard, django_user_model, connect, site):
    """Do all that leads to Garmin, and much that goes wrong, under instruments."""

    def journey(engine, instruments):
        for name in ("ana", "ben", "cleo", "dora"):
            garmin.add_account(f"{name}@example.com", PASSWORD, mfa=name == "ben")
            django_user_model.objects.create_user(name)
        dora = django_user_model.objects.get(username="dora")
        connect(dora, "dora@example.com", engine=engine, access_expired=True)
        garmin.revoke("dora@example.com")
        output = run_python(
            JOURNEY,
            new_interpreter=True,
            GARMIN_TEST_JOURNEY=json.dumps([instruments, PASSWORD, WRONG, SUMMARY]),
            **site(f"GARMIN_AUTH_ENGINE = '{engine}'\nROOT_URLCONF = 'tests.demo_urls'"),
        )
        return json.loads(output.splitlines()[-1])

    return journey


def secrets_in(seen, tap):
    """Return the kinds of secrets found, but for the address, which the user's own report has."""
    text = Text("\n".join(seen))
    secrets = {PASSWORD: "password", WRONG: CODE}
    secrets |= {value: kind for value, kind in tap.values.items() if kind in (TICKET, TOKEN)}
    return {kind for value, kind in secrets.items() if text.has(value, kind)}


@pytest.mark.parametrize("engine", BUILT_IN)
@pytest.mark.parametrize("instruments", [SENTRY, OPENTELEMETRY], ids=["sentry", "opentelemetry"])
def test_instruments_see_no_secret_and_add_no_header(journey, heard, engine, instruments):
    tap, names = heard

    seen = journey(engine, instruments)

    assert len(seen) >= 3
    assert any("connectapi.garmin.com" in each for each in seen)
    assert "calendarDate" not in "".join(seen)
    assert secrets_in(seen, tap) == set()
    assert not {name for name in names if "trace" in name or "baggage" in name or "b3" in name}
