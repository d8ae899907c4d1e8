"""The pages of a login that goes on outside the request, with a real Garmin behind them."""

import gc
import html
import logging
import os
import re
import signal
import time
from datetime import timedelta
from urllib.parse import urlencode

import django
import pytest
from django.core import mail
from django.db import connection
from django.http import HttpRequest
from django.test import Client
from django.utils.log import AdminEmailHandler

from garmin_auth.accounts import account_of
from garmin_auth.exceptions import InvalidCredentials
from garmin_auth.limits import cooldown
from garmin_auth.login import start_login
from garmin_auth.logins.records import to_record
from garmin_auth.models import GarminAuthenticationState
from tests.conftest import EMAIL, PASSWORD, needs_garminconnect, state_of
from tests.waiting import wait_for_logins

pytestmark = pytest.mark.django_db(transaction=True)
states = GarminAuthenticationState.objects

STATUS, LOGIN, MFA = "/garmin/", "/garmin/login/", "/garmin/mfa/"
PROGRESS, CANCEL = "/garmin/progress/", "/garmin/mfa/cancel/"
FORM = {"email": EMAIL, "password": PASSWORD}
WRONG = {"email": EMAIL, "password": "s3cret and wrong"}
JSON = {"Accept": "application/json"}
HTML = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
WRONG_PASSWORD = "did not accept this email address and password"
INTERRUPTED = "Your sign-in was interrupted, for example because this site was restarted."
CONNECTED = "Your Garmin account is connected."

# Posts the login form in a process of its own, whose signs of life come and go fast.
POST = """
import sys, time
from django.contrib.auth import get_user_model
from django.test import Client
from garmin_auth.logins import attending
attending.SIGN_OF_LIFE, attending.LIFE = 0.2, 1.5
browser = Client()
browser.force_login(get_user_model().objects.get(pk=sys.argv[1]))
form = {"email": sys.argv[2], "password": sys.argv[3]}
print(browser.post("/garmin/login/", form).url, flush=True)
time.sleep(60)
"""
GET = """
import sys
from django.contrib.auth import get_user_model
from django.test import Client
browser = Client()
browser.force_login(get_user_model().objects.get(pk=sys.argv[1]))
print(browser.get(sys.argv[2], follow=True).content.decode())
"""


@pytest.fixture
def browser(user):
    browser = Client()
    browser.force_login(user)
    return browser


@pytest.fixture
def under_way(user):
    """A login is under way, in some process."""
    assert states.begin_login(user.pk, "a login", 60)


@pytest.fixture
def failed(user, under_way):
    """A login has failed, in some process."""
    assert states.fail_login(user.pk, "a login", to_record(InvalidCredentials()))


def words(response):
    return html.unescape(response.content.decode())


def query(url, **parameters):
    return f"{url}?{urlencode(parameters)}"


def log_in(browser, form=FORM):
    response = browser.post(LOGIN, form)
    wait_for_logins()
    return response


# The way through


def test_the_form_leads_to_the_progress_before_garmin_is_asked(browser, account, garmin, gate):
    response = browser.post(LOGIN, FORM)

    assert (response.status_code, response.url) == (302, PROGRESS)
    assert sum(garmin.counts.values()) == 0


def test_the_progress_leads_on_when_the_login_has_ended(browser, account, gate):
    browser.post(LOGIN, FORM)
    assert browser.get(PROGRESS).status_code == 200

    gate.set()
    wait_for_logins()
    response = browser.get(PROGRESS, follow=True)
    assert response.redirect_chain == [(STATUS, 302)]
    assert f">{CONNECTED}<" in words(response)
    assert ">Connected<" in words(response)


def test_the_progress_leads_to_the_code(browser, user, mfa_account, garmin, slow_logins):
    log_in(browser)

    assert browser.get(PROGRESS).url == MFA
    browser.post(MFA, {"code": garmin.mfa_code(EMAIL)})
    assert account_of(user).connected


def test_a_fast_engine_ends_within_the_post(browser, user, account):
    assert browser.post(LOGIN, FORM).url == STATUS
    assert account_of(user).connected


def test_the_progress_without_a_login_leads_to_the_form(browser):
    assert browser.get(PROGRESS).url == LOGIN


def test_a_double_click_leads_to_the_progress_twice_and_sends_one_login(
    browser, account, garmin, gate
):
    assert browser.post(LOGIN, FORM).url == browser.post(LOGIN, FORM).url == PROGRESS
    gate.set()
    wait_for_logins()

    assert garmin.counts["login"] == 1


def test_another_password_is_not_answered_with_the_first_ones_failure(
    browser, user, account, garmin, gate
):
    assert browser.post(LOGIN, WRONG).url == browser.post(LOGIN, FORM).url == PROGRESS
    assert browser.get(PROGRESS).status_code == 200
    gate.set()
    wait_for_logins()

    assert garmin.counts["login"] == 2
    assert browser.get(PROGRESS).url == STATUS
    assert account_of(user).connected


@pytest.mark.parametrize("mfa", [False, True])
def test_it_works_with_atomic_requests(user, garmin, slow_logins, monkeypatch, browser, mfa):
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    garmin.add_account(EMAIL, PASSWORD, mfa=mfa)
    log_in(browser)

    assert browser.get(PROGRESS).url == (MFA if mfa else STATUS)


# While it is under way


@pytest.mark.parametrize("url", [LOGIN, MFA])
def test_other_pages_lead_to_the_progress(browser, under_way, url):
    assert browser.get(query(url, next="/after/")).url == query(PROGRESS, next="/after/")


def test_the_status_tells_and_leads_to_the_progress(browser, under_way):
    response = browser.get(query(STATUS, next="/after/"))

    assert response.status_code == 200
    assert "Connecting to Garmin" in words(response)
    assert f'href="{query(PROGRESS, next="/after/")}"' in words(response)


def test_a_code_can_still_be_typed(browser, user, mfa_account, garmin):
    start_login(user, EMAIL, PASSWORD)
    states.begin_login(user.pk, "a login", 60)

    assert browser.get(MFA).status_code == 200
    browser.post(MFA, {"code": garmin.mfa_code(EMAIL)})
    assert account_of(user).connected
    assert not account_of(user).login_under_way


def test_the_progress_says_that_the_session_stays(browser, user, connect):
    connect(user)
    states.begin_login(user.pk, "a login", 60)

    assert "Your current connection remains in use" in words(browser.get(PROGRESS))


def test_the_progress_is_never_cached(browser, under_way):
    assert {"no-store", "private"} <= set(browser.get(PROGRESS)["Cache-Control"].split(", "))


def test_a_visitor_is_sent_to_the_sites_login(client, db):
    assert client.get(PROGRESS).url == f"/accounts/login/?next={PROGRESS}"


def test_another_users_login_is_not_shown(other_user, under_way):
    browser = Client()
    browser.force_login(other_user)

    assert browser.get(PROGRESS).url == LOGIN
    assert browser.get(PROGRESS, headers=JSON).json()["under_way"] is False


def test_without_scripts_the_page_loads_itself_anew(browser, under_way):
    assert browser.get(query(PROGRESS, next="/after/"))["Refresh"] == "5"


def test_the_script_is_not_disturbed_by_that(browser, under_way):
    response = browser.get(query(PROGRESS, next="/after/", live="1"))

    assert "Refresh" not in response
    # The way back, if the script does not run after all.
    assert f'href="{query(PROGRESS, next="/after/")}"' in words(response)
    assert "Refresh" not in browser.get(PROGRESS, headers=JSON)


def test_the_progress_leads_away(browser, under_way):
    assert 'href="/after/"' in words(browser.get(query(PROGRESS, next="/after/")))
    assert f'href="{STATUS}"' in words(browser.get(PROGRESS))


def test_the_progress_says_how_long_it_has_been_going_on(browser, account, gate):
    browser.post(LOGIN, FORM)
    session = browser.session
    session["_garmin_auth_login"]["sent_at"] -= 65
    session.save()

    assert re.search(r'data-seconds="6[5-9]".*>1:0[5-9]<', words(browser.get(PROGRESS)))


def test_another_browser_does_not_know_how_long_it_has_been_going_on(browser, under_way):
    assert "Time elapsed" not in words(browser.get(PROGRESS))


def test_a_slow_login_that_failed_has_kept_the_address(browser, account, slow_logins):
    log_in(browser, WRONG)

    assert f'value="{EMAIL}"' in words(browser.get(PROGRESS, follow=True))


# What the script asks


def test_the_script_is_told_that_it_is_under_way(browser, under_way):
    assert browser.get(PROGRESS, headers=JSON).json() == {"under_way": True}


def test_the_script_is_told_where_to_go(browser, account, slow_logins):
    log_in(browser)
    answer = browser.get(query(PROGRESS, next="/after/"), headers=JSON).json()

    assert answer == {"under_way": False, "url": query(PROGRESS, next="/after/")}
    assert browser.get(answer["url"], headers=HTML).url == "/after/"


def test_asking_says_no_message(browser, account, slow_logins):
    log_in(browser)
    for _ in range(3):
        browser.get(PROGRESS, headers=JSON)

    assert words(browser.get(PROGRESS, follow=True)).count(f">{CONNECTED}<") == 1


@pytest.mark.parametrize("accept", [HTML, {"Accept": "*/*"}, {"Accept": "text/plain"}, {}])
def test_a_browser_gets_the_page(browser, under_way, accept):
    response = browser.get(PROGRESS, headers=accept)

    assert response["Content-Type"].startswith("text/html")
    assert "Accept" in response["Vary"]


def test_the_answer_to_the_script_is_never_cached(browser, under_way):
    response = browser.get(PROGRESS, headers=JSON)

    assert {"no-store", "private"} <= set(response["Cache-Control"].split(", "))


# Failures


def test_a_wrong_password_is_said_at_the_form(browser, account, slow_logins):
    log_in(browser, WRONG)
    response = browser.get(PROGRESS, follow=True)

    assert response.redirect_chain == [(LOGIN, 302)]
    alert = words(response).split('role="alert"')[1].split("</div>")[0]
    assert WRONG_PASSWORD in alert
    assert "s3cret" not in words(response)


def test_a_failure_is_said_on_the_status_too(browser, failed):
    page = words(browser.get(STATUS))

    assert "Your last sign-in failed." in page
    assert WRONG_PASSWORD in page


@pytest.mark.parametrize("url", [PROGRESS, LOGIN, STATUS])
def test_another_process_says_it_too(browser, user, account, slow_logins, run_python, url):
    log_in(browser, WRONG)

    assert WRONG_PASSWORD in html.unescape(run_python(GET, user.pk, url))


def test_a_failure_is_said_until_the_next_login(browser, account, failed, gate):
    assert WRONG_PASSWORD in words(browser.get(LOGIN))
    assert WRONG_PASSWORD in words(browser.get(LOGIN))
    browser.post(LOGIN, FORM)
    assert WRONG_PASSWORD not in words(browser.get(STATUS))


def test_a_failure_is_not_said_for_ever(browser, failed, user):
    states.update(login_expires_at=state_of(user).login_expires_at - timedelta(minutes=61))

    assert WRONG_PASSWORD not in words(browser.get(LOGIN))


def test_an_incomplete_form_says_its_own_errors_only(browser, failed):
    page = words(browser.post(LOGIN, {"email": "ana"}))

    assert "This field is required" in page
    assert WRONG_PASSWORD not in page


def test_a_failure_comes_before_an_older_pending_login(browser, user, mfa_account):
    start_login(user, EMAIL, PASSWORD)
    states.begin_login(user.pk, "a login", 60)
    states.fail_login(user.pk, "a login", to_record(InvalidCredentials()))

    response = browser.get(PROGRESS, follow=True)
    assert WRONG_PASSWORD in words(response)
    assert "Verification code required" in words(response)


def test_a_failure_of_a_connected_user_is_said(browser, user, connect, slow_logins):
    connect(user)
    log_in(browser, WRONG)
    page = words(browser.get(PROGRESS, follow=True))

    assert WRONG_PASSWORD in page
    assert "Your current connection remains in use" in page


def test_a_site_that_is_busy_says_so(browser, other_user, account, garmin, gate, settings):
    settings.GARMIN_AUTH_LOGIN_WORKERS = 1
    browser.post(LOGIN, FORM)
    other = Client()
    other.force_login(other_user)
    response = other.post(LOGIN, {**FORM, "email": "ben@example.com"})

    assert response.status_code == 200
    assert "Too many people are connecting their Garmin accounts" in words(response)
    assert sum(garmin.counts.values()) == 0


def test_a_pause_is_said_at_once(browser, account, garmin, slow_logins):
    cooldown.start(cooldown.account_scope(EMAIL, "garmin.com"), 300)
    response = browser.post(LOGIN, FORM)

    assert response.status_code == 200
    assert "try again in 5 minutes" in words(response)
    assert sum(garmin.counts.values()) == 0


def test_too_many_logins_are_said_at_once(browser, account, garmin, slow_logins):
    for _ in range(5):
        log_in(browser, WRONG)

    assert "You have tried to sign in too many times" in words(browser.post(LOGIN, FORM))


def test_a_bug_is_said_and_its_mail_to_admins_tells_no_secret(
    browser, account, settings, slow_logins
):
    settings.GARMIN_AUTH_ENGINE = "broken"
    settings.ADMINS = [
        "admin@site.example" if django.VERSION >= (6,) else ("Admin", "admin@site.example")
    ]
    handler = AdminEmailHandler(include_html=True)
    logger = logging.getLogger("garmin_auth")
    logger.addHandler(handler)
    try:
        log_in(browser)
    finally:
        logger.removeHandler(handler)

    assert "Something went wrong" in words(browser.get(PROGRESS, follow=True))
    [message] = mail.outbox
    sent = message.body + str(message.alternatives)
    assert "AttributeError" in sent
    assert PASSWORD not in sent
    assert EMAIL not in sent


def test_a_login_under_way_keeps_no_request_and_its_post(browser, account, gate):
    browser.post(LOGIN, FORM)
    gc.collect()

    requests = [kept for kept in gc.get_objects() if issubclass(type(kept), HttpRequest)]
    assert [request for request in requests if PASSWORD in request.POST.values()] == []


# Cancel


def test_a_cancel_ends_the_login(browser, user, account, gate):
    browser.post(LOGIN, FORM)
    response = browser.post(CANCEL, {"next": "/after/"})
    gate.set()
    wait_for_logins()

    assert response.url == "/after/"
    assert not account_of(user).connected
    assert "The sign-in was canceled." in words(browser.get(STATUS))


def test_the_progress_of_a_cancelled_login_leads_to_the_form(browser, account, gate):
    browser.post(LOGIN, FORM)
    browser.post(CANCEL)

    assert browser.get(PROGRESS).url == LOGIN


@pytest.mark.parametrize("page", [PROGRESS, STATUS])
def test_a_page_can_cancel(user, under_way, page):
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(user)
    form = words(browser.get(page)).split(f'action="{CANCEL}">')[1]
    token = form.split('value="')[1].split('"')[0]

    assert browser.post(CANCEL, {"csrfmiddlewaretoken": token}).status_code == 302
    assert not account_of(user).login_under_way


# A process that dies


def test_a_killed_process_is_said_to_have_been_interrupted(
    browser, user, account, slow_logins, start_python
):
    code = f"import django; django.setup()\n{POST}"
    settings = {"DJANGO_SETTINGS_MODULE": "tests.slow_settings", "GARMIN_TEST_SLOW_LOGIN": "30"}
    child = start_python("-c", code, user.pk, EMAIL, PASSWORD, **settings)
    assert child.stdout.readline() == f"{PROGRESS}\n", child.communicate()[1]
    assert browser.get(PROGRESS, headers=JSON).json() == {"under_way": True}

    os.kill(child.pid, signal.SIGKILL)
    gives_up_at = time.monotonic() + 60
    while browser.get(PROGRESS, headers=JSON).json()["under_way"]:
        assert time.monotonic() < gives_up_at
        time.sleep(0.1)

    assert INTERRUPTED in words(browser.get(PROGRESS, follow=True))
    assert INTERRUPTED in words(browser.get(STATUS))
    log_in(browser)
    assert account_of(user).connected
    assert INTERRUPTED not in words(browser.get(STATUS))


# next

HOSTILE = [
    "https://evil.example/",
    "//evil.example/",
    "/\\evil.example/",
    "javascript:'evil.example'",
]


def test_next_is_kept_through_the_whole_chain(browser, mfa_account, garmin, gate):
    after = "/after/?a=b"
    begun = browser.post(query(LOGIN, next=after), FORM)
    assert begun.url == query(PROGRESS, next=after)
    page = words(browser.get(begun.url))
    assert f'data-url="{query(PROGRESS, next=after)}"' in page
    assert f'<input type="hidden" name="next" value="{after}">' in page

    gate.set()
    wait_for_logins()
    on = browser.get(browser.get(begun.url, headers=JSON).json()["url"])
    assert on.url == query(MFA, next=after)
    code = {"code": garmin.mfa_code(EMAIL), "next": after}
    assert browser.post(on.url, code).url == after


def test_next_is_kept_where_a_failure_leads_to_the_form(browser, failed):
    response = browser.get(query(PROGRESS, next="/after/"))
    assert response.url == query(LOGIN, next="/after/")


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_next_leads_nowhere(browser, account, gate, hostile):
    assert browser.post(query(LOGIN, next=hostile), {**FORM, "next": hostile}).url == PROGRESS
    url = query(PROGRESS, next=hostile)
    assert "evil.example" not in words(browser.get(url))

    gate.set()
    wait_for_logins()
    assert browser.get(url, headers=JSON).json() == {"under_way": False, "url": PROGRESS}
    assert browser.get(url).url == STATUS


# The engine that is slow in earnest


@needs_garminconnect
@pytest.mark.parametrize("mfa", [False, True])
def test_garminconnect_logs_in_outside_the_request(
    browser, user, garmin, slow_logins, settings, monkeypatch, mfa
):
    for flow in ("MOBILE_DELAY", "WIDGET_DELAY", "LOGIN_DELAY"):
        for end in ("MIN_S", "MAX_S"):
            monkeypatch.setattr(f"garminconnect.client.sso.{flow}_{end}", 0.01)
    settings.GARMIN_AUTH_ENGINE = "garminconnect"
    garmin.add_account(EMAIL, PASSWORD, mfa=mfa)
    assert log_in(browser).url == PROGRESS

    if mfa:
        assert browser.get(PROGRESS).url == MFA
        browser.post(MFA, {"code": garmin.mfa_code(EMAIL)})
    else:
        assert browser.get(PROGRESS).url == STATUS
    found = account_of(user)
    assert (found.connected, found.engine) == (True, "garminconnect")
