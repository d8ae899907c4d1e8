"""The demo, as ``make demo ARGS=--once`` runs it."""

import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    database = tmp_path_factory.mktemp("demo") / "demo.sqlite3"
    done = subprocess.run(
        [sys.executable, "manage.py", "demo", "--settings", "tests.demo_settings", "--once"],
        cwd=ROOT,
        env={
            **os.environ,
            "GARMIN_AUTH_TEST_DATABASE": "sqlite",
            "GARMIN_AUTH_DATABASE_NAME": str(database),
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_code_is_submitted_by_another_process_than_the_password(story):
    lines = re.findall(r"\[process (\d+)\] (\w+)", story)

    (_, ana), (began, asked), (finished, ben), (worker, _) = lines[:4]
    assert (ana, asked, ben) == ("Connected", "MFARequired", "Connected")
    assert len({began, finished, worker}) == 3


def test_a_worker_prints_the_days_summary(story):
    assert re.search(r"ben@example.com on 2026-11-22: \d+ steps, resting heart rate \d+", story)


def test_the_check_finds_the_session_that_a_new_password_killed(story):
    assert "Garmin has ended these users' sessions. They have to connect again: ana" in story
    assert "exit code 3" in story


def test_the_table_shows_ciphertext(story):
    rows = story.split("read with raw SQL:")[1].split("\n\n")[0]

    assert rows.count("session_data=gAAAA") == 2
    assert "example.com" not in rows
