"""``{% load garmin_auth %}`` on a site's own pages."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import AnonymousUser
from django.template import Context, Template
from django.urls import resolve
from django.utils import timezone, translation

from garmin_auth.login import start_login
from garmin_auth.models import GarminAuthenticationState
from tests.conftest import EMAIL, PASSWORD
from tests.rows import damage

states = GarminAuthenticationState.objects
STATUS, LINK, BANNER = "{% garmin_status %}", "{% garmin_connect_link %}", "{% garmin_banner %}"


def render(source, **context):
    return Template("{% load garmin_auth %}" + source).render(Context(context)).strip()


@pytest.fixture
def request_of(rf):
    def request_of(user, path="/rides/?year=2026", method="get"):
        request = getattr(rf, method)(path)
        request.user = user
        return request

    return request_of


@pytest.fixture
def ended(user, connect):
    state = connect(user)
    states.end_session(state.pk, state.session_version, "expired")


def test_the_badge_says_what_there_is(user, connect):
    connect(user)
    badge = '<span class="ga-badge ga-badge-connected">Connected</span>'
    assert render(STATUS, user=user) == badge


def test_the_badge_is_of_the_requests_user(user, other_user, connect, request_of):
    connect(user)
    assert "Not connected" in render(STATUS, request=request_of(other_user), user=user)


@pytest.mark.parametrize("tag", [STATUS, LINK, BANNER])
def test_a_visitor_sees_nothing(tag, request_of):
    visitor = AnonymousUser()  # No database is allowed here.
    assert render(tag, request=request_of(visitor), user=visitor) == ""
    assert render(tag) == ""


def test_all_tags_of_a_request_cost_one_query(user, ended, request_of, django_assert_num_queries):
    request = request_of(user)
    with django_assert_num_queries(1):
        for source in (STATUS + LINK, BANNER):  # Two templates of one page.
            render(source, request=request)


def test_all_tags_of_a_page_without_a_request_cost_one_query(user, django_assert_num_queries):
    with django_assert_num_queries(1):
        render(STATUS + STATUS + LINK + BANNER, user=user)


def test_the_next_request_sees_what_has_changed(user, connect, request_of):
    assert "Not connected" in render(STATUS, request=request_of(user))
    connect(user)
    assert ">Connected<" in render(STATUS, request=request_of(user))


def test_nothing_is_decrypted(user, connect):
    connect(user)
    damage(user, "session_data", "account_name")
    assert ">Connected<" in render(STATUS, user=user)


def test_a_sites_own_badge_replaces_ours(user, settings, tmp_path):
    own = tmp_path / "garmin_auth" / "includes" / "status_badge.html"
    own.parent.mkdir(parents=True)
    own.write_text("Garmin: {{ badge.status }}")
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [tmp_path]}]
    assert render(STATUS, user=user) == "Garmin: not_connected"


def test_the_link_leads_back_to_this_page(user, request_of):
    link = render(LINK, request=request_of(user))
    assert link == (
        '<a class="ga-link" href="/garmin/login/?next=%2Frides%2F%3Fyear%3D2026">'
        "Connect your Garmin account</a>"
    )


def test_the_link_of_a_connected_user_leads_to_the_status(user, connect, request_of):
    connect(user)
    assert 'href="/garmin/?next=' in render(LINK, request=request_of(user))


def test_the_link_leads_nowhere_else(user, request_of):
    request = request_of(user)
    request.path = "//evil.example/"
    assert "next=%2F%252Fevil.example%2F%3Fyear" in render(LINK, request=request)


def test_the_link_does_not_lead_back_to_a_page_made_by_a_post(user, request_of):
    link = render(LINK, request=request_of(user, method="post"))
    assert 'href="/garmin/login/"' in link


def test_the_link_needs_no_request(user):
    assert 'href="/garmin/login/"' in render(LINK, user=user)


def test_the_link_leads_back_after_the_login(client, user, account, request_of):
    link = render(LINK, request=request_of(user))
    client.force_login(user)
    form = {"email": account, "password": "correct horse battery staple"}
    assert client.post(re.search('href="([^"]+)"', link)[1], form).url == "/rides/?year=2026"


def test_the_banner_is_shown_when_garmin_has_ended_the_session(user, ended, request_of):
    assert "Garmin has disconnected your account" in render(BANNER, request=request_of(user))


def test_the_banner_needs_no_request(user, ended):
    assert "Garmin has disconnected your account" in render(BANNER, user=user)


def test_the_banner_leads_to_a_login_that_has_begun(user, ended):
    states.begin_challenge(user.pk, "{}")
    assert 'href="/garmin/mfa/">Enter your Garmin verification code</a>' in render(
        BANNER, user=user
    )


def test_our_own_pages_do_not_say_it_twice(user, ended, request_of):
    request = request_of(user, "/garmin/")
    request.resolver_match = resolve(request.path)
    assert render(BANNER, request=request) == ""


def test_no_banner_is_shown_to_a_connected_user(user, connect):
    connect(user)
    assert render(BANNER, user=user) == ""


# Times

MOMENT = datetime(2026, 1, 1, 20, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("datetime", "Jan. 2, 2026, 5:10 a.m. JST"),
        ("time", "Jan. 2, 2026, 5:10 a.m. JST"),
        ("date", "Jan. 2, 2026"),
    ],
)
def test_a_moment_is_written_in_the_current_zone(style, text):
    with timezone.override("Asia/Tokyo"):
        html = render(f'{{% garmin_time moment "{style}" %}}', moment=MOMENT)
    assert html == f'<time datetime="2026-01-02T05:10:00+09:00">{text}</time>'


def test_a_moment_of_today_is_written_without_its_day():
    moment = timezone.now() + timedelta(minutes=5)
    html = render('{% garmin_time moment "time" %}', moment=moment)
    assert str(moment.year) not in html.partition(">")[2]


def test_a_moment_is_written_as_the_language_does():
    with translation.override("de"):
        assert "1. Januar 2026 20:10 UTC" in render("{% garmin_time moment %}", moment=MOMENT)


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (timedelta(seconds=-5), "just now"),
        (timedelta(seconds=59), "just now"),
        (timedelta(minutes=1), "1 minute ago"),
        (timedelta(minutes=59), "59 minutes ago"),
        (timedelta(hours=1), "1 hour ago"),
        (timedelta(hours=23, minutes=59), "23 hours ago"),
        (timedelta(days=1), "1 day ago"),
        (timedelta(days=400), "400 days ago"),
    ],
)
def test_how_long_ago_it_was(age, text, monkeypatch):
    now = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now)
    assert render("{{ moment|garmin_ago }}", moment=now - age) == text


# A user who may not connect


@pytest.fixture
def refused(settings):
    settings.GARMIN_AUTH_MAY_CONNECT = "tests.test_tags.nobody"


def nobody(user):
    return "Your plan does not include Garmin."


@pytest.mark.parametrize("tag", [LINK, BANNER])
def test_a_user_who_may_not_connect_is_not_invited(user, ended, refused, tag):
    assert render(tag, user=user) == ""
    assert "Disconnected by Garmin" in render(STATUS, user=user)


def test_a_user_who_may_not_connect_is_not_asked_for_a_code(user, mfa_account, settings):
    start_login(user, EMAIL, PASSWORD)
    settings.GARMIN_AUTH_MAY_CONNECT = "tests.test_tags.nobody"

    assert render(LINK, user=user) == ""


def test_a_connected_user_who_may_not_connect_can_still_disconnect(user, connect, refused):
    connect(user)

    assert 'href="/garmin/"' in render(LINK, user=user)
