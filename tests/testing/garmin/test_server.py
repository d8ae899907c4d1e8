"""The simulator's proxy and TLS."""

import socket
import ssl

import pytest
import requests

from tests.testing.wire import (
    API,
    PROFILE,
    SIGN_IN,
    tunnel,
)


@pytest.mark.parametrize("url", ["https://example.com/", f"{API}:8443/"])
def test_unknown_host_is_refused_and_counted(garmin, http, url):
    with pytest.raises(requests.exceptions.ProxyError, match="403"):
        http.get(url, timeout=5)

    assert garmin.counts["refused_host"] == 1
    assert garmin.counts["connect"] == 0


def test_certificate_is_not_trusted_without_the_ca_file(garmin, http):
    http.verify = True

    with pytest.raises(requests.exceptions.SSLError):
        http.get(SIGN_IN, timeout=5)


def test_connection_is_kept_alive(as_ada, garmin):
    for _ in range(5):
        as_ada.get(PROFILE, timeout=5)

    assert (garmin.counts["connect"], garmin.counts["api"]) == (1, 5)


def test_150_connections_are_held_at_once(garmin):
    context = ssl.create_default_context(cafile=garmin.ca_bundle)
    connections = [tunnel(garmin, context) for _ in range(150)]
    try:
        for connection in connections:
            connection.sendall(b"GET /mobile/sso/en/sign-in HTTP/1.1\r\nHost: x\r\n\r\n")
        answers = [connection.recv(12) for connection in connections]
    finally:
        for connection in connections:
            connection.close()

    assert answers == [b"HTTP/1.1 200"] * 150


def test_server_speaks_http_1_also_to_who_would_rather_have_2(garmin):
    context = ssl.create_default_context(cafile=garmin.ca_bundle)
    context.set_alpn_protocols(["h2", "http/1.1"])

    with tunnel(garmin, context) as connection:
        assert connection.selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize("noise", [b"\x16\x03\x01", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nx\r\n\r\n"])
def test_noise_closes_the_connection_and_nothing_else(garmin, http, noise):
    with socket.create_connection(("127.0.0.1", garmin.port), timeout=5) as client:
        client.sendall(noise)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""

    assert http.get(SIGN_IN, timeout=5).status_code == 200
