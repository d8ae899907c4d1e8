"""What GARMIN_AUTH_THREAD_CONTEXT names on a site with django-tenants (docs/how-to/tenants.md)."""

from django.db import connection
from django_tenants.utils import tenant_context


def tenant_of_caller():
    """Return a context manager that gives another thread the tenant of this one."""
    context = tenant_context(connection.tenant)
    context.key = connection.schema_name
    return context
