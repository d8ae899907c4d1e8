"""Fork many workers that use one user's session at the same moment; each prints what it got.

Usage: storm.py USER_PK WORKERS [THREADS SECONDS]. Forking makes real processes without 32 imports
of an engine. Each thread of a worker tries once, and for so many seconds again until it has worked;
it prints each result.
"""

import os
import sys
import threading
import time
import warnings

warnings.simplefilter("ignore", DeprecationWarning)

import django  # noqa: E402

django.setup()

from django.contrib.auth import get_user_model  # noqa: E402
from django.db import OperationalError, connections  # noqa: E402

from garmin_auth.engines import get_engine  # noqa: E402
from garmin_auth.exceptions import GarminAuthError  # noqa: E402
from garmin_auth.sessions import garmin_client  # noqa: E402

PATHS = {"personal": "/userprofile-service/userprofile/settings"}


def use(user):
    """Call the API; return whose answer it is, or the name of what was raised."""
    path = PATHS.get(user.garmin_authentication.engine, "/userprofile-service/socialProfile")
    try:
        with garmin_client(user) as client:
            answer = client.connectapi(path)
        return answer.get("userName") or answer["displayName"]
    except (GarminAuthError, OperationalError) as exc:
        return type(exc).__name__


def try_until_it_works(user, start, seconds):
    time.sleep(max(0, start - time.time()))
    while True:
        result = use(user)
        os.write(1, f"{result}\n".encode())
        connections.close_all()
        if "@" in result or time.time() >= start + seconds:
            break
        time.sleep(0.1)  # The database may have no connection left for this thread.


def work(user, start, threads, seconds):
    running = [
        threading.Thread(target=try_until_it_works, args=(user, start, seconds))
        for _ in range(threads)
    ]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def main():
    user = get_user_model().objects.get(pk=sys.argv[1])
    threads, seconds = map(int, sys.argv[3:5] or (1, 0))
    get_engine(user.garmin_authentication.engine)  # Import it once, for all.
    connections.close_all()
    start = time.time() + 0.5
    children = []
    for _ in range(int(sys.argv[2])):
        child = os.fork()
        if child == 0:
            work(user, start, threads, seconds)
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
