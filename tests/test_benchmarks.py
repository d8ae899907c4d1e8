import os
import re
import subprocess
import sys

import pytest

from benchmarks import race
from benchmarks.__main__ import DATA, NAMES, RESULTS, report, summary
from benchmarks.figures import Figure, as_markdown, as_text
from benchmarks.plans import FILE
from tests.conftest import ROOT
from tests.fork_server import python_command

# What they run, the tests have measured already.
UNMEASURED = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
# Its own process and the one that measures come from the fork server; what they start does not.
BENCHMARKS = """
import sys
sys.executable = sys.argv.pop(1)
from benchmarks.__main__ import main
sys.exit(main())
"""


def contents():
    return [path.read_bytes() if path.exists() else None for path in (DATA, RESULTS, FILE)]


@pytest.fixture(scope="module")
def python(fork_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    with python_command(fork_server, folder):
        yield folder / "python"


@pytest.mark.parametrize("name", NAMES)
def test_each_benchmark_runs_and_reports_figures(name, fork_server, python):
    before = contents()

    process = fork_server.start(["-c", BENCHMARKS, python, name, "--quick"], UNMEASURED)
    said, errors = process.communicate(timeout=300)

    assert process.returncode == 0, said + errors
    if "LEFT OUT" in said and name not in said.replace(f"LEFT OUT  {name}", ""):
        pytest.skip(said)
    assert re.search(rf"^{name} on (postgresql|sqlite), load", said, re.M), said
    assert re.search(r"^\d+ of \d+ goals are met", said, re.M), said
    assert contents() == before, "--quick must not write"


def test_an_unknown_benchmark_is_refused():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "speed"],
        cwd=ROOT,
        env=UNMEASURED,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 2
    assert "no benchmark speed" in done.stderr


@pytest.mark.parametrize(
    ("goal", "verdict"),
    [
        ({"at_most": 1.5}, "PASS"),
        ({"at_most": 1.4}, "FAIL"),
        ({"at_least": 1.5}, "PASS"),
        ({"at_least": 1.6}, "FAIL"),
        ({}, ""),
    ],
)
def test_a_figure_judges_its_median_by_its_goal(goal, verdict):
    assert Figure.of("time", [9, 1.5, 1], **goal).verdict == verdict


def test_a_figure_shows_its_least_and_greatest_round():
    figure = Figure.of("time", [3, 1, 2], at_most=2, note="ms")

    assert figure.cells() == ("time", "2 ×", "1 … 3", "≤ 2", "PASS", "ms")
    assert "| time | 2 × | 1 … 3 | ≤ 2 | PASS | ms |" in as_markdown([figure])
    assert re.search(r"time +2 × +1 … 3 +≤ 2 +PASS +ms", as_text([figure]))


def test_the_race_has_a_row_for_each_side_and_a_column_for_each_scenario():
    figures = [
        Figure("one 503: ours", 0, counts={"failed": 2, "exchanges": 3, "lost": 0}),
        Figure("no fault: ours", 0, counts={"failed": 0, "exchanges": 1, "lost": 0}),
        Figure("no table has this", 0),
    ]

    head, _, *rows = race.table(figures).splitlines()

    assert head.startswith("|  | no fault | answer after 12 s |")
    assert rows == ["| ours | 0 · 1 · 0 |  |  |  | 2 · 3 · 0 |  |"]


def test_the_summary_names_what_is_not_met():
    figures = [Figure("slow", 2, at_most=1), Figure("fast", 1, at_most=1), Figure("neither", 1)]

    assert summary(figures) == "1 of 2 goals are met; not met: slow."


def test_the_report_has_the_machine_of_each_table():
    result = {
        "date": "today",
        "machine": "a model, 2 cores",
        "load": "0.1",
        "figures": [vars(Figure("one call", 0.5))],
    }
    text = report({"packages": {"Django": "6.0"}, "benchmarks": {"client": {"sqlite": result}}})

    assert "- Django: 6.0" in text
    assert "## client" in text
    assert "On sqlite, today, a model, 2 cores, load average 0.1" in text
    assert "| one call | 0.50 × |" in text
