import garth
import garth.sso
import pytest
import requests
from requests.adapters import HTTPAdapter

from tests.testing.wire import (
    ADA,
    bearer,
)


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    # garth's OAuth1 session reads these, and they beat what the client was told.
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GARTH_HOME", "GARTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(garth.sso, "OAUTH_CONSUMER", {})


@pytest.fixture
def new_client(garmin):
    clients = []

    def make(session=None, **options):
        client = garth.Client(
            proxies={"https": garmin.proxy_url}, ssl_verify=garmin.ca_bundle, **options
        )
        if session:
            client.loads(session)
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.sess.close()


@pytest.fixture
def http(garmin):
    with requests.Session() as session:
        session.trust_env = False
        session.proxies = {"https": garmin.proxy_url}
        session.verify = garmin.ca_bundle
        session.mount("https://", HTTPAdapter(max_retries=0))
        yield session


@pytest.fixture
def ada(garmin):
    return garmin.add_account(*ADA)


@pytest.fixture
def ada_mfa(garmin):
    return garmin.add_account(*ADA, mfa=True)


@pytest.fixture
def as_ada(garmin, ada, http):
    http.headers["Authorization"] = bearer(garmin.issue_session(ada["email"]))
    return http
