"""The tests' project with what ``check --deploy`` wants of a site."""

from tests.settings import *  # noqa: F403
from tests.settings import MIDDLEWARE

SECRET_KEY = "k3y-f0r-the-deploy-check-0nly:long-enough-and-w1th-many-d1fferent-letters"
DEBUG = False
SECURE_HSTS_SECONDS = 31_536_000
SECURE_HSTS_INCLUDE_SUBDOMAINS = True
SECURE_HSTS_PRELOAD = True
SECURE_SSL_REDIRECT = True
SESSION_COOKIE_SECURE = True
CSRF_COOKIE_SECURE = True
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": "redis://127.0.0.1:6379",
    }
}
MIDDLEWARE = [*MIDDLEWARE, "django.middleware.clickjacking.XFrameOptionsMiddleware"]
FERNET_KEYS = ["Zk3vQ8yTn1LxW5rJd7HbPfUc0MgEaSoI9K2wXtB4"]
