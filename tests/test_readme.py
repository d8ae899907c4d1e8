"""What the README says is compared with the code; tests/test_docs.py runs its blocks."""

import json
import re
import subprocess
import sys

import pytest
from django.core.management import call_command

from benchmarks import race
from benchmarks.__main__ import DATA
from benchmarks.figures import Figure
from tests.conftest import BUILT_IN, ROOT
from tests.test_tutorial import environment

README = (ROOT / "README.md").read_text()


def test_links_within_the_readme_lead_somewhere():
    headings = re.findall(r"^#+ (.+)$", README, re.M)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}

    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors


def test_every_file_that_the_readme_links_to_is_there():
    files = re.findall(r"\]\((?!http|#)([^)#]+)", README)

    assert len(files) > 20
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_every_page_of_the_docs_is_linked_to():
    pages = {str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")}
    not_for_newcomers = {"docs/index.md", "docs/release-checklist.md"}

    assert pages - not_for_newcomers == set(re.findall(r"\((docs/[\w./-]+\.md)", README))


def test_a_newcomer_can_read_it_in_a_few_minutes():
    assert len(README.splitlines()) < 280


def test_the_comparison_is_what_was_measured():
    measured = json.loads(DATA.read_text())["benchmarks"]["race"]["postgresql"]

    assert race.table(Figure(**figure) for figure in measured["figures"]) in README
    assert f"rounds on {measured['date'][:10]}" in README


# The install, in a bare project

SEE = """
from django.contrib.auth import get_user_model
from django.test import Client
from django.test.utils import setup_test_environment
setup_test_environment()
page = Client().get("/garmin/", follow=True)
print("visitor", page.status_code, page.redirect_chain[-1][0])
browser = Client()
browser.force_login(get_user_model().objects.create_superuser("ana"))
print("user", browser.get("/garmin/login/").status_code)
"""


def block(after, language):
    return re.search(rf"{after}.*?```{language}\n(.*?)```", README, re.S)[1]


@pytest.mark.parametrize("engine", BUILT_IN)
def test_the_install_works_as_it_is_written(tmp_path, engine):
    call_command("startproject", "mysite", str(tmp_path), verbosity=0)
    lines = block("Then add the app to your project", "python").replace(
        'GARMIN_AUTH_ENGINE = "garminconnect"', f'GARMIN_AUTH_ENGINE = "{engine}"'
    )
    settings, urls = lines.split("# urls.py\n")
    for file, text, before in (
        ("settings.py", settings, "INSTALLED_APPS"),
        ("urls.py", urls, "urlpatterns"),
    ):
        with (tmp_path / "mysite" / file).open("a") as module:
            module.write(text.replace("[...,", f"[*{before},"))

    def run(command, given=None):
        done = subprocess.run(
            [sys.executable, *command.split()[1:]],
            cwd=tmp_path,
            env=environment(),
            input=given,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "WARNINGS" not in done.stderr
        return done.stdout + done.stderr

    commands = re.findall(r"^\$ (.+)$", block("# urls.py", "console"), re.M)
    said = [run(command) for command in commands]

    assert commands[-1].startswith("python manage.py check")
    assert "System check identified no issues" in said[-1]
    assert run("python manage.py shell --no-imports", SEE).split("\n")[:2] == [
        "visitor 200 /admin/login/?next=/garmin/",
        "user 200",
    ]
