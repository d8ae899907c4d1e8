"""The cache is a help, not a condition."""

import io
import logging

import pytest
import time_machine
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.core.management import call_command

from garmin_auth.health import check_sessions
from garmin_auth.limits.shared_cache import SharedCache, shared_cache
from garmin_auth.login import Connected, MFARequired, start_login, submit_mfa
from garmin_auth.sessions import garmin_client
from tests.conftest import EMAIL, PASSWORD, state_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.every_database]
PROFILE = "/userprofile-service/socialProfile"


REDIS, MEMCACHED = "redis://:a-password@127.0.0.1:1/0", "127.0.0.1:1"
AWAY = {
    "redis that is down": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS,
    },
    "a table that is not there": {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "no_such_table",
    },
}
# These raise nothing. What they return is what they return if there is no such key, or if there is.
SILENT = {
    "django-redis": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": REDIS,
        "OPTIONS": {"IGNORE_EXCEPTIONS": True},
    },
    "pymemcache": {
        "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
        "LOCATION": MEMCACHED,
        "OPTIONS": {"ignore_exc": True},
    },
}


@pytest.fixture(params=AWAY)
def no_cache(request, settings, monkeypatch):
    """A cache that cannot be reached."""
    settings.CACHES = {"default": AWAY[request.param]}
    monkeypatch.setattr(shared_cache, "_logged_at", float("-inf"))


@pytest.fixture(params=SILENT)
def silent_cache(request, settings):
    """A cache that cannot be reached, and does not say so."""
    settings.CACHES = {"default": SILENT[request.param]}


def test_a_login_needs_no_cache(no_cache, user, account):
    assert start_login(user, EMAIL, PASSWORD) == Connected()


def test_a_code_needs_no_cache(no_cache, user, mfa_account, garmin):
    assert isinstance(start_login(user, EMAIL, PASSWORD), MFARequired)

    assert submit_mfa(user, garmin.mfa_code(EMAIL)) == Connected()


def test_the_login_page_needs_no_cache(no_cache, user, client):
    client.force_login(user)

    assert client.get("/garmin/login/").status_code == 200


def test_a_call_and_its_refresh_need_no_cache(no_cache, user, connect, garmin):
    connect(user, access_expired=True)

    with garmin_client(user) as client:
        assert client.connectapi(PROFILE)["userName"] == EMAIL

    assert state_of(user).last_validated is not None


def test_a_call_that_garmin_has_answered_is_not_lost_when_the_cache_goes(user, connect, settings):
    connect(user)

    with garmin_client(user) as client:
        client.connectapi(PROFILE)
        caches["default"].clear()
        settings.CACHES = {
            "default": {
                "BACKEND": "django.core.cache.backends.db.DatabaseCache",
                "LOCATION": "no_such_table",
            }
        }

        assert client.connectapi(PROFILE)["userName"] == EMAIL


def test_a_run_of_checks_needs_no_cache_and_says_so(no_cache, people):
    people(3)

    report = check_sessions()

    assert (report.active, report.cache_failed) == (3, True)


def test_the_command_says_that_the_cache_is_away(no_cache, user, connect):
    connect(user)
    errors = io.StringIO()

    call_command("check_garmin_sessions", stdout=io.StringIO(), stderr=errors)

    assert "The cache could not be used" in errors.getvalue()


def test_a_run_with_a_cache_says_nothing_of_it(user, connect):
    connect(user)

    assert not check_sessions().cache_failed


def test_it_is_logged_once_and_without_the_caches_password(no_cache, user, connect, caplog):
    connect(user)
    caplog.set_level(logging.WARNING, "garmin_auth")

    for _ in range(3):
        with garmin_client(user) as client:
            client.connectapi(PROFILE)

    (record,) = [record for record in caplog.records if "cache" in record.getMessage()]
    assert "a-password" not in record.getMessage()
    assert record.error in ("ConnectionError", "OperationalError", "ProgrammingError")


def test_a_cache_that_can_be_reached_does_what_djangos_does():
    cache = SharedCache()
    with time_machine.travel(0, tick=False) as clock:
        cache.set("set", 1, 10)
        assert (cache.add("set", 9, 10), cache.add("added", "new", 10)) == (False, True)
        assert (cache.increment("set", 2), cache.increment("set", -2)) == (3, 1)
        assert cache.increment("nothing", 1) is None
        assert [cache.get(key, "else") for key in ("set", "added", "nothing")] == [1, "new", "else"]
        cache.touch("set", 100)
        cache.set("also", 1, 10)
        clock.shift(50)
        assert [cache.get(key) for key in ("set", "added", "also")] == [1, None, None]
        clock.shift(51)
        assert cache.get("set") is None
        cache.set("set", 1, 10)
        cache.delete("set")
        assert cache.get("set") is None
    assert cache.failures == 0


def test_a_cache_that_cannot_be_reached_gives_what_is_asked_for(settings):
    settings.CACHES = {"default": {"BACKEND": "tests.limits.test_cooldown.BrokenCache"}}
    cache = SharedCache()

    assert cache.get("key", "else") == "else"
    assert cache.failures == 1


def test_a_login_with_a_code_needs_no_cache_that_says_it_is_away(
    silent_cache, user, mfa_account, garmin
):
    assert isinstance(start_login(user, EMAIL, PASSWORD), MFARequired)

    assert submit_mfa(user, garmin.mfa_code(EMAIL)) == Connected()


@pytest.mark.parametrize("rate", [None, 1000])
def test_a_run_of_checks_ends_without_a_cache_that_says_it_is_away(silent_cache, people, rate):
    people(3)

    report = check_sessions(rate=rate)

    assert (report.active, report.cache_failed) == (3, True)


def test_a_cache_that_ignores_its_errors_gives_what_is_asked_for(silent_cache):
    cache = SharedCache()

    assert cache.add("key", 1, 10) is True
    assert cache.failures == 1
    assert cache.increment("key", 1) is None
    assert cache.increment("key", -1) is None
    assert cache.failures == 3
    assert cache.get("key", "else") == "else"


class ContendedCache(LocMemCache):
    """Others add and remove the key all the time: never is it free, nor there to be read."""

    def add(self, *args, **kwargs):
        return False


def test_a_key_that_another_has_just_removed_is_no_fault_of_the_cache(settings):
    settings.CACHES = {"default": {"BACKEND": f"{__name__}.ContendedCache"}}
    cache = SharedCache()

    assert [cache.add("key", 1, 10) for _ in range(3)] == [False] * 3
    assert cache.failures == 0
