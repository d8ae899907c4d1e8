"""Which indexes the checks, the purge and the admin's list use: plans for 1,000,000 rows.

EXPLAIN.md shows ``EXPLAIN (ANALYZE)`` of the statements that the code really sends. An index that
no plan uses should be removed.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.admin_list import PAGES, READS_ALL, SEARCH
from benchmarks.figures import Figure
from benchmarks.stage import Stage

DATABASES = ("postgresql",)
FILE = Path(__file__).with_name("EXPLAIN.md")
HEAD = """# Plans

Written by `make bench`: `EXPLAIN (ANALYZE)` on PostgreSQL of the code's statements on a table with
{rows:,} rows (58 of 100 connected and used, 12 connected, 18 disconnected, 12 waiting for a code),
after VACUUM ANALYZE. Django's own queries of sessions, users and permissions are left out.

"""


def measure(stage: Stage) -> Iterator[Figure]:
    from django.db import connection, transaction

    stage.fill(stage.size(10_000, 150))
    times = stage.size(99, 1)
    stage.multiply(times)
    rows = stage.size(10_000, 150) * (times + 1)
    table, used, slowest = "garmin_auth_garminauthenticationstate", Counter[str](), ("", 0.0)
    text = HEAD.format(rows=rows)
    for title, work in works().items():
        plans = []
        with transaction.atomic():
            with connection.execute_wrapper(explaining(table, plans)):
                work()
            transaction.set_rollback(True)
        text += f"## {title}\n\n"
        for statement, plan in plans:
            used.update(set(re.findall(r"(?:using|Index Scan on) (\w+)", plan)))
            took = float(re.search(r"Execution Time: ([\d.]+)", plan)[1])  # type: ignore[index]
            slowest = max(slowest, (title, took), key=lambda pair: pair[1])
            text += f"{statement}\n\n```\n{plan}\n```\n\n"
    with connection.cursor() as cursor:
        constraints = connection.introspection.get_constraints(cursor, table)
    indexes = {name for name, what in constraints.items() if what["index"] or what["unique"]}
    text += "## Which index is used how often\n\n"
    text += "".join(f"- `{name}`: {used[name]} of these plans\n" for name in sorted(indexes))
    if not stage.quick:
        FILE.write_text(text)
    yield Figure(
        "indexes that no plan uses",
        len(indexes - set(used)),
        unit="",
        at_most=None if stage.quick else 0,
        note=", ".join(sorted(indexes - set(used))),
    )
    yield Figure("the slowest of all queries", slowest[1], unit="ms", note=slowest[0])


def explaining(table: str, plans: list[tuple[str, str]]) -> Callable[..., Any]:
    """Return a wrapper that explains every statement on the table before it runs."""

    def explain(execute, sql, params, many, context):
        if table in sql and sql.startswith(("SELECT", "UPDATE")):
            connection = context["connection"]
            with connection.connection.cursor() as cursor:
                cursor.execute("SAVEPOINT explain")
                cursor.execute(f"EXPLAIN (ANALYZE, COSTS OFF, BUFFERS OFF) {sql}", params)
                plan = "\n".join(line for (line,) in cursor.fetchall())
                cursor.execute("ROLLBACK TO SAVEPOINT explain")
            plans.append((in_short(sql.replace(f'"{table}".', "")), shortened(plan)))
        return execute(sql, params, many, context)

    return explain


def in_short(sql: str) -> str:
    """Return the statement without its columns, which do not matter for the plan."""
    what = re.sub(r'^SELECT (?!COUNT).*? FROM "', 'SELECT … FROM "', sql)
    what = re.sub(r" SET .*? WHERE ", " SET … WHERE ", what)
    return f"`{re.sub(r'(%s, )+', '…, ', what)}`"


def shortened(plan: str) -> str:
    return "\n".join(f"{line[:197]}…" if len(line) > 200 else line for line in plan.splitlines())


def works() -> dict[str, Callable[[], Any]]:
    """Return the actions to explain, by title."""
    from django.contrib.auth.models import User
    from django.test import Client
    from django.urls import reverse

    from garmin_auth.checking.claims import CheckRun, due_sessions
    from garmin_auth.health import purge_challenges
    from garmin_auth.models import GarminAuthenticationState as State

    states = State.objects
    client = Client()
    client.force_login(User.objects.create_superuser("staff"))
    url = reverse("admin:garmin_auth_garminauthenticationstate_changelist")

    def run(due: Any) -> None:
        """Claim two batches: one from the start, and one from where the first ended."""
        batches = CheckRun(due, batch=64, seconds=60).batches()
        next(batches)
        next(batches)

    return {
        "What is due, claimed by a run: two batches": lambda: run(due_sessions()),
        "The same with --max-age 3h": lambda: run(due_sessions(timedelta(hours=3))),
        "The run that began first": states.oldest_run,
        "Purge of challenges and logins": purge_challenges,
        "Outages: engines of which none works": states.outages,
        "Outages: how many of an engine fail": lambda: states.count_failed("garth", "garmin.com"),
        "Evidence: who was refused": states.refused_users,
        "Evidence: an accepted exchange": lambda: states.accept_exchange("garth", "garmin.com"),
        **{
            f"Admin, {what}": lambda query=query: client.get(f"{url}?{query}")
            for what, query in {
                **PAGES,
                "action required: has been failing": "act=failing",
                "search": SEARCH,
                **READS_ALL,
            }.items()
        },
    }
