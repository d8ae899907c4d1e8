"""The tests' project as ``make demo`` serves it: with the admin's styles, and error pages."""

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS, TEMPLATES

DEBUG = True
INSTALLED_APPS = [*INSTALLED_APPS, "django.contrib.staticfiles"]
TEMPLATES[0]["OPTIONS"]["debug"] = True
# The demo is one web process; the memory of one process is shared enough.
SILENCED_SYSTEM_CHECKS = ["garmin_auth.W003"]
