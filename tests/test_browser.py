"""The pages in a real browser: by keyboard alone, narrow and wide, light and dark, CSP on."""

import os
import re
from datetime import timedelta

import pytest
from django.conf import settings as django_settings
from django.utils import timezone

from garmin_auth import pauses
from garmin_auth.login import start_login
from garmin_auth.models import EndedReason, GarminAuthenticationState

from .browser import (
    SCHEMES,
    SIZES,
    chromium,
    focused,
    screenshot,
    tab_to,
)
from .conftest import EMAIL, PASSWORD, state_of
from .services import why_not_browser

if reason := why_not_browser():
    pytest.skip(reason, allow_module_level=True)

states = GarminAuthenticationState.objects


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


@pytest.fixture
def open_page(browser, live_server, client, user, settings):
    """Open a page as the user, in a window of some size and scheme; console errors fail the test.

    Only the server of the test may be asked.
    """
    settings.MIDDLEWARE = ["tests.browser.StrictPolicy", *settings.MIDDLEWARE]
    client.force_login(user)
    contexts, complaints = [], []

    def open_page(path="/garmin/", size="wide", scheme="light", **options):
        context = browser.new_context(viewport=SIZES[size], color_scheme=scheme, **options)
        contexts.append(context)
        session = client.cookies[django_settings.SESSION_COOKIE_NAME].value
        context.add_cookies(
            [
                {
                    "name": django_settings.SESSION_COOKIE_NAME,
                    "value": session,
                    "url": live_server.url,
                }
            ]
        )
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", note_message)
        page.on("pageerror", lambda error: note("error", str(error)))
        page.on("request", lambda request: note_request(request.url))
        page.goto(live_server.url + path)
        return page

    def note_message(message):
        # The icon is the site's, and the tests' site has none.
        if not message.location.get("url", "").endswith("/favicon.ico"):
            note(message.type, message.text)

    def note(kind, text):
        if kind in ("error", "warning"):
            complaints.append(text)

    def note_request(url):
        if not url.startswith((live_server.url, "data:")):
            complaints.append(f"asked for {url}")

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def check_accessibility():
    """Let axe-core look at a page."""
    from axe_playwright_python.sync_playwright import Axe

    def check(page):
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()

    return check


def heading(page):
    return page.locator("h1").inner_text()


# The journey, by keyboard alone


@pytest.mark.parametrize("size", SIZES)
def test_the_journey_by_keyboard(open_page, garmin, mfa_account, user, size):
    page = open_page(size=size)

    tab_to(page, "Connect your Garmin account")
    page.keyboard.press("Enter")
    page.wait_for_url("**/login/")
    tab_to(page, "Garmin e-mail address")
    page.keyboard.type(EMAIL)
    tab_to(page, "Garmin password")
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")

    page.wait_for_selector("[role=alert]")
    assert "did not accept this e-mail address and password" in page.inner_text("[role=alert]")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "alert"
    assert page.input_value("input[type=password]") == ""
    assert page.input_value("input[type=email]") == EMAIL

    tab_to(page, "Garmin password")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/mfa/")
    assert focused(page) == "Code from Garmin"

    page.keyboard.type("000000")
    page.keyboard.press("Enter")
    page.wait_for_selector("[aria-invalid=true]")
    assert focused(page) == "Code from Garmin"
    described = page.get_attribute("input[name=code]", "aria-describedby").split()
    assert any("did not accept" in page.inner_text(f"#{part}") for part in described)

    page.keyboard.type(garmin.mfa_code(EMAIL))
    page.keyboard.press("Enter")
    page.wait_for_url("**/garmin/")
    assert "Your Garmin account is connected." in page.inner_text("[role=status]")
    assert EMAIL in page.inner_text("main")

    tab_to(page, "Disconnect")
    page.keyboard.press("Enter")
    tab_to(page, "Disconnect my Garmin account")
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=status]:has-text('is disconnected')")
    assert not states.with_session().exists()


def test_a_slow_login_goes_on_by_itself(open_page, garmin, account, gate, user):
    page = open_page("/garmin/login/")
    page.fill("input[type=email]", EMAIL)
    page.fill("input[type=password]", PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/progress/")
    screenshot(page, "progress")

    gate.set()

    page.wait_for_url("**/garmin/")
    assert "Your Garmin account is connected." in page.inner_text("[role=status]")


def test_a_slow_login_goes_on_without_scripts(open_page, garmin, account, gate, user):
    page = open_page("/garmin/login/", java_script_enabled=False)
    page.fill("input[type=email]", EMAIL)
    page.fill("input[type=password]", PASSWORD)
    page.click("button:has-text('Connect')")
    page.wait_for_url("**/progress/")

    gate.set()

    page.wait_for_url("**/garmin/", timeout=15_000)


def test_a_code_whose_time_is_over_says_so_without_a_reload(
    open_page, garmin, mfa_account, user, settings
):
    settings.GARMIN_AUTH_MFA_TTL = 2
    start_login(user, EMAIL, PASSWORD)
    page = open_page("/garmin/mfa/")

    page.wait_for_selector("text=The time for this code is over", timeout=5_000)


# Each page, at each size, in each scheme


@pytest.fixture
def show(open_page, garmin, connect, user, other_user, mfa_account):
    """Bring the user into a state, and open the page that shows it."""

    def login_fails(page):
        page.fill("input[type=email]", EMAIL)
        page.fill("input[type=password]", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("[role=alert]")

    def show(name, **options):
        if name == "status_connected":
            connect(user)
            states.update(last_validated=timezone.now() - timedelta(hours=3))
        elif name == "status_ends_soon":
            connect(user)
            states.update(session_ends_at=timezone.now() + timedelta(days=9))
        elif name == "status_ended":
            connect(user)
            row = state_of(user)
            states.expire_session(row.pk, row.session_version)
        elif name == "status_disconnected":
            connect(user)
            states.disconnect(user.pk, EndedReason.USER)
        elif name in ("mfa", "status_waiting", "mfa_wrong", "mfa_over"):
            start_login(user, EMAIL, PASSWORD)
        elif name == "login_paused":
            pauses.begin(pauses.account_scope(EMAIL), 1800)
        if name == "mfa_over":
            states.update(mfa_started_at=timezone.now() - timedelta(hours=1))
        step = name.partition("_")[0]
        page = open_page({"status": "/garmin/"}.get(step, f"/garmin/{step}/"), **options)
        if name in ("login_wrong", "login_paused"):
            login_fails(page)
        elif name == "mfa_wrong":
            page.fill("input[name=code]", "000000")
            page.keyboard.press("Enter")
            page.wait_for_selector("[aria-invalid=true]")
        return page

    return show


PAGES = (
    "status_never",
    "status_connected",
    "status_ends_soon",
    "status_ended",
    "status_disconnected",
    "status_waiting",
    "login",
    "login_wrong",
    "login_paused",
    "mfa",
    "mfa_wrong",
    "mfa_over",
)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible_at_every_size_and_scheme(show, check_accessibility, name):
    page = show(name)
    for size, viewport in SIZES.items():
        page.set_viewport_size(viewport)
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            check_accessibility(page)
            wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
            assert not wide, f"{name} must be scrolled sideways at {size}"
            if (size, scheme) in (("wide", "light"), ("narrow", "dark")):
                screenshot(page, f"{name}-{size}-{scheme}")


def test_every_target_is_large_enough(show):
    """WCAG 2.2, 2.5.8: 24 by 24 CSS pixels, but for links within a sentence."""
    page = show("mfa", size="narrow")

    for box in page.locator("button, a.ga-button, input:not([type=hidden])").all():
        if box.is_visible():
            assert box.bounding_box()["height"] >= 24


def test_the_focus_can_be_seen(show):
    page = show("login")

    tab_to(page, "Garmin e-mail address")

    style = page.evaluate(
        "(({outlineStyle, outlineWidth, boxShadow}) => [outlineStyle, outlineWidth, boxShadow])"
        "(getComputedStyle(document.activeElement))"
    )
    assert style[0] != "none" or style[2] != "none"


def test_the_pause_is_told_until_when(show):
    page = show("login_paused")

    assert re.search(r"30 minutes|in half an hour", page.inner_text("[role=alert]"))


# The admin


@pytest.fixture
def admin_page(browser, start_python, django_user_model, client, connect, user, db):
    """Open a page of the admin, with its styles, from a server in another process."""
    import socket
    import time

    connect(user)
    admin = django_user_model.objects.create_superuser("admin", password="admin")
    client.force_login(admin)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start_python(
        *("manage.py", "runserver", f"127.0.0.1:{port}", "--noreload"),
        *("--settings", "tests.demo_settings", "--skip-checks"),
        DJANGO_SETTINGS_MODULE="tests.demo_settings",
    )
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.1)
    context = browser.new_context(viewport=SIZES["wide"])
    context.add_cookies(
        [
            {
                "name": django_settings.SESSION_COOKIE_NAME,
                "value": client.cookies[django_settings.SESSION_COOKIE_NAME].value,
                "url": f"http://127.0.0.1:{port}",
            }
        ]
    )
    page = context.new_page()
    yield lambda path: page.goto(f"http://127.0.0.1:{port}/admin/{path}") and page
    context.close()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("ours", "bare"),
    [
        ("garmin_auth/garminauthenticationstate/", "auth/user/"),
        ("garmin_auth/garminauthenticationstate/?_facets=True", "auth/user/?_facets=True"),
        ("garmin_auth/garminauthenticationstate/{pk}/change/", "auth/group/add/"),
    ],
)
def test_the_admin_is_as_accessible_as_djangos_own(admin_page, ours, bare, user):
    from axe_playwright_python.sync_playwright import Axe

    def violations(path):
        page = admin_page(path.format(pk=state_of(user).pk))
        assert page.locator("#content h1, #content h2").count()
        return {rule["id"]: rule for rule in Axe().run(page).response["violations"]}

    accepted = violations(bare)
    found = violations(ours)
    if "_facets" in ours:
        screenshot(admin_page(ours), "admin")

    assert set(found) <= set(accepted)
