"""The simulator's tokens for garth: what they open, and how they end."""

import garth
import garth.sso
import pytest
import requests
from garth.exc import GarthHTTPError

from tests.testing.wire import (
    ADA,
    BOB,
    PROFILE,
    bearer,
    post_login,
)


def test_expired_access_token_is_exchanged(garmin, ada, new_client):
    session = garmin.issue_session(ada["email"], access_expired=True)
    client = new_client(session)

    assert client.username == ada["email"]
    assert garmin.counts["exchange"] == 1
    assert client.dumps() != session


def test_access_token_of_an_expired_session_is_refused(garmin, ada, http):
    token = bearer(garmin.issue_session(ada["email"], access_expired=True))

    assert http.get(PROFILE, headers={"Authorization": token}, timeout=5).status_code == 401


def test_issued_session_is_what_garth_dumps(garmin, ada_mfa, new_client):
    session = garmin.issue_session(ada_mfa["email"])

    assert new_client(session).dumps() == session


def test_issued_session_needs_no_exchange(garmin, ada, new_client):
    assert new_client(garmin.issue_session(ada["email"])).username == ada["email"]
    assert garmin.counts["exchange"] == 0


def test_forgotten_access_token_works_again_after_an_exchange(garmin, ada, new_client):
    client = new_client(garmin.issue_session(ada["email"]))
    garmin.expire_access_tokens()

    with pytest.raises(GarthHTTPError) as refused:
        client.connectapi("/userprofile-service/socialProfile")
    assert "Token is not active" in refused.value.error.response.headers["www-authenticate"]

    client.refresh_oauth2()
    assert client.username == ada["email"]


def test_access_tokens_of_one_account_can_be_forgotten(garmin, ada, http):
    garmin.add_account(*BOB)
    adas, bobs = (bearer(garmin.issue_session(email)) for email in (ADA[0], BOB[0]))

    garmin.expire_access_tokens(ADA[0])

    assert http.get(PROFILE, headers={"Authorization": adas}, timeout=5).status_code == 401
    assert http.get(PROFILE, headers={"Authorization": bobs}, timeout=5).status_code == 200


def test_access_token_ends_with_its_lifetime(garmin, ada, http):
    garmin.access_token_lifetime = 0
    token = bearer(garmin.issue_session(ada["email"]))

    assert http.get(PROFILE, headers={"Authorization": token}, timeout=5).status_code == 401


def test_revoked_session_is_dead_at_the_exchange(garmin, ada, new_client):
    client = new_client(garmin.issue_session(ada["email"]))
    garmin.revoke(ada["email"])

    with pytest.raises(requests.HTTPError) as refused:
        client.refresh_oauth2()

    assert refused.value.response.status_code == 401
    assert "OAuthToken is invalid" in refused.value.response.text
    assert refused.value.response.headers["content-type"].startswith("text/html")


def test_revoked_access_token_is_not_active(garmin, as_ada, ada):
    garmin.revoke(ada["email"])

    answer = as_ada.get(PROFILE, timeout=5)

    assert answer.status_code == 401
    assert "Token is not active" in answer.headers["www-authenticate"]


def test_revoking_one_account_leaves_the_others(garmin, ada, new_client):
    garmin.add_account(*BOB)
    client = new_client(garmin.issue_session(BOB[0], access_expired=True))

    garmin.revoke(ada["email"])

    assert client.username == BOB[0]


@pytest.mark.parametrize(("everywhere", "exchanges"), [(True, False), (False, True)])
def test_password_change_ends_sessions_if_asked_to(garmin, ada, new_client, everywhere, exchanges):
    client = new_client(garmin.issue_session(ada["email"]))

    garmin.set_password(ada["email"], "new", sign_out_everywhere=everywhere)

    if exchanges:
        client.refresh_oauth2()
    else:
        with pytest.raises(requests.HTTPError, match="401"):
            client.refresh_oauth2()
    new_client().login(ada["email"], "new")


def test_oldest_access_token_gives_way_to_the_hundred_newest(garmin, ada, http):
    oldest, *_, newest = (bearer(garmin.issue_session(ada["email"])) for _ in range(101))

    assert http.get(PROFILE, headers={"Authorization": oldest}, timeout=5).status_code == 401
    assert http.get(PROFILE, headers={"Authorization": newest}, timeout=5).status_code == 200


def test_service_ticket_works_once(ada, new_client):
    client = new_client()
    client.get("sso", "/mobile/sso/en/sign-in", params={"clientId": garth.sso.CLIENT_ID})
    answer = post_login(client.sess, *ADA)
    ticket = answer.json()["serviceTicketId"]

    garth.sso.get_oauth1_token(ticket, client)

    with pytest.raises(requests.HTTPError, match="401"):
        garth.sso.get_oauth1_token(ticket, client)


def test_wrong_consumer_key_gets_the_words_of_a_dead_session(garmin, ada, new_client):
    garth.sso.OAUTH_CONSUMER = {"consumer_key": "old", "consumer_secret": "old"}
    client = new_client(garmin.issue_session(ada["email"]))

    with pytest.raises(requests.HTTPError) as refused:
        client.refresh_oauth2()

    assert "OAuthToken is invalid" in refused.value.response.text
    assert garmin.counts["bad_signature"] == 1


def test_replaced_consumer_key_refuses_those_who_hold_the_old_one(garmin, ada, new_client):
    client = new_client(garmin.issue_session(ada["email"]))
    client.refresh_oauth2()

    garmin.set_consumer("new-key", "new-secret")

    with pytest.raises(requests.HTTPError, match="401"):
        client.refresh_oauth2()
    garth.sso.OAUTH_CONSUMER = {}
    client.refresh_oauth2()


@pytest.mark.parametrize("part", ["oauth_token_secret", "consumer_secret"])
def test_wrong_signature_is_refused(garmin, ada, new_client, part):
    client = new_client(garmin.issue_session(ada["email"]))
    if part == "consumer_secret":
        garth.sso.OAUTH_CONSUMER = garmin.consumer | {"consumer_secret": "guess"}
    else:
        client.oauth1_token.oauth_token_secret = "guess"

    with pytest.raises(requests.HTTPError, match="401"):
        client.refresh_oauth2()

    assert garmin.counts["bad_signature"] == 1


def test_exchange_without_the_mfa_token_is_refused_in_other_words(garmin, ada_mfa, new_client):
    client = new_client(garmin.issue_session(ada_mfa["email"]))
    client.oauth1_token.mfa_token = None

    with pytest.raises(requests.HTTPError) as refused:
        client.refresh_oauth2()

    assert refused.value.response.status_code == 401
    assert "OAuthToken is invalid" not in refused.value.response.text
