"""The admin's list with 100,000 rows, compared with 1,000: the first page, filters, a search.

Both databases exist at the same time, and are queried in turn. Each filter finds a full page of
rows in both. The goal is the same number of queries, and at most 1.5 times the duration. A search
reads all user names, as Django's own list of users does, with which it is compared too. "Show
counts" and the filter for unknown engines have no goal, because they have to read all rows.
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
}
SEARCH = "q=user000500"
READS_ALL = {
    "engine: not known here": "engine=?",
    "first page with counts beside the filters": "_facets=True",
}
NOTES = """
The search misses its goal, by design: an index cannot find "any part of a name or an address", so
the database reads every user (EXPLAIN.md: a scan of `auth_user`), as in Django's own admin. An
earlier version first looked for a user with exactly this name, which uses an index, and showed only
that one. A search for "ana" did not find "anabel". A correct result is more important.

The filters by when a session last worked read every row, and miss their goals too: with an index on
that time, each use would write to all indexes (see fleet).
"""


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

        def compare(what: str, query: str, goal: float | None) -> Figure:
            counts = {get(query, small), get(query, big)}
            rounds = alternate(
                stage.size(9, 1),
                big=lambda: timed(query, big),
                small=lambda: timed(query, small),
            )
            return Figure.of(
                what,
                ratios(rounds["big"], rounds["small"]),
                at_most=goal,
                note=f"{per_item(rounds['big'], 1)} of {per_item(rounds['small'], 1)}; queries: "
                f"{' or '.join(map(str, sorted(counts)))}",
            )

        for what, query in list(PAGES.items())[: stage.size(len(PAGES), 2)]:
            yield compare(what, query, 1.5)
        yield compare("search", SEARCH, 1.5)
        for what, query in list(READS_ALL.items())[: stage.size(len(READS_ALL), 1)]:
            yield compare(what, query, None)
        connections["default"] = big
        rounds = alternate(
            stage.size(9, 1),
            ours=lambda: client.get(f"{url}?{SEARCH}"),
            users=lambda: client.get(f"{reverse('admin:auth_user_changelist')}?{SEARCH}"),
        )
        yield Figure.of(
            "search, of the same search in Django's list of users",
            ratios(rounds["ours"], rounds["users"]),
            at_most=1.5,
            note=f"{per_item(rounds['ours'], 1)} of {per_item(rounds['users'], 1)}",
        )


@contextmanager
def small_copy() -> Iterator:
    """Copy the database, and yield a connection to the copy."""
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
