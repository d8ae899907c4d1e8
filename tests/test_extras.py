"""Sites with one engine, or none, installed: each in an environment that has nothing else.

The environments are folders of links to what is installed here, and the child processes see no
other packages.
"""

import os
import subprocess
import sys
import textwrap
from configparser import ConfigParser
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT, needs_garminconnect, needs_personal

GARTH = 'python -m pip install "django-garmin-auth[garth]"'

SETTINGS = """
from tests.settings import *
INSTALLED_APPS = [app for app in INSTALLED_APPS if app != "tests"]
ROOT_URLCONF = "site_urls"
DATABASES["default"]["NAME"] = "{folder}/site.sqlite3"
"""
URLS = """
from django.contrib import admin
from django.urls import include, path
urlpatterns = [path("admin/", admin.site.urls), path("garmin/", include("garmin_auth.urls"))]
"""
# What a web process and a worker import, whatever is installed.
START = """
import django
django.setup()
import garmin_auth.accounts, garmin_auth.admin, garmin_auth.engines.base
import garmin_auth.engines.verdicts, garmin_auth.health, garmin_auth.login, garmin_auth.metrics
import garmin_auth.notices
import garmin_auth.rotation, garmin_auth.sessions, garmin_auth.tasks, garmin_auth.testing
import garmin_auth.urls, garmin_auth.views
from django.core.management import get_commands, load_command_class
for name, app in get_commands().items():
    if app == "garmin_auth":
        load_command_class(app, name)
"""
GET_ENGINE = """
import django
django.setup()
from garmin_auth.engines import get_engine
print(get_engine().name)
"""


class Environment:
    """A Python with the packages of this project's requirements and of the named extras alone."""

    def __init__(self, folder, extras):
        self.packages, self.site = folder / "packages", folder / "site"
        self.packages.mkdir()
        self.site.mkdir()
        (self.site / "site_settings.py").write_text(SETTINGS.format(folder=folder))
        (self.site / "site_urls.py").write_text(URLS)
        config = ConfigParser()
        config.read(ROOT / "setup.cfg")
        lines = config["options"]["install_requires"].splitlines()
        for extra in extras:
            lines += config["options.extras_require"][extra].splitlines()
        self.linked = set()
        for line in lines:
            if line and not line.startswith("#"):
                self.link(Requirement(line))

    def link(self, requirement, extras=()):
        """Link a distribution, and whatever it requires."""
        if not any(
            requirement.marker is None or requirement.marker.evaluate({"extra": extra})
            for extra in ("", *extras)
        ):
            return
        key = (requirement.name.lower(), *sorted(requirement.extras))
        if key in self.linked:
            return
        self.linked.add(key)
        distribution = metadata.distribution(requirement.name)
        for name in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            target = self.packages / name
            if not target.exists():
                target.symlink_to(distribution.locate_file(name))
        for needed in distribution.requires or ():
            self.link(Requirement(needed), requirement.extras)

    def run(self, *arguments, code=0):
        """Run Python and return what it printed."""
        done = subprocess.run(
            [sys.executable, "-S", *arguments],  # -S: without the packages installed here.
            cwd=self.site,
            env={
                "PATH": os.environ["PATH"],
                "DJANGO_SETTINGS_MODULE": "site_settings",
                "PYTHONPATH": os.pathsep.join(map(str, (self.site, self.packages, ROOT))),
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    made = {}

    def environment(*extras):
        if extras not in made:
            made[extras] = Environment(tmp_path_factory.mktemp("environment"), extras)
        return made[extras]

    return environment


def test_the_base_installs_no_engine(environment):
    assert {name for name, *_ in environment().linked}.isdisjoint(
        {"garth", "garminconnect", "curl_cffi", "requests", "urllib3", "certifi", "celery"}
    )


@pytest.mark.parametrize(
    "extras",
    [
        (),
        ("garth",),
        pytest.param(("garminconnect",), marks=needs_garminconnect),
        pytest.param(("personal",), marks=needs_personal),
    ],
)
def test_a_site_starts_with_whatever_engine_is_installed(environment, extras):
    environment(*extras).run("-c", START)


def test_without_an_engine_the_check_says_how_to_install_one(environment):
    said = environment().run("-m", "django", "check", code=1)

    assert "(garmin_auth.E003) No Garmin engine is installed." in said
    assert GARTH in said
    assert "Traceback" not in said


def test_without_an_engine_a_login_says_how_to_install_one(environment):
    said = environment().run("-c", GET_ENGINE, code=1)

    assert "ImproperlyConfigured: No Garmin engine is installed." in said
    assert GARTH in said


def test_an_engine_that_is_named_and_not_installed_is_said_likewise(environment):
    code = GET_ENGINE.replace("get_engine()", "get_engine('garth')")

    said = environment().run("-c", code, code=1)

    assert "The engine 'garth' needs garth, which is not installed." in said
    assert GARTH in said


@pytest.mark.parametrize(
    "engine",
    [
        "garth",
        pytest.param("garminconnect", marks=needs_garminconnect),
        pytest.param("personal", marks=needs_personal),
    ],
)
def test_the_only_engine_that_is_installed_is_used(environment, engine):
    alone = environment(engine)

    assert alone.run("-c", GET_ENGINE).splitlines()[-1] == engine
    alone.run("-m", "django", "migrate", "-v0")


def test_without_celery_the_module_of_tasks_is_empty(environment):
    code = "import django; django.setup(); from garmin_auth import tasks; print(dir(tasks))"

    assert "check_stored_session" not in environment().run("-c", code)


def test_celery_finds_the_tasks_under_their_names(run_python):
    code = """
    from celery import Celery
    app = Celery()
    app.autodiscover_tasks(["garmin_auth"], force=True)
    print(*sorted(name for name in app.tasks if name.startswith("garmin_auth")))
    """

    assert run_python(textwrap.dedent(code)).split() == [
        "garmin_auth.tasks.check_due_sessions",
        "garmin_auth.tasks.check_stored_session",
    ]
