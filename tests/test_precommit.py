"""The hooks that contributors may install: they run offline, and find what CI would."""

import os
import shutil
import subprocess
import sys

import pytest
import yaml

from tests.conftest import ROOT

pytest.importorskip("pre_commit", reason="the extra [check] is not installed")

UNTIDY = "import os\nimport sys\nprint( sys.argv )\n"


@pytest.fixture
def commit(tmp_path):
    """Run one hook on a file that somebody is about to commit, and return what it says."""
    for name in (".pre-commit-config.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    environment = {
        **{name: os.environ[name] for name in os.environ if not name.startswith("GIT_")},
        "PRE_COMMIT_HOME": str(tmp_path / "hooks"),
        "https_proxy": "http://127.0.0.1:9",  # Nothing is fetched.
    }
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    subprocess.run(["git", "init", "-q"], check=True, timeout=60, **options)
    (tmp_path / ".gitignore").write_text(".venv\nhooks\n")

    def commit(hook, text):
        (tmp_path / "new.py").write_text(text)
        subprocess.run(["git", "add", "."], check=True, timeout=60, **options)
        command = [sys.executable, "-m", "pre_commit", "run", hook, "--files", "new.py"]
        return subprocess.run(command, check=False, timeout=120, **options)

    return commit


@pytest.mark.parametrize("hook", ["ruff-check", "ruff-format"])
def test_a_hook_stops_what_is_untidy_and_lets_the_rest_pass(commit, hook):
    assert commit(hook, UNTIDY).returncode == 1
    done = commit(hook, '"""A module."""\n')
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_hook_is_local_and_runs_a_tool_that_the_environment_has():
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    for hook in repositories[0]["hooks"]:
        program = hook["entry"].split()[0].removeprefix(".venv/bin/")
        assert shutil.which(program, path=os.path.join(sys.prefix, "bin")), hook["id"]
