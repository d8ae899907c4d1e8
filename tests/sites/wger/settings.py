import os

from tests import services
from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS as APPS

INSTALLED_APPS = [
    *(app for app in APPS if app not in ("django.contrib.admin", "tests")),
    "rest_framework",
    "tests.sites.wger",
]
ROOT_URLCONF = "tests.sites.wger.urls"
REST_FRAMEWORK = {"DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"]}

# One run of the tests finds nothing of another in Redis.
REDIS = services.BROKERS["redis"]
PREFIX = os.environ.get("GARMIN_AUTH_TEST_QUEUE", "garmin_auth_test")
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS,
        "KEY_PREFIX": PREFIX,
    }
}
CELERY_BROKER_URL = CELERY_RESULT_BACKEND = REDIS
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# As in docs/how-to/servers.md.
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "global_keyprefix": f"{PREFIX}:",
    "visibility_timeout": 1800,
    "max_connections": 40,
}
CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS = {"global_keyprefix": f"{PREFIX}:"}
CELERY_TASK_DEFAULT_QUEUE = PREFIX
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
