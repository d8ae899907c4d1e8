"""The simulator's regions, garmin.com and garmin.cn: what one issues, the other does not know."""

import base64
import json
import re

import pytest
import requests
from garth.exc import GarthHTTPError
from requests.adapters import HTTPAdapter

from garmin_auth.testing import RemoteGarminSimulator
from tests.testing.wire import (
    ADA,
    PORTAL_QUERY,
    PROFILE,
    SETTINGS,
    SIGN_IN,
    SSO,
    TOKEN,
    WIDGET_LOGIN,
    claims_of,
    exchange_ticket,
    get_profile,
    issue_tokens,
    message,
    post_code,
    post_ios_login,
    post_login,
    post_widget_login,
    refresh,
    title_of,
)

COM, CN = "garmin.com", "garmin.cn"
CONNECT = "https://connect.garmin.com/app"
OTHER = {COM: CN, CN: COM}
EMAIL, PASSWORD = ADA
ELSEWHERE = "another password"  # of the account with the same address in the other region

both_ways = pytest.mark.parametrize("domain", OTHER)


class RegionalSession(requests.Session):
    """Sends what is for garmin.com to the same host of its own domain."""

    def __init__(self, garmin, domain):
        super().__init__()
        self.domain, self.trust_env = domain, False
        self.proxies, self.verify = {"https": garmin.proxy_url}, garmin.ca_bundle
        self.mount("https://", HTTPAdapter(max_retries=0))

    def request(self, method, url, **options):
        return super().request(method, url.replace(COM, self.domain, 1), **options)


@pytest.fixture
def at(garmin):
    """Return a session of plain requests to the hosts of a domain."""
    sessions = {domain: RegionalSession(garmin, domain) for domain in OTHER}
    yield sessions.__getitem__
    for session in sessions.values():
        session.close()


@pytest.fixture
def account(garmin, domain):
    return garmin.add_account(*ADA, domain=domain)


@pytest.fixture
def both(garmin):
    """Accounts with the same address in both regions."""
    return {
        COM: garmin.add_account(*ADA),
        CN: garmin.add_account(EMAIL, ELSEWHERE, domain=CN),
    }


@pytest.fixture
def library(garmin, fork_server):
    from tests.testing.test_simulator_garminconnect import Library  # It needs garminconnect.

    calls = Library(garmin, fork_server)
    yield calls
    calls.end()


def moved(session, domain):
    """The session of garth as one of another domain."""
    tokens = json.loads(base64.b64decode(session))
    tokens[0]["domain"] = domain
    return base64.b64encode(json.dumps(tokens).encode()).decode()


def send_cookies(from_session, to_session):
    """Send the cookies of a session from another, as no client would by itself."""
    cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in from_session.cookies)
    to_session.headers["Cookie"] = cookies


def exchange_key(http, key):
    return http.post(TOKEN, headers={"Authorization": f"ApiKey {key}"}, timeout=5)


def read(http, token):
    return http.get(SETTINGS, headers={"Authorization": f"Bearer {token}"}, timeout=5)


def is_inactive(answer):
    return answer.status_code == 401 and "Token is not active" in answer.headers["www-authenticate"]


# The libraries


@both_ways
def test_garth_logs_in_where_the_account_is(garmin, account, new_client, domain):
    client = new_client(domain=domain)

    client.login(*ADA)

    assert client.profile["displayName"] == account["display_name"]
    hosts = {entry["host"] for entry in garmin.log} - {"thegarth.s3.amazonaws.com"}
    assert hosts == {f"sso.{domain}", f"connectapi.{domain}"}


@both_ways
def test_garth_is_refused_in_the_other_region(account, new_client, domain):
    with pytest.raises(GarthHTTPError) as refused:
        new_client(domain=OTHER[domain]).login(*ADA)

    response = refused.value.error.response
    assert response.status_code == 401
    assert message(response) == "generalLoginInvalidUsernameOrPassword"


@both_ways
def test_garths_session_is_dead_in_the_other_region(garmin, account, new_client, domain):
    session = garmin.issue_session(EMAIL, access_expired=True)
    assert new_client(session).domain == domain

    with pytest.raises(requests.HTTPError) as refused:
        new_client(moved(session, OTHER[domain])).refresh_oauth2()

    assert refused.value.response.status_code == 401
    assert "OAuthToken is invalid" in refused.value.response.text
    client = new_client(session)
    assert client.username == EMAIL
    assert claims_of(client.oauth2_token.access_token)["iss"] == f"https://diauth.{domain}"


def test_garminconnect_logs_in_where_the_account_is(garmin, library):
    flow = "mobile+cffi"
    for domain in OTHER:
        garmin.add_account(f"ada@{domain}", PASSWORD, domain=domain)
    logins = {
        (email, there): library.start(
            "log_in", domain=there, email=f"ada@{email}", password=PASSWORD, flow=flow
        )
        for email in OTHER
        for there in OTHER
    }
    said = {way: library.finish(process) for way, process in logins.items()}

    for way, outcome in said.items():
        error = None if way[0] == way[1] else "GarminConnectAuthenticationError"
        assert outcome["error"] == error, (way, outcome)
    used = library("use", domain=CN, session=said[CN, CN]["session"])
    assert used["result"] == f"ada@{CN}"


def test_garminconnects_session_is_refused_in_the_other_region(garmin, both, library):
    calls = []
    for domain in OTHER:
        session = garmin.issue_session(EMAIL, "garminconnect", domain=domain)
        calls += [
            library.start(do, domain=OTHER[domain], session=session) for do in ("use", "refresh")
        ]
        calls.append(library.start("refresh", domain=domain, session=session))

    for _ in OTHER:
        use, refresh_there, refresh_here = (library.finish(calls.pop(0)) for _ in range(3))
        assert use["message"] == "API Error 401 - Token is not active"
        assert refresh_there["message"] == "DI token refresh failed: 400"
        assert refresh_here["error"] is None


# Plain requests: every credential


@both_ways
def test_the_password_is_of_one_region(at, both, domain):
    password = {COM: PASSWORD, CN: ELSEWHERE}[domain]
    for there, status in ((domain, 200), (OTHER[domain], 401)):
        at(there).get(SIGN_IN, timeout=5)
        assert post_login(at(there), EMAIL, password).status_code == status
        assert post_widget_login(at(there), EMAIL, password).status_code == status


@both_ways
def test_a_login_that_waits_for_a_code_is_of_one_region(garmin, at, domain):
    garmin.add_account(*ADA, mfa=True, domain=domain)
    here, there = at(domain), at(OTHER[domain])
    here.get(SIGN_IN, timeout=5)
    post_login(here, *ADA)
    send_cookies(here, there)

    assert message(post_code(there, garmin.mfa_code(EMAIL))) == "sessionNotFound"
    assert post_code(here, garmin.mfa_code(EMAIL)).json()["serviceTicketId"]


@both_ways
def test_a_widgets_form_is_of_one_region(account, at, domain):
    here, there = at(domain), at(OTHER[domain])
    form = re.search(r'name="_csrf"\s+value="(.+?)"', here.get(WIDGET_LOGIN, timeout=5).text)[1]
    send_cookies(here, there)

    page = there.post(WIDGET_LOGIN, data={"_csrf": form, "username": EMAIL}, timeout=5)

    assert (page.status_code, title_of(page)) == (403, "Forbidden")


@both_ways
def test_a_ticket_is_of_one_region_and_not_spent_in_the_other(account, at, domain):
    ticket = post_ios_login(at(domain)).json()["serviceTicketId"]

    assert exchange_ticket(at(OTHER[domain]), ticket).json()["error"] == "invalid_grant"
    answer = exchange_ticket(at(domain), ticket).json()
    assert claims_of(answer["access_token"])["iss"] == f"https://diauth.{domain}"


@both_ways
def test_tokens_of_diauth_are_of_one_region(garmin, account, at, domain):
    access, token = issue_tokens(garmin)
    there = at(OTHER[domain])

    assert is_inactive(get_profile(there, access))
    assert get_profile(at(domain), access).json()["userName"] == EMAIL
    refused = refresh(there, token)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    assert refresh(at(domain), token).ok


@both_ways
def test_the_portals_ticket_and_its_cookie_are_of_one_region(account, at, domain):
    here, there = at(domain), at(OTHER[domain])
    query = PORTAL_QUERY.replace(COM, domain)
    here.get(f"{SSO}/portal/sso/en-US/sign-in{query}", timeout=5)
    body = {"username": EMAIL, "password": PASSWORD}
    said = here.post(f"{SSO}/portal/api/login{query}", json=body, timeout=5).json()

    for http in (there, here):
        http.get(CONNECT, params={"ticket": said["serviceTicketId"]}, timeout=5)

    assert "JWT_WEB" not in there.cookies
    headers = {"Cookie": f"JWT_WEB={here.cookies['JWT_WEB']}"}
    assert here.get(PROFILE, headers=headers, timeout=5).json()["userName"] == EMAIL
    assert is_inactive(there.get(PROFILE, headers=headers, timeout=5))


@both_ways
def test_a_key_and_its_token_are_of_one_region(garmin, account, at, domain):
    key = garmin.add_key(EMAIL)
    here, there = at(domain), at(OTHER[domain])

    refused = exchange_key(there, key)
    assert (refused.status_code, refused.json()) == (401, {})
    token = exchange_key(here, key).text
    assert read(here, token).json()["displayName"] == account["display_name"]
    assert is_inactive(read(there, token))


def test_a_key_of_garmin_china_is_renewed_and_deleted(garmin, at):
    garmin.add_account(*ADA, domain=CN)
    key = garmin.add_key(EMAIL)

    new = garmin.renew_key(key)
    assert [exchange_key(at(CN), each).status_code for each in (key, new)] == [401, 200]
    garmin.delete_key(new)
    assert exchange_key(at(CN), new).status_code == 401


# The accounts


def test_one_address_has_an_account_in_each_region(both):
    assert both[COM]["email"] == both[CN]["email"]
    assert (both[COM]["domain"], both[CN]["domain"]) == (COM, CN)
    assert both[COM]["display_name"] != both[CN]["display_name"]
    assert both[COM]["profile_id"] != both[CN]["profile_id"]


@both_ways
def test_an_address_is_used_once_in_each_region(garmin, both, domain):
    with pytest.raises(ValueError, match="already"):
        garmin.add_account(*ADA, domain=domain)


@pytest.mark.parametrize("engine", ["garth", "garminconnect", "personal"])
def test_an_account_in_both_regions_is_garmin_com_unless_told(garmin, both, engine):
    region = {
        "garth": lambda data: json.loads(base64.b64decode(data))[0]["domain"],
        "garminconnect": lambda data: claims_of(json.loads(data)["di_token"])["iss"][15:],
        "personal": lambda data: json.loads(data)["domain"],
    }[engine]

    assert region(garmin.issue_session(EMAIL, engine)) == COM
    assert region(garmin.issue_session(EMAIL, engine, domain=CN)) == CN


@pytest.mark.parametrize(
    "call",
    [
        lambda garmin, **region: garmin.revoke(EMAIL, **region),
        lambda garmin, **region: garmin.set_password(EMAIL, "new", **region),
        lambda garmin, **region: garmin.expire_access_tokens(EMAIL, **region),
        lambda garmin, **region: garmin.expire_access_tokens(**region),
    ],
    ids=["revoke", "set_password", "expire_access_tokens", "expire_access_tokens of all"],
)
@both_ways
def test_one_regions_sessions_end(garmin, both, at, call, domain):
    access = {each: issue_tokens(garmin, domain=each)[0] for each in OTHER}

    call(garmin, domain=domain)

    assert is_inactive(get_profile(at(domain), access[domain]))
    assert get_profile(at(OTHER[domain]), access[OTHER[domain]]).ok


def test_access_tokens_of_both_regions_expire(garmin, both, at):
    access = {each: issue_tokens(garmin, domain=each)[0] for each in OTHER}

    garmin.expire_access_tokens()

    assert all(is_inactive(get_profile(at(domain), access[domain])) for domain in OTHER)


def test_each_region_sends_its_own_code(garmin, at):
    for domain in OTHER:
        garmin.add_account(*ADA, mfa=True, domain=domain)
        at(domain).get(SIGN_IN, timeout=5)
    post_login(at(CN), *ADA)

    with pytest.raises(LookupError, match="No code"):
        garmin.mfa_code(EMAIL)
    garmin.expire_mfa(EMAIL)
    assert post_code(at(CN), garmin.mfa_code(EMAIL, domain=CN)).ok
    post_login(at(CN), *ADA)
    garmin.expire_mfa(EMAIL, domain=CN)
    assert message(post_code(at(CN), garmin.mfa_code(EMAIL, domain=CN))) == "codeEntryExpired"


@pytest.mark.parametrize(
    "call",
    [
        lambda garmin, domain: garmin.add_account("bob@example.com", PASSWORD, domain=domain),
        lambda garmin, domain: garmin.issue_session(EMAIL, domain=domain),
        lambda garmin, domain: garmin.add_key(EMAIL, domain=domain),
        lambda garmin, domain: garmin.mfa_code(EMAIL, domain=domain),
        lambda garmin, domain: garmin.revoke(EMAIL, domain=domain),
        lambda garmin, domain: garmin.expire_access_tokens(domain=domain),
        lambda garmin, domain: garmin.fail("api", "status", domain=domain),
    ],
)
def test_an_unknown_domain_is_a_value_error(garmin, ada, call):
    with pytest.raises(ValueError, match=r"domain 'garmin\.example'.*garmin\.cn, garmin\.com"):
        call(garmin, "garmin.example")


def test_an_account_of_the_other_region_is_not_found(garmin, ada):
    with pytest.raises(LookupError, match=r"No account ada@example\.com at garmin\.cn"):
        garmin.issue_session(EMAIL, domain=CN)


def test_a_remote_simulator_has_both_regions(garmin):
    remote = RemoteGarminSimulator(garmin.control_url)

    assert remote.add_account(*ADA, domain=CN)["domain"] == CN
    assert json.loads(remote.issue_session(EMAIL, "personal"))["domain"] == CN
    with pytest.raises(ValueError, match="domain"):
        remote.add_account(*ADA, domain="garmin.example")


# Options, faults and the log


def test_options_are_those_of_both_regions(garmin, both, new_client):
    garmin.access_token_lifetime = 600
    garmin.rotate_refresh_tokens = False
    garmin.set_consumer("key", "secret")

    for domain in OTHER:
        client = new_client(garmin.issue_session(EMAIL, access_expired=True, domain=domain))
        assert client.username == EMAIL
        assert client.oauth2_token.expires_in == 600
    garmin.reset()
    assert (garmin.access_token_lifetime, garmin.rotate_refresh_tokens) == (75017, True)


def test_tokens_are_kept_or_rotated_in_both_regions(garmin, both, at):
    garmin.rotate_refresh_tokens = False
    for domain in OTHER:
        _, token = issue_tokens(garmin, domain=domain)
        assert refresh(at(domain), token).json()["refresh_token"] == token


@pytest.mark.parametrize("step", ["sign_in", "connect"])
@both_ways
def test_a_fault_of_one_region_leaves_the_other(garmin, at, step, domain):
    garmin.fail(step, "status", times=None, domain=domain)

    assert at(OTHER[domain]).get(SIGN_IN, timeout=5).ok
    if step == "sign_in":
        assert at(domain).get(SIGN_IN, timeout=5).status_code == 503
    else:
        with pytest.raises(requests.exceptions.ProxyError):
            at(domain).get(SIGN_IN, timeout=5)


@both_ways
def test_the_log_says_where_a_credential_was_sent(garmin, account, at, domain):
    access, token = issue_tokens(garmin)
    get_profile(at(domain), access)
    assert garmin.counts["foreign_region"] == 0

    get_profile(at(OTHER[domain]), access)
    refresh(at(OTHER[domain]), token)
    get_profile(at(OTHER[domain]), "of nobody")

    said = [(e["host"], e["account"]) for e in garmin.log if e["step"] != "connect"]
    assert said == [
        (f"connectapi.{domain}", EMAIL),
        (f"connectapi.{OTHER[domain]}", EMAIL),
        (f"diauth.{OTHER[domain]}", EMAIL),
        (f"connectapi.{OTHER[domain]}", None),
    ]
    assert garmin.counts["foreign_region"] == 2


def test_reset_forgets_both_regions(garmin, both):
    garmin.reset()

    for domain in OTHER:
        garmin.add_account(*ADA, domain=domain)
