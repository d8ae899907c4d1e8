"""Hazards 2, 3, 9 and 11: what garth and requests read from the environment changes nothing.

What is read at import is tried in a process of its own, the rest in this one.
"""

import base64
import json
import shutil
import socket
import threading

import garth
import pytest
import trustme

from garmin_auth.engines import get_engine
from garmin_auth.engines.base import NewSession
from garmin_auth.exceptions import GarminUnavailable
from tests.conftest import EMAIL, PASSWORD

MALLORY = "mallory@example.com"

# A login with a code, a refresh and a call, as a site makes them. Prints who Garmin says we are.
JOURNEY = """
import json, sys
from garmin_auth.conf import conf
from garmin_auth.engines import get_engine
from garmin_auth.testing import RemoteGarminSimulator

email, password = sys.argv[1:]
garmin = RemoteGarminSimulator(conf.PROXIES["https"])
engine = get_engine("garth")
challenge = engine.login(email, password)
new = engine.submit_code(json.loads(json.dumps(challenge.state)), garmin.mfa_code(email))
session = engine.open(new.session_data, None)
before = engine.fetch_account_name(session)
data = engine.refresh(new.session_data)
session = engine.open(data, None)
client = session.client
print(json.dumps({
    "validated": new.validated,
    "before": before,
    "after": engine.fetch_account_name(session),
    "telemetry": client.telemetry.enabled,
    "hooks": len(client.sess.hooks["response"]),
}))
"""


@pytest.fixture
def mallory(garmin):
    """A session of another account, as GARTH_TOKEN would hold it."""
    garmin.add_account(MALLORY, PASSWORD)
    return garmin.issue_session(MALLORY)


@pytest.fixture
def garth_home(tmp_path, mallory):
    """A folder with the tokens of another account, as garth writes it."""
    home = tmp_path / "garth"
    home.mkdir()
    tokens = json.loads(base64.b64decode(mallory))
    for name, token in zip(("oauth1_token.json", "oauth2_token.json"), tokens, strict=True):
        (home / name).write_text(json.dumps(token))
    return home


@pytest.fixture
def other_ca(tmp_path):
    """A certificate authority that has not signed what Garmin shows."""
    bundle = tmp_path / "other-ca.pem"
    trustme.CA().cert_pem.write_to_path(str(bundle))
    return str(bundle)


@pytest.fixture
def trap():
    """A port that nobody is to connect to. Its ``visitors`` says how many did."""

    class Trap:
        visitors = 0

    with socket.create_server(("127.0.0.1", 0)) as listener:
        Trap.url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def listen():
            while True:
                try:
                    visitor, _ = listener.accept()
                except OSError:
                    return
                Trap.visitors += 1
                visitor.close()

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield Trap
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@pytest.fixture
def netrc(tmp_path):
    """A ~/.netrc with passwords for every host that we speak to."""
    hosts = ("connectapi.garmin.com", "sso.garmin.com", "thegarth.s3.amazonaws.com")
    lines = [f"machine {host} login mallory password x" for host in hosts]
    path = tmp_path / ".netrc"
    path.write_text("\n".join([*lines, "default login mallory password x", ""]))
    path.chmod(0o600)
    return {"HOME": str(tmp_path), "NETRC": str(path)}


def assert_ours_alone(garmin):
    """What Garmin has seen is a journey of our account, and nothing else."""
    assert {entry["account"] for entry in garmin.log} - {None} == {EMAIL}
    assert {entry["status"] for entry in garmin.log} == {200}
    counts = garmin.counts
    assert (counts["exchange"], counts["api"], counts["refused_host"]) == (2, 3, 0)


@pytest.fixture
def journey_in_new_process(garmin, mfa_account, run_python):
    """Make the journey in a process with these variables, and assert that it was ours alone."""

    def journey(**environment):
        output = run_python(JOURNEY, EMAIL, PASSWORD, **environment)
        assert json.loads(output) == {  # Nothing else was printed either.
            "validated": True,
            "before": EMAIL,
            "after": EMAIL,
            "telemetry": False,
            "hooks": 0,
        }
        assert_ours_alone(garmin)

    return journey


@pytest.fixture
def journey(garmin, mfa_account, settings, tmp_path, monkeypatch):
    """Make the journey in this process, with connections of its own."""

    def journey(**environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        bundle = tmp_path / "ca.pem"
        shutil.copy(garmin.ca_bundle, bundle)
        settings.GARMIN_AUTH_CA_BUNDLE = str(bundle)
        engine = get_engine("garth")
        challenge = engine.login(EMAIL, PASSWORD)
        new = engine.submit_code(challenge.state, garmin.mfa_code(EMAIL))
        assert isinstance(new, NewSession)
        session = engine.open(new.session_data, None)
        assert engine.fetch_account_name(session) == EMAIL
        session = engine.open(engine.refresh(new.session_data), None)
        assert engine.fetch_account_name(session) == EMAIL
        assert_ours_alone(garmin)

    return journey


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# What garth reads


# Each process is dear, so it has several variables that do not stand in each other's way.


def test_garth_home_of_another_account(journey_in_new_process, garth_home):
    before = content_of(garth_home)

    journey_in_new_process(GARTH_HOME=str(garth_home))

    assert content_of(garth_home) == before


def test_garth_home_and_token_in_lower_case(journey_in_new_process, garth_home, mallory):
    before = content_of(garth_home)

    journey_in_new_process(garth_home=str(garth_home), garth_token=mallory)

    assert content_of(garth_home) == before


def test_token_of_another_account_and_telemetry_switched_on(journey_in_new_process, mallory, trap):
    journey_in_new_process(
        GARTH_TOKEN=mallory,
        GARTH_TELEMETRY_ENABLED="true",
        GARTH_TELEMETRY_SEND_TO_LOGFIRE="true",
        HTTPS_PROXY=trap.url,
    )

    assert trap.visitors == 0


def test_nonsense_and_a_log_of_tls_keys(journey_in_new_process, tmp_path):
    log = tmp_path / "keys.log"

    journey_in_new_process(
        GARTH_TOKEN="corrupt",
        GARTH_TELEMETRY_ENABLED="banana",
        garth_telemetry_callback="banana",
        SSLKEYLOGFILE=str(log),
    )

    assert not log.exists() or not [
        line for line in log.read_text().splitlines() if not line.startswith("#")
    ]


def test_garth_variables_are_left_as_they_were_and_nothing_is_warned_of(mallory, run_python):
    output = run_python(
        "import os\n"
        "from garmin_auth.engines import get_engine\n"
        "name = get_engine('garth').name\n"
        "print(name, os.environ['GARTH_TOKEN'], os.environ['garth_telemetry_enabled'])",
        GARTH_TOKEN=mallory,
        garth_telemetry_enabled="true",
        PYTHONWARNINGS="error:Garth is deprecated",
    )

    assert output == f"garth {mallory} true"


def test_garths_own_client_becomes_somebody_else(garmin, mallory, monkeypatch):
    """The test of the tests above."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GARTH_TOKEN", mallory)

    client = garth.Client(proxies={"https": garmin.proxy_url}, ssl_verify=garmin.ca_bundle)

    with client.sess:
        assert client.connectapi("/userprofile-service/socialProfile", headers={})["userName"] == (
            MALLORY
        )


# What requests, urllib3 and OpenSSL read


def test_passwords_in_netrc(journey, netrc):
    journey(**netrc)


def test_certificate_authorities_of_somebody_else(journey, other_ca):
    journey(REQUESTS_CA_BUNDLE=other_ca, CURL_CA_BUNDLE=other_ca, SSL_CERT_FILE=other_ca)


def test_certificate_authorities_that_do_not_exist(journey):
    names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
    journey(**dict.fromkeys(names, "/does/not/exist"))


def test_only_the_settings_name_whom_to_trust(garmin, settings, other_ca, monkeypatch):
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, garmin.ca_bundle)
    settings.GARMIN_AUTH_CA_BUNDLE = other_ca

    with pytest.raises(GarminUnavailable):
        get_engine("garth").login(EMAIL, PASSWORD)

    assert (garmin.counts["connect"] > 0, garmin.counts["sign_in"]) == (True, 0)


def test_proxies_of_somebody_else(journey, trap):
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    journey(**dict.fromkeys((*names, *map(str.lower, names)), trap.url))

    assert trap.visitors == 0


def test_no_proxy_does_not_lead_past_ours(journey, garmin):
    journey(NO_PROXY="*", no_proxy="*")

    assert garmin.counts["connect"] > 0


def test_all_at_once(journey_in_new_process, garth_home, mallory, netrc, other_ca, trap):
    before = content_of(garth_home)

    journey_in_new_process(
        GARTH_HOME=str(garth_home),
        GARTH_TOKEN=mallory,
        GARTH_TELEMETRY_ENABLED="true",
        REQUESTS_CA_BUNDLE=other_ca,
        CURL_CA_BUNDLE="/does/not/exist",
        SSL_CERT_FILE=other_ca,
        HTTPS_PROXY=trap.url,
        ALL_PROXY=trap.url,
        **netrc,
    )

    assert content_of(garth_home) == before
    assert trap.visitors == 0
