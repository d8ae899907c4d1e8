"""What waits for its turn, and for how long."""

from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore
from types import SimpleNamespace

import pytest
from django.core.cache import cache

from garmin_auth.exceptions import GarminUnavailable
from garmin_auth.limits import turns
from garmin_auth.limits.turns import turn

ANA, BEN = SimpleNamespace(pk=1), SimpleNamespace(pk=2)
SOON, LONG = 0.05, 60


@pytest.fixture(autouse=True)
def short_pause(monkeypatch):
    monkeypatch.setattr(turns, "PAUSE", 0.001)


def test_only_the_same_users_request_of_the_same_kind_is_waited_for():
    with turn("login", ANA, LONG):
        with turn("login", BEN, SOON), turn("code", ANA, SOON):
            pass
        with pytest.raises(GarminUnavailable), turn("login", ANA, SOON):
            pass


def test_whoever_has_waited_is_told_each_mark_once(monkeypatch):
    looked = Semaphore(0)
    # What each who waits does between two looks.
    monkeypatch.setattr(turns, "release_pooled_connections", looked.release)

    def wait():
        with turn("login", ANA, LONG) as marks:
            return marks

    with ThreadPoolExecutor(1) as pool, turn("login", ANA, LONG, "mine") as marks:
        waiting = pool.submit(wait)
        assert all(looked.acquire(timeout=LONG) for _ in range(3))
    assert (marks, waiting.result()) == ([], ["mine"])


def test_a_turn_that_nobody_gives_back_ends_and_its_holder_takes_no_other_one():
    late = turn("login", ANA, SOON)
    late.__enter__()
    with turn("login", ANA, LONG):
        late.__exit__(None, None, None)
        with pytest.raises(GarminUnavailable), turn("login", ANA, SOON):
            pass


def test_a_turn_that_the_cache_has_lost_ends_all_the_same():
    with turn("login", ANA, LONG):
        cache.clear()
