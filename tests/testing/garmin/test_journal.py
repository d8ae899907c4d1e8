"""What the simulator tells of the requests that it has had."""

import json

from tests.testing.wire import (
    ADA,
    EMBED,
    EXCHANGE,
    PROFILE,
    SSO,
    ask_widget_for_code,
    exchange_ticket,
    post_widget_code,
    post_widget_login,
    refresh,
    ticket_of,
)


def test_log_names_the_owner_of_the_credential(garmin, as_ada, ada):
    as_ada.get(PROFILE, params={"secret": "1"}, headers={"User-Agent": "probe"}, timeout=5)

    assert garmin.log[-1] == {
        "step": "api",
        "method": "GET",
        "host": "connectapi.garmin.com",
        "path": "/userprofile-service/socialProfile",
        "status": 200,
        "account": ada["email"],
        "user_agent": "probe",
        "fault": None,
    }


def test_every_step_of_an_mfa_login_is_logged_with_its_account(garmin, ada_mfa, new_client):
    client = new_client()
    _, state = client.login(*ADA, return_on_mfa=True)
    client.resume_login(state, garmin.mfa_code(ada_mfa["email"]))
    assert client.username

    owners = {entry["step"]: entry["account"] for entry in garmin.log}

    for step in ("login", "verify_code", "preauthorized", "exchange", "api"):
        assert owners[step] == ada_mfa["email"], step


def test_log_holds_no_secrets(garmin, ada_mfa, new_client):
    client = new_client()
    _, state = client.login(*ADA, return_on_mfa=True)
    code = garmin.mfa_code(ada_mfa["email"])
    client.resume_login(state, code)
    assert client.username

    log = json.dumps(garmin.log)

    for secret in (
        ADA[1],
        code,
        "ST-",
        client.oauth1_token.oauth_token,
        client.oauth1_token.oauth_token_secret,
        client.oauth1_token.mfa_token,
        client.oauth2_token.access_token,
    ):
        assert secret not in log


def test_log_of_diauth_and_the_widget_holds_no_secrets(garmin, ada_mfa, http):
    page = post_widget_login(http)
    ask_widget_for_code(http, page)
    code = garmin.mfa_code(ADA[0])
    ticket = ticket_of(post_widget_code(http, page, code))
    tokens = exchange_ticket(http, ticket, EMBED).json()
    refresh(http, tokens["refresh_token"])
    http.get(EMBED, params={"ticket": ticket}, timeout=5)

    log = json.dumps(garmin.log)

    for secret in (ADA[1], code, ticket, tokens["refresh_token"], tokens["access_token"]):
        assert secret not in log


def test_path_no_client_uses_is_counted_as_other(garmin, http):
    assert http.get(f"{SSO}/sso/logout", timeout=5).status_code == 404
    assert http.get(EXCHANGE, timeout=5).status_code == 404
    assert garmin.counts["other"] == 2
