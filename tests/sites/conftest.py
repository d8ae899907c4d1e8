"""Sites that are served by processes of their own."""

import re
from uuid import uuid4

import pytest
from django.db import connection

ADDRESS = re.compile(r"https?://127\.0\.0\.1:\d+")


@pytest.fixture
def serve(start_python):
    """Start a server, wait until it listens, and return its URL; it ends before the test does."""
    servers = []

    def serve(*arguments, **environment):
        server = start_python(*arguments, **environment)
        servers.append(server)
        said = ""
        for line in server.stderr:
            said += line
            if found := ADDRESS.search(line):
                return found[0]
        raise AssertionError(said)

    yield serve
    for server in servers:
        server.terminate()
        server.communicate(timeout=30)


@pytest.fixture
def new_database(db, tmp_path):
    """A database without a table, for a site whose tables are not those of ``tests.settings``."""
    if connection.vendor == "sqlite":
        yield str(tmp_path / "site.sqlite3")
        return
    name = f"garmin_auth_site_{uuid4().hex}"
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    yield name
    force = "WITH (FORCE)" if connection.vendor == "postgresql" else ""
    with connection.cursor() as cursor:
        cursor.execute(f"DROP DATABASE {name} {force}")


def tokens_in(session):
    """Return what a stored session holds that nobody may see, in the clear.

    Args:
        session: the Ciphertext of a column.
    """
    return re.findall(r"[\w.-]{20,}", session.decrypt())
