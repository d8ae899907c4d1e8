"""After a rate limit nobody asks, and everybody is told until when."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import time_machine
from django.core.cache import cache
from django.core.cache.backends.locmem import LocMemCache
from django.db import connections

from garmin_auth.engines.secret import Secret
from garmin_auth.exceptions import (
    GarminUnavailable,
    RateLimited,
)
from garmin_auth.health import check_sessions
from garmin_auth.limits import cooldown
from garmin_auth.limits.shared_cache import cache_key
from garmin_auth.login import Connected, import_session, start_login, submit_mfa
from garmin_auth.sessions import garmin_client
from garmin_auth.testing.garmin import resources
from tests.conftest import EMAIL, PASSWORD, state_of

pytestmark = pytest.mark.django_db
PROFILE = "/userprofile-service/socialProfile"


def call(user):
    with garmin_client(user) as client:
        return client.connectapi(PROFILE)


@pytest.mark.parametrize("fault", ["rate_limited", "rate_limited_427", "rate_limited_200"])
def test_a_rate_limit_of_the_api_pauses_the_site(user, other_user, connect, garmin, fault):
    connect(user)
    connect(other_user, "ben@example.com")
    garmin.fail("api", fault)
    with pytest.raises(RateLimited):
        call(user)

    with pytest.raises(RateLimited) as caught:
        call(other_user)

    assert 0 < caught.value.retry_after <= cooldown.FIRST
    assert garmin.counts["api"] == 1


def test_a_rate_limit_of_the_exchange_pauses_the_site(user, other_user, connect, garmin):
    connect(user, access_expired=True)
    connect(other_user, "ben@example.com")
    garmin.fail("exchange", "rate_limited", retry_after=30)
    with pytest.raises(RateLimited):
        call(user)

    with pytest.raises(RateLimited) as caught:
        call(other_user)

    assert 0 < caught.value.retry_after <= 30
    assert garmin.counts["api"] == 0


def test_a_block_pauses_nothing(user, connect, garmin):
    connect(user)
    garmin.fail("api", "blocked")
    with pytest.raises(GarminUnavailable):
        call(user)

    assert call(user)["userName"] == EMAIL


def test_a_success_after_the_pause_forgets_it(user, connect, garmin):
    connect(user)
    garmin.fail("api", "rate_limited", retry_after=1)
    with pytest.raises(RateLimited):
        call(user)
    time.sleep(1.1)

    call(user)

    cooldown.start(cooldown.site_scope("garmin.com"), None)
    # Else it would be twice as long as the last one, of a second.
    assert cooldown.seconds_left(cooldown.site_scope("garmin.com")) > cooldown.FIRST / 2


def test_a_refresh_that_is_accepted_after_the_pause_forgets_it_too(user, connect, garmin):
    connect(user, access_expired=True)
    garmin.fail("exchange", "rate_limited", retry_after=1)
    with garmin_client(user):
        pass  # The refresh has failed already.

    with time_machine.travel(time.time() + 2):
        with garmin_client(user):
            pass

        assert garmin.counts["exchange"] == 2
        cooldown.start(cooldown.site_scope("garmin.com"), None)
        assert cooldown.seconds_left(cooldown.site_scope("garmin.com")) > cooldown.FIRST / 2


@pytest.mark.django_db(transaction=True)
def test_a_rate_limit_of_a_thread_of_the_block_pauses_the_site(user, connect, garmin):
    connect(user)
    garmin.fail("api", "rate_limited", retry_after=30)

    with garmin_client(user) as client, ThreadPoolExecutor(1) as thread:
        assert isinstance(thread.submit(client.connectapi, PROFILE).exception(60), RateLimited)
        with pytest.raises(RateLimited):
            client.connectapi(PROFILE)

    assert garmin.counts["api"] == 1


@pytest.mark.django_db(transaction=True)
def test_a_success_that_was_under_way_does_not_end_the_pause(
    user, other_user, connect, garmin, monkeypatch
):
    connect(user)
    connect(other_user, "ben@example.com")
    asked, go_on, answer = threading.Event(), threading.Event(), resources.answer

    def answer_ben_late(request, account):
        if account.email == "ben@example.com":
            asked.set()
            go_on.wait(60)
        return answer(request, account)

    monkeypatch.setattr(resources, "answer", answer_ben_late)
    garmin.fail("api", "rate_limited", retry_after=300, account=EMAIL)
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(call_and_close, other_user)
        assert asked.wait(60)
        with pytest.raises(RateLimited):
            call(user)
        go_on.set()

        assert under_way.result()["userName"] == "ben@example.com"

    assert cooldown.seconds_left(cooldown.site_scope("garmin.com")) > 200


def call_and_close(user):
    try:
        return call(user)
    finally:
        connections.close_all()


def test_pauses_grow_up_to_the_longest():
    lengths = []
    for _ in range(8):
        cooldown.start(cooldown.site_scope("garmin.com"), None)
        left = cooldown.seconds_left(cooldown.site_scope("garmin.com"))
        key = cache_key("cooldown", cooldown.site_scope("garmin.com"))
        _, length = cache.get(key)
        assert length - 30 < left <= length
        lengths.append(length)
        cache.set(key, (0, length))  # It is over.

    assert lengths == [60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_the_length_of_a_pause_is_remembered_for_two_hours():
    scope = cooldown.site_scope("garmin.com")
    with time_machine.travel(0, tick=False) as clock:
        cooldown.start(scope, None)
        clock.shift(cooldown.FIRST + 2 * cooldown.LONGEST - 1)
        cooldown.start(scope, None)
        assert cooldown.seconds_left(scope) == 2 * cooldown.FIRST

        clock.shift(2 * cooldown.FIRST + 2 * cooldown.LONGEST + 1)
        cooldown.start(scope, None)
        assert cooldown.seconds_left(scope) == cooldown.FIRST


def test_that_there_is_no_pause_is_read_once_a_second(settings, monkeypatch):
    assert cooldown.SEEN_FOR == 1
    monkeypatch.setattr(cooldown, "SEEN_FOR", 60)  # Three calls may take a busy machine a second.
    settings.CACHES = {"default": {"BACKEND": f"{__name__}.CountingCache"}}
    CountingCache.reads = 0
    for _ in range(3):
        assert cooldown.seconds_left("scope") == 0
    assert CountingCache.reads == 1

    cooldown.nothing_seen["scope"] -= cooldown.SEEN_FOR
    assert cooldown.seconds_left("scope") == 0
    assert CountingCache.reads == 2


class CountingCache(LocMemCache):
    reads = 0

    def get(self, *args, **kwargs):
        CountingCache.reads += 1
        return super().get(*args, **kwargs)


def test_a_session_that_is_limited_by_its_own_credential_has_its_own_scope():
    class Engine:
        domain = "garmin.cn"

        def rate_limited_by(self, session_data):
            return Secret(session_data) if session_data else None

    assert cooldown.session_scope(Engine(), "") == "site-garmin.cn"
    mine, others = (cooldown.session_scope(Engine(), key) for key in ("mine", "others"))
    assert mine == cooldown.credential_scope(Secret("mine")) != others


def test_calls_that_were_under_way_do_not_make_a_pause_longer():
    for _ in range(5):
        cooldown.start(cooldown.site_scope("garmin.com"), None)

    assert 0 < cooldown.seconds_left(cooldown.site_scope("garmin.com")) <= cooldown.FIRST


def test_logins_pause_for_an_hour_where_garmin_names_no_time():
    cooldown.update("account", RateLimited())

    assert 3590 <= cooldown.seconds_left("account") <= 3600


def test_a_part_of_a_second_is_waited_for():
    with time_machine.travel(1000, tick=False) as clock:
        cooldown.start("scope", 10)
        clock.shift(9.5)
        assert cooldown.seconds_left("scope") == 1
        clock.shift(0.5)
        assert cooldown.seconds_left("scope") == 0


def test_a_shorter_word_of_garmin_does_not_shorten_a_pause():
    cooldown.start("scope", 300)
    cooldown.start("scope", 10)

    assert 290 < cooldown.seconds_left("scope") <= 300


def test_the_check_asks_nobody_during_a_pause(user, connect, garmin):
    connect(user)
    cooldown.start(cooldown.site_scope("garmin.com"), 60)

    report = check_sessions()

    assert (report.stopped, report.checked) == ("rate_limited", 0)
    assert garmin.counts["api"] == 0


def test_a_login_during_the_accounts_pause_is_refused_without_asking(user, account, garmin):
    garmin.fail("login", "rate_limited", retry_after=120)
    with pytest.raises(RateLimited):
        start_login(user, EMAIL, PASSWORD)

    with pytest.raises(RateLimited) as caught:
        start_login(user, EMAIL.upper(), PASSWORD)

    assert "in 2 minutes" in caught.value.user_message
    assert garmin.counts["login"] == 1


def test_an_accounts_pause_is_of_that_account_only(user, other_user, account, garmin, connect):
    garmin.add_account("ben@example.com", PASSWORD)
    garmin.fail("login", "rate_limited", retry_after=120)
    with pytest.raises(RateLimited):
        start_login(user, EMAIL, PASSWORD)

    assert start_login(other_user, "ben@example.com", PASSWORD) == Connected()


def test_a_code_that_garmin_did_not_judge_is_no_attempt(user, mfa_account, garmin):
    start_login(user, EMAIL, PASSWORD)
    garmin.fail("verify_code", "rate_limited", retry_after=120)
    with pytest.raises(RateLimited):
        submit_mfa(user, garmin.mfa_code(EMAIL))

    with pytest.raises(RateLimited):
        submit_mfa(user, garmin.mfa_code(EMAIL))

    assert state_of(user).mfa_attempts == 0
    assert garmin.counts["verify_code"] == 1


def test_no_key_of_the_cache_tells_an_address(user, account, garmin):
    garmin.fail("login", "rate_limited", retry_after=120)
    with pytest.raises(RateLimited):
        start_login(user, EMAIL, PASSWORD)

    assert cache._cache
    assert not any("ana" in f"{key}{value}" for key, value in cache._cache.items())


def test_a_checked_import_asks_nobody_during_a_pause(user, account, garmin):
    cooldown.start(cooldown.site_scope("garmin.com"), 60)

    with pytest.raises(RateLimited):
        import_session(user, garmin.issue_session(EMAIL, access_expired=True), check=True)

    assert (garmin.counts["api"], garmin.counts["exchange"]) == (0, 0)


def test_a_rate_limit_of_a_checked_import_pauses_the_site(user, account, garmin):
    garmin.fail("exchange", "rate_limited", retry_after=30)

    with pytest.raises(RateLimited):
        import_session(user, garmin.issue_session(EMAIL, access_expired=True), check=True)

    assert cooldown.seconds_left(cooldown.site_scope("garmin.com"))


def test_a_thread_that_had_just_seen_none_does_not_hide_a_pause(settings):
    """It read the cache before the other one wrote."""
    settings.CACHES = {"default": {"BACKEND": f"{__name__}.HeldCache"}}
    scope = cooldown.site_scope("garmin.com")
    HeldCache.read, HeldCache.go_on = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: cooldown.seconds_left(scope))
    thread.start()
    assert HeldCache.read.wait(10)
    HeldCache.read = None

    cooldown.start(scope, 60)
    HeldCache.go_on.set()
    thread.join()

    assert cooldown.seconds_left(scope) > 50


class HeldCache(LocMemCache):
    """Holds the first read, until it may go on with what it has found."""

    read = go_on = None

    def get(self, *args, **kwargs):
        found, read = super().get(*args, **kwargs), self.read
        if read:
            read.set()
            self.go_on.wait(10)
        return found


def test_a_cache_that_cannot_be_read_is_not_taken_for_no_pause(settings, tmp_path):
    working = {"BACKEND": "django.core.cache.backends.filebased.FileBasedCache"}
    settings.CACHES = {"default": {**working, "LOCATION": str(tmp_path)}}
    cooldown.start(cooldown.site_scope("garmin.com"), 60)
    settings.CACHES = {"default": {"BACKEND": f"{__name__}.BrokenCache"}}
    assert not cooldown.seconds_left(cooldown.site_scope("garmin.com"))
    settings.CACHES = {"default": {**working, "LOCATION": str(tmp_path)}}
    assert cooldown.seconds_left(cooldown.site_scope("garmin.com"))


class BrokenCache(LocMemCache):
    def get(self, *args, **kwargs):
        raise OSError
