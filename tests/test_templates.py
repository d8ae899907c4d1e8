"""What every page has in common, whatever it says, and what a site may do to it."""

import re
from datetime import datetime, timedelta
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
from babel.messages import Catalog
from babel.messages.mofile import write_mo
from django.test import Client, override_settings
from django.urls import include, path
from django.utils import timezone

import garmin_auth
from garmin_auth.exceptions import InvalidCredentials
from garmin_auth.limits import cooldown
from garmin_auth.login import start_login
from garmin_auth.logins.records import to_record
from garmin_auth.models import EndedReason, GarminAuthenticationState
from tests.conftest import EMAIL, PASSWORD
from tests.rows import damage

STATUS, LOGIN, MFA = "/garmin/", "/garmin/login/", "/garmin/mfa/"
PROGRESS = "/garmin/progress/"
STATIC = files("garmin_auth") / "static" / "garmin_auth"
CSS = (STATIC / "garmin_auth.css").read_text()
SCRIPT = (STATIC / "garmin_auth.js").read_text()
SHEETS = sorted(Path(str(STATIC)).glob("*.css"))
TEMPLATES = sorted((Path(garmin_auth.__file__).parent / "templates").rglob("*.html"))

# A site that has nothing but our pages.
urlpatterns = [path("garmin/", include("garmin_auth.urls"))]

states = GarminAuthenticationState.objects
KEY_LOGIN = f"{LOGIN}third-key/"
GARMINS_PAGES = (
    "https://connect.garmin.com/",
    "https://connect.garmin.com/app/settings/personalApiToken",
)


class Page(HTMLParser):
    """A page's elements, in order: (tag, attributes)."""

    def __init__(self, response):
        super().__init__()
        assert response.status_code == 200
        self.source = response.content.decode()
        self.elements = []
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def all(self, *tags):
        return [attrs for tag, attrs in self.elements if tag in tags]

    def ids(self):
        return [attrs["id"] for _, attrs in self.elements if "id" in attrs]


class Browser(Client):
    def __init__(self, user, connect, garmin):
        super().__init__()
        self.user, self.connect, self.garmin = user, connect, garmin
        self.force_login(user)

    def begin(self):
        """Begin a login that waits for its code."""
        garmin_email = "mfa@example.com"
        self.garmin.add_account(garmin_email, PASSWORD, mfa=True)
        start_login(self.user, garmin_email, PASSWORD)

    def expire_challenge(self):
        self.begin()
        states.update(mfa_started_at=timezone.now() - timedelta(hours=1))

    def end_session(self):
        state = self.connect(self.user)
        states.end_session(state.pk, state.session_version, "expired")

    def disconnect(self):
        self.connect(self.user)
        states.disconnect(self.user.pk, EndedReason.STAFF)

    def begin_outside(self):
        """Begin a login outside the request."""
        states.begin_login(self.user.pk, "a login", 60)

    def fail_outside(self):
        self.begin_outside()
        states.fail_login(self.user.pk, "a login", to_record(InvalidCredentials()))

    def damage(self):
        self.connect(self.user)
        damage(self.user, "session_data")


def not_connected(browser):
    return browser.get(STATUS)


def connected(browser):
    browser.garmin.add_account(EMAIL, PASSWORD)
    return browser.post(LOGIN, {"email": EMAIL, "password": PASSWORD}, follow=True)


def pending(browser):
    browser.begin()
    return browser.get(STATUS)


def connected_and_pending(browser):
    browser.connect(browser.user)
    browser.begin()
    return browser.get(STATUS)


def too_late(browser):
    browser.expire_challenge()
    return browser.get(STATUS)


def ends_soon(browser):
    browser.connect(browser.user)
    states.update(session_ends_at=timezone.now() + timedelta(days=29))
    return browser.get(STATUS)


def overdue(browser):
    browser.connect(browser.user)
    states.update(session_ends_at=timezone.now() - timedelta(days=1))
    return browser.get(STATUS)


def failing(browser):
    browser.connect(browser.user)
    since = timezone.now() - timedelta(days=4)
    states.update(failing_since=since, failing_told_at=since, failing_reason="refused")
    return browser.get(STATUS)


def failing_and_pending(browser):
    failing(browser)
    browser.begin()
    return browser.get(STATUS)


def failing_and_ends_soon(browser):
    failing(browser)
    states.update(session_ends_soon_at=timezone.now())
    return browser.get(STATUS)


def ended_by_garmin(browser):
    browser.end_session()
    return browser.get(STATUS)


def ended_by_staff(browser):
    browser.disconnect()
    return browser.get(STATUS)


def unreadable(browser):
    browser.damage()
    return browser.get(STATUS)


def login(browser):
    return browser.get(LOGIN, {"next": "/after/"})


def login_when_connected(browser):
    browser.connect(browser.user)
    return browser.get(LOGIN)


def login_when_pending(browser):
    browser.begin()
    return browser.get(LOGIN)


def login_when_unreadable(browser):
    browser.damage()
    return browser.get(LOGIN)


def login_rejected(browser):
    return browser.post(LOGIN, {"email": EMAIL, "password": "wrong"})


def login_incomplete(browser):
    return browser.post(LOGIN, {})


def login_rate_limited(browser):
    browser.garmin.fail("login", "rate_limited", retry_after=300)
    return browser.post(LOGIN, {"email": EMAIL, "password": PASSWORD})


def login_when_the_site_pauses(browser):
    cooldown.start(cooldown.site_scope("garmin.com"), 300)
    return browser.get(LOGIN)


def login_failed_outside(browser):
    browser.fail_outside()
    return browser.get(LOGIN, {"next": "/after/"})


def login_failed_outside_when_pending(browser):
    browser.begin()
    browser.fail_outside()
    return browser.get(LOGIN)


def login_rejected_after_one_outside(browser):
    browser.fail_outside()
    return browser.post(LOGIN, {"email": EMAIL, "password": "wrong"})


def progress(browser):
    browser.begin_outside()
    return browser.get(PROGRESS, {"next": "/after/"})


def progress_when_connected(browser):
    browser.connect(browser.user)
    browser.begin_outside()
    return browser.get(PROGRESS)


def under_way(browser):
    browser.begin_outside()
    return browser.get(STATUS, {"next": "/after/"})


def connected_and_under_way(browser):
    browser.connect(browser.user)
    browser.begin_outside()
    return browser.get(STATUS)


def failed_outside(browser):
    browser.fail_outside()
    return browser.get(STATUS)


def code_when_under_way(browser):
    browser.begin()
    browser.begin_outside()
    return browser.get(MFA)


def code(browser):
    browser.begin()
    return browser.get(MFA, {"next": "/after/"})


def code_rejected(browser):
    browser.begin()
    browser.garmin.fail("verify_code", "code_invalid")
    return browser.post(MFA, {"code": "123456"})


def code_incomplete(browser):
    browser.begin()
    return browser.post(MFA, {"code": "letters"})


def code_not_judged(browser):
    browser.begin()
    browser.garmin.fail("verify_code", "status")
    return browser.post(MFA, {"code": "123456"})


def code_rate_limited(browser):
    browser.begin()
    browser.garmin.fail("verify_code", "rate_limited", retry_after=300)
    return browser.post(MFA, {"code": "123456"})


def code_too_late(browser):
    browser.expire_challenge()
    return browser.get(MFA)


def code_for_nothing(browser):
    return browser.post(MFA, {"code": "123456"})


several_engines = override_settings(
    GARMIN_AUTH_ENGINE=["third-key", "garth"],
    GARMIN_AUTH_ENGINES={"third-key": "tests.engines.third_key_engine.ThirdKeyEngine"},
)


@several_engines
def key(browser):
    return browser.get(LOGIN, {"next": "/after/"})


@several_engines
def key_when_pending(browser):
    browser.begin()
    return browser.get(KEY_LOGIN)


@several_engines
def key_when_unreadable(browser):
    browser.damage()
    return browser.get(KEY_LOGIN)


@several_engines
def key_rejected(browser):
    return browser.post(LOGIN, {"key": "not-a-key", "days": "90"})


@several_engines
def key_incomplete(browser):
    return browser.post(LOGIN, {"days": "90"})


@several_engines
def key_rate_limited(browser):
    browser.garmin.fail("personal_token", "key_rate_limited", retry_after=300)
    return browser.post(LOGIN, {"key": "not-a-key"})


@several_engines
def login_instead_of_a_key(browser):
    return browser.get(f"{LOGIN}garth/")


@several_engines
def connected_with_a_key(browser):
    return connect_with_a_key(browser)


@several_engines
def key_when_connected(browser):
    connect_with_a_key(browser)
    return browser.get(LOGIN)


def connect_with_a_key(browser):
    browser.garmin.add_account(EMAIL, PASSWORD)
    return browser.post(LOGIN, {"key": browser.garmin.add_key(EMAIL)}, follow=True)


PAGES = [
    not_connected,
    connected,
    pending,
    connected_and_pending,
    too_late,
    ends_soon,
    overdue,
    failing,
    failing_and_pending,
    failing_and_ends_soon,
    ended_by_garmin,
    ended_by_staff,
    unreadable,
    login,
    login_when_connected,
    login_when_pending,
    login_when_unreadable,
    login_rejected,
    login_incomplete,
    login_rate_limited,
    login_when_the_site_pauses,
    login_failed_outside,
    login_failed_outside_when_pending,
    login_rejected_after_one_outside,
    progress,
    progress_when_connected,
    under_way,
    connected_and_under_way,
    failed_outside,
    code_when_under_way,
    code,
    code_rejected,
    code_incomplete,
    code_not_judged,
    code_rate_limited,
    code_too_late,
    code_for_nothing,
    key,
    key_when_pending,
    key_when_unreadable,
    key_rejected,
    key_incomplete,
    key_rate_limited,
    login_instead_of_a_key,
    connected_with_a_key,
    key_when_connected,
]
FAILED = [
    key_rejected,
    key_incomplete,
    key_rate_limited,
    login_rejected,
    login_incomplete,
    login_rate_limited,
    login_failed_outside,
    login_failed_outside_when_pending,
    login_rejected_after_one_outside,
    code_rejected,
    code_incomplete,
    code_not_judged,
    code_rate_limited,
]


@pytest.fixture
def browser(user, connect, garmin):
    return Browser(user, connect, garmin)


@pytest.fixture(scope="module")
def made():
    """The pages that were made already: the tests only look at them."""
    return {}


@pytest.fixture(params=PAGES, ids=lambda page: page.__name__)
def page(request, made):
    make = request.param
    if make not in made:
        made[make] = Page(make(request.getfixturevalue("browser")))
    return made[make]


@pytest.fixture(params=FAILED, ids=lambda page: page.__name__)
def failed_page(request, browser):
    return Page(request.param(browser))


# A strict Content-Security-Policy


def test_no_page_has_an_inline_script(page):
    assert "".join(re.findall(r"<script[^>]*>(.*?)</script>", page.source, re.S | re.I)) == ""
    assert all("src" in attrs for attrs in page.all("script"))
    assert "javascript:" not in page.source.lower()


def test_every_page_has_the_script_once(page):
    ours = {"src": "/static/garmin_auth/garmin_auth.js", "defer": None}
    assert page.all("script") == [ours]


def test_the_script_makes_no_markup_and_no_code():
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function", SCRIPT
    )


def test_the_script_asks_nobody_but_this_site():
    assert "//" not in re.sub(r"//.*", "", SCRIPT)
    assert SCRIPT.count("fetch(") == 1


def test_no_page_has_an_inline_style(page):
    assert not page.all("style")
    assert not [attrs for _, attrs in page.elements if "style" in attrs]


def test_no_page_has_an_event_handler(page):
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]


def test_every_url_on_a_page_is_of_this_site_or_leads_to_garmin(page):
    urls = [a[n] for _, a in page.elements for n in ("href", "src", "action") if n in a]
    assert urls
    others = [url for url in urls if not re.match(r"/(?!/)", url)]
    links = [a["href"] for a in page.all("a") if a["href"] in GARMINS_PAGES]
    assert others == links


@pytest.mark.parametrize("sheet", SHEETS, ids=lambda sheet: sheet.name)
def test_a_style_sheet_fetches_nothing(sheet):
    assert "url(" not in sheet.read_text()
    assert "@import" not in sheet.read_text()


def test_every_rule_is_scoped_to_the_wrapper():
    rules = re.sub(r"/\*.*?\*/", "", CSS, flags=re.S)
    rules = re.sub(r"@keyframes ga-[^{]+\{(?:[^{}]*\{[^{}]*\})*\s*\}", "", rules)
    selectors = [
        selector.strip()
        for match in re.findall(r"([^{}]+)\{", rules)
        if not match.strip().startswith("@")
        for selector in match.split(",")
    ]
    assert len(selectors) > 50
    assert [s for s in selectors if not re.match(r"\.garmin-auth(?![\w-])", s)] == []


# Accessibility


def test_every_page_has_a_language_and_a_direction(page):
    assert page.all("html") == [{"lang": "en-us", "dir": "ltr"}]


def test_every_page_has_a_title(page):
    assert re.search(r"<title>[^<\s][^<]+</title>", page.source)


def test_every_page_has_one_heading_of_the_first_level(page):
    assert len(page.all("h1")) == 1


def test_every_page_has_one_main_landmark(page):
    assert len(page.all("main")) == 1


def test_every_id_is_there_once(page):
    assert len(page.ids()) == len(set(page.ids()))


def test_every_id_that_is_referred_to_is_there(page):
    names = ("for", "form", "aria-describedby", "aria-labelledby")
    named = {i for _, attrs in page.elements for n in names for i in attrs.get(n, "").split()}
    assert named <= set(page.ids())


def test_every_field_has_a_label(page):
    fields = {a["id"] for a in page.all("input", "select") if a.get("type") != "hidden"}
    assert fields == {attrs["for"] for attrs in page.all("label")}


def test_the_browser_is_given_at_most_one_field_to_focus(page):
    assert len([a for a in page.all("input") if "autofocus" in a]) <= 1


def test_a_failed_page_says_so_in_its_title(failed_page):
    assert "<title>Error: " in failed_page.source


def test_a_failed_page_gives_the_focus_to_its_first_error(failed_page):
    first = next(attrs for _, attrs in failed_page.elements if "autofocus" in attrs)
    assert first.get("role") == "alert" or first.get("aria-invalid") == "true"


def test_every_field_in_error_is_tied_to_its_error(browser):
    page = Page(login_incomplete(browser))
    invalid = [attrs for attrs in page.all("input") if attrs.get("aria-invalid") == "true"]
    assert [attrs["aria-describedby"] for attrs in invalid] == [
        "id_email_error",
        "id_password_helptext id_password_error",
    ]


def test_a_message_is_read_out(browser):
    page = Page(connected(browser))
    [region] = [attrs for attrs in page.all("div") if attrs.get("role") == "status"]
    assert "ga-messages" in region["class"]


@pytest.mark.parametrize(
    ("site", "ours"),
    [("de", "de"), ("de-at", "de-at"), ("es-mx", "es-mx"), ("en-gb", "en-gb"), ("ar", "en")],
)
def test_a_page_is_in_the_sites_language_where_there_is_a_catalog(browser, settings, site, ours):
    settings.LANGUAGE_CODE = site
    assert Page(not_connected(browser)).all("html") == [{"lang": ours, "dir": "ltr"}]


def test_our_part_of_a_sites_own_layout_has_the_language_of_its_texts(
    browser, own_template, settings
):
    settings.LANGUAGE_CODE = "ar"
    own_template(
        "base.html", "{% load i18n %}{% block content %}{% endblock %}{% translate 'Yes' %}"
    )
    page = Page(code(browser))
    assert page.elements[0] == ("div", {"class": "garmin-auth ga-page", "lang": "en", "dir": "ltr"})
    assert "p.m." in page.source or "a.m." in page.source  # An English time, in an English text.


def test_a_catalog_of_the_sites_own_is_taken_at_its_word(browser, settings, tmp_path):
    settings.LANGUAGE_CODE, settings.LOCALE_PATHS = "ar", [tmp_path]
    catalog = Catalog(locale="ar")
    catalog.add("en", "ar", context="garmin_auth language")
    (tmp_path / "ar" / "LC_MESSAGES").mkdir(parents=True)
    with (tmp_path / "ar" / "LC_MESSAGES" / "django.mo").open("wb") as file:
        write_mo(file, catalog)
    assert Page(not_connected(browser)).all("html") == [{"lang": "ar", "dir": "rtl"}]


def test_a_date_says_its_exact_time_to_machines(browser):
    times = [attrs["datetime"] for attrs in Page(connected(browser)).all("time")]
    assert len(times) == 2
    assert all(datetime.fromisoformat(time).tzinfo for time in times)


def test_the_progress_is_read_out_as_it_changes(browser):
    page = Page(progress(browser))
    elements = page.elements
    region = elements.index(("div", {"role": "status"}))
    assert elements[region + 1][1]["id"] == "ga-progress"


def test_the_script_finds_what_it_looks_for(browser):
    form = {"email": EMAIL, "password": PASSWORD}
    browser.garmin.add_account(EMAIL, PASSWORD, mfa=True)
    browser.post(LOGIN, form)  # Whose time the progress tells.
    pages = Page(browser.get(MFA)), Page(progress(browser))
    ids = {name for page in pages for name in page.ids()}
    assert set(re.findall(r'(?:getElementById\(|\[)"(ga-[^"]+)"', SCRIPT)) <= ids
    data = {name for page in pages for attrs in page.all("p", "time") for name in attrs}
    assert {f"data-{n}" for n in re.findall(r"dataset\.(\w+)", SCRIPT)} <= data


def test_the_time_left_is_said_only_at_moments_that_matter(browser):
    page = Page(code(browser))
    region = page.elements.index(("div", {"role": "status"}))
    assert page.elements[region + 1][1]["id"] == "ga-said"
    assert {"id": "ga-left", "role": "timer"} in page.all("span")  # Which is not read out.


def test_without_scripts_there_is_no_countdown(browser):
    [line] = [a for a in Page(code(browser)).all("p") if a.get("id") == "ga-countdown"]
    assert "hidden" in line
    assert 590 <= int(line["data-seconds"]) <= 600


def test_nothing_moves_where_that_is_not_wanted():
    assert "prefers-reduced-motion" in CSS


@pytest.mark.parametrize("shown", PAGES, ids=lambda shown: shown.__name__)
def test_no_page_has_two_main_buttons(browser, shown):
    buttons = [a for a in Page(shown(browser)).all("a", "button") if a.get("class") == "ga-button"]
    # The script shows ga-new in place of the form.
    assert len([button for button in buttons if button.get("id") != "ga-new"]) <= 1


def test_a_connection_that_works_is_not_to_be_connected_again(browser):
    source = Page(connected(browser)).source
    assert "Connect again" not in source
    assert ">Use a different Garmin account<" in source
    assert "Connect again" in Page(ends_soon(browser)).source


def test_a_new_code_and_another_account_are_two_links(browser):
    browser.garmin.add_account("mfa@example.com", PASSWORD, mfa=True)
    browser.post(LOGIN, {"email": "mfa@example.com", "password": PASSWORD})
    source = Page(browser.get(MFA)).source
    links = dict(re.findall(r'<li><a href="([^"]+)">([^<]+)<', source))
    assert list(links.values()) == [
        "Sign in again to get a new code",
        "Use a different Garmin account",
    ]
    kept = ['value="mfa@example.com"' in Page(browser.get(url)).source for url in links]
    assert kept == [True, False]


# Little is needed


@pytest.fixture
def bare_site(settings):
    settings.INSTALLED_APPS = [
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "django.contrib.messages",
        "garmin_auth",
    ]
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "OPTIONS": {}}]


@pytest.mark.urls("tests.test_templates")
@pytest.mark.parametrize("shown", PAGES, ids=lambda shown: shown.__name__)
def test_a_page_needs_few_apps_and_no_context_processor(bare_site, browser, shown):
    assert Page(shown(browser)).all("h1")


@pytest.mark.urls("tests.test_templates")
def test_messages_are_shown_without_a_context_processor(bare_site, browser):
    assert ">Your Garmin account is connected.<" in Page(connected(browser)).source


@pytest.mark.urls("tests.test_templates")
@pytest.mark.parametrize("shown", [login, code])
def test_a_form_has_its_csrf_token_without_a_context_processor(bare_site, browser, shown):
    assert 'name="csrfmiddlewaretoken"' in Page(shown(browser)).source


def test_who_may_see_a_page_is_not_left_to_a_middleware(client, settings):
    settings.MIDDLEWARE = [
        *settings.MIDDLEWARE,
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
    ]
    assert client.post("/garmin/disconnect/").url == "/accounts/login/?next=/garmin/"
    assert client.get("/garmin/mfa/").url == "/accounts/login/?next=/garmin/mfa/"


def test_every_page_has_the_style_sheet(page):
    assert page.all("link")[-1] == {
        "rel": "stylesheet",
        "href": "/static/garmin_auth/garmin_auth.css",
    }


# A site's own


@pytest.fixture
def own_template(settings, tmp_path):
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [tmp_path]}]

    def write(name, source):
        template = tmp_path / "garmin_auth" / name
        template.parent.mkdir(parents=True, exist_ok=True)
        template.write_text(source)

    return write


@pytest.mark.parametrize("shown", [not_connected, login, code, progress])
def test_a_sites_own_base_replaces_ours(browser, own_template, shown):
    own_template("base.html", "<h2>Our site</h2>{% block content %}{% endblock %}")
    page = Page(shown(browser))
    assert "<h2>Our site</h2>" in page.source
    assert page.all("h1")
    assert not page.all("link")


@pytest.mark.parametrize("shown", [not_connected, login, code, progress])
def test_a_page_has_its_wrapper_in_any_layout(browser, own_template, shown):
    own_template("base.html", "{% block content %}{% endblock %}")
    page = Page(shown(browser))
    assert page.elements[0] == ("div", {"class": "garmin-auth ga-page"})


@pytest.mark.parametrize("shown", [not_connected, login, code, progress])
def test_a_page_brings_its_style_sheet_to_any_layout(browser, own_template, shown):
    own_template("base.html", "{% block head %}{% endblock %}{% block content %}{% endblock %}")
    [sheet] = Page(shown(browser)).all("link")
    assert sheet["href"].endswith("garmin_auth.css")


@pytest.mark.parametrize("shown", [not_connected, login, code, progress])
def test_a_page_has_a_title_in_any_layout(browser, own_template, shown):
    own_template("base.html", "<title>{% block title %}Our site{% endblock %}</title>")
    assert "<title>Our site</title>" not in Page(shown(browser)).source


@pytest.mark.parametrize("shown", [not_connected, login, code, progress])
def test_a_site_can_empty_the_heading_of_all_pages(browser, own_template, shown):
    own_template(
        "page.html",
        '{% extends "garmin_auth/page.html" %}{% block heading %}{% endblock %}',
    )
    page = Page(shown(browser))
    assert page.all("h1") == []
    assert page.all("button", "a")


def test_a_site_can_put_its_own_texts_on_the_login_page(browser, own_template, settings):
    settings.GARMIN_AUTH_TERMS_URL = "/terms/"
    own_template(
        "login.html",
        '{% extends "garmin_auth/login.html" %}'
        "{% block introduction %}{{ block.super }}<p>We read your rides.</p>{% endblock %}"
        "{% block consent %}<p>You may object.</p>{{ block.super }}{% endblock %}",
    )
    source = Page(login(browser)).source
    form = source[source.index('<form method="post" novalidate>') :].partition("</form>")[0]
    assert "We read your rides." in source
    assert (
        form.index("You may object.")
        < form.index('href="/terms/"')
        < form.index('<button class="ga-button"')
    )


def test_a_sites_own_form_replaces_ours(browser, own_template):
    own_template("includes/form.html", "<p>Our form</p>{{ form }}")
    assert "<p>Our form</p>" in Page(login(browser)).source


def test_there_are_templates():
    names = {"base.html", "status.html", "login.html", "mfa.html", "progress.html"}
    assert names <= {t.name for t in TEMPLATES}


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_a_template_begins_with_its_context(template):
    begin = template.read_text().partition("{% load")[0]
    assert begin.startswith(("{#", "{% comment %}"))
    assert "Context: " in begin
