"""Steering the simulator from another process."""

import base64
import json
import os
import subprocess
import sys

import pytest

from garmin_auth.testing import GarminSimulator, RemoteGarminSimulator
from tests.conftest import ROOT
from tests.testing.wire import (
    ADA,
)


def test_remote_has_the_methods_and_properties(garmin):
    remote = RemoteGarminSimulator(garmin.control_url)

    account = remote.add_account(*ADA, mfa=True, full_name="Ada Lovelace")
    remote.latency = 0.01
    remote.access_token_lifetime = 60
    remote.rotate_refresh_tokens = False
    session = remote.issue_session(account["email"])
    remote.fail("sign_in", "status", times=None, status=500)

    assert account["full_name"] == "Ada Lovelace"
    assert (garmin.latency, garmin.access_token_lifetime) == (0.01, 60)
    assert json.loads(base64.b64decode(session))[1]["expires_in"] == 60
    assert remote.settings == garmin.settings
    assert remote.environment == garmin.environment
    assert remote.library_environment == garmin.library_environment
    assert not garmin.rotate_refresh_tokens
    assert "di_token" in json.loads(remote.issue_session(ADA[0], engine="garminconnect"))
    assert remote.counts == garmin.counts
    remote.reset()
    assert (garmin.access_token_lifetime, garmin.rotate_refresh_tokens) == (75017, True)


def test_remote_is_found_by_its_proxy_url_too(garmin):
    assert RemoteGarminSimulator(garmin.proxy_url).ca_bundle == garmin.ca_bundle


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda remote: remote.fail("login", "flood"), ValueError, "Unknown fault 'flood'"),
        (lambda remote: remote.revoke("nobody@example.com"), LookupError, "No account nobody"),
        (lambda remote: remote.revoke(), TypeError, "email"),
        (lambda remote: remote.explode(), AttributeError, "explode"),
    ],
)
def test_remote_raises_what_the_simulator_raises(garmin, call, error, sentence):
    with pytest.raises(error, match=sentence):
        call(RemoteGarminSimulator(garmin.control_url))


def test_remote_says_that_nobody_answers():
    with GarminSimulator() as simulator:
        remote = RemoteGarminSimulator(simulator.control_url)

    with pytest.raises(ConnectionError, match="No Garmin simulator answers at"):
        _ = remote.counts


def test_second_process_steers_it_whatever_its_proxies(garmin):
    script = (
        "import os; from garmin_auth.testing import RemoteGarminSimulator as R;"
        "g = R(os.environ['GARMIN_SIMULATOR_PROXY']); g.add_account('ada@example.com', 'x');"
        "print(g.issue_session('ada@example.com'))"
    )
    proxies = dict.fromkeys(["http_proxy", "HTTP_PROXY", "all_proxy"], "http://127.0.0.1:9")

    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | proxies | garmin.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    assert len(json.loads(base64.b64decode(done.stdout))) == 2
