"""Celery workers on Redis and on RabbitMQ: killed in mid-run, several at a time, at one rate."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from uuid import uuid4

import pytest

from garmin_auth.models import GarminAuthenticationState

from . import services
from .conftest import ROOT, child_environment, needs_redis

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

LOG = """
LOGGING = {{
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {{"line": {{"format": "%(message)s"}}}},
    "handlers": {{"file": {{
        "class": "logging.FileHandler", "filename": {path!r}, "formatter": "line"
    }}}},
    "loggers": {{"garmin_auth": {{"handlers": ["file"], "level": "INFO"}}}},
}}
"""


class Site:
    """A site on a broker of its own, with worker processes."""

    def __init__(self, environment, folder):
        self.environment, self.folder = environment, folder
        self.log = folder / "garmin_auth.log"
        self.processes = []

    def start_worker(self, concurrency=2):
        """Start a worker in a process group of its own."""
        output = open(self.folder / f"worker{len(self.processes)}.log", "w")  # noqa: SIM115
        options = (
            f"--concurrency {concurrency} --loglevel INFO --hostname {len(self.processes)}@%h "
            "--without-gossip --without-mingle --without-heartbeat"
        )
        process = subprocess.Popen(
            [sys.executable, *f"-m celery -A tests.celery_app worker {options}".split()],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        output.close()
        self.processes.append(process)
        self.wait_for(lambda: " ready." in self.said(process) or process.poll() is not None)
        return process

    def said(self, process):
        """What a worker has printed."""
        return (self.folder / f"worker{self.processes.index(process)}.log").read_text()

    def enqueue(self):
        """Enqueue all that is due from a shell, and return how many that was."""
        process = subprocess.run(
            [
                *(sys.executable, "manage.py", "check_garmin_sessions"),
                *("--enqueue", "--format", "json"),
            ],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        return json.loads(process.stdout)["enqueued"]

    def deaths(self):
        """The users whose session_expired was announced, once for each time."""
        return re.findall(r"session_expired user=(\S+)", self.log.read_text())

    def wait_for(self, condition, seconds=40):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.said(self.processes[-1])
            time.sleep(0.05)

    def kill(self, process):
        """Kill a worker with all of its children, as a machine that fails does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    @staticmethod
    def a_child_of(process):
        """The process id of one of a worker's children."""
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as children:
            return int(children.read().split()[-1])


@pytest.fixture
def start_site(garmin, site, tmp_path, request):
    """Return a site whose Celery is on the named broker; it leaves nothing there."""
    started = []

    def start_site(broker, *lines):
        queue, url = f"garmin_auth_test_{uuid4().hex}", services.BROKERS[broker]
        cache = f"CACHES = {{'default': {shared_cache(broker, url, queue, tmp_path)!r}}}"
        log = LOG.format(path=str(tmp_path / "garmin_auth.log"))
        environment = {
            **child_environment(garmin),
            **site("import tests.celery_app", cache, log, *lines),
            "GARMIN_AUTH_TEST_BROKER": url,
            "GARMIN_AUTH_TEST_QUEUE": queue,
            "GARMIN_AUTH_TEST_PARENT": str(os.getpid()),
        }
        (tmp_path / "garmin_auth.log").touch()
        new = Site(environment, tmp_path)
        started.append((new, url, queue))
        return new

    yield start_site
    for old, url, queue in started:
        for process in old.processes:
            old.kill(process)
        forget(url, queue)


def shared_cache(broker, url, prefix, folder):
    if broker == "redis":
        backend = "django.core.cache.backends.redis.RedisCache"
        return {"BACKEND": backend, "LOCATION": url, "KEY_PREFIX": prefix}
    backend = "django.core.cache.backends.filebased.FileBasedCache"
    return {"BACKEND": backend, "LOCATION": str(folder / "cache")}


def forget(url, queue):
    """Remove what a run has left at the broker."""
    from kombu import Connection

    if url.startswith("redis"):
        import redis

        with redis.Redis.from_url(url) as client:
            for key in client.scan_iter(match=f"{queue}:*"):
                client.delete(key)
        return
    with Connection(url) as broker:
        broker.default_channel.queue_delete(queue)
        broker.default_channel.exchange_delete(queue)


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
    site.wait_for(lambda: all_checked() and connected() == alive, 90)

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
    site.wait_for(lambda: all_checked() and connected() == alive, 90)

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
    site.environment["GARMIN_AUTH_TEST_PARENT"] = "1"  # Which is not the parent any more.

    assert site.start_worker().wait(10) == -signal.SIGKILL
