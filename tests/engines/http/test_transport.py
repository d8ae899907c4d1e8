"""Which way requests go, to whom, and for how long."""

import shutil
import socket
import threading
import time
from pathlib import Path

import certifi
import pytest

from garmin_auth.conf import conf
from garmin_auth.engines import get_engine
from garmin_auth.engines.base import Challenge
from garmin_auth.engines.http.deadline import deadline
from garmin_auth.engines.http.sockets import resolve
from garmin_auth.engines.http.transport import CONSUMER_URL, get_transport
from garmin_auth.exceptions import (
    ChallengeExpired,
    GarminAuthError,
    GarminRequestError,
    GarminUnavailable,
    RateLimited,
)
from tests.conftest import EMAIL, PASSWORD, needs_garminconnect

PROFILE = "/userprofile-service/socialProfile"
SOON = 10  # seconds; the deadlines of these tests are much shorter, and the faults much longer


@pytest.fixture(autouse=True)
def _new_process(settings, garmin, tmp_path):
    """As in a process that has just started: no connection is open, no consumer key fetched."""
    bundle = tmp_path / "ca.pem"
    shutil.copy(garmin.ca_bundle, bundle)
    settings.GARMIN_AUTH_CA_BUNDLE = str(bundle)


@pytest.fixture
def engine():
    return get_engine("garth")


@pytest.fixture
def client(garmin, engine, account):
    return engine.open(garmin.issue_session(account), None).client


# Which hosts


@pytest.mark.parametrize(
    "path",
    [
        "https://evil.example/",
        "https://evil.example:443/userprofile-service/socialProfile",
        "//evil.example/x",
        "http://connectapi.garmin.com/userprofile-service/socialProfile",
        "https://connectapi.garmin.cn/userprofile-service/socialProfile",
        "https://garmin.com.evil.example/",
        "https://evilgarmin.com/",
        "https://connectapi.garmin.com@evil.example/",
        "https://connectapi.garmin.com:pass@evil.example/",
        "https://evil.example\\@connectapi.garmin.com/",
        "https://evil.example#@connectapi.garmin.com/",
        "https://evil.example\\.garmin.com/",
        "https://evil.example%2f.garmin.com/",
        "https://127.0.0.1/",
        "file:///etc/passwd",
        CONSUMER_URL,
    ],
)
@pytest.mark.parametrize("call", ["connectapi", "download"])
def test_a_bearer_goes_to_no_other_host(garmin, client, call, path):
    with pytest.raises(GarminUnavailable):
        getattr(client, call)(path)

    assert garmin.log == []


def test_what_is_no_url_is_the_callers_mistake(garmin, client):
    with pytest.raises(ValueError, match="URL"):
        client.connectapi("https://[evil/")

    assert garmin.log == []


def test_an_absolute_url_of_garmin_is_asked(client):
    profile = client.connectapi("https://connectapi.garmin.com/userprofile-service/socialProfile")

    assert profile["userName"] == EMAIL


@pytest.mark.parametrize(
    "location",
    [
        "https://evil.example/",
        "//evil.example/",
        "http://connectapi.garmin.com/userprofile-service/socialProfile",
        "https://connectapi.garmin.cn/userprofile-service/socialProfile",
        "https://connectapi.garmin.com@evil.example/",
        "https://[evil/",
        CONSUMER_URL,
    ],
)
def test_a_redirect_to_another_host_is_not_followed(garmin, client, location):
    garmin.fail("api", "redirect", location=location)

    with pytest.raises(GarminUnavailable):
        client.connectapi(PROFILE)

    assert [entry["step"] for entry in garmin.log] == ["connect", "api"]


def test_a_redirect_within_garmin_is_followed(garmin, client):
    garmin.fail("api", "redirect", location=PROFILE + "/")

    assert client.connectapi(PROFILE)["userName"] == EMAIL


def test_a_redirect_in_a_circle_ends(garmin, client):
    garmin.fail("api", "redirect", times=None, location=PROFILE)

    with pytest.raises(GarminUnavailable):
        client.connectapi(PROFILE)


@pytest.mark.parametrize("step", ["login", "preauthorized", "exchange"])
def test_a_redirected_login_is_not_followed(garmin, engine, account, step):
    garmin.fail(step, "redirect")

    with pytest.raises(GarminUnavailable):
        engine.login(account, PASSWORD)

    assert garmin.counts["refused_host"] == 0


# Whom to trust


def test_a_certificate_of_somebody_else_is_not_accepted(garmin, client):
    garmin.fail("connect", "tls_failure", times=None)

    with pytest.raises(GarminUnavailable):
        client.connectapi(PROFILE)

    assert garmin.counts["api"] == 0


def test_certifis_authorities_are_trusted_without_a_setting(garmin, engine, account, settings):
    settings.GARMIN_AUTH_CA_BUNDLE = None

    with pytest.raises(GarminUnavailable):
        engine.login(account, PASSWORD)

    assert garmin.counts["sign_in"] == 0


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_bundle_that_cannot_be_used_is_named(engine, settings, tmp_path, content):
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_text(content)
    settings.GARMIN_AUTH_CA_BUNDLE = str(bundle)

    with pytest.raises(GarminUnavailable, match=str(bundle)) as caught:
        engine.login(EMAIL, PASSWORD)

    assert caught.value.__context__ is None


def test_a_path_object_names_a_bundle_too(garmin, engine, account, settings, tmp_path):
    settings.GARMIN_AUTH_CA_BUNDLE = tmp_path / "ca.pem"

    assert engine.login(account, PASSWORD).validated


# Connections


def test_users_share_a_connection(garmin, engine, account):
    for _ in range(3):
        engine.fetch_account_name(engine.open(garmin.issue_session(account), None))

    assert garmin.counts["connect"] == 1


def test_fetching_the_consumer_leaves_connections_open(garmin, engine, client):
    client.connectapi(PROFILE)

    engine.refresh(garmin.issue_session(EMAIL))

    hosts = [entry["host"] for entry in garmin.log if entry["step"] == "connect"]
    assert hosts == ["connectapi.garmin.com", "thegarth.s3.amazonaws.com"]


def test_a_closed_session_leaves_connections_open(garmin, engine, account):
    for _ in range(2):
        session = engine.open(garmin.issue_session(account), None)
        engine.fetch_account_name(session)
        session.close()

    assert garmin.counts["connect"] == 1


@pytest.mark.parametrize("fault", ["reset", "drop_after"])
def test_a_read_is_repeated_where_the_connection_broke(garmin, client, fault):
    """Also through a proxy, whose fault urllib3 takes it for."""
    client.connectapi(PROFILE)
    garmin.fail("api", fault)

    client.connectapi(PROFILE)

    assert garmin.counts["api"] == 3


def test_a_read_is_not_repeated_for_ever(garmin, client):
    garmin.fail("api", "reset", times=None)

    with pytest.raises(GarminUnavailable):
        client.connectapi(PROFILE)

    assert garmin.counts["api"] == 2


@pytest.mark.parametrize("fault", ["reset", "drop_after", "stall"])
def test_a_write_is_never_repeated(garmin, client, settings, fault):
    client.connectapi(PROFILE)  # The way is open: what is timed is the fault alone.
    garmin.fail("api", fault)
    if fault == "stall":
        settings.GARMIN_AUTH_TIMEOUT = 2

    with pytest.raises(GarminUnavailable):
        client.connectapi("/upload-service/upload", method="POST", files={"file": b"x"})

    assert garmin.counts["api"] == 2


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
def test_a_status_is_never_repeated(garmin, client, status):
    garmin.fail("api", "status", status=status)

    with pytest.raises(GarminUnavailable):
        client.connectapi(PROFILE)

    assert garmin.counts["api"] == 1


def test_retry_after_is_not_slept_through(garmin, client):
    garmin.fail("api", "rate_limited", retry_after=21_600)
    started = time.monotonic()

    with pytest.raises(RateLimited) as caught:
        client.connectapi(PROFILE)

    assert caught.value.retry_after is None  # Not sane: the app's own pause is better.
    assert time.monotonic() - started < SOON


@pytest.mark.parametrize("status", [413, 503])
def test_retry_after_of_another_status_is_not_slept_through(garmin, client, status):
    garmin.fail("api", "status", status=status, headers={"Retry-After": "21600"})
    started = time.monotonic()

    with pytest.raises((GarminUnavailable, GarminRequestError)):
        client.connectapi(PROFILE)

    assert time.monotonic() - started < SOON


# Deadlines

SLOW = [
    ("stall", {}),
    ("trickle", {"interval": 0.1}),
    ("slow_headers", {"interval": 0.1}),
]


@pytest.fixture
def ends_soon(settings):
    """Give each call a moment, and assert that the test was over soon after."""
    settings.GARMIN_AUTH_TIMEOUT = 0.3
    started = time.monotonic()
    yield
    assert time.monotonic() - started < SOON


@pytest.mark.parametrize(("fault", "options"), SLOW)
@pytest.mark.parametrize("step", ["login", "exchange"])
def test_a_login_ends_in_time(garmin, engine, account, ends_soon, step, fault, options):
    garmin.fail(step, fault, times=None, **options)

    with pytest.raises(GarminUnavailable):
        engine.login(account, PASSWORD)


@pytest.mark.parametrize("step", ["sign_in", "preauthorized", "consumer"])
def test_a_stall_anywhere_in_a_login_ends_in_time(garmin, engine, account, ends_soon, step):
    garmin.fail(step, "stall", times=None)

    with pytest.raises(GarminUnavailable):
        engine.login(account, PASSWORD)


def test_slow_steps_of_a_login_have_one_deadline_together(garmin, engine, account, ends_soon):
    garmin.set_latency(0.2)

    with pytest.raises(GarminUnavailable):
        engine.login(account, PASSWORD)


@pytest.mark.parametrize(("fault", "options"), SLOW)
def test_a_code_ends_in_time(garmin, engine, mfa_account, settings, fault, options):
    state = engine.login(mfa_account, PASSWORD).state
    settings.GARMIN_AUTH_TIMEOUT = 0.3
    garmin.fail("verify_code", fault, times=None, **options)
    started = time.monotonic()

    with pytest.raises(GarminUnavailable):
        engine.submit_code(state, garmin.mfa_code(EMAIL))

    assert time.monotonic() - started < SOON


@pytest.mark.parametrize(("step", "fault"), [("preauthorized", "stall"), ("exchange", "status")])
def test_what_follows_a_code_ends_in_time(
    garmin, engine, mfa_account, settings, monkeypatch, step, fault
):
    monkeypatch.setattr("garmin_auth.engines.garth.login.COMPLETION_PAUSES", (10, 10))
    state = engine.login(mfa_account, PASSWORD).state
    settings.GARMIN_AUTH_TIMEOUT = 1
    garmin.fail(step, fault, times=None)
    started = time.monotonic()

    with pytest.raises(ChallengeExpired):
        engine.submit_code(state, garmin.mfa_code(EMAIL))

    assert time.monotonic() - started < SOON


@pytest.mark.parametrize(("fault", "options"), SLOW)
def test_an_api_call_ends_in_time(garmin, client, ends_soon, fault, options):
    garmin.fail("api", fault, times=None, **options)

    with pytest.raises(GarminUnavailable):
        client.connectapi(PROFILE)


def test_a_slow_upload_ends_in_time(garmin, client, ends_soon):
    garmin.fail("api", "stall", times=None)

    with pytest.raises(GarminUnavailable):
        client.connectapi("/upload-service/upload", method="POST", data=b"x" * 5_000_000)


@pytest.mark.parametrize(("fault", "options"), [("stall", {}), ("slow_headers", {"interval": 0.1})])
def test_connecting_ends_in_time(garmin, client, ends_soon, fault, options):
    garmin.fail("connect", fault, times=None, **options)

    with pytest.raises(GarminUnavailable):
        client.connectapi(PROFILE)


@pytest.mark.parametrize(("fault", "options"), SLOW)
def test_a_refresh_ends_in_time(garmin, engine, account, monkeypatch, fault, options):
    monkeypatch.setattr("garmin_auth.engines.garth.engine.REFRESH_TIMEOUT", 0.3)
    garmin.fail("exchange", fault, times=None, **options)
    started = time.monotonic()

    with pytest.raises(GarminUnavailable):
        engine.refresh(garmin.issue_session(account))

    assert time.monotonic() - started < SOON


def test_a_refresh_has_a_deadline_of_its_own(garmin, engine, account, settings):
    settings.GARMIN_AUTH_TIMEOUT = 0.1
    garmin.set_latency(0.3)

    assert engine.refresh(garmin.issue_session(account))


def test_an_overrun_leaves_the_next_call_its_time(garmin, client, settings):
    settings.GARMIN_AUTH_TIMEOUT = 0.3
    garmin.fail("api", "stall", times=None)
    with pytest.raises(GarminAuthError):
        client.connectapi(PROFILE)
    garmin.heal()
    settings.GARMIN_AUTH_TIMEOUT = 5

    assert client.connectapi(PROFILE)["userName"] == EMAIL


def test_a_connection_outlives_the_deadline_it_was_opened_in(garmin, client, settings):
    settings.GARMIN_AUTH_TIMEOUT = 3
    client.connectapi(PROFILE)
    time.sleep(3.1)

    client.connectapi(PROFILE)

    assert garmin.counts["connect"] == 1


# Logs


@pytest.mark.parametrize("fault", ["reset", "stall"])
def test_no_log_line_shows_a_secret(garmin, engine, mfa_account, settings, caplog, fault):
    """Also not what urllib3 says of a connection that broke."""
    caplog.set_level("INFO")
    challenge = engine.login(mfa_account, PASSWORD)
    assert isinstance(challenge, Challenge)
    code = garmin.mfa_code(EMAIL)
    garmin.fail("preauthorized", fault, times=None)
    if fault == "stall":
        settings.GARMIN_AUTH_TIMEOUT = 5  # With time enough to come so far.

    with pytest.raises(GarminAuthError):
        engine.submit_code(challenge.state, code)

    assert garmin.counts["preauthorized"]
    for secret in (EMAIL, PASSWORD, code, "ST-", "-sso"):
        assert secret not in caplog.text


def test_a_host_that_does_not_resolve_is_unavailable(garmin, engine, account, settings):
    settings.GARMIN_AUTH_PROXIES = {"https": "http://no-such-host.invalid:3128"}

    with pytest.raises(GarminUnavailable):
        engine.open(garmin.issue_session(account), None).client.connectapi(PROFILE)


def test_looking_a_host_up_ends_in_time(monkeypatch):
    given_up = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: given_up.wait(60))
    started = time.monotonic()

    with pytest.raises(TimeoutError), deadline(0.2):
        resolve("connectapi.garmin.com", 443)

    assert time.monotonic() - started < SOON
    given_up.set()


def test_threads_that_come_at_once_share_one_pool(settings, garmin, tmp_path):
    """Else each of them would open connections, and fetch the consumer, of its own."""
    # A bundle that nobody has used yet, and large, so that reading it takes a while.
    settings.GARMIN_AUTH_CA_BUNDLE = str(tmp_path / "bundle.pem")
    own = Path(garmin.ca_bundle).read_text()
    Path(settings.GARMIN_AUTH_CA_BUNDLE).write_text(own + Path(certifi.where()).read_text())
    barrier, found = threading.Barrier(8), []

    def run():
        barrier.wait()
        transport = get_transport("garmin.com")
        found.append((transport, transport._adapter.proxy_manager_for(conf.PROXIES["https"])))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 8
    assert len(set(found)) == 1


# A proxy that wants a password


@pytest.mark.parametrize(
    ("written", "password"),
    [
        ("gr%C3%BCn%3A%40%2541%2F%3F%23", "grün:@%41/?#"),
        ("grün:@100%", "grün:@100%"),
    ],
)
@pytest.mark.parametrize(
    "name", ["garth", pytest.param("garminconnect", marks=needs_garminconnect)]
)
def test_a_proxy_password_may_have_any_character(
    garmin, settings, account, name, written, password
):
    garmin.proxy_credentials = ("joé", password)
    settings.GARMIN_AUTH_PROXIES = {"https": garmin.proxy_url.replace("//", f"//joé:{written}@")}
    engine = get_engine(name)

    new = engine.login(EMAIL, PASSWORD)  # With garminconnect, it goes through curl.

    opened = engine.open(new.session_data, None)
    assert opened.client.connectapi(PROFILE)["userName"] == EMAIL


# curl


@needs_garminconnect
def test_a_post_whose_answer_does_not_come_is_not_sent_again(garmin, account):
    """libcurl sends it again if it has used the connection before."""
    from garmin_auth.engines.http.curl import CurlSession  # It imports curl_cffi.

    session, sso = CurlSession("garmin.com", "chrome"), "https://sso.garmin.com/mobile/"
    session.get(f"{sso}sso/en_US/sign-in", timeout=20)
    garmin.fail("login", "reset")

    with pytest.raises(GarminUnavailable):
        session.post(f"{sso}api/login", json={"username": account}, timeout=20)

    assert garmin.counts["login"] == 1
