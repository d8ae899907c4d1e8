"""The tests' project with an engine whose logins are slow, for processes of their own."""

from tests.settings import *  # noqa: F403

GARMIN_AUTH_ENGINE = "slow"
GARMIN_AUTH_ENGINES = {"slow": "tests.slow_engine.SlowGarthEngine"}
