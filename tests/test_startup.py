"""What starting Django costs with the app installed."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SLOW = (
    "garth",
    "garminconnect",
    "curl_cffi",
    "ua_generator",
    "requests",
    "pydantic",
    "logfire",
    "urllib3",
    "celery",
    "kombu",
    "django_tasks",
    "health_check",
    "tqdm",
    "trustme",
    "oauthlib",
)


@pytest.fixture(scope="module")
def imported():
    """The modules that ``django check`` imports."""
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "django", "check"],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    lines = process.stderr.splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


def test_the_app_itself_is_imported(imported):
    assert {"fernet_fields", "garmin_auth.conf"} <= imported


@pytest.mark.parametrize("name", SLOW)
def test_starting_django_does_not_import(imported, name):
    assert not [module for module in imported if module.partition(".")[0] == name]


@pytest.mark.parametrize("engine", ["garth", "garminconnect"])
def test_starting_django_loads_no_engine(run_python, tmp_path, engine):
    """Modules that Django imports by name are missing in what -X importtime prints."""
    (tmp_path / "site_settings.py").write_text(
        f"from tests.settings import *\nGARMIN_AUTH_ENGINE = {engine!r}"
    )
    output = run_python(
        "import sys\n"
        "from django.core.management import call_command\n"
        "call_command('check', verbosity=0, fail_level='CRITICAL')\n"
        "import garmin_auth.models, garmin_auth.login, garmin_auth.sessions, garmin_auth.urls\n"
        "import garmin_auth.management.commands.check_garmin_sessions\n"
        "from django.conf import settings\n"
        f"assert settings.GARMIN_AUTH_ENGINE == {engine!r}\n"
        "print(*sys.modules)",
        new_interpreter=True,
        DJANGO_SETTINGS_MODULE="site_settings",
        PYTHONPATH=str(tmp_path),
    )

    loaded = {name for name in output.split() if not name.startswith("garmin_auth.testing")}
    assert "garmin_auth.sessions" in loaded
    engines = ("garth", "garminconnect", "http.transport", "http.curl")
    assert not {f"garmin_auth.engines.{name}" for name in engines} & loaded
    assert not {name.partition(".")[0] for name in loaded} & set(SLOW)
