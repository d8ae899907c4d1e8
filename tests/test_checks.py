"""The system checks: each when it speaks, and when it is silent."""

import os
import sqlite3
from configparser import ConfigParser
from importlib import metadata
from types import SimpleNamespace

import pytest
from cryptography.fernet import Fernet
from django.core.checks import ERROR, WARNING, run_checks
from django.db import connection

from garmin_auth.checks import check_stored_engines, check_stored_sessions
from garmin_auth.conf import conf
from garmin_auth.engines import NEEDS
from garmin_auth.engines.environment import VARIABLES
from garmin_auth.engines.garminconnect_limits import TIMEOUT
from garmin_auth.models import GarminAuthenticationState

from .conftest import ROOT, raw_row
from .test_models import spoil, store

in_a_process = pytest.mark.django_db(transaction=True)
TABLE = GarminAuthenticationState._meta.db_table


GARMINCONNECT = 'pip install --upgrade "django-garmin-auth[garminconnect]"'


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    theirs = [name for name in os.environ if name.upper().startswith(("GARTH_", "GARMINTOKENS"))]
    for name in [*theirs, *VARIABLES]:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def installed(monkeypatch):
    """Say which distributions are installed besides, None for one that is not; and the Python."""
    real = metadata.version

    def installed(python=(3, 12), **versions):
        def version(name):
            found = versions[name] if name in versions else real(name)
            if found is None:
                raise metadata.PackageNotFoundError(name)
            return found

        # No folders to tell from, so importlib.metadata is asked.
        monkeypatch.setattr("garmin_auth.engines.requirements.sys", SimpleNamespace(path=[]))
        monkeypatch.setattr(metadata, "version", version)
        monkeypatch.setattr("garmin_auth.engines.requirements.PYTHON", python)

    return installed


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


def hint(number):
    """The hint of the one message with this id."""
    (found,) = [
        message.hint
        for message in run_checks(tags=["garmin_auth"])
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

    assert said("W002") == ["FERNET_KEYS holds the same key more than once."]
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

    assert said("E003") == ["GARMIN_AUTH_ENGINE is 'nonsense', which is no known engine."]


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


def test_with_neither_engine_installed_both_commands_are_said(installed):
    installed(garth=None, garminconnect=None)

    assert said("E003") == ["The engine 'garth' needs garth, which is not installed."]
    assert 'pip install "garth>=0.8.0,<0.9"' in hint("E003")
    assert GARMINCONNECT in hint("E003")


def test_an_old_garth_is_an_error(installed):
    installed(garth="0.5.21")

    (message,) = said("E003")
    assert "garth 0.8.0 or newer, and 0.5.21 is installed" in message


def test_an_engine_that_is_not_chosen_need_not_be_installed(installed):
    installed(garminconnect=None, curl_cffi=None)

    assert said("E003") == []


def test_what_the_checks_want_is_what_the_package_asks_for():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    wanted = (
        config["options"]["install_requires"] + config["options.extras_require"]["garminconnect"]
    )

    for needs in NEEDS.values():
        for name, oldest in needs.distributions.items():
            assert f"\n{name}>={oldest}" in wanted


# Settings that garminconnect cannot follow


@pytest.fixture
def garminconnect(settings):
    settings.GARMIN_AUTH_ENGINE = "garminconnect"
    settings.GARMIN_AUTH_PROXIES = {}
    settings.GARMIN_AUTH_CA_BUNDLE = None
    return settings


def test_with_default_settings_garminconnect_is_silent(garminconnect):
    assert said("W006") == []


def test_a_proxy_that_the_environment_does_not_name_is_a_warning(garminconnect):
    garminconnect.GARMIN_AUTH_PROXIES = {"https": "http://user:secret@proxy:3128"}

    (message,) = said("W006")
    assert message.startswith("GARMIN_AUTH_PROXIES and the environment do not say the same")
    assert "HTTPS_PROXY" in hint("W006")
    assert "CURL_CA_BUNDLE" in hint("W006")
    assert "secret" not in message + hint("W006")


def test_a_proxy_that_only_the_environment_names_is_a_warning(garminconnect, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy:3128")

    (message,) = said("W006")
    assert "secret" not in message + hint("W006")


def test_a_ca_bundle_that_the_environment_does_not_name_is_a_warning(garminconnect, garmin):
    garminconnect.GARMIN_AUTH_PROXIES = {}

    (message,) = said("W006")
    assert message.startswith("GARMIN_AUTH_CA_BUNDLE and the environment")


def test_proxy_and_bundle_are_one_warning(garminconnect, garmin):
    garminconnect.GARMIN_AUTH_PROXIES = {"https": garmin.proxy_url}

    (message,) = said("W006")
    assert message.startswith("GARMIN_AUTH_PROXIES and GARMIN_AUTH_CA_BUNDLE and the environment")


def test_an_environment_that_says_the_same_is_silent(garminconnect, garmin, monkeypatch):
    garminconnect.GARMIN_AUTH_PROXIES = {"https": garmin.proxy_url}
    garminconnect.GARMIN_AUTH_CA_BUNDLE = garmin.ca_bundle
    monkeypatch.setenv("HTTPS_PROXY", garmin.proxy_url)
    monkeypatch.setenv("CURL_CA_BUNDLE", garmin.ca_bundle)

    assert said("W006") == []


def test_a_consumer_key_is_a_warning(garminconnect):
    garminconnect.GARMIN_AUTH_OAUTH_CONSUMER = {"consumer_key": "k", "consumer_secret": "secret"}

    assert said("W006") == ["GARMIN_AUTH_OAUTH_CONSUMER means nothing to the engine garminconnect."]


@pytest.mark.parametrize(("timeout", "found"), [(30, 0), (30.0, 0), (10, 1), (60, 1)])
def test_a_timeout_is_a_warning_where_it_is_not_the_default(garminconnect, timeout, found):
    garminconnect.GARMIN_AUTH_TIMEOUT = timeout

    assert len(said("W006")) == found


def test_what_garminconnect_cannot_follow_is_no_matter_to_garth(garminconnect):
    garminconnect.GARMIN_AUTH_ENGINE = "garth"
    garminconnect.GARMIN_AUTH_PROXIES = {"https": "http://proxy:3128"}
    garminconnect.GARMIN_AUTH_TIMEOUT = 10

    assert said("W006") == []


def test_nor_to_a_sites_own_engine_of_that_name(garminconnect):
    garminconnect.GARMIN_AUTH_ENGINES = {"garminconnect": "tests.test_health.FlawedEngine"}
    garminconnect.GARMIN_AUTH_TIMEOUT = 10

    assert said("W006") == []


def test_a_wrong_setting_is_said_once_with_garminconnect_too(garminconnect):
    garminconnect.GARMIN_AUTH_TIMEOUT = "long"

    assert said("W006") == []
    assert len(said("E001")) == 1


def test_the_default_timeout_and_the_logins_time_are_as_the_warning_says(settings, garminconnect):
    del settings.GARMIN_AUTH_TIMEOUT
    assert conf.TIMEOUT == TIMEOUT

    engine = pytest.importorskip(
        "garmin_auth.engines.garminconnect",
        reason="garminconnect needs Python 3.12",
        exc_type=ImportError,
    )
    assert engine.LOGIN_TIMEOUT == 180


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
    "name", ["GARTH_TOKEN", "GARTH_HOME", "GARTH_TELEMETRY_ENABLED", "garth_x", "GARMINTOKENS"]
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
    spoil(user)

    assert stored_sessions() == [
        "No key in FERNET_KEYS opens 1 of 2 stored Garmin sessions looked at. They are kept."
    ]


@pytest.mark.django_db
def test_it_is_a_database_check(user):
    store(user)
    spoil(user)

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
    spoil(user)

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
    spoil(users[position])

    assert len(stored_sessions()) == found


@pytest.mark.django_db
def test_it_costs_a_few_queries_whatever_the_number_of_rows(
    user, other_user, django_assert_max_num_queries
):
    store(user)
    store(other_user)

    with django_assert_max_num_queries(6):
        stored_sessions()


# Engines of stored sessions


def stored_engines(**options):
    return said("W007", **{"databases": ["default"], **options})


@pytest.mark.django_db
def test_sessions_of_an_engine_that_nobody_knows_are_a_warning(user, other_user):
    store(user)
    store(other_user, engine="another")

    assert stored_engines() == [
        "Garmin sessions of the engine 'another' are stored, which is not installed here. They "
        "are kept, and cannot be used."
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


@pytest.mark.django_db
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
    spoil(user)

    assert "W005" not in manage("check")


@in_a_process
def test_check_of_the_database_looks_at_rows(user, manage):
    store(user)
    spoil(user)

    assert "(garmin_auth.W005) No key in FERNET_KEYS opens 1 of 1" in manage(
        "check", "--database", "default"
    )


@in_a_process
def test_unreadable_rows_do_not_block_migrate(user, manage):
    store(user)
    spoil(user)

    said = manage("migrate", "--no-color")

    assert "W005" in said
    assert "No migrations to apply." in said
    assert bytes(raw_row(user)["session_data"]) == b"x"


@in_a_process
def test_another_key_is_noticed_and_does_not_block_migrate(user, manage):
    store(user)

    assert "opens 1 of 1" in manage("migrate", lines=["FERNET_KEYS = ['another']"])


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
