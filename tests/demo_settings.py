"""The tests' project as ``make demo`` serves it: with the admin's styles, and error pages."""

from tests.settings import *  # noqa: F403
from tests.settings import TEMPLATES

DEBUG = True
ROOT_URLCONF = "tests.demo_urls"
TEMPLATES[0]["OPTIONS"]["debug"] = True
# The demo is one web process; the memory of one process is shared enough.
SILENCED_SYSTEM_CHECKS = ["garmin_auth.W003"]
