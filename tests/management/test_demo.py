"""``make demo`` with the engines garminconnect and personal; test_journey.py has it with garth."""

import os
import re
import subprocess
import sys

import pytest

from garmin_auth.engines import what_is_missing
from tests.conftest import ROOT, needs_garminconnect, needs_personal


def demo(folder, *arguments):
    return subprocess.run(
        [sys.executable, "manage.py", "demo", "--settings", "tests.demo_settings", *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "GARMIN_AUTH_TEST_DATABASE": "sqlite",
            "GARMIN_AUTH_DATABASE_NAME": str(folder / "demo.sqlite3"),
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    """What two demos in a row have told."""
    folder = tmp_path_factory.mktemp("demo")
    told = []
    for _ in range(2):
        done = demo(folder, "--once", "--engine", "garminconnect")
        assert done.returncode == 0, done.stdout + done.stderr
        told.append(done.stdout)
    return told


@needs_garminconnect
@pytest.mark.parametrize("run", [0, 1])
def test_garminconnect_tells_the_whole_journey_run_after_run(stories, run):
    lines = re.findall(r"\[process (\d+)\] (\S+)", stories[run])

    (_, ana), (began, asked), (finished, ben), (worker, synced) = lines[:4]
    assert (ana, ben, synced) == ("Connected()", "Connected()", "ben@example.com")
    assert asked.startswith("MFARequired(")
    assert len({began, finished, worker}) == 3
    assert re.search(
        r"ben@example.com on 2026-11-22: \d+ steps, resting heart rate \d+", stories[run]
    )
    assert "They have to connect again: ana" in stories[run]
    assert "exit code 3" in stories[run]


@needs_garminconnect
def test_the_table_shows_ciphertext(stories):
    rows = stories[0].split("read with raw SQL:")[1].split("\n\n")[0]

    assert rows.count("session_data=gAAAA") == 2
    assert "example.com" not in rows
    assert "di_token" not in rows


@needs_personal
def test_the_story_of_keys(tmp_path):
    done = demo(tmp_path, "--once", "--engine", "personal")

    assert done.returncode == 0, done.stdout + done.stderr
    (_, ana), (_, ben), (_, synced) = re.findall(r"\[process (\d+)\] (\S+)", done.stdout)[:3]
    assert (ana, ben, synced) == ("Connected()", "Connected()", "ben")
    assert re.search(r"ben on 2026-11-22: \d+ steps, resting heart rate \d+", done.stdout)
    rows = done.stdout.split("read with raw SQL:")[1].split("\n\n")[0]
    assert rows.count("session_data=gAAAA") == 2
    assert "They have to connect again: ana" in done.stdout


@pytest.mark.skipif(not what_is_missing("garminconnect"), reason="garminconnect is installed")
def test_without_garminconnect_the_demo_says_in_one_sentence_what_to_do(tmp_path):
    done = demo(tmp_path, "--once", "--engine", "garminconnect")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "needs garminconnect, which is not installed" in done.stderr
    if sys.version_info < (3, 12):
        assert "make demo PYTHON=python3.12 ARGS='--once --engine garminconnect'" in done.stderr
    else:
        assert 'pip install "django-garmin-auth[garminconnect]"' in done.stderr
