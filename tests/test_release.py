"""What a release consists of says the same everywhere: versions, workflows, packages."""

import itertools
import re
from configparser import ConfigParser

import yaml

import garmin_auth
from tests.conftest import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SETUP = ConfigParser()
SETUP.read(ROOT / "setup.cfg")
CLASSIFIERS = SETUP["metadata"]["classifiers"]


def test_the_changelogs_latest_release_is_the_packages_version():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    version, _date = re.findall(r"^## (\d\S+) - (\d{4}-\d\d-\d\d)$", changelog, re.M)[0]

    assert version == garmin_auth.__version__


def pairs_of_ci():
    """The pairs of Python and Django that GitHub runs the tests on."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())
    matrix = workflow["jobs"]["tests"]["strategy"]["matrix"]
    left_out = {(pair["python"], pair["django"]) for pair in matrix["exclude"]}
    return set(itertools.product(matrix["python"], matrix["django"])) - left_out


def test_ci_runs_on_all_that_the_package_says_it_supports():
    pythons, djangos = map(set, zip(*pairs_of_ci(), strict=True))

    assert pythons == set(re.findall(r"Python :: (3\.\d+)", CLASSIFIERS))
    assert djangos == set(re.findall(r"Django :: (\d\.\d)", CLASSIFIERS))


def test_the_table_of_supported_versions_is_what_ci_runs_on():
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (ROOT / "docs/support.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    djangos = [name.removeprefix("Django ") for name in rows[0][1:]]
    table = {
        (python, django)
        for python, *cells in rows[1:]
        for django, cell in zip(djangos, cells, strict=True)
        if cell
    }

    assert table == pairs_of_ci()


def test_tox_tries_pairs_that_ci_runs_on():
    names = re.findall(r"^py3(\d+)-django(\d)(\d)$", SETUP["tox:tox"]["env_list"], re.M)

    assert names
    assert {(f"3.{minor}", f"{series}.{part}") for minor, series, part in names} <= pairs_of_ci()


def test_every_action_of_others_is_pinned_by_commit():
    used = [use for path in WORKFLOWS for use in re.findall(r"uses: (.+)", path.read_text())]
    others = [use for use in used if not use.startswith("./")]

    assert others
    assert [use for use in others if not re.fullmatch(r"\S+@[0-9a-f]{40} # v[\d.]+", use)] == []
