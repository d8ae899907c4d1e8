"""Why no answer came: what an operator reads, for each way in which a connection fails."""

import io
import logging
import shutil
import socket

import pytest
from django.core.management import call_command

from garmin_auth.engines import get_engine
from garmin_auth.exceptions import GarminAuthError, GarminUnavailable
from garmin_auth.login import start_login
from tests.conftest import BUILT_IN, EMAIL, PASSWORD, needs_garminconnect

PROFILE = "/userprofile-service/socialProfile"
PROXY_PASSWORD = "pr0xy-s3cret"


@pytest.fixture(autouse=True)
def _no_open_connection(settings, garmin, tmp_path, monkeypatch):
    bundle = tmp_path / "ca.pem"
    shutil.copy(garmin.ca_bundle, bundle)
    settings.GARMIN_AUTH_CA_BUNDLE = str(bundle)
    for flow in ("MOBILE_DELAY", "WIDGET_DELAY", "LOGIN_DELAY"):
        for end in ("MIN_S", "MAX_S"):
            monkeypatch.setattr(f"garminconnect.client.sso.{flow}_{end}", 0.01, raising=False)


@pytest.fixture(params=BUILT_IN)
def engine(request):
    return get_engine(request.param)


@pytest.fixture(params=["call", "refresh", "login"])
def failing(request, garmin, engine, account):
    """Do what an engine does over the network, and return what it raises."""
    session = garmin.issue_session(account, engine=engine.name)

    def failing():
        with pytest.raises(GarminUnavailable) as caught:
            if request.param == "call":
                engine.open(session, None).client.connectapi(PROFILE)
            elif request.param == "refresh":
                engine.refresh(session)
            else:
                engine.login(account, PASSWORD)
        assert caught.value.__context__ is None
        return str(caught.value)

    return failing


def closed_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


# With each engine, whatever it does


def test_an_untrusted_certificate_is_named(garmin, failing):
    garmin.fail("connect", "tls_failure", times=None)

    assert "is not trusted: unable to get local issuer certificate." in failing()


def test_a_proxy_that_wants_a_password_is_named(garmin, failing):
    garmin.proxy_credentials = ("site", PROXY_PASSWORD)

    assert "The proxy answered 407: it wants a user name and password." in failing()


def test_a_proxy_that_does_not_take_the_password_is_named(garmin, failing, settings):
    garmin.proxy_credentials = ("site", "another")
    url = garmin.proxy_url.replace("//", f"//site:{PROXY_PASSWORD}@")
    settings.GARMIN_AUTH_PROXIES = {"https": url}

    said = failing()

    assert "The proxy answered 407: it does not accept the user name and password" in said
    assert PROXY_PASSWORD not in said


def test_a_proxy_that_refuses_the_host_is_named(garmin, failing):
    garmin.fail("connect", "status", status=403, times=None)

    assert "The proxy answered 403." in failing()


def test_a_name_that_does_not_resolve_is_named(failing, settings):
    url = f"http://site:{PROXY_PASSWORD}@no-such-host.invalid:3128"
    settings.GARMIN_AUTH_PROXIES = {"https": url}

    said = failing()

    assert "The name no-such-host.invalid could not be resolved." in said
    assert PROXY_PASSWORD not in said


def test_a_refused_connection_is_named(failing, settings):
    port = closed_port()
    settings.GARMIN_AUTH_PROXIES = {"https": f"http://site:{PROXY_PASSWORD}@127.0.0.1:{port}"}

    said = failing()

    assert f"The connection to the proxy 127.0.0.1:{port} was refused" in said
    assert PROXY_PASSWORD not in said


def test_a_broken_connection_is_named(garmin, failing):
    for step in ("api", "exchange", "di_refresh", "sign_in", "portal_sign_in", "widget_embed"):
        garmin.fail(step, "reset", times=None)

    assert "connection" in failing()


# Where an engine has its own way of asking


def test_a_silent_server_is_named_with_the_time_it_had(garmin, account, settings):
    settings.GARMIN_AUTH_TIMEOUT = 0.5
    garmin.fail("api", "stall", times=None)

    with pytest.raises(GarminUnavailable) as caught:
        get_engine("garth").open(garmin.issue_session(account), None).client.connectapi(PROFILE)

    assert str(caught.value) == "connectapi.garmin.com did not answer within 0.5 seconds."


@needs_garminconnect
def test_a_server_that_is_silent_to_curl_is_named(garmin, account, monkeypatch):
    monkeypatch.setattr("garmin_auth.engines.garminconnect.engine.REFRESH_TIMEOUT", 1)
    garmin.fail("di_refresh", "stall", times=None)

    with pytest.raises(GarminUnavailable, match=r"diauth\.garmin\.com did not answer within 1 sec"):
        get_engine("garminconnect").refresh(garmin.issue_session(account, engine="garminconnect"))


@pytest.mark.parametrize("step", ["consumer", "preauthorized", "exchange"])
def test_the_cause_at_any_step_of_garths_login_is_named(garmin, account, step):
    garmin.fail(step, "reset", times=None)

    with pytest.raises(GarminUnavailable, match=r"was reset|closed the connection"):
        get_engine("garth").login(account, PASSWORD)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("reset", r"reset|closed"),
        ("stall", "did not answer within"),
    ],
)
def test_a_ticket_is_not_repeated(garmin, account, settings, fault, words):
    settings.GARMIN_AUTH_TIMEOUT = 3
    garmin.fail("preauthorized", fault, times=None)

    with pytest.raises(GarminUnavailable, match=words) as caught:
        get_engine("garth").login(account, PASSWORD)

    for secret in ("ST-", "ticket", "?", EMAIL, PASSWORD):
        assert secret not in str(caught.value)


# Where it is read


def test_the_checks_output_names_the_cause(garmin, user, connect):
    connect(user)
    garmin.fail("connect", "tls_failure", times=None)
    output = io.StringIO()

    with pytest.raises(SystemExit):
        call_command("check_garmin_sessions", stdout=output, stderr=io.StringIO())

    assert "The certificate of connectapi.garmin.com is not trusted" in output.getvalue()


@pytest.mark.django_db(transaction=True)
def test_the_log_names_the_cause_of_a_failed_login(garmin, account, user, settings, caplog):
    caplog.set_level(logging.INFO, "garmin_auth")
    garmin.fail("connect", "tls_failure", times=None)

    with pytest.raises(GarminAuthError):
        start_login(user, account, PASSWORD)

    assert "is not trusted: unable to get local issuer certificate" in caplog.text
