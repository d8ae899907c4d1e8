"""Use random users' sessions until told to stop: ``rotation_worker.py STOP_FILE``.

Prints the number of calls that went well, then each error.
"""

import random
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore", DeprecationWarning)

import django  # noqa: E402

django.setup()

from django.contrib.auth import get_user_model  # noqa: E402

from garmin_auth.exceptions import GarminAuthError  # noqa: E402
from garmin_auth.sessions import garmin_client  # noqa: E402


def main():
    users = list(get_user_model().objects.all())
    stop, good, errors = Path(sys.argv[1]), 0, []
    while not stop.exists():
        user = random.choice(users)
        try:
            with garmin_client(user) as client:
                if client.username != user.email:
                    errors.append(f"{user.email} got another's profile")
            good += 1
        except GarminAuthError as exc:
            errors.append(f"{type(exc).__name__}: {exc}")
    print(good, *errors, sep="\n")


if __name__ == "__main__":
    main()
