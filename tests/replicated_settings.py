"""A site with a primary, a replica that lags behind for ever, and a default that is neither."""

import os

from tests.settings import *  # noqa: F403

_FOLDER = os.environ["DATABASE_FOLDER"]
DATABASES = {
    alias: {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": f"{_FOLDER}/{alias}.sqlite3",
        "ATOMIC_REQUESTS": True,
    }
    for alias in ("default", "primary", "replica")
}
DATABASE_ROUTERS = ["tests.replicated_settings.Router"]


class Router:
    def db_for_read(self, model, **hints):
        return "replica"

    def db_for_write(self, model, **hints):
        return "primary"

    def allow_relation(self, *objects, **hints):
        return True
