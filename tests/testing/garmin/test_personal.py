"""The simulator's Personal API: its keys, its tokens, and what can be read with them."""

import io
import time
import zipfile

import pytest

from tests.testing.wire import (
    ADA,
    API,
    BOB,
    PERSONAL,
    PROFILE,
    SETTINGS,
    TOKEN,
    bearer,
    claims_of,
    get_profile,
)

SUMMARIES = f"{PERSONAL}/usersummary-service/v2/dailysummaries"
DAY = 86_400


@pytest.fixture
def key(garmin, ada):
    return garmin.add_key(ADA[0])


@pytest.fixture
def token(http, key):
    return exchange(http, key).text


def exchange(http, key, url=TOKEN):
    return http.post(url, headers={"Authorization": f"ApiKey {key}", "Accept": "*/*"}, timeout=5)


def read(http, token, url=SETTINGS, **options):
    return http.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=5, **options)


def test_a_key_is_exchanged_for_a_bare_jwt(http, key, ada):
    answer = exchange(http, key)

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert 0 < claims_of(answer.text)["exp"] - time.time() <= DAY
    assert read(http, answer.text).json()["displayName"] == ada["display_name"]


def test_each_exchange_gives_another_token_and_both_work(http, key, token):
    again = exchange(http, key).text

    assert again != token
    assert read(http, again).ok
    assert read(http, token).ok


def test_a_token_ends_with_its_key_at_the_latest(http, garmin, ada):
    token = exchange(http, garmin.add_key(ADA[0], days=1 / 24)).text

    assert claims_of(token)["exp"] - time.time() <= 3600


def test_a_key_past_its_end_is_refused(http, garmin, ada):
    assert exchange(http, garmin.add_key(ADA[0], days=0)).status_code == 401


@pytest.mark.parametrize("key", ["", "no-such-key"])
def test_an_unknown_key_is_refused_in_json(http, garmin, ada, key):
    answer = exchange(http, key)

    assert (answer.status_code, answer.json()) == (401, {})


def test_a_deleted_key_ends_with_its_tokens(http, garmin, key, token):
    garmin.delete_key(key)

    assert exchange(http, key).status_code == 401
    assert read(http, token).status_code == 401


def test_a_renewed_key_is_another(http, garmin, key, token):
    new = garmin.renew_key(key, days=30)

    assert exchange(http, key).status_code == 401
    assert read(http, token).status_code == 401
    assert read(http, exchange(http, new).text).ok


def test_an_account_has_several_keys(http, garmin, key, token):
    other = garmin.add_key(ADA[0])
    garmin.delete_key(other)

    assert read(http, token).ok


def test_a_key_outlives_a_new_password_but_not_a_revocation(http, garmin, key):
    garmin.set_password(ADA[0], "another", sign_out_everywhere=True)
    token = exchange(http, key).text
    assert read(http, token).ok

    garmin.revoke(ADA[0])
    assert exchange(http, key).status_code == 401
    assert read(http, token).status_code == 401


def test_tokens_are_of_one_api_only(http, garmin, token):
    theirs = bearer(garmin.issue_session(ADA[0])).removeprefix("Bearer ")

    assert read(http, theirs).status_code == 401
    assert get_profile(http, token).status_code == 401
    assert get_profile(http, theirs).ok


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_data_can_be_read_and_nothing_else(http, token, method):
    headers = {"Authorization": f"Bearer {token}"}

    assert http.request(method, SETTINGS, headers=headers, timeout=5).status_code == 405


def test_a_day_is_what_the_other_api_says_of_it(http, garmin, token):
    query = {"startDate": "2026-02-03", "endDate": "2026-02-04"}
    first, _ = read(http, token, SUMMARIES, params=query).json()["data"]
    url = f"{API}/usersummary-service/usersummary/daily/"
    headers = {"Authorization": bearer(garmin.issue_session(ADA[0]))}
    theirs = http.get(url, params={"calendarDate": "2026-02-03"}, headers=headers, timeout=5)

    assert first == theirs.json()


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"startDate": "2026-02-03"},
        {"startDate": "2026-02-04", "endDate": "2026-02-03"},
        {"startDate": "2006-02-04", "endDate": "2026-02-03"},
    ],
)
def test_days_that_make_no_sense_are_refused(http, token, query):
    assert read(http, token, SUMMARIES, params=query).status_code == 400


def test_an_activity_is_a_zip(http, token):
    answer = read(http, token, f"{PERSONAL}/download-service/files/activity/7")

    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert len(archive.read("7_ACTIVITY.fit")) == 2048


def test_there_is_no_profile(http, token):
    answer = read(http, token, f"{PERSONAL}{PROFILE.removeprefix(API)}")

    assert (answer.status_code, answer.json()) == (404, {})


def test_too_many_requests_of_a_key_are_refused(http, garmin, key, token):
    garmin.add_account(*BOB)
    garmin.fail("api", "key_rate_limited", account=ADA[0])

    answer = read(http, token)

    assert (answer.status_code, answer.headers["retry-after"], answer.json()) == (429, "14", {})


def test_the_log_names_the_owner_and_no_key(http, garmin, key, token):
    garmin.fail("personal_token", "key_refused", account=ADA[0], status=403)

    assert exchange(http, key).status_code == 403
    assert [entry["account"] for entry in garmin.log if entry["step"] == "personal_token"] == [
        ADA[0],
        ADA[0],
    ]
    assert key not in str(garmin.log)


def test_a_key_that_never_existed_cannot_be_deleted(garmin):
    with pytest.raises(LookupError, match="no such key"):
        garmin.delete_key("no-such-key")
