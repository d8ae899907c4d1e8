"""What ``environment.py`` says of curl, compared with what curl_cffi itself does."""

import itertools
import os
import socket
import threading

import pytest

from garmin_auth.engines import environment

# A domain that exists nowhere: nothing of this can leave the machine.
HOST = "sso.garmin.invalid"
FIRST, SECOND = "http://127.0.0.1:3128", "http://127.0.0.1:3129"

FETCH = """
from curl_cffi import requests
print(requests.Session().get("https://sso.garmin.com/", timeout=10).status_code)
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in environment.VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def curl():
    return pytest.importorskip(
        "curl_cffi.requests", reason="garminconnect and curl_cffi need Python 3.12"
    )


@pytest.fixture
def proxy():
    """Start a proxy that closes every connection. Its ``visitors`` says how many came."""
    listeners = []

    class Proxy:
        def __init__(self):
            self.visitors = 0
            self.listener = socket.create_server(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
            listeners.append(self.listener)
            threading.Thread(target=self.listen, daemon=True).start()

        def listen(self):
            while True:
                try:
                    visitor, _ = self.listener.accept()
                except OSError:
                    return
                self.visitors += 1
                visitor.close()

    yield Proxy
    for listener in listeners:
        listener.close()


def visit(curl):
    """Ask for a page through whatever proxy curl finds, in vain."""
    with pytest.raises(curl.exceptions.RequestException), curl.Session(timeout=5) as session:
        session.get(f"https://{HOST}/")


# Which proxy


@pytest.mark.parametrize(
    "names", [*itertools.combinations(environment.PROXY_VARIABLES, 2)], ids=" before ".join
)
def test_curl_takes_the_proxy_of_the_first_variable(curl, proxy, monkeypatch, names):
    first, second = proxy(), proxy()
    for name, one in zip(names, (first, second), strict=True):
        monkeypatch.setenv(name, one.url)

    visit(curl)

    assert (first.visitors, second.visitors) == (1, 0)
    assert environment.proxy_for(HOST) == first.url


@pytest.mark.parametrize("name", environment.NO_PROXY_VARIABLES)
@pytest.mark.parametrize(
    ("exceptions", "through_it"),
    [
        ("*", False),
        ("garmin.invalid", False),
        (".garmin.invalid", False),
        ("localhost, garmin.invalid", False),
        ("SSO.GARMIN.INVALID.", False),
        ("x,*", True),
        ("armin.invalid", True),
        ("*.garmin.invalid", True),
        ("localhost garmin.invalid", True),
        ("", True),
    ],
)
def test_curl_goes_past_the_proxy_where_no_proxy_says_so(
    curl, proxy, monkeypatch, name, exceptions, through_it
):
    one = proxy()
    monkeypatch.setenv("HTTPS_PROXY", one.url)
    monkeypatch.setenv(name, exceptions)

    visit(curl)

    assert one.visitors == through_it
    assert bool(environment.proxy_for(HOST)) is through_it


# Which authorities


@pytest.mark.parametrize("name", environment.CA_VARIABLES)
def test_curl_trusts_the_authorities_of_each_variable(curl, run_python, garmin, name):
    environment = {"HTTPS_PROXY": garmin.proxy_url, name: garmin.ca_bundle}

    assert run_python(FETCH, **environment).isdigit()


@pytest.mark.parametrize(
    "names", [*itertools.combinations(environment.CA_VARIABLES, 2)], ids=" before ".join
)
def test_curl_trusts_the_authorities_of_the_first_variable(curl, run_python, garmin, names):
    first, second = names
    variables = {
        "HTTPS_PROXY": garmin.proxy_url,
        first: garmin.ca_bundle,
        second: str(environment.__file__),  # No authorities in there.
    }

    assert run_python(FETCH, **variables).isdigit()


# Whether the settings say the same


def test_nothing_set_anywhere_agrees(settings):
    assert environment.environment_agrees()


@pytest.mark.parametrize("name", environment.PROXY_VARIABLES)
def test_the_proxy_of_the_settings_agrees_with_the_same_in_the_environment(
    settings, monkeypatch, name
):
    settings.GARMIN_AUTH_PROXIES = {"https": f"{FIRST}/"}
    monkeypatch.setenv(name, FIRST.removeprefix("http://"))

    assert environment.environment_agrees()


@pytest.mark.parametrize(
    ("proxies", "variables"),
    [
        ({"https": FIRST}, {}),
        ({"https": FIRST}, {"HTTPS_PROXY": SECOND}),
        ({}, {"HTTPS_PROXY": FIRST}),
        ({"https": FIRST}, {"HTTPS_PROXY": FIRST, "NO_PROXY": "garmin.com"}),
    ],
)
def test_another_proxy_contradicts_the_setting(settings, monkeypatch, proxies, variables):
    settings.GARMIN_AUTH_PROXIES = proxies
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert environment.disagreements() == ["GARMIN_AUTH_PROXIES"]


@pytest.mark.parametrize("name", environment.CA_VARIABLES)
def test_the_bundle_of_the_settings_agrees_with_the_same_file(
    settings, monkeypatch, tmp_path, name
):
    bundle, link = tmp_path / "ca.pem", tmp_path / "link.pem"
    bundle.touch()
    link.symlink_to(bundle)
    settings.GARMIN_AUTH_CA_BUNDLE = str(bundle)
    monkeypatch.setenv(name, str(link))

    assert environment.environment_agrees()


@pytest.mark.parametrize(
    ("bundle", "variable"), [("/a.pem", "/b.pem"), ("/a.pem", ""), (None, "/b")]
)
def test_another_bundle_contradicts_the_setting(settings, monkeypatch, bundle, variable):
    settings.GARMIN_AUTH_CA_BUNDLE = bundle
    monkeypatch.setenv("CURL_CA_BUNDLE", variable)

    assert environment.disagreements() == ["GARMIN_AUTH_CA_BUNDLE"]


def test_a_file_that_is_not_there_is_no_bundle_to_ssl_cert_file(settings, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")

    assert not os.path.exists("/no/such/file")
    assert environment.environment_agrees()
