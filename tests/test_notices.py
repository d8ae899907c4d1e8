"""Being told that Garmin has ended a session: a mail, and a banner on the site's pages."""

import re
import threading
from base64 import b64decode
from smtplib import SMTPRecipientsRefused
from types import SimpleNamespace

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpResponse
from django.template import engines
from django.urls import get_script_prefix, include, path, set_script_prefix
from django.utils import timezone, translation
from django.utils.formats import date_format

from garmin_auth import notices, signals
from garmin_auth.health import Outcome, check_session, check_sessions
from garmin_auth.login import disconnect, start_login
from tests.conftest import EMAIL, PASSWORD, state_of

SITE = "https://site.example"
SENDS_NOTHING_YET = """
import sys
from django.conf import settings
settings.EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
settings.EMAIL_FILE_PATH = sys.argv[2]
from django.contrib.auth import get_user_model
from garmin_auth.health import check_session
from garmin_auth.notices import mail_user_on_expiry
mail_user_on_expiry("https://site.example")
user = get_user_model().objects.get(pk=sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(check_session(user).outcome)
"""
WITHOUT_TRANSLATIONS = """
from tests.settings import *
USE_I18N, LANGUAGE_CODE = False, "de"
"""
MAIL = """
from django.contrib.auth import get_user_model
from garmin_auth.notices import expiry_mail
user = get_user_model()(pk=1, username="ana", email="ana@site.example")
[(html, _mimetype)] = expiry_mail(user, "https://site.example").alternatives
print(html)
"""


@pytest.fixture(autouse=True)
def receivers():
    """What a test connects is disconnected at its end."""
    told = [
        signals.session_failing,
        signals.session_recovered,
        signals.session_ending,
        signals.session_expired,
        signals.session_disconnected,
    ]
    before = [signal.receivers[:] for signal in told]
    yield
    for signal, receivers in zip(told, before, strict=True):
        signal.receivers[:] = receivers
        signal.sender_receivers_cache.clear()


@pytest.fixture
def mailed(receivers):
    notices.mail_user_on_expiry(SITE)
    return mail.outbox


@pytest.fixture
def die(connect, garmin, django_capture_on_commit_callbacks):
    """Let Garmin end a user's session, and a check find that."""

    def die(user):
        connect(user, access_expired=True)
        garmin.revoke(EMAIL)
        with django_capture_on_commit_callbacks(execute=True):
            assert check_session(user).outcome is Outcome.EXPIRED

    return die


# The mail


@pytest.mark.django_db
def test_nothing_is_mailed_unless_a_site_asks_for_it(user, die):
    die(user)
    assert mail.outbox == []


@pytest.mark.django_db
def test_the_user_is_mailed_when_the_session_dies(user, die, mailed):
    die(user)
    [message] = mailed
    assert message.to == ["ana@site.example"]
    assert message.subject == "Please connect your Garmin account again"
    assert message.body.startswith("Hello ana,\n\nGarmin has disconnected your account")
    assert "\nhttps://site.example/garmin/login/\n" in message.body


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("site_url", "script_name", "link"),
    [
        ("https://site.example/", "/", "https://site.example/garmin/login/"),
        ("https://site.example/portal", "/", "https://site.example/portal/garmin/login/"),
        ("https://site.example/portal/", "/", "https://site.example/portal/garmin/login/"),
        ("https://site.example/portal", "/portal/", "https://site.example/portal/garmin/login/"),
        ("https://site.example", "/portal/", "https://site.example/portal/garmin/login/"),
        ("https://site.example:8443/a/b?c#d", "/b/", "https://site.example:8443/a/b/garmin/login/"),
        ("https://site.example/ö", "/ö/", "https://site.example/%C3%B6/garmin/login/"),
        (
            "https://site.example/a%20b/%C3%B6",
            "/ö/",
            "https://site.example/a%20b/%C3%B6/garmin/login/",
        ),
        ("https://site.example", "/ö/", "https://site.example/%C3%B6/garmin/login/"),
    ],
)
def test_the_link_keeps_the_path_of_the_sites_url(user, site_url, script_name, link):
    before = get_script_prefix()
    set_script_prefix(script_name)
    try:
        body = notices.expiry_mail(user, site_url).body
    finally:
        set_script_prefix(before)

    assert f"\n{link}\n" in body


@pytest.mark.django_db
def test_the_mail_holds_nothing_of_garmins(user, die, mailed, monkeypatch, garmin):
    data = []
    issue = garmin.issue_session
    monkeypatch.setattr(
        garmin, "issue_session", lambda *a, **options: data.append(issue(*a, **options)) or data[-1]
    )
    die(user)
    [message] = mailed
    text = message.message().as_string()
    assert EMAIL not in text
    secrets = re.findall(r"[\w.-]{16,}", b64decode(data[0]).decode())
    assert secrets
    assert not [secret for secret in secrets if secret in text]


@pytest.mark.django_db
def test_one_death_is_mailed_once(user, die, mailed, django_capture_on_commit_callbacks):
    die(user)
    with django_capture_on_commit_callbacks(execute=True):
        check_session(user)
        check_sessions()
    assert len(mailed) == 1


@pytest.mark.django_db
def test_another_death_is_mailed_again(user, die, mailed, garmin):
    die(user)
    start_login(user, EMAIL, PASSWORD)
    die(user)
    assert len(mailed) == 2


@pytest.mark.django_db
def test_asked_twice_it_still_mails_once(user, die, mailed):
    notices.mail_user_on_expiry(SITE)
    die(user)
    assert len(mailed) == 1


@pytest.mark.django_db
def test_a_disconnect_is_not_mailed(user, connect, mailed, django_capture_on_commit_callbacks):
    connect(user)
    with django_capture_on_commit_callbacks(execute=True):
        disconnect(user)
    assert mailed == []


@pytest.mark.django_db
@pytest.mark.parametrize("facts", [{"email": ""}, {"is_active": False}])
def test_who_is_inactive_or_has_no_address_is_not_mailed(user, die, mailed, facts):
    type(user).objects.filter(pk=user.pk).update(**facts)
    user.refresh_from_db()
    die(user)
    assert mailed == []


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("facts", "to"),
    [
        ({"email": "ana@site.example"}, ["ana@site.example"]),
        ({"EMAIL_FIELD": "address", "address": "ana@site.example"}, ["ana@site.example"]),
        ({"email": None}, None),
        ({}, None),
    ],
)
def test_a_user_need_not_derive_from_djangos(facts, to):
    user = SimpleNamespace(pk=1, get_username=lambda: "ana", **facts)

    message = notices.expiry_mail(user, SITE)

    assert (message and message.to) == to


@pytest.mark.django_db
@pytest.mark.parametrize("kind", ["failing", "ending"])
@pytest.mark.parametrize(("language", "own"), [("ar", "en"), ("zh-hans", "en"), ("de-at", "de-at")])
def test_a_mail_is_in_one_language_and_says_which(user, kind, language, own):
    with translation.override(language):
        message = notices.notice_mail(kind, user, SITE, since=NOW, ends_at=NOW)

    [(html, _mimetype)] = message.alternatives
    with translation.override(own):
        day = date_format(timezone.localtime(NOW), "DATE_FORMAT")
    assert f'<html lang="{own}" dir="ltr">' in html
    assert day in html
    assert day in message.body


@pytest.mark.django_db
def test_a_mail_says_its_language_where_a_site_has_no_translations(run_python, tmp_path):
    (tmp_path / "without_translations.py").write_text(WITHOUT_TRANSLATIONS)

    html = run_python(MAIL, DJANGO_SETTINGS_MODULE="without_translations", PYTHONPATH=str(tmp_path))

    assert '<html lang="en" dir="ltr">' in html
    assert "Hello ana," in html


@pytest.mark.django_db
def test_the_links_are_in_the_users_language_even_if_the_mail_is_not(user, settings):
    settings.ROOT_URLCONF = "tests.language_urls"

    with translation.override("ar"):
        message = notices.notice_mail("failing", user, SITE, since=NOW)

    assert f"\n{SITE}/ar/garmin/login/\n" in message.body


@pytest.mark.django_db
def test_the_mail_is_in_the_sites_language_whoever_asks(user, die, mailed, settings, monkeypatch):
    seen = []
    monkeypatch.setattr(
        notices, "notice_mail", lambda *args, **facts: seen.append(translation.get_language())
    )
    settings.LANGUAGE_CODE = "de"
    with translation.override("fr"):
        die(user)
    assert seen == ["de"]


@pytest.mark.django_db
def test_the_mail_is_in_the_users_language_where_the_site_knows_it(user, die, monkeypatch):
    seen = []
    monkeypatch.setattr(
        notices, "notice_mail", lambda *args, **facts: seen.append(translation.get_language())
    )
    notices.mail_user_on_expiry(SITE, language_of=lambda user: "ja")
    die(user)
    assert seen == ["ja"]


@pytest.mark.django_db
def test_a_site_may_word_the_mail(user, die, mailed, settings, tmp_path):
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [tmp_path]}]
    template = tmp_path / "garmin_auth" / "mail" / "session_expired_subject.txt"
    template.parent.mkdir(parents=True)
    template.write_text("{{ site_name }}:\r\nGarmin\n")
    die(user)
    assert mailed[0].subject == "site.example: Garmin"


@pytest.mark.django_db
def test_an_odd_name_is_not_escaped(user, die, mailed):
    user.username = "o'hara & sons"
    user.save()
    die(user)
    assert "Hello o'hara & sons," in mailed[0].body


@pytest.mark.django_db
def test_a_mail_that_cannot_be_sent_stops_no_check(user, die, mailed, monkeypatch, caplog):
    def refuse(message):
        raise SMTPRecipientsRefused({"ana@site.example": (550, b"no such user")})

    monkeypatch.setattr("django.core.mail.EmailMessage.send", refuse)
    die(user)
    assert f"mail_users failed user={user.pk} error=SMTPRecipientsRefused" in caplog.text
    assert "ana@site.example" not in caplog.text
    assert state_of(user).ended_reason == "expired"


@pytest.mark.parametrize("site_url", ["", "site.example", "/garmin/", "ftp://site.example"])
def test_what_is_no_url_of_a_site_is_refused_at_once(site_url):
    with pytest.raises(ImproperlyConfigured):
        notices.mail_user_on_expiry(site_url)


@pytest.mark.django_db(transaction=True)
def test_two_workers_that_find_one_death_send_one_mail(
    user, connect, garmin, start_python, tmp_path
):
    connect(user, access_expired=True)
    garmin.revoke(EMAIL)
    code = f"import django; django.setup()\n{SENDS_NOTHING_YET}"
    workers = [start_python("-c", code, user.pk, tmp_path) for _ in range(2)]
    assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 2

    garmin.set_latency(0.3)  # Both are under way at once.
    ends = [
        threading.Thread(target=worker.communicate, args=("\n",), kwargs={"timeout": 60})
        for worker in workers
    ]
    for end in ends:
        end.start()
    for end in ends:
        end.join()

    assert [worker.returncode for worker in workers] == [0, 0]
    assert "To: ana@site.example" in "".join(f.read_text() for f in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 1


# The other mails


NOW = timezone.now()
FACTS = {
    "failing": {"since": NOW, "reason": "refused"},
    "recovered": {"failed_since": NOW},
    "ending": {"engine": "garth", "ends_at": NOW},
    "expired": {"engine": "garth"},
    "disconnected": {"reason": "staff"},
}
SUBJECTS = {
    "failing": "Your Garmin connection is not working",
    "recovered": "Your Garmin connection works again",
    "ending": "Your Garmin connection expires soon",
    "expired": "Please connect your Garmin account again",
    "disconnected": "Your Garmin account has been disconnected",
}


def happens(kind, user, **facts):
    signal = getattr(signals, f"session_{kind}")
    signal.send_robust(None, user=user, **{**FACTS[kind], **facts})


def test_there_is_a_mail_of_each_kind():
    assert set(notices.Notice) == set(FACTS) == set(SUBJECTS)


@pytest.mark.django_db
@pytest.mark.parametrize("kind", SUBJECTS)
def test_what_happens_is_mailed_as_text_and_html(user, receivers, kind):
    user.username = "o'hara <b>"
    user.save()
    notices.mail_users(SITE)

    happens(kind, user)

    [message] = mail.outbox
    [(html, mimetype)] = message.alternatives
    assert (message.subject, mimetype) == (SUBJECTS[kind], "text/html")
    assert message.body.startswith("Hello o'hara <b>,\n\n")
    assert "Hello o&#x27;hara &lt;b&gt;," in html
    assert "List-Unsubscribe" not in message.extra_headers
    for text in (message.body, html):
        assert "{" not in text
        assert f"{SITE}/garmin/" in text
    if kind in ("failing", "recovered", "ending"):
        assert date_format(timezone.localtime(NOW), "DATE_FORMAT") in message.body


@pytest.mark.django_db
def test_a_site_leaves_kinds_out(user, receivers):
    notices.mail_users(SITE, kinds=["ending", "recovered"])
    for kind in FACTS:
        happens(kind, user)
    # Nobody is told that works again of which nobody was told that it does not.
    assert [message.subject for message in mail.outbox] == [SUBJECTS["ending"]]


@pytest.mark.django_db
def test_a_user_is_not_told_of_what_they_did_themselves(user, receivers):
    notices.mail_users(SITE)
    happens("disconnected", user, reason="user")
    assert mail.outbox == []


@pytest.mark.django_db
def test_who_may_not_connect_is_not_asked_to(user, receivers, settings):
    settings.GARMIN_AUTH_MAY_CONNECT = "tests.test_notices.nobody_may"
    notices.mail_users(SITE)
    for kind in FACTS:
        happens(kind, user)
    assert [message.subject for message in mail.outbox] == [SUBJECTS["recovered"]]


def nobody_may(user):
    return False


@pytest.mark.django_db
def test_a_mail_says_where_it_can_be_turned_off(user, receivers):
    notices.mail_users(SITE, unsubscribe_url_of=lambda user: f"{SITE}/mail/{user.pk}")
    happens("ending", user)
    assert mail.outbox[0].extra_headers["List-Unsubscribe"] == f"<{SITE}/mail/{user.pk}>"


@pytest.mark.parametrize("kinds", [["expiring"], "expire"])
def test_a_kind_that_there_is_not_is_refused_at_once(kinds, receivers):
    with pytest.raises(ImproperlyConfigured, match="failing, recovered, ending, expired, disc"):
        notices.mail_users(SITE, kinds=kinds)


# The banner


def own_page(request):
    source = "{% load garmin_auth %}{% garmin_banner %}"
    return HttpResponse(engines["django"].from_string(source).render({}, request))


urlpatterns = [path("own/", own_page), path("garmin/", include("garmin_auth.urls"))]


@pytest.fixture
def site(settings, client, user):
    """A site with a page of its own that has the banner, and a browser of the user's."""
    settings.ROOT_URLCONF = "tests.test_notices"
    client.force_login(user)
    return client


@pytest.mark.django_db
def test_the_banner_is_shown_from_the_death_until_the_user_connects_again(site, user, die, garmin):
    assert "ga-banner" not in site.get("/own/").content.decode()
    die(user)
    assert "ga-banner" in site.get("/own/").content.decode()
    start_login(user, EMAIL, PASSWORD)
    assert "ga-banner" not in site.get("/own/").content.decode()


@pytest.mark.django_db
def test_the_banner_leads_to_the_login_and_back(site, user, die):
    die(user)
    page = site.get("/own/?day=1&week=2").content.decode()
    assert 'href="/garmin/login/?next=%2Fown%2F%3Fday%3D1%26week%3D2"' in page


@pytest.mark.django_db
def test_the_banner_ends_with_a_disconnect(site, user, die, connect):
    die(user)
    connect(user)
    disconnect(user)
    assert not notices.session_ended(user)


@pytest.mark.django_db
@pytest.mark.parametrize("nobody", [AnonymousUser(), None])
def test_nobody_costs_none(nobody, django_assert_num_queries):
    with django_assert_num_queries(0):
        assert not notices.session_ended(nobody)
