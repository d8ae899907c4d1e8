"""A site with REST framework, for processes of their own; the environment says who the user is."""

import os

from tests.api.live_settings import *  # noqa: F403
from tests.api.live_settings import GARMIN_AUTH_ENGINE as ENGINES
from tests.settings import INSTALLED_APPS as APPS

INSTALLED_APPS = [*APPS, "rest_framework", "rest_framework.authtoken"]
GARMIN_AUTH_ENGINE = [*ENGINES, "slow"]
GARMIN_AUTH_ENGINES = {"slow": "tests.slow_engine.SlowGarthEngine"}
GARMIN_AUTH_API_AUTHENTICATION = "garmin_auth.api.authentication.session"
SIMPLE_JWT = {"SIGNING_KEY": "a key for tests that is long enough for HMAC-SHA256"}
CLASSES = {
    "token": "rest_framework.authentication.TokenAuthentication",
    "jwt": "rest_framework_simplejwt.authentication.JWTAuthentication",
}
if name := os.environ.get("GARMIN_TEST_API"):
    GARMIN_AUTH_API_AUTHENTICATION = "garmin_auth.api.authentication.rest_framework"
    REST_FRAMEWORK = {"DEFAULT_AUTHENTICATION_CLASSES": [CLASSES[name]]}
