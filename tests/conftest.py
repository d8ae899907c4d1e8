import contextlib
import fcntl
import gc
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import zlib
from collections import defaultdict
from pathlib import Path
from uuid import uuid4

import pytest
from django.core.cache import cache
from django.db import connection
from django.utils import timezone

from garmin_auth.limits import cooldown
from garmin_auth.models import GarminAuthenticationState
from garmin_auth.testing.garmin import steps
from tests import services
from tests import settings as test_settings
from tests.flush import make_cheap
from tests.fork_server import FEW_COLLECTIONS, ForkServer
from tests.waiting import wait_for_logins

ROOT = Path(__file__).resolve().parent.parent
EMAIL, PASSWORD = "ana@example.com", "correct horse battery staple"
# In each process that a test starts, coverage would cost as much as Django's start.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
# As on SQLite, no commit waits for the disk; in the benchmarks they do.
os.environ.setdefault("PGOPTIONS", "-c synchronous_commit=off")
# What no library reads, and what the fork server heeds in the interpreter's place.
OUR_VARIABLES = (
    *("DJANGO_SETTINGS_MODULE", "GARMIN_", "MYSQL_", "PG"),
    *("PYTHONIOENCODING", "PYTHONPATH", "PYTHONUNBUFFERED"),
)

# For what only the engine garminconnect can do; python -m tests says that it was left out.
needs_garminconnect = pytest.mark.skipif(
    bool(services.why_not_garminconnect()), reason="garminconnect is not installed"
)

# The same for the engine personal.
needs_personal = pytest.mark.skipif(
    bool(services.why_not_personal()), reason="garmin-connect-personal-api-python is not installed"
)

# Both built-in engines with passwords, to be the parameters of a test or a fixture; and how each
# built-in engine asks Garmin for a fresh access token.
BUILT_IN = ["garth", pytest.param("garminconnect", marks=needs_garminconnect)]
REFRESH = {"garth": "exchange", "garminconnect": "di_refresh", "personal": "personal_token"}

# The modules that take long, the longest test first.
DEAR = (
    *("schemathesis", "wheel", "demo", "journey", "state_machine", "tutorial", "typing"),
    *("celery_workers", "celery_pools", "benchmarks", "docs", "instruments", "gevent"),
    *("secrets_hunt", "browser", "killed", "storms", "rotation_under_load", "rotate_command"),
    *("engine_move", "garminconnect_sessions", "saved_passwords", "check_command"),
)

# For what only Redis can do.
needs_redis = pytest.mark.skipif(
    bool(services.why_not_broker("redis")), reason="Redis does not answer"
)


def pytest_configure(config):
    """Where nothing may be left out, skipping half of the tests is no success."""
    gc.set_threshold(*FEW_COLLECTIONS)
    for engine, reason in (
        ("garminconnect", services.why_not_garminconnect()),
        ("personal", services.why_not_personal()),
    ):
        if reason and services.required() and not services.garminconnect_may_be_left_out():
            raise pytest.UsageError(f"{engine}: {reason}; GARMIN_AUTH_REQUIRE_SERVICES=1.")
    for broker in services.BROKERS if services.required() else ():
        if reason := services.why_not_broker(broker):
            raise pytest.UsageError(f"{broker}: {reason}; GARMIN_AUTH_REQUIRE_SERVICES=1.")


def pytest_collection_modifyitems(config, items):
    """Begin what is dear first, on all workers, and leave what is cheap for the end.

    On PostgreSQL and MariaDB run what depends on the database; the rest has run on SQLite.
    """
    if test_settings.DATABASE != "sqlite":
        keep = [item for item in items if item.get_closest_marker("every_database")]
        config.hook.pytest_deselected(
            items=[item for item in items if not item.get_closest_marker("every_database")]
        )
        items[:] = keep
    if hasattr(config, "workerinput"):
        items[:] = in_shares(items, config.workerinput["workercount"])


def in_shares(items, workers):
    """Order tests so that each worker begins with its share of the dear modules.

    pytest-xdist gives each worker as many tests as the others, in this order; who is done first
    takes from the end of what another has.
    """
    places = {f"test_{name}": place for place, name in enumerate(DEAR)}
    modules, cheap = defaultdict(list), []
    for item in items:
        place = places.get(item.path.stem)
        (cheap if place is None else modules[place]).append(item)
    ordered = []
    for worker in range(workers):
        share = (len(items) - len(ordered)) // (workers - worker)
        dear = [item for place in sorted(modules)[worker::workers] for item in modules[place]]
        rest = max(0, share - len(dear))
        ordered += [*dear, *cheap[:rest]]
        del cheap[:rest]
    return [*ordered, *cheap]


def pytest_collection_finish():
    """Look at what is there by now, thousands of tests, in no garbage collection again."""
    gc.freeze()


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock():
        make_cheap("default")


@pytest.fixture(autouse=True)
def no_pauses():
    """Pauses and counts of logins live in the cache; each test begins without."""
    cache.clear()
    cooldown.nothing_seen.clear()


@pytest.fixture
def many_connections():
    """For a test that opens dozens: one at a time has them, of the 100 that PostgreSQL has."""
    if connection.vendor == "sqlite":
        yield
        return
    with open(f"{tempfile.gettempdir()}/garmin_auth_many_connections", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def user(db, django_user_model):
    return django_user_model.objects.create_user("ana", "ana@site.example", "site password")


@pytest.fixture
def other_user(db, django_user_model):
    return django_user_model.objects.create_user("ben", "ben@site.example", "site password")


@pytest.fixture
def account(garmin):
    """A Garmin account without MFA."""
    garmin.add_account(EMAIL, PASSWORD)
    return EMAIL


@pytest.fixture
def mfa_account(garmin):
    """A Garmin account that asks for a code."""
    garmin.add_account(EMAIL, PASSWORD, mfa=True)
    return EMAIL


@pytest.fixture
def connect(garmin):
    """Store a session of a Garmin account for a user, without a login."""

    def connect(user, email=EMAIL, engine="garth", domain="garmin.com", **options):
        with contextlib.suppress(ValueError):  # The test may have opened it already.
            garmin.add_account(email, PASSWORD, domain=domain)
        data = garmin.issue_session(email, engine=engine, domain=domain, **options)
        GarminAuthenticationState.objects.connect(
            user.pk,
            engine=engine,
            domain=domain,
            session_data=data,
            account_name=email,
            validated_at=None,
        )
        return state_of(user)

    return connect


@pytest.fixture
def cached(settings, tmp_path):
    """Return what the cache holds, as text: it is one of files here, so that it can be read."""
    backend = "django.core.cache.backends.filebased.FileBasedCache"
    settings.CACHES = {"default": {"BACKEND": backend, "LOCATION": str(tmp_path / "cache")}}

    def texts():
        found = []
        for file in (tmp_path / "cache").glob("*.djcache"):
            with file.open("rb") as content:
                pickle.load(content)  # When it expires.
                found.append(zlib.decompress(content.read()).decode("latin-1"))
        assert found
        return found

    return texts


@pytest.fixture
def people(django_user_model, garmin):
    """Connect so many new users, each with the account <username>@example.com, and return them."""

    def people(number, **options):
        names = [f"user{n:04}" for n in range(number)]
        users = django_user_model.objects.bulk_create(
            django_user_model(username=name) for name in names
        )
        rows = []
        for user in users:
            email = f"{user.username}@example.com"
            garmin.add_account(email, PASSWORD)
            rows.append(
                GarminAuthenticationState(
                    user=user,
                    engine="garth",
                    session_data=garmin.issue_session(email, **options),
                    account_name=email,
                    connected_at=timezone.now(),
                    ended_reason="",
                )
            )
        GarminAuthenticationState.objects.bulk_create(rows, batch_size=100)
        return users

    return people


@pytest.fixture
def slow_logins(transactional_db, garmin, settings):
    """Logins take long, and go on outside of requests; they end before the test does."""
    settings.GARMIN_AUTH_ENGINE = "slow"
    settings.GARMIN_AUTH_ENGINES = {
        "slow": "tests.slow_engine.SlowGarthEngine",
        "broken": "tests.slow_engine.BrokenSlowEngine",
    }
    yield
    wait_for_logins()


class Held:
    """Answers that Garmin has, and has not sent yet."""

    def __init__(self):
        self._processed, self._go = threading.Event(), threading.Event()

    def wait(self):
        """Wait until Garmin has processed a request."""
        assert self._processed.wait(120), "Garmin was not asked."

    def release(self):
        """Let this answer go, and all others."""
        self._go.set()

    def keep(self):
        self._processed.set()
        self._go.wait(120)


@pytest.fixture
def hold(garmin, monkeypatch):
    """Make Garmin keep its answers to a step back until the test lets them go."""
    held, answer = {}, steps.answer

    def answer_late(step, *arguments):
        given = answer(step, *arguments)
        if step in held:
            held[step].keep()
        return given

    monkeypatch.setattr(steps, "answer", answer_late)
    yield lambda step: held.setdefault(step, Held())
    for one in held.values():
        one.release()


@pytest.fixture
def gate(slow_logins, monkeypatch):
    """What logins wait for before they ask Garmin."""
    from tests.slow_engine import SlowGarthEngine  # It imports garth.

    gate = threading.Event()
    monkeypatch.setattr(SlowGarthEngine, "gate", gate)
    yield gate
    gate.set()
    wait_for_logins()


@pytest.fixture(scope="session")
def fork_server():
    """What makes Python processes that have imported the slow libraries already."""
    server = ForkServer()
    yield server
    server.stop()


@pytest.fixture
def start_python(request, garmin, db):
    """Start a Python process on the test's database and simulator; it is killed at the end.

    It has imported garth already, unless it is to be a ``new_interpreter``, or is given variables
    that a library may read at its import. ``streams`` are the fork server's.
    """
    processes = []

    def start(*arguments, new_interpreter=False, streams=None, **variables):
        environment = {**child_environment(garmin), **variables}
        if new_interpreter or not all(name.startswith(OUR_VARIABLES) for name in variables):
            process = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        else:
            server = request.getfixturevalue("fork_server")
            process = server.start(arguments, environment, **(streams or {}))
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def run_python(start_python):
    """Run Python code in a process of its own, and return what it printed."""

    def run(code, *arguments, **options):
        code = f"import django; django.setup()\n{code}"
        process = start_python("-c", code, *arguments, **options)
        output, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors
        return output.strip()

    return run


@pytest.fixture
def site(tmp_path):
    """Return the environment of a site with further lines in its settings."""

    def site(*lines):
        text = "\n".join(["from tests.settings import *", *lines])
        (tmp_path / "site_settings.py").write_text(text)
        return {"DJANGO_SETTINGS_MODULE": "site_settings", "PYTHONPATH": str(tmp_path)}

    return site


@pytest.fixture
def redis_site(site):
    """The same for a site whose processes share a cache in Redis, which is emptied at the end."""
    import redis

    url, prefix = services.BROKERS["redis"], f"garmin_auth_test_{uuid4().hex}"
    cache = {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": url,
        "KEY_PREFIX": prefix,
    }
    yield lambda *lines: site(f"CACHES = {{'default': {cache!r}}}", *lines)
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter(match=f"{prefix}:*"):
            client.delete(key)


def start_all(start_python, codes, **environment):
    """Run pieces of Python code at the same time, each in a process, and return their outputs."""
    processes = [
        start_python("-c", f"import django; django.setup()\n{code}", **environment)
        for code in codes
    ]
    outputs = []
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        outputs.append(output)
    return outputs


def child_environment(garmin):
    return {
        **os.environ,
        **garmin.environment,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "GARMIN_AUTH_TEST_DATABASE": test_settings.DATABASE,
        "GARMIN_AUTH_DATABASE_NAME": str(connection.settings_dict["NAME"]),
    }


def state_of(user):
    return GarminAuthenticationState.objects.filter(user_id=user.pk).first()


def raw_row(user):
    """The user's row as the database holds it, with nothing decrypted."""
    table = GarminAuthenticationState._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {table} WHERE user_id = %s", [user.pk])
        names = [column[0] for column in cursor.description]
        return dict(zip(names, cursor.fetchone(), strict=True))
