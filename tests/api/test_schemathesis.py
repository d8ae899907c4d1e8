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
def run(tmp_path):
    """Run what asks the server, and return how many cases it has sent."""
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    (tmp_path / "openapi.json").write_text(json.dumps(as_with_tokens()))

    def run(*command):
        done = subprocess.run(
            [*map(str, command)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        counts = re.search(r"(\d+) generated, \1 passed|^(\d+)$", done.stdout, re.M)
        return int(counts[0].split()[0])

    return run


def test_every_answer_is_one_that_is_described(run, url, user, other_user):
    steps = [f"mfa={user.username}", f"key={user.username}", f"login={other_user.username}"]

    # In turn: what hypothesis works out about Unicode, the next finds in the folder.
    count = run(sys.executable, "-m", "tests.api.fuzz", url, CASES, SEED, *steps)
    count += run(
        *(Path(sys.executable).with_name("st"), "run", "openapi.json", "--url", url),
        *("-H", f"Authorization: Bearer {other_user.username}", "--phases", PHASES),
        *("--seed", SEED, "--max-examples", CASES // 50, "--no-shrink", "--checks", "all"),
    )

    assert count >= CASES
