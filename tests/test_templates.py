"""What every page has in common, whatever it says, and what a site may do to it."""

import re
from datetime import datetime, timedelta
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
from django.test import Client
from django.urls import include, path
from django.utils import timezone

import garmin_auth
from garmin_auth.login import start_login
from garmin_auth.models import EndedReason, GarminAuthenticationState
from tests.conftest import EMAIL, PASSWORD
from tests.test_accounts import damage

STATUS, LOGIN, MFA = "/garmin/", "/garmin/login/", "/garmin/mfa/"
CSS = files("garmin_auth").joinpath("garmin_auth.css").read_text()
TEMPLATES = sorted((Path(garmin_auth.__file__).parent / "templates").rglob("*.html"))

# A site that has nothing but our pages.
urlpatterns = [path("garmin/", include("garmin_auth.urls"))]

states = GarminAuthenticationState.objects


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

    def expire_session(self):
        state = self.connect(self.user)
        states.expire_session(state.pk, state.session_version)

    def disconnect(self):
        self.connect(self.user)
        states.disconnect(self.user.pk, EndedReason.STAFF)

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


def ended_by_garmin(browser):
    browser.expire_session()
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
    return browser.post(LOGIN, {"email": "ana"})


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


def code_too_late(browser):
    browser.expire_challenge()
    return browser.get(MFA)


def code_for_nothing(browser):
    return browser.post(MFA, {"code": "123456"})


PAGES = [
    not_connected,
    connected,
    pending,
    connected_and_pending,
    too_late,
    ended_by_garmin,
    ended_by_staff,
    unreadable,
    login,
    login_when_connected,
    login_when_pending,
    login_when_unreadable,
    login_rejected,
    login_incomplete,
    code,
    code_rejected,
    code_incomplete,
    code_not_judged,
    code_too_late,
    code_for_nothing,
]
FAILED = [
    login_rejected,
    login_incomplete,
    code_rejected,
    code_incomplete,
    code_not_judged,
]


@pytest.fixture
def browser(user, connect, garmin):
    return Browser(user, connect, garmin)


@pytest.fixture(params=PAGES, ids=lambda page: page.__name__)
def page(request, browser):
    return Page(request.param(browser))


@pytest.fixture(params=FAILED, ids=lambda page: page.__name__)
def failed_page(request, browser):
    return Page(request.param(browser))


# A strict Content-Security-Policy


def test_no_page_has_a_script(page):
    assert "<script" not in page.source.lower()


def test_no_page_has_an_inline_style(page):
    assert not page.all("style")
    assert not [attrs for _, attrs in page.elements if "style" in attrs]


def test_no_page_has_an_event_handler(page):
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]


def test_every_url_on_a_page_is_of_this_site(page):
    urls = [a[n] for _, a in page.elements for n in ("href", "src", "action") if n in a]
    assert urls
    assert [url for url in urls if not re.match(r"/(?!/)", url)] == []


def test_the_stylesheet_fetches_nothing():
    assert "url(" not in CSS
    assert "@import" not in CSS


def test_the_stylesheet_is_small():
    assert len(CSS.splitlines()) < 200


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
    fields = {attrs["id"] for attrs in page.all("input") if attrs["type"] != "hidden"}
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
    assert {"role": "status"} in page.all("div")


def test_a_page_follows_the_sites_language(browser, settings):
    settings.LANGUAGE_CODE = "ar"
    assert Page(not_connected(browser)).all("html") == [{"lang": "ar", "dir": "rtl"}]


def test_a_date_says_its_exact_time_to_machines(browser):
    times = [attrs["datetime"] for attrs in Page(connected(browser)).all("time")]
    assert len(times) == 2
    assert all(datetime.fromisoformat(time).tzinfo for time in times)


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
def test_a_page_needs_few_apps_and_no_context_processor(bare_site, page):
    assert page.all("h1")


@pytest.mark.urls("tests.test_templates")
def test_messages_are_shown_without_a_context_processor(bare_site, browser):
    assert ">Your Garmin account is connected.<" in Page(connected(browser)).source


@pytest.mark.urls("tests.test_templates")
@pytest.mark.parametrize("shown", [login, code])
def test_a_form_has_its_csrf_token_without_a_context_processor(bare_site, browser, shown):
    assert 'name="csrfmiddlewaretoken"' in Page(shown(browser)).source


def test_the_stylesheet_is_served_to_anybody(client):
    response = client.get("/garmin/style.css")
    assert (response.status_code, response["Content-Type"]) == (200, "text/css; charset=utf-8")
    assert response.content.decode() == CSS


def test_the_stylesheet_is_served_where_all_views_need_a_login(client, settings):
    settings.MIDDLEWARE = [
        *settings.MIDDLEWARE,
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
    ]
    assert client.get("/garmin/style.css").status_code == 200


def test_the_stylesheet_may_be_cached(client):
    assert client.get("/garmin/style.css")["Cache-Control"] == "public, max-age=3600"


def test_every_page_has_the_stylesheet(page):
    assert {"rel": "stylesheet", "href": "/garmin/style.css"} in page.all("link")


# A site's own


@pytest.fixture
def own_template(settings, tmp_path):
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [tmp_path]}]

    def write(name, source):
        template = tmp_path / "garmin_auth" / name
        template.parent.mkdir(parents=True, exist_ok=True)
        template.write_text(source)

    return write


@pytest.mark.parametrize("shown", [not_connected, login, code])
def test_a_sites_own_base_replaces_ours(browser, own_template, shown):
    own_template("base.html", "<h2>Our site</h2>{% block content %}{% endblock %}")
    page = Page(shown(browser))
    assert "<h2>Our site</h2>" in page.source
    assert page.all("h1")
    assert not page.all("link")


def test_a_sites_own_form_replaces_ours(browser, own_template):
    own_template("includes/form.html", "<p>Our form</p>{{ form }}")
    assert "<p>Our form</p>" in Page(login(browser)).source


def test_there_are_templates():
    assert {"base.html", "status.html", "login.html", "mfa.html"} <= {t.name for t in TEMPLATES}


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_a_template_begins_with_its_context(template):
    begin = template.read_text().partition("{% load")[0]
    assert begin.startswith(("{#", "{% comment %}"))
    assert "Context: " in begin
