"""A web server that is killed during a slow login, and one that is started after it."""

import http.client
import re
import signal
import socket
import time
from contextlib import suppress
from datetime import timedelta
from http.cookies import SimpleCookie
from urllib.parse import urlencode

import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone

from garmin_auth.models import GarminAuthenticationState
from tests.browser import kept_port
from tests.conftest import EMAIL, PASSWORD, needs_garminconnect, raw_row

pytestmark = pytest.mark.django_db(transaction=True)
states = GarminAuthenticationState.objects

LOGIN, PROGRESS, STATUS = "/garmin/login/", "/garmin/progress/", "/garmin/"
INTERRUPTED = (
    "Your sign-in was interrupted, for example because this site was restarted. Please try again."
)
PATIENCE = 120  # seconds, for a busy machine
ENGINES = [
    pytest.param("slow", id="slow"),
    pytest.param("garminconnect", id="garminconnect", marks=needs_garminconnect),
]


class Browser:
    """Speaks HTTP to a server on this machine, with its cookies."""

    def __init__(self, address, cookies):
        self.address, self.cookies = address, dict(cookies)

    def ask(self, method, path, **fields):
        """Return the status, where it leads to, and the page."""
        server = http.client.HTTPConnection(*self.address, timeout=PATIENCE)
        try:
            server.request(
                method,
                path,
                urlencode(fields) if fields else None,
                {
                    "Cookie": "; ".join(f"{name}={text}" for name, text in self.cookies.items()),
                    "Content-Type": "application/x-www-form-urlencoded",
                    "Accept": "text/html",
                },
            )
            response = server.getresponse()
            page = response.read().decode()
        finally:
            server.close()
        for header in response.headers.get_all("Set-Cookie", ()):
            for name, morsel in SimpleCookie(header).items():
                self.cookies[name] = morsel.value
        return response.status, response.headers.get("Location", ""), page

    def get(self, path):
        """Return where a GET has led to, and the page there."""
        for _ in range(5):
            status, target, page = self.ask("GET", path)
            if status == 200:
                return path, page
            assert status == 302, page
            path = target
        raise AssertionError("It leads on and on.")

    def submit(self, path, **fields):
        """Fill in the form of a page, and return where it leads to."""
        _, page = self.get(path)
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)[1]
        status, target, page = self.ask("POST", path, csrfmiddlewaretoken=token, **fields)
        assert status == 302, page
        return target


@pytest.fixture
def address():
    with kept_port() as port:
        yield "127.0.0.1", port


@pytest.fixture
def serve(start_python, address, site):
    """Start the site on its address; it is killed at the end."""

    def serve(engine, slow):
        environment = site(
            f"GARMIN_AUTH_ENGINE = {engine!r}",
            "GARMIN_AUTH_ENGINES = {'slow': 'tests.slow_engine.SlowGarthEngine'}",
        )
        server = start_python(
            *("manage.py", "runserver", f"127.0.0.1:{address[1]}", "--noreload"),
            GARMIN_TEST_SLOW_LOGIN=str(slow),
            **environment,
        )
        gives_up_at = time.monotonic() + PATIENCE
        while True:
            assert server.poll() is None, server.communicate()[1]
            assert time.monotonic() < gives_up_at
            with suppress(OSError):
                socket.create_connection(address, timeout=1).close()
                return server
            time.sleep(0.1)

    return serve


@pytest.fixture
def browser(user, address):
    client = Client()
    client.force_login(user)
    name = settings.SESSION_COOKIE_NAME
    return Browser(address, {name: client.cookies[name].value})


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_login_that_a_restart_has_ended_says_what_to_do(
    serve, browser, user, account, garmin, engine, end
):
    garmin.latency = 5
    server = serve(engine, slow=60)
    assert browser.submit(LOGIN, email=EMAIL, password=PASSWORD) == PROGRESS
    assert browser.get(PROGRESS)[0] == PROGRESS

    server.send_signal(end)
    server.wait(PATIENCE)
    # Nobody is left to show life: the last sign of it is over by and by.
    assert states.update(login_expires_at=timezone.now() - timedelta(seconds=1)) == 1
    served = serve(engine, slow=0)

    found = browser.get(PROGRESS)
    assert found[0] == LOGIN
    assert INTERRUPTED in found[1]
    assert INTERRUPTED in browser.get(STATUS)[1]
    row = raw_row(user)
    assert (row["session_data"], row["mfa_challenge"], bool(row["mfa_pending"])) == (
        None,
        None,
        False,
    )
    for constraint in GarminAuthenticationState._meta.constraints:
        assert not states.exclude(constraint.condition).exists()

    # And trying again is all there is to do.
    garmin.latency = 0
    assert browser.submit(LOGIN, email=EMAIL, password=PASSWORD) == PROGRESS
    gives_up_at = time.monotonic() + PATIENCE
    while (found := browser.get(PROGRESS))[0] == PROGRESS:
        assert time.monotonic() < gives_up_at
        time.sleep(0.2)
    assert found[0] == STATUS
    assert "Your Garmin account is connected." in found[1]
    assert INTERRUPTED not in found[1]
    assert served.poll() is None
