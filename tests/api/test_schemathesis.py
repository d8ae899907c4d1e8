"""The whole description against a live server, whose Garmin is the simulator."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.fuzz import CONFIG, as_with_tokens
from tests.conftest import EMAIL, PASSWORD, ROOT, needs_personal

pytest.importorskip("schemathesis", reason="schemathesis is not installed")
pytestmark = [pytest.mark.django_db(transaction=True), needs_personal]

SEED = 17
CASES = int(os.environ.get("GARMIN_AUTH_CASES", "5000"))
# With more cases, those of them that are several requests after each other too.
PHASES = "examples,coverage" if CASES <= 5000 else "examples,coverage,stateful"
PATIENCE = 300 + CASES / 10  # seconds, for a busy machine


@pytest.fixture
def url(serve, garmin):
    """A server's API, on which each user has a Garmin account that asks for a code."""
    garmin.add_account(EMAIL, PASSWORD, mfa=True)
    server = serve(
        *("-m", "gunicorn", "--bind", "127.0.0.1:0", "--threads", "4"),
        "django.core.wsgi:get_wsgi_application()",
        DJANGO_SETTINGS_MODULE="tests.api.live_settings",
    )
    return f"{server}/garmin/api"


@pytest.fixture
def start(tmp_path):
    """Start a process that asks the server, and ends before the test does."""
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    (tmp_path / "openapi.json").write_text(json.dumps(as_with_tokens()))
    processes = []

    def start(*command):
        process = subprocess.Popen(
            [*map(str, command)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_every_answer_is_one_that_is_described(start, url, user, other_user):
    fuzz = (sys.executable, "-m", "tests.api.fuzz", url)
    running = [
        start(*fuzz, user.username, CASES * 2 // 3, SEED, "mfa", "key"),
        start(*fuzz, other_user.username, CASES // 3, SEED, "login"),
        start(
            *(Path(sys.executable).with_name("st"), "run", "openapi.json", "--url", url),
            *("-H", f"Authorization: Bearer {other_user.username}", "--phases", PHASES),
            *("--seed", SEED, "--max-examples", CASES // 50, "--no-shrink", "--checks", "all"),
        ),
    ]

    count = 0
    for process in running:
        said, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, said
        count += int(re.search(r"(\d+) generated, \1 passed|^(\d+)$", said, re.M)[0].split()[0])
    assert count >= CASES
