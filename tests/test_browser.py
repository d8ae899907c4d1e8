"""The pages in a real browser: by keyboard alone, narrow and wide, light and dark, CSP on."""

import os
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings as django_settings
from django.utils import timezone

from garmin_auth import pauses
from garmin_auth.exceptions import InvalidCredentials
from garmin_auth.failures import to_record
from garmin_auth.forms import MFAForm
from garmin_auth.health import Outcome, check_session
from garmin_auth.login import MFARequired, start_login
from garmin_auth.models import EndedReason, GarminAuthenticationState

from .browser import (
    SCHEMES,
    SIZES,
    chromium,
    focused,
    kept_port,
    screenshot,
    tab_to,
)
from .conftest import EMAIL, PASSWORD, state_of
from .services import why_not_browser
from .test_models import spoil

if reason := why_not_browser():
    pytest.skip(reason, allow_module_level=True)

states = GarminAuthenticationState.objects
PATIENCE = 60  # seconds, for a busy machine


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
        page.set_default_timeout(PATIENCE * 1000)
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


def type_password(page, password, email=EMAIL):
    if page.input_value("input[type=email]") != email:
        tab_to(page, "Garmin e-mail address")
        page.keyboard.type(email)
    tab_to(page, "Garmin password")
    page.keyboard.type(password)
    page.keyboard.press("Enter")


def alert(page):
    """Return the text of the alert, which has the focus."""
    # While a document is new, nothing is active.
    page.wait_for_function("document.activeElement?.getAttribute('role') === 'alert'")
    return page.inner_text("[role=alert]")


def wait_for_code_field(page):
    """Wait until the field has the focus, which it gets at the page's first frame."""
    page.wait_for_function("document.activeElement?.name === 'code'")


def type_code(page, code):
    wait_for_code_field(page)
    page.keyboard.type(code)
    page.keyboard.press("Enter")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", SIZES)
def test_the_journey_by_keyboard(open_page, garmin, mfa_account, user, size, scheme):
    page = open_page(size=size, scheme=scheme)
    tab_to(page, "Connect your Garmin account")
    page.keyboard.press("Enter")
    page.wait_for_url("**/login/")

    # A wrong password.
    type_password(page, "wrong")
    assert "did not accept this e-mail address and password" in alert(page)
    assert page.input_value("input[type=password]") == ""
    assert page.input_value("input[type=email]") == EMAIL

    # A pause, and its end.
    garmin.fail("login", "rate_limited", retry_after=2)
    with page.expect_navigation():
        type_password(page, PASSWORD)
    assert "You can try again from" in alert(page)
    page.wait_for_timeout(2000)

    # A code whose time is over.
    page.clock.install()
    type_password(page, PASSWORD)
    page.wait_for_url("**/mfa/")
    wait_for_code_field(page)
    assert focused(page) == "Code from Garmin"
    states.update(mfa_started_at=timezone.now() - timedelta(hours=1))
    page.clock.fast_forward(601_000)
    page.wait_for_selector("text=The time for this code is over")
    assert focused(page) == "Log in again"
    page.keyboard.press("Enter")
    page.wait_for_url("**/login/")

    # A wrong code, and the right one.
    type_password(page, PASSWORD)
    page.wait_for_url("**/mfa/")
    type_code(page, "000000")
    page.wait_for_selector("[aria-invalid=true]")
    wait_for_code_field(page)
    assert focused(page) == "Code from Garmin"
    described = page.get_attribute("input[name=code]", "aria-describedby").split()
    assert any("did not accept" in page.inner_text(f"#{part}") for part in described)
    type_code(page, garmin.mfa_code(EMAIL))
    page.wait_for_url("**/garmin/")
    assert "Your Garmin account is connected." in page.inner_text("[role=status]")
    assert EMAIL in page.inner_text("main")

    # Garmin ends the session.
    garmin.revoke(EMAIL)
    assert check_session(user).outcome is Outcome.EXPIRED
    page.reload()
    assert "Ended by Garmin" in page.inner_text("main")
    tab_to(page, "Connect again")
    page.keyboard.press("Enter")
    page.wait_for_url("**/login/")
    type_password(page, PASSWORD)
    page.wait_for_url("**/mfa/")
    type_code(page, garmin.mfa_code(EMAIL))
    page.wait_for_url("**/garmin/")

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

    page.wait_for_url("**/garmin/")


def test_a_code_whose_time_is_over_says_so_without_a_reload(
    open_page, garmin, mfa_account, user, settings
):
    settings.GARMIN_AUTH_MFA_TTL = 2
    start_login(user, EMAIL, PASSWORD)
    page = open_page("/garmin/mfa/")

    page.wait_for_selector("text=The time for this code is over")


def test_where_no_second_is_left_for_a_code_the_focus_is_not_lost(
    open_page, garmin, mfa_account, user, monkeypatch
):
    monkeypatch.setattr(MFARequired, "seconds_left", 0)
    # The script may run before the browser heeds autofocus. Without it, that is always so.
    monkeypatch.delitem(MFAForm.base_fields["code"].widget.attrs, "autofocus")
    start_login(user, EMAIL, PASSWORD)
    page = open_page("/garmin/mfa/")

    page.wait_for_selector("#ga-said:has-text('The time for this code is over')")
    assert focused(page) == "Log in again"


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
        now = timezone.now()
        if name in ("status_connected", "status_leaving", "status_ends_soon", "status_overdue"):
            connect(user)
            left = {"status_ends_soon": 9, "status_overdue": -1}.get(name, 325)
            states.update(
                connected_at=now - timedelta(days=365 - left),
                session_ends_at=now + timedelta(days=left),
                last_validated=now - timedelta(hours=3),
            )
        elif name == "status_unreadable":
            connect(user)
            spoil(user)
        elif name in ("status_under_way", "progress"):
            states.begin_login(user.pk, "a login", 600)
        elif name == "status_login_failed":
            states.begin_login(user.pk, "a login", 600)
            states.fail_login(user.pk, "a login", to_record(InvalidCredentials("wrong")))
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
        elif name == "login_site_paused":
            pauses.begin(pauses.SITE, 1800)
        if name == "mfa_over":
            states.update(mfa_started_at=now - timedelta(hours=1))
        step = name.partition("_")[0]
        page = open_page(PATHS.get(step, f"/garmin/{step}/"), **options)
        if name in ("login_wrong", "login_paused"):
            login_fails(page)
        elif name == "status_leaving":
            page.click("summary")
        elif name == "mfa_wrong":
            page.fill("input[name=code]", "000000")
            page.keyboard.press("Enter")
            page.wait_for_selector("[aria-invalid=true]")
        return page

    return show


PATHS = {"status": "/garmin/", "progress": "/garmin/login/progress/"}
PAGES = (
    "status_never",
    "status_connected",
    "status_leaving",
    "status_ends_soon",
    "status_overdue",
    "status_ended",
    "status_unreadable",
    "status_disconnected",
    "status_waiting",
    "status_under_way",
    "status_login_failed",
    "login",
    "login_wrong",
    "login_paused",
    "login_site_paused",
    "progress",
    "mfa",
    "mfa_wrong",
    "mfa_over",
)
# Which the docs show wide and light, and narrow and dark; and which only wide and light.
IN_THE_DOCS = {
    "status_never": SIZES,
    "status_connected": SIZES,
    "status_leaving": ["wide"],
    "status_ends_soon": ["wide"],
    "status_ended": SIZES,
    "status_unreadable": ["wide"],
    "status_waiting": ["wide"],
    "status_under_way": ["wide"],
    "status_login_failed": ["wide"],
    "login": SIZES,
    "login_wrong": ["wide"],
    "login_paused": ["wide"],
    "login_site_paused": ["wide"],
    "progress": SIZES,
    "mfa": SIZES,
    "mfa_wrong": SIZES,
    "mfa_over": ["wide"],
}


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
            pictured = (size, scheme) in (("wide", "light"), ("narrow", "dark"))
            if pictured and size in IN_THE_DOCS.get(name, ()):
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

    until = page.get_attribute("[role=alert] time", "datetime")
    left = datetime.fromisoformat(until) - datetime.now(UTC)
    assert timedelta(minutes=28) < left < timedelta(minutes=31)


# The admin


@pytest.fixture
def dozen(django_user_model, connect, transactional_db):
    """Connect a dozen people, and bring them into several states; return the first."""
    now = timezone.now()
    names = "ana ben cleo dora emil finn gita hugo ines jonas kira liam"
    people = {name: django_user_model.objects.create_user(name) for name in names.split()}

    def change(name, **values):
        states.filter(user=people[name]).update(**values)

    for number, (name, person) in enumerate(people.items()):
        row = connect(person, f"{name}@example.com")
        change(
            name,
            engine="garminconnect" if number % 2 else "garth",
            connected_at=now - timedelta(days=20 * number + 2),
            session_ends_at=now + timedelta(days=363 - 20 * number),
            last_validated=now - timedelta(minutes=7 + number * number * 50),
            last_checked_at=now - timedelta(minutes=7),
            updated_at=now - timedelta(minutes=7 * number),
        )
        if name in ("cleo", "kira"):
            states.expire_session(row.pk, row.session_version)
        elif name == "emil":
            states.disconnect(person.pk, EndedReason.USER)
        elif name == "gita":
            states.disconnect(person.pk, EndedReason.STAFF)
    states.begin_challenge(people["dora"].pk, "{}")
    states.begin_challenge(people["emil"].pk, "{}")
    states.begin_login(people["finn"].pk, "a login", 600)
    change("hugo", session_ends_at=now + timedelta(days=9))
    change("ines", last_validated=now - timedelta(days=12))
    change("jonas", engine="another")
    spoil(people["liam"])
    return people["ana"]


@pytest.fixture
def port():
    with kept_port() as port:
        yield port


@pytest.fixture
def admin_page(browser, start_python, port, site, django_user_model, client, dozen):
    """Open a page of the admin, with its styles and CSP on, from a server in another process.

    Returns the page, and what its console has complained of.
    """
    admin = django_user_model.objects.create_superuser("admin", password="admin")
    client.force_login(admin)
    server = start_python(
        *("manage.py", "runserver", f"127.0.0.1:{port}", "--noreload", "--skip-checks"),
        **site(
            "from tests.demo_settings import *",
            "MIDDLEWARE = ['tests.browser.StrictPolicy', *MIDDLEWARE]",
        ),
    )
    url = f"http://127.0.0.1:{port}"
    gives_up_at = time.monotonic() + 2 * PATIENCE
    while True:
        assert server.poll() is None, server.communicate()[1]
        assert time.monotonic() < gives_up_at
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        time.sleep(0.1)
    context = browser.new_context(viewport=SIZES["wide"])
    name = django_settings.SESSION_COOKIE_NAME
    context.add_cookies([{"name": name, "value": client.cookies[name].value, "url": url}])
    page, complaints = context.new_page(), []
    page.set_default_timeout(PATIENCE * 1000)
    page.on(
        "console",
        lambda message: (
            message.location.get("url", "").endswith("/favicon.ico")
            or complaints.append(message.text)
        ),
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))

    def admin_page(path, scheme="light"):
        complaints.clear()
        page.emulate_media(color_scheme=scheme)  # Before: Django's colours change slowly.
        response = page.goto(f"{url}/admin/{path}")
        assert response.status == 200
        assert "script-src 'self'" in response.headers["content-security-policy"]
        return page, complaints

    yield admin_page
    context.close()


STATES = "garmin_auth/garminauthenticationstate/"


def test_the_admin_is_as_accessible_as_djangos_own_and_keeps_the_policy(admin_page, dozen):
    from axe_playwright_python.sync_playwright import Axe

    def violations(path):
        found, said = set(), []
        for scheme in SCHEMES:
            page, complaints = admin_page(path, scheme)
            assert page.locator("#content h1, #content h2").count()
            said += complaints
            for size, viewport in SIZES.items():
                page.set_viewport_size(viewport)
                rules = Axe().run(page).response["violations"]
                found |= {(size, scheme, rule["id"]) for rule in rules}
        return found, said

    for ours, bare in (
        (STATES, "auth/user/"),
        (f"{STATES}?_facets=True", "auth/user/?_facets=True"),
        (f"{STATES}{state_of(dozen).pk}/change/", "auth/group/add/"),
    ):
        accepted, _ = violations(bare)
        found, complaints = violations(ours)
        assert found <= accepted, ours
        assert complaints == [], ours


def test_the_admin_shows_every_state_at_a_glance(admin_page):
    page, _complaints = admin_page(f"{STATES}?_facets=True")

    assert page.locator("#result_list tbody tr").count() == 12
    assert page.locator(".ga-figures progress").first.bounding_box()["width"] > 50
    for wide in ("documentElement", "querySelector('.results')"):
        assert page.evaluate(f"document.{wide}.scrollWidth <= document.{wide}.clientWidth")
    screenshot(page, "admin", whole=True)
