"""Run the tests on each database: ``python -m tests [pytest arguments]``.

Everything runs on SQLite; what depends on the database (conftest.py lists it) runs again on
PostgreSQL and MariaDB. Without arguments, several tests run at a time, and the coverage of
the run on SQLite, which has everything, is reported and must not fall below its limit: to measure
the others too would cost minutes for a few lines. The databases then run side by side, for on the
others most tests wait; with arguments they run in turn. On a Python that garminconnect does not
run on, its tests are left out, and its modules are left out of the coverage.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.services import (
    BROKERS,
    garminconnect_may_be_left_out,
    required,
    why_not,
    why_not_broker,
    why_not_browser,
    why_not_garminconnect,
    why_not_gettext,
)

# Tests that run at a time on SQLite, which last longest: two more than there are cores, for many
# wait for something else. Each worker has its own database and its own simulator.
WORKERS = min((os.cpu_count() or 1) + 2, 6)
# Cannot even be imported without the library.
GARMINCONNECT = "garmin_auth/engines/garminconnect/*,garmin_auth/engines/http/curl.py"


ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    arguments = sys.argv[1:]
    failed, left_out, tolerated = [], [], []
    no_garminconnect = why_not_garminconnect()
    if no_garminconnect:
        lines = tolerated if garminconnect_may_be_left_out() else left_out
        lines.append(f"the engine garminconnect: {no_garminconnect}")
    for broker in BROKERS:
        if reason := why_not_broker(broker):
            left_out.append(f"Celery on {broker}: {reason}")
    if reason := why_not_browser():
        left_out.append(f"the pages in a browser: {reason}")
    if reason := why_not_gettext():
        left_out.append(f"whether every word can be translated: {reason}")
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "GARMIN_AUTH_COVERAGE": f"{folder}/coverage"}
        # Hundreds of processes import the same: each compiling it anew costs minutes.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        if sys.version_info >= (3, 12):
            # A tenth of what tracing costs. It tells of lines, and of branches from 3.14 on only.
            environment.setdefault("COVERAGE_CORE", "sysmon")
        databases = ["sqlite"]
        for database in ("postgresql", "mariadb"):
            if reason := why_not(database):
                left_out.append(f"{database}: {reason}")
            else:
                databases.append(database)
        if arguments:
            for database in databases:
                failed += run_on({database: arguments}, environment)
        else:
            failed += run_on({name: parallel(name) for name in databases}, environment)
            print("\n=== coverage on SQLite ===", flush=True)
            python("-m", "coverage", "combine", "--quiet", folder, env=environment)
            omitted = ["--omit", GARMINCONNECT] if no_garminconnect else []
            if python("-m", "coverage", "report", *omitted, env=environment):
                failed.append("coverage")
    print("\n=== summary ===")
    for line in tolerated + left_out:
        print(f"LEFT OUT  {line}")
    if left_out and required():
        print("GARMIN_AUTH_REQUIRE_SERVICES=1: nothing may be left out.")
        failed += left_out
    print(f"FAILED: {', '.join(failed)}" if failed else "All tests that ran have passed.")
    return 1 if failed else 0


def parallel(database: str) -> list[str]:
    """Return pytest's arguments for all tests that depend on this database."""
    # By file, for some of a module's fixtures are dear, the longest first (conftest.py); who ends
    # first helps.
    workers = WORKERS if database == "sqlite" else max(1, WORKERS // 4)
    how = ["-n", str(workers), "--dist", "worksteal"]
    if database == "sqlite":
        return how
    # To import the other files would take each worker seconds.
    files = sorted(ROOT.glob("tests/**/test_*.py"))
    return [*how, *(str(file) for file in files if "every_database" in file.read_text())]


def run_on(tests: dict[str, list[str]], environment: dict[str, str]) -> list[str]:
    """Run tests on these databases at a time, and return on which they have failed.

    Args:
        tests: pytest's arguments by database.
        environment: of the tests.
    """
    runs = []
    for database, how in tests.items():
        measured = ["-m", "coverage", "run"] if database == "sqlite" else []
        command = [sys.executable, *measured, "-m", "pytest", *how]
        env = {**environment, "GARMIN_AUTH_TEST_DATABASE": database}
        # Of several, the first tells how it goes on; the others tell all at their end.
        output = tempfile.TemporaryFile("w+") if runs else None  # noqa: SIM115
        if not output:
            print(f"\n=== tests on {database} ===", flush=True)
        runs.append((database, subprocess.Popen(command, env=env, stdout=output), output))
    failed = []
    for database, process, output in runs:
        if process.wait():
            failed.append(f"tests on {database}")
        if output:
            output.seek(0)
            print(f"\n=== tests on {database} ===\n{output.read()}", flush=True)
            output.close()
    return failed


def python(*arguments: str, env: dict[str, str]) -> int:
    return subprocess.run([sys.executable, *arguments], env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
