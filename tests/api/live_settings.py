"""The tests' site with the API, for servers of their own. A token is the user's name."""

from garmin_auth.engines import what_is_missing
from tests.settings import *  # noqa: F403

ROOT_URLCONF = "tests.demo_urls"
GARMIN_AUTH_API_AUTHENTICATION = "tests.api.authentication.bearer"
# Without the one that is not installed here.
GARMIN_AUTH_ENGINE = ["garth", *(["personal"] if not what_is_missing("personal") else [])]
GARMIN_AUTH_DOMAIN = ["garmin.com", "garmin.cn"]
