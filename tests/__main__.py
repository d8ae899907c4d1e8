"""Run the tests on each database in turn: ``python -m tests [pytest arguments]``.

Everything runs on SQLite; what depends on the database (conftest.py lists it) runs again on
PostgreSQL and MariaDB. Without arguments, several tests run at a time, and the branch coverage of
the run on SQLite, which has everything, is reported and must not fall below its limit: to measure
the others too would cost minutes for a few lines. On a Python that garminconnect does not run on,
its tests are left out, and its modules are left out of the coverage.
"""

import os
import subprocess
import sys
import tempfile

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

# Tests that run at a time: one more than there are cores, for many wait for another process. Each
# worker has its own database and its own simulator.
WORKERS = min((os.cpu_count() or 1) + 1, 4)
# Cannot even be imported without the library.
GARMINCONNECT = "garmin_auth/engines/garminconnect*.py,garmin_auth/engines/curl.py"


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
        # In the order of the files, for some of a module's fixtures are dear; who ends first helps.
        how = arguments or ["-n", str(WORKERS), "--dist", "worksteal"]
        for database in ("sqlite", "postgresql", "mariadb"):
            if reason := why_not(database):
                left_out.append(f"{database}: {reason}")
                continue
            print(f"\n=== tests on {database} ===", flush=True)
            environment["GARMIN_AUTH_TEST_DATABASE"] = database
            measured = ["-m", "coverage", "run"] if database == "sqlite" else []
            if python(*measured, "-m", "pytest", *how, env=environment):
                failed.append(f"tests on {database}")
        if not arguments:
            print("\n=== branch coverage on SQLite ===", flush=True)
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


def python(*arguments: str, env: dict[str, str]) -> int:
    return subprocess.run([sys.executable, *arguments], env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
