"""1,000,000 rows on PostgreSQL: what uses, checks, the rotation of keys and the admin cost there.

The rows are as in EXPLAIN.md. Uses are real: ``garmin_client``, one call to the simulated Garmin
and the end of the block, by 16 processes. A connection is used four times in a row, as by a worker
that fetches four things. WAL is what PostgreSQL writes to its log; HOT is an update that writes to
no index, which needs room in the row's page: a table that was loaded in one go has none, so the
uses are measured as loaded, and again with ``fillfactor`` 85 (docs/how-to/fleet.md); then with an
index on what each use changes. WAL is counted for the whole server, which must have no other work.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice
from typing import Any

from benchmarks.admin_list import PAGES, READS_ALL
from benchmarks.figures import Figure
from benchmarks.stage import ROOT, Stage

DATABASES = ("postgresql",)
NOTES = """
A search, the filters by age and the counts beside the filters read every row or user.
"""
PROCESSES = 16
TABLE = "garmin_auth_garminauthenticationstate"

# Uses the sessions of the users whose primary keys stand on stdin, and prints its statements.
USES = """
import sys, warnings
warnings.filterwarnings("ignore", "Garth is deprecated", DeprecationWarning)
import django; django.setup()
from django.contrib.auth.models import User
from django.db import connection
from benchmarks.stage import PATH
from garmin_auth.sessions import garmin_client
times, statements = int(sys.argv[1]), 0
def count(execute, sql, params, many, context):
    global statements
    statements += 1
    return execute(sql, params, many, context)
for pk in sys.stdin.read().split():
    user = User(pk=int(pk))
    with connection.execute_wrapper(count):
        for _ in range(times):
            with garmin_client(user) as client:
                client.connectapi(PATH)
print(statements)
"""

# Rotates the keys, and prints rows, seconds, and its memory in MB after a tenth and at its peak.
ROTATION = """
import os, django; django.setup()
from django.conf import settings
from cryptography.fernet import Fernet
settings.FERNET_KEYS = [Fernet.generate_key().decode(), *settings.FERNET_KEYS]
from garmin_auth.rotation import rotate_keys
def peak():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0]) / 1024
early = []
def progress(step, done, total):
    if not early and done >= total / 10:
        early.append(peak())
report = rotate_keys(on_progress=progress)
assert report.rotated == report.current == report.rows, report
print(report.rows, report.duration_s, early[0], peak())
"""


def why_not() -> str:
    return "" if shutil.which("pg_dump") else "pg_dump is not installed"


def measure(stage: Stage) -> Iterator[Figure]:
    rows, times = stage.size(10_000, 200), stage.size(99, 1)
    stage.fill(rows)
    stage.multiply(times)
    total = rows * (times + 1)
    yield Figure("rows", total, unit="")
    yield from sizes(total)
    yield from claims()
    yield from uses(stage, stage.size(20_000, 32), "of a table as loaded")
    execute(f"ALTER TABLE {TABLE} SET (fillfactor = 85)")
    execute(f"VACUUM FULL {TABLE}")
    stage.settle()
    yield from uses(stage, stage.size(200_000, 32), "with fillfactor 85")
    execute(f"CREATE INDEX validated ON {TABLE} (last_validated)")
    yield from uses(stage, stage.size(20_000, 32), "with an index on last_validated")
    execute("DROP INDEX validated")
    began = time.perf_counter()
    execute(f"VACUUM {TABLE}")
    yield Figure("VACUUM after them", time.perf_counter() - began, unit="s")
    yield from admin(stage)
    yield from rotation()


def sizes(total: int) -> Iterator[Figure]:
    from django.db import connection

    (heap,) = execute(f"SELECT pg_table_size('{TABLE}')")
    (indexes,) = execute(f"SELECT pg_indexes_size('{TABLE}')")
    yield Figure("the table", heap / 2**20, unit="MB", note=f"{heap / total:,.0f} bytes a row")
    yield Figure("its indexes", indexes / 2**20, unit="MB", note=f"{indexes / total:,.0f} a row")
    options = connection.settings_dict
    command = ["pg_dump", "-h", options["HOST"], "-U", options["USER"], "-t", TABLE]
    began, size = time.perf_counter(), 0
    with subprocess.Popen(
        [*command, "-p", str(options["PORT"] or 5432), "--format=custom", str(options["NAME"])],
        stdout=subprocess.PIPE,
        env={**os.environ, "PGPASSWORD": options["PASSWORD"] or ""},
    ) as dump:
        assert dump.stdout is not None
        while part := dump.stdout.read(1 << 20):
            size += len(part)
    assert dump.returncode == 0
    yield Figure(
        "pg_dump --format=custom",
        size / 2**20,
        unit="MB",
        note=f"{time.perf_counter() - began:.0f} s; copies compress as no real rows do",
    )


def claims() -> Iterator[Figure]:
    from garmin_auth.checking.claims import CheckRun, due_sessions

    run = CheckRun(due_sessions(timedelta(hours=3)), batch=64, seconds=600)
    seconds, began = [], time.perf_counter()
    for _ in islice(run.batches(), 500):
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
    run.release()
    for what, at in (("median", 50), ("99 of 100 are faster", 99)):
        slowest = sorted(seconds)[len(seconds) * at // 100]
        yield Figure(f"claim of a batch of 64, {what}", slowest * 1000, unit="ms")


def uses(stage: Stage, number: int, how: str) -> Iterator[Figure]:
    """Use so many sessions in 16 processes, and tell what it cost the database."""
    from django.utils import timezone

    from garmin_auth.models import GarminAuthenticationState as State

    # That a session works is written once a minute, so those of the last uses would not be written.
    minute_ago = timezone.now() - timedelta(minutes=1)
    idle = State.objects.filter(engine="garth", connected_at__isnull=False)
    idle = idle.exclude(last_validated__gt=minute_ago).values_list("user_id", flat=True)
    pks = [str(pk) for pk in idle.order_by("?")[: number // 4]]
    number = len(pks) * 4
    execute("CHECKPOINT")
    before, began = written(), time.perf_counter()
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", USES, "4"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(stage.size(PROCESSES, 1))
    ]
    for position, worker in enumerate(workers):
        assert worker.stdin is not None
        worker.stdin.write(" ".join(pks[position :: len(workers)]))
        worker.stdin.close()
    statements = sum(int(worker.stdout.read()) for worker in workers if worker.stdout)
    assert not any(worker.wait() for worker in workers)
    seconds = time.perf_counter() - began
    after = written()
    updates, hot, wal = (now - then for now, then in zip(after, before, strict=True))
    title = f"{number:,} uses by {len(workers)} processes, {how}:"
    yield Figure(f"{title} statements a use", statements / number, unit="")
    yield Figure(
        f"{title} updates a use", updates / number, unit="", note=f"{number / seconds:.0f} uses/s"
    )
    yield Figure(f"{title} WAL a use", wal / number, unit="B", note="with full-page images")
    yield Figure(
        f"{title} HOT updates", 100 * hot / updates, unit="%", note=f"{hot:,} of {updates:,}"
    )


def written() -> tuple[int, int, int]:
    """Return PostgreSQL's counts of the table's updates and HOT updates, and the bytes of WAL."""
    # A backend hands in its counts when it ends, and keeps what it has read of them.
    execute("SELECT pg_stat_clear_snapshot()")
    updates, hot = execute(
        f"SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = '{TABLE}'"
    )
    (wal,) = execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
    return updates, hot, int(wal)


def admin(stage: Stage) -> Iterator[Figure]:
    from django.contrib.auth.models import User
    from django.test import Client
    from django.urls import reverse

    client = Client()
    client.force_login(User.objects.create_superuser("staff"))
    url = reverse("admin:garmin_auth_garminauthenticationstate_changelist")

    def page(what: str, query: str) -> Figure:
        seconds = []
        for _ in range(stage.size(4, 1)):
            began = time.perf_counter()
            response = client.get(f"{url}?{query}")
            seconds.append(time.perf_counter() - began)
            assert response.status_code == 200, (what, response.status_code)
        return Figure(f"admin, {what}", statistics.median(seconds[1:] or seconds) * 1000, unit="ms")

    for what, query in {**PAGES, **READS_ALL}.items():
        yield page(what, query)
    yield page("search", "q=user000500-3")
    execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
    for column in ("username", "first_name", "last_name", "email"):
        execute(
            f"CREATE INDEX search_{column} ON auth_user USING gin (upper({column}) gin_trgm_ops)"
        )
    stage.settle()
    yield page("search with pg_trgm", "q=user000500-3")


def rotation() -> Iterator[Figure]:
    done = subprocess.run(
        [sys.executable, "-c", ROTATION], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    rows, seconds, early, peak = map(float, done.stdout.split())
    yield Figure("rotation of keys", rows / seconds, unit="/s", note=f"{rows:,.0f} rows, counted")
    yield Figure(
        "its memory at the peak, of that after a tenth",
        peak / early,
        at_most=1.1,
        note=f"{peak:.0f} MB of {early:.0f} MB",
    )


def execute(sql: str) -> Any:
    """Run a statement, and return the first row of its result, if it has one."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone() if cursor.description else None
