"""A user's and the staff's journeys on a site as cookiecutter-django makes one, served by ASGI."""

import html
import json
import re

import pytest

from tests.conftest import EMAIL, PASSWORD
from tests.sites.browser import Browser

pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.every_database]
ADMIN = "/bYrJ5xqMgS/garmin_auth/garminauthenticationstate/"
SET_UP = """
from django.contrib.auth import get_user_model
from django.core.management import call_command
call_command("migrate", verbosity=0)
call_command("collectstatic", verbosity=0, interactive=False)
people = get_user_model().objects
people.create_superuser("staff@site.example", "site password")
people.create_user("ana@site.example", "site password", name="Ana")
"""
SYNC = """
from django.contrib.auth import get_user_model
from garmin_auth.sessions import garmin_client
with garmin_client(get_user_model().objects.get(email="ana@site.example")) as client:
    print(client.connectapi("/userprofile-service/socialProfile")["userName"])
"""
ATTEMPTS = """
from garmin_auth.models import GarminAuthenticationState
print(GarminAuthenticationState.objects.get().mfa_attempts)
"""


@pytest.fixture
def cookiecutter(new_database, tmp_path, run_python):
    """The environment of the site's processes."""
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.sites.cookiecutter.settings",
        "GARMIN_AUTH_DATABASE_NAME": new_database,
        "GARMIN_AUTH_TEST_STATIC_ROOT": str(tmp_path / "staticfiles"),
    }
    run_python(SET_UP, **environment)
    return environment


@pytest.fixture
def visit(cookiecutter, serve, tmp_path):
    """Return browsers of people who have logged in, by e-mail address. The site has TLS."""
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "site.pem")
    url = serve(
        *("-m", "uvicorn", "--port", "0", "--ssl-certfile", tmp_path / "site.pem"),
        *("--ssl-keyfile", tmp_path / "site.pem", "tests.sites.cookiecutter.asgi:application"),
        **cookiecutter,
    )
    return lambda email: Browser(url, verify=str(tmp_path / "ca.pem")).log_in(email)


def words_of(page):
    """The words of a page, without its markup."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page.text)).split())


def test_connect_with_a_code_sync_check_and_look_at_it_in_the_admin(
    visit, cookiecutter, mfa_account, garmin, run_python, start_python
):
    ana = visit("ana@site.example")
    ana.begin_to_connect(EMAIL, PASSWORD)
    ana.give_code(garmin.mfa_code(EMAIL))
    garmin.expire_access_tokens()

    assert run_python(SYNC, **cookiecutter) == EMAIL

    command = start_python("manage.py", "check_garmin_sessions", "--format", "json", **cookiecutter)
    output, errors = command.communicate(timeout=60)
    assert command.returncode == 0, errors
    assert json.loads(output)["active"] == 1

    staff = visit("staff@site.example")
    found = staff.get(f"{ADMIN}?q=Ana")
    assert "ana@site.example connected garth" in words_of(found)
    [pk] = re.findall(r'name="_selected_action" value="(\d+)"', found.text)
    done = staff.submit(ADMIN, action="check_now", _selected_action=pk)
    assert "“ana@site.example”: The connection works." in words_of(done)
    person = staff.get("/bYrJ5xqMgS/users/user/2/change/")
    state = '<span class="ga-state ga-good">connected</span>'
    assert f'<a href="{ADMIN}{pk}/change/">{state}</a>' in person.text
    assert "The connection works." in words_of(staff.get(f"{ADMIN}{pk}/history/"))


def test_static_files_are_served_by_their_hashed_names(visit):
    ana = visit("ana@site.example")

    files = re.findall(r'"(/static/garmin_auth/[^"]+)"', ana.get("/garmin/").text)

    assert len(files) == 3
    for file in files:
        assert re.search(r"\.[0-9a-f]{12}\.(css|js)$", file)
        assert "immutable" in ana.get(file).headers["Cache-Control"]


def test_a_wrong_code_is_counted_under_atomic_requests(
    visit, cookiecutter, mfa_account, garmin, run_python
):
    ana = visit("ana@site.example")
    ana.begin_to_connect(EMAIL, PASSWORD)

    page = ana.submit("/garmin/mfa/", code="000000")

    assert page.url.endswith("/garmin/mfa/")
    assert run_python(ATTEMPTS, **cookiecutter) == "1"
    ana.give_code(garmin.mfa_code(EMAIL))
