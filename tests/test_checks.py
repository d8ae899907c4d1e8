"""The system checks: each when it speaks, and when it is silent."""

import ast
import os
import re
import secrets
import sqlite3
import sys
from configparser import ConfigParser
from importlib import metadata

import pytest
from cryptography.fernet import Fernet
from django.contrib.auth.views import LoginView
from django.core.checks import ERROR, WARNING, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.utils import get_random_secret_key
from django.db import OperationalError, connection, connections
from django.template.loaders.base import Loader
from django.urls import include, path, reverse_lazy
from packaging.requirements import Requirement

import garmin_auth
from garmin_auth.checks import (
    CALLABLES,
    check_cache_table,
    check_stored_engines,
    check_stored_sessions,
)
from garmin_auth.conf import Settings, conf
from garmin_auth.engines import NEEDS, default_engine, get_engine, installed_version
from garmin_auth.models import GarminAuthenticationState
from tests.conftest import ROOT, raw_row
from tests.rows import damage, store

in_a_process = pytest.mark.django_db(transaction=True)
TABLE = GarminAuthenticationState._meta.db_table


GARTH = 'python -m pip install "django-garmin-auth[garth]"'
PERSONAL = 'python -m pip install "django-garmin-auth[personal]"'
PERSONALS = {"garmin_connect_personal_api_python": "1.0.0"}
GARMINCONNECT = 'python -m pip install "django-garmin-auth[garminconnect]"'


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    theirs = [name for name in os.environ if name.upper().startswith(("GARTH_", "GARMINTOKENS"))]
    for name in theirs:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def installed(monkeypatch):
    """Say which distributions are installed besides, None for one that is not; and the Python."""
    real = metadata.version
    absent = {"garmin-connect-personal-api-python": None}

    def installed(python=(3, 12), **versions):
        versions = {**absent, **{name.replace("_", "-"): versions[name] for name in versions}}

        def version(name):
            name = name.replace("_", "-")
            found = versions[name] if name in versions else real(name)
            if found is None:
                raise metadata.PackageNotFoundError(name)
            return found

        monkeypatch.setattr(metadata, "version", version)
        monkeypatch.setattr("garmin_auth.engines.PYTHON", python)
        installed_version.cache_clear()

    yield installed
    installed_version.cache_clear()


@pytest.fixture
def manage(start_python, tmp_path):
    """Run manage.py as a process, with further lines in the settings; output and errors."""

    def manage(*arguments, lines=(), code=0, **environment):
        text = "\n".join(["from tests.settings import *", *lines])
        (tmp_path / "site_settings.py").write_text(text)
        process = start_python(
            "manage.py",
            *arguments,
            DJANGO_SETTINGS_MODULE="site_settings",
            PYTHONPATH=str(tmp_path),
            **environment,
        )
        output, errors = process.communicate(timeout=60)
        assert "Traceback" not in errors
        assert process.returncode == code, errors
        return output + errors

    return manage


def said(number, **options):
    """The messages with this id, each with a hint and a sentence."""
    messages = [
        message
        for message in run_checks(
            tags=["database" if "databases" in options else "garmin_auth"], **options
        )
        if message.id == f"garmin_auth.{number}"
    ]
    for message in messages:
        assert message.msg.endswith(".")
        assert len(message.hint) > 20
        assert message.level == (ERROR if number.startswith("E") else WARNING)
    return [message.msg for message in messages]


def hint(number, **options):
    """The hint of the one message with this id."""
    (found,) = [
        message.hint
        for message in run_checks(tags=["garmin_auth"], **options)
        if message.id == f"garmin_auth.{number}"
    ]
    return found


def stored_sessions(**options):
    """What the check of stored sessions says, run as Django runs it."""
    return said("W005", **{"databases": ["default"], **options})


def test_a_sound_set_up_is_silent(settings):
    settings.CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.db.DatabaseCache",
            "LOCATION": "cache",
        }
    }

    assert run_checks(tags=["garmin_auth"]) == []


# FERNET_KEYS


def test_missing_keys_are_a_warning(settings):
    del settings.FERNET_KEYS

    assert said("W001") == [
        "FERNET_KEYS is not set, so Garmin sessions are encrypted with SECRET_KEY."
    ]
    assert said("E002") == []


def test_keys_that_are_set_are_no_warning():
    assert said("W001") == []
    assert said("E002") == []
    assert said("W002") == []


@pytest.mark.parametrize("keys", ["a-long-random-string", b"bytes", [], (), 5, True])
def test_keys_that_are_no_list_are_an_error(settings, keys):
    settings.FERNET_KEYS = keys

    assert said("E002") == ["FERNET_KEYS must be a list with at least one key."]


@pytest.mark.parametrize("key", ["", b"", None, 5, ["nested"]])
def test_a_key_that_is_no_text_is_an_error(settings, key):
    settings.FERNET_KEYS = ["good", key]

    assert said("E002") == ["FERNET_KEYS[1] is not a usable key."]


@pytest.mark.parametrize("key", ["short", "x" * 44, "é" * 44, "", b"short"])
def test_a_malformed_key_without_hkdf_is_an_error(settings, key):
    settings.FERNET_USE_HKDF = False
    settings.FERNET_KEYS = [Fernet.generate_key(), key]

    assert said("E002") == ["FERNET_KEYS[1] is not a usable key."]


@pytest.mark.parametrize("kind", [str, bytes])
def test_a_generated_key_without_hkdf_is_fine(settings, kind):
    key = Fernet.generate_key()
    settings.FERNET_USE_HKDF = False
    settings.FERNET_KEYS = [key if kind is bytes else key.decode()]

    assert said("E002") == []


def test_any_text_is_a_key_with_hkdf(settings):
    settings.FERNET_KEYS = ["é", b"x", "short"]

    assert said("E002") == []


@pytest.mark.parametrize("keys", [["a", "b", "a"], ["a", b"a"]])
def test_a_repeated_key_is_a_warning(settings, keys):
    settings.FERNET_KEYS = keys

    assert said("W002") == ["FERNET_KEYS lists the same key more than once."]
    assert said("E002") == []


def test_no_message_repeats_a_key(settings):
    settings.FERNET_USE_HKDF = False
    settings.FERNET_KEYS = ["a-secret-key", "a-secret-key"]

    messages = run_checks(tags=["garmin_auth"])

    assert {message.id for message in messages} >= {"garmin_auth.E002", "garmin_auth.W002"}
    assert "a-secret-key" not in str(messages)


# Settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENGINE", 5),
        ("ENGINES", ["garth"]),
        ("ENGINES", {"mine": 5}),
        ("ENGINES", {"mine": "NoModule"}),
        ("DOMAIN", "evil.example"),
        ("DOMAIN", None),
        ("PROXIES", "http://proxy:3128"),
        ("PROXIES", {"https": "socks5://proxy:1080"}),
        ("CA_BUNDLE", 5),
        ("CACHE", "no such cache"),
        ("CACHE", ["default"]),
        ("TIMEOUT", "30"),
        ("OAUTH_CONSUMER", {"consumer_key": "key"}),
        ("MFA_TTL", 0),
        ("MFA_MAX_ATTEMPTS", True),
    ],
)
def test_a_setting_that_cannot_work_is_one_error_that_names_it(settings, name, value):
    setattr(settings, f"GARMIN_AUTH_{name}", value)

    (message,) = said("E001")
    assert message.startswith(f"GARMIN_AUTH_{name} ")


def test_several_wrong_settings_are_all_named(settings):
    settings.GARMIN_AUTH_DOMAIN = "evil.example"
    settings.GARMIN_AUTH_TIMEOUT = -1

    assert len(said("E001")) == 2


def test_good_settings_are_silent(settings):
    settings.GARMIN_AUTH_DOMAIN = "garmin.cn"
    settings.GARMIN_AUTH_PROXIES = {"https": "http://proxy:3128"}

    assert said("E001") == []


# Engine


def test_an_unknown_engine_is_an_error(settings):
    settings.GARMIN_AUTH_ENGINE = "nonsense"

    assert said("E003") == ["GARMIN_AUTH_ENGINE is 'nonsense', which is not a known engine."]


@pytest.mark.parametrize(
    "path",
    [
        "no_such_package.engines.Engine",
        "no_such_module.Engine",
        "garmin_auth.engines.nonsense.Engine",
        ".relative.Engine",
    ],
)
def test_an_engine_whose_module_is_missing_is_an_error(settings, path):
    settings.GARMIN_AUTH_ENGINE = "mine"
    settings.GARMIN_AUTH_ENGINES = {"mine": path}

    (message,) = said("E003")
    assert message.startswith("The engine 'mine' needs ")


def test_an_engine_of_the_sites_own_in_place_of_a_built_in_one_is_looked_for(settings):
    settings.GARMIN_AUTH_ENGINE = "garth"
    settings.GARMIN_AUTH_ENGINES = {"garth": "no_such_module.Engine"}

    (message,) = said("E003")
    assert "no_such_module" in message


def test_the_sites_own_engine_is_silent(settings):
    settings.GARMIN_AUTH_ENGINE = "flawed"
    settings.GARMIN_AUTH_ENGINES = {"flawed": "tests.test_health.FlawedEngine"}

    assert said("E003") == []


def test_the_built_in_engine_is_silent():
    assert said("E003") == []


def test_a_wrong_engine_setting_is_said_once(settings):
    settings.GARMIN_AUTH_ENGINE = 5

    assert said("E003") == []
    assert len(said("E001")) == 1


@pytest.mark.parametrize(
    ("versions", "needs"),
    [
        ({"garminconnect": None}, "garminconnect, which is not installed"),
        ({"curl_cffi": None}, "curl_cffi, which is not installed"),
        (
            {"garminconnect": "0.3.19"},
            "garminconnect 0.3.20 or newer, and 0.3.19 is installed",
        ),
        ({"garminconnect": "0.2"}, "garminconnect 0.3.20 or newer, and 0.2 is installed"),
        ({"curl_cffi": "0.9.0b2"}, "curl_cffi 0.15 or newer, and 0.9.0b2 is installed"),
    ],
)
def test_a_missing_or_old_garminconnect_is_an_error_with_the_command(
    settings, installed, versions, needs
):
    settings.GARMIN_AUTH_ENGINE = "garminconnect"
    installed(**{"garminconnect": "0.3.20", "curl_cffi": "0.16.3", **versions})

    assert said("E003") == [f"The engine 'garminconnect' needs {needs}."]
    assert hint("E003") == f"Install it: {GARMINCONNECT}"


@pytest.mark.parametrize("version", ["0.3.20", "0.3.21", "0.3.100", "0.4", "1.0.0rc1"])
def test_a_new_garminconnect_is_silent(settings, installed, version):
    settings.GARMIN_AUTH_ENGINE = "garminconnect"
    installed(garminconnect=version, curl_cffi="0.15.0")

    assert said("E003") == []


def test_with_an_older_python_the_one_that_garminconnect_needs_is_named(settings, installed):
    settings.GARMIN_AUTH_ENGINE = "garminconnect"
    installed(python=(3, 11), garminconnect=None)

    assert hint("E003") == (
        "It needs Python 3.12 or newer, and this is 3.11. With a newer Python, install it: "
        f"{GARMINCONNECT}"
    )


def test_with_no_engine_installed_the_commands_are_said(installed):
    installed(garth=None, garminconnect=None)

    assert said("E003") == ["No Garmin engine is installed."]
    assert hint("E003") == f"Install one: {GARTH} or {GARMINCONNECT} or {PERSONAL}"


def test_with_an_older_python_only_what_runs_on_it_is_said(installed):
    installed(python=(3, 11), garth=None, garminconnect=None)

    assert hint("E003") == f"Install one: {GARTH}"


def test_with_no_engine_installed_a_login_says_what_the_check_says(installed):
    installed(garth=None, garminconnect=None)

    with pytest.raises(ImproperlyConfigured, match=r"^No Garmin engine is installed\."):
        get_engine()


def test_a_missing_garth_is_an_error_with_both_commands(settings, installed):
    settings.GARMIN_AUTH_ENGINE = "garth"
    installed(garth=None)

    assert said("E003") == ["The engine 'garth' needs garth, which is not installed."]
    assert GARTH in hint("E003")
    assert GARMINCONNECT in hint("E003")


@pytest.mark.parametrize(
    ("versions", "engine"),
    [
        ({"garth": "0.8.0", "garminconnect": "0.3.20"}, "garth"),
        ({"garth": None, "garminconnect": "0.3.20"}, "garminconnect"),
        ({"garth": "0.5.21", "garminconnect": "0.3.20"}, "garminconnect"),
        ({"garth": "0.8.0", "garminconnect": None}, "garth"),
        ({"garth": None, "garminconnect": None, **PERSONALS}, "personal"),
        ({"garth": "0.8.0", "garminconnect": None, **PERSONALS}, "garth"),
    ],
)
def test_without_the_setting_the_engine_that_is_installed_is_used(installed, versions, engine):
    installed(curl_cffi="0.15", **versions)

    assert said("E003") == []
    assert default_engine() == engine


def test_without_a_built_in_engine_the_sites_own_is_used(settings, installed):
    settings.GARMIN_AUTH_ENGINES = {"mine": "tests.test_health.FlawedEngine"}
    installed(garth=None, garminconnect=None)

    assert default_engine() == "mine"


def test_an_old_garth_is_an_error(settings, installed):
    settings.GARMIN_AUTH_ENGINE = "garth"
    installed(garth="0.5.21")

    (message,) = said("E003")
    assert "garth 0.8.0 or newer, and 0.5.21 is installed" in message


def test_the_requests_that_an_engine_needs_is_looked_for_too(installed, settings):
    settings.GARMIN_AUTH_ENGINE = "garth"
    installed(requests="2.31.0")

    assert said("E003") == [
        "The engine 'garth' needs requests 2.32.2 or newer, and 2.31.0 is installed."
    ]


def test_an_engine_that_is_not_chosen_need_not_be_installed(installed):
    installed(garminconnect=None, curl_cffi=None)

    assert said("E003") == []


def test_what_the_checks_want_is_what_the_extras_install():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")

    for engine, needs in NEEDS.items():
        lines = config["options.extras_require"][engine].split("\n")
        extra = [Requirement(line) for line in lines if line and not line.startswith("#")]
        assert needs.distributions == {
            requirement.name: next(
                (each.version for each in requirement.specifier if each.operator == ">="), "0"
            )
            for requirement in extra
        }


def test_an_engine_that_cannot_be_imported_is_an_error_before_a_deployment(
    settings, tmp_path, monkeypatch
):
    (tmp_path / "broken_engine.py").write_text("raise RuntimeError('No home directory.')")
    monkeypatch.syspath_prepend(tmp_path)
    settings.GARMIN_AUTH_ENGINES = {"broken": "broken_engine.Engine"}

    assert said("E006", include_deployment_checks=True) == [
        "The Garmin engine 'broken' cannot be imported: No home directory."
    ]
    assert said("E006") == []


def test_engines_that_can_be_imported_are_silent():
    assert said("E006", include_deployment_checks=True) == []


# The table of a cache


@pytest.fixture
def database_cache(settings):
    backend = "django.core.cache.backends.db.DatabaseCache"
    settings.CACHES = {"default": {"BACKEND": backend, "LOCATION": "no_such_table"}}


def test_a_cache_without_its_table_is_a_warning(database_cache, db):
    (message,) = said("W010", databases=["default"])

    assert "The table 'no_such_table' of the cache 'default' does not exist" in message
    assert check_cache_table(None, databases=["another"]) == []


def test_a_cache_with_its_table_is_silent(database_cache, db):
    call_command("createcachetable")

    assert said("W010", databases=["default"]) == []


def test_a_cache_that_is_not_in_the_database_is_silent(db):
    assert said("W010", databases=["default"]) == []


# CA bundle


@pytest.mark.parametrize("content", [None, b"", b"not PEM", b"\x00\xff", "folder"])
def test_a_ca_bundle_that_cannot_be_used_is_an_error(settings, tmp_path, content):
    path = tmp_path / "ca.pem"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    settings.GARMIN_AUTH_CA_BUNDLE = str(path)

    (message,) = said("E004")
    assert message.startswith(f"GARMIN_AUTH_CA_BUNDLE cannot be used: {path}: ")


@pytest.mark.parametrize("bundle", ["", "no\0file"])
def test_a_ca_bundle_that_is_no_path_is_an_error(settings, bundle):
    settings.GARMIN_AUTH_CA_BUNDLE = bundle

    assert len(said("E004")) == 1


def test_a_ca_bundle_that_can_be_used_is_silent(settings, garmin):
    assert garmin.ca_bundle == settings.GARMIN_AUTH_CA_BUNDLE
    assert said("E004") == []


def test_no_ca_bundle_is_silent(settings):
    settings.GARMIN_AUTH_CA_BUNDLE = None

    assert said("E004") == []


# Time zones


def test_times_without_a_zone_are_an_error(settings):
    settings.USE_TZ = False

    assert len(said("E005")) == 1


def test_times_with_a_zone_are_silent(settings):
    settings.USE_TZ = True

    assert said("E005") == []


# Cache


@pytest.mark.parametrize("backend", ["locmem.LocMemCache", "dummy.DummyCache"])
def test_a_cache_of_each_process_is_a_warning(settings, backend):
    settings.CACHES = {"default": {"BACKEND": f"django.core.cache.backends.{backend}"}}

    (message,) = said("W003")
    assert message.startswith("The cache 'default' is not shared between processes")


@pytest.mark.parametrize(
    "backend",
    [
        "redis.RedisCache",
        "memcached.PyMemcacheCache",
        "db.DatabaseCache",
        "filebased.FileBasedCache",
    ],
)
def test_a_shared_cache_is_silent(settings, backend):
    settings.CACHES = {
        "default": {"BACKEND": f"django.core.cache.backends.{backend}", "LOCATION": "/tmp/cache"}
    }

    assert said("W003") == []


def test_the_cache_that_is_named_is_the_one_that_is_looked_at(settings):
    settings.CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
        "shared": {"BACKEND": "django.core.cache.backends.redis.RedisCache"},
    }
    settings.GARMIN_AUTH_CACHE = "shared"

    assert said("W003") == []


def test_an_unknown_cache_is_said_once(settings):
    settings.GARMIN_AUTH_CACHE = "no such cache"

    assert said("W003") == []
    assert len(said("E001")) == 1


# Environment


@pytest.mark.parametrize(
    "name",
    [
        "GARTH_TOKEN",
        "GARTH_HOME",
        "GARTH_TELEMETRY_ENABLED",
        "garth_x",
        "GARMINTOKENS",
        "GARMIN_PERSONAL_API_KEY",
        "GARMIN_PERSONAL_API_BASE_URL",
    ],
)
def test_a_librarys_variable_is_a_warning_that_names_it_and_not_its_value(monkeypatch, name):
    monkeypatch.setenv(name, "a-secret-token")

    (message,) = said("W004")
    assert name in message
    assert "a-secret-token" not in str(run_checks(tags=["garmin_auth"]))


def test_other_variables_are_silent(monkeypatch):
    monkeypatch.setenv("MY_GARTH_HOME", "x")
    monkeypatch.setenv("GARTHX", "x")
    monkeypatch.setenv("GARMINTOKENS_OF_MINE", "x")

    assert said("W004") == []


# Stored sessions


@pytest.mark.django_db
def test_unreadable_rows_are_counted(user, other_user):
    store(user)
    store(other_user)
    damage(user)

    assert stored_sessions() == [
        "No key in FERNET_KEYS decrypts 1 of the 2 stored Garmin sessions looked at. They are kept."
    ]


@pytest.mark.django_db
def test_it_is_a_database_check(user):
    store(user)
    damage(user)

    messages = run_checks(tags=["database"], databases=["default"])

    assert [message.id for message in messages] == ["garmin_auth.W005"]


@pytest.mark.django_db
def test_readable_rows_are_silent(user):
    store(user)

    assert stored_sessions() == []


@pytest.mark.django_db
def test_an_empty_table_is_silent():
    assert stored_sessions() == []


@pytest.mark.django_db
def test_rows_without_a_session_are_not_looked_at(user, other_user):
    GarminAuthenticationState.objects.begin_challenge(user.pk, "{}")
    store(other_user)
    GarminAuthenticationState.objects.disconnect(other_user.pk, "user")

    assert stored_sessions() == []


@pytest.mark.django_db
@pytest.mark.parametrize("databases", [None, [], ["another"]])
def test_a_database_that_is_not_to_be_checked_is_not_asked(
    user, databases, django_assert_num_queries
):
    store(user)
    damage(user)

    with django_assert_num_queries(0):
        # Not run_checks(): Django 6.1 takes None for all databases.
        assert check_stored_sessions(None, databases=databases) == []


@pytest.mark.django_db
@pytest.mark.parametrize(("position", "found"), [(0, 1), (1, 0), (2, 1)])
def test_the_sample_is_of_either_end(user, django_user_model, monkeypatch, position, found):
    monkeypatch.setattr("garmin_auth.checks.SAMPLE", 1)
    users = [user, *(django_user_model.objects.create_user(name) for name in ("ben", "cleo"))]
    for one in users:
        store(one)
    damage(users[position])

    assert len(stored_sessions()) == found


@pytest.mark.django_db
def test_it_costs_a_few_queries_whatever_the_number_of_rows(
    user, other_user, django_assert_max_num_queries
):
    store(user)
    store(other_user)

    with django_assert_max_num_queries(9):
        stored_sessions()


# Engines of stored sessions


def stored_engines(**options):
    return said("W007", **{"databases": ["default"], **options})


@pytest.mark.django_db
def test_sessions_of_an_engine_that_nobody_knows_are_a_warning(user, other_user):
    store(user)
    store(other_user, engine="another")

    assert stored_engines() == [
        "Garmin sessions of the engine 'another' are stored, but it is not installed. They are "
        "kept, but cannot be used."
    ]


@pytest.mark.django_db
def test_sessions_of_an_engine_whose_library_is_missing_are_a_warning(user, installed):
    store(user, engine="garminconnect")
    installed(garminconnect=None)

    (message,) = run_checks(tags=["database"], databases=["default"])

    assert message.msg.startswith("Garmin sessions of the engine 'garminconnect' are stored")
    assert GARMINCONNECT in message.hint


@pytest.mark.django_db
def test_sessions_of_engines_that_are_installed_are_silent(user, other_user, settings):
    settings.GARMIN_AUTH_ENGINES = {"flawed": "tests.test_health.FlawedEngine"}
    store(user)
    store(other_user, engine="flawed")

    assert stored_engines() == []


@in_a_process
def test_missing_staticfiles_are_a_warning(manage):
    said = manage(
        "check", lines=["INSTALLED_APPS.remove('django.contrib.staticfiles')", "STATIC_URL = None"]
    )

    assert "(garmin_auth.W009) 'django.contrib.staticfiles' is not in INSTALLED_APPS" in said
    assert "HINT: Add 'django.contrib.staticfiles' to INSTALLED_APPS." in said


def test_staticfiles_without_their_url_are_a_warning(settings):
    settings.STATIC_URL = None

    assert said("W009") == ["STATIC_URL is not set, so garmin_auth's pages cannot be rendered."]


def test_staticfiles_with_their_url_are_silent():
    assert said("W009") == []


@pytest.mark.django_db
@pytest.mark.parametrize("name", CALLABLES)
@pytest.mark.parametrize("path", ["mysite.missing", "tests.missing", "tests.test_checks.ROOT"])
def test_a_callable_that_cannot_be_imported_is_an_error(settings, name, path):
    setattr(settings, f"GARMIN_AUTH_{name}", path)
    assert said("E007") == [f"GARMIN_AUTH_{name} is {path!r}, which cannot be imported or called."]


@pytest.mark.parametrize("name", CALLABLES)
def test_a_callable_that_can_be_imported_is_silent(settings, name):
    setattr(settings, f"GARMIN_AUTH_{name}", "contextlib.nullcontext")
    assert said("E007") == []


def test_a_wrong_setting_of_a_callable_is_said_once(settings):
    settings.GARMIN_AUTH_MAY_CONNECT = "may_connect"
    assert (len(said("E001")), said("E007")) == (1, [])


@pytest.mark.parametrize(
    # The last is relative to the page that redirects there.
    "url",
    ["/nowhere/", "nowhere", "/accounts/logon/?next=/", "accounts/login/"],
)
def test_a_login_url_that_leads_nowhere_is_a_warning(settings, url):
    settings.LOGIN_URL = url
    (message,) = said("W016")
    assert url in message


@pytest.mark.parametrize(
    "url",
    ["/accounts/login/", "login", "/accounts/login/?theme=dark", "https://id.example.com/login"],
)
def test_a_login_url_that_leads_somewhere_is_silent(settings, url):
    settings.LOGIN_URL = url
    assert said("W016") == []


def test_the_login_url_of_a_site_without_the_pages_is_no_matter(settings):
    settings.LOGIN_URL, settings.ROOT_URLCONF = "/nowhere/", "django.contrib.auth.urls"
    assert said("W016") == []


def test_a_login_url_under_a_language_is_silent(settings):
    settings.ROOT_URLCONF = "tests.language_urls"
    assert said("W016") == []


@pytest.mark.parametrize("url", ["login", "/anmeld%C3%A9n/", "/anmeldén/"])
def test_a_login_url_with_an_accent_leads_somewhere(settings, url):
    settings.ROOT_URLCONF = (
        path("anmeldén/", LoginView.as_view(), name="login"),
        path("garmin/", include("garmin_auth.urls")),
    )
    settings.LOGIN_URL = url
    assert said("W016") == []


@pytest.mark.parametrize("name", ["terms", reverse_lazy("terms")])
def test_terms_that_cannot_be_linked_are_an_error(settings, name):
    settings.GARMIN_AUTH_TERMS_URL = name
    (message,) = said("E008")
    assert "GARMIN_AUTH_TERMS_URL leads nowhere: Reverse for 'terms' not found." in message


@pytest.mark.parametrize(
    "url", [None, "", "/terms/", "https://example.com/terms", "login", reverse_lazy("login")]
)
def test_terms_that_can_be_linked_are_silent(settings, url):
    settings.GARMIN_AUTH_TERMS_URL = url
    assert said("E008") == []


def test_terms_of_other_urls_than_the_sites_own_are_silent(settings):
    """As where a middleware sets request.urlconf to those, with the pages."""
    settings.ROOT_URLCONF = "django.contrib.auth.urls"
    settings.GARMIN_AUTH_TERMS_URL = "terms"
    assert said("E008") == []


def test_terms_of_a_wrong_type_are_said_once(settings):
    settings.GARMIN_AUTH_TERMS_URL = 5
    assert (len(said("E001")), said("E008")) == (1, [])


def test_a_site_without_djangos_auth_is_a_warning(settings):
    settings.INSTALLED_APPS = [
        app
        for app in settings.INSTALLED_APPS
        if app not in ("django.contrib.auth", "django.contrib.admin", "garmin_auth")
    ]
    assert len(said("W017")) == 1
    assert said("W016") == []


def test_a_site_with_djangos_auth_is_silent():
    assert said("W017") == []


def test_the_engine_of_a_row_without_session_is_no_matter(user):
    store(user, engine="another")
    GarminAuthenticationState.objects.disconnect(user.pk, "user")

    assert stored_engines() == []


@pytest.mark.django_db
def test_engines_of_a_database_that_is_not_to_be_checked_are_not_asked_for(
    user, django_assert_num_queries
):
    store(user, engine="another")

    with django_assert_num_queries(0):
        assert check_stored_engines(None, databases=["another"]) == []


@pytest.mark.django_db
def test_wrong_engines_in_the_settings_are_said_once(user, settings):
    store(user)
    settings.GARMIN_AUTH_ENGINES = ["garth"]

    assert stored_engines() == []
    assert len(said("E001")) == 1


@pytest.mark.django_db
@pytest.mark.skipif(connection.vendor != "sqlite", reason="only SQLite stores text in a BLOB")
def test_text_in_place_of_bytes_is_unreadable(user):
    store(user)
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {TABLE} SET session_data = 'text'")

    assert len(stored_sessions()) == 1


@in_a_process
def test_plain_check_does_not_look_at_rows(user, manage):
    store(user)
    damage(user)

    assert "W005" not in manage("check")


@in_a_process
def test_check_of_the_database_looks_at_rows(user, manage):
    store(user)
    damage(user)

    assert "(garmin_auth.W005) No key in FERNET_KEYS decrypts 1 of the 1" in manage(
        "check", "--database", "default"
    )


@in_a_process
def test_unreadable_rows_do_not_block_migrate(user, manage):
    store(user)
    damage(user)

    said = manage("migrate", "--no-color")

    assert "W005" in said
    assert "No migrations to apply." in said
    assert bytes(raw_row(user)["session_data"]) == b"x"


@in_a_process
def test_another_key_is_noticed_and_does_not_block_migrate(user, manage):
    store(user)

    assert "decrypts 1 of the 1" in manage("migrate", lines=["FERNET_KEYS = ['another']"])


@in_a_process
def test_a_former_key_at_the_end_is_silent(user, manage):
    store(user)

    assert "W005" not in manage(
        "check", "--database", "default", lines=["FERNET_KEYS = ['new', *FERNET_KEYS]"]
    )


@in_a_process
def test_secret_key_opens_nothing_once_there_are_keys(user, manage):
    store(user)

    assert "W005" in manage("check", "--database", "default", lines=["del FERNET_KEYS"])


@in_a_process
@pytest.mark.parametrize(
    "lines",
    [
        ["FERNET_KEYS = []"],
        ["FERNET_KEYS = 5"],
        ["FERNET_KEYS = ['short']", "FERNET_USE_HKDF = False"],
        ["FERNET_KEYS = [None]", "FERNET_USE_HKDF = False"],
    ],
)
def test_malformed_keys_are_an_error_and_no_traceback(user, manage, lines):
    store(user)

    said = manage("check", "--database", "default", lines=lines, code=1)

    assert "garmin_auth.E002" in said
    assert "W005" not in said


@in_a_process
def test_a_database_without_the_table_is_silent(manage, tmp_path):
    said = manage(
        "check",
        "--database",
        "default",
        GARMIN_AUTH_TEST_DATABASE="sqlite",
        GARMIN_AUTH_DATABASE_NAME=str(tmp_path / "empty.sqlite3"),
    )

    assert "W005" not in said


@in_a_process
def test_a_new_database_is_migrated(manage, tmp_path):
    said = manage(
        "migrate",
        "garmin_auth",
        "--no-color",
        GARMIN_AUTH_TEST_DATABASE="sqlite",
        GARMIN_AUTH_DATABASE_NAME=str(tmp_path / "new.sqlite3"),
    )

    assert "Applying garmin_auth.0001_initial... OK" in said


@in_a_process
def test_a_table_of_an_earlier_version_is_silent(manage, tmp_path):
    path = tmp_path / "old.sqlite3"
    with sqlite3.connect(path) as database:
        database.execute(f"CREATE TABLE {TABLE} (id integer)")
    database.close()

    said = manage(
        "check",
        "--database",
        "default",
        GARMIN_AUTH_TEST_DATABASE="sqlite",
        GARMIN_AUTH_DATABASE_NAME=str(path),
    )

    assert "W005" not in said


@in_a_process
def test_an_error_ends_manage_check_with_1(manage):
    said = manage("check", lines=["GARMIN_AUTH_DOMAIN = 'evil.example'"], code=1)

    assert "(garmin_auth.E001) GARMIN_AUTH_DOMAIN must be one of garmin.com, garmin.cn" in said


# GARMIN_AUTH_FROZEN


def test_a_frozen_site_is_a_warning(settings):
    settings.GARMIN_AUTH_FROZEN = True

    assert said("W011") == ["GARMIN_AUTH_FROZEN is True, so this site does not connect to Garmin."]


def test_a_value_of_frozen_that_cannot_work_is_one_error(settings):
    settings.GARMIN_AUTH_FROZEN = "False"

    assert said("E001") == ["GARMIN_AUTH_FROZEN must be True or False, not of type str."]
    assert said("W011") == []


# Weak keys, before a deployment


WEAK = [
    "only",
    "short-1aB2cD3eF4gH5",
    "x" * 60,
    "abcabcabcabcabcabcabcabcabcabcabcabcabcabcabc",
    "a long random string",
    "A Long Random String, for this tutorial only",
    "django-insecure-7k2v!q0w8e9r5t1y3u6i4o@p#a$s%d^f&g*h(j)k_l",
    b"the present key of this site 0123456789",
]


@pytest.fixture(scope="module")
def owners():
    return metadata.packages_distributions()


@pytest.fixture
def read_once(monkeypatch, owners):
    """What each distribution has installed, which takes a third of a second to read."""
    monkeypatch.setattr(metadata, "packages_distributions", lambda: owners)


@pytest.mark.parametrize("key", WEAK, ids=repr)
@pytest.mark.usefixtures("read_once")
def test_a_weak_key_is_a_warning_before_a_deployment(settings, key):
    settings.FERNET_KEYS = [secrets.token_urlsafe(48), key]

    assert said("W012", include_deployment_checks=True) == [
        "FERNET_KEYS[1] is short or easy to guess."
    ]
    assert said("W012") == []


@pytest.mark.parametrize(
    "key",
    [
        secrets.token_urlsafe(48),
        "0f1e2d3c4b5a69788796a5b4c3d2e1f0",
        Fernet.generate_key(),
        Fernet.generate_key().decode(),
        get_random_secret_key(),
    ],
    ids=["urlsafe", "hex", "fernet", "fernet-text", "django"],
)
@pytest.mark.usefixtures("read_once")
def test_a_generated_key_is_silent_before_a_deployment(settings, key):
    settings.FERNET_KEYS = [key]

    assert said("W012", include_deployment_checks=True) == []


@pytest.mark.parametrize("keys", ["only for development", None, [], 5, [5, None, ""]])
@pytest.mark.usefixtures("read_once")
def test_keys_that_cannot_be_used_are_not_called_weak_too(settings, keys):
    settings.FERNET_KEYS = keys

    assert said("W012", include_deployment_checks=True) == []


def keys_in_the_docs():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    text = "\n".join(page.read_text() for page in pages)
    for listed in re.findall(r"FERNET_KEYS = (\[[^]]+\])", text):
        if "environ" not in listed:
            yield from ast.literal_eval(listed)


@pytest.mark.parametrize("key", sorted(set(keys_in_the_docs())))
@pytest.mark.usefixtures("read_once")
def test_a_key_that_the_docs_show_is_weak(settings, key):
    settings.FERNET_KEYS = [key]

    assert len(said("W012", include_deployment_checks=True)) == 1


@in_a_process
def test_check_deploy_finds_a_weak_key(manage):
    assert "(garmin_auth.W012) FERNET_KEYS[0]" in manage(
        "check", "--deploy", lines=["FERNET_KEYS = ['only', 'for', 'development']"]
    )


# Settings that do not exist


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("GARMIN_AUTH_PROXY", "GARMIN_AUTH_PROXIES"),
        ("GARMIN_AUTH_ENGINGE", "GARMIN_AUTH_ENGINE"),
        ("GARMIN_AUTH_TIME_OUT", "GARMIN_AUTH_TIMEOUT"),
    ],
)
def test_a_setting_that_does_not_exist_is_a_warning_with_what_was_meant(settings, name, meant):
    setattr(settings, name, "a-secret-value")

    assert said("W013") == [f"{name} is not a setting of garmin_auth, so it has no effect."]
    assert hint("W013").startswith(f"Did you mean {meant}?")
    assert "a-secret-value" not in str(run_checks(tags=["garmin_auth"]))


def test_a_setting_that_is_like_no_other_is_a_warning_with_where_to_look(settings):
    settings.GARMIN_AUTH_XYZZY = 5

    assert len(said("W013")) == 1
    assert hint("W013").startswith("Remove it.")


def test_every_setting_that_exists_is_silent(settings):
    for name in vars(Settings):
        if name.isupper():
            setattr(settings, f"GARMIN_AUTH_{name}", getattr(conf, name))

    assert said("W013") == []


# Another distribution's files in this package


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """Install a distribution with these files, none of which is imported."""

    def distribution(name, *files):
        folder = tmp_path / f"{name.replace('-', '_')}-0.4.1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.4.1\n")
        (folder / "RECORD").write_text("".join(f"{file},,\n" for file in files))
        for file in files:
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).touch()
        monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])

    return distribution


def test_the_other_garmin_auth_is_a_warning(distribution):
    distribution("garmin-auth", "garmin_auth/__init__.py", "garmin_auth/auth.py")

    assert said("W015") == [
        "The distribution 'garmin-auth' has installed its files in the package garmin_auth."
    ]
    assert "python -m pip uninstall garmin-auth" in hint("W015")
    assert "--force-reinstall" in hint("W015")
    assert len(said("W015", include_deployment_checks=True)) == 1


def test_any_other_distribution_in_this_package_is_a_warning_before_a_deployment(distribution):
    distribution("our-garmin", "garmin_auth/__init__.py", "our_garmin/__init__.py")

    assert said("W015", include_deployment_checks=True) == [
        "The distribution 'our-garmin' has installed its files in the package garmin_auth."
    ]


def test_a_distribution_with_its_own_package_is_silent(distribution):
    distribution("garmin-auth-extras", "garmin_auth_extras/__init__.py")

    assert said("W015", include_deployment_checks=True) == []


def test_a_package_that_has_lost_its_init_is_a_warning(monkeypatch):
    monkeypatch.setattr(garmin_auth, "__file__", None)

    assert said("W015") == ["The file __init__.py of the package garmin_auth is missing."]
    assert "--force-reinstall" in hint("W015")


# Tags without the URLs, before a deployment


@pytest.fixture
def template(settings, tmp_path):
    """Give the site a template with this content."""

    def template(content, name="home.html"):
        (tmp_path / name).write_text(content)
        settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [str(tmp_path)]}]
        return tmp_path / name

    return template


@pytest.fixture
def without_urls(settings):
    settings.ROOT_URLCONF = "django.contrib.auth.urls"


@pytest.mark.parametrize("tag", ["garmin_status", "garmin_connect_link", "garmin_banner"])
def test_a_tag_without_our_urls_is_a_warning(template, without_urls, tag):
    path = template(f"{{% load i18n garmin_auth %}}<p>{{%  {tag} %}}</p>")

    assert said("W014", include_deployment_checks=True) == [
        f"{path} uses tags of garmin_auth, but the site has not included garmin_auth.urls, so "
        "they have no links."
    ]
    assert said("W014") == []


def test_of_a_tag_without_our_urls_it_is_said_when_to_silence_the_check(template, without_urls):
    template("{% load garmin_auth %}{% garmin_status %}")

    assert "request.urlconf" in hint("W014", include_deployment_checks=True)


def test_a_tag_with_our_urls_is_silent(template):
    template("{% load garmin_auth %}{% garmin_status %}")

    assert said("W014", include_deployment_checks=True) == []


@pytest.mark.parametrize(
    "content", ["{% load garmin_auth %}{% garmin_time now %}", "garmin_status", b"\xff\xfe"]
)
def test_templates_without_our_links_need_no_urls(template, without_urls, content, tmp_path):
    path = template("")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

    assert said("W014", include_deployment_checks=True) == []


def test_without_a_urlconf_nothing_is_said_of_tags(template, settings):
    template("{% load garmin_auth %}{% garmin_status %}")
    del settings.ROOT_URLCONF

    assert said("W014", include_deployment_checks=True) == []


# Templates of the pages


DJANGO_ENGINE = "django.template.backends.django.DjangoTemplates"
LOADERS = "django.template.loaders"
DIRECTORIES = f"{LOADERS}.app_directories.Loader"
OWN_STATUS = {"garmin_auth/status.html": "Your Garmin account"}
JINJA = {"BACKEND": "django.template.backends.jinja2.Jinja2", "APP_DIRS": True}


class DatabaseLoader(Loader):
    """Keeps templates in a table that has not been migrated yet."""

    def get_template_sources(self, template_name):
        raise OperationalError(f"no such table: templates, looked for {template_name}")


def django_engine(*loaders):
    return {"BACKEND": DJANGO_ENGINE, "OPTIONS": {"loaders": [*loaders]}}


@pytest.mark.parametrize(
    "templates",
    [
        [],
        [{"BACKEND": DJANGO_ENGINE}],
        [django_engine(f"{LOADERS}.filesystem.Loader")],
        [JINJA],
    ],
    ids=["none", "without-app-dirs", "without-the-loader", "jinja2"],
)
def test_templates_that_no_engine_finds_are_a_warning(settings, templates):
    if JINJA in templates:
        pytest.importorskip("jinja2")
    settings.TEMPLATES = templates

    assert said("W020") == [
        "No engine in TEMPLATES finds the templates of garmin_auth, so its pages cannot be "
        "rendered."
    ]
    assert DJANGO_ENGINE in hint("W020")
    assert DIRECTORIES in hint("W020")


@pytest.mark.parametrize(
    "templates",
    [
        [{"BACKEND": DJANGO_ENGINE, "APP_DIRS": True}],
        [{"BACKEND": DJANGO_ENGINE}, {"BACKEND": DJANGO_ENGINE, "NAME": "2", "APP_DIRS": True}],
        [{"BACKEND": DJANGO_ENGINE, "DIRS": [ROOT / "garmin_auth" / "templates"]}],
        [django_engine(DIRECTORIES)],
        [django_engine((f"{LOADERS}.cached.Loader", [DIRECTORIES]))],
        [django_engine((f"{LOADERS}.locmem.Loader", OWN_STATUS))],
        [django_engine(f"{__name__}.DatabaseLoader", DIRECTORIES)],
        [django_engine(f"{__name__}.DatabaseLoader")],
        [django_engine((f"{LOADERS}.locmem.Loader", {"garmin_auth/status.html": "{% else %}"}))],
    ],
)
def test_templates_that_an_engine_finds_or_may_find_are_silent(settings, templates):
    settings.TEMPLATES = templates

    assert said("W020") == []


@pytest.mark.usefixtures("without_urls")
def test_without_our_urls_the_templates_are_no_matter(settings):
    settings.TEMPLATES = []

    assert said("W020") == []


def test_without_a_urlconf_the_templates_are_no_matter(settings):
    settings.TEMPLATES = []
    del settings.ROOT_URLCONF

    assert said("W020") == []


# Routers


class Router:
    """Keeps garmin_auth in one database, and all else in another."""

    def __init__(self, ours, theirs=None):
        self.ours, self.theirs = ours, theirs

    def db_for_write(self, model, **hints):
        return self.ours if model._meta.app_label == "garmin_auth" else self.theirs


class TenantRouter:
    def db_for_write(self, model, **hints):
        raise LookupError("There is no request.")


@pytest.fixture
def second(monkeypatch):
    """Give the site a second database, with these settings instead of the first one's."""

    def second(**given):
        monkeypatch.setitem(
            connections.settings, "second", {**connections.settings["default"], **given}
        )

    return second


@pytest.mark.parametrize(
    "given", [{"NAME": "sport"}, {"HOST": "sport.example.com"}, {"PORT": "6543"}, {"ENGINE": "x"}]
)
def test_users_in_another_database_are_an_error(settings, second, given):
    second(**given)
    settings.DATABASE_ROUTERS = [Router("second")]

    assert said("E009") == [
        "Your database router keeps garmin_auth in 'second', but auth.User in 'default', so no "
        "Garmin session can be stored."
    ]
    assert "manage.py migrate --database default" in hint("E009")


@pytest.mark.parametrize("router", [Router("second", "second"), TenantRouter(), Router("unknown")])
def test_users_in_the_same_database_or_an_unknown_one_are_silent(settings, second, router):
    second(NAME="sport")
    settings.DATABASE_ROUTERS = [router]

    assert said("E009") == []


def test_users_in_the_same_database_under_another_name_are_silent(settings, second):
    second(USER="another", OPTIONS={})
    settings.DATABASE_ROUTERS = [Router("second")]

    assert said("E009") == []


@pytest.mark.django_db
def test_a_router_that_needs_a_request_breaks_no_check(settings):
    settings.DATABASE_ROUTERS = [TenantRouter()]
    settings.CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.db.DatabaseCache",
            "LOCATION": "no_such_table",
        }
    }

    found = run_checks(tags=["garmin_auth", "database"], databases=["default"])

    assert {message.id for message in found} & {"garmin_auth.W010", "garmin_auth.E009"} == set()


def test_without_a_router_nothing_is_said_of_databases():
    assert said("E009") == []
