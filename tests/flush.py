"""What makes the database clean after a test with transactions cost a tenth.

Django empties all tables, and then works out all content types and permissions anew: 25 ms of each
such test. Here they are put back as they were. To truncate ten empty tables, PostgreSQL makes new
files; to delete from them costs it next to nothing.
"""

from django.apps import apps
from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.management import create_contenttypes
from django.contrib.contenttypes.models import ContentType
from django.db import connections
from django.db.models.signals import post_migrate

KEPT = (ContentType, Permission)


def make_cheap(alias):
    """Change how this database is made clean, from now on.

    Args:
        alias: of a database with all its tables, and nothing in them but what migrations leave.
    """
    kept = [(model, list(model.objects.using(alias))) for model in KEPT]
    known = {config.label for config in apps.get_app_configs()}

    def put_back(app_config, using, **kwargs):
        if using != alias or app_config.label not in known:
            create_contenttypes(app_config, using=using, **kwargs)
            create_permissions(app_config, using=using, **kwargs)
        elif app_config.label == Permission._meta.app_label:
            ContentType.objects.clear_cache()
            for model, rows in kept:
                model.objects.using(using).bulk_create(rows, ignore_conflicts=True)

    post_migrate.disconnect(create_contenttypes)
    post_migrate.disconnect(dispatch_uid="django.contrib.auth.management.create_permissions")
    post_migrate.connect(put_back, weak=False)

    ops = connections[alias].ops
    if connections[alias].vendor == "postgresql":
        ops.sql_flush = lambda style, tables, **options: [
            f"DELETE FROM {ops.quote_name(table)};" for table in tables
        ]
