"""What the tests of a site meet: slow logins, pauses, and Django's own TestCase."""

import os
import subprocess
import sys

import pytest
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.test import TestCase

from garmin_auth.accounts import account_of
from garmin_auth.login import start_login
from garmin_auth.sessions import garmin_client
from garmin_auth.testing import GarminTestMixin
from tests.conftest import BUILT_IN, EMAIL, PASSWORD, ROOT, needs_garminconnect

PROFILE = "/userprofile-service/socialProfile"


@pytest.mark.django_db
@pytest.mark.parametrize("engine", BUILT_IN)
def test_the_login_page_connects_inside_a_tests_transaction(
    client, user, account, settings, engine
):
    settings.GARMIN_AUTH_ENGINE = engine
    client.force_login(user)

    response = client.post("/garmin/login/", {"email": EMAIL, "password": PASSWORD})

    assert response.url == "/garmin/"
    assert account_of(user).connected


@pytest.mark.django_db
@pytest.mark.parametrize("engine", BUILT_IN)
def test_the_pages_take_a_code_inside_a_tests_transaction(
    client, user, mfa_account, garmin, settings, engine
):
    settings.GARMIN_AUTH_ENGINE = engine
    client.force_login(user)

    response = client.post("/garmin/login/", {"email": EMAIL, "password": PASSWORD})
    assert response.url == "/garmin/mfa/"
    client.post("/garmin/mfa/", {"code": garmin.mfa_code(EMAIL)})

    assert account_of(user).connected


@needs_garminconnect
def test_a_login_of_a_test_makes_no_pause(garmin):
    from garminconnect.client import sso

    for flow in ("MOBILE", "WIDGET", "LOGIN"):
        assert getattr(sso, f"{flow}_DELAY_MIN_S") == getattr(sso, f"{flow}_DELAY_MAX_S") == 0


@needs_garminconnect
def test_the_pauses_come_back_after_the_test(garmin_simulator):
    from garminconnect.client import constants, sso

    assert sso.MOBILE_DELAY_MIN_S == constants.MOBILE_DELAY_MIN_S > 0


# Django's TestCase


class ConnectedTests(GarminTestMixin, TestCase):
    def setUp(self):
        super().setUp()
        cache.clear()
        self.user = get_user_model().objects.create_user("ana")

    def test_a_user_connects_and_fetches(self):
        self.garmin.add_account(EMAIL, PASSWORD)
        start_login(self.user, EMAIL, PASSWORD)

        with garmin_client(self.user) as client:
            assert client.connectapi(PROFILE)

    def test_every_test_begins_with_a_new_garmin(self):
        assert self.garmin.log == []
        self.garmin.add_account(EMAIL, PASSWORD)

    def test_every_test_begins_with_a_new_garmin_again(self):
        assert self.garmin.log == []
        self.garmin.add_account(EMAIL, PASSWORD)


SITE_TESTS = """
from django.core.cache import cache
from django.test import SimpleTestCase, TestCase
from django.contrib.auth import get_user_model
from django.conf import settings

from garmin_auth.accounts import account_of
from garmin_auth.testing import GarminTestMixin


class PageTests(GarminTestMixin, TestCase):
    def setUp(self):
        super().setUp()
        cache.clear()

    def test_a_user_connects(self):
        self.garmin.add_account("ana@example.com", "secret")
        user = get_user_model().objects.create_user("ana")
        self.client.force_login(user)
        form = {"email": "ana@example.com", "password": "secret"}
        self.client.post("/garmin/login/", form)
        self.assertTrue(account_of(user).connected)


class OtherTests(SimpleTestCase):
    def test_the_settings_are_as_before(self):
        self.assertFalse(hasattr(settings, "GARMIN_AUTH_PROXIES"))
"""


@pytest.mark.parametrize("engine", BUILT_IN)
def test_manage_py_test_runs_a_sites_tests(tmp_path, engine):
    package = tmp_path / "site_of_mine"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tests.py").write_text(SITE_TESTS)
    done = subprocess.run(
        [sys.executable, "manage.py", "test", "site_of_mine.tests", "--parallel", "1"],
        cwd=ROOT,
        env=os.environ
        | {
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "PYTHONPATH": str(tmp_path),
            "GARMIN_AUTH_TEST_DATABASE": "sqlite",
            "GARMIN_AUTH_TEST_ENGINE": engine,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "Ran 2 tests" in done.stderr
