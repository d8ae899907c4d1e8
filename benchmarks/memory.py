"""Memory: the peak of ``check_garmin_sessions --workers 16`` in a new process, by number of rows.

100,000 rows are compared with 1,000, all of them skipped because of ``--max-age``; then 10,000 real
checks with 1,000. The peak is the kernel's VmHWM of the process, because ``ru_maxrss`` would
include the memory of its parent when it was started.
"""

import statistics
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.figures import Figure
from benchmarks.stage import ROOT, Stage, ratios

DATABASES = ("postgresql",)

CHILD = """
import io, json, sys, warnings
warnings.filterwarnings("ignore", "Garth is deprecated", DeprecationWarning)
import django; django.setup()
from django.core.management import call_command
report = io.StringIO()
call_command("check_garmin_sessions", *sys.argv[1:], format="json", stdout=report)
report = json.loads(report.getvalue())
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(report["checked"], report["skipped"], int(status["VmHWM"].split()[0]) / 1024)
"""


def measure(stage: Stage) -> Iterator[Figure]:
    few, many = stage.size(1000, 30), stage.size(10_000, 60)
    stage.connect(few)
    times = range(stage.size(3, 1))
    real = {few: [peak(checked=few) for _ in times]}
    fresh = {few: [peak("--max-age", "2d", skipped=few) for _ in times]}
    stage.connect(many - few)
    real[many] = [peak(checked=many)]
    fresh_many = stage.size(100_000, 120)
    fill_with_fresh(fresh_many)
    fresh[fresh_many] = [peak("--max-age", "2d", skipped=fresh_many) for _ in times]
    yield figure("rows that are skipped", fresh, 1.10)
    yield figure("real checks", real, 1.15)


def figure(what: str, peaks: dict[int, list[float]], at_most: float) -> Figure:
    (few, small), (many, big) = peaks.items()
    base = [statistics.median(small)] * len(big)
    return Figure.of(
        f"{many:,} {what}, of {few:,}",
        ratios(big, base),
        at_most=at_most,
        note=f"{statistics.median(big):.1f} MB of {base[0]:.1f} MB",
    )


def peak(*options: str, checked: int = 0, skipped: int = 0) -> float:
    """Run the check in a new process, and return its peak memory in MB."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, "--workers", "16", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    did_check, did_skip, most = done.stdout.split()
    assert (int(did_check), int(did_skip)) == (checked, skipped), done.stdout
    return float(most)


def fill_with_fresh(number: int) -> None:
    """Add rows that have just been validated, up to this number."""
    from django.contrib.auth.models import User
    from django.utils import timezone

    from garmin_auth.models import GarminAuthenticationState as State

    now, have = timezone.now(), State.objects.count()
    data = State.objects.first().session_data
    for start in range(have, number, 5000):
        names = range(start, min(start + 5000, number))
        users = User.objects.bulk_create(User(username=f"fresh {n}") for n in names)
        State.objects.bulk_create(
            State(
                user=user,
                session_data=data,
                connected_at=now,
                last_validated=now,
                last_checked_at=now,
                ended_reason="",
            )
            for user in users
        )
