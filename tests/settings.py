"""The project that the tests and the demo run on. Deliberately little: what a site must have."""

import os
import tempfile
import zlib
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = "only-for-tests-and-the-demo"
DEBUG = os.environ.get("DJANGO_DEBUG") == "1"
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "testserver"]
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "static/"

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.admin",
    "garmin_auth",
    "tests",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
ROOT_URLCONF = "tests.urls"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
LOGIN_URL = "/accounts/login/"
# Fast, for tests and the demo only.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

FERNET_KEYS = ["a-key-for-tests-and-the-demo"]

DATABASE = os.environ.get("GARMIN_AUTH_TEST_DATABASE", "sqlite")
# Of this folder: tests of another clone on the same server have databases of their own.
TEST_NAME = f"test_garmin_auth_{zlib.crc32(bytes(BASE_DIR)):x}"
_DATABASES = {
    "sqlite": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(BASE_DIR / "demo.sqlite3"),
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            # Nothing here must survive the machine, only its processes.
            "init_command": "PRAGMA synchronous=OFF",
        },
        # A file, for the tests' other processes open it too.
        "TEST": {"NAME": f"{tempfile.gettempdir()}/garmin_auth_test_{os.getpid()}.sqlite3"},
    },
    "postgresql": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "garmin_auth",
        "USER": os.environ.get("PGUSER", "postgres"),
        "HOST": os.environ.get("PGHOST", "127.0.0.1"),
        "PORT": os.environ.get("PGPORT", "5432"),
        "TEST": {"NAME": TEST_NAME},
    },
    "mariadb": {
        "ENGINE": "django.db.backends.mysql",
        "NAME": "garmin_auth",
        "USER": os.environ.get("MYSQL_USER", "root"),
        "PASSWORD": os.environ.get("MYSQL_PWD", ""),
        "HOST": os.environ.get("MYSQL_HOST", "127.0.0.1"),
        "PORT": os.environ.get("MYSQL_PORT", "3306"),
        "OPTIONS": {"charset": "utf8mb4"},
        "TEST": {"NAME": TEST_NAME},
    },
}
DATABASES = {"default": _DATABASES[DATABASE]}
# A child process of a test is told which database its parent made.
if name := os.environ.get("GARMIN_AUTH_DATABASE_NAME"):
    DATABASES["default"]["NAME"] = name

# The consumer key that a test gives its other processes.
if consumer_key := os.environ.get("GARMIN_TEST_CONSUMER_KEY"):
    GARMIN_AUTH_OAUTH_CONSUMER = {"consumer_key": consumer_key, "consumer_secret": "secret"}

if engine := os.environ.get("GARMIN_AUTH_TEST_ENGINE"):
    GARMIN_AUTH_ENGINE = engine

# Other processes of a test or of the demo are told of the simulator in their environment.
if proxy := os.environ.get("GARMIN_SIMULATOR_PROXY"):
    GARMIN_AUTH_PROXIES = {"https": proxy}
    GARMIN_AUTH_CA_BUNDLE = os.environ["GARMIN_SIMULATOR_CA_BUNDLE"]
