"""What the README says is compared with the code; tests/test_docs.py runs its blocks."""

import re

from .conftest import ROOT

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
    assert len(README.splitlines()) < 260
