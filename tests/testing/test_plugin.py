"""The pytest plugin."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


def test_fixture_points_the_settings_at_the_simulator(garmin, settings):
    assert garmin.settings["GARMIN_AUTH_PROXIES"] == settings.GARMIN_AUTH_PROXIES
    assert garmin.settings["GARMIN_AUTH_CA_BUNDLE"] == settings.GARMIN_AUTH_CA_BUNDLE


def run_pytest(folder, test, *options, **environment):
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (folder / "test_it.py").write_text(test)
    keep = {name: value for name, value in os.environ.items() if "DJANGO" not in name}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, str(folder)],
        env=keep | {"PYTHONPATH": str(ROOT)} | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


RESET_TEST = """
def test_first(garmin):
    garmin.add_account("ada@example.com", "x")

def test_second(garmin):
    garmin.add_account("ada@example.com", "x")
"""

SETTINGS_TEST = """
from django.conf import settings as live

def test_points(settings, garmin):
    settings.OTHER = 1
    assert live.GARMIN_AUTH_PROXIES["https"] == garmin.proxy_url

def test_points_no_more():
    assert not hasattr(live, "GARMIN_AUTH_PROXIES")
"""


def test_fixture_is_as_new_for_each_test_without_django(tmp_path):
    done = run_pytest(tmp_path, RESET_TEST, "-p", "no:django")

    assert "2 passed" in done.stdout, done.stdout


@pytest.mark.parametrize("options", [(), ("-p", "no:django")])
def test_fixture_gives_the_settings_back(tmp_path, options):
    (tmp_path / "conf.py").write_text("")
    test = SETTINGS_TEST if not options else SETTINGS_TEST.replace("settings, garmin", "garmin")
    test = test if not options else test.replace("settings.OTHER = 1", "pass")

    done = run_pytest(tmp_path, test, *options, DJANGO_SETTINGS_MODULE="conf")

    assert "2 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("missing", ["trustme", "oauthlib"])
def test_fixture_names_the_extra_that_is_missing(tmp_path, missing):
    (tmp_path / "conftest.py").write_text(f"import sys; sys.modules[{missing!r}] = None")

    done = run_pytest(tmp_path, RESET_TEST, "-p", "no:django")

    assert 'pip install "django-garmin-auth[testing]"' in done.stdout
    assert "2 errors" in done.stdout


def test_importing_the_plugin_imports_nothing_slow():
    script = (
        "import sys, pytest; before = set(sys.modules); import garmin_auth.testing.plugin;"
        "print(*sorted(set(sys.modules) - before))"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == [
        "garmin_auth",
        "garmin_auth.testing",
        "garmin_auth.testing.plugin",
    ]
