"""The simulator's tokens for garminconnect."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.testing.wire import (
    ADA,
    DI_CLIENT,
    DIAUTH,
    EMBED,
    IOS_SERVICE,
    PROFILE,
    claims_of,
    exchange_ticket,
    get_profile,
    issue_tokens,
    post_di,
    post_ios_login,
    post_widget_login,
    refresh,
    ticket_of,
)


def test_ticket_is_exchanged_for_tokens_that_the_api_takes(ada, http):
    ticket = post_ios_login(http).json()["serviceTicketId"]

    tokens = exchange_ticket(http, ticket).json()

    claims = claims_of(tokens["access_token"])
    assert (claims["client_id"], claims["iss"]) == (DI_CLIENT, "https://diauth.garmin.com")
    assert claims["exp"] == pytest.approx(time.time() + tokens["expires_in"], abs=5)
    assert get_profile(http, tokens["access_token"]).json()["userName"] == ADA[0]
    assert refresh(http, tokens["refresh_token"]).status_code == 200


def test_ticket_is_exchanged_once(ada, http):
    ticket = post_ios_login(http).json()["serviceTicketId"]
    exchange_ticket(http, ticket)

    again = exchange_ticket(http, ticket)

    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")


def test_ticket_of_another_service_is_refused(ada, http):
    ticket = post_ios_login(http).json()["serviceTicketId"]

    assert exchange_ticket(http, ticket, EMBED).json()["error"] == "invalid_grant"


@pytest.mark.parametrize(
    "client",
    [{"client_id": "STRANGER", "basic": "STRANGER"}, {"basic": "STRANGER"}, {"client_id": ""}],
)
def test_ticket_survives_a_client_that_diauth_does_not_know(ada, http, client):
    ticket = post_ios_login(http).json()["serviceTicketId"]

    refused = exchange_ticket(http, ticket, **client)

    assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")
    assert exchange_ticket(http, ticket).status_code == 200


@pytest.mark.parametrize("authorization", ["", "Basic ~~~", "Basic /w==", f"Bearer {DI_CLIENT}"])
def test_client_that_does_not_name_itself_is_refused(garmin, ada, http, authorization):
    form = {"grant_type": "refresh_token", "refresh_token": issue_tokens(garmin)[1]}
    headers = {"Authorization": authorization}

    refused = http.post(DIAUTH, data=form | {"client_id": DI_CLIENT}, headers=headers, timeout=5)

    assert refused.json()["error"] == "invalid_client"


def test_unknown_grant_is_refused(http):
    refused = post_di(http, grant_type="password")

    assert (refused.status_code, refused.json()["error"]) == (400, "unsupported_grant_type")


def test_refresh_token_works_once(garmin, ada, http):
    _, first = issue_tokens(garmin)

    second = refresh(http, first).json()["refresh_token"]

    refused = refresh(http, first)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    assert refresh(http, second).status_code == 200


def test_parallel_refreshes_spend_a_token_once(garmin, ada, http):
    _, token = issue_tokens(garmin)

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: refresh(http, token).status_code, range(8)))

    assert sorted(statuses) == [200] + [400] * 7


def test_refresh_token_stays_where_rotation_is_off(garmin, ada, http):
    garmin.rotate_refresh_tokens = False
    _, token = issue_tokens(garmin)

    assert [refresh(http, token).json()["refresh_token"] for _ in "ab"] == [token, token]


def test_lost_answer_of_a_refresh_spends_the_token(garmin, ada, http):
    _, token = issue_tokens(garmin)
    garmin.fail("di_refresh", "drop_after")

    with pytest.raises(requests.exceptions.ConnectionError):
        refresh(http, token)

    assert refresh(http, token).json()["error"] == "invalid_grant"


def test_refresh_token_of_another_client_is_refused(garmin, ada, http):
    _, token = issue_tokens(garmin)
    other = "GARMIN_CONNECT_MOBILE_IOS_DI"

    assert refresh(http, token, client_id=other, basic=other).json()["error"] == "invalid_grant"


@pytest.mark.parametrize(
    "end",
    [lambda garmin: garmin.revoke(ADA[0]), lambda garmin: garmin.set_password(ADA[0], "new")],
    ids=["revoked", "signed out everywhere"],
)
def test_ended_session_is_dead_at_the_refresh(garmin, ada, http, end):
    access, token = issue_tokens(garmin)

    end(garmin)

    assert get_profile(http, access).status_code == 401
    refused = refresh(http, token)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")


def test_password_change_alone_ends_no_session(garmin, ada, http):
    _, token = issue_tokens(garmin)

    garmin.set_password(ADA[0], "new", sign_out_everywhere=False)

    assert refresh(http, token).status_code == 200


def test_forgotten_access_token_is_refreshed(garmin, ada, http):
    access, token = issue_tokens(garmin)
    garmin.expire_access_tokens()
    assert "Token is not active" in get_profile(http, access).headers["www-authenticate"]

    fresh = refresh(http, token).json()["access_token"]

    assert get_profile(http, fresh).status_code == 200


def test_access_token_of_an_expired_session_says_so_itself(garmin, ada, http):
    access, _ = issue_tokens(garmin, access_expired=True)

    assert claims_of(access)["exp"] < time.time()
    assert get_profile(http, access).status_code == 401


def test_session_of_an_unknown_engine_is_a_value_error(garmin, ada):
    with pytest.raises(ValueError, match="garminconnect, garth"):
        garmin.issue_session(ADA[0], "fitbit")


@pytest.mark.parametrize(
    ("log_in", "service"),
    [
        (lambda http: post_ios_login(http).json()["serviceTicketId"], IOS_SERVICE),
        (lambda http: ticket_of(post_widget_login(http)), EMBED),
    ],
    ids=["ios", "widget"],
)
def test_ticket_at_its_service_gives_a_cookie_that_the_api_takes(ada, http, log_in, service):
    ticket = log_in(http)

    http.get(service, params={"ticket": ticket}, timeout=5)

    cookie = {"Cookie": f"JWT_WEB={http.cookies['JWT_WEB']}"}
    http.cookies.clear()
    assert http.get(PROFILE, headers=cookie, timeout=5).json()["userName"] == ADA[0]
    assert exchange_ticket(http, ticket, service).status_code == 400


def test_spent_ticket_gives_no_cookie(ada, http):
    ticket = post_ios_login(http).json()["serviceTicketId"]
    exchange_ticket(http, ticket)

    http.get(IOS_SERVICE, params={"ticket": ticket}, timeout=5)

    assert "JWT_WEB" not in http.cookies
