"""The front end of the how-to in a real browser, with the site's session and with a token."""

import os

import pytest
from django.conf import settings as django_settings

from garmin_auth.accounts import account_of
from tests import demo_urls
from tests.browser import SCHEMES, SIZES, chromium
from tests.conftest import EMAIL, PASSWORD, ROOT, needs_personal
from tests.markdown import blocks
from tests.services import why_not_browser
from tests.test_views import another_code
from tests.waiting import wait_for_logins

if reason := why_not_browser():
    pytest.skip(reason, allow_module_level=True)
pytestmark = pytest.mark.django_db(transaction=True)

PATIENCE = 60_000  # ms, for a busy machine
PAGE = ROOT / "docs" / "how-to" / "api.md"


def block_of(title):
    (block,) = [each for each in blocks(PAGE) if each.title == title]
    return block.text


@pytest.fixture(scope="module")
def browser():
    # Playwright's loop runs in this thread, and Django thinks that the tests run in it.
    before = os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE")
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    with chromium() as browser:
        yield browser
    os.environ.pop("DJANGO_ALLOW_ASYNC_UNSAFE")
    if before is not None:
        os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = before


@pytest.fixture(params=["session", "token"])
def page(request, api_urls, live_server, browser, client, user, settings, tmp_path, monkeypatch):
    """The front end of a user; what the console complains of fails the test."""
    context = browser.new_context(viewport=SIZES["narrow"])
    if request.param == "session":
        client.force_login(user)
        name = django_settings.SESSION_COOKIE_NAME
        value = client.cookies[name].value
        context.add_cookies([{"name": name, "value": value, "url": live_server.url}])
    else:
        settings.GARMIN_AUTH_API_AUTHENTICATION = "tests.api.authentication.bearer"
        monkeypatch.setattr(demo_urls, "SPA", with_token(tmp_path / "spa.html"))
        context.add_init_script(f"sessionStorage.setItem('token', {user.username!r})")
    complaints = []
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{live_server.url}/spa/")
    yield page
    context.close()
    assert complaints == []


def with_token(path):
    """Write the front end with the function that the how-to has for tokens."""
    html = demo_urls.SPA.read_text()
    before = html[html.index("// The site's session") : html.index("async function send")]
    path.write_text(html.replace(before, block_of("with a token") + "\n"))
    return path


def wait_for(page, selector, text):
    page.locator(selector).filter(has_text=text).wait_for()


def fill(page, button, **fields):
    for name, value in fields.items():
        page.fill(f"#{name}", value)
    page.get_by_role("button", name=button).click()


def check_accessibility(page):
    from axe_playwright_python.sync_playwright import Axe

    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


def test_the_journey(page, user, mfa_account, garmin):
    wait_for(page, "#status", "Not connected.")
    check_accessibility(page)

    fill(page, "Connect", email=EMAIL, password="wrong")
    wait_for(page, "#problem", "did not accept this email address and password")
    check_accessibility(page)

    fill(page, "Connect", password=PASSWORD)
    wait_for(page, "#status", "Garmin has sent you a code.")
    assert page.inner_text("#problem") == ""
    check_accessibility(page)

    fill(page, "Send", code="12")
    wait_for(page, "#problem", "Enter the digits of the verification code")
    fill(page, "Send", code=another_code(garmin.mfa_code(EMAIL)))
    wait_for(page, "#problem", "You have 4 attempts left.")
    fill(page, "Cancel")
    wait_for(page, "#status", "Not connected.")

    fill(page, "Connect", email=EMAIL, password=PASSWORD)
    wait_for(page, "#status", "Garmin has sent you a code.")
    fill(page, "Send", code=garmin.mfa_code(EMAIL))
    wait_for(page, "#status", f"Connected. {EMAIL}")
    assert account_of(user).connected
    check_accessibility(page)

    fill(page, "Disconnect")
    wait_for(page, "#status", "Not connected.")
    assert not account_of(user).connected


def test_a_code_that_comes_too_late(page, user, mfa_account, garmin, settings):
    fill(page, "Connect", email=EMAIL, password=PASSWORD)
    wait_for(page, "#status", "Garmin has sent you a code.")
    settings.GARMIN_AUTH_MFA_TTL = 0.001

    fill(page, "Send", code=garmin.mfa_code(EMAIL))

    wait_for(page, "#problem", "This verification code has expired.")
    page.get_by_role("button", name="Connect", exact=True).wait_for()


def test_a_slow_login(page, user, account, gate):
    page.reload()  # The engine is another now.
    fill(page, "Connect", email=EMAIL, password=PASSWORD)
    wait_for(page, "#status", "Connecting …")
    check_accessibility(page)

    gate.set()
    wait_for(page, "#status", f"Connected. {EMAIL}")
    wait_for_logins()


@needs_personal
def test_a_key(page, user, account, garmin, settings):
    settings.GARMIN_AUTH_ENGINE = ["garth", "personal"]
    page.reload()
    page.select_option("#offer", label="Official: with a key from Garmin Connect")
    check_accessibility(page)

    fill(page, "Connect", key=garmin.add_key(EMAIL))

    page.get_by_role("button", name="Disconnect").wait_for()
    assert account_of(user).engine == "personal"


def test_the_how_to_shows_what_the_demo_serves():
    assert block_of("spa.html") == demo_urls.SPA.read_text()
