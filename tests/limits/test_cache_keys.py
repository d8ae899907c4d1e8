"""The keys of the cache: they reveal nothing, and belong to one site and one tenant."""

import re
from contextlib import nullcontext

import pytest
from django.core.cache import cache
from django.core.cache.backends.base import memcache_key_warnings

from garmin_auth.engines.secret import Secret
from garmin_auth.exceptions import (
    GarminUnavailable,
    InvalidCredentials,
    MassFailure,
    SessionExpired,
)
from garmin_auth.limits import cooldown, mass_failure
from garmin_auth.limits.rate import reserve_turn
from garmin_auth.limits.repetitions import Submission, send_once
from garmin_auth.limits.shared_cache import cache_key, tenant_cache_key
from garmin_auth.login import start_login
from garmin_auth.sessions import garmin_client
from tests.conftest import EMAIL, PASSWORD

PROFILE = "/userprofile-service/socialProfile"
tenant = ""


def tenant_of_caller():
    context = nullcontext()
    context.key = tenant
    return context


def test_no_key_of_the_app_shows_what_it_is_about(
    user, other_user, django_user_model, connect, garmin, settings
):
    settings.GARMIN_AUTH_CHECK_RATE = 5
    garmin.add_account(EMAIL, PASSWORD)
    with pytest.raises(InvalidCredentials):
        start_login(user, EMAIL, "wrong")
    connect(user)
    garmin.fail("api", "status", status=401, times=None)
    with pytest.raises(GarminUnavailable), garmin_client(user) as client:
        client.connectapi(PROFILE)
    cooldown.start(cooldown.site_scope("garmin.com"), 60)
    reserve_turn(60)
    people = [user, other_user, django_user_model.objects.create_user("cleo")]
    with pytest.raises(MassFailure):
        for person in people:
            pk = connect(person, f"{person.username}@example.com").pk
            mass_failure.record_refused(pk, "garth", "garmin.com", SessionExpired())

    assert len(cache._cache) >= 6
    for key in cache._cache:
        assert re.fullmatch(r":1:garmin_auth:[0-9a-f]{64}(:end)?", key)


@pytest.mark.parametrize("pk", ["ana@example.com", "with a space", "x" * 300, "ö\n"])
def test_a_key_of_any_user_is_legal_in_every_cache(pk):
    key = tenant_cache_key("login", pk)

    assert list(memcache_key_warnings(key)) == []
    assert pk not in key


def test_another_site_has_other_keys(settings):
    ours = cache_key("login", 1), tenant_cache_key("login", 1)
    settings.SECRET_KEY = "another site's"

    assert not {cache_key("login", 1), tenant_cache_key("login", 1)} & set(ours)


def test_another_tenant_has_other_keys_for_its_users_only(settings, monkeypatch):
    settings.GARMIN_AUTH_THREAD_CONTEXT = "tests.limits.test_cache_keys.tenant_of_caller"
    monkeypatch.setattr("tests.limits.test_cache_keys.tenant", "north")
    ours = cache_key("next turn"), tenant_cache_key("login", 1)
    monkeypatch.setattr("tests.limits.test_cache_keys.tenant", "south")

    assert cache_key("next turn") == ours[0]
    assert tenant_cache_key("login", 1) != ours[1]


def test_a_hook_that_names_no_tenant_is_fine(settings):
    settings.GARMIN_AUTH_THREAD_CONTEXT = "contextlib.nullcontext"

    assert tenant_cache_key("login", 1) == tenant_cache_key("login", 1)


@pytest.mark.parametrize("what", ["site", "tenant"])
def test_a_login_is_not_answered_with_the_failure_of_anothers(settings, monkeypatch, user, what):
    def fail():
        raise InvalidCredentials

    def nothing(began):
        return None

    submission = Submission("login", user, (Secret("x"),), "form")
    settings.GARMIN_AUTH_THREAD_CONTEXT = "tests.limits.test_cache_keys.tenant_of_caller"
    with pytest.raises(InvalidCredentials):
        send_once(submission, 60, fail, nothing)
    if what == "site":
        settings.SECRET_KEY = "another site's"
    else:
        monkeypatch.setattr("tests.limits.test_cache_keys.tenant", "south")

    assert send_once(submission, 60, lambda: "connected", nothing) == "connected"
