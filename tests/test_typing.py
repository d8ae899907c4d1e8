"""A site's own typed code against the installed package: mypy --strict, with django-stubs."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

from tests.wheel import build

pytest.importorskip("mypy", reason="the extra [check] is not installed")

CONFIGURATION = """
[tool.mypy]
plugins = ["mypy_django_plugin.main"]
[tool.django-stubs]
django_settings_module = "settings_of_theirs"
"""
SETTINGS = """
SECRET_KEY = "theirs"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "garmin_auth"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
"""
MYPY = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--cache-dir", os.devnull]
# Each "type: ignore" is a mistake that has to be found: an unused one is an error of --strict.
OF_THEIRS = """
from datetime import datetime
from typing import Any, assert_type

from django.contrib.auth.models import User
from django.dispatch import receiver
from django.http import HttpRequest
from django.urls import include, path

from garmin_auth.accounts import Account, Badge, aaccount_of, account_of, badge_of
from garmin_auth.engines.base import Challenge, NewSession, OpenSession, PasswordEngine, nothing
from garmin_auth.engines.secret import Secret
from garmin_auth.exceptions import GarminAuthError, GarminRequestError, RateLimited
from garmin_auth.forms import LoginForm
from garmin_auth.health import Check, Outcome, Report, check_session, check_sessions
from garmin_auth.login import (
    Connected, LoginUnderWay, MFARequired, astart_login, asubmit_mfa, begin_login, cancel_mfa,
    disconnect, import_session, pending_login, start_login, submit_mfa,
)
from garmin_auth.models import EndedReason, GarminAuthenticationState, Status
from garmin_auth.notices import expiry_mail, mail_user_on_expiry, session_ended
from garmin_auth.sessions import garmin_client, use_garmin
from garmin_auth.signals import session_expired
from garmin_auth.testing import GarminSimulator, RemoteGarminSimulator
from garmin_auth.views import LoginView


def sync(user: User) -> int:
    try:
        with garmin_client(user) as client:
            day = client.connectapi("/usersummary-service/usersummary/daily/")
    except RateLimited as error:
        assert_type(error.retry_after, int | None)
        return 0
    except GarminRequestError as error:
        assert_type(error.status, int)
        return 0
    except GarminAuthError as error:
        print(error.user_message)
        return 0
    return int(day["totalSteps"])


def connect(user: User) -> None:
    result = start_login(user, "ana@example.com", "secret")
    assert_type(result, Connected | MFARequired)
    if isinstance(result, MFARequired):
        assert_type(result.expires_at, datetime)
        assert_type(submit_mfa(user, "123456"), Connected)
    assert_type(begin_login(user, "a@b", "c"), Connected | MFARequired | LoginUnderWay)
    assert_type(pending_login(user), MFARequired | None)
    start_login(user, "ana@example.com")  # type: ignore[call-arg]
    submit_mfa(user, 123456)  # type: ignore[arg-type]
    import_session(user, 5)  # type: ignore[arg-type]
    cancel_mfa(user)
    disconnect(user)


async def wait(user: User) -> None:
    assert_type(await use_garmin(user, lambda client: 5), int)
    assert_type(await astart_login(user, "ana@example.com", "secret"), Connected | MFARequired)
    assert_type(await asubmit_mfa(user, "123456"), Connected)
    assert_type(await aaccount_of(user), Account)
    await asubmit_mfa(user, 123456)  # type: ignore[arg-type]


def look(user: User) -> list[str]:
    assert_type(account_of(user), Account)
    assert_type(badge_of(user), Badge | None)
    assert_type(account_of(user).connected_at, datetime | None)
    assert_type(check_session(user), Check)
    assert_type(check_sessions(), Report)
    assert_type(session_ended(user), bool)
    account_of(user).conected  # type: ignore[attr-defined]
    ended: list[str] = []
    for row in GarminAuthenticationState.objects.with_session().filter(status=Status.ACTIVE):
        assert_type(row, GarminAuthenticationState)
        assert_type(row.last_validated, datetime | None)
        if row.ended_reason == EndedReason.EXPIRED:
            ended.append(row.engine)
    assert check_session(user).outcome is not Outcome.UNKNOWN
    return ended


@receiver(session_expired)
def tell(user: User, engine: str, **kwargs: Any) -> None:
    message = expiry_mail(user, "https://example.com")
    if message is not None:
        message.send()


class OurLoginForm(LoginForm):
    pass


class OurLogin(LoginView):
    form_class = OurLoginForm

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(**kwargs, note=self.request.path)


class OurEngine(PasswordEngine):
    name = "ours"

    def login(self, email: Secret, password: Secret) -> NewSession | Challenge:
        assert_type(password.reveal(), str)
        return NewSession("data", None, validated=False)

    def refresh(self, session_data: str) -> str:
        return session_data


urlpatterns = [path("login/", OurLogin.as_view()), path("", include("garmin_auth.urls"))]
mail_user_on_expiry("https://example.com", language_of=lambda user: "de")


def test_of_theirs(garmin: GarminSimulator) -> None:
    garmin.add_account("ana@example.com", "secret", mfa=True)
    garmin.fail("exchange", "status", status=503)
    assert_type(garmin.mfa_code("ana@example.com"), str)
    RemoteGarminSimulator("http://127.0.0.1:1").set_latency(0.5)
    garmin.add_account(1, "secret")  # type: ignore[arg-type]
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An environment that has the wheel, and the others' packages from ours."""
    folder = tmp_path_factory.mktemp("typed")
    venv.create(folder / "venv")
    [packages] = folder.glob("venv/lib/python*/site-packages")
    zipfile.ZipFile(build(folder)).extractall(packages)
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    (folder / "pyproject.toml").write_text(CONFIGURATION)
    (folder / "settings_of_theirs.py").write_text(SETTINGS)
    return folder


def mypy(folder, code):
    (folder / "theirs.py").write_text(code)
    return subprocess.run(
        [*MYPY, "--python-executable", folder / "venv/bin/python", "theirs.py"],
        cwd=folder,
        env={name: os.environ[name] for name in os.environ if "PYTHON" not in name},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_sites_typed_code_passes_mypy_strict(installed):
    done = mypy(installed, OF_THEIRS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_the_marker_the_package_would_not_be_typed(installed):
    """So the test before this one looks at the wheel, and at nothing that lies about."""
    [marker] = installed.glob("venv/lib/python*/site-packages/garmin_auth/py.typed")
    marker.unlink()
    try:
        done = mypy(installed, "import garmin_auth.login\n")
    finally:
        marker.touch()
    assert "py.typed" in done.stdout, done.stdout
