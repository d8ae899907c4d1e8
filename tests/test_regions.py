"""Garmin's two services, garmin.com and garmin.cn, side by side on one site."""

import io
import json
import re
from collections import Counter

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command

from garmin_auth.accounts import account_of
from garmin_auth.exceptions import (
    InvalidCredentials,
    MassFailure,
    RateLimited,
    SessionExpired,
    SessionUnreadable,
)
from garmin_auth.health import Outcome, Stopped, check_session, check_sessions
from garmin_auth.limits import cooldown
from garmin_auth.login import (
    Connected,
    MFARequired,
    begin_login,
    import_session,
    start_login,
    submit_mfa,
)
from garmin_auth.models import GarminAuthenticationState
from garmin_auth.sessions import garmin_client
from tests.conftest import EMAIL, PASSWORD, needs_garminconnect, needs_personal, state_of
from tests.waiting import wait_for_logins

pytestmark = pytest.mark.django_db(transaction=True)
states = GarminAuthenticationState.objects
COM, CN = "garmin.com", "garmin.cn"
STATUS, LOGIN, MFA = "/garmin/", "/garmin/login/", "/garmin/mfa/"
PROFILE = "/userprofile-service/socialProfile"
ENGINES = [
    "garth",
    pytest.param("garminconnect", marks=needs_garminconnect),
    pytest.param("personal", marks=needs_personal),
]
CONSUMER_HOST = "thegarth.s3.amazonaws.com"


@pytest.fixture(autouse=True)
def both(settings):
    settings.GARMIN_AUTH_DOMAIN = [COM, CN]


@pytest.fixture
def browser(client, user):
    client.force_login(user)
    return client


@pytest.fixture
def chinese(garmin):
    """An account at Garmin China that asks for a code."""
    garmin.add_account(EMAIL, PASSWORD, mfa=True, domain=CN)
    return EMAIL


def hosts_asked(garmin, email=None):
    return {
        entry["host"]
        for entry in garmin.log
        if entry["host"] != CONSUMER_HOST and email in (None, entry["account"])
    }


def all_in(hosts, domain):
    return bool(hosts) and all(host.endswith(f".{domain}") for host in hosts)


# How users connect


@pytest.mark.parametrize("engine", ENGINES[:2])
def test_a_login_asks_the_hosts_of_its_domain_only(user, garmin, chinese, engine):
    required = start_login(user, EMAIL, PASSWORD, engine, CN)
    assert isinstance(required, MFARequired)
    assert required.domain == CN
    assert submit_mfa(user, garmin.mfa_code(EMAIL)) == Connected()
    garmin.expire_access_tokens(EMAIL)
    with garmin_client(user) as client:
        assert client.connectapi(PROFILE)["userName"] == EMAIL

    assert (state_of(user).domain, account_of(user).domain) == (CN, CN)
    assert all_in(hosts_asked(garmin), CN)


def test_the_first_domain_is_the_default(user, garmin, settings, chinese):
    with pytest.raises(InvalidCredentials):
        start_login(user, EMAIL, PASSWORD)
    settings.GARMIN_AUTH_DOMAIN = [CN, COM]
    assert isinstance(start_login(user, EMAIL, PASSWORD), MFARequired)
    with pytest.raises(InvalidCredentials):
        begin_login(user, EMAIL, PASSWORD, domain=COM)


@pytest.mark.parametrize("domain", ["garmin.example", CN])
def test_only_a_domain_of_the_site_gets_a_password(user, garmin, settings, domain):
    settings.GARMIN_AUTH_DOMAIN = COM
    with pytest.raises(ImproperlyConfigured, match=r"GARMIN_AUTH_DOMAIN does not have"):
        start_login(user, EMAIL, PASSWORD, domain=domain)
    assert garmin.log == []


def test_the_form_asks_for_the_service(browser, garmin, chinese):
    page = browser.get(LOGIN).text
    options = re.findall(r'<option value="(garmin\.\w+)"[^>]*>([^<]+)', page)
    assert options == [(COM, "Garmin"), (CN, "Garmin China (佳明)")]

    form = {"email": EMAIL, "password": PASSWORD, "domain": CN}
    assert browser.post(LOGIN, form).url == MFA
    assert browser.post(MFA, {"code": garmin.mfa_code(EMAIL)}).url == STATUS

    assert "<dd>Garmin China (佳明)</dd>" in browser.get(STATUS).text
    assert all_in(hosts_asked(garmin), CN)


def test_a_form_with_another_domain_asks_nobody(browser, garmin):
    form = {"email": EMAIL, "password": PASSWORD, "domain": "garmin.example"}
    assert browser.post(LOGIN, form).context["form"].errors.keys() == {"domain"}
    assert garmin.log == []


def test_with_one_service_there_is_no_choice(browser, settings, user, connect):
    settings.GARMIN_AUTH_DOMAIN = CN
    assert 'name="domain"' not in browser.get(LOGIN).text
    connect(user, domain=CN)
    assert "Garmin service" not in browser.get(STATUS).text


def test_the_form_remembers_where_the_account_is(browser, user, connect):
    connect(user, domain=CN)
    assert f'<option value="{CN}" selected>' in browser.get(LOGIN).text


@needs_garminconnect
def test_after_a_slow_login_that_failed_the_form_still_has_the_service(
    browser, garmin, settings, chinese
):
    settings.GARMIN_AUTH_ENGINE = "garminconnect"
    browser.post(LOGIN, {"email": EMAIL, "password": "wrong", "domain": CN})
    wait_for_logins()
    page = browser.get(LOGIN).text
    assert f'<option value="{CN}" selected>' in page
    assert '<a href="https://connect.garmin.cn/"' in page


def test_who_is_sent_to_garmin_connect_is_sent_to_the_chosen_service(browser, chinese):
    form = {"email": EMAIL, "password": "wrong", "domain": CN}
    assert '<a href="https://connect.garmin.cn/"' in browser.post(LOGIN, form).text


@needs_personal
def test_a_key_that_was_refused_is_made_anew_at_the_chosen_service(browser, settings):
    settings.GARMIN_AUTH_ENGINE = "personal"
    form = {"key": "a-key-that-was-never-made", "domain": CN}
    assert "https://connect.garmin.cn/app/settings/" in browser.post(LOGIN, form).text


@needs_personal
def test_a_key_goes_to_its_domain_only(browser, garmin, settings, user):
    settings.GARMIN_AUTH_ENGINE = "personal"
    garmin.add_account(EMAIL, PASSWORD, domain=CN)
    form = {"key": garmin.add_key(EMAIL), "domain": CN}
    assert browser.post(LOGIN, form).url == STATUS
    assert state_of(user).domain == CN
    assert hosts_asked(garmin) == {"personal.connectapi.garmin.cn"}


def test_the_same_address_has_a_limit_in_each_service(user, garmin, chinese):
    garmin.fail("login", "rate_limited", retry_after=300)
    with pytest.raises(RateLimited):
        start_login(user, EMAIL, PASSWORD, domain=COM)
    assert isinstance(start_login(user, EMAIL, PASSWORD, domain=CN), MFARequired)


def test_a_password_that_one_service_refused_is_still_tried_at_the_other(user, chinese):
    """It is not the same login, though it is the same form."""
    form = {"idempotency_key": "one form"}
    with pytest.raises(InvalidCredentials):
        start_login(user, EMAIL, PASSWORD, domain=COM, **form)
    assert isinstance(start_login(user, EMAIL, PASSWORD, domain=CN, **form), MFARequired)


# What is stored


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("domain", [COM, CN])
def test_a_session_goes_on_at_its_own_domain_whatever_new_logins_use(
    user, garmin, settings, connect, engine, domain
):
    connect(user, engine=engine, domain=domain, access_expired=True)
    settings.GARMIN_AUTH_DOMAIN = {COM: CN, CN: COM}[domain]

    assert check_session(user).outcome is Outcome.ACTIVE

    assert state_of(user).domain == domain
    assert all_in(hosts_asked(garmin), domain)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_session_that_names_the_other_domain_is_sent_nowhere(user, garmin, connect, engine):
    state = connect(user, engine=engine, domain=CN)
    states.filter(pk=state.pk).update(domain=COM)

    with pytest.raises(SessionUnreadable), garmin_client(user):
        pass

    assert garmin.log == []
    assert state_of(user).session_data == state.session_data


def test_a_domain_that_is_not_garmins_is_sent_nothing(user, garmin, connect):
    state = connect(user)
    states.filter(pk=state.pk).update(domain="evil.example")

    with pytest.raises(SessionUnreadable, match=r"evil\.example"), garmin_client(user):
        pass

    assert garmin.log == []


@pytest.mark.parametrize("engine", ENGINES[:2])
@pytest.mark.parametrize("domain", [COM, CN])
def test_an_import_finds_the_domain_in_the_session(user, garmin, engine, domain):
    garmin.add_account(EMAIL, PASSWORD, domain=domain)
    import_session(user, garmin.issue_session(EMAIL, engine), engine=engine, check=True)

    assert state_of(user).domain == domain
    assert all_in(hosts_asked(garmin), domain)


@needs_personal
def test_an_imported_key_is_for_the_domain_that_is_named(user, garmin, monkeypatch):
    garmin.add_account(EMAIL, PASSWORD, domain=CN)
    monkeypatch.setattr("sys.stdin", io.StringIO(garmin.add_key(EMAIL)))
    options = {"engine": "personal", "domain": CN, "check": True}
    call_command("import_garmin_session", user.username, stdout=io.StringIO(), **options)
    assert state_of(user).domain == CN


def test_a_session_of_a_service_that_the_site_does_not_offer_is_refused(user, garmin, settings):
    settings.GARMIN_AUTH_DOMAIN = COM
    garmin.add_account(EMAIL, PASSWORD, domain=CN)
    with pytest.raises(SessionUnreadable, match="GARMIN_AUTH_DOMAIN"):
        import_session(user, garmin.issue_session(EMAIL))
    assert not states.exists()


# Trouble in one of them


@pytest.fixture
def site(django_user_model, connect):
    """Connect so many users with an engine at a domain, and return them."""

    def site(number, engine, domain, **options):
        users = []
        for n in range(number):
            name = f"{engine}-{domain}-{n}"
            user = django_user_model.objects.create_user(name)
            connect(user, f"{name}@example.com", engine, domain, **options)
            users.append(user)
        return users

    return site


def test_a_rate_limit_of_one_service_leaves_the_other_alone(garmin, site):
    (first, second), others = site(2, "garth", CN), site(2, "garth", COM)
    garmin.fail("api", "rate_limited", retry_after=300)

    with pytest.raises(RateLimited), garmin_client(first) as client:
        client.connectapi(PROFILE)
    report = check_sessions()

    assert (report.checked, report.active, report.stopped) == (2, 2, Stopped.RATE_LIMITED)
    assert report.left_out == [f"garth at {CN}"]
    assert all(state_of(user).last_validated for user in others)
    assert not state_of(second).last_validated
    assert cooldown.seconds_left(cooldown.site_scope(CN)) > 200
    assert not cooldown.seconds_left(cooldown.site_scope(COM))


def test_sessions_that_are_left_out_do_not_count_for_the_limit(site):
    site(2, "garth", CN)
    works = site(1, "garth", COM)[0]
    cooldown.start(cooldown.site_scope(CN), 300)

    report = check_sessions(limit=1)

    assert (report.active, report.stopped) == (1, Stopped.RATE_LIMITED)
    assert state_of(works).last_validated


@needs_personal
def test_a_rate_limit_of_the_site_does_not_concern_keys(site):
    site(2, "garth", COM), site(2, "personal", COM)
    cooldown.start(cooldown.site_scope(COM), 300)

    report = check_sessions()

    assert (report.checked, report.active, report.stopped) == (2, 2, Stopped.RATE_LIMITED)
    assert report.engines.keys() == {"personal"}


def test_an_outage_of_one_service_leaves_the_other_alone(garmin, site):
    site(8, "garth", COM)
    for user in site(8, "garth", CN):
        garmin.fail("api", "status", times=None, account=f"{user.username}@example.com")

    report = check_sessions()

    assert (report.active, report.unknown, report.stopped) == (8, 5, Stopped.UNAVAILABLE)
    assert report.left_out == [CN]


def test_a_mass_failure_of_one_service_leaves_the_other_alone(garmin, site):
    refused = site(4, "garth", CN, access_expired=True)
    works, dead = site(2, "garth", COM, access_expired=True)
    for user in (*refused, dead):
        garmin.revoke(f"{user.username}@example.com")

    report = check_sessions()

    # Two before the alarm, in China; and the one whose service accepts others.
    assert (report.active, report.expired, report.stopped) == (1, 3, None)
    assert report.left_out == [f"garth at {CN}"]
    assert not state_of(dead).session_data
    assert state_of(works).session_data
    outcomes = Counter()
    for user in refused:
        try:
            with garmin_client(user) as client:
                client.connectapi(PROFILE)
        except Exception as exc:  # noqa: BLE001 - counted below
            outcomes[type(exc)] += 1
    assert outcomes[MassFailure] == 2
    assert outcomes[SessionExpired] == 0


@needs_garminconnect
@needs_personal
def test_a_site_of_three_engines_and_both_services_is_checked_each_by_its_own(garmin, site):
    engines = ("garth", "garminconnect", "personal")
    users = [
        (user, domain)
        for engine in engines
        for domain in (COM, CN)
        for user in site(10, engine, domain, access_expired=True)
    ]
    output = io.StringIO()

    call_command("check_garmin_sessions", workers=8, format="json", stdout=output)

    told = json.loads(output.getvalue())
    assert (told["checked"], told["active"], told["refreshed"]) == (60, 60, 60)
    assert told["engines"].keys() == set(engines)
    assert all(counts["active"] == 20 for counts in told["engines"].values())
    for user, domain in users:
        assert all_in(hosts_asked(garmin, f"{user.username}@example.com"), domain)
