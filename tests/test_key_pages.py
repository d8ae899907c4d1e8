"""The page for a key, and the choice of a way to connect, in a real browser: by keyboard alone."""

import pytest

from garmin_auth.login import connect_with_key
from tests.browser import LOOKS, SCHEMES, screenshot, tab_to
from tests.conftest import EMAIL, PASSWORD, state_of
from tests.services import why_not_browser, why_not_personal

if reason := why_not_browser():
    pytest.skip(reason, allow_module_level=True)

from tests.test_browser import (  # noqa: F401 - fixtures
    browser,
    check_accessibility,
    live_server,
    middleware,
    open_page,
)

# Where Garmin's client is not installed, a site's own engine and garth.
if why_not_personal():
    ENGINES = ["third-key", "garth"]
    KEY_SENTENCE = "With a key from Garmin Connect"
    PASSWORD_SENTENCE = "With your Garmin password, the older way"
else:
    ENGINES = ["personal", "garminconnect"]
    KEY_SENTENCE = "Official: with a key from Garmin Connect"
    PASSWORD_SENTENCE = "With your Garmin password"
LANGUAGES = ("en", "de", "es", "fr", "ja")


@pytest.fixture(autouse=True)
def several(settings):
    settings.GARMIN_AUTH_ENGINES = {"third-key": "tests.engines.third_key_engine.ThirdKeyEngine"}
    settings.GARMIN_AUTH_ENGINE = ENGINES


@pytest.fixture
def key(garmin, account):
    return garmin.add_key(EMAIL)


def enter_key(page, key, validity=""):
    tab_to(page, "Key")
    page.keyboard.type(key)
    if validity:
        tab_to(page, "How long is the key valid?")
        page.keyboard.type(validity)
    tab_to(page, "Connect")
    page.keyboard.press("Enter")


def choose(page, sentence):
    tab_to(page, sentence)
    page.keyboard.press("Enter")


def wait_for_error(page, sentence):
    """Wait for the error of the field, which then has the focus, and is described by it."""
    page.wait_for_selector("input[name=key][aria-invalid=true]:focus")
    described = page.get_attribute("input[name=key]", "aria-describedby").split()
    assert any(sentence in page.inner_text(f"#{part}") for part in described)
    assert page.input_value("input[name=key]") == ""


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_journey_with_a_key_by_keyboard(open_page, key, user, garmin, scheme):  # noqa: F811
    page = open_page(size="narrow", scheme=scheme)
    tab_to(page, "Connect your Garmin account")
    page.keyboard.press("Enter")
    page.wait_for_url("**/login/")

    # To the other way, and back.
    choose(page, PASSWORD_SENTENCE)
    page.wait_for_selector("input[name=password]")
    choose(page, KEY_SENTENCE)
    page.wait_for_selector("input[name=key]")

    enter_key(page, "a-key-that-was-never-made", "90")
    wait_for_error(page, "did not accept this key")
    assert page.input_value("select") == "90"

    enter_key(page, key)
    page.wait_for_url("**/garmin/")
    assert "Your Garmin account is connected." in page.inner_text("[role=status]")
    assert KEY_SENTENCE in page.inner_text("dl")

    # The old session is there until the new key works.
    former = state_of(user).session_data
    tab_to(page, "Replace the key")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/login/{ENGINES[0]}/")
    enter_key(page, "another-key-that-was-never-made")
    wait_for_error(page, "did not accept this key")
    assert state_of(user).session_data == former
    enter_key(page, garmin.add_key(EMAIL))
    page.wait_for_url("**/garmin/")
    assert state_of(user).session_data != former


def picture(page, name, size, scheme, narrow=True):
    """Take a picture of the docs; not ``narrow``, if they show only the other."""
    if narrow or size != "narrow":
        screenshot(page, f"{name}-{size}-{scheme}")


@pytest.mark.parametrize(("size", "scheme"), LOOKS)
def test_the_pages_are_accessible(open_page, check_accessibility, key, user, size, scheme):  # noqa: F811
    page = open_page("/garmin/login/", size, scheme)
    check_accessibility(page)
    picture(page, "key", size, scheme)
    page.click("summary")
    check_accessibility(page)

    enter_key(page, "a-key-that-was-never-made")
    wait_for_error(page, "did not accept this key")
    check_accessibility(page)
    picture(page, "key_wrong", size, scheme, narrow=False)

    choose(page, PASSWORD_SENTENCE)
    page.wait_for_selector("input[name=password]")
    check_accessibility(page)

    connect_with_key(user, key)
    page.click("a:has-text('Back')")
    page.wait_for_selector("text=Replace the key")
    check_accessibility(page)
    picture(page, "status_key", size, scheme, narrow=False)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_pages_fit_a_narrow_screen(open_page, settings, language):  # noqa: F811
    settings.LANGUAGE_CODE = language
    page = open_page("/garmin/login/", "narrow")
    for summary in page.locator("summary").all():
        summary.click()
    for path in ("/garmin/login/", f"/garmin/login/{ENGINES[1]}/"):
        if path not in page.url:
            page.goto(page.url.partition("/garmin/")[0] + path)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_browser_keeps_and_offers_no_key(open_page, key):  # noqa: F811
    page = open_page("/garmin/login/")

    assert page.get_attribute("input[name=key]", "autocomplete") == "off"
    enter_key(page, f"{key} {PASSWORD}")
    page.wait_for_selector("[aria-invalid=true]")
    assert key not in page.content()
    page.reload()
    assert key not in page.content()


def test_the_service_is_chosen_by_keyboard(open_page, check_accessibility, garmin, user, settings):  # noqa: F811
    settings.GARMIN_AUTH_DOMAIN = ["garmin.com", "garmin.cn"]
    garmin.add_account(EMAIL, PASSWORD, domain="garmin.cn")
    page = open_page("/garmin/login/", "narrow")
    check_accessibility(page)

    tab_to(page, "Garmin service")
    page.keyboard.type("Garmin C")
    enter_key(page, garmin.add_key(EMAIL))
    page.wait_for_url("**/garmin/")

    assert "Garmin China (佳明)" in page.inner_text("dl")
    check_accessibility(page)
    assert state_of(user).domain == "garmin.cn"
