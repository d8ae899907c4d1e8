"""The pages in a real browser: by keyboard alone, narrow and wide, light and dark, CSP on."""

import os
import re
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import django
import pytest
from django.conf import settings as django_settings
from django.contrib import admin
from django.core import mail
from django.utils import timezone
from pytest_django.live_server_helper import LiveServer

from garmin_auth.accounts import badge_of
from garmin_auth.exceptions import InvalidCredentials
from garmin_auth.forms import MFAForm
from garmin_auth.health import Outcome, check_session, check_sessions
from garmin_auth.limits import cooldown
from garmin_auth.login import MFARequired, start_login
from garmin_auth.logins.kept import KEPT
from garmin_auth.logins.records import to_record
from garmin_auth.models import EndedReason, GarminAuthenticationState
from garmin_auth.notices import mail_users
from garmin_auth.storage.keys import encrypt
from tests.browser import LOOKS, SCHEMES, SIZES, chromium, focused, kept_port, screenshot, tab_to
from tests.conftest import EMAIL, PASSWORD, ROOT, state_of
from tests.markdown import blocks
from tests.rows import damage
from tests.services import why_not_browser
from tests.test_notices import receivers  # noqa: F401 - a fixture

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
def middleware():
    """What the site has besides: here, the strictest Content-Security-Policy."""
    return "tests.browser.StrictPolicy"


@pytest.fixture
def live_server(transactional_db, settings, middleware):
    """A server of this test alone, for a server loads its middleware when it starts."""
    settings.MIDDLEWARE = [middleware, *settings.MIDDLEWARE]
    server = LiveServer("localhost")
    yield server
    server.stop()


@pytest.fixture
def nonces(settings):
    """A policy of Django's own, in which only a nonce lets a script or a style sheet load."""
    if django.VERSION < (6, 0):
        return
    from django.utils.csp import CSP

    settings.SECURE_CSP = {
        "default-src": [CSP.NONE],
        "script-src": [CSP.NONCE, CSP.STRICT_DYNAMIC],
        "style-src": [CSP.NONCE],
        "connect-src": [CSP.SELF],
        "img-src": [CSP.SELF],
        "form-action": [CSP.SELF],
        "base-uri": [CSP.NONE],
    }


# A parameter, because the server that is to have this middleware is made before `nonces`. Before
# Django 6.0, which has a policy of its own, it is the tests'.
with_nonces = pytest.mark.parametrize(
    "middleware",
    [
        "django.middleware.csp.ContentSecurityPolicyMiddleware"
        if django.VERSION >= (6, 0)
        else "tests.browser.StrictPolicy"
    ],
)


@pytest.fixture
def open_page(browser, live_server, client, user, middleware):
    """Open a page as the user, in a window of some size and scheme; console errors fail the test.

    Only the server of the test may be asked.
    """
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
        blocked = middleware == "tests.browser.NoScripts" and "script-src 'none'" in text
        if kind in ("error", "warning") and not blocked:
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

    def check(page, **options):
        found = Axe().run(page, **options)
        assert found.violations_count == 0, found.generate_report()

    return check


def heading(page):
    return page.locator("h1").inner_text()


# The journey, by keyboard alone


def type_password(page, password, email=EMAIL):
    if page.input_value("input[name=email]") != email:
        tab_to(page, "Garmin email address")
        page.keyboard.type(email)
    tab_to(page, "Garmin password")
    page.keyboard.type(password)
    page.keyboard.press("Enter")


def alert(page):
    """Return the text of the alert, which has the focus."""
    page.wait_for_selector("[role=alert]:focus")
    return page.inner_text("[role=alert]")


def wait_for_code_field(page):
    """Wait until the field has the focus, which it gets at the page's first frame."""
    page.wait_for_selector("input[name=code]:focus")


def type_code(page, code):
    wait_for_code_field(page)
    page.keyboard.type(code)
    page.keyboard.press("Enter")


def test_the_journey_by_keyboard(open_page, garmin, mfa_account, user):
    page = open_page(size="narrow", scheme="dark")
    tab_to(page, "Connect your Garmin account")
    page.keyboard.press("Enter")
    page.wait_for_url("**/login/")

    # A wrong password.
    type_password(page, "wrong")
    assert "did not accept this email address and password" in alert(page)
    assert page.input_value("input[type=password]") == ""
    assert page.input_value("input[name=email]") == EMAIL

    # A pause, and its end.
    garmin.fail("login", "rate_limited", retry_after=2)
    with page.expect_navigation():
        type_password(page, PASSWORD)
    assert "You can try again after" in alert(page)
    page.wait_for_timeout(2000)

    # A code whose time is over.
    page.clock.install()
    type_password(page, PASSWORD)
    page.wait_for_url("**/mfa/")
    wait_for_code_field(page)
    assert focused(page) == "Verification code"
    states.update(mfa_started_at=timezone.now() - timedelta(hours=1))
    page.clock.fast_forward(601_000)
    page.wait_for_selector("text=This verification code has expired")
    assert focused(page) == "Sign in again"
    page.keyboard.press("Enter")
    page.wait_for_url("**/login/")

    # A wrong code, and the right one.
    type_password(page, PASSWORD)
    page.wait_for_url("**/mfa/")
    type_code(page, "000000")
    page.wait_for_selector("[aria-invalid=true]")
    wait_for_code_field(page)
    assert focused(page) == "Verification code"
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
    assert "Disconnected by Garmin" in page.inner_text("main")
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
    page.wait_for_selector("[role=status]:has-text('has been disconnected')")
    assert not states.with_session().exists()


def log_in(page, password=PASSWORD):
    page.fill("input[name=email]", EMAIL)
    page.fill("input[type=password]", password)
    page.click("button:has-text('Connect')")


def check_that_it_goes_on(page, gate):
    log_in(page)
    page.wait_for_url("**/progress/**")

    gate.set()

    page.wait_for_url("**/garmin/")
    assert "Your Garmin account is connected." in page.inner_text("[role=status]")


def test_a_slow_login_goes_on_by_itself(open_page, account, gate):
    check_that_it_goes_on(open_page("/garmin/login/"), gate)


def test_a_slow_login_goes_on_without_scripts(open_page, account, gate):
    check_that_it_goes_on(open_page("/garmin/login/", java_script_enabled=False), gate)


@with_nonces
def test_a_slow_login_goes_on_where_scripts_need_a_nonce(open_page, nonces, account, gate):
    page = open_page("/garmin/login/")
    log_in(page)
    page.wait_for_url("**/progress/?live=1")  # The script has run.
    gate.set()

    page.wait_for_url("**/garmin/")


@pytest.mark.parametrize("middleware", ["tests.browser.NoScripts"])
def test_a_slow_login_goes_on_where_the_policy_blocks_the_script(open_page, account, gate):
    check_that_it_goes_on(open_page("/garmin/login/"), gate)


def test_the_progress_page_is_not_loaded_again_where_its_script_runs(open_page, account, gate):
    page = open_page("/garmin/login/")
    log_in(page)
    page.wait_for_url("**/progress/?live=1")
    page.evaluate("window.same = true")

    page.wait_for_selector("#ga-passed:text-matches('^0:(0[89]|[1-5])')")  # Longer than REFRESH.

    assert page.evaluate("window.same")
    assert page.locator("a:has-text('Check again')").is_visible()


@pytest.mark.parametrize("scripts", [True, False])
def test_the_progress_page_tells_the_time_and_leads_away(open_page, account, gate, scripts):
    page = open_page("/garmin/login/?next=/garmin/%3Fafter", java_script_enabled=scripts)
    log_in(page)
    page.wait_for_url("**/progress/**")

    page.wait_for_selector("#ga-passed:text-matches('^0:0[2-9]')")
    page.click("a:has-text('Back')")

    page.wait_for_url("**/garmin/?after")
    assert page.locator("a:has-text('View progress')").is_visible()


@pytest.mark.parametrize("scripts", [True, False])
def test_a_slow_login_that_failed_has_kept_the_address(open_page, account, gate, scripts):
    page = open_page("/garmin/login/", java_script_enabled=scripts)
    log_in(page, "wrong")
    page.wait_for_url("**/progress/**")
    gate.set()
    page.wait_for_url("**/garmin/login/")

    assert page.input_value("input[name=email]") == EMAIL
    assert page.input_value("input[type=password]") == ""


def test_the_password_can_be_shown(open_page, account):
    page = open_page("/garmin/login/")
    page.fill("input[name=email]", EMAIL)
    tab_to(page, "Garmin password")
    page.keyboard.type("wrong")
    toggle = page.get_by_role("button", name="Show password")
    assert toggle.get_attribute("aria-pressed") == "false"

    tab_to(page, "Show password")
    page.keyboard.press("Space")
    assert page.locator("input[name=password]").get_attribute("type") == "text"
    assert toggle.get_attribute("aria-pressed") == "true"
    page.keyboard.press("Space")
    assert page.locator("input[name=password]").get_attribute("type") == "password"

    # What is sent is a password again: browsers remember texts.
    page.keyboard.press("Space")
    page.evaluate("addEventListener('submit', (event) => event.preventDefault())")
    page.click("button:has-text('Connect')")
    assert page.locator("input[name=password]").get_attribute("type") == "password"


def test_without_scripts_no_button_shows_the_password(open_page, transactional_db):
    page = open_page("/garmin/login/", java_script_enabled=False)

    assert not page.get_by_role("button", name="Show password").is_visible()


# Times, in the visitor's zone and language


@pytest.fixture
def worked_at(connect, user):
    """The connection last worked at a certain time."""
    connect(user)
    states.update(last_validated=datetime(2026, 1, 1, 20, 10, tzinfo=UTC))


WORKED = "dd time[datetime='2026-01-01T20:10:00+00:00']"


@pytest.mark.parametrize(
    ("language", "options", "text"),
    [
        ("en", {"timezone_id": "Asia/Tokyo"}, "January 2, 2026 at 5:10\u202fAM"),
        ("de", {"timezone_id": "Asia/Tokyo"}, "2. Januar 2026 um 05:10"),
        ("en", {"java_script_enabled": False}, "Jan. 1, 2026, 8:10 p.m. UTC"),
        # There is no Polish catalog.
        ("pl", {"timezone_id": "Asia/Tokyo"}, "January 2, 2026 at 5:10\u202fAM"),
        ("pl", {"java_script_enabled": False}, "Jan. 1, 2026, 8:10 p.m. UTC"),
    ],
)
def test_times_are_in_the_visitors_zone(open_page, worked_at, settings, language, options, text):
    settings.LANGUAGE_CODE = language
    page = open_page(**options)

    page.wait_for_selector(f"{WORKED}:has-text('{text}')")


@pytest.mark.parametrize("middleware", ["tests.browser.in_tokyo"])
def test_times_are_in_the_zone_that_the_site_has_chosen(open_page, worked_at):
    page = open_page(timezone_id="America/New_York")

    assert "Jan. 2, 2026, 5:10 a.m. JST" in page.inner_text("dl")


# Languages without a catalog


@pytest.mark.parametrize("own_base", [False, True])
@pytest.mark.parametrize("code", ["pl", "ar"])
def test_our_part_of_a_page_says_that_it_is_english(
    open_page, transactional_db, settings, tmp_path, code, own_base
):
    settings.LANGUAGE_CODE = code
    if own_base:
        (tmp_path / "garmin_auth").mkdir()
        (tmp_path / "garmin_auth" / "base.html").write_text(LAYOUT_IN_ITS_LANGUAGE)
        settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [tmp_path]}]
    page = open_page("/garmin/login/")
    page.click("button:has-text('Connect')")

    error = page.wait_for_selector("text=This field is required.")
    for element in (error, page.locator("h1").element_handle()):
        assert element.evaluate("(element) => element.closest('[lang]').lang") == "en"
        assert element.evaluate("(element) => getComputedStyle(element).direction") == "ltr"
    assert page.evaluate("document.documentElement.lang") == (code if own_base else "en")


LAYOUT_IN_ITS_LANGUAGE = """
{% load i18n %}{% get_current_language as code %}{% get_current_language_bidi as bidi %}
<!DOCTYPE html><html lang="{{ code }}" dir="{{ bidi|yesno:'rtl,ltr' }}">
<title>{% block title %}{% endblock %}</title>{% block head %}{% endblock %}
<body>{% block content %}{% endblock %}
"""


@pytest.mark.parametrize("scripts", [True, False])
def test_a_double_click_on_the_login_makes_one(open_page, garmin, mfa_account, scripts):
    page = open_page("/garmin/login/", java_script_enabled=scripts)
    page.fill("input[name=email]", EMAIL)
    page.fill("input[type=password]", PASSWORD)

    page.dblclick("button:has-text('Connect')")
    page.wait_for_url("**/mfa/")

    assert garmin.counts["login"] == 1


@pytest.mark.parametrize("scripts", [True, False])
def test_a_double_click_on_a_code_connects(open_page, garmin, mfa_account, user, scripts):
    start_login(user, EMAIL, PASSWORD)
    page = open_page("/garmin/mfa/", java_script_enabled=scripts)
    page.fill("input[name=code]", garmin.mfa_code(EMAIL))

    page.dblclick("button:has-text('Verify')")
    page.wait_for_url("**/garmin/")

    assert "Your Garmin account is connected." in page.inner_text("[role=status]")
    assert garmin.counts["verify_code"] == 1


@pytest.mark.parametrize("scripts", [True, False])
def test_a_double_click_on_a_wrong_code_is_one_attempt(
    open_page, garmin, mfa_account, user, scripts
):
    start_login(user, EMAIL, PASSWORD)
    page = open_page("/garmin/mfa/", java_script_enabled=scripts)
    page.fill("input[name=code]", "000000")

    page.dblclick("button:has-text('Verify')")

    page.wait_for_selector("text=You have 4 attempts left")
    assert state_of(user).mfa_attempts == 1


def test_a_button_is_disabled_once_it_has_been_pressed(open_page, account):
    page = open_page("/garmin/login/")
    page.fill("input[name=email]", EMAIL)
    page.fill("input[type=password]", PASSWORD)
    page.evaluate("addEventListener('submit', (event) => event.preventDefault())")

    page.click("button:has-text('Connect')")

    assert page.is_disabled("button:has-text('Connect')")


def test_a_code_whose_time_is_over_says_so_without_a_reload(
    open_page, garmin, mfa_account, user, settings
):
    settings.GARMIN_AUTH_MFA_TTL = 2
    start_login(user, EMAIL, PASSWORD)
    page = open_page("/garmin/mfa/")

    page.wait_for_selector("text=This verification code has expired")


def test_where_no_second_is_left_for_a_code_the_focus_is_not_lost(
    open_page, garmin, mfa_account, user, monkeypatch
):
    monkeypatch.setattr(MFARequired, "seconds_left", 0)
    # The script may run before the browser heeds autofocus. Without it, that is always so.
    monkeypatch.delitem(MFAForm.base_fields["code"].widget.attrs, "autofocus")
    start_login(user, EMAIL, PASSWORD)
    page = open_page("/garmin/mfa/")

    page.wait_for_selector("#ga-said:has-text('This verification code has expired')")
    assert focused(page) == "Sign in again"


# Each page, at each size, in each scheme


@pytest.fixture
def show(open_page, garmin, connect, client, user, other_user, mfa_account):
    """Bring the user into a state, and open the page that shows it."""

    def login_fails(page):
        page.fill("input[name=email]", EMAIL)
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
        elif name == "status_failing":
            connect(user)
            since = now - timedelta(days=4)
            states.update(
                connected_at=now - timedelta(days=40),
                last_validated=since,
                failing_since=since,
                failing_told_at=now,
                failing_reason="refused",
            )
        elif name == "status_unreadable":
            connect(user)
            damage(user)
        elif name in ("status_under_way", "progress"):
            states.begin_login(user.pk, "a login", 600)
            session = client.session
            kept = {"email": str(encrypt(EMAIL)), "engine": "", "domain": ""}
            session[KEPT] = {**kept, "sent_at": int(time.time()) - 17}
            session.save()
        elif name == "status_login_failed":
            states.begin_login(user.pk, "a login", 600)
            states.fail_login(user.pk, "a login", to_record(InvalidCredentials("wrong")))
        elif name == "status_ended":
            connect(user)
            row = state_of(user)
            states.end_session(row.pk, row.session_version, "expired")
        elif name == "status_disconnected":
            connect(user)
            states.disconnect(user.pk, EndedReason.USER)
        elif name in ("mfa", "status_waiting", "mfa_wrong", "mfa_over"):
            start_login(user, EMAIL, PASSWORD)
        elif name == "login_paused":
            cooldown.start(cooldown.account_scope(EMAIL, "garmin.com"), 1800)
        elif name == "login_site_paused":
            cooldown.start(cooldown.site_scope("garmin.com"), 1800)
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


PATHS = {"status": "/garmin/", "progress": "/garmin/progress/"}
PAGES = (
    "status_never",
    "status_connected",
    "status_leaving",
    "status_ends_soon",
    "status_overdue",
    "status_failing",
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
    "status_failing": ["wide"],
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


@with_nonces
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible_and_works_under_the_strictest_policy(
    nonces, show, check_accessibility, name
):
    page = show(name)  # It fails if the console complains.
    assert style(page, "body", "backgroundColor") == "rgb(238, 242, 245)"
    assert style(page, ".garmin-auth.ga-page", "backgroundColor") == "rgb(255, 255, 255)"
    for element in page.locator("time[data-style]").all():
        assert "UTC" not in element.inner_text()  # The script has run.
    for size, scheme in LOOKS:
        page.set_viewport_size(SIZES[size])
        page.emulate_media(color_scheme=scheme)
        check_accessibility(page)
        wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
        assert not wide, f"{name} must be scrolled sideways at {size}"
        if size in IN_THE_DOCS.get(name, ()):
            screenshot(page, f"{name}-{size}-{scheme}")


def test_every_target_is_large_enough(show):
    """WCAG 2.2, 2.5.8: 24 by 24 CSS pixels, but for links within a sentence."""
    page = show("mfa", size="narrow")

    for box in page.locator("button, a.ga-button, input:not([type=hidden])").all():
        if box.is_visible():
            assert box.bounding_box()["height"] >= 24


def test_the_focus_can_be_seen(show):
    page = show("login")

    tab_to(page, "Garmin email address")

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
            states.end_session(row.pk, row.session_version, "expired")
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
    damage(people["liam"])
    return people["ana"]


@pytest.fixture
def port():
    with kept_port() as port:
        yield port


@pytest.fixture
def open_at(browser, client):
    """Open pages of a site as whoever is logged in at ``client``.

    Returns a function that takes the site's address, and returns one that takes a path and a
    scheme, and returns the page and what its console has complained of.
    """
    contexts = []

    def open_at(url, strict=True):
        context = browser.new_context(viewport=SIZES["wide"])
        contexts.append(context)
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

        def open_path(path, scheme="light"):
            complaints.clear()
            page.emulate_media(color_scheme=scheme)  # Before: Django's colours change slowly.
            response = page.goto(url + path)
            assert response.status == 200
            policy = response.headers.get("content-security-policy", "")
            assert ("script-src 'self'" in policy) == strict
            return page, complaints

        return open_path

    yield open_at
    for context in contexts:
        context.close()


@pytest.fixture
def open_site(open_at, start_python, port, site):
    """Open pages of a site in another process, in the way of ``open_at``."""

    def open_site(*settings, options=(), strict=True):
        if strict:
            settings = (*settings, "MIDDLEWARE = ['tests.browser.StrictPolicy', *MIDDLEWARE]")
        environment = site(*settings)
        server = start_python(
            *("manage.py", "runserver", f"127.0.0.1:{port}", "--noreload", "--skip-checks"),
            *options,
            **environment,
        )
        gives_up_at = time.monotonic() + 2 * PATIENCE
        while True:
            assert server.poll() is None, server.communicate()[1]
            assert time.monotonic() < gives_up_at
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            time.sleep(0.1)
        return open_at(f"http://127.0.0.1:{port}", strict)

    return open_site


@pytest.fixture
def admin_page(open_at, live_server, django_user_model, client, dozen):
    """Open a page of the admin, with CSP on."""
    client.force_login(django_user_model.objects.create_superuser("admin", password="admin"))
    open_path = open_at(live_server.url)
    return lambda path, scheme="light": open_path(f"/admin/{path}", scheme)


STATES = "garmin_auth/garminauthenticationstate/"


def test_the_admin_is_as_accessible_as_djangos_own_and_keeps_the_policy(admin_page, dozen):
    from axe_playwright_python.sync_playwright import Axe

    def violations(path):
        found, said = set(), []
        for size, scheme in LOOKS:
            page, complaints = admin_page(path, scheme)
            assert page.locator("#content h1, #content h2").count()
            said += complaints
            page.set_viewport_size(SIZES[size])
            rules = Axe().run(page).response["violations"]
            found |= {(size, scheme, rule["id"]) for rule in rules}
        return found, said

    for ours, bare in (
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


def choose(page, action, *users):
    """Select these users in the list, and an action; or all of them."""
    for user in users:
        page.check(f"#result_list tr:has-text('{user}') input.action-select")
    if not users:
        page.check("#action-toggle")
    page.select_option("select[name=action]", action)
    with page.expect_navigation():
        page.click("button[name=index]")


def test_staff_are_asked_before_they_disconnect(admin_page, check_accessibility):
    page, complaints = admin_page(STATES)
    before = states.with_session().count()

    choose(page, "disconnect")
    assert page.locator(".ga-question li").count() == 11
    assert "and 2 more" in page.inner_text(".ga-question")
    check_accessibility(page, context=".ga-question")
    screenshot(page, "admin-disconnect", whole=True)
    page.click(".ga-confirm a")
    page.wait_for_selector("#result_list")
    assert states.with_session().count() == before

    choose(page, "disconnect")
    page.click(".ga-confirm .ga-danger")
    page.wait_for_selector(".messagelist")
    assert f"Disconnected: {before + 1}." in page.inner_text(".messagelist")  # And a login.
    assert not states.with_session().exists()
    assert complaints == []


def test_the_page_of_an_account_has_buttons(admin_page, dozen, check_accessibility):
    url = f"{STATES}{state_of(dozen).pk}/change/"
    for scheme in SCHEMES:
        page, _ = admin_page(url, scheme)
        check_accessibility(page, context=".ga-actions")  # axe breaks the policy itself.
    page, complaints = admin_page(url, SCHEMES[0])
    screenshot(page, "admin-account", whole=True)

    page.click("text=Disconnect this Garmin account")
    page.wait_for_selector(".ga-question:has-text('ana')")
    page.click(".ga-confirm .ga-danger")

    page.wait_for_selector(".messagelist:has-text('The Garmin account was disconnected')")
    assert page.url.endswith(url)
    assert complaints == []


# In the themes that people use

THEMES = {
    "django": [],
    "jazzmin": ["INSTALLED_APPS = ['jazzmin', *INSTALLED_APPS]"],
    "unfold": ["INSTALLED_APPS = ['unfold', *INSTALLED_APPS]"],
    "unfold_subclass": [
        "INSTALLED_APPS = ['unfold', *INSTALLED_APPS]",
        "ROOT_URLCONF = 'tests.unfold_urls'",
    ],
}


@pytest.fixture(params=THEMES)
def themed_page(request, open_site, django_user_model, client, dozen):
    """Open a page of the admin in a theme. Themes have scripts in their pages, so no CSP is on."""
    if request.param.startswith("unfold"):
        pytest.importorskip("unfold", reason="django-unfold needs Python 3.12 or newer")
    client.force_login(django_user_model.objects.create_superuser("admin", password="admin"))
    lines = ["from tests.demo_settings import *", *THEMES[request.param]]
    open_path = open_site(*lines, strict=False)
    return lambda path, scheme="light": open_path(f"/admin/{path}", scheme)[0]


def box(page, selector):
    return page.locator(selector).first.bounding_box()


def test_the_admin_keeps_its_shape_in_a_theme(themed_page, dozen):
    page = themed_page(f"{STATES}?_facets=True")

    figures = box(page, ".ga-figures")
    assert figures["width"] > 700
    assert box(page, ".ga-figures progress")["width"] > 50
    for table in page.locator(".ga-figures table").all():
        caption, body = table.locator("caption"), table.locator("tbody")
        assert caption.bounding_box()["y"] < body.bounding_box()["y"]
    assert figures["y"] + figures["height"] <= box(page, "#result_list")["y"]
    assert box(page, "[name=q]")["height"] < 80
    for button in page.locator("a:has-text('Filters'), button:has-text('Search')").all():
        if button.is_visible():
            assert button.bounding_box()["height"] < 80
    assert box(page, ".ga-state.ga-good")["width"] > 30
    assert style(page, ".ga-bad", "fontWeight") == "600"

    page = themed_page(f"{STATES}{state_of(dozen).pk}/change/")
    assert 24 <= box(page, ".ga-actions button")["height"] < 60
    assert style(page, ".ga-actions button", "backgroundColor") != "rgba(0, 0, 0, 0)"

    page.click("text=Disconnect this Garmin account")
    page.wait_for_selector(".ga-question:has-text('ana')")
    page.click(".ga-confirm [type=submit]")

    page.wait_for_selector("text=The Garmin account was disconnected")
    assert page.url.endswith(f"{state_of(dozen).pk}/change/")


# A site's own layout

HOW_TO = ROOT / "docs" / "how-to" / "templates.md"
# What style sheets of sites do to elements, at its worst.
RESET = """
*, *::before, *::after { margin: 0; padding: 0; box-sizing: content-box; }
body { font: 300 15px/1.4 serif; text-align: center; color: #333; background: #f7f3ea; }
@media (prefers-color-scheme: dark) { body { color: #eee; background: #111; } }
a { color: inherit; text-decoration: none; }
button, input { all: unset; }
div, p, form, section { display: block; }
label, h1, h2 { color: #888; letter-spacing: 1px; }
:focus { outline: none; }
"""
ADMIN_STYLES = Path(admin.__file__).parent / "static" / "admin" / "css" / "base.css"
LAYOUTS = {
    "reset": RESET,
    "reset-light-dark": f":root {{ color-scheme: light dark; }} {RESET}",
    "admin": ADMIN_STYLES.read_text(),
}
# What a site has around our pages.
AROUND = """
<link rel="stylesheet" href="/static/site.css">
<h2>My site</h2> <p>Welcome <a href="/">home</a></p> <p class="ga-hint" hidden>Hidden</p>
<form><label>Search <input type="search"></label> <button>Search</button></form>
"""


@pytest.fixture(params=LAYOUTS)
def own_layout(request, settings, tmp_path):
    """Follow the how-to, in a site whose layout has a style sheet of its own."""
    for block in blocks(HOW_TO):
        if block.title in ("templates/garmin_auth/base.html", "templates/layout.html"):
            block.write_to(tmp_path)
    layout = tmp_path / "templates" / "layout.html"
    before, body, after = layout.read_text().partition("<body>")
    assert after
    layout.write_text(before + body + AROUND + after)
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "site.css").write_text(LAYOUTS[request.param])
    settings.STATICFILES_DIRS = [tmp_path / "static"]
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [tmp_path / "templates"]}]
    return request.param


def styles_of_the_site(page):
    """The computed styles of what is not ours, but for the room that ours takes."""
    return page.evaluate(
        """() => [...document.querySelectorAll("body, body *:not(.garmin-auth, .garmin-auth *)")]
            .map((element) => [...getComputedStyle(element)]
                .filter((name) => !/size$|width$|height$|origin$|^inset|^(top|bottom)$/.test(name))
                .map((name) => `${element.tagName} ${name} ${getComputedStyle(element)[name]}`)
        ).flat()"""
    )


def style(page, selector, name):
    return page.locator(selector).first.evaluate(
        "(element, name) => getComputedStyle(element)[name]", name
    )


@pytest.fixture
def check_ours(check_accessibility):
    """Let axe-core look at what is ours on a page: contrast, names, roles."""
    return lambda page: check_accessibility(page, context=".garmin-auth")


def test_a_form_in_a_sites_own_layout_looks_finished(show, own_layout, check_ours):
    page = show("login")

    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        check_ours(page)
        paper = style(page, ".garmin-auth", "backgroundColor")
        assert paper != "rgba(0, 0, 0, 0)"
        assert style(page, ".ga-button", "backgroundColor") not in (paper, "rgba(0, 0, 0, 0)")
        assert style(page, "input[type=password]", "borderTopColor") != paper
    password = page.locator("input[type=password]").bounding_box()
    assert (password["width"] > 200, password["height"] > 30) == (True, True)
    assert style(page, "input[type=password]", "borderTopWidth") == "1px"
    tab_to(page, "Garmin password")
    assert style(page, "input[type=password]", "outlineStyle") == "solid"


def test_what_is_hidden_stays_hidden_in_a_sites_own_layout(show, own_layout, check_ours):
    page = show("mfa")

    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        check_ours(page)
    hidden = page.locator(".garmin-auth [hidden]").all()
    assert [element.is_visible() for element in hidden] == [False]


def test_the_style_sheet_changes_nothing_of_a_sites_own(show, own_layout):
    page = show("login")
    with_ours = styles_of_the_site(page)
    page.evaluate("document.querySelector('link[href*=garmin_auth]').disabled = true")

    assert len(with_ours) > 1000
    assert with_ours == styles_of_the_site(page)


@pytest.mark.parametrize(
    ("own_layout", "paper"),
    [("reset", "rgb(255, 255, 255)"), ("reset-light-dark", "rgb(24, 33, 42)")],
    indirect=["own_layout"],
)
def test_a_page_is_dark_only_where_the_layout_says_it_can_be(show, own_layout, paper):
    page = show("login", scheme="dark")

    assert style(page, ".garmin-auth", "backgroundColor") == paper


# However a site serves its static files

SERVED = {
    "runserver": ["DEBUG = True"],
    # A web server in front of the site serves the folder.
    "manifest": [
        "STORAGES = {'staticfiles': {'BACKEND': "
        "'django.contrib.staticfiles.storage.ManifestStaticFilesStorage'}}",
        "ROOT_URLCONF = 'tests.static_urls'",
    ],
    "whitenoise": [
        "STORAGES = {'staticfiles': {'BACKEND': "
        "'whitenoise.storage.CompressedManifestStaticFilesStorage'}}",
        "MIDDLEWARE.insert(1, 'whitenoise.middleware.WhiteNoiseMiddleware')",
    ],
}


@pytest.fixture(params=SERVED)
def served_site(
    request, open_site, run_python, site, client, transactional_db, django_user_model, mfa_account
):
    """Open pages of a site that serves its static files so, as staff with a code to enter."""
    settings = ["STATIC_ROOT = Path(__file__).parent / 'collected'", *SERVED[request.param]]
    options = []
    if request.param != "runserver":
        command = "from django.core.management import call_command; call_command('collectstatic'"
        run_python(f"{command}, interactive=False, verbosity=0)", **site(*settings))
        options = ["--nostatic"]
    staff = django_user_model.objects.create_superuser("admin", password="admin")
    start_login(staff, EMAIL, PASSWORD)
    client.force_login(staff)
    return open_site(*settings, options=options)


def test_static_files_are_found_however_a_site_serves_them(served_site):
    page, complaints = served_site("/garmin/mfa/")
    page.wait_for_selector("#ga-left:text-matches('^[0-9]+:[0-9][0-9]$')")  # The script runs.
    assert style(page, "body", "backgroundColor") == "rgb(238, 242, 245)"
    assert style(page, ".garmin-auth", "backgroundColor") == "rgb(255, 255, 255)"
    assert complaints == []

    page, complaints = served_site(f"/admin/{STATES}?_facets=True")
    assert style(page, ".ga-figures", "display") == "grid"
    assert complaints == []


# A connection that fails for days


def test_who_is_mailed_that_the_connection_fails_connects_again(
    open_page,
    garmin,
    connect,
    user,
    other_user,
    receivers,  # noqa: F811
    check_accessibility,
):
    mail_users("https://site.example")
    connect(user)
    connect(other_user, "ben@example.com")
    garmin.fail("api", "unauthorized_other", times=None, account=EMAIL)
    check_sessions()
    states.filter(user=user).update(failing_since=timezone.now() - timedelta(days=4))
    check_sessions()

    [told] = mail.outbox
    [link] = re.findall(r"https://site\.example(/garmin/\S+)", told.body)
    page = open_page("/garmin/", size="narrow")
    assert page.inner_text(".ga-badge") == "Not working"
    check_accessibility(page)
    screenshot(page, "status-failing")
    tab_to(page, "Connect again")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{link}")
    garmin.heal()
    type_password(page, PASSWORD)
    page.wait_for_url("**/garmin/")
    assert page.inner_text(".ga-badge") == "Connected"
    assert [message.subject for message in mail.outbox[1:]] == [
        "Your Garmin connection works again"
    ]
    assert badge_of(user).status == "connected"
