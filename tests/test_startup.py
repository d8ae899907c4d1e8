"""What starting Django costs with the app installed."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SLOW = ("garth", "requests", "pydantic", "logfire", "urllib3", "celery", "trustme", "oauthlib")


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


def test_starting_django_loads_no_engine(run_python):
    """Modules that Django imports by name are missing in what -X importtime prints."""
    output = run_python(
        "import sys\n"
        "from django.core.management import call_command\n"
        "call_command('check', verbosity=0)\n"
        "import garmin_auth.models, garmin_auth.login, garmin_auth.sessions, garmin_auth.urls\n"
        "print(*sys.modules)"
    )

    loaded = {name for name in output.split() if not name.startswith("garmin_auth.testing")}
    assert "garmin_auth.sessions" in loaded
    assert not {"garmin_auth.engines.garth", "garmin_auth.engines.transport"} & loaded
    assert not {name.partition(".")[0] for name in loaded} & set(SLOW)
