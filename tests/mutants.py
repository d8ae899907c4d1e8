"""Change the core's code, one expression at a time, and tell which changes no test notices.

``python -m tests.mutants [--sample N] [--seed N] [module …]``, or ``make mutants ARGS=…``. It runs
mutmut in a copy in ``build/mutants`` with the tests that ``TESTS`` has for the module, on SQLite or
on the database that ``GARMIN_AUTH_TEST_DATABASE`` names (``storage/deadlocks`` needs PostgreSQL).
What survives needs a test, or a block in ``mutants.txt`` that says why it changes nothing: the
module, changes as they are printed, and the reason. Texts for people do not count: neither log
messages (``setup.cfg``) nor sentences; nor do the names of the cache's keys.
"""

import argparse
import ast
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from asgiref.sync import SyncToAsync

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "mutants"
ACCEPTED = Path(__file__).with_name("mutants.txt")
COPIED = ("garmin_auth", "tests", "docs", "manage.py", "README.md", "pyproject.toml", "setup.cfg")
MUTMUT = "import sys; sys.argv[0] = 'mutmut'; from mutmut.__main__ import cli; cli()"
STRING = re.compile(r"""f?"[^"]*"|f?'[^']*'""")
# What is only not to be the name of another key.
KEY_NAME = re.compile(r"""cache_key\((?:"[^"]*"|None)""")

# The tests that have to notice a change of the module. Not all that come by: a run is to end.
TESTS = {
    "engines/verdicts": "engines/test_verdicts.py",
    "limits/cooldown": "limits/test_cooldown.py limits/test_cache_keys.py",
    "limits/failing": "test_failing.py",
    "limits/mass_failure": "limits/test_mass_failure.py limits/test_engines_apart.py",
    "limits/rate": "limits/test_rate.py",
    "limits/repetitions": "limits/test_repetitions.py logins/test_background.py",
    "limits/shared_cache": "limits/test_shared_cache.py limits/test_cache_keys.py",
    "limits/throttle": "limits/test_throttle.py",
    "limits/turns": "limits/test_turns.py",
    "login": "test_login.py limits/test_throttle.py limits/test_repetitions.py "
    "logins/test_permission.py engines/test_personal.py test_regions.py test_async.py "
    "limits/test_cooldown.py",
    "logins/attending": "logins/test_background.py",
    "logins/background": "logins/test_background.py",
    "logins/importing": "management/test_import_command.py engines/test_garminconnect_sessions.py "
    "limits/test_cooldown.py test_regions.py logins/test_permission.py",
    "logins/kept": "test_views.py test_progress.py test_engine_choice.py test_regions.py",
    "logins/outcomes": "test_login.py limits/test_throttle.py limits/test_cooldown.py "
    "limits/test_engines_apart.py limits/test_repetitions.py storage/test_lifetimes.py "
    "logins/test_background.py",
    "logins/pending": "test_login.py limits/test_repetitions.py",
    "logins/permission": "logins/test_permission.py",
    "logins/records": "logins/test_records.py",
    "logins/results": "test_views.py test_templates.py",
    "logins/ways": "test_engine_choice.py",
    "sessions": "test_sessions.py test_failing.py limits/test_mass_failure.py test_async.py "
    "test_threads_of_a_block.py test_callers_transaction.py engines/test_hazards.py test_health.py "
    "test_costs.py engines/test_garminconnect_sessions.py limits/test_cooldown.py "
    "limits/test_engines_apart.py storage/test_lifetimes.py test_regions.py "
    "engines/test_personal.py",
    "storage/async_calls": "test_async.py",
    "storage/deadlocks": "storage/test_deadlocks.py",
    "storage/fields": "storage/test_fields.py",
    "storage/keys": "storage/test_keys.py",
    "storage/lifetimes": "storage/test_lifetimes.py",
    "storage/querysets": "storage/test_querysets.py test_login.py test_sessions.py test_failing.py "
    "limits/test_mass_failure.py storage/test_lifetimes.py checking/test_claims.py "
    "logins/test_background.py",
    "storage/retries": "storage/test_retries.py",
    "storage/session_rows": "test_sessions.py",
    "storage/threads": "storage/test_threads.py test_async.py",
    "storage/transactions": "test_login.py test_sessions.py test_callers_transaction.py",
}


# What starts processes takes too long to be repeated for each change.
PROCESSES = {"start_python", "run_python", "fork_server"}
# What looks for secrets in the frames of an error finds them in those of mutmut's own wrappers.
FRAMES = {
    "test_no_frame_of_an_error_shows_what_the_user_typed",
    "test_what_cannot_be_a_key_is_not_sent_to_garmin",
    "test_a_key_that_garmin_refuses_stores_nothing",
    "test_what_does_not_judge_a_key_is_unavailable",
}


def pytest_configure():
    """Give each of mutmut's processes a thread of its own for Django's queries.

    They are forks of one that has run the tests, and whose thread they do not have: an async test
    would wait for it until the time is out, and the mutant count as noticed.
    """
    os.register_at_fork(after_in_child=_replace_thread)


def _replace_thread():
    SyncToAsync.single_thread_executor = ThreadPoolExecutor(max_workers=1)


def pytest_collection_modifyitems(config, items):
    """Leave out what takes too long, or cannot pass, as a plugin of the tests in the copy."""
    left_out = [
        item for item in items if PROCESSES & set(item.fixturenames) or item.originalname in FRAMES
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants ARGS=…")
    parser.add_argument("modules", nargs="*", metavar="module", help="such as limits/throttle")
    parser.add_argument("--sample", type=int, help="try only so many changes of each module")
    parser.add_argument("--seed", type=int, default=0, help="for another sample")
    options = parser.parse_args()
    if unknown := set(options.modules) - set(TESTS):
        parser.error(f"not in tests/mutants.py: {', '.join(sorted(unknown))}")
    survivors = 0
    for module in options.modules or TESTS:
        survivors += try_module(module, options.sample, options.seed)
    return 1 if survivors else 0


def try_module(module: str, sample: int | None, seed: int) -> int:
    """Try a module's mutants, print those that survive, and return how many they are."""
    copy = FOLDER / module.replace("/", "-")
    make_copy(module, copy)
    os.chdir(copy)  # From where mutmut reads its settings.
    from mutmut.configuration import reset_config
    from mutmut.mutation.diff_apply import get_diff_for_mutant
    from mutmut.mutation.file_mutation import mutate_file_contents

    reset_config()
    file = Path(f"garmin_auth/{module}.py")
    prefix = f"garmin_auth.{module.replace('/', '.')}."
    names = [
        prefix + name for name in mutate_file_contents(str(file), file.read_text()).mutant_names
    ]
    if sample is not None and sample < len(names):
        names = random.Random(seed).sample(names, sample)
    print(f"{module}: {len(names)} mutants", flush=True)
    with Path("mutmut.log").open("w") as log:
        done = subprocess.run(
            # One at a time: they share the test's database.
            [sys.executable, "-c", MUTMUT, "run", "--max-children", "1", *names],
            env={"GARMIN_AUTH_TEST_DATABASE": "sqlite", **os.environ},
            stdout=log,
            stderr=log,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"mutmut failed: see {copy}/mutmut.log")
    results = subprocess.run(
        [sys.executable, "-c", MUTMUT, "results", "--all", "true"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    verdicts = dict(line.strip().split(": ") for line in results.splitlines() if ": " in line)
    counts: Counter[str] = Counter()
    accepted = read_accepted(module)
    for name in sorted(names):
        verdict = verdicts[name]
        if verdict in ("killed", "timeout"):
            counts[verdict] += 1
            if verdict == "timeout":  # It hangs, or the machine was busy: to be tried alone then.
                print(f"{name.removeprefix(prefix)}: timeout", flush=True)
            continue
        diff = get_diff_for_mutant(name, path=file)
        change = change_of(diff)
        if is_text(change):
            counts["text"] += 1
        elif change in accepted:
            counts["accepted"] += 1
        else:
            counts[verdict] += 1
            print(f"\n{name.removeprefix(prefix)}: {verdict}\n{change}", flush=True)
    print(
        f"\n{module}: " + ", ".join(f"{n} {verdict}" for verdict, n in counts.items()), flush=True
    )
    return counts.total() - sum(counts[it] for it in ("killed", "timeout", "text", "accepted"))


def make_copy(module: str, copy: Path) -> None:
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.mo", "*.po")
            shutil.copytree(source, copy / name, ignore=ignored)
        else:
            shutil.copy(source, copy)
    file = copy / "garmin_auth" / f"{module}.py"
    file.write_text(without_decorators(file.read_text()))
    tests = "\n    ".join(f"tests/{name}" for name in TESTS[module].split())
    with (copy / "setup.cfg").open("a") as settings:
        settings.write(f"only_mutate = garmin_auth/{module}.py\n")
        settings.write(f"pytest_add_cli_args_test_selection =\n    {tests}\n")


def without_decorators(source: str) -> str:
    """Return the same code with ``f = decorator(f)`` in place of ``@decorator``.

    mutmut leaves decorated functions alone.
    """
    lines = source.splitlines()
    tree = ast.parse(source)
    bodies = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    functions = [
        node
        for body in bodies
        for node in body.body
        if isinstance(node, ast.FunctionDef) and node.decorator_list
    ]
    for function in sorted(functions, key=lambda node: -node.lineno):
        indent = " " * function.col_offset
        texts = [ast.unparse(decorator) for decorator in function.decorator_list]
        if any(text in ("classmethod", "staticmethod", "overload") for text in texts):
            continue
        calls = [f"{indent}{function.name} = {text}({function.name})" for text in reversed(texts)]
        for line in calls[::-1]:
            lines.insert(function.end_lineno, line)
        del lines[function.decorator_list[0].lineno - 1 : function.lineno - 1]
    return "\n".join(lines) + "\n"


def change_of(diff: str) -> str:
    """Return what a diff takes away and adds, one line each."""
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++", "#"))]
    parts = {sign: [ln[1:].strip() for ln in lines if ln.startswith(sign)] for sign in "-+"}
    return "\n".join(f"{sign} {' '.join(parts[sign])}".rstrip() for sign in "-+")


def is_text(change: str) -> bool:
    """Tell whether only a sentence or the name of a cache's key differs."""

    def without_sentence(match):
        return "None" if " " in match[0] or "{" in match[0] else match[0]

    taken, added = (
        KEY_NAME.sub("cache_key(", STRING.sub(without_sentence, line[2:]))
        for line in change.split("\n")
    )
    return taken == added or taken.replace(", None)", ", )") == added


def read_accepted(module: str) -> set[str]:
    """Return the changes of a module that change nothing."""
    found = set()
    for block in ACCEPTED.read_text().split("\n\n"):
        first, *lines = block.strip().splitlines()
        if first == module:
            changes = (line for line in lines if f"{line} ".startswith(("- ", "+ ")))
            found.update(map("\n".join, zip(changes, changes, strict=True)))
    return found


if __name__ == "__main__":
    sys.exit(main())
