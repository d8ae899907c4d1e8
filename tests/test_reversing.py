"""Links to our pages, wherever a site has included our URLs, or has not."""

import re
import sys
from types import ModuleType
from urllib.parse import quote, urlencode

import pytest
from django.http import HttpResponse
from django.template import Context, Template
from django.urls import include, path, re_path, set_script_prefix

from garmin_auth.accounts import badge_of
from garmin_auth.notices import expiry_mail
from tests.conftest import EMAIL, PASSWORD, state_of
from tests.waiting import wait_for_logins

TAGS = "{% load garmin_auth %}{% garmin_status %}|{% garmin_connect_link %}|{% garmin_banner %}"
OURS = "garmin_auth.urls"


def page(request, **kwargs):
    context = Context({"request": request, "user": request.user})
    return HttpResponse(Template(TAGS).render(context))


@pytest.fixture
def urls(settings, monkeypatch):
    """Give the site these URLs."""

    def urls(*patterns):
        module = ModuleType("urls_of_this_test")
        module.urlpatterns = [*patterns]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        settings.ROOT_URLCONF = module.__name__

    return urls


@pytest.fixture
def read(client, user):
    """Read a page of the site as the user."""
    client.force_login(user)
    return lambda url: client.get(url).content.decode()


NESTED = (
    [path("home/", page, name="home"), path("garmin/", include(OURS))],
    "portal",
)


@pytest.mark.django_db
def test_without_our_urls_a_page_shows_the_status_and_no_link(urls, read):
    urls(path("home/", page))

    status, link, banner = read("/home/").split("|")
    assert ">Not connected</span>" in status
    assert link.strip() == banner.strip() == ""


@pytest.mark.django_db
def test_without_our_urls_the_banner_has_no_link(urls, read, user, connect):
    state = connect(user)
    type(state).objects.end_session(state.pk, state.session_version, "expired")
    urls(path("home/", page))

    assert "Garmin has disconnected your account." in read("/home/")
    assert "<a" not in read("/home/")


@pytest.mark.django_db
def test_under_a_captured_prefix_the_link_keeps_the_pages_own(urls, read):
    urls(path("<slug:org>/garmin/", include(OURS)), path("<slug:org>/rides/<int:pk>/", page))

    assert 'href="/acme/garmin/login/?next=%2Facme%2Frides%2F5%2F"' in read("/acme/rides/5/")


@pytest.mark.django_db
def test_a_page_outside_of_the_captured_prefix_has_no_link(urls, read):
    urls(path("<slug:org>/garmin/", include(OURS)), path("home/", page))

    assert "Not connected" in read("/home/")
    assert "<a" not in read("/home/")


@pytest.mark.django_db
def test_a_prefix_that_is_captured_without_a_name_is_no_error(urls, read):
    urls(re_path(r"^(\w+)/garmin/", include(OURS)), path("home/", page))

    assert "<a" not in read("/home/")


@pytest.mark.django_db
def test_in_a_nested_namespace_the_link_is_found(urls, read):
    urls(path("portal/", include(NESTED)), path("home/", page))

    assert 'href="/portal/garmin/login/?next=%2Fhome%2F"' in read("/home/")


@pytest.mark.django_db
def test_in_two_nested_namespaces_the_link_stays_in_the_pages_own(urls, read):
    urls(
        path("one/", include(NESTED, namespace="one")),
        path("two/", include(NESTED, namespace="two")),
    )

    assert 'href="/one/garmin/login/' in read("/one/home/")
    assert 'href="/two/garmin/login/' in read("/two/home/")


@pytest.mark.django_db
def test_in_a_nested_namespace_under_a_captured_prefix_the_link_is_found(urls, read):
    urls(path("<slug:org>/", include(NESTED)))

    assert 'href="/acme/garmin/login/' in read("/acme/home/")


@pytest.mark.django_db
def test_the_badge_has_no_url_where_our_urls_are_not_included(urls, user):
    urls(path("home/", page))

    assert badge_of(user).url == ""


@pytest.mark.django_db
def test_the_badge_of_a_request_is_under_its_captured_prefix(urls, user, client):
    urls(path("<slug:org>/garmin/", include(OURS)), path("<slug:org>/home/", page))
    client.force_login(user)
    request = client.get("/acme/home/").wsgi_request

    assert badge_of(user, request).url == "/acme/garmin/login/"
    assert badge_of(user).url == ""


@pytest.mark.django_db
def test_a_mail_has_the_link_in_a_nested_namespace(urls, user):
    urls(path("portal/", include(NESTED)))

    body = expiry_mail(user, "https://site.example").body
    assert "\nhttps://site.example/portal/garmin/login/\n" in body


@pytest.mark.django_db
def test_a_mail_leads_to_the_site_where_the_page_has_no_one_address(urls, user):
    urls(path("<slug:org>/garmin/", include(OURS)))

    assert "\nhttps://site.example/app\n" in expiry_mail(user, "https://site.example/app").body


# Our own pages

PLACES = {
    "captured": (lambda: path("<slug:account>/garmin/", include(OURS)), "/acme/garmin/"),
    "nested": (lambda: path("portal/", include(NESTED)), "/portal/garmin/"),
    "both": (lambda: path("<slug:account>/", include(NESTED)), "/acme/garmin/"),
    "unnamed": (lambda: re_path(r"^(\w+)/garmin/", include(OURS)), "/acme/garmin/"),
}


@pytest.fixture(params=PLACES)
def place(request, urls):
    """The URL of our pages on a site that has included them in an unusual place."""
    pattern, url = PLACES[request.param]
    urls(pattern(), path("home/", page))
    return url


@pytest.mark.django_db(transaction=True)
def test_the_whole_journey_stays_in_its_place(place, client, user, mfa_account, garmin, gate):
    """With a slow login, which has a page more."""
    client.force_login(user)

    def read(url):
        found = client.get(url)
        assert found.status_code == 200, found.headers
        links = re.findall(r'(?:href|action|data-url)="(/[^"]*)"', found.content.decode())
        links = [link for link in links if not link.startswith("/static/")]
        assert [link for link in links if not link.startswith(place)] == []
        return links

    assert f"{place}login/" in read(place)
    read(f"{place}login/")
    response = client.post(f"{place}login/", {"email": EMAIL, "password": PASSWORD})
    assert response.url == f"{place}progress/"
    read(response.url)
    gate.set()
    wait_for_logins()
    response = client.get(response.url)
    assert response.url == f"{place}mfa/"
    assert f"{place}mfa/cancel/" in read(response.url)
    response = client.post(response.url, {"code": garmin.mfa_code(EMAIL)})
    assert response.url == place
    assert f"{place}disconnect/" in read(place)
    assert client.post(f"{place}disconnect/").url == place
    assert not state_of(user).session_data
    assert client.post(f"{place}mfa/cancel/").url == place


@pytest.mark.django_db
def test_a_visitor_comes_back_to_its_place(place, client):
    assert client.get(f"{place}mfa/").url == f"/accounts/login/?next={place}mfa/"
    assert client.post(f"{place}disconnect/").url == f"/accounts/login/?next={place}"


@pytest.mark.django_db
def test_our_pages_show_no_banner_in_a_nested_namespace(urls, client, user, connect):
    state = connect(user)
    type(state).objects.end_session(state.pk, state.session_version, "expired")
    urls(path("portal/", include(NESTED)))
    client.force_login(user)
    request = client.get("/portal/garmin/").wsgi_request

    assert page(request).content.decode().split("|")[2].strip() == ""


@pytest.mark.django_db
def test_what_the_prefix_captures_is_in_the_context_of_the_templates(urls, client, user):
    urls(path("<slug:club>/garmin/", include(OURS)))
    client.force_login(user)

    assert client.get("/acme/garmin/").context["club"] == "acme"


# Addresses that are not plain ASCII

ODD = {
    "path": (lambda: path("gärmin/", include(OURS)), "/g%C3%A4rmin/"),
    "captured": (
        lambda: re_path(r"^(?P<team>\w+)/garmin/", include(OURS)),
        "/M%C3%BCller/garmin/",
    ),
    "space": (lambda: path("my garmin/", include(OURS)), "/my%20garmin/"),
}


@pytest.fixture(params=["", "/pörtal"])
def script_name(request, settings):
    """Where the server has mounted the site, as it stands in URLs."""
    settings.FORCE_SCRIPT_NAME = request.param
    set_script_prefix(f"{request.param}/")
    yield quote(request.param)
    set_script_prefix("/")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("odd", ODD)
def test_the_journey_leads_on_where_an_address_is_not_plain_ascii(
    urls, client, user, mfa_account, garmin, odd, script_name
):
    pattern, prefix = ODD[odd]
    urls(pattern(), path("hömepage/", page, name="home"))
    client.force_login(user)
    ours, target = script_name + prefix, f"{script_name}/h%C3%B6mepage/"
    onward = urlencode({"next": target})

    link = client.get("/hömepage/").content.decode().split("|")[1]
    assert odd == "captured" or f'href="{ours}login/?{onward}"' in link
    for name in ("", "login/"):
        assert client.get(f"{prefix}{name}?{onward}").status_code == 200
    data = {"email": EMAIL, "password": PASSWORD}
    response = client.post(f"{prefix}login/?{onward}", data)
    assert response.url == f"{ours}mfa/?{onward}"
    assert client.get(response.url.removeprefix(script_name)).status_code == 200
    code = {"code": garmin.mfa_code(EMAIL)}
    assert client.post(response.url.removeprefix(script_name), code).url == target


@pytest.mark.django_db
def test_several_engines_under_a_prefix_without_a_name_are_no_error(urls, client, user, settings):
    settings.GARMIN_AUTH_ENGINE = ["garth", "third"]
    settings.GARMIN_AUTH_ENGINES = {"third": "tests.engines.third_engine.ThirdEngine"}
    urls(re_path(r"^(\w+)/garmin/", include(OURS)))
    client.force_login(user)

    for url in ("/acme/garmin/login/", "/acme/garmin/login/third/", "/acme/garmin/"):
        assert client.get(url).status_code == 200
        assert client.get(f"{url}?next=/acme/garmin/").status_code == 200
