"""A front end on another domain: the settings of the how-to, with django-cors-headers."""

import json

import pytest
import requests
from django.conf import settings as django_settings
from pytest_django.live_server_helper import LiveServer

from tests.api.conftest import CONNECTION, LOGIN
from tests.conftest import EMAIL, PASSWORD, ROOT
from tests.markdown import blocks

pytest.importorskip("corsheaders", reason="django-cors-headers is not installed")
pytestmark = pytest.mark.django_db(transaction=True)

ORIGIN = "https://app.mysite.example"
HEADERS = "content-type,idempotency-key,x-csrftoken"


def settings_of_the_how_to():
    page = ROOT / "docs" / "how-to" / "api.md"
    (text,) = [block.text for block in blocks(page) if "CORS_ALLOWED_ORIGINS" in block.text]
    values = {}
    exec(text, values)
    return {name: value for name, value in values.items() if name.startswith("CORS_")}


@pytest.fixture
def server(settings, api_urls):
    """A server of its own: live_server has loaded its middleware before."""
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "corsheaders"]
    settings.MIDDLEWARE = ["corsheaders.middleware.CorsMiddleware", *settings.MIDDLEWARE]
    for name, value in settings_of_the_how_to().items():
        setattr(settings, name, value)
    settings.CORS_ALLOW_CREDENTIALS = True
    settings.CSRF_TRUSTED_ORIGINS = [ORIGIN]
    server = LiveServer("localhost")
    yield server
    server.stop()


def test_a_front_end_on_another_domain_logs_in(server, client, user, garmin):
    garmin.add_account(EMAIL, PASSWORD, mfa=True)
    client.force_login(user)
    name = django_settings.SESSION_COOKIE_NAME
    with requests.Session() as browser:
        browser.trust_env = False
        browser.headers["Origin"] = ORIGIN
        browser.cookies.set(name, client.cookies[name].value)
        preflight = requests.options(
            server.url + LOGIN,
            headers={
                "Origin": ORIGIN,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": HEADERS,
            },
            timeout=60,
        )
        browser.get(server.url + CONNECTION, timeout=60)
        token = browser.cookies[django_settings.CSRF_COOKIE_NAME]
        posted = browser.post(
            server.url + LOGIN,
            json.dumps({"email": EMAIL, "password": PASSWORD}),
            headers={
                "Content-Type": "application/json",
                "Idempotency-Key": "one",
                "X-CSRFToken": token,
            },
            timeout=60,
        )

    assert preflight.status_code == 200
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    allowed = preflight.headers["Access-Control-Allow-Headers"].replace(" ", "").split(",")
    assert set(HEADERS.split(",")) <= set(allowed)
    assert (posted.status_code, posted.json()["status"]) == (202, "waiting")
    for response in (preflight, posted):
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert response.headers["Access-Control-Allow-Credentials"] == "true"
    exposed = posted.headers["Access-Control-Expose-Headers"].replace(" ", "").split(",")
    assert set(exposed) == {"Location", "Retry-After"}
    assert posted.headers["Location"] == CONNECTION
