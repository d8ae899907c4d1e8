"""What the benchmarks use: a simulated Garmin in its own process, and a database with sessions.

``python -m benchmarks.stage NAME DATABASE [--quick]`` runs one benchmark on one database, and
prints the result as one line of JSON.
"""

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from garmin_auth.testing import RemoteGarminSimulator

ROOT = Path(__file__).resolve().parent.parent
PATH = "/userprofile-service/socialProfile"
PASSWORD = "correct horse"

SIMULATOR = """
import sys
from garmin_auth.testing import GarminSimulator
with GarminSimulator() as garmin:
    print(garmin.control_url, flush=True)
    sys.stdin.read()
"""


class Stage:
    """What a benchmark gets.

    Args:
        garmin: the simulator.
        database: ``"sqlite"`` or ``"postgresql"``.
        quick: whether to use tiny numbers, only to see that the benchmark runs.
    """

    def __init__(self, garmin: RemoteGarminSimulator, database: str, quick: bool) -> None:
        self.garmin, self.database, self.quick = garmin, database, quick

    def size(self, number: int, quick: int) -> int:
        return quick if self.quick else number

    def connect(self, number: int) -> list[tuple[Any, str]]:
        """Store this many sessions of different Garmin accounts. Return users and sessions."""
        from django.contrib.auth.models import User

        from garmin_auth.models import GarminAuthenticationState as State

        have = User.objects.count()
        users = [User(username=f"user {have + n}") for n in range(number)]
        users = User.objects.bulk_create(users, batch_size=1000)
        sessions = []
        for user in users:
            email = f"{user.pk}@garmin.example"
            self.garmin.add_account(email, PASSWORD)
            sessions.append((user, self.garmin.issue_session(email)))
        for user, data in sessions:
            State.objects.connect(
                user.pk, engine="garth", session_data=data, account_name=None, validated_at=None
            )
        return sessions

    def fill(self, number: int) -> None:
        """Add typical rows, up to this number. Their sessions are not used."""
        from django.contrib.auth.models import User
        from django.db import connection
        from django.utils import timezone

        from garmin_auth.models import GarminAuthenticationState as State

        now, have = timezone.now(), User.objects.count()
        self.garmin.add_account(f"{have}@garmin.example", PASSWORD)
        data = self.garmin.issue_session(f"{have}@garmin.example")
        for start in range(have, number, 5000):
            users = User.objects.bulk_create(
                User(
                    username=f"user{n:06}",
                    first_name=f"First{n % 997}",
                    last_name=f"Last{n % 1009}",
                    email=f"user{n:06}@site.example",
                )
                for n in range(start, min(start + 5000, number))
            )
            State.objects.bulk_create(
                self._row(State, user.pk, n, data, now) for n, user in enumerate(users, start)
            )
        # In a random order, as in a real table, and then as autovacuum would leave it.
        rows = State.objects.all()
        for rest in range(7):
            changed = now - timedelta(minutes=rest)
            rows.filter(pk__in=rows.filter(user__username__endswith=rest).values("pk")).update(
                updated_at=changed
            )
        if self.database == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("VACUUM ANALYZE")

    def multiply(self, times: int, **changed: str) -> None:
        """Copy each user and row this many times, in the database. Much faster than ``fill``.

        Args:
            times: how many copies to make of each.
            changed: what stands in the copies' columns instead, as SQL.
        """
        from django.contrib.auth.models import User
        from django.core.management.color import no_style
        from django.db import connection

        from garmin_auth.models import GarminAuthenticationState as State

        quote = connection.ops.quote_name
        last = User.objects.order_by("pk").last().pk
        joined = "CONCAT({}, '-', k)" if connection.vendor == "mysql" else "{} || '-' || k"
        user = {field.column: quote(field.column) for field in User._meta.local_fields}
        user |= {"id": f"id + k * {last}", "username": joined.format("username")}
        row = {
            field.column: quote(field.column)
            for field in State._meta.local_fields
            if not field.generated and not field.primary_key
        }
        row |= {"user_id": f"user_id + k * {last}"} | changed
        first_rows = State.objects.order_by("pk").last().pk
        with connection.cursor() as cursor:
            for start in range(1, times + 1, 10):
                ks = range(start, min(start + 10, times + 1))
                numbers = " UNION ALL ".join(f"SELECT {k} AS k" for k in ks)
                for model, columns, upto in ((User, user, last), (State, row, first_rows)):
                    table = quote(model._meta.db_table)
                    cursor.execute(
                        f"INSERT INTO {table} ({', '.join(map(quote, columns))}) "
                        f"SELECT {', '.join(columns.values())} "
                        f"FROM {table} CROSS JOIN ({numbers}) numbers WHERE id <= {upto}"
                    )
            for statement in connection.ops.sequence_reset_sql(no_style(), [User, State]):
                cursor.execute(statement)
        self.settle()

    def settle(self) -> None:
        """Leave the tables as the database's own upkeep would, with fresh statistics."""
        from django.db import connection

        from garmin_auth.models import GarminAuthenticationState as State

        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute("VACUUM ANALYZE")
            elif connection.vendor == "mysql":
                cursor.execute(f"ANALYZE TABLE {State._meta.db_table}, auth_user")
            else:
                cursor.execute("ANALYZE")

    @staticmethod
    def _row(model: Any, user_id: Any, n: int, data: str, now: Any) -> Any:
        """Among 1,000 rows, each kind fills a page of the admin's list."""
        state = model(user_id=user_id, engine="garth" if n % 10 < 7 else "garminconnect")
        kind = n % 100
        if kind < 70:  # Connected; of these 12 not yet used, and 12 not lately.
            state.session_data = data
            state.connected_at = now - timedelta(days=n % 300)
            used = timedelta(days=8 + n % 90) if kind < 12 else timedelta(minutes=n % 600)
            state.last_validated = now - used if kind < 58 else None
            state.last_checked_at = state.last_validated
            state.ended_reason = ""
            if state.engine == "garth":
                state.session_ends_at = now + timedelta(days=365 - n % 300)
        elif kind < 74:
            state.ended_reason = "never"
        elif kind < 88:
            state.ended_reason = "expired"
            state.last_validated = now - timedelta(days=8 + n % 90)
        else:
            state.mfa_pending, state.mfa_challenge = True, "{}"
            state.mfa_started_at = now - timedelta(seconds=n % 500)
        return state


def alternate(
    rounds: int, clock: Callable[[], float] = time.perf_counter, **works: Callable[[], Any]
) -> dict[str, list[float]]:
    """Time these in turn, in this many rounds, and return the seconds of each by its name.

    Each runs once before, to warm up. Every other round runs in reverse order.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for number in range(rounds):
        for name, work in list(works.items())[:: -1 if number % 2 else 1]:
            began = clock()
            work()
            seconds[name].append(clock() - began)
    return seconds


def ratios(ours: list[float], theirs: list[float]) -> list[float]:
    """Return the ratio of each round."""
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def per_item(seconds: list[float], number: int) -> str:
    return f"{statistics.median(seconds) / number * 1000:.2f} ms"


@contextmanager
def simulator() -> Iterator[RemoteGarminSimulator]:
    """Run a simulator in its own process."""
    process = subprocess.Popen(
        [sys.executable, "-c", SIMULATOR],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield RemoteGarminSimulator(process.stdout.readline().strip())
    finally:
        process.stdin.close()
        process.wait(30)


@contextmanager
def authorities(garmin: RemoteGarminSimulator) -> Iterator[str]:
    """Yield a bundle of certifi's authorities and the simulator's, as many as real sites trust.

    Reading them is most of the cost of a new TLS connection.
    """
    import certifi

    with tempfile.NamedTemporaryFile("w", suffix=".pem") as bundle:
        for path in (certifi.where(), garmin.ca_bundle):
            bundle.write(Path(path).read_text() + "\n")
        bundle.flush()
        yield bundle.name


@contextmanager
def database() -> Iterator[None]:
    """Create a database with Django's test runner, under its own name, and drop it at the end."""
    from django.db import connection
    from django.test.runner import DiscoverRunner

    name = f"garmin_auth_benchmark_{os.getpid()}"
    path = "" if connection.vendor != "sqlite" else "/tmp/"
    connection.settings_dict["TEST"]["NAME"] = path + name + (".sqlite3" if path else "")
    runner = DiscoverRunner(interactive=False, verbosity=0)
    old = runner.setup_databases()
    # Child processes find it with this.
    os.environ["GARMIN_AUTH_DATABASE_NAME"] = str(connection.settings_dict["NAME"])
    try:
        yield
    finally:
        runner.teardown_databases(old)


def main() -> None:
    name, on, *options = sys.argv[1:]
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    os.environ["GARMIN_AUTH_TEST_DATABASE"] = on
    # From garth itself.
    warnings.filterwarnings("ignore", "Garth is deprecated", DeprecationWarning)
    with simulator() as garmin, authorities(garmin) as bundle:
        # Our settings read the first; the libraries read the second.
        os.environ.update({**garmin.environment, **garmin.library_environment})
        os.environ["GARMIN_SIMULATOR_CA_BUNDLE"] = os.environ["REQUESTS_CA_BUNDLE"] = bundle
        import django

        django.setup()
        with database():
            stage = Stage(garmin, on, "--quick" in options)
            figures: list[Figure] = list(
                importlib.import_module(f"benchmarks.{name}").measure(stage)
            )
    print(json.dumps([asdict(figure) for figure in figures]))


if __name__ == "__main__":
    main()
