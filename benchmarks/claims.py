"""What it costs a run of checks to claim a batch, when one row of a hundred is due.

10,000 due rows alone are compared with the same 10,000 among 990,000 others: first sessions in
use, which ``--max-age`` leaves out, then rows whose session has ended. What is timed is a batch of
64, of a whole run. A row without a session is not in the index that runs go by; one in use is, for
an index on when a session last worked would make each use write to all indexes. A run reads it
once.
"""

import statistics
import time
from collections.abc import Iterator
from datetime import timedelta

from benchmarks.figures import Figure
from benchmarks.stage import Stage

DATABASES = ("postgresql", "mariadb", "sqlite")
BATCH = 64
MAX_AGE = timedelta(hours=3)
NOTES = """
MariaDB misses two goals. It keeps each row, with its 4 KB of ciphertext, in the order of the
primary keys, so rows in the order of their checks are scattered over 4 GB, of which a server as
installed keeps 128 MB in memory (`innodb_buffer_pool_size`): it reads nearly each row from the
disk. The due rows alone fit into memory. What counts for a run holds there too: each row is read
once, and the last batches cost what the first do.
"""


def measure(stage: Stage) -> Iterator[Figure]:
    from django.utils import timezone

    from garmin_auth.models import GarminAuthenticationState as State

    due, times = stage.size(10_000, 200), stage.size(99, 4)
    total = due * (times + 1)
    fill_with_due(stage, due)
    alone, _ = run()
    now = f"'{timezone.now().replace(tzinfo=None)}'"
    stage.multiply(times, last_validated=now)
    yield from figures("in use", total, due, alone, *run(), goal=2.5)
    others = State.objects.filter(last_validated__gt=timezone.now() - MAX_AGE)
    for digit in range(10):  # In parts, for a transaction of all takes gigabytes.
        others.filter(user__username__endswith=str(digit)).update(
            session_data=None, connected_at=None, ended_reason="expired", last_validated=None
        )
    stage.settle()
    yield from figures("whose session has ended", total, due, alone, *run(), goal=1.5)


def fill_with_due(stage: Stage, number: int) -> None:
    """Add rows that were last checked, and used, one after another in the days before yesterday."""
    from django.contrib.auth.models import User
    from django.utils import timezone

    from garmin_auth.models import GarminAuthenticationState as State

    stage.garmin.add_account("crowd@garmin.example", "correct horse")
    data = stage.garmin.issue_session("crowd@garmin.example")
    users = User.objects.bulk_create(User(username=f"user{n:06}") for n in range(number))
    yesterday = timezone.now() - timedelta(days=1)
    checked = [yesterday - timedelta(seconds=n * 7919 % number * 10) for n in range(number)]
    State.objects.bulk_create(
        (
            State(
                user=user,
                engine="garth",
                session_data=data,
                ended_reason="",
                connected_at=at,
                last_checked_at=at,
                last_validated=at,
            )
            for user, at in zip(users, checked, strict=True)
        ),
        batch_size=1000,
    )
    stage.settle()


def run() -> tuple[list[float], str]:
    """Claim all that is due, and release it. Return each batch's seconds, and the pages read."""
    from garmin_auth.checking.claims import CheckRun, due_sessions

    before = pages_read()
    check_run = CheckRun(due_sessions(MAX_AGE), batch=BATCH, seconds=600)
    seconds, began = [], time.perf_counter()
    for _ in check_run.batches():
        ended = time.perf_counter()
        seconds.append(ended - began)
        began = time.perf_counter()
    check_run.release()
    return seconds, f"; {(pages_read() - before) / len(seconds):.0f} pages" if before else ""


def pages_read() -> int:
    """Return how many pages MariaDB has read from the disk, 0 for another database."""
    from django.db import connection

    if connection.vendor != "mysql":
        return 0
    with connection.cursor() as cursor:
        cursor.execute("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_reads'")
        return int(cursor.fetchone()[1])


def figures(
    what: str, total: int, due: int, alone: list[float], among: list[float], pages: str, goal: float
) -> Iterator[Figure]:
    assert len(among) == len(alone), (len(among), len(alone))
    slow, slow_alone = (sorted(each)[len(each) * 99 // 100] for each in (among, alone))
    yield Figure(
        f"a batch among {total - due:,} rows {what}, of one among none",
        statistics.median(among) / statistics.median(alone),
        at_most=goal,
        note=f"{ms(statistics.median(among))} of {ms(statistics.median(alone))}, the slowest of "
        f"100: {ms(slow)} of {ms(slow_alone)}{pages}",
    )
    tenth = max(1, len(among) // 10)
    yield Figure(
        "its last batches, of its first",
        statistics.median(among[-tenth:]) / statistics.median(among[:tenth]),
        at_most=1.5,
        note=f"{tenth} of {len(among)} batches each",
    )


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
