"""The rate that all workers keep together."""

import math
import time
from itertools import pairwise

import pytest
from django.core import checks
from django.core.cache import cache

from garmin_auth.rates import reserve_turn

from .conftest import needs_redis, start_all

RATE = 50
RESERVE = f"""
from garmin_auth.rates import reserve_turn
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
    before = time.time()

    turns = [reserve_turn(5) for _ in range(10)]

    got = [turn for turn in turns if turn is not None]
    assert turns[-1] is None
    assert 4 <= len(got) <= 6
    assert max(got) <= time.time() + 5
    assert min(got) >= before


def test_a_turn_that_nobody_took_is_lost(settings):
    settings.GARMIN_AUTH_CHECK_RATE = 10
    reserve_turn(60)
    time.sleep(0.5)

    before = time.time()
    turns = [reserve_turn(60) for _ in range(3)]

    assert turns[0] >= before
    assert turns[2] - turns[0] == pytest.approx(0.2, abs=0.01)


def test_a_cache_that_forgets_costs_no_turn_of_others(settings):
    """The note of the next turn is a short cut only: the turns themselves are what counts."""
    settings.GARMIN_AUTH_CHECK_RATE = 1
    taken = [reserve_turn(60) for _ in range(3)]
    cache.delete("garmin_auth:turn:1")

    assert reserve_turn(60) == taken[-1] + 1


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

    assert message.startswith("The workers cannot keep GARMIN_AUTH_CHECK_RATE together")


@pytest.mark.parametrize(
    "backend", ["redis.RedisCache", "memcached.PyMemcacheCache", "db.DatabaseCache"]
)
def test_a_cache_that_can_hold_the_rate_is_silent(settings, backend):
    assert said(settings, backend) == []


def test_without_a_rate_any_cache_will_do(settings):
    assert said(settings, "locmem.LocMemCache", rate=None) == []


def test_a_bad_rate_is_said_once(settings):
    assert said(settings, "locmem.LocMemCache", rate="5/s") == []
