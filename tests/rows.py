"""Rows as tests need them: stored without a login, and damaged."""

from django.db import connection

from garmin_auth.models import GarminAuthenticationState

# What no key opens.
DAMAGED = b"x"


def store(user, **changes):
    """Store a session that no engine could use, and tell whether it was stored."""
    values = {
        "engine": "garth",
        "session_data": "session",
        "account_name": "ana@example.com",
        "validated_at": None,
        **changes,
    }
    return GarminAuthenticationState.objects.connect(user.pk, **values)


def damage(user, *columns):
    """Overwrite columns of the user's row, the session where none is named."""
    table = GarminAuthenticationState._meta.db_table
    with connection.cursor() as cursor:
        for column in columns or ("session_data",):
            cursor.execute(
                f"UPDATE {table} SET {column} = %s WHERE user_id = %s", [DAMAGED, user.pk]
            )
