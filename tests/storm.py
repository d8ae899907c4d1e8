"""Fork many workers that use one user's session at the same moment; each prints what it got.

Usage: storm.py USER_PK WORKERS. Forking makes real processes without 32 imports of an engine.
"""

import os
import sys
import time
import warnings

warnings.simplefilter("ignore", DeprecationWarning)

import django  # noqa: E402

django.setup()

from django.contrib.auth import get_user_model  # noqa: E402
from django.db import connections  # noqa: E402

from garmin_auth.engines import get_engine  # noqa: E402
from garmin_auth.exceptions import GarminAuthError  # noqa: E402
from garmin_auth.sessions import garmin_client  # noqa: E402


def work(user, start):
    time.sleep(max(0, start - time.time()))
    try:
        with garmin_client(user) as client:
            result = client.connectapi("/userprofile-service/socialProfile")["userName"]
    except GarminAuthError as exc:
        result = type(exc).__name__
    os.write(1, f"{result}\n".encode())


def main():
    user = get_user_model().objects.get(pk=sys.argv[1])
    get_engine(user.garmin_authentication.engine)  # Import it once, for all.
    connections.close_all()
    start = time.time() + 0.5
    children = []
    for _ in range(int(sys.argv[2])):
        child = os.fork()
        if child == 0:
            work(user, start)
            connections.close_all()
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
