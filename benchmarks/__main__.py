"""Run the benchmarks, compare them with their goals, and write RESULTS.md.

``python -m benchmarks [NAME…]`` runs each benchmark on each of its databases, one after another, in
separate processes. RESULTS.md keeps the earlier results of benchmarks that are not named.
``--quick`` uses tiny numbers and one database, only to see that everything runs; it writes nothing.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, as_markdown, as_text, machine, packages
from tests.services import why_not

NAMES = (
    *("check", "client", "startup", "memory", "admin_list", "plans", "celery_workers"),
    *("claims", "fleet", "race"),
)
DATA = Path(__file__).with_name("results.json")
RESULTS = Path(__file__).with_name("RESULTS.md")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="see that it runs; write nothing")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    broken, shown = False, []
    for name in options.names or NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        if hasattr(module, "install") and not options.quick:
            module.install()
        for database in module.DATABASES:
            reason = why_not(database) or (module.why_not() if hasattr(module, "why_not") else "")
            if reason:
                print(f"LEFT OUT  {name} on {database}: {reason}")
                continue
            result = run(name, database, options.quick)
            broken = broken or result is None
            if result is None:
                continue
            figures = [Figure(**figure) for figure in result["figures"]]
            shown += figures
            print(f"\n{name} on {database}, load {result['load']}\n{as_text(figures)}", flush=True)
            if options.quick:
                break
            keep(name, database, result)
    print(f"\n{summary(shown)}")
    return int(broken)


def run(name: str, database: str, quick: bool) -> dict[str, Any] | None:
    """Run one benchmark on one database. Return None if it has failed, and has printed why."""
    load = " ".join(f"{load:.2f}" for load in os.getloadavg())
    command = [sys.executable, "-m", "benchmarks.stage", name, database]
    done = subprocess.run(
        [*command, "--quick"] if quick else command, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        print(f"BROKEN  {name} on {database}: exit code {done.returncode}", flush=True)
        return None
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": machine(),
        "load": load,
        "figures": json.loads(done.stdout.splitlines()[-1]),
    }


def keep(name: str, database: str, result: dict[str, Any]) -> None:
    """Replace the earlier result, and rewrite RESULTS.md."""
    data = json.loads(DATA.read_text()) if DATA.exists() else {"benchmarks": {}}
    data["packages"] = packages()
    data["benchmarks"].setdefault(name, {})[database] = result
    DATA.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    RESULTS.write_text(report(data))


def report(data: dict[str, Any]) -> str:
    """Return all results as Markdown."""
    sections, everything = [], []
    for name in NAMES:
        results = data["benchmarks"].get(name, {})
        if not results:
            continue
        what = importlib.import_module(f"benchmarks.{name}")
        title, _, rest = (what.__doc__ or "").partition("\n")
        lines = [f"## {name}\n", f"{title}\n{rest}".strip() + "\n"]
        for database, result in results.items():
            figures = [Figure(**figure) for figure in result["figures"]]
            everything += figures
            lines += [
                f"On {database}, {result['date']}, {result['machine']}, load average "
                f"{result['load']} at the start:\n"
            ]
            lines += [as_markdown(figures) + "\n"]
        if notes := getattr(what, "NOTES", ""):
            lines.append(notes.strip() + "\n")
        sections.append("\n".join(lines))
    about = "\n".join(f"- {key}: {value}" for key, value in data["packages"].items())
    head = (
        f"# Results\n\nWritten by `make bench`; do not edit. {summary(everything)}\n\n"
        "Each ratio is measured in one run, in which both sides take turns. The median is compared "
        f"with the goal, and the minimum and maximum are shown.\n\n{about}\n"
    )
    return "\n".join([head, *sections])


def summary(figures: list[Figure]) -> str:
    failed = [figure.what for figure in figures if figure.verdict == "FAIL"]
    goals = sum(bool(figure.verdict) for figure in figures)
    said = f"{goals - len(failed)} of {goals} goals are met"
    return f"{said}; not met: {'; '.join(failed)}." if failed else f"{said}."


if __name__ == "__main__":
    sys.exit(main())
