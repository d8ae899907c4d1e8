"""The pages as a browser meets them, with a real Garmin behind them."""

import html
import sys
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import certifi
import pytest
from django import forms
from django.core.signals import got_request_exception
from django.db import connection, transaction
from django.http import HttpResponse
from django.test import Client
from django.urls import include, path
from django.utils import timezone
from django.views.debug import get_exception_reporter_class

from garmin_auth.engines.garth import GarthEngine
from garmin_auth.forms import LoginForm, MFAForm
from garmin_auth.limits import cooldown, throttle
from garmin_auth.login import start_login
from garmin_auth.logins.kept import KeptLogin
from garmin_auth.models import EndedReason, GarminAuthenticationState
from garmin_auth.views import LoginView, MFAView
from tests.conftest import EMAIL, PASSWORD, raw_row, state_of
from tests.rows import damage
from tests.waiting import wait_until

STATUS, LOGIN, MFA = "/garmin/", "/garmin/login/", "/garmin/mfa/"
CANCEL, DISCONNECT = "/garmin/mfa/cancel/", "/garmin/disconnect/"
PAGES, ACTIONS = (STATUS, LOGIN, MFA), (CANCEL, DISCONNECT)
FORM = {"email": EMAIL, "password": PASSWORD}

WRONG_PASSWORD = "did not accept this email address and password"
GARMIN_FAULT = "This does not mean that what you entered is wrong"


class BrokenEngine(GarthEngine):
    """An engine with a bug, which knows secrets when it meets it."""

    name = "broken"
    login_note = ""

    def login(self, email, password):
        raise AttributeError("a bug")


class BrokenInput(forms.TextInput):
    """A site's own widget with a bug."""

    def get_context(self, name, value, attrs):
        raise AttributeError("a bug")


class BrokenWhenValidated(LoginForm):
    def clean(self):
        password = self.cleaned_data["password"]
        raise AttributeError(f"a bug that {len(password)} characters meet")


class BrokenWhenRendered(LoginForm):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["password"].widget = BrokenInput()


class BrokenCodeForm(MFAForm):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["code"].widget = BrokenInput()


class ConsentForm(LoginForm):
    consent = forms.BooleanField()


def in_a_transaction(request):
    return HttpResponse(str(connection.in_atomic_block))


# For the tests of error reports and of transactions.
urlpatterns = [
    path("garmin/", include("garmin_auth.urls")),
    path("in-a-transaction/", in_a_transaction),
    path("validated/", LoginView.as_view(form_class=BrokenWhenValidated)),
    path("rendered/", LoginView.as_view(form_class=BrokenWhenRendered)),
    path("consent/", LoginView.as_view(form_class=ConsentForm)),
    path("own/", LoginView.as_view(next_page="/after/", redirect_field_name="to")),
    path("code/", MFAView.as_view(form_class=BrokenCodeForm)),
]


@pytest.fixture
def browser(user):
    browser = Client()
    browser.force_login(user)
    return browser


@pytest.fixture
def other_browser(other_user):
    browser = Client()
    browser.force_login(other_user)
    return browser


@pytest.fixture
def pending(browser, mfa_account):
    """A login that waits for its code."""
    response = browser.post(LOGIN, FORM)
    assert response.status_code == 302
    return response


@pytest.fixture
def reports():
    """The error reports, as Django would mail them to the admins."""
    reports = []

    def report(request, **kwargs):
        reporter = get_exception_reporter_class(request)(request, *sys.exc_info(), is_email=True)
        reports.append(reporter.get_traceback_html() + reporter.get_traceback_text())

    got_request_exception.connect(report)
    yield reports
    got_request_exception.disconnect(report)


def words(response):
    """What the page says, with its markup but without its escapes."""
    return html.unescape(response.content.decode())


def let_challenge_expire(user):
    began = timezone.now() - timedelta(hours=1)
    GarminAuthenticationState.objects.filter(user=user).update(mfa_started_at=began)


def another_code(code):
    return f"{(int(code) + 1) % 10**6:06}"


def query(url, **parameters):
    return f"{url}?{urlencode(parameters)}"


# Who may see them


@pytest.mark.parametrize("url", PAGES)
def test_a_page_sends_a_visitor_to_the_sites_login_and_back(client, settings, url):
    response = client.get(url)
    assert response.status_code == 302
    assert response.url == query(settings.LOGIN_URL, next=url).replace("%2F", "/")


@pytest.mark.parametrize("url", [LOGIN, MFA, *ACTIONS])
def test_a_visitor_cannot_post(client, db, url):
    assert client.post(url, {**FORM, "code": "123456"}).url.startswith("/accounts/login/")


@pytest.mark.parametrize("url", ACTIONS)
def test_a_visitor_who_posts_an_action_comes_back_to_a_page(client, db, url):
    assert client.post(url).url == "/accounts/login/?next=/garmin/"


def test_a_visitors_password_goes_to_nobody(client, db, garmin, account):
    client.post(LOGIN, FORM)
    assert garmin.counts["login"] == 0


@pytest.mark.parametrize("url", PAGES)
def test_a_user_gets_the_page(browser, pending, url):
    assert browser.get(url).status_code == 200


# Another user


def test_another_users_code_page_has_no_login_to_finish(other_browser, pending):
    assert other_browser.get(MFA).url == LOGIN


def test_another_users_login_is_not_finished_with_the_right_code(
    other_browser, other_user, user, pending, garmin
):
    response = other_browser.post(MFA, {"code": garmin.mfa_code(EMAIL)})
    assert "No sign-in is waiting for a verification code" in words(response)
    assert state_of(other_user) is None


def test_a_code_of_another_user_does_not_count_as_an_attempt(other_browser, user, pending):
    other_browser.post(MFA, {"code": "123456"})
    assert state_of(user).mfa_attempts == 0


def test_another_users_cancel_keeps_the_challenge(other_browser, user, pending):
    other_browser.post(CANCEL)
    assert state_of(user).mfa_pending


def test_another_users_disconnect_keeps_the_session(other_browser, user, connect):
    connect(user)
    before = raw_row(user)
    other_browser.post(DISCONNECT)
    assert raw_row(user) == before


def test_another_users_status_does_not_show_the_account(other_browser, user, connect):
    connect(user)
    assert EMAIL not in words(other_browser.get(STATUS))


# CSRF, methods, caching


@pytest.mark.parametrize("url", [LOGIN, MFA, *ACTIONS])
@pytest.mark.parametrize("has_middleware", [True, False])
def test_a_post_without_its_csrf_token_is_refused(user, settings, url, has_middleware):
    if not has_middleware:
        settings.MIDDLEWARE = [m for m in settings.MIDDLEWARE if "csrf" not in m.lower()]
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(user)
    assert browser.post(url, {**FORM, "code": "123456"}).status_code == 403


def test_a_refused_post_disconnects_nobody(user, connect):
    connect(user)
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(user)
    browser.post(DISCONNECT)
    assert state_of(user).session_data


def csrf_token(response, form):
    """The token in the form of this page that begins with ``form``."""
    return words(response).split(form)[1].split('value="')[1].split('"')[0]


@pytest.mark.parametrize(
    ("page", "form", "url"),
    [
        (LOGIN, '<form method="post" novalidate>', LOGIN),
        (LOGIN, f'<form method="post" action="{CANCEL}">', CANCEL),
        (MFA, '<form method="post" novalidate>', MFA),
        (MFA, f'<form id="ga-cancel" method="post" action="{CANCEL}">', CANCEL),
        (STATUS, f'<form method="post" action="{CANCEL}">', CANCEL),
        (STATUS, f'<form method="post" action="{DISCONNECT}">', DISCONNECT),
    ],
)
def test_a_form_carries_its_csrf_token(user, connect, mfa_account, garmin, page, form, url):
    connect(user)
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(user)
    start_login(user, EMAIL, PASSWORD)
    token = csrf_token(browser.get(page), form)
    fields = {**FORM, "code": garmin.mfa_code(EMAIL), "csrfmiddlewaretoken": token}
    assert browser.post(url, fields).status_code == 302


@pytest.mark.parametrize("method", ["get", "head", "put", "delete", "options"])
@pytest.mark.parametrize("url", ACTIONS)
def test_an_action_is_post_only(browser, url, method):
    response = getattr(browser, method)(url)
    assert response.status_code == 405
    assert response["Allow"] == "POST"


@pytest.mark.parametrize("url", ACTIONS)
def test_a_get_on_an_action_changes_nothing(browser, user, connect, pending, url):
    connect(user)
    browser.post(LOGIN, FORM)
    before = raw_row(user)
    browser.get(url)
    assert raw_row(user) == before


@pytest.mark.parametrize("url", PAGES)
def test_head_works(browser, pending, url):
    response = browser.head(url)
    assert (response.status_code, response.content) == (200, b"")


def test_head_uses_up_no_message(browser, account):
    browser.post(LOGIN, FORM)
    browser.head(STATUS)
    assert "Your Garmin account is connected." in words(browser.get(STATUS))


@pytest.mark.parametrize("url", ["/garmin/progress/", MFA])
def test_head_adds_no_message(browser, user, connect, url):
    if "progress" in url:
        connect(user)
    assert browser.head(url).status_code == 302
    page = words(browser.get(STATUS))
    assert "Your Garmin account is connected." not in page
    assert "No sign-in is waiting" not in page


@pytest.mark.parametrize("method", ["put", "patch", "delete"])
@pytest.mark.parametrize("url", PAGES)
def test_a_page_has_no_other_method(browser, pending, garmin, url, method):
    response = getattr(browser, method)(url, "code=123456", "application/x-www-form-urlencoded")
    assert response.status_code == 405
    assert garmin.counts["verify_code"] == 0


@pytest.mark.parametrize("url", PAGES)
def test_a_page_is_never_cached(browser, pending, url):
    assert {"no-store", "private"} <= set(browser.get(url)["Cache-Control"].split(", "))


@pytest.mark.parametrize("url", [LOGIN, MFA])
def test_a_failed_form_is_never_cached(browser, pending, url):
    assert {"no-store", "private"} <= set(browser.post(url)["Cache-Control"].split(", "))


@pytest.mark.parametrize("url", [*PAGES, *ACTIONS])
def test_a_redirect_is_never_cached(client, url):
    assert {"no-store", "private"} <= set(client.get(url)["Cache-Control"].split(", "))


@pytest.mark.parametrize("url", ACTIONS)
def test_a_405_is_never_cached(browser, url):
    assert {"no-store", "private"} <= set(browser.get(url)["Cache-Control"].split(", "))


# The way through


def test_a_login_without_mfa_connects(browser, user, account):
    browser.post(LOGIN, FORM)
    assert state_of(user).session_data


def test_a_login_without_mfa_redirects_to_the_status(browser, account):
    response = browser.post(LOGIN, FORM)
    assert (response.status_code, response.url) == (302, STATUS)


def test_a_login_with_mfa_redirects_to_the_code(pending):
    assert (pending.status_code, pending.url) == (302, MFA)


def test_the_right_code_connects(browser, user, pending, garmin):
    browser.post(MFA, {"code": garmin.mfa_code(EMAIL)})
    assert state_of(user).session_data


def test_the_right_code_redirects_to_the_status(browser, pending, garmin):
    response = browser.post(MFA, {"code": garmin.mfa_code(EMAIL)})
    assert (response.status_code, response.url) == (302, STATUS)


def test_the_code_is_taken_in_another_browser(user, pending, garmin):
    phone = Client()
    phone.force_login(user)
    phone.post(MFA, {"code": garmin.mfa_code(EMAIL)})
    assert state_of(user).session_data


def test_a_cancel_ends_the_pending_login(browser, user, pending):
    browser.post(CANCEL)
    assert not state_of(user).mfa_pending


def test_a_cancel_keeps_a_stored_session(browser, user, connect, pending):
    session = connect(user).session_data
    browser.post(LOGIN, FORM)
    browser.post(CANCEL)
    assert state_of(user).session_data == session


def test_a_cancel_redirects_to_the_status(browser, pending):
    response = browser.post(CANCEL)
    assert (response.status_code, response.url) == (302, STATUS)


def test_a_disconnect_clears_the_session(browser, user, connect):
    connect(user)
    browser.post(DISCONNECT)
    assert raw_row(user)["session_data"] is None


def test_a_disconnect_redirects_to_the_status(browser, user, connect):
    connect(user)
    response = browser.post(DISCONNECT)
    assert (response.status_code, response.url) == (302, STATUS)


def test_the_status_says_as_whom(browser, account):
    browser.post(LOGIN, FORM)
    assert EMAIL in words(browser.get(STATUS))


def test_the_status_says_when_garmin_last_answered(browser, user, connect):
    state = connect(user)
    GarminAuthenticationState.objects.mark_validated(state.pk, state.connected_at)
    ago = timezone.now() - timedelta(hours=3, minutes=5)
    GarminAuthenticationState.objects.update(last_validated=ago)
    page = words(browser.get(STATUS))
    assert "3 hours ago" in page
    assert "Last worked" in page
    assert f'3 hours ago <span class="ga-exact"><time datetime="{ago.isoformat()}"' in page


def test_the_status_says_when_garmin_last_answered_in_the_current_zone(
    browser, user, connect, settings
):
    settings.TIME_ZONE = "Asia/Tokyo"
    connect(user)
    worked = datetime(2026, 1, 1, 20, 10, tzinfo=UTC)
    GarminAuthenticationState.objects.update(last_validated=worked)
    page = words(browser.get(STATUS))
    assert 'datetime="2026-01-02T05:10:00+09:00"' in page
    assert ">Jan. 2, 2026, 5:10 a.m. JST</time>" in page


def test_the_status_names_no_library(browser, user, connect):
    connect(user)
    assert "garth" not in words(browser.get(STATUS))


@pytest.mark.parametrize(
    ("days", "said"),
    [(31, ""), (29, "This connection expires on "), (-1, "may expire at any time")],
)
def test_the_status_says_that_the_session_ends_soon(browser, user, connect, days, said):
    connect(user)
    ends_at = timezone.now() + timedelta(days=days)
    GarminAuthenticationState.objects.update(session_ends_at=ends_at)
    page = words(browser.get(STATUS))
    assert said in page
    assert ("so that no data is missed" in page) is bool(said)
    # Then connecting again is the one thing to do.
    again = f'<a class="ga-button" href="{LOGIN}">Connect again</a>'
    assert (again in page) is bool(said)


def test_the_status_tells_of_session_and_pending_login_alike(browser, user, connect, pending):
    connect(user)
    browser.post(LOGIN, FORM)
    page = words(browser.get(STATUS))
    assert ">Connected<" in page
    assert "Verification code required" in page


def test_the_status_says_that_garmin_ended_the_session(browser, user, connect):
    state = connect(user)
    GarminAuthenticationState.objects.end_session(state.pk, state.session_version, "expired")
    assert "Garmin has disconnected your account" in words(browser.get(STATUS))


def test_the_status_says_that_staff_ended_the_session(browser, user, connect):
    connect(user)
    GarminAuthenticationState.objects.disconnect(user.pk, EndedReason.STAFF)
    assert "The site's administrators have disconnected" in words(browser.get(STATUS))


def test_going_back_to_the_code_page_when_connected_leads_to_the_status(browser, user, connect):
    connect(user)
    assert browser.get(MFA).url == STATUS


def test_the_code_page_without_a_pending_login_leads_to_the_login(browser):
    response = browser.get(MFA, follow=True)
    assert response.redirect_chain == [(LOGIN, 302)]
    assert "No sign-in is waiting for a verification code" in words(response)


def test_a_second_submit_of_the_right_code_says_that_the_account_is_connected(
    browser, pending, garmin
):
    code = garmin.mfa_code(EMAIL)
    browser.post(MFA, {"code": code})
    assert "Your Garmin account is connected." in words(browser.post(MFA, {"code": code}))


# Messages


@pytest.mark.parametrize(
    ("url", "data", "message"),
    [
        (LOGIN, FORM, "Your Garmin account is connected."),
        (DISCONNECT, {}, "Your Garmin account has been disconnected."),
    ],
)
def test_what_was_done_is_said_once(browser, user, connect, url, data, message):
    connect(user)
    assert f">{message}<" in words(browser.post(url, data, follow=True))
    assert f">{message}<" not in words(browser.get(STATUS))


def test_a_cancelled_login_is_said(browser, pending):
    assert "The sign-in was canceled." in words(browser.post(CANCEL, follow=True))


@pytest.mark.parametrize("url", ACTIONS)
def test_nothing_is_said_where_nothing_was_done(browser, url):
    assert "ga-message" not in words(browser.post(url, follow=True))


def test_the_pages_work_without_the_message_framework(browser, settings, account):
    settings.MIDDLEWARE = [m for m in settings.MIDDLEWARE if "messages" not in m]
    assert browser.post(LOGIN, FORM, follow=True).status_code == 200


# next


def test_next_is_kept_from_the_login_to_the_code(browser, mfa_account):
    response = browser.post(query(LOGIN, next="/after/?a=b"), FORM)
    assert response.url == query(MFA, next="/after/?a=b")


@pytest.mark.parametrize("url", [LOGIN, MFA])
def test_next_is_in_the_form(browser, pending, url):
    response = browser.get(query(url, next="/after/"))
    assert '<input type="hidden" name="next" value="/after/">' in words(response)


def test_next_is_where_the_code_leads(browser, pending, garmin):
    form = {"code": garmin.mfa_code(EMAIL), "next": "/after/?a=b"}
    assert browser.post(MFA, form).url == "/after/?a=b"


def test_next_is_where_a_login_without_mfa_leads(browser, account):
    assert browser.post(LOGIN, {**FORM, "next": "/after/"}).url == "/after/"


def test_next_survives_a_failed_form(browser, account):
    response = browser.post(LOGIN, {**FORM, "password": "wrong", "next": "/after/"})
    assert '<input type="hidden" name="next" value="/after/">' in words(response)


@pytest.mark.parametrize("url", ACTIONS)
def test_next_is_where_an_action_leads(browser, url):
    assert browser.post(url, {"next": "/after/"}).url == "/after/"


def test_next_is_kept_where_the_code_page_leads_to_the_login(browser):
    assert browser.get(query(MFA, next="/after/")).url == query(LOGIN, next="/after/")


@pytest.mark.parametrize("url", [STATUS, MFA])
def test_next_is_kept_by_the_link_to_the_login(browser, pending, url):
    page = words(browser.get(query(url, next="/after/")))
    assert f'href="{query(LOGIN, next="/after/")}"' in page


def test_next_is_kept_by_the_link_to_the_code(browser, pending):
    page = words(browser.get(query(LOGIN, next="/after/")))
    assert f'href="{query(MFA, next="/after/")}"' in page


@pytest.fixture
def own_urls(settings):
    settings.ROOT_URLCONF = "tests.test_views"


@pytest.mark.parametrize(
    ("url", "target"), [("/own/", "/after/"), (query("/own/", to="/there/"), "/there/")]
)
def test_where_a_sites_own_view_leads_is_kept_at_the_code(
    own_urls, browser, mfa_account, garmin, url, target
):
    response = browser.post(url, FORM)
    assert response.url == query(MFA, next=target)
    assert browser.post(response.url, {"code": garmin.mfa_code(EMAIL)}).url == target


@pytest.mark.parametrize(
    ("url", "target"), [("/own/", "/after/"), (query("/own/", to="/there/"), "/there/")]
)
def test_where_a_sites_own_view_leads_is_where_it_leads_back(own_urls, browser, user, url, target):
    assert f'href="{target}"' in words(browser.get(url))


HOSTILE = [
    "https://evil.example/",
    "//evil.example/",
    "///evil.example/",
    "/\\evil.example/",
    "http:///evil.example/",
    "javascript:alert('evil.example')",
    " javascript:alert('evil.example')",
    "data:text/html,evil.example",
]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("url", PAGES)
def test_a_hostile_next_is_on_no_page(browser, pending, url, hostile):
    assert "evil.example" not in words(browser.get(query(url, next=hostile)))


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_next_leads_nowhere_from_the_login(browser, account, hostile):
    assert browser.post(query(LOGIN, next=hostile), {**FORM, "next": hostile}).url == STATUS


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_next_is_not_handed_to_the_code_page(browser, mfa_account, hostile):
    assert browser.post(LOGIN, {**FORM, "next": hostile}).url == MFA


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_next_leads_nowhere_from_the_code(browser, pending, garmin, hostile):
    form = {"code": garmin.mfa_code(EMAIL), "next": hostile}
    assert browser.post(MFA, form).url == STATUS


@pytest.mark.parametrize("url", ACTIONS)
@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_next_leads_nowhere_from_an_action(browser, url, hostile):
    assert browser.post(url, {"next": hostile}).url == STATUS


# A form that is sent twice


def key_of(response):
    """The key of the form on this page."""
    return words(response).split('name="idempotency_key" value="')[1].split('"')[0]


@pytest.mark.parametrize("url", [LOGIN, MFA])
def test_each_form_has_a_key_of_its_own(browser, pending, url):
    assert key_of(browser.get(url)) != key_of(browser.get(url))


def test_a_form_that_failed_has_a_new_key(browser, account):
    key = key_of(browser.get(LOGIN))
    response = browser.post(LOGIN, {**FORM, "password": "wrong", "idempotency_key": key})
    assert key_of(response) != key


def test_a_login_that_is_sent_twice_mails_one_code(browser, mfa_account, garmin):
    form = {**FORM, "idempotency_key": key_of(browser.get(LOGIN))}
    assert [browser.post(LOGIN, form).url for _ in range(2)] == [MFA, MFA]
    assert garmin.counts["login"] == 1


def test_a_code_that_is_sent_twice_connects_twice(browser, pending, garmin):
    form = {"code": garmin.mfa_code(EMAIL), "idempotency_key": key_of(browser.get(MFA))}
    assert [browser.post(MFA, form).url for _ in range(2)] == [STATUS, STATUS]


def test_a_wrong_code_that_is_sent_twice_is_one_attempt(browser, user, pending):
    form = {"code": "000000", "idempotency_key": key_of(browser.get(MFA))}
    pages = [words(browser.post(MFA, form)) for _ in range(2)]
    assert ["You have 4 attempts left" in page for page in pages] == [True, True]
    assert state_of(user).mfa_attempts == 1


# Logins of one address


def forwarded_for(request):
    """A site's own way to read the client's address."""
    return request.META.get("HTTP_X_FORWARDED_FOR")


def try_to_log_in(browser, address):
    form = {**FORM, "email": f"{address}@example.com"}
    return words(browser.post(LOGIN, form, headers={"x-forwarded-for": address}))


@pytest.mark.parametrize("setting", ["tests.test_views.forwarded_for", None])
def test_an_address_is_limited_where_the_site_can_tell_it(
    browser, other_browser, garmin, settings, monkeypatch, setting
):
    settings.GARMIN_AUTH_CLIENT_ADDRESS = setting
    monkeypatch.setattr(throttle, "CLIENT_LIMIT", 1)
    try_to_log_in(browser, "192.0.2.1")

    limited = "tried to sign in too many times" in try_to_log_in(other_browser, "192.0.2.1")

    assert limited is (setting is not None)
    assert "too many times" not in try_to_log_in(other_browser, "192.0.2.2")


def test_a_client_without_an_address_is_not_limited(browser, garmin, settings, monkeypatch):
    settings.GARMIN_AUTH_CLIENT_ADDRESS = "tests.test_views.forwarded_for"
    monkeypatch.setattr(throttle, "CLIENT_LIMIT", 1)
    for _ in range(2):
        assert WRONG_PASSWORD in words(browser.post(LOGIN, {**FORM, "password": "wrong"}))


# What Garmin takes for a user name


# What is kept of a login, so that nobody types their address twice


def test_a_login_that_waits_for_a_code_has_kept_the_address(browser, pending):
    assert f'value="{EMAIL}"' in words(browser.get(LOGIN))
    assert EMAIL not in words(browser.get(f"{LOGIN}?other=1"))


def test_the_address_is_kept_encrypted_and_the_password_is_not(browser, pending):
    kept = str(dict(browser.session.items()))
    assert "_garmin_auth_login" in kept
    assert EMAIL not in kept
    assert PASSWORD not in kept


def test_the_address_is_kept_for_this_browser_only(user, pending):
    other = Client()
    other.force_login(user)
    assert EMAIL not in words(other.get(LOGIN))


@pytest.mark.parametrize("end", ["connect", "cancel", "disconnect"])
def test_the_address_is_forgotten_at_the_end(browser, user, pending, garmin, end):
    if end == "connect":
        browser.post(MFA, {"code": garmin.mfa_code(EMAIL)})
    else:
        browser.post(CANCEL if end == "cancel" else DISCONNECT)
    assert "_garmin_auth_login" not in browser.session


def test_the_address_is_forgotten_after_an_hour(browser, pending):
    session = browser.session
    session["_garmin_auth_login"]["sent_at"] -= 3601
    session.save()
    assert EMAIL not in words(browser.get(LOGIN))


def test_an_address_that_no_key_opens_is_forgotten(browser, pending):
    session = browser.session
    session["_garmin_auth_login"]["email"] = "gAAAAAdamaged"
    session.save()
    assert browser.get(LOGIN).status_code == 200


# Where the user is sent to Garmin


@pytest.mark.parametrize("domain", ["garmin.com", "garmin.cn"])
def test_who_is_sent_to_garmin_connect_has_a_link(browser, account, settings, domain):
    settings.GARMIN_AUTH_DOMAIN = domain
    page = words(browser.post(LOGIN, {**FORM, "password": "wrong"}))
    assert f'<a href="https://connect.{domain}/" target="_blank" rel="noreferrer">' in page


def test_who_has_nothing_to_do_at_garmin_has_no_link(browser, account, garmin):
    garmin.fail("login", "status")
    assert "connect.garmin.com" not in words(browser.post(LOGIN, FORM))


# A site's own terms


@pytest.mark.parametrize("url", ["/accounts/login/", "login"])
def test_the_terms_are_linked(browser, settings, url):
    settings.GARMIN_AUTH_TERMS_URL = url
    assert '<a href="/accounts/login/">terms of this site</a>' in words(browser.get(LOGIN))


def test_without_terms_nothing_is_said_of_any(browser):
    assert "terms" not in words(browser.get(LOGIN))


# Authenticator apps


def test_a_code_of_an_app_was_not_sent_to_an_address(browser, garmin):
    garmin.add_account(EMAIL, PASSWORD, mfa=True, mfa_method="totp")
    page = words(browser.post(LOGIN, FORM, follow=True))
    assert "or your authenticator app shows one" in page
    assert "has sent a verification code to" not in page


@pytest.mark.parametrize(
    "name", ["ana", "13812345678", "name..x@docomo.ne.jp", "j\u00f6rg@example.com"]
)
def test_a_user_name_of_any_kind_connects(browser, user, garmin, name):
    garmin.add_account(name, PASSWORD)
    browser.post(LOGIN, {"email": name, "password": PASSWORD})
    assert state_of(user).session_data


# A form with further fields


def test_a_further_field_of_a_sites_form_does_not_reach_the_login(account, user, settings):
    settings.ROOT_URLCONF = "tests.test_views"
    browser = Client()
    browser.force_login(user)
    assert browser.post("/consent/", FORM).status_code == 200
    assert state_of(user) is None
    assert browser.post("/consent/", {**FORM, "consent": "on"}).status_code == 302
    assert state_of(user).session_data


# What a failed login says


def test_a_wrong_password_is_said(browser, account):
    response = browser.post(LOGIN, {**FORM, "password": "wrong"})
    assert WRONG_PASSWORD in words(response)


def test_a_wrong_password_answers_200(browser, account):
    assert browser.post(LOGIN, {**FORM, "password": "wrong"}).status_code == 200


LOGIN_FAILURES = {
    "captcha": "wants to verify that you are human",
    "locked": "Garmin has locked this account",
    "disabled": "Garmin has locked this account",
    "rate_limited": "try again in 60 minutes",
    "rate_limited_200": "try again in 60 minutes",
    "rate_limited_427": "try again in 60 minutes",
    "blocked": GARMIN_FAULT,
    "challenge_page": GARMIN_FAULT,
    "status": GARMIN_FAULT,
    "unknown_type": "Garmin asks you to complete a step first",
    "unauthorized_other": GARMIN_FAULT,
    "html": GARMIN_FAULT,
    "wrong_json": GARMIN_FAULT,
    "truncated_json": GARMIN_FAULT,
    "empty": GARMIN_FAULT,
    "no_content": GARMIN_FAULT,
    "redirect": GARMIN_FAULT,
    "reset": GARMIN_FAULT,
    "reset_mid_body": GARMIN_FAULT,
    "drop_after": GARMIN_FAULT,
}


@pytest.fixture(params=LOGIN_FAILURES)
def failed_login(request, browser, account, garmin):
    """The answer to a right password when Garmin fails, and what it should say."""
    garmin.fail("login", request.param, times=None)
    return browser.post(LOGIN, FORM), LOGIN_FAILURES[request.param]


def test_a_failed_login_has_its_own_sentence(failed_login):
    response, sentence = failed_login
    assert sentence in words(response)


def test_a_failed_login_answers_200(failed_login):
    response, _ = failed_login
    assert response.status_code == 200


def test_a_failed_login_is_not_called_a_wrong_password(failed_login):
    response, _ = failed_login
    assert WRONG_PASSWORD not in words(response)


def test_a_failed_login_echoes_no_password(failed_login):
    response, _ = failed_login
    assert PASSWORD not in words(response)


@pytest.mark.parametrize(("seconds", "wait"), [(1, "1 minute."), (300, "5 minutes.")])
def test_a_rate_limit_says_how_long_to_wait(browser, account, garmin, seconds, wait):
    garmin.fail("login", "rate_limited", retry_after=seconds)
    assert f"try again in {wait}" in words(browser.post(LOGIN, FORM))


def clock(page, label):
    """The time that follows these words on the page."""
    return datetime.fromisoformat(page.split(f'{label} <time datetime="')[1].split('"')[0])


def test_a_rate_limit_says_until_when_it_lasts(browser, account, garmin):
    garmin.fail("login", "rate_limited", retry_after=300)
    until = clock(words(browser.post(LOGIN, FORM)), "You can try again after")
    assert timedelta(seconds=290) < until - timezone.now() <= timedelta(seconds=300)


def test_a_pause_says_until_when_without_asking_garmin(browser, account, garmin):
    garmin.fail("login", "rate_limited", retry_after=300)
    browser.post(LOGIN, FORM)
    asked = sum(garmin.counts.values())
    until = clock(words(browser.post(LOGIN, FORM)), "You can try again after")
    assert timedelta(seconds=290) < until - timezone.now() <= timedelta(seconds=300)
    assert sum(garmin.counts.values()) == asked


def test_a_rate_limit_without_a_time_names_the_one_that_this_site_keeps(browser, account, garmin):
    garmin.fail("login", "rate_limited")

    first, second = (words(browser.post(LOGIN, FORM)) for _ in range(2))

    assert "try again in 60 minutes." in first
    assert "try again in 60 minutes." in second
    label = "You can try again after"
    assert abs(clock(first, label) - clock(second, label)) <= timedelta(seconds=2)


def test_a_rate_limit_without_a_time_after_a_short_one_is_short(browser, account, garmin):
    scope = cooldown.account_scope(EMAIL, "garmin.com")
    cooldown.start(scope, 1)
    wait_until(lambda: not cooldown.seconds_left(scope))
    garmin.fail("login", "rate_limited")

    assert "try again in 1 minute." in words(browser.post(LOGIN, FORM))


def test_the_form_stays_usable_during_a_pause(browser, account, garmin):
    garmin.fail("login", "rate_limited", retry_after=300)
    garmin.add_account("other@example.com", PASSWORD)
    browser.post(LOGIN, FORM)
    assert browser.post(LOGIN, {**FORM, "email": "other@example.com"}).url == STATUS


def test_the_login_page_says_until_when_the_site_pauses(browser):
    cooldown.start(cooldown.site_scope("garmin.com"), 300)
    until = clock(words(browser.get(LOGIN)), "Garmin is limiting requests from this site until")
    assert timedelta(seconds=290) < until - timezone.now() <= timedelta(seconds=300)


def test_the_login_page_says_nothing_of_a_pause_that_is_over(browser):
    assert "limiting requests" not in words(browser.get(LOGIN))


def test_the_login_page_says_what_the_engine_has_users_know(browser):
    assert "Since March 2026, Garmin has been refusing" in words(browser.get(LOGIN))


def test_the_login_page_says_of_another_engine_nothing_that_is_not_its_own(browser, settings):
    settings.GARMIN_AUTH_ENGINES = {"broken": "tests.test_views.BrokenEngine"}
    settings.GARMIN_AUTH_ENGINE = "broken"
    assert "March" not in words(browser.get(LOGIN))


def test_the_login_page_is_shown_without_an_engine(browser, settings):
    settings.GARMIN_AUTH_ENGINE = "missing"
    assert browser.get(LOGIN).status_code == 200


@pytest.mark.parametrize(
    ("step", "fault"),
    [
        ("sign_in", "status"),
        ("preauthorized", "app_validation"),
        ("preauthorized", "reset"),
        ("exchange", "app_validation"),
        ("exchange", "dead"),
        ("exchange", "html"),
    ],
)
def test_a_fault_at_any_other_step_is_called_garmins(browser, account, garmin, step, fault):
    garmin.fail(step, fault, times=None)
    assert GARMIN_FAULT in words(browser.post(LOGIN, FORM))


def test_a_garmin_that_cannot_be_reached_is_called_garmins_fault(browser, account, settings):
    settings.GARMIN_AUTH_PROXIES = {"https": "http://127.0.0.1:9"}
    assert GARMIN_FAULT in words(browser.post(LOGIN, FORM))


def test_a_garmin_that_cannot_be_trusted_is_called_garmins_fault(browser, account, settings):
    settings.GARMIN_AUTH_CA_BUNDLE = certifi.where()
    assert GARMIN_FAULT in words(browser.post(LOGIN, FORM))


@pytest.mark.parametrize("step", ["sign_in", "login", "exchange"])
def test_a_garmin_that_never_answers_is_called_garmins_fault(
    browser, account, garmin, settings, step
):
    settings.GARMIN_AUTH_TIMEOUT = 0.5
    garmin.fail(step, "stall", times=None)
    assert GARMIN_FAULT in words(browser.post(LOGIN, FORM))


@pytest.mark.parametrize(
    "form", [{}, {"email": EMAIL}, {"password": PASSWORD}, {"email": "ana", "password": PASSWORD}]
)
def test_an_incomplete_form_asks_garmin_nothing(browser, account, garmin, form):
    assert browser.post(LOGIN, form).status_code == 200
    assert garmin.counts["connect"] == 0


def test_a_wrong_password_is_not_echoed(browser, account):
    form = {**FORM, "password": "s3cret and wrong"}
    assert "s3cret" not in words(browser.post(LOGIN, form))


def test_a_form_error_echoes_no_password(browser):
    assert PASSWORD not in words(browser.post(LOGIN, {"email": "ana", "password": PASSWORD}))


def test_a_failed_login_keeps_the_email_address(browser, account):
    response = browser.post(LOGIN, {**FORM, "password": "wrong"})
    assert f'value="{EMAIL}"' in words(response)


# What a failed code says


def test_a_wrong_code_says_how_many_attempts_are_left(browser, pending, garmin):
    response = browser.post(MFA, {"code": another_code(garmin.mfa_code(EMAIL))})
    assert "You have 4 attempts left" in words(response)


def test_a_wrong_code_answers_200(browser, pending, garmin):
    assert browser.post(MFA, {"code": another_code(garmin.mfa_code(EMAIL))}).status_code == 200


def test_a_wrong_code_keeps_the_challenge(browser, user, pending, garmin):
    code = garmin.mfa_code(EMAIL)
    browser.post(MFA, {"code": another_code(code)})
    browser.post(MFA, {"code": code})
    assert state_of(user).session_data


def test_a_wrong_code_is_tied_to_its_field(browser, pending, garmin):
    page = words(browser.post(MFA, {"code": another_code(garmin.mfa_code(EMAIL))}))
    assert 'aria-describedby="id_code_helptext id_code_error"' in page
    assert 'id="id_code_error"' in page


def test_the_last_wrong_code_ends_the_login(browser, user, pending, garmin, settings):
    settings.GARMIN_AUTH_MFA_MAX_ATTEMPTS = 2
    wrong = {"code": another_code(garmin.mfa_code(EMAIL))}
    browser.post(MFA, wrong)
    assert "You entered too many wrong codes" in words(browser.post(MFA, wrong))
    assert not state_of(user).mfa_pending


def test_no_code_field_is_shown_for_a_login_that_has_ended(browser, pending, garmin):
    garmin.fail("verify_code", "code_max")
    assert 'name="code"' not in words(browser.post(MFA, {"code": "123456"}))


def test_a_login_that_has_ended_offers_a_new_one(browser, pending, garmin):
    garmin.fail("verify_code", "code_max")
    page = words(browser.post(MFA, {"code": "123456", "next": "/after/"}))
    assert f'href="{query(LOGIN, next="/after/")}"' in page


CODE_FAILURES = {
    "code_expired": "This verification code has expired",
    "code_max": "You entered too many wrong codes",
    "code_invalid": "Garmin did not accept this code",
    "code_409": "Garmin did not accept this code",
    "captcha": "wants to verify that you are human",
    "locked": "Garmin has locked this account",
    "rate_limited": "try again in 60 minutes",
    "blocked": GARMIN_FAULT,
    "status": GARMIN_FAULT,
    "html": GARMIN_FAULT,
    "empty": GARMIN_FAULT,
    "reset": GARMIN_FAULT,
    "unauthorized_other": GARMIN_FAULT,
}


@pytest.mark.parametrize("fault", CODE_FAILURES)
def test_a_failed_code_has_its_own_sentence(browser, pending, garmin, fault):
    garmin.fail("verify_code", fault)
    response = browser.post(MFA, {"code": garmin.mfa_code(EMAIL)})
    assert response.status_code == 200
    assert CODE_FAILURES[fault] in words(response)


@pytest.mark.parametrize("fault", ["status", "reset", "blocked"])
def test_a_garmin_fault_keeps_the_challenge(browser, user, pending, garmin, fault):
    garmin.fail("verify_code", fault)
    browser.post(MFA, {"code": garmin.mfa_code(EMAIL)})
    browser.post(MFA, {"code": garmin.mfa_code(EMAIL)})
    assert state_of(user).session_data


def test_a_spent_code_is_said(browser, pending, garmin):
    garmin.fail("preauthorized", "status", times=None)
    response = browser.post(MFA, {"code": garmin.mfa_code(EMAIL)})
    assert "Garmin accepted your code, but could not complete the sign-in" in words(response)


def test_a_code_that_is_none_is_no_attempt(browser, user, pending):
    response = browser.post(MFA, {"code": "not a code"})
    assert "Enter the digits of the verification code" in words(response)
    assert state_of(user).mfa_attempts == 0


def test_a_code_for_a_cancelled_login_is_said_to_have_none(browser, pending, garmin):
    browser.post(CANCEL)
    response = browser.post(MFA, {"code": garmin.mfa_code(EMAIL)})
    assert response.status_code == 200
    assert "No sign-in is waiting for a verification code" in words(response)


def test_a_code_that_is_none_for_a_cancelled_login_is_said_to_have_none(browser, pending):
    browser.post(CANCEL)
    assert "No sign-in is waiting for a verification code" in words(
        browser.post(MFA, {"code": "letters"})
    )


# The code's page


@pytest.mark.parametrize(("tried", "left"), [(0, "5 attempts"), (4, "1 attempt")])
def test_the_code_page_says_how_many_attempts_are_left(browser, user, pending, tried, left):
    GarminAuthenticationState.objects.update(mfa_attempts=tried)
    assert f"You have {left} left." in words(browser.get(MFA))


def test_a_code_that_was_not_judged_says_how_many_attempts_are_left(browser, pending, garmin):
    garmin.fail("verify_code", "status")
    page = words(browser.post(MFA, {"code": garmin.mfa_code(EMAIL)}))
    assert "You have 5 attempts left." in page


def test_a_rate_limited_code_says_until_when(browser, pending, garmin):
    garmin.fail("verify_code", "rate_limited", retry_after=300)
    page = words(browser.post(MFA, {"code": garmin.mfa_code(EMAIL)}))
    until = clock(page, "You can try again after")
    assert timedelta(seconds=290) < until - timezone.now() <= timedelta(seconds=300)


def test_the_code_page_leads_to_another_account(browser, pending):
    link = f'<a href="{LOGIN}?other=1">Use a different Garmin account</a>'
    assert link in words(browser.get(MFA))


def test_the_code_page_says_where_the_code_went(browser, pending):
    assert "an*****@example.com" in words(browser.get(MFA))


@pytest.mark.parametrize(
    ("zone", "until"), [("UTC", "8:10 p.m. UTC"), ("Asia/Tokyo", "5:10 a.m. JST")]
)
def test_the_code_page_says_until_when_in_the_current_zone(
    browser, user, pending, settings, zone, until
):
    now = timezone.now()
    began = now.replace(hour=20, minute=10, second=0, microsecond=0)
    began -= timedelta(days=began > now)
    GarminAuthenticationState.objects.filter(user=user).update(mfa_started_at=began)
    settings.TIME_ZONE = zone
    settings.GARMIN_AUTH_MFA_TTL = 86400
    assert f">{until}</time>" in words(browser.get(MFA))


def test_the_code_field_is_told_where_the_code_went(browser, pending):
    page = words(browser.get(MFA))
    hint = page.split('id="id_code_helptext">')[1].split("</p>")[0]
    assert "an*****@example.com" in hint
    assert 'aria-describedby="id_code_helptext"' in page


@pytest.mark.parametrize("attribute", ['autocomplete="one-time-code"', 'inputmode="numeric"'])
def test_the_code_field_has_its_attribute(browser, pending, attribute):
    assert attribute in words(browser.get(MFA))


@pytest.mark.parametrize("url", PAGES)
def test_an_expired_challenge_still_answers_200(browser, user, pending, url):
    let_challenge_expire(user)
    assert browser.get(url).status_code == 200


def test_an_expired_challenge_is_said_on_the_code_page(browser, user, pending):
    let_challenge_expire(user)
    assert "This verification code has expired" in words(browser.get(MFA))


@pytest.mark.parametrize("url", [STATUS, LOGIN])
def test_an_expired_challenge_is_said_elsewhere(browser, user, pending, url):
    let_challenge_expire(user)
    assert "Your verification code has expired" in words(browser.get(url))


def test_an_expired_challenge_takes_no_code(browser, user, pending, garmin):
    let_challenge_expire(user)
    response = browser.post(MFA, {"code": garmin.mfa_code(EMAIL)})
    assert "This verification code has expired" in words(response)
    assert garmin.counts["verify_code"] == 0


# A second login


def test_a_second_login_replaces_the_pending_one(browser, user, pending, garmin):
    first = state_of(user).mfa_started_at
    browser.post(LOGIN, FORM)
    browser.post(MFA, {"code": garmin.mfa_code(EMAIL)})
    assert first is not None
    assert state_of(user).session_data


def test_the_first_code_is_of_no_use_to_a_second_login(browser, user, pending, garmin):
    first = garmin.mfa_code(EMAIL)
    while garmin.mfa_code(EMAIL) == first:
        browser.post(LOGIN, FORM)
    assert "did not accept this code" in words(browser.post(MFA, {"code": first}))


def test_a_second_login_starts_with_all_attempts(browser, user, pending, garmin):
    browser.post(MFA, {"code": another_code(garmin.mfa_code(EMAIL))})
    browser.post(LOGIN, FORM)
    assert state_of(user).mfa_attempts == 0


def test_a_failed_second_login_keeps_the_pending_one(browser, user, pending, garmin):
    browser.post(LOGIN, {**FORM, "password": "wrong"})
    browser.post(MFA, {"code": garmin.mfa_code(EMAIL)})
    assert state_of(user).session_data


@pytest.mark.parametrize("fault", ["status", "captcha", "rate_limited"])
def test_a_failed_login_keeps_the_working_session(browser, user, connect, garmin, fault):
    session = connect(user).session_data
    garmin.fail("login", fault)
    browser.post(LOGIN, FORM)
    assert state_of(user).session_data == session


def test_a_pending_login_keeps_the_working_session(browser, user, connect, mfa_account):
    session = connect(user).session_data
    browser.post(LOGIN, FORM)
    state = state_of(user)
    assert (state.mfa_pending, state.session_data) == (True, session)


def test_a_wrong_code_keeps_the_working_session(browser, user, connect, mfa_account, garmin):
    session = connect(user).session_data
    browser.post(LOGIN, FORM)
    browser.post(MFA, {"code": another_code(garmin.mfa_code(EMAIL))})
    assert state_of(user).session_data == session


def test_a_login_that_ends_at_its_code_keeps_the_working_session(
    browser, user, connect, mfa_account, garmin
):
    session = connect(user).session_data
    browser.post(LOGIN, FORM)
    garmin.fail("verify_code", "code_max")
    browser.post(MFA, {"code": garmin.mfa_code(EMAIL)})
    assert state_of(user).session_data == session


def test_the_right_code_replaces_the_working_session(browser, user, connect, mfa_account, garmin):
    session = connect(user).session_data
    browser.post(LOGIN, FORM)
    browser.post(MFA, {"code": garmin.mfa_code(EMAIL)})
    assert state_of(user).session_data not in (None, session)


def test_the_login_page_says_that_the_session_stays(browser, user, connect):
    connect(user)
    assert "Your current connection remains in use" in words(browser.get(LOGIN))


# A row that no key opens


@pytest.mark.parametrize("url", [STATUS, LOGIN])
@pytest.mark.parametrize("column", ["session_data", "account_name"])
def test_an_unreadable_row_is_said(browser, user, connect, url, column):
    connect(user)
    damage(user, column)
    assert "Your saved Garmin connection cannot be read" in words(browser.get(url))


@pytest.mark.parametrize("url", [STATUS, LOGIN])
def test_an_unreadable_row_is_not_called_connected(browser, user, connect, url):
    connect(user)
    damage(user, "session_data")
    page = words(browser.get(url))
    assert ">Connected<" not in page
    assert "Your Garmin account is connected" not in page


def test_looking_at_an_unreadable_row_keeps_it(browser, user, connect):
    connect(user)
    damage(user, "session_data")
    before = raw_row(user)
    browser.get(STATUS)
    browser.get(LOGIN)
    assert raw_row(user) == before


def test_a_login_replaces_an_unreadable_row(browser, user, connect):
    connect(user)
    damage(user, "session_data", "account_name")
    browser.post(LOGIN, FORM)
    assert ">Connected<" in words(browser.get(STATUS))


def test_an_unreadable_row_can_be_disconnected(browser, user, connect):
    connect(user)
    damage(user, "session_data", "account_name")
    browser.post(DISCONNECT)
    assert raw_row(user)["session_data"] is None


@pytest.mark.parametrize("url", PAGES)
def test_an_unreadable_challenge_breaks_no_page(browser, user, pending, url):
    damage(user, "mfa_challenge")
    assert browser.get(url, follow=True).status_code == 200


# ATOMIC_REQUESTS


@pytest.fixture
def atomic_requests(transactional_db, monkeypatch):
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)


@pytest.mark.urls("tests.test_views")
def test_of_the_test_other_views_are_in_a_transaction(atomic_requests, client):
    assert client.get("/in-a-transaction/").content == b"True"


def test_the_journey_works_with_atomic_requests(atomic_requests, browser, user, pending, garmin):
    browser.post(MFA, {"code": garmin.mfa_code(EMAIL)})
    assert state_of(user).session_data


def test_a_wrong_codes_attempt_stays_counted_with_atomic_requests(
    atomic_requests, browser, user, pending, garmin
):
    browser.post(MFA, {"code": another_code(garmin.mfa_code(EMAIL))})
    transaction.rollback()
    assert state_of(user).mfa_attempts == 1


@pytest.mark.urls("tests.test_views")
def test_an_attempt_stays_counted_when_the_view_fails_with_atomic_requests(
    atomic_requests, browser, user, pending, garmin
):
    browser.raise_request_exception = False
    response = browser.post("/code/", {"code": another_code(garmin.mfa_code(EMAIL))})
    assert response.status_code == 500
    assert state_of(user).mfa_attempts == 1


@pytest.mark.parametrize("url", ACTIONS)
def test_an_action_works_with_atomic_requests(atomic_requests, browser, user, connect, url):
    connect(user)
    assert browser.post(url).status_code == 302


# Error reports


@pytest.fixture
def failing(browser, settings, reports):
    browser.raise_request_exception = False
    settings.GARMIN_AUTH_ENGINES = {"broken": "tests.test_views.BrokenEngine"}
    return browser


def test_of_the_test_a_report_shows_variables_that_are_not_hidden(rf, reports):
    shown = "a variable that anybody may see"
    try:
        raise AttributeError(f"a bug with {len(shown)} characters")
    except AttributeError:
        got_request_exception.send(None, request=rf.get("/"))
    assert shown in reports[0]


def test_a_bug_in_an_engine_reports_no_password(failing, settings, reports):
    settings.GARMIN_AUTH_ENGINE = "broken"
    assert failing.post(LOGIN, FORM).status_code == 500
    assert "a bug" in reports[0]
    assert PASSWORD not in reports[0]


def test_a_bug_in_an_engine_reports_no_email_address(failing, settings, reports):
    settings.GARMIN_AUTH_ENGINE = "broken"
    failing.post(LOGIN, FORM)
    assert EMAIL not in reports[0]


@pytest.mark.urls("tests.test_views")
@pytest.mark.parametrize("url", ["/validated/", "/rendered/"])
def test_a_bug_in_a_sites_form_reports_no_password(failing, account, reports, url):
    assert failing.post(url, {**FORM, "password": "s3cret and wrong"}).status_code == 500
    assert "a bug" in reports[0]
    assert "s3cret" not in reports[0]


@pytest.mark.urls("tests.test_views")
def test_a_bug_in_a_sites_form_reports_no_code(failing, pending, garmin, reports):
    code = "31415926"  # Longer than Garmin's: no address of an object has it by chance.
    assert failing.post("/code/", {"code": code}).status_code == 500
    assert "a bug" in reports[0]
    assert code not in reports[0]


def test_a_bug_in_a_sites_template_reports_no_password(
    failing, account, settings, reports, tmp_path
):
    own = tmp_path / "garmin_auth" / "includes" / "form.html"
    own.parent.mkdir(parents=True)
    own.write_text("{{ form.password }}{% url 'nowhere' %}")
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [tmp_path]}]
    assert failing.post(LOGIN, {**FORM, "password": "s3cret and wrong"}).status_code == 500
    assert "NoReverseMatch" in reports[0]
    assert "s3cret" not in reports[0]


def test_a_report_hides_every_post_parameter(failing, settings, reports):
    settings.GARMIN_AUTH_ENGINE = "broken"
    failing.post(LOGIN, {**FORM, "anything": "s3cret"})
    assert "anything" in reports[0]
    assert "s3cret" not in reports[0]


def test_what_shows_the_variables_of_a_page_does_not_show_the_address():
    serialize = pytest.importorskip("sentry_sdk.serializer").serialize
    kept = KeptLogin(EMAIL, 3, "garth", "garmin.com")

    assert EMAIL not in repr(kept)
    # Of a tuple Sentry, for one, sends each part.
    assert EMAIL not in repr(serialize({"kept": kept}))
