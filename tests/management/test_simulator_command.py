"""``manage.py garmin_simulator``."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest
import requests

from garmin_auth.testing import RemoteGarminSimulator
from tests.conftest import ROOT
from tests.testing.wire import (
    ADA,
    SIGN_IN,
    post_login,
)
from tests.waiting import wait_until


@pytest.fixture
def start_command(fork_server):
    """Start the command as a process, which ends with the block."""

    @contextmanager
    def start_command(*options):
        process = fork_server.start(
            ["manage.py", "garmin_simulator", *options],
            os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings", "PYTHONUNBUFFERED": "1"},
            stderr=subprocess.STDOUT,
        )
        yield process
        process.kill()
        process.communicate()

    return start_command


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_command_serves_until_it_is_told_to_end(start_command, tmp_path, ending):
    ready = tmp_path / "ready.json"
    with start_command("--mfa-account", ":".join(ADA), "--ready-file", str(ready)) as process:
        wait_until(ready.exists, seconds=120)
        where = json.loads(ready.read_text())
        with requests.Session() as http:
            http.trust_env = False
            http.proxies, http.verify = {"https": where["proxy_url"]}, where["ca_bundle"]
            http.get(SIGN_IN, timeout=5)
            post_login(http, *ADA)
        code = RemoteGarminSimulator(where["control_url"]).mfa_code(ADA[0])
        process.send_signal(ending)
        output, _ = process.communicate(timeout=120)

    assert process.returncode == 0, output
    assert f'GARMIN_AUTH_PROXIES = {{"https": "{where["proxy_url"]}"}}' in output
    assert f"Code for {ADA[0]}: {code}" in output
    assert not ready.exists()
    assert not os.path.exists(where["ca_bundle"])


def test_command_prints_keys(start_command, tmp_path):
    ready = tmp_path / "ready.json"
    options = ("--account", ":".join(ADA), "--keys", "--ready-file", str(ready))
    with start_command(*options) as process:
        wait_until(ready.exists, seconds=120)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=120)

    assert re.search(rf"^Key of {ADA[0]}: [\w-]{{40,}}$", output, re.M)


def test_command_has_accounts_in_both_regions(start_command, tmp_path):
    ready = tmp_path / "ready.json"
    options = ("--account", ":".join(ADA), "--china-account", f"{ADA[0]}:secret", "--keys")
    with start_command(*options, "--ready-file", str(ready)) as process:
        wait_until(ready.exists, seconds=120)
        garmin = RemoteGarminSimulator(json.loads(ready.read_text())["control_url"])
        for domain in ("garmin.com", "garmin.cn"):
            with pytest.raises(ValueError, match="already"):
                garmin.add_account(*ADA, domain=domain)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=120)

    assert f"Account: {ADA[0]} secret (garmin.cn)\n" in output
    assert output.count(f"Key of {ADA[0]}: ") == 2


def test_command_ends_with_its_parent(tmp_path):
    ready = tmp_path / "ready.json"
    command = f"{sys.executable} manage.py garmin_simulator --exit-with-parent --ready-file {ready}"
    parent = subprocess.Popen(
        ["sh", "-c", f"{command} & wait"],
        cwd=ROOT,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"},
        stdout=subprocess.DEVNULL,
    )
    wait_until(ready.exists, seconds=120)

    parent.kill()
    parent.wait()

    wait_until(lambda: not ready.exists(), seconds=120)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--account", "nobody"], "An account must be EMAIL:PASSWORD, not 'nobody'."),
        (["--account", "a@b.c:1", "--mfa-account", "a@b.c:2"], "an account a@b.c already"),
        (["--port", "70000"], "from 0 to 65535"),
        (["--latency", "-1"], "must not be negative"),
        (["--ready-file", "/nowhere/ready"], "Cannot write /nowhere/ready"),
    ],
)
def test_command_refuses_bad_arguments_in_a_sentence(start_command, options, sentence):
    with start_command(*options) as process:
        output, _ = process.communicate(timeout=120)

    assert process.returncode == 1
    assert sentence in output
    assert "Traceback" not in output


def test_command_says_that_the_port_is_in_use(start_command, garmin):
    with start_command("--port", str(garmin.port)) as process:
        output, _ = process.communicate(timeout=120)

    assert process.returncode == 1
    assert f"Port {garmin.port} of 127.0.0.1 is in use" in output
    assert "Traceback" not in output


def test_command_listens_where_it_is_told_and_leaves_its_certificate_for_others(
    start_command, tmp_path
):
    ready, ca = tmp_path / "ready.json", tmp_path / "shared" / "garmin.pem"
    ca.parent.mkdir()
    options = ["--host", "0.0.0.0", "--ca-file", str(ca), "--ready-file", str(ready)]
    with start_command(*options) as process:
        wait_until(ready.exists, seconds=120)
        where = json.loads(ready.read_text())
        port = where["proxy_url"].rpartition(":")[2]
        with requests.Session() as http:
            http.trust_env = False
            # Only one that listens on all addresses answers here.
            http.proxies, http.verify = {"https": f"http://127.0.0.2:{port}"}, str(ca)
            assert http.get(SIGN_IN, timeout=5).status_code == 200
        mode = ca.stat().st_mode & 0o777
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=120)

    assert process.returncode == 0, output
    assert where["ca_bundle"] == str(ca)
    assert mode == 0o644
    assert f'GARMIN_AUTH_CA_BUNDLE = "{ca}"' in output
    assert f"From other machines: http://{socket.gethostname()}:{port}" in output
    assert not ca.exists()


@pytest.mark.parametrize("host", ["no such host", "192.0.2.1"])
def test_command_says_that_it_cannot_listen_there(start_command, host):
    with start_command("--host", host) as process:
        output, _ = process.communicate(timeout=120)

    assert process.returncode == 1
    assert f"of {host}: " in output
    assert "Traceback" not in output


def test_command_says_that_the_certificate_cannot_be_written(start_command):
    with start_command("--ca-file", "/nowhere/ca.pem") as process:
        output, _ = process.communicate(timeout=120)

    assert process.returncode == 1
    assert "Cannot write /nowhere/ca.pem: No such file or directory." in output
    assert "Traceback" not in output
