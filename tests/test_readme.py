"""What the README says is compared with the code."""

import re

import pytest
from django.core.management import get_commands, load_command_class

from garmin_auth import exceptions, signals
from garmin_auth.conf import Settings, conf
from garmin_auth.health import Report
from garmin_auth.models import EndedReason, Status

from .conftest import ROOT

README = (ROOT / "README.md").read_text()
NAMES = [name for name in vars(Settings) if name.isupper()]


def section(title):
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title):
    """The first two columns of a section's tables, without mark-up."""
    found = re.findall(r"^\| *(.+?) *\| *(.+?) *\|", section(title), re.M)
    return {first.strip("`"): second.strip("`") for first, second in found}


def test_every_setting_is_in_the_table_and_no_other():
    documented = {name for name in rows("Settings") if name.startswith("GARMIN_AUTH_")}

    assert documented == {f"GARMIN_AUTH_{name}" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_documented_default_is_the_default(name, settings):
    setting = f"GARMIN_AUTH_{name}"
    if hasattr(settings, setting):
        delattr(settings, setting)

    assert eval(rows("Settings")[setting]) == getattr(conf, name)


def test_every_exception_is_documented():
    classes = {
        name
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and issubclass(value, exceptions.GarminAuthError)
    }

    assert classes - {"GarminAuthError"} == set(rows("Exceptions")) - {"exception", "---"}


def test_every_signal_is_documented():
    names = {name for name, value in vars(signals).items() if isinstance(value, signals.Signal)} - {
        "Signal"
    }

    assert all(f"`{name}`" in section("Signals") for name in names)


def test_every_state_is_documented():
    text = section("States")

    assert all(f"| `{status}` |" in text for status in Status.values)
    assert all(f"`{reason}`" in text for reason in EndedReason.values)


def test_every_option_of_the_check_is_documented():
    command = load_command_class(get_commands()["check_garmin_sessions"], "check_garmin_sessions")
    parser = command.create_parser("manage.py", "check_garmin_sessions")
    django_own = {"--help", "--version", "--verbosity", "--settings", "--pythonpath"}
    django_own |= {"--traceback", "--no-color", "--force-color", "--skip-checks"}
    options = {max(action.option_strings, key=len) for action in parser._actions} - django_own

    documented = set(re.findall(r"^\| `(--[a-z-]+)", section("Check the sessions from cron"), re.M))
    assert documented == options


def test_every_key_of_the_json_is_documented():
    text = section("Check the sessions from cron")

    assert all(f"`{key}`" in text for key in Report().as_dict())


def test_links_within_the_readme_lead_somewhere():
    headings = re.findall(r"^#+ (.+)$", README, re.M)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}

    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors
