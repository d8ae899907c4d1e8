"""Greenlets in place of threads: workers of ``gunicorn -k gevent`` and ``celery -P gevent``."""

import json
import re
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections

from garmin_auth.models import GarminAuthenticationState
from tests.conftest import BUILT_IN, EMAIL, PASSWORD, REFRESH, needs_garminconnect
from tests.drip import Drip

pytestmark = pytest.mark.django_db(transaction=True)
states = GarminAuthenticationState.objects
# The deadlines of these tests are of a second; what is to end by them would last a minute or more.
SOON = 15  # seconds


@pytest.fixture(params=BUILT_IN)
def engine(request):
    return request.param


@pytest.fixture
def stored(connect, user):
    """Store a session of an engine."""

    def stored(engine, **options):
        connect(user, engine=engine, **options)
        connections.close_all()

    return stored


@pytest.fixture
def greenlets(start_python):
    """Start one function of ``tests.greenlets``; wait for what it prints."""

    def greenlets(name, *arguments, **environment):
        return start_python(
            "-m", "tests.greenlets", name, *arguments, new_interpreter=True, **environment
        )

    return greenlets


@pytest.fixture
def run(greenlets):
    def run(*arguments, **environment):
        return result_of(greenlets(*arguments, **environment))

    return run


def result_of(process, said=""):
    output, errors = process.communicate(said, timeout=120)
    assert process.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


@pytest.fixture
def drip(garmin):
    drip = Drip(garmin.proxy_url)
    yield drip
    drip.close()


# One refresh


@pytest.mark.parametrize("function", ["twenty", "twenty_in_a_block"])
def test_twenty_greenlets_share_one_refresh(garmin, engine, stored, run, function):
    stored(engine)
    garmin.expire_access_tokens()
    garmin.latency = 0.1

    assert run(function) == [EMAIL] * 20
    assert garmin.counts[REFRESH[engine]] == 1


# Deadlines


def outcomes(process, garmin, faults):
    """Let one process, dear to start, try again at each of these faults; what came of it."""
    for step, fault, options in faults:
        garmin.heal()
        garmin.fail(step, fault, times=None, **options)
        process.stdin.write("go on\n")
        process.stdin.flush()
        yield (step, fault), json.loads(process.stdout.readline())
        assert [entry["fault"] for entry in garmin.log if entry["step"] == step][-1] == fault


def test_a_call_ends_in_time(garmin, engine, stored, greenlets):
    stored(engine)
    faults = [
        ("api", "stall", {}),
        ("api", "trickle", {"interval": 0.1}),
        ("api", "slow_headers", {"interval": 0.1}),
        ("connect", "stall", {}),
        ("connect", "tls_stall", {}),
    ]

    for fault, (said, seconds) in outcomes(greenlets("timed_each", 1), garmin, faults):
        assert said == (
            "GarminUnavailable: connectapi.garmin.com did not answer within 1 second."
        ), fault
        assert seconds < SOON, fault


def test_a_handshake_that_drips_ends_in_time(engine, stored, run, drip):
    stored(engine)
    drip.dripping.set()

    said, seconds = run("timed", 4, GARMIN_SIMULATOR_PROXY=drip.url)

    assert said == "GarminUnavailable: connectapi.garmin.com did not answer within 4 seconds."
    assert seconds < SOON


def test_a_tls_record_that_drips_ends_in_time(engine, stored, greenlets, drip):
    stored(engine)
    process = greenlets("timed_twice", 1, GARMIN_SIMULATOR_PROXY=drip.url)
    assert process.stdout.readline() == "ready\n"
    drip.dripping.set()

    said, seconds = result_of(process, "go on\n")

    assert said == "GarminUnavailable: connectapi.garmin.com did not answer within 1 second."
    assert seconds < SOON


def test_a_lookup_that_hangs_ends_in_time(stored, run, engine):
    stored(engine)

    said, seconds = run("lookup_that_hangs", GARMIN_SIMULATOR_PROXY="http://proxy.example:3128")

    assert said == "GarminUnavailable: connectapi.garmin.com did not answer within 1 second."
    assert seconds < SOON


# curl, which knows no greenlets


@needs_garminconnect
def test_curl_does_not_block_other_greenlets(garmin, stored, run):
    stored("garminconnect")
    garmin.latency = 3

    said, _, beats = run("timed_refresh", 15)

    assert said == "refreshed"
    # Some hundred; blocked, they would wait for as long as Garmin takes.
    assert beats > 20


@needs_garminconnect
def test_a_refresh_through_curl_ends_in_time(garmin, stored, greenlets):
    stored("garminconnect")
    faults = [("di_refresh", "stall", {}), ("connect", "stall", {}), ("connect", "tls_stall", {})]

    for fault, (said, seconds, _) in outcomes(greenlets("timed_refreshes", 1), garmin, faults):
        assert said == ("GarminUnavailable: diauth.garmin.com did not answer within 1 second."), (
            fault
        )
        assert seconds < SOON, fault


@needs_garminconnect
def test_a_killed_greenlet_leaves_curl_as_it_was(garmin, stored, run):
    garmin.rotate_refresh_tokens = False
    stored("garminconnect")
    garmin.latency = 1

    assert run("killed_refresh")


def test_a_login_works_among_greenlets(garmin, account, user, run, engine):
    connections.close_all()

    assert run("login", EMAIL, PASSWORD, GARMIN_AUTH_TEST_ENGINE=engine) == "Connected"


# Servers

VIEW = """
from django.contrib.auth import get_user_model
from django.http import HttpResponse
from django.urls import path
from garmin_auth.sessions import garmin_client

def profile(request):
    with garmin_client(get_user_model().objects.get()) as client:
        return HttpResponse(client.connectapi("/userprofile-service/socialProfile")["userName"])

urlpatterns = [path("", profile)]
"""


# With --preload, gunicorn imports the site before gevent patches anything. Django then has one
# database connection for all greenlets, and refuses to use it in them.
PATCH_FIRST = """
from gevent import monkey

monkey.patch_all()
"""


@pytest.mark.parametrize("options", [[], ["--preload"]], ids=["", "preload"])
def test_gunicorn_serves_twenty_requests_at_once(
    garmin, engine, stored, start_python, site, tmp_path, options
):
    stored(engine)
    garmin.expire_access_tokens()
    garmin.latency = 0.2
    (tmp_path / "greenlet_urls.py").write_text(VIEW)
    (tmp_path / "gunicorn.conf.py").write_text(PATCH_FIRST if options else "")
    server = start_python(
        *("-m", "gunicorn", "--config", tmp_path / "gunicorn.conf.py", *options),
        *("--worker-class", "gevent", "--bind", "127.0.0.1:0"),
        *("--log-file", "-", "django.core.wsgi:get_wsgi_application()"),
        new_interpreter=True,
        **site("ROOT_URLCONF = 'greenlet_urls'"),
    )
    url = next(
        filter(None, (re.search(r"http://127\.0\.0\.1:\d+", line) for line in server.stderr))
    )

    def ask(_):
        with urllib.request.urlopen(url[0], timeout=60) as answer:
            return answer.read().decode()

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(ask, range(20))) == [EMAIL] * 20
    assert garmin.counts[REFRESH[engine]] == 1
