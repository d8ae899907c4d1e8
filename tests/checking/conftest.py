"""Sites whose Celery has a broker of its own, and workers."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from subprocess import STDOUT
from uuid import uuid4

import pytest

from tests import services
from tests.conftest import ROOT, child_environment

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

    def __init__(self, environment, folder, fork_server):
        self.environment, self.folder, self._fork_server = environment, folder, fork_server
        self.log = folder / "garmin_auth.log"
        self.processes = []

    def start_worker(self, concurrency=2, pool="prefork", prefetch=1, more="", parent=None):
        """Start a worker in a process group of its own; it ends with ``parent``."""
        options = (
            f"--pool {pool} --concurrency {concurrency} --prefetch-multiplier {prefetch} "
            f"--hostname {len(self.processes)}@%h --loglevel INFO "
            f"--without-gossip --without-mingle --without-heartbeat {more}"
        )
        command = f"-m celery -A tests.checking.celery_app worker {options}".split()
        log = self.folder / f"worker{len(self.processes)}.log"
        with log.open("w") as output, open(os.devnull) as nothing:
            if parent is None:
                parent = os.getpid() if pool == "gevent" else self._fork_server.pid
            environment = {**self.environment, "GARMIN_AUTH_TEST_PARENT": str(parent)}
            streams = {"stdin": nothing.fileno(), "stdout": output.fileno(), "stderr": STDOUT}
            if pool == "gevent":  # It has to patch Python before anything else is imported.
                process = subprocess.Popen(
                    [sys.executable, *command],
                    cwd=ROOT,
                    env=environment,
                    start_new_session=True,
                    **streams,
                )
            else:
                process = self._fork_server.start(command, environment, new_session=True, **streams)
        self.processes.append(process)
        self.wait_for(lambda: " ready." in self.said(process) or process.poll() is not None)
        return process

    def stop_worker(self, process):
        """Let a worker finish what it is doing, and end."""
        process.terminate()
        assert process.wait(60) == 0, self.said(process)

    def said(self, process):
        """What a worker has printed."""
        return (self.folder / f"worker{self.processes.index(process)}.log").read_text()

    def enqueue(self):
        """Enqueue all that is due from a shell, and return how many that was."""
        process = self._fork_server.start(
            ["manage.py", "check_garmin_sessions", "--enqueue", "--format", "json"],
            self.environment,
        )
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        return json.loads(output)["enqueued"]

    def deaths(self):
        """The users whose session_expired was announced, once for each time."""
        return re.findall(r"session_expired user=(\S+)", self.log.read_text())

    def wait_for(self, condition, seconds=120):
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
def start_site(garmin, site, tmp_path, fork_server):
    """Return a site whose Celery is on the named broker; it leaves nothing there."""
    started = []

    def start_site(broker, *lines):
        queue, url = f"garmin_auth_test_{uuid4().hex}", services.BROKERS[broker]
        cache = f"CACHES = {{'default': {shared_cache(broker, url, queue, tmp_path)!r}}}"
        log = LOG.format(path=str(tmp_path / "garmin_auth.log"))
        environment = {
            **child_environment(garmin),
            **site("import tests.checking.celery_app", cache, log, *lines),
            "GARMIN_AUTH_TEST_BROKER": url,
            "GARMIN_AUTH_TEST_QUEUE": queue,
        }
        (tmp_path / "garmin_auth.log").touch()
        new = Site(environment, tmp_path, fork_server)
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
