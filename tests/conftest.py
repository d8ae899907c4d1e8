import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.cache import cache
from django.db import connection

from garmin_auth.models import GarminAuthenticationState
from tests import settings as test_settings

ROOT = Path(__file__).resolve().parent.parent
EMAIL, PASSWORD = "ana@example.com", "correct horse battery staple"


# What depends on the database, and so runs on PostgreSQL and MariaDB too.
ON_EVERY_DATABASE = {
    "test_accounts",
    "test_admin",
    "test_health",
    "test_keys",
    "test_killed",
    "test_login",
    "test_models",
    "test_pauses",
    "test_rotation",
    "test_rotation_under_load",
    "test_sessions",
    "test_storms",
}


def pytest_collection_modifyitems(config, items):
    """On PostgreSQL and MariaDB run what depends on the database; the rest has run on SQLite."""
    if test_settings.DATABASE == "sqlite":
        return
    keep = [item for item in items if item.module.__name__.split(".")[-1] in ON_EVERY_DATABASE]
    config.hook.pytest_deselected(items=[item for item in items if item not in keep])
    items[:] = keep


@pytest.fixture(autouse=True)
def no_pauses():
    """Pauses and counts of logins live in the cache; each test begins without."""
    cache.clear()


@pytest.fixture
def user(db, django_user_model):
    return django_user_model.objects.create_user("ana", "ana@site.example", "site password")


@pytest.fixture
def other_user(db, django_user_model):
    return django_user_model.objects.create_user("ben", "ben@site.example", "site password")


@pytest.fixture
def account(garmin):
    """A Garmin account without MFA."""
    garmin.add_account(EMAIL, PASSWORD)
    return EMAIL


@pytest.fixture
def mfa_account(garmin):
    """A Garmin account that asks for a code."""
    garmin.add_account(EMAIL, PASSWORD, mfa=True)
    return EMAIL


@pytest.fixture
def connect(garmin):
    """Store a session of a Garmin account for a user, without a login."""

    def connect(user, email=EMAIL, **options):
        with contextlib.suppress(ValueError):  # The test may have opened it already.
            garmin.add_account(email, PASSWORD)
        data = garmin.issue_session(email, **options)
        GarminAuthenticationState.objects.connect(
            user.pk, engine="garth", session_data=data, account_name=email, validated_at=None
        )
        return state_of(user)

    return connect


@pytest.fixture
def start_python(garmin, db):
    """Start a Python process on the test's database and simulator; it is killed at the end."""
    processes = []

    def start(*arguments, **environment):
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT,
            env={**child_environment(garmin), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def run_python(start_python):
    """Run Python code in a process of its own, and return what it printed."""

    def run(code, *arguments, **environment):
        code = f"import django; django.setup()\n{code}"
        process = start_python("-c", code, *arguments, **environment)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        return output.strip()

    return run


def child_environment(garmin):
    return {
        **os.environ,
        **garmin.environment,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "GARMIN_AUTH_TEST_DATABASE": test_settings.DATABASE,
        "GARMIN_AUTH_DATABASE_NAME": str(connection.settings_dict["NAME"]),
    }


def state_of(user):
    return GarminAuthenticationState.objects.filter(user_id=user.pk).first()


def raw_row(user):
    """The user's row as the database holds it, with nothing decrypted."""
    table = GarminAuthenticationState._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {table} WHERE user_id = %s", [user.pk])
        names = [column[0] for column in cursor.description]
        return dict(zip(names, cursor.fetchone(), strict=True))
