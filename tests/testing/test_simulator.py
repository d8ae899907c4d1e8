"""Starting, stopping and resetting the simulator."""

import os
import signal
import socket
import ssl
import threading
import time

import pytest

from garmin_auth.testing import GarminSimulator
from tests.testing.wire import (
    ADA,
    API,
    PROFILE,
    assert_reset,
    tunnel,
)
from tests.waiting import wait_until


def test_stop_closes_everything():
    before = set(threading.enumerate())
    simulator = GarminSimulator().start()
    port, ca_bundle = simulator.port, simulator.ca_bundle
    with socket.create_connection(("127.0.0.1", port), timeout=5) as idle:
        wait_until(lambda: len(set(threading.enumerate()) - before) == 2)

        simulator.stop()

        assert idle.recv(1) == b""
    assert not os.path.exists(ca_bundle)
    assert set(threading.enumerate()) - before == set()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    simulator.stop()


def test_stop_ends_a_stalled_answer_at_once():
    simulator = GarminSimulator().start()
    context = ssl.create_default_context(cafile=simulator.ca_bundle)
    simulator.fail("sign_in", "stall")
    with tunnel(simulator, context) as connection:
        connection.sendall(b"GET /mobile/sso/en/sign-in HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: simulator.counts["sign_in"] == 1)
        start = time.monotonic()

        simulator.stop()

        assert time.monotonic() - start < 8  # Waiting for its thread would take 10.


def test_stopped_simulator_says_that_it_is_not_running():
    with pytest.raises(RuntimeError, match=r"call start\(\)"):
        _ = GarminSimulator().settings


def test_taken_port_is_an_os_error(garmin):
    with pytest.raises(OSError, match="in use"):
        GarminSimulator(garmin.port).start()


def test_forked_child_holds_no_connection_open():
    with GarminSimulator() as simulator:
        context = ssl.create_default_context(cafile=simulator.ca_bundle)
        with tunnel(simulator, context) as connection:
            child = fork_sleeper()
            try:
                simulator.fail("sign_in", "reset")
                assert_reset(connection)
            finally:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def fork_sleeper():
    import warnings

    with warnings.catch_warnings():  # Python 3.12 warns of forks beside threads
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    return child


def test_reset_forgets_everything_but_the_server(garmin, as_ada, http):
    as_ada.post(f"{API}/upload-service/upload", files={"file": ("a.fit", b"1")}, timeout=5)
    garmin.fail("api", "status", times=None)
    garmin.latency = 5
    garmin.access_token_lifetime = 1
    url = garmin.proxy_url

    garmin.reset()

    assert (garmin.proxy_url, garmin.latency, garmin.access_token_lifetime) == (url, 0, 75017)
    assert (garmin.log, garmin.uploads, set(garmin.counts.values())) == ([], [], {0})
    assert as_ada.get(PROFILE, timeout=5).status_code == 401
    garmin.add_account(*ADA)


def test_account_cannot_be_added_twice(garmin, ada):
    with pytest.raises(ValueError, match="already"):
        garmin.add_account(ada["email"].upper(), "x")


def test_unknown_account_is_a_lookup_error(garmin):
    with pytest.raises(LookupError, match="add_account"):
        garmin.revoke("nobody@example.com")
