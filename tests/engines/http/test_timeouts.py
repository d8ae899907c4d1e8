"""How long a call may take: as the caller says, as the setting says, and while a body is read."""

import json
import shutil
import time
from types import SimpleNamespace

import pytest

from garmin_auth.engines import get_engine
from garmin_auth.engines.http.deadline import deadline
from garmin_auth.engines.http.transport import get_transport
from garmin_auth.exceptions import GarminUnavailable
from tests.conftest import BUILT_IN, needs_garminconnect

PROFILE = "/userprofile-service/socialProfile"
URL = f"https://connectapi.garmin.com{PROFILE}"
# 2,048 bytes.
ACTIVITY = "/download-service/files/activity/7"
SOON = 10  # seconds; the deadlines of these tests are much shorter, and the faults much longer


@pytest.fixture(autouse=True)
def _no_open_connection(settings, garmin, tmp_path):
    bundle = tmp_path / "ca.pem"
    shutil.copy(garmin.ca_bundle, bundle)
    settings.GARMIN_AUTH_CA_BUNDLE = str(bundle)


@pytest.fixture(params=BUILT_IN)
def client(request, garmin, account):
    engine = get_engine(request.param)
    return engine.open(garmin.issue_session(account, engine=request.param), None).client


@pytest.fixture
def soon():
    started = time.monotonic()
    yield
    assert time.monotonic() - started < SOON


def stream(client, path=ACTIVITY, **kwargs):
    """Ask either engine's client for a body that the caller reads."""
    client = getattr(client, "client", client)
    return client.request("GET", "connectapi", path, api=True, stream=True, **kwargs)


# The caller's own


@pytest.mark.parametrize("timeout", [0.3, (0.1, 0.2)])
@pytest.mark.parametrize(
    ("fault", "options"), [("stall", {}), ("trickle", {"interval": 0.1}), ("slow_headers", {})]
)
def test_a_shorter_timeout_of_the_caller_ends_a_call(garmin, client, soon, timeout, fault, options):
    garmin.fail("api", fault, times=None, **options)

    with pytest.raises(GarminUnavailable, match=r"within 0\.3 seconds"):
        client.connectapi(PROFILE, timeout=timeout)


@pytest.mark.parametrize("timeout", [20, (5, 15)])
def test_a_longer_timeout_of_the_caller_lets_a_call_go_on(garmin, client, settings, timeout):
    settings.GARMIN_AUTH_TIMEOUT = 0.2
    garmin.set_latency(0.5)

    assert client.connectapi(PROFILE, timeout=timeout)["userName"]


def test_a_timeout_of_none_is_the_settings(garmin, client, settings, soon):
    settings.GARMIN_AUTH_TIMEOUT = 0.3
    garmin.fail("api", "stall", times=None)

    with pytest.raises(GarminUnavailable):
        client.connectapi(PROFILE, timeout=None)


@pytest.mark.parametrize(
    "timeout", [0, -1, "soon", float("nan"), True, (1, 2, 3), (1, 0), object()]
)
def test_a_timeout_that_is_none_is_the_callers_mistake(garmin, client, timeout):
    with pytest.raises(ValueError, match="timeout"):
        client.connectapi(PROFILE, timeout=timeout)

    assert garmin.counts["api"] == 0


@pytest.mark.parametrize("timeout", [1e300, float("inf"), (None, 5)])
def test_a_very_long_timeout_is_one(client, timeout):
    assert client.connectapi(PROFILE, timeout=timeout)["userName"]


def test_the_repetition_after_a_refresh_shares_the_callers_timeout(garmin, account, soon):
    session = garmin.issue_session(account)
    client = get_engine("garth").open(session, lambda: garmin.issue_session(account)).client
    garmin.fail("api", "token_inactive")
    garmin.fail("api", "stall", times=None)

    with pytest.raises(GarminUnavailable):
        client.connectapi(PROFILE, timeout=1)


# Whoever uses the session itself


@pytest.mark.parametrize("fault", ["stall", "trickle", "slow_headers"])
def test_a_request_without_an_engine_ends_too(garmin, settings, soon, fault):
    settings.GARMIN_AUTH_TIMEOUT = 0.3
    garmin.fail("api", fault, times=None)

    with pytest.raises(GarminUnavailable):
        get_transport("garmin.com").new_session().get(URL)


def test_the_session_of_garths_client_has_an_end(garmin, account, settings, soon):
    client = get_engine("garth").open(garmin.issue_session(account), None).client
    settings.GARMIN_AUTH_TIMEOUT = 0.3
    garmin.fail("api", "stall", times=None)

    with pytest.raises(GarminUnavailable):
        client.sess.get(URL)


def test_redirects_share_one_deadline(garmin, account, settings, soon):
    settings.GARMIN_AUTH_TIMEOUT = 0.5
    garmin.set_latency(0.3)
    garmin.fail("api", "redirect", times=None, location=PROFILE)

    with pytest.raises(GarminUnavailable, match=r"within 0\.5 seconds"):
        get_transport("garmin.com").new_session().get(URL)


# Streams


READS = {
    "iter_content": lambda response: list(response.iter_content(100)),
    "iter_content(None)": lambda response: list(response.iter_content(None)),
    "iter_lines": lambda response: list(response.iter_lines()),
    "content": lambda response: response.content,
    "raw": lambda response: list(response.raw),
    "raw.read": lambda response: response.raw.read(),
    "raw.readinto": lambda response: response.raw.readinto(bytearray(2048)),
    "raw.stream": lambda response: list(response.raw.stream(100)),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_stream_that_breaks_is_unavailable(garmin, client, read):
    garmin.fail("api", "reset_mid_body", times=None)
    response = stream(client)

    with pytest.raises(GarminUnavailable) as caught:
        for _ in range(2):  # The first part of it has arrived.
            read(response)

    assert caught.value.__context__ is None


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_stream_that_drips_ends_in_time(garmin, client, settings, soon, read):
    settings.GARMIN_AUTH_TIMEOUT = 0.5
    garmin.fail("api", "trickle", times=None, interval=0.2)
    response = stream(client)

    with pytest.raises(GarminUnavailable):
        read(response)


def test_a_slow_reader_is_not_cut_off(garmin, client, settings, monkeypatch):
    """What the reader does between two chunks is its own time."""
    settings.GARMIN_AUTH_TIMEOUT = 30
    garmin.fail("api", "trickle", interval=0.0001)  # So that not all has arrived at the first read.
    spent = 0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + spent, sleep=time.sleep)
    monkeypatch.setattr("garmin_auth.engines.http.deadline.time", clock)
    read = b""

    for chunk in stream(client, PROFILE).iter_content(50):
        spent += 60
        read += chunk

    assert spent > 60
    assert json.loads(read)["displayName"]


def test_a_chunk_has_the_timeout_that_the_caller_gave(garmin, client, soon):
    garmin.fail("api", "trickle", times=None, interval=0.2)
    response = stream(client, timeout=0.5)

    with pytest.raises(GarminUnavailable, match=r"within 0\.5 seconds"):
        response.content  # noqa: B018


# curl


@needs_garminconnect
def test_curl_is_not_asked_with_less_than_a_millisecond_left(garmin):
    """It would take 0 for: as long as it lasts."""
    from garmin_auth.engines.http.curl import CurlSession

    session = CurlSession("garmin.com", "chrome")

    with pytest.raises(GarminUnavailable), deadline(0.0009):
        session.get(URL)

    assert garmin.counts["connect"] == 0
