"""Run the tests on each database in turn: ``python -m tests [pytest arguments]``.

Everything runs on SQLite; what depends on the database (conftest.py lists it) runs again on
PostgreSQL and MariaDB. Without arguments, the branch coverage of all runs together is reported and
must not fall below its limit.
"""

import os
import subprocess
import sys
import tempfile

from tests.services import required, why_not


def main() -> int:
    arguments = sys.argv[1:]
    failed, left_out = [], []
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "GARMIN_AUTH_COVERAGE": f"{folder}/coverage"}
        for database in ("sqlite", "postgresql", "mariadb"):
            if reason := why_not(database):
                left_out.append(f"{database}: {reason}")
                continue
            print(f"\n=== tests on {database} ===", flush=True)
            environment["GARMIN_AUTH_TEST_DATABASE"] = database
            if python("-m", "coverage", "run", "-m", "pytest", *arguments, env=environment):
                failed.append(f"tests on {database}")
        if not arguments:
            print("\n=== branch coverage of all runs ===", flush=True)
            python("-m", "coverage", "combine", "--quiet", folder, env=environment)
            if python("-m", "coverage", "report", env=environment):
                failed.append("coverage")
    print("\n=== summary ===")
    for line in left_out:
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
