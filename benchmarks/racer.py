"""One side of the race: a process that forks callers, who all want one user's session at once.

Usage: ``python -P benchmarks/racer.py NAME``. ``-P``, because this folder's modules have names that
libraries have too. An order is a line of JSON, its method and arguments, and so is the answer.
Forking makes real processes without an import of the libraries for each.
"""

import json
import logging
import os
import signal
import sys
import time
import warnings
from pathlib import Path

warnings.simplefilter("ignore", DeprecationWarning)

FOLDER = Path.home() / "tokens"  # The home is a folder of the race's own.
PATIENCE = 120  # seconds, after which a caller has failed


class ThisApp:
    def __init__(self):
        import django

        from tests import settings

        # As the README says: a cache that all processes share.
        settings.CACHES = {
            "default": {
                "BACKEND": "django.core.cache.backends.db.DatabaseCache",
                "LOCATION": "django_cache",
            }
        }
        django.setup()
        from django.core.management import call_command

        from garmin_auth.engines import get_engine

        call_command("createcachetable")
        get_engine("garminconnect")  # Import it once, for all.

    def store(self, name, session):
        from django.contrib.auth.models import User
        from django.db import connections

        from garmin_auth.models import GarminAuthenticationState

        GarminAuthenticationState.objects.connect(
            User.objects.create(username=name).pk,
            engine="garminconnect",
            session_data=session,
            account_name=None,
            validated_at=None,
        )
        connections.close_all()  # Not to be shared with the callers.

    def use(self, name):
        from django.contrib.auth.models import User

        from garmin_auth.sessions import garmin_client

        with garmin_client(User.objects.get(username=name)) as client:
            client.connectapi("/userprofile-service/socialProfile")


class GarminConnectFile:
    """As in the README of python-garminconnect; ``login`` itself asks for the profile."""

    def __init__(self):
        import garminconnect  # noqa: F401

    def store(self, name, session):
        (FOLDER / name).mkdir(parents=True)
        (FOLDER / name / "garmin_tokens.json").write_text(session)

    def use(self, name):
        from garminconnect import Garmin

        Garmin().login(str(FOLDER / name))


class GarminAuthFile(GarminConnectFile):
    """As in the README of garmin-auth."""

    def __init__(self):
        import garmin_auth  # Not this app, but the package garmin-auth, whose name it shares.

        assert hasattr(garmin_auth, "GarminAuth"), garmin_auth.__file__

    def use(self, name):
        from garmin_auth import GarminAuth

        GarminAuth(token_dir=FOLDER / name).login()


class GarminAuthDatabase(GarminAuthFile):
    """As in the README of garmin-auth. It describes the table, but does not create it."""

    TABLE = """
        CREATE TABLE platform_credentials (
            platform text PRIMARY KEY, auth_type text, credentials jsonb, status text,
            connected_at timestamptz
        )
    """

    def __init__(self):
        super().__init__()
        import psycopg2

        connection = psycopg2.connect(os.environ["RACE_DATABASE_URL"])
        with connection, connection.cursor() as cursor:
            cursor.execute(self.TABLE)
        connection.close()

    @staticmethod
    def tokens(name):
        from garmin_auth.storage import DBTokenStore

        return DBTokenStore(os.environ["RACE_DATABASE_URL"], platform=name)

    def store(self, name, session):
        self.tokens(name).save(session)

    def use(self, name):
        from garmin_auth import GarminAuth

        GarminAuth(store=self.tokens(name)).login()


class GarthFolder:
    """As in the documentation of garth, and saved afterwards, since others need the new token."""

    def __init__(self):
        import garth  # noqa: F401

    def store(self, name, session):
        import garth

        client = garth.Client()
        client.loads(session)
        client.dump(str(FOLDER / name))

    def use(self, name):
        import garth

        garth.resume(str(FOLDER / name))
        assert garth.client.username
        garth.save(str(FOLDER / name))


class RedisLock:
    """As a site would write it: the tokens in Redis, under a lock of redis-py with its defaults."""

    def __init__(self):
        import garminconnect  # noqa: F401
        import redis  # noqa: F401

    @staticmethod
    def redis():
        from redis import Redis

        return Redis.from_url(os.environ["RACE_REDIS_URL"], decode_responses=True)

    @staticmethod
    def key(name):
        return f"{os.environ['RACE_NAME']}:{name}"

    def store(self, name, session):
        self.redis().set(self.key(name), session, ex=600)

    def use(self, name):
        from garminconnect import Garmin

        redis, key = self.redis(), self.key(name)
        with redis.lock(f"{key}:lock", timeout=float(os.environ["RACE_TTL"])):
            garmin = Garmin()
            garmin.login(redis.get(key))
            redis.set(key, garmin.client.dumps(), ex=600)


class Callers:
    """What is ordered.

    Args:
        side: one of the classes above, how the session is kept and used.
    """

    def __init__(self, side):
        self.side, self.reading = side, {}

    def store(self, name, session):
        self.side.store(name, session)

    def start(self, name, number):
        """Fork this many callers and let them go together. Return their process ids."""
        gate, opener = os.pipe()
        pids = [self._fork(name, gate, opener) for _ in range(number)]
        os.close(gate)
        os.close(opener)
        return pids

    def _fork(self, name, gate, opener):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(opener)
            os.close(reading)
            self._call(name, gate, writing)
        os.close(writing)
        self.reading[pid] = reading
        return pid

    def _call(self, name, gate, writing):
        """Be a caller, and never return."""
        signal.alarm(PATIENCE)
        os.read(gate, 1)  # Until the opener's last copy is closed.
        began, error = time.monotonic(), ""
        try:
            self.side.use(name)
        except BaseException as exc:  # noqa: BLE001 - it is counted
            error = type(exc).__name__
        answer = {"error": error, "seconds": time.monotonic() - began}
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)

    def wait(self, pids):
        """Return each caller's ``error`` and ``seconds``; None for one that was killed."""
        answers = []
        for pid in pids:
            with os.fdopen(self.reading.pop(pid)) as rest:
                answer = rest.read()
            os.waitpid(pid, 0)
            answers.append(json.loads(answer) if answer else None)
        return answers


SIDES = {
    side.__name__: side
    for side in (
        *(ThisApp, GarminConnectFile, GarminAuthFile, GarminAuthDatabase, GarthFolder, RedisLock),
    )
}


def main():
    logging.disable()  # What goes wrong is counted.
    callers = Callers(SIDES[sys.argv[1]]())
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        order, *arguments = json.loads(line)
        print(json.dumps(getattr(callers, order)(*arguments)), flush=True)


if __name__ == "__main__":
    main()
