"""The tests' site with other keys: a JSON list in the environment."""

import json
import os

from tests.settings import *  # noqa: F403

FERNET_KEYS = json.loads(os.environ["GARMIN_AUTH_TEST_FERNET_KEYS"])
