"""Clients of the API in this process."""

import json

import pytest
from django.test import Client

from tests.sites.conftest import serve  # noqa: F401

API = "/garmin/api/"
CONNECTION, LOGIN, MFA, KEY = (f"{API}connection/{name}" for name in ("", "login/", "mfa/", "key/"))
DESCRIPTION = f"{API}openapi.json"


class ApiClient(Client):
    """Sends JSON, as a front end does."""

    def send(self, path, data, method="post", **headers):
        return getattr(self, method)(
            path, json.dumps(data), content_type="application/json", headers=headers
        )


@pytest.fixture
def api_urls(settings):
    settings.ROOT_URLCONF = "tests.demo_urls"


@pytest.fixture
def api(user, api_urls):
    """A front end of a user who is logged in."""
    client = ApiClient()
    client.force_login(user)
    return client


@pytest.fixture
def other_api(other_user, api_urls):
    client = ApiClient()
    client.force_login(other_user)
    return client


@pytest.fixture
def visitor(api_urls):
    """A front end of nobody."""
    return ApiClient()
