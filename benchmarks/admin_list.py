"""The admin's list of 100,000 states against that of 1,000: the first page, filters, a search.

Both databases are there at the same time, and asked in turn. Each filter finds a full page of rows
in either. Constant queries, and at most 1.5 times as long. Where no goal is named, every row (or
user) is read, and only when staff ask for that: by "Show counts", by a search for something else
than a whole user name, or for engines that are not known.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.figures import Figure
from benchmarks.stage import Stage, alternate, per_item, ratios

DATABASES = ("postgresql", "sqlite")
PAGES = {
    "first page": "",
    "page 2": "p=2",
    "status: connected": "status__exact=active",
    "status: waiting for a code": "status__exact=mfa_pending",
    "engine: garminconnect": "engine=garminconnect",
    "engine: garth": "engine=garth",
    "validated: in the last 24 hours": "validated=day",
    "validated: more than 7 days ago": "validated=older",
    "validated: never": "validated=never",
    "ends by: later": "ends=later",
    "ends by: not known": "ends=unknown",
    "search for a user name": "q=user000500",
}
READS_ALL = {
    "engine: not known here": "engine=?",
    "search for a part of names": "q=r000500",
    "first page with counts beside the filters": "_facets=True",
}


def measure(stage: Stage) -> Iterator[Figure]:
    from django.contrib.auth.models import User
    from django.db import connection, connections
    from django.test import Client
    from django.test.utils import CaptureQueriesContext
    from django.urls import reverse

    staff = User.objects.create_superuser("staff")
    client = Client()
    client.force_login(staff)
    url = reverse("admin:garmin_auth_garminauthenticationstate_changelist")
    stage.fill(stage.size(1000, 150))
    with small_copy() as small:
        stage.fill(stage.size(100_000, 400))
        big = connections["default"]

        def get(query: str, on) -> int:
            connections["default"] = on
            with CaptureQueriesContext(connection) as queries:
                response = client.get(f"{url}?{query}")
            assert response.status_code == 200, f"{query}: {response.status_code}"
            return len(queries)

        def timed(query: str, on) -> None:
            connections["default"] = on
            client.get(f"{url}?{query}")

        for what, query in {**PAGES, **READS_ALL}.items():
            counts = {get(query, small), get(query, big)}
            goal = None if query in READS_ALL.values() else 1.5
            rounds = alternate(
                stage.size(9, 1),
                big=lambda query=query: timed(query, big),
                small=lambda query=query: timed(query, small),
            )
            yield Figure.of(
                what,
                ratios(rounds["big"], rounds["small"]),
                at_most=goal,
                note=f"{per_item(rounds['big'], 1)} of {per_item(rounds['small'], 1)}; queries: "
                f"{' or '.join(map(str, sorted(counts)))}",
            )
        connections["default"] = big


@contextmanager
def small_copy() -> Iterator:
    """Copy the database as it is now, and yield a connection to the copy."""
    from django.db import connection, connections

    creation = connection.creation
    creation.clone_test_db(suffix="small", verbosity=0)
    copy = connections.create_connection("default")
    copy.settings_dict = creation.get_test_db_clone_settings("small")
    big = connections["default"]
    try:
        yield copy
    finally:
        copy.close()
        connections["default"] = big
        creation.destroy_test_db(suffix="small", verbosity=0)
