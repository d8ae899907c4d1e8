import os

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES, MIDDLEWARE
from tests.settings import INSTALLED_APPS as APPS

INSTALLED_APPS = [
    "tests.sites.cookiecutter.users",
    *(app for app in APPS if app != "tests"),
]
ROOT_URLCONF = "tests.sites.cookiecutter.urls"
ADMIN_URL = "bYrJ5xqMgS/"
AUTH_USER_MODEL = "users.User"
DATABASES["default"] |= {"ATOMIC_REQUESTS": True, "CONN_MAX_AGE": 60}

SECURITY, *others = MIDDLEWARE
MIDDLEWARE = [SECURITY, "whitenoise.middleware.WhiteNoiseMiddleware", *others]
STATIC_URL = "/static/"
STATIC_ROOT = os.environ["GARMIN_AUTH_TEST_STATIC_ROOT"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}

# What production.py and base.py of cookiecutter-django say.
SECURE_SSL_REDIRECT = True
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = "__Secure-sessionid", "__Secure-csrftoken"
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
X_FRAME_OPTIONS = "DENY"
