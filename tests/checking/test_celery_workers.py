"""Celery workers on Redis and on RabbitMQ: killed in mid-run, several at a time, at one rate."""

import os
import re
import signal
import time
from collections import Counter

import pytest

from garmin_auth.models import GarminAuthenticationState
from tests import services
from tests.conftest import needs_redis

pytestmark = pytest.mark.django_db(transaction=True)
states = GarminAuthenticationState.objects
ON_EACH_BROKER = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            bool(services.why_not_broker(name)), reason=f"{name}: {services.why_not_broker(name)}"
        ),
    )
    for name in services.BROKERS
]


@pytest.fixture
def dying(people, garmin):
    """So many users with an expired access token, every eighth of whom Garmin has ended.

    Between two of those Garmin accepts others, so that it is no mass failure.
    """

    def dying(number):
        users = people(number, access_expired=True)
        dead = users[4::8]
        for user in dead:
            garmin.revoke(f"{user.username}@example.com")
        return users, dead

    return dying


def all_checked():
    # A worker writes meanwhile: no connection of this process may hold it up.
    return not states.filter(last_checked_at=None).exists()


def connected():
    """The primary keys of the users with a session."""
    return set(states.with_session().values_list("user", flat=True))


@pytest.mark.parametrize("broker", ON_EACH_BROKER)
def test_a_worker_killed_in_mid_run_loses_no_message_and_no_session_dies_twice(
    broker, start_site, dying, garmin
):
    users, dead = dying(40)
    site = start_site(broker)
    site.environment["GARMIN_AUTH_TEST_VISIBILITY"] = "5"
    first = site.start_worker()
    garmin.latency = 0.1
    assert site.enqueue() == 40
    site.wait_for(lambda: garmin.counts["api"] >= 10)

    site.kill(first)
    done = states.exclude(last_checked_at=None).count()
    assert 0 < done < 40
    site.start_worker()
    alive = {user.pk for user in users if user not in dead}
    # A refusal after a refresh that a kill has cut off is no proof yet: that one is asked again.
    site.wait_for(lambda: all_checked() and connected() == alive)

    deaths = Counter(site.deaths())
    assert set(deaths.values()) == {1}
    assert set(deaths) <= {str(user.pk) for user in dead}
    # One that died in the very moment of the kill may not have been announced.
    assert len(deaths) >= len(dead) - 2
    assert states.claimed_checks() == 0


@pytest.mark.parametrize("broker", ON_EACH_BROKER)
def test_a_child_that_is_killed_loses_no_message(broker, start_site, dying, garmin):
    users, dead = dying(24)
    site = start_site(broker)
    site.environment["GARMIN_AUTH_TEST_VISIBILITY"] = "5"
    worker = site.start_worker()
    garmin.latency = 0.1
    site.enqueue()
    site.wait_for(lambda: garmin.counts["api"] >= 6)

    os.kill(site.a_child_of(worker), signal.SIGKILL)
    alive = {user.pk for user in users if user not in dead}
    site.wait_for(lambda: all_checked() and connected() == alive)

    assert max(Counter(site.deaths()).values()) == 1


@needs_redis
def test_every_message_twice_checks_every_session_once(start_site, people, garmin):
    people(20)
    site = start_site("redis")
    site.enqueue()
    states.update(check_run="", check_expires_at=None)
    assert site.enqueue() == 20

    # One child: two deliveries of the same at the same moment may both ask.
    site.start_worker(concurrency=1)
    site.wait_for(lambda: len(re.findall(r"succeeded in", site.said(site.processes[0]))) == 40)

    assert garmin.counts["api"] == 20
    assert site.said(site.processes[0]).count("'outcome': 'skipped'") == 20


@needs_redis
def test_the_rate_holds_over_two_workers(start_site, people, garmin):
    people(31)
    site = start_site("redis", "GARMIN_AUTH_CHECK_RATE = 10")
    site.start_worker()
    site.start_worker()
    began = time.monotonic()
    site.enqueue()
    site.wait_for(all_checked)

    assert time.monotonic() - began >= 3
    assert garmin.counts["api"] == 31
    shares = [site.said(process).count("'outcome': 'active'") for process in site.processes]
    assert min(shares) > 0


@needs_redis
def test_a_time_limit_below_the_wait_for_a_turn_loses_no_check(start_site, people, garmin):
    people(3)
    site = start_site("redis", "GARMIN_AUTH_CHECK_RATE = 1 / 7")
    worker = site.start_worker(more="--soft-time-limit 6")
    began = time.monotonic()

    site.enqueue()
    site.wait_for(all_checked)

    assert time.monotonic() - began >= 14
    assert garmin.counts["api"] == 3
    assert "SoftTimeLimitExceeded" not in site.said(worker)


@needs_redis
def test_a_pause_that_one_worker_meets_is_kept_by_the_other(start_site, people, garmin):
    people(10)
    site = start_site("redis")
    garmin.fail("api", "rate_limited", retry_after=100, times=None)
    first, second = site.start_worker(concurrency=1), site.start_worker(concurrency=1)

    site.enqueue()
    site.wait_for(
        lambda: all(" retry: " in site.said(one) for one in (first, second)),
    )

    # At most one call of each worker was under way when Garmin said so.
    assert garmin.counts["api"] <= 2


@needs_redis
def test_a_worker_ends_with_the_process_that_started_it(start_site):
    site = start_site("redis")

    assert site.start_worker(parent=1).wait(60) == -signal.SIGKILL  # Not its parent any more.
