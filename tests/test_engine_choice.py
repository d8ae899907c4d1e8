"""Several engines offered together, and the page for a key: settings, checks, pages, Python."""

from datetime import timedelta

import pytest
from django.conf import settings as django_settings
from django.contrib.sessions.models import Session
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.urls import include, path, reverse
from django.utils import timezone

from garmin_auth.accounts import account_of
from garmin_auth.engines import get_key_engine, get_password_engine, offered_engines
from garmin_auth.engines.garth import GarthEngine
from garmin_auth.exceptions import InvalidCredentials
from garmin_auth.health import Outcome, check_session
from garmin_auth.limits import throttle
from garmin_auth.login import connect_with_key, start_login
from garmin_auth.logins.ways import several_domains, takes_key, way_of
from garmin_auth.models import GarminAuthenticationState
from garmin_auth.notices import expiry_mail
from garmin_auth.sessions import garmin_client
from tests.conftest import EMAIL, PASSWORD, needs_personal, raw_row, state_of
from tests.engines.third_key_engine import ThirdKeyEngine
from tests.waiting import wait_for_logins

STATUS, LOGIN, MFA = "/garmin/", "/garmin/login/", "/garmin/mfa/"
KEY_PAGE, GARTH_PAGE = "/garmin/login/key/", "/garmin/login/garth/"
FORM = {"email": EMAIL, "password": PASSWORD}
PATH = "/userprofile-service/userprofile/settings"
KEY_SENTENCE = "Our way: with a key"
PASSWORD_SENTENCE = "With your Garmin password, the older way"

urlpatterns = [path("<slug:club>/garmin/", include("garmin_auth.urls"))]

pytestmark = pytest.mark.django_db(transaction=True)


class KeyEngine(ThirdKeyEngine):
    """A site's own, which runs on any Python."""

    name = "key"
    label = KEY_SENTENCE


class SlowGarth(GarthEngine):
    name = "slow"
    slow_login = True


class Progress(GarthEngine):
    name = "progress"


@pytest.fixture(autouse=True)
def engines(settings):
    settings.GARMIN_AUTH_ENGINES = {
        "key": "tests.test_engine_choice.KeyEngine",
        "slow": "tests.test_engine_choice.SlowGarth",
    }


@pytest.fixture
def one(settings):
    settings.GARMIN_AUTH_ENGINE = "key"


@pytest.fixture
def several(settings):
    settings.GARMIN_AUTH_ENGINE = ["key", "garth"]


@pytest.fixture
def browser(client, user):
    client.force_login(user)
    return client


@pytest.fixture
def key(garmin, account):
    return garmin.add_key(EMAIL)


def said(code):
    return [message.msg for message in run_checks() if message.id == f"garmin_auth.{code}"]


def text(response):
    return response.content.decode()


# The setting


def test_a_name_or_a_list_is_offered(settings):
    for value, offered in (("garth", ["garth"]), (["key", "garth"], ["key", "garth"])):
        settings.GARMIN_AUTH_ENGINE = value
        assert offered_engines() == offered
    settings.GARMIN_AUTH_ENGINE = ("garth", "key")
    assert offered_engines() == ["garth", "key"]


@pytest.mark.parametrize("value", [[], ["garth", "garth"], ["garth", 5], {"garth"}])
def test_a_list_that_cannot_work_is_an_error(settings, value):
    settings.GARMIN_AUTH_ENGINE = value

    (message,) = said("E001")
    assert message.startswith("GARMIN_AUTH_ENGINE must be the name of an engine, or a list")


def test_each_engine_of_the_list_is_checked(settings):
    settings.GARMIN_AUTH_ENGINES = {"gone": "no_such_module.Engine"}
    settings.GARMIN_AUTH_ENGINE = ["garth", "nonsense", "gone"]

    assert said("E003") == [
        "GARMIN_AUTH_ENGINE names 'nonsense', which is not a known engine.",
        "The engine 'gone' needs the module no_such_module, which is not installed.",
    ]


@pytest.mark.parametrize(
    ("value", "domains"),
    [
        ("garmin.cn", ("garmin.cn",)),
        (["garmin.cn"], ("garmin.cn",)),
        (["garmin.com", "garmin.cn"], ("garmin.com", "garmin.cn")),
    ],
)
def test_a_way_has_the_domains_that_are_offered(settings, value, domains):
    settings.GARMIN_AUTH_DOMAIN = value

    assert way_of("key").domains == domains
    assert several_domains() is (len(domains) == 2)


def test_a_list_of_domains_that_cannot_work_offers_no_choice(settings):
    settings.GARMIN_AUTH_DOMAIN = ["garmin.com", "evil.example"]

    assert several_domains() is False


# In Python


def test_where_there_is_no_engine_there_is_no_key(one):
    assert takes_key("key")
    assert not takes_key("")


def test_each_way_finds_the_first_engine_of_its_kind(several):
    assert get_key_engine().name == "key"
    assert get_password_engine().name == "garth"


def test_a_login_with_a_password_where_there_are_only_keys(one, user):
    with pytest.raises(ImproperlyConfigured, match="connect_with_key"):
        start_login(user, EMAIL, PASSWORD)


def test_a_login_uses_the_engine_that_is_named(several, user, account, settings):
    settings.GARMIN_AUTH_ENGINE = ["garth", "slow"]

    start_login(user, EMAIL, PASSWORD, engine="slow")

    assert state_of(user).engine == "slow"


def test_a_site_moves_user_by_user(several, user, other_user, account, garmin):
    start_login(user, EMAIL, PASSWORD)
    connect_with_key(other_user, garmin.add_key(EMAIL))

    connect_with_key(user, garmin.add_key(EMAIL))

    assert [state_of(each).engine for each in (user, other_user)] == ["key", "key"]
    for each in (user, other_user):
        with garmin_client(each) as client:
            assert client.connectapi(PATH)


# The page for a key


def test_with_one_engine_there_is_nothing_to_choose(one, browser):
    page = text(browser.get(LOGIN))

    assert 'name="key"' in page
    assert "How do you want to connect?" not in page
    assert "https://connect.garmin.com/app/settings/personalApiToken" in page


def test_with_one_engine_with_a_password_the_page_is_that_for_a_password(browser, settings):
    settings.GARMIN_AUTH_ENGINE = ["garth"]

    page = text(browser.get(LOGIN))

    assert 'name="password"' in page
    assert "How do you want to connect?" not in page


def test_a_key_connects(one, browser, user, key):
    response = browser.post(LOGIN, {"key": f" {key}\n", "days": ""}, follow=True)

    assert response.redirect_chain == [(STATUS, 302)]
    assert "Your Garmin account is connected." in text(response)
    assert state_of(user).engine == "key"


def test_the_page_leads_on_to_next(one, browser, key):
    response = browser.post(f"{LOGIN}?next=/garmin/%3Fafter", {"key": key})

    assert response.url == "/garmin/?after"


@pytest.mark.parametrize(
    ("entered", "sentence"),
    [
        ("", "This field is required."),
        ("not-a-key", "Garmin did not accept this key."),
        ("with\x07bell", "This is not a key."),
    ],
)
def test_a_wrong_key_is_said_at_its_field(one, browser, account, entered, sentence):
    response = browser.post(LOGIN, {"key": entered, "days": "90"})

    (message,) = response.context["form"].errors["key"]
    assert message.startswith(sentence)
    assert 'aria-invalid="true"' in text(response)
    assert '<option value="90" selected>' in text(response)
    assert not entered or entered not in text(response)


def test_a_validity_that_was_not_offered_is_refused(one, browser, key, garmin):
    response = browser.post(LOGIN, {"key": key, "days": "3650"})

    assert "days" in response.context["form"].errors
    assert garmin.counts["personal_token"] == 0


def test_a_rate_limit_is_said_above_the_form(one, browser, key, garmin):
    garmin.fail("personal_token", "key_rate_limited", retry_after=600)

    response = browser.post(LOGIN, {"key": key})

    assert "did not check what you entered" in response.context["form"].non_field_errors()[0]
    assert "You can try again after" in text(response)


def test_a_new_key_replaces_the_old_one_once_it_works(one, browser, user, key, garmin):
    browser.post(LOGIN, {"key": key})
    before = raw_row(user)

    page = text(browser.get(STATUS))
    assert "Replace the key" in page
    assert "Connection</dt>" not in page
    assert "remains in use until Garmin has accepted the key" in text(browser.get(LOGIN))
    browser.post(LOGIN, {"key": "not-a-key"})
    assert raw_row(user)["session_data"] == before["session_data"]
    browser.post(LOGIN, {"key": garmin.add_key(EMAIL)})
    assert raw_row(user)["session_data"] != before["session_data"]


def test_the_form_is_sent_once(one, browser, key, garmin):
    form = {"key": key, "idempotency_key": "the same"}
    browser.post(LOGIN, form)

    assert browser.post(LOGIN, form).url == STATUS
    assert garmin.counts["personal_token"] == 1


def test_keys_count_as_logins(one, browser, account, garmin):
    for number in range(throttle.TOTAL_LIMIT):
        browser.post(LOGIN, {"key": f"not-a-key-{number}"})
    asked = garmin.counts["personal_token"]

    response = browser.post(LOGIN, {"key": "not-a-key-either"})

    assert "too many times" in response.context["form"].non_field_errors()[0]
    assert garmin.counts["personal_token"] == asked


def no(user):
    return "Only members."


def test_the_site_may_refuse(one, browser, key, settings, garmin):
    settings.GARMIN_AUTH_MAY_CONNECT = "tests.test_engine_choice.no"

    page = text(browser.get(LOGIN))
    assert "Only members." in page
    assert 'name="key"' not in page
    browser.post(LOGIN, {"key": key})
    assert garmin.counts["personal_token"] == 0


def test_a_frozen_site_asks_nothing(one, browser, key, settings, garmin):
    settings.GARMIN_AUTH_FROZEN = True

    assert 'name="key"' not in text(browser.get(LOGIN))
    browser.post(LOGIN, {"key": key})
    assert garmin.counts["personal_token"] == 0


def test_the_key_is_kept_nowhere_but_in_its_row(one, browser, user, key, cached, caplog):
    with caplog.at_level("DEBUG"):
        shown = [browser.post(LOGIN, {"key": entered}) for entered in (f"{key} {key}", key)]
        shown += [browser.get(STATUS), browser.get(LOGIN)]

    for response in shown:
        assert key not in text(response)
    assert not [entry for entry in cached() if key in entry]
    assert key not in caplog.text
    assert key not in str(raw_row(user))
    cookie = browser.cookies[django_settings.SESSION_COOKIE_NAME].value
    kept = Session.objects.get(pk=cookie).get_decoded()
    assert key not in str(kept)
    assert "_garmin_auth_login" not in kept


# The choice


def test_the_first_is_the_default_and_each_has_its_sentence(several, browser):
    page = text(browser.get(LOGIN))

    assert 'name="key"' in page
    assert f'<a href="{KEY_PAGE}" aria-current="page">{KEY_SENTENCE}</a>' in page
    assert f'<a href="{GARTH_PAGE}">{PASSWORD_SENTENCE}</a>' in page


def test_a_link_leads_to_another_way(several, browser):
    page = text(browser.get(reverse("garmin_auth:login_with", args=["garth"])))

    assert 'name="password"' in page
    assert f'<a href="{GARTH_PAGE}" aria-current="page">{PASSWORD_SENTENCE}</a>' in page
    assert "refusing most new connections" in page  # The engine's note.


def test_the_links_keep_where_the_user_wants_to_go(several, browser):
    page = text(browser.get(f"{LOGIN}?next=/garmin/%3Fafter"))

    assert f"{GARTH_PAGE}?next=%2Fgarmin%2F%3Fafter" in page


@pytest.mark.parametrize("engine", ["slow", "nonsense", "key/garth"])
def test_an_engine_that_is_not_offered_is_not_found(several, browser, engine, garmin):
    url = f"/garmin/login/{engine}/"

    assert browser.get(url).status_code == 404
    assert browser.head(url).status_code == 404
    assert browser.post(url, FORM).status_code == 404
    assert garmin.counts["login"] == 0


def test_a_visitor_is_sent_to_the_sites_login_first(several, client):
    assert client.get("/garmin/login/nonsense/").url.startswith("/accounts/login/")


def test_an_engine_that_cannot_be_imported_is_left_out(several, browser, settings):
    settings.GARMIN_AUTH_ENGINE = ["nonsense", "garth"]

    page = text(browser.get(LOGIN))

    assert 'name="password"' in page
    assert browser.get("/garmin/login/nonsense/").status_code == 404


def test_each_page_connects_with_its_engine(several, browser, user, key):
    browser.post(GARTH_PAGE, FORM)
    assert state_of(user).engine == "garth"
    browser.post(KEY_PAGE, {"key": key})
    assert state_of(user).engine == "key"


def test_the_status_page_says_which(several, browser, user, key):
    browser.post(KEY_PAGE, {"key": key})
    page = text(browser.get(STATUS))
    assert KEY_SENTENCE in page
    assert f'href="{KEY_PAGE}">Replace the key</a>' in page

    browser.post(GARTH_PAGE, FORM)
    page = text(browser.get(STATUS))
    assert PASSWORD_SENTENCE in page
    assert f'href="{GARTH_PAGE}?other=1">Use a different Garmin account</a>' in page


@pytest.mark.parametrize("value", [7, [], ["garth", 7], ["garth", "garth"]])
def test_the_status_page_works_with_a_list_that_cannot(
    several, browser, user, key, settings, value
):
    browser.post("/garmin/login/", {"key": key})
    settings.GARMIN_AUTH_ENGINE = value
    assert browser.get("/garmin/").status_code == 200


def test_the_status_page_works_with_a_domain_that_cannot(several, browser, user, key, settings):
    browser.post("/garmin/login/", {"key": key})
    settings.GARMIN_AUTH_DOMAIN = ["garmin.com", "evil.example"]
    assert browser.get("/garmin/").status_code == 200


def test_a_way_that_is_no_longer_offered_is_still_said(several, browser, user, key, settings):
    browser.post(KEY_PAGE, {"key": key})
    settings.GARMIN_AUTH_ENGINE = ["garth", "slow"]

    page = text(browser.get(STATUS))

    assert KEY_SENTENCE in page
    assert f'href="{LOGIN}">Replace the key</a>' in page


def test_starting_over_uses_the_engine_of_the_login_that_waits(several, browser, mfa_account):
    browser.post(GARTH_PAGE, FORM)

    page = text(browser.get(MFA))

    assert f'<a href="{GARTH_PAGE}">Sign in again' in page
    assert f'<a href="{GARTH_PAGE}?other=1">' in page


def end(user):
    state = state_of(user)
    assert GarminAuthenticationState.objects.end_session(state.pk, state.session_version, "expired")


def test_who_had_a_key_is_told_of_the_key_when_it_has_ended(several, browser, user, key):
    """No password was changed, and the key is what has to be replaced."""
    browser.post(KEY_PAGE, {"key": key})
    end(user)

    page, mail = text(browser.get(STATUS)), expiry_mail(user, "https://example.com")

    for words in (page, mail.body, mail.alternatives[0].content):
        assert "no longer accepts your key" in words
        assert "password" not in words.partition("<main")[2]


def test_who_had_a_password_is_still_told_of_the_password(several, browser, user, account):
    browser.post(GARTH_PAGE, FORM)
    end(user)

    assert "because your Garmin password was changed" in text(browser.get(STATUS))
    assert "password was changed" in expiry_mail(user, "https://example.com").body


@pytest.mark.parametrize("name", ["key", "garth"])
def test_connecting_again_leads_to_the_way_that_the_user_had(
    several, browser, user, key, settings, name
):
    settings.GARMIN_AUTH_ENGINE = ["slow", "key", "garth"]
    page = f"/garmin/login/{name}/"
    browser.post(page, {"key": key} if name == "key" else FORM)
    end(user)

    assert f'href="{page}">Connect again</a>' in browser.get(STATUS).text
    assert f"https://example.com{page}" in expiry_mail(user, "https://example.com").body


def test_an_engine_may_have_the_name_of_a_page(browser, account, settings):
    settings.GARMIN_AUTH_ENGINES = {
        "progress": "tests.test_engine_choice.Progress",
        **settings.GARMIN_AUTH_ENGINES,
    }
    settings.GARMIN_AUTH_ENGINE = ["key", "progress"]
    assert browser.post("/garmin/login/progress/", FORM).url == STATUS


def test_a_key_replaces_a_login_that_waits(several, browser, user, mfa_account, garmin):
    browser.post(GARTH_PAGE, FORM)
    assert "Verification code required" in text(browser.get(KEY_PAGE))

    browser.post(KEY_PAGE, {"key": garmin.add_key(EMAIL)})

    assert account_of(user).connected
    assert not state_of(user).mfa_pending


def test_a_slow_login_that_failed_leads_back_to_its_page(several, browser, account, settings):
    settings.GARMIN_AUTH_ENGINE = ["key", "garth", "slow"]
    browser.post("/garmin/login/slow/", {**FORM, "password": "wrong"})
    wait_for_logins()

    response = browser.get("/garmin/progress/")

    assert response.url == "/garmin/login/slow/"
    assert str(InvalidCredentials.user_message) in text(browser.get(response.url))


def test_a_slow_login_that_failed_elsewhere_leads_to_a_page_for_passwords(several, browser, user):
    states = GarminAuthenticationState.objects
    states.begin_login(user.pk, "login", 20)
    states.fail_login(user.pk, "login", '{"error": "InvalidCredentials"}')

    assert browser.get("/garmin/progress/").url == GARTH_PAGE


def test_the_end_of_a_key_counts_from_today(several, browser, user, key, monkeypatch):
    asked = []
    connect = KeyEngine.connect
    monkeypatch.setattr(
        KeyEngine,
        "connect",
        lambda self, key, ends_at: asked.append(ends_at) or connect(self, key, ends_at),
    )
    before = timezone.now()

    browser.post(KEY_PAGE, {"key": key, "days": "90"})

    (ends_at,) = asked
    assert before <= ends_at - timedelta(days=90) <= timezone.now()


@pytest.mark.urls("tests.test_engine_choice")
def test_the_links_stay_under_a_prefix_that_captures_something(several, browser):
    page = text(browser.get("/runners/garmin/login/"))

    assert '<a href="/runners/garmin/login/garth/">' in page


# The Personal API


@pytest.fixture
def personal(settings):
    settings.GARMIN_AUTH_ENGINE = "personal"


@needs_personal
@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("Key: ", "", "A key contains no spaces."),
        ("correct-horse!", "", "This is not a key. Do not enter your Garmin password"),
    ],
)
def test_a_key_that_cannot_be_one_is_not_sent(
    personal, browser, key, garmin, before, after, sentence
):
    response = browser.post(LOGIN, {"key": f"{before}{key}{after}"})

    (message,) = response.context["form"].errors["key"]
    assert message.startswith(sentence)
    assert garmin.counts["personal_token"] == 0


@needs_personal
def test_a_line_break_that_was_copied_along_is_removed(personal, browser, user, key):
    browser.post(LOGIN, {"key": f"{key[:20]}\r\n{key[20:]}\n"})

    assert account_of(user).connected


@needs_personal
@pytest.mark.parametrize("days", ["30", "90", "180", "365"])
def test_when_the_key_ends_is_stored(personal, browser, user, key, days):
    before = timezone.now()
    browser.post(LOGIN, {"key": key, "days": days})

    ends_at = account_of(user).ends_at
    assert before <= ends_at - timedelta(days=int(days)) <= timezone.now()


@needs_personal
def test_when_the_key_ends_need_not_be_known(personal, browser, user, key):
    browser.post(LOGIN, {"key": key, "days": ""})

    assert account_of(user).connected
    assert account_of(user).ends_at is None


@needs_personal
def test_a_key_that_ends_soon_is_to_be_replaced(personal, browser, key):
    browser.post(LOGIN, {"key": key, "days": "30"})

    page = text(browser.get(STATUS))

    assert "Connect again before then" in page
    assert f'<a class="ga-button" href="{LOGIN}">Replace the key</a>' in page


@needs_personal
def test_a_site_moves_from_garth_to_garminconnect_to_keys(
    browser, user, other_user, connect, key, settings, garmin
):
    connect(user)
    settings.GARMIN_AUTH_ENGINE = ["personal", "garminconnect"]
    connect(other_user, "ben@example.com", engine="garminconnect")

    page = text(browser.get(STATUS))
    assert PASSWORD_SENTENCE in page
    page = text(browser.get(LOGIN))
    assert "Official: with a key from Garmin Connect" in page
    assert "With your Garmin password</a>" in page
    browser.post(LOGIN, {"key": key})

    assert [state_of(each).engine for each in (user, other_user)] == ["personal", "garminconnect"]
    for each in (user, other_user):
        assert check_session(each).outcome is Outcome.ACTIVE
