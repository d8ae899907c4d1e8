"""The wheel in a project of somebody else's: own user model, own settings, nothing of ours."""

import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from contextlib import ExitStack
from importlib import metadata

import pytest
import requests

from tests.browser import kept_port
from tests.conftest import EMAIL, PASSWORD
from tests.waiting import wait_until
from tests.wheel import LIST, build, contents

SETTINGS = """
from .settings import *
import os
INSTALLED_APPS = [*INSTALLED_APPS, "people", "garmin_auth"]
AUTH_USER_MODEL = "people.Person"
ATOMIC_REQUESTS = True
DATABASES["default"]["ATOMIC_REQUESTS"] = True
LOGIN_URL = "/admin/login/"
FERNET_KEYS = ["the scratch project's key"]
GARMIN_AUTH_PROXIES = {"https": os.environ["GARMIN_SIMULATOR_PROXY"]}
GARMIN_AUTH_CA_BUNDLE = os.environ["GARMIN_SIMULATOR_CA_BUNDLE"]
"""
URLS = """
from django.contrib import admin
from django.urls import include, path
urlpatterns = [path("admin/", admin.site.urls), path("garmin/", include("garmin_auth.urls"))]
"""
MODELS = """
import uuid
from django.contrib.auth.models import AbstractUser, UserManager
from django.db import models

class PersonManager(UserManager):
    def create_superuser(self, email, password):
        return super().create_superuser(email, email, password)

class Person(AbstractUser):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    email = models.EmailField(unique=True)
    USERNAME_FIELD = "email"
    REQUIRED_FIELDS = []
    objects = PersonManager()
"""
WORKER = """
from people.models import Person
from garmin_auth.sessions import garmin_client
with garmin_client(Person.objects.get()) as client:
    print("synced", client.username)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def project(wheel, tmp_path_factory):
    """A new project with the wheel installed into an environment of its own."""
    folder = tmp_path_factory.mktemp("scratch")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    python = folder / "venv/bin/python"
    pip = ("uv", "pip") if shutil.which("uv") else (sys.executable, "-m", "pip")
    run(*pip, "install", "--quiet", "--python", python, f"{wheel}[garth]")
    run(folder / "venv/bin/django-admin", "startproject", "site_of_theirs", folder)
    run(python, "manage.py", "startapp", "people", cwd=folder)
    (folder / "people/models.py").write_text(MODELS)
    (folder / "site_of_theirs/with_garmin.py").write_text(SETTINGS)
    (folder / "site_of_theirs/urls.py").write_text(URLS)
    return folder


@pytest.fixture
def serve(manage):
    """Start a web process of the project, and return its URL once it answers."""
    with ExitStack() as ports:

        def serve():
            port = ports.enter_context(kept_port())
            manage("runserver", "--noreload", f"127.0.0.1:{port}", wait=False)
            wait_until(lambda: answers(port))
            return f"http://127.0.0.1:{port}"

        yield serve


@pytest.fixture
def manage(project, garmin):
    """Run the project's manage.py, or start it with ``wait=False``."""
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        **garmin.environment,
        "DJANGO_SETTINGS_MODULE": "site_of_theirs.with_garmin",
        "DJANGO_SUPERUSER_PASSWORD": "site password",
    }
    started = []

    def manage(*arguments, wait=True):
        command = [project / "venv/bin/python", "manage.py", *arguments]
        if wait:
            return run(*command, cwd=project, env=environment)
        started.append(subprocess.Popen(command, cwd=project, env=environment))
        return None

    yield manage
    for process in started:
        process.terminate()
        process.wait(timeout=60)


def test_the_wheel_holds_what_is_listed_and_nothing_else(wheel):
    assert contents(wheel) == LIST.read_text().split()


def test_links_on_the_page_at_pypi_lead_to_a_site_or_within_it(wheel):
    (info,) = (path for path in zipfile.Path(wheel).iterdir() if path.name.endswith(".dist-info"))
    page = metadata.PathDistribution(info).metadata["Description"] or ""

    links = re.findall(r"\]\(([^)]+)\)", page)
    assert len(links) > 20
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_a_site_of_its_own_connects_finishes_mfa_and_syncs_in_three_processes(
    manage, serve, garmin
):
    garmin.add_account(EMAIL, PASSWORD, mfa=True)
    manage("makemigrations", "people")
    manage("migrate")
    manage("makemigrations", "--check", "garmin_auth")
    manage("createsuperuser", "--noinput", "--email", "ana@site.example")
    first, second = serve(), serve()

    browser = requests.Session()
    browser.trust_env = False
    post(browser, f"{first}/admin/login/", username="ana@site.example", password="site password")
    page = post(browser, f"{first}/garmin/login/", email=EMAIL, password=PASSWORD)
    assert "Garmin has sent a verification code to" in page.text
    page = post(browser, f"{second}/garmin/mfa/", code=garmin.mfa_code(EMAIL))
    assert "Your Garmin account is connected." in page.text
    assert browser.get(f"{second}/static/garmin_auth/garmin_auth.css").status_code == 200

    assert "synced ana@example.com" in manage("shell", "-c", WORKER)


def run(*command, **options):
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def answers(port):
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def post(browser, url, **fields):
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', browser.get(url).text)[1]
    return browser.post(url, {**fields, "csrfmiddlewaretoken": token})
