"""The rate that all workers keep together."""

import math
import time
from itertools import pairwise

import pytest
import time_machine
from django.core import checks
from django.core.cache import cache
from django.core.management import call_command

from garmin_auth.limits import cooldown
from garmin_auth.limits.rate import KEPT, LOCK_TIMEOUT, Pace, reserve_turn
from garmin_auth.limits.shared_cache import cache_key
from tests.conftest import needs_redis, start_all

RATE = 50
RESERVE = f"""
from garmin_auth.limits.rate import reserve_turn
for _ in range(100):
    print(round(reserve_turn(60) * {RATE}))
"""


def test_without_a_limit_the_turn_is_now():
    before = time.time()

    assert before <= reserve_turn(1) <= time.time()


def test_turns_are_as_far_apart_as_the_rate_says(settings):
    settings.GARMIN_AUTH_CHECK_RATE = 20
    before = time.time()

    turns = [reserve_turn(60) for _ in range(50)]

    assert turns[0] >= before
    assert all(later - earlier > 0.0499 for earlier, later in pairwise(turns))


def test_a_slow_rate_has_turns_too(settings):
    settings.GARMIN_AUTH_CHECK_RATE = 0.1

    first, second = reserve_turn(60), reserve_turn(60)

    assert second - first == pytest.approx(10)


def test_no_turn_is_reserved_further_ahead_than_wanted(settings):
    settings.GARMIN_AUTH_CHECK_RATE = 1
    before, turns = time.time(), []

    while (turn := reserve_turn(5)) is not None:
        turns.append(turn)

    assert len(turns) >= 5
    assert max(turns) <= time.time() + 5
    assert min(turns) >= before


def test_a_run_with_a_rate_of_its_own_takes_none_of_the_sites_turns(settings):
    settings.GARMIN_AUTH_CHECK_RATE = 0.001
    pace, ends_at = Pace(50), time.monotonic() + 5

    for _ in range(3):
        pace.wait(lambda: time.monotonic() > ends_at)

    assert reserve_turn(within=60) is not None


class Clock:
    """Only sleep moves it."""

    now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def test_a_run_is_as_fast_as_its_rate(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("garmin_auth.limits.rate.time", clock)
    pace = Pace(2)

    for _ in range(5):
        pace.wait(lambda: False)

    assert clock.now == pytest.approx(2)


def test_a_run_without_a_rate_of_its_own_waits_for_its_turn(settings):
    settings.GARMIN_AUTH_CHECK_RATE = 5
    taken = reserve_turn(60)

    Pace(None).wait(lambda: False)

    assert time.time() > taken + 0.199


def test_a_wait_for_a_turn_ends_with_an_interruption(settings):
    settings.GARMIN_AUTH_CHECK_RATE = 0.001
    reserve_turn(60)
    answers = [True, False, False]

    Pace(None).wait(answers.pop)

    assert answers == []


def test_a_wait_for_anothers_reservation_ends_with_an_interruption(settings):
    settings.GARMIN_AUTH_CHECK_RATE = 1
    cache.add(cache_key("lock of the next turn"), 1, 60)

    Pace(None).wait(lambda: True)

    assert cache.get(cache_key("next turn")) is None


def test_a_turn_is_remembered_for_a_minute_after_it_has_passed(settings):
    settings.GARMIN_AUTH_CHECK_RATE = 0.1
    key = cache_key("next turn")
    with time_machine.travel(1_000_000, tick=False) as clock:
        for _ in range(3):
            reserve_turn(60)
        clock.shift(30 + KEPT - 1)
        assert cache.get(key) == 1_000_030
        clock.shift(2)

        assert cache.get(key) is None


def test_a_process_killed_while_it_reserves_a_turn_delays_the_others_for_seconds(
    settings, monkeypatch
):
    settings.GARMIN_AUTH_CHECK_RATE = 5
    with time_machine.travel(0, tick=False) as clock:

        def sleep(seconds):
            clock.shift(seconds)
            assert time.time() < 60

        monkeypatch.setattr("garmin_auth.limits.rate.time.sleep", sleep)
        with monkeypatch.context() as killed:
            killed.setattr(cache, "delete", lambda key: None)
            reserve_turn(60)

        reserve_turn(60)

        assert time.time() == pytest.approx(LOCK_TIMEOUT, abs=0.1)


def test_a_turn_that_nobody_took_is_lost(settings):
    settings.GARMIN_AUTH_CHECK_RATE = 10
    reserve_turn(60)
    time.sleep(0.5)

    before = time.time()
    turns = [reserve_turn(60) for _ in range(3)]

    assert turns[0] >= before
    assert turns[2] - turns[0] > 0.1999


@pytest.fixture
def database_cache(settings, db):
    """A cache in the database as Django makes one: above 300 keys it culls others."""
    settings.CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.db.DatabaseCache",
            "LOCATION": "cache_of_the_test",
            "OPTIONS": {"MAX_ENTRIES": 300},
        }
    }
    call_command("createcachetable")


def test_turns_drive_no_cooldown_out_of_a_database_cache(database_cache, settings):
    settings.GARMIN_AUTH_CHECK_RATE = 5
    cooldown.start(cooldown.site_scope("garmin.com"), 3600)

    for _ in range(400):
        reserve_turn(3600)

    assert cooldown.seconds_left(cooldown.site_scope("garmin.com")) > 3500


@needs_redis
@pytest.mark.django_db(transaction=True)
def test_two_processes_never_have_the_same_turn(start_python, redis_site):
    environment = redis_site(f"GARMIN_AUTH_CHECK_RATE = {RATE}")
    started = math.ceil(time.time() * RATE)

    first, second = start_all(start_python, [RESERVE, RESERVE], **environment)

    turns = [*first.split(), *second.split()]
    assert len(turns) == len(set(turns)) == 200
    assert min(map(int, turns)) >= started


# The system check


def said(settings, backend, rate=5):
    settings.CACHES = {"default": {"BACKEND": f"django.core.cache.backends.{backend}"}}
    settings.GARMIN_AUTH_CHECK_RATE = rate
    messages = checks.run_checks(tags=["garmin_auth"])
    return [message.msg for message in messages if message.id == "garmin_auth.W008"]


@pytest.mark.parametrize(
    "backend", ["locmem.LocMemCache", "dummy.DummyCache", "filebased.FileBasedCache"]
)
def test_a_cache_that_cannot_hold_the_rate_is_a_warning(settings, backend):
    (message,) = said(settings, backend)

    assert message.startswith("The cache 'default' cannot enforce")


@pytest.mark.parametrize(
    "backend", ["redis.RedisCache", "memcached.PyMemcacheCache", "db.DatabaseCache"]
)
def test_a_cache_that_can_hold_the_rate_is_silent(settings, backend):
    assert said(settings, backend) == []


def test_without_a_rate_any_cache_will_do(settings):
    assert said(settings, "locmem.LocMemCache", rate=None) == []


def test_a_bad_rate_is_said_once(settings):
    assert said(settings, "locmem.LocMemCache", rate="5/s") == []
