"""Every block of README and docs is run, and what the docs list is compared with the code.

Python without a title runs here, with a user who is connected; shell, files and crontabs in a site
that ``startproject`` made. Each page has a copy of that site to itself. What is not run says why.
"""

import ast
import configparser
import dataclasses
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from django.core.cache import cache
from django.core.management import call_command, get_commands, load_command_class
from django.template import engines
from django.urls import include, path
from django.utils import translation

from garmin_auth import checks, exceptions, signals
from garmin_auth.conf import Settings
from garmin_auth.health import Report
from garmin_auth.login import import_session, start_login
from garmin_auth.management.commands import _check_formats, check_garmin_sessions
from garmin_auth.models import EndedReason, GarminAuthenticationState, Status
from garmin_auth.testing import GarminSimulator
from garmin_auth.urls import urlpatterns
from tests.conftest import EMAIL, PASSWORD, ROOT, needs_garminconnect
from tests.fork_server import python_command
from tests.markdown import PAGES, blocks
from tests.test_tutorial import alike, environment

TUTORIAL = ROOT / "docs" / "tutorial.md"  # test_tutorial.py follows it.
LANGUAGES = {"python", "console", "html", "ini", "cron", "json", "yaml", "toml"}
PATIENCE = 300  # seconds
SITE_SETTINGS = """
import os
INSTALLED_APPS += ["garmin_auth"]
FERNET_KEYS = ["the new key", "the present key"]
LOGIN_URL = "admin:login"
CACHES = {"default": {
    "BACKEND": "django.core.cache.backends.filebased.FileBasedCache", "LOCATION": BASE_DIR / "cache"
}}
GARMIN_AUTH_PROXIES = {"https": os.environ["GARMIN_SIMULATOR_PROXY"]}
GARMIN_AUTH_CA_BUNDLE = os.environ["GARMIN_SIMULATOR_CA_BUNDLE"]
"""
SITE_URLS = """
from django.contrib import admin
from django.urls import include, path
urlpatterns = [path("admin/", admin.site.urls), path("garmin/", include("garmin_auth.urls"))]
"""
PEOPLE = """
from django.contrib.auth import get_user_model
from garmin_auth.login import import_session, start_login
import sys
for name, token in zip(("ana", "ben"), sys.stdin.read().split()):
    user = get_user_model().objects.create_user(name, f"{name}@mysite.example", "password")
    import_session(user, token, engine="garth")
"""


def runnable(page):
    return [block for block in blocks(page) if "not run" not in block.marks]


def name(page):
    return str(page.relative_to(ROOT))


RUN = [page for page in PAGES if page != TUTORIAL and runnable(page)]


# Everything is run


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_is_run_or_says_why_not(page):
    unknown = [
        str(block)
        for block in blocks(page)
        if block.language not in LANGUAGES and not block.marks.get("not run", "").strip()
    ]
    assert unknown == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_shell_block_has_a_command(page):
    shells = [block for block in blocks(page) if block.language == "console"]
    assert [str(block) for block in shells if not block.commands] == []


@dataclasses.dataclass
class Site:
    """A site of its own, whose Garmin is a simulator, with two users who are connected."""

    folder: Path
    home: Path
    garmin: GarminSimulator
    commands: Path

    def run(self, command, given=None):
        return subprocess.run(
            command,
            shell=True,
            cwd=self.folder,
            env={
                **(ours := environment()),
                **self.garmin.environment,
                "HOME": str(self.home),
                "PATH": f"{self.commands}{os.pathsep}{ours['PATH']}",
            },
            input=given,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def copy(self, folder):
        shutil.copytree(self.folder, folder)
        return dataclasses.replace(self, folder=folder)


@pytest.fixture(scope="module")
def new_site(tmp_path_factory, fork_server):
    names = ("site", "home", "commands")
    folder, home, commands = (tmp_path_factory.mktemp(name) for name in names)
    with GarminSimulator() as garmin, python_command(fork_server, commands):
        site = Site(folder, home, garmin, commands)
        call_command("startproject", "mysite", str(folder), verbosity=0)
        with (folder / "mysite" / "settings.py").open("a") as settings:
            settings.write(SITE_SETTINGS)
        (folder / "mysite" / "urls.py").write_text(SITE_URLS)
        for email in ("ana@example.com", "ben@example.com"):
            garmin.add_account(email, PASSWORD)
        tokens = [garmin.issue_session(f"{name}@example.com") for name in ("ana", "ben")]
        made = site.run(
            f"python manage.py migrate -v 0 && python manage.py shell -c '{PEOPLE}'",
            "\n".join(tokens),
        )
        assert made.returncode == 0, made.stderr
        write_folders(site)
        yield site


def write_folders(site):
    """What garth, garminconnect and Garmin's own client leave in a user's home."""
    from tests.management.test_import_command import decode, write_folder

    oauth1, oauth2 = decode(site.garmin.issue_session("ana@example.com"))
    write_folder(site.home / ".garth", oauth1, oauth2)
    (site.folder / "tokens").mkdir()
    write_folder(site.folder / "tokens" / "ana", oauth1, oauth2)
    (site.home / ".garminconnect").mkdir()
    tokens = site.garmin.issue_session("ana@example.com", "garminconnect")
    (site.home / ".garminconnect" / "garmin_tokens.json").write_text(tokens)
    (site.home / ".config" / "garmin").mkdir(parents=True)
    key = site.garmin.add_key("ana@example.com")
    (site.home / ".config" / "garmin" / "connect-personal-api-key").write_text(f"{key}\n")


@pytest.fixture
def site(new_site, tmp_path):
    return new_site.copy(tmp_path / "site")


class Names(dict):
    """What a Python block may take for granted; the newest code too, as a person would have it."""

    def __missing__(self, name):
        if name == "code":
            return self["garmin"].mfa_code(EMAIL)
        if name == "key":
            return self["garmin"].add_key(EMAIL)
        raise KeyError(name)


@pytest.fixture
def names(user, connect, garmin, mfa_account):
    connect(user, "ana.connected@example.com")
    return Names(
        email=EMAIL, password=PASSWORD, user=user, garmin=garmin, path=path, include=include
    )


@pytest.fixture(autouse=True)
def receivers():
    """What a block connects is disconnected."""
    all_signals = [value for value in vars(signals).values() if isinstance(value, signals.Signal)]
    before = {signal: signal.receivers[:] for signal in all_signals}
    yield
    for signal, connected in before.items():
        signal.receivers[:] = connected
        signal.sender_receivers_cache.clear()


@pytest.mark.django_db
@pytest.mark.parametrize("page", RUN, ids=name)
def test_a_page_does_what_it_says(page, site, names, settings, client, user):
    if "python" in {block.language for block in runnable(page) if not block.title}:
        settings.GARMIN_AUTH_ENGINE = "garth"
    for block in runnable(page):
        missing = block.marks.get("needs")
        if missing and importlib.util.find_spec(missing) is None:
            continue
        run(block, site, names)
    if (site.folder / "templates").exists():
        see_pages(site.folder / "templates", settings, client, user)


def is_plain_python(block):
    return block.language == "python" and not block.title and "def test_" not in block.text


@needs_garminconnect
@pytest.mark.django_db
@pytest.mark.parametrize(
    "page", [page for page in RUN if any(map(is_plain_python, runnable(page)))], ids=name
)
def test_what_a_page_says_in_python_is_true_of_garminconnect_too(
    page, site, user, garmin, mfa_account, settings, monkeypatch
):
    settings.GARMIN_AUTH_ENGINE = "garminconnect"
    for end in ("MIN_S", "MAX_S"):
        monkeypatch.setattr(f"garminconnect.client.sso.MOBILE_DELAY_{end}", 0.01)
    garmin.add_account("ana.connected@example.com", PASSWORD)
    import_session(user, garmin.issue_session("ana.connected@example.com", "garminconnect"))
    names = Names(
        # Not what the test above has: Celery knows tasks by the names of their modules.
        __name__="said_of_garminconnect",
        email=EMAIL,
        password=PASSWORD,
        user=user,
        garmin=garmin,
        path=path,
        include=include,
    )

    for block in filter(is_plain_python, runnable(page)):
        run(block, site, names)


def run(block, site, names):
    """Run a block, in the way that its language has."""
    if block.title:
        block.write_to(site.folder)
    match block.language:
        case "console":
            run_shell(block, site)
        case "cron":
            run_crontab(block, site)
        case "ini":
            run_unit(block, site)
        case "json":
            json.loads(block.text)
        case "toml":
            tomllib.loads(block.text)
        case "yaml":
            yaml.safe_load(block.text)
        case "html":
            engines["django"].from_string(block.text)
        case "python":
            code = compile(block.text, str(block), "exec")
            if not block.title:
                run_python(block, code, names, site)


def run_python(block, code, names, site):
    """Here, with a connected user; a block of tests in a file of the site's, by pytest."""
    tests = re.findall(r"^def (test_\w+)", block.text, re.M)
    if tests:
        (site.folder / "test_block.py").write_text(block.text)
        (site.folder / "conftest.py").write_text(
            "import pytest\n\n\n@pytest.fixture\ndef user(db, django_user_model):\n"
            "    return django_user_model.objects.create_user('ana')\n"
        )
        run_command(
            "DJANGO_SETTINGS_MODULE=mysite.settings python -m pytest -q test_block.py", site
        )
        return
    cache.clear()
    exec(code, names)
    settings = {key for key in names if key.startswith("GARMIN_AUTH_")}
    assert settings <= {f"GARMIN_AUTH_{key}" for key in vars(Settings) if key.isupper()}


def run_shell(block, site):
    """Run its commands; those that install are compared with setup.cfg, make's are not obeyed."""
    *_, (last, _) = block.commands
    for command, promised in block.commands:
        wanted = int(block.marks.get("exits", 0)) if command == last else 0
        said = run_command(command, site, wanted)
        for line in promised:
            assert any(alike(found, line) for found in said.splitlines()), f"{line!r} in {said}"


def run_command(command, site, wanted=0):
    if at_home := in_this_repository(command):
        site, command = dataclasses.replace(site, folder=ROOT), at_home
    done = site.run(command)
    said = done.stdout + done.stderr
    assert done.returncode == wanted, f"{command}: {said}"
    return said


def in_this_repository(command):
    """What to run of a command for contributors, without its effects; "" if it is none."""
    if command.startswith("make "):
        return f"{command} --dry-run"
    if command.startswith(".ci/"):
        return f"bash -n {command}"
    if module := re.match(r"\.venv/bin/python -m ([\w.]+)", command):
        if module[1] == "twine" and importlib.util.find_spec("pre_commit") is None:
            return "true"  # The extra [check] is not installed.
        return f"python -c 'import importlib.util as u; exit(not u.find_spec(\"{module[1]}\"))'"
    if command.startswith(".venv/bin/python manage.py makemigrations"):
        return f"{command.removeprefix('.venv/bin/')} --dry-run"
    return ""


def run_crontab(block, site):
    for line in block.text.splitlines():
        *times, command = line.split(None, 5)
        assert all(re.fullmatch(r"[\d*/,-]+", time) for time in times), line
        assert run_as_root_would(command, site) == "", "Cron would mail this after each run."


def run_unit(block, site):
    unit = ConfigParser(interpolation=None)
    unit.optionxform = str
    unit.read_string(block.text)
    if unit.has_option("Service", "ExecStart"):
        run_as_root_would(unit["Service"]["ExecStart"], site)


def run_as_root_would(command, site):
    """With the paths of the docs' site turned into those of ours."""
    command = command.replace("/srv/site/venv/bin/", "").replace("venv/bin/", "")
    command = command.replace("/srv/site", ".").replace("/var/log/", "./")
    return run_command(command, site)


def see_pages(folder, settings, client, user):
    """Open each of our pages within the templates that the page has made."""
    [template] = settings.TEMPLATES
    settings.TEMPLATES = [{**template, "DIRS": [folder]}]
    client.force_login(user)
    for page in ("", "login/"):
        assert "/garmin/" in client.get(f"/garmin/{page}").content.decode()


# Installing, which is not run


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_extra_that_is_installed_is_one(page):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    named = re.findall(r"django-garmin-auth\[([\w,]+)\]", page.read_text())
    extras = {extra for several in named for extra in several.split(",")}
    assert extras <= set(setup["options.extras_require"])


# Nothing is missing

TROUBLE = (ROOT / "docs/how-to/troubleshooting.md").read_text()


def plain(text):
    """Text as it reads: on one line, without quotation marks and numbers."""
    return " ".join(re.sub(r"\d+", "N", re.sub(r"^> ?", "", text, flags=re.M)).split())


def section(title, text=TROUBLE):
    """The text under a heading, up to the next one that is as high."""
    level, _, _ = title.partition(" ")
    return re.split(rf"^#{{2,{len(level)}}} ", text.split(f"\n{title}\n")[1], flags=re.M)[0]


def all_errors():
    """An error of each class, or several where their sentences differ."""
    for kind in vars(exceptions).values():
        if not (inspect.isclass(kind) and issubclass(kind, exceptions.GarminAuthError)):
            continue
        if kind in (exceptions.ChallengeExpired, exceptions.InvalidKey):
            yield from (kind(reason) for reason in re.findall(r"``\"(\w+)\"``", kind.__doc__))
        elif issubclass(kind, exceptions.RateLimited):
            yield from ([kind(600)] if kind is exceptions.LoginThrottled else [kind(), kind(600)])
        elif kind is exceptions.InvalidMFACode:
            yield kind(3)
        elif kind is exceptions.GarminRequestError:
            yield kind(404)
        else:
            yield kind()


@pytest.mark.parametrize("error", [*all_errors()], ids=lambda error: type(error).__name__)
def test_every_sentence_that_users_see_is_explained(error):
    with translation.override("en"):
        assert plain(str(error.user_message)) in plain(TROUBLE)


def test_every_sentence_that_is_explained_to_users_is_one_of_ours():
    """A sentence that nobody sees any more would be looked up by nobody."""
    quoted = re.findall(r"(?:^> .*\n)+", section("## What users see"), re.M)
    with translation.override("en"):
        ours = {plain(str(error.user_message)) for error in all_errors()}
    assert len(quoted) > 15
    assert {plain(quote) for quote in quoted} - ours == set()


@pytest.mark.parametrize(
    "sentence", re.findall(r"^\| ([A-Z].{30,}?) \|", section("### `check_garmin_sessions`"), re.M)
)
def test_every_sentence_of_the_check_that_is_explained_is_one_of_ours(sentence):
    modules = (check_garmin_sessions, _check_formats)
    source = " ".join(" ".join(map(inspect.getsource, modules)).split()).replace('" "', "")
    words = re.split(r" …|: …", sentence)[0].removeprefix("The run stopped early. ")
    assert plain(words) in plain(source)


@pytest.mark.parametrize("kind", sorted({type(error).__name__ for error in all_errors()}))
def test_every_exception_has_a_heading(kind):
    assert re.search(rf"^### .*`{kind}`", TROUBLE, re.M)


def test_every_system_check_is_explained_and_no_other():
    ids = set(re.findall(r'_id\("([EW]\d+)"\)', inspect.getsource(checks)))
    assert set(re.findall(r"^### `garmin_auth\.([EW]\d+)`$", TROUBLE, re.M)) == ids


@pytest.mark.parametrize(
    "command",
    [name for name, app in get_commands().items() if app == "garmin_auth"],
)
def test_every_exit_code_is_explained_and_no_other(command):
    module = inspect.getmodule(load_command_class("garmin_auth", command))
    codes = {value for key, value in vars(module).items() if key.startswith("EXIT_")}
    documented = re.findall(r"^\| (\d) \|", section(f"### `{command}`"), re.M)
    assert {int(code) for code in documented} == {0, 1, 2} | codes


@pytest.mark.parametrize("sentence", [*check_garmin_sessions.STOPPED.values()])
def test_every_reason_to_stop_is_explained(sentence):
    assert plain(sentence) in plain(TROUBLE)


def test_every_key_of_the_checks_json_is_in_the_reference():
    text = (ROOT / "docs/reference/commands.md").read_text()
    assert [key for key in Report().as_dict() if f"`{key}`" not in text] == []


def test_every_state_is_explained():
    text = (ROOT / "docs/how-it-works.md").read_text()
    assert all(f"| `{status}` |" in text for status in Status.values)
    assert all(f"`{reason}`" in text for reason in EndedReason.values)


def test_the_table_of_settings_has_their_defaults(settings, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    from generate import generate

    settings.GARMIN_AUTH_MFA_TTL = 1
    assert "| `GARMIN_AUTH_MFA_TTL` | `600` |" in generate("settings")


def test_every_command_is_in_the_reference_and_no_other():
    text = (ROOT / "docs/reference/commands.md").read_text()
    ours = {name for name, app in get_commands().items() if app == "garmin_auth"}
    assert set(re.findall(r"^<!-- generated: command (\w+) -->$", text, re.M)) == ours


def test_every_signal_is_in_the_reference_with_its_arguments():
    text = (ROOT / "docs/reference/signals.md").read_text()
    source = inspect.getsource(signals)
    for comment, signal in re.findall(r"((?:^#:.*\n)+)(\w+) = Signal\(\)", source, re.M):
        row = next(line for line in text.splitlines() if line.startswith(f"| `{signal}` |"))
        arguments = re.findall(r"``(\w+)``", comment.partition("Arguments:")[2])
        assert [a for a in arguments if a != "user" and f"`{a}`" not in row] == []


def test_every_url_is_in_the_reference_and_no_other():
    text = (ROOT / "docs/reference/pages.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `?`?([\w/.<>]*)`?`? \| \w+", text, re.M)
    assert dict(rows) == {url.name: re.sub(r"<\w+:", "<", str(url.pattern)) for url in urlpatterns}


def test_every_template_is_in_the_reference():
    text = (ROOT / "docs/reference/pages.md").read_text()
    folder = ROOT / "garmin_auth" / "templates"
    names = {str(file.relative_to(folder)) for file in folder.rglob("*.*")}
    assert {name for name in names if f"`{name}`" not in text} == set()


def test_the_settings_are_generated():
    text = (ROOT / "docs/reference/settings.md").read_text()
    assert "<!-- generated: settings -->" in text


def test_the_generated_tables_are_of_all_settings_and_arguments(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    from generate import generate

    table = generate("settings")
    assert all(f"`GARMIN_AUTH_{key}`" in table for key in vars(Settings) if key.isupper())
    table = generate("command rotate_garmin_keys")
    assert "| `--batch-size N` | rows held in memory at a time (default: 500) |" in table


def imported_names():
    """What the snippets of README and docs import from this app."""
    for page in PAGES:
        for block in blocks(page):
            tree = ast.parse(block.text) if block.language == "python" else None
            for node in ast.walk(tree) if tree else ():
                if isinstance(node, ast.ImportFrom) and str(node.module).startswith("garmin_auth"):
                    yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("imported", sorted(set(imported_names())))
def test_every_name_that_a_snippet_imports_is_in_the_reference(imported):
    pages = [page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md")]
    text = "\n".join(pages)
    if inspect.isclass(getattr(exceptions, imported, None)):
        assert ".. automodule:: garmin_auth.exceptions" in text
        return
    assert re.search(rf"(^\.\. auto\w+:: [\w.]+\.{imported}$)|`[\w.]*\b{imported}\b", text, re.M)


@pytest.mark.parametrize("status", [*EndedReason, *Status])
def test_every_state_of_a_row_is_in_the_reference(status):
    text = (ROOT / "docs/reference/python.md").read_text()
    assert status is Status.NONE or f"{status.name}`" in text


# The site

SPHINX = [sys.executable, "-m", "sphinx", "-E", "-W", "--keep-going", "-q"]


@pytest.mark.skipif(
    importlib.util.find_spec("sphinx") is None, reason="the extra [docs] is not installed"
)
def test_the_site_is_built_and_asks_nobody_else(tmp_path):
    done = subprocess.run(
        [*SPHINX, "-d", tmp_path / "trees", "docs", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    site = tmp_path / "site"
    pages = "".join(page.read_text() for page in site.rglob("*.html"))
    loaded = r'<(?:script|link|img|iframe)[^>]*(?:src|href)="?(?:https?:)?//[^">]*'
    assert re.findall(loaded, pages) == []
    assert "generated:" not in pages
    assert "GARMIN_AUTH_LEASE" in (site / "reference" / "settings.html").read_text()
    missing = [p for p in (ROOT / "docs").rglob("*.md") if not built(p, site).exists()]
    assert missing == []


def built(page, site):
    return site / page.relative_to(ROOT / "docs").with_suffix(".html")


PAGE_TEMPLATES = {
    "": "status.html",
    "login/": "login.html",
    "mfa/": "mfa.html",
    "progress/": "progress.html",
}


@pytest.mark.django_db
@pytest.mark.parametrize("page", PAGE_TEMPLATES)
def test_every_variable_of_the_pages_is_in_the_reference(page, client, user, mfa_account, settings):
    settings.GARMIN_AUTH_ENGINE = "garth"
    if page == "mfa/":
        start_login(user, EMAIL, PASSWORD)
    if page == "progress/":
        GarminAuthenticationState.objects.begin_login(user.pk, "login", 60)
    client.force_login(user)
    text = (ROOT / "docs/reference/pages.md").read_text()

    context = client.get(f"/garmin/{page}").context_data

    row = re.search(rf"`garmin_auth/{PAGE_TEMPLATES[page]}`.*", text)[0]
    if "as `status.html`" in row or "the same" in row:
        row += re.search(r"`garmin_auth/status.html`.*", text)[0]
    assert [name for name in context if name != "view" and f"`{name}`" not in row] == []
