"""One process of the storm: threads that use sessions at random, in transactions that roll back.

Usage: refresh_storm.py THREADS SEED. It ends after standard input has, as soon as a call has worked
and one has been rolled back, and prints how often each thing happened, as JSON.
"""

import json
import random
import sys
import threading
import warnings
from collections import Counter

warnings.simplefilter("ignore", DeprecationWarning)

import django  # noqa: E402

django.setup()

from django.contrib.auth import get_user_model  # noqa: E402
from django.core.cache import cache  # noqa: E402
from django.db import connection, connections, transaction  # noqa: E402

from garmin_auth.exceptions import GarminUnavailable  # noqa: E402
from garmin_auth.sessions import garmin_client  # noqa: E402

PROFILE = "/userprofile-service/socialProfile"
counts, lock, over = Counter(), threading.Lock(), threading.Event()


class RolledBack(Exception):
    pass


def note(what):
    with lock:
        counts[what] += 1


def has_seen_both():
    return counts["worked"] and counts["rolled back"]


def write(chance):
    """Store something of the caller's own. No row of it is anybody else's."""
    get_user_model().objects.create(username=f"caller {chance.getrandbits(64)}")


def use(user, chance):
    """Call the API, half of the time in a transaction, of which half is rolled back."""
    with garmin_client(user) as client:
        if chance.random() < 0.5:
            client.connectapi(PROFILE)
            return
        with transaction.atomic():
            # On SQLite, who has written lets no refresh be stored: seldom, or nothing gets on.
            writes_first = connection.vendor != "sqlite" or chance.random() < 0.05
            if writes_first:
                write(chance)
            client.connectapi(PROFILE)
            if not writes_first:
                write(chance)
            if chance.random() < 0.5:
                raise RolledBack


def work(seed, users):
    chance = random.Random(seed)
    try:
        while not (over.is_set() and has_seen_both()):
            try:
                use(chance.choice(users), chance)
            except RolledBack:
                note("rolled back")
            except GarminUnavailable:
                note("unavailable")
                # A token may be taken away again before it is used. Garmin does not do that, so
                # the app asks for no other within five minutes.
                cache.clear()
            except Exception as exc:  # noqa: BLE001 - it is counted
                note(type(exc).__name__)
            else:
                note("worked")
    finally:
        connections.close_all()


def main():
    if connection.vendor == "sqlite":
        # Django's default. With IMMEDIATE, every transaction of a caller keeps refreshes out.
        connection.settings_dict["OPTIONS"]["transaction_mode"] = "DEFERRED"
    users = list(get_user_model().objects.exclude(garmin_authentication=None))
    connections.close_all()
    threads = [
        threading.Thread(target=work, args=(f"{sys.argv[2]} {n}", users))
        for n in range(int(sys.argv[1]))
    ]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
