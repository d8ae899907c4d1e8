"""A site with a schema of PostgreSQL for each club, by django-tenants."""

import os

from tests.settings import *  # noqa: F403
from tests.settings import _DATABASES
from tests.settings import INSTALLED_APPS as APPS
from tests.settings import MIDDLEWARE as OTHERS

SHARED_APPS = ["django_tenants", "tests.sites.tenants", "django.contrib.contenttypes"]
TENANT_APPS = [app for app in APPS if app != "tests"]
INSTALLED_APPS = [*SHARED_APPS, *(app for app in TENANT_APPS if app not in SHARED_APPS)]
TENANT_MODEL, TENANT_DOMAIN_MODEL = "tenants.Club", "tenants.Domain"
DATABASES = {
    "default": {
        **_DATABASES["postgresql"],
        "ENGINE": "django_tenants.postgresql_backend",
        "NAME": os.environ.get("GARMIN_AUTH_DATABASE_NAME", "garmin_auth_tenants"),
    }
}
MIDDLEWARE = ["django_tenants.middleware.main.TenantMainMiddleware", *OTHERS]
ALLOWED_HOSTS = [".clubs.example"]
DATABASE_ROUTERS = ["django_tenants.routers.TenantSyncRouter"]
GARMIN_AUTH_ENGINE = "slow"
GARMIN_AUTH_ENGINES = {"slow": "tests.slow_engine.SlowGarthEngine"}
GARMIN_AUTH_THREAD_CONTEXT = "tests.sites.tenants.context.tenant_of_caller"
