import base64
import io
import json
import threading
import time
from datetime import timedelta

import pytest
import time_machine
from django.core.cache import cache
from django.db import connections, transaction
from django.utils import timezone

from garmin_auth import signals
from garmin_auth.engines import get_engine
from garmin_auth.exceptions import (
    GarminRequestError,
    GarminUnavailable,
    NotConnected,
    RateLimited,
    SessionExpired,
    SessionUnreadable,
    TokenRefused,
)
from garmin_auth.login import disconnect
from garmin_auth.models import EndedReason, GarminAuthenticationState, Status
from garmin_auth.sessions import NOTE_EVERY, REFRESH_EVERY, garmin_client
from garmin_auth.storage.session_rows import read_session
from tests.conftest import EMAIL, PASSWORD, raw_row, state_of
from tests.rows import damage
from tests.waiting import Clock

pytestmark = pytest.mark.every_database
PROFILE = "/userprofile-service/socialProfile"
YEAR = timedelta(days=365)
BEN = "ben@example.com"


def test_a_stored_session_opens(user, connect):
    connect(user)

    with garmin_client(user) as client:
        assert client.connectapi(PROFILE)["userName"] == EMAIL


def test_a_user_without_a_row_is_not_connected(user):
    with pytest.raises(NotConnected), garmin_client(user):
        pass


def test_a_disconnected_user_is_not_connected(user, connect):
    connect(user)
    disconnect(user)

    with pytest.raises(NotConnected), garmin_client(user):
        pass


def test_success_is_noted(user, connect):
    connect(user)

    with garmin_client(user) as client:
        client.connectapi(PROFILE)

    assert state_of(user).last_validated is not None


def test_success_is_noted_also_when_the_block_raises(user, connect):
    connect(user)

    with pytest.raises(ZeroDivisionError), garmin_client(user) as client:
        client.connectapi(PROFILE)
        1 / 0  # noqa: B018

    assert state_of(user).last_validated is not None


def test_a_block_without_a_call_notes_nothing(user, connect):
    connect(user)

    with garmin_client(user):
        pass

    assert state_of(user).last_validated is None


def test_each_time_of_the_row_is_read(user, connect):
    connect(user)
    names = ("session_ends_at", "session_renew_at", "session_ends_soon_at")
    names += ("last_validated", "failing_since", "failing_told_at")
    stored = {name: timezone.now() + timedelta(days=n) for n, name in enumerate(names)}
    GarminAuthenticationState.objects.update(**stored)

    row = read_session(user)

    read = {**vars(row), **vars(row.life)}
    assert {name: read[name] for name in names} == stored


@pytest.mark.django_db(transaction=True)
def test_open_call_close_costs_one_select_and_one_update(user, connect, django_assert_num_queries):
    connect(user)

    with django_assert_num_queries(2) as queries, garmin_client(user) as client:
        client.connectapi(PROFILE)

    assert [query["sql"].split()[0] for query in queries.captured_queries] == ["SELECT", "UPDATE"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("every", "updates"), [(3600, 1), (0, 6)])
def test_a_long_block_notes_success_now_and_then_and_at_its_end(
    user, connect, django_assert_num_queries, monkeypatch, every, updates
):
    connect(user)
    monkeypatch.setattr("garmin_auth.sessions.NOTE_EVERY", every)

    with django_assert_num_queries(1 + updates) as queries, garmin_client(user) as client:
        for _ in range(5):
            client.connectapi(PROFILE)

    statements = [query["sql"].split()[0] for query in queries.captured_queries]
    assert statements == ["SELECT", *["UPDATE"] * updates]
    assert state_of(user).last_validated is not None


@pytest.mark.django_db(transaction=True)
def test_what_a_long_block_has_noted_is_not_noted_again_at_its_end(user, connect, monkeypatch):
    clock = Clock()
    began = clock.now
    monkeypatch.setattr("garmin_auth.sessions.time", clock)
    connect(user)
    noted = []
    with garmin_client(user) as client:
        for seconds in (0, NOTE_EVERY - 0.1, NOTE_EVERY):
            clock.now = began + seconds
            client.connectapi(PROFILE)
            noted.append(state_of(user).last_validated)
    assert noted[:2] == [None, None]
    assert noted[2] == state_of(user).last_validated is not None


def test_the_keys_are_derived_once(user, connect, monkeypatch):
    connect(user)
    with garmin_client(user):
        pass

    def derive(*arguments):
        pytest.fail("A key is derived anew.")

    monkeypatch.setattr("fernet_fields.hkdf.derive_fernet_key", derive)
    with garmin_client(user) as client:
        client.connectapi(PROFILE)


def test_a_long_block_refreshes_more_than_once(user, connect, garmin, monkeypatch):
    monkeypatch.setattr("garmin_auth.sessions.REFRESH_EVERY", 0)
    before = connect(user).session_version

    with garmin_client(user) as client:
        for _ in range(3):
            garmin.expire_access_tokens(EMAIL)
            assert client.connectapi(PROFILE)["userName"] == EMAIL

        assert state_of(user).session_version == before + 3

        garmin.revoke(EMAIL)
        with pytest.raises(SessionExpired):
            client.connectapi(PROFILE)

    assert garmin.counts["exchange"] == 4
    assert state_of(user).session_data is None


def test_a_session_whose_keys_were_rotated_meanwhile_is_refreshed(user, connect, garmin):
    row = connect(user)

    with garmin_client(user) as client:
        data = row.session_data.decrypt()
        states = GarminAuthenticationState.objects
        assert states.replace_session(row.pk, row.session_version, data)
        garmin.expire_access_tokens(EMAIL)
        assert client.connectapi(PROFILE)["userName"] == EMAIL

    assert state_of(user).session_version == row.session_version + 2
    assert garmin.counts["exchange"] == 1


@pytest.mark.django_db(transaction=True)
def test_what_garmin_issued_restores_a_session_that_was_cleared_meanwhile(user, connect, hold):
    """Its holder slept for longer than its lease, and who took over was refused twice."""
    before, ends_at, used = connect(user, access_expired=True), timezone.now() + YEAR, []
    states = GarminAuthenticationState.objects
    states.update(session_ends_at=ends_at)
    held = hold("exchange")

    def use():
        with garmin_client(user) as client:
            used.append(client.connectapi(PROFILE)["userName"])
        connections.close_all()

    thread = threading.Thread(target=use)
    thread.start()
    held.wait()
    assert states.end_session(before.pk, before.session_version, EndedReason.EXPIRED)
    held.release()
    thread.join()

    after = state_of(user)
    assert used == [after.account_name.decrypt()] == [EMAIL]
    assert after.connected_at == before.connected_at
    assert (after.session_ends_at, after.session_version) == (ends_at, before.session_version + 2)
    assert (after.ended_reason, after.status) == ("", Status.ACTIVE)
    assert after.last_validated is not None


def test_an_expired_access_token_is_refreshed_and_stored_at_once(user, connect, garmin):
    connect(user, access_expired=True)
    before = raw_row(user)["session_data"]

    with garmin_client(user) as client:
        client.connectapi(PROFILE)
        assert raw_row(user)["session_data"] != before

    assert garmin.counts["exchange"] == 1
    with garmin_client(user) as client:
        client.connectapi(PROFILE)
    assert garmin.counts["exchange"] == 1


@pytest.mark.parametrize("whose", ["nobody's", "another user's"])
def test_tokens_given_to_the_client_are_neither_stored_nor_used(user, connect, garmin, whose):
    def stored_oauth1():
        return json.loads(base64.b64decode(state_of(user).session_data.decrypt()))[0]

    connect(user)
    before = stored_oauth1()
    garmin.add_account("ben@example.com", PASSWORD)
    theirs = get_engine("garth").open(garmin.issue_session("ben@example.com"), None).client
    oauth1, oauth2 = theirs.oauth1_token, theirs.oauth2_token

    with garmin_client(user) as client:
        client.oauth1_token = None if whose == "nobody's" else oauth1
        client.oauth2_token = None if whose == "nobody's" else oauth2
        client.connectapi(PROFILE)  # With no access token, it refreshes.
    assert stored_oauth1() == before

    garmin.expire_access_tokens(EMAIL)
    with garmin_client(user) as client:
        client.oauth1_token = None if whose == "nobody's" else oauth1
        client.connectapi(PROFILE)  # It refreshes.
    with garmin_client(user) as client:
        assert client.connectapi(PROFILE)["userName"] == EMAIL


def test_a_refused_access_token_is_refreshed_and_the_call_repeated(user, connect, garmin):
    connect(user)
    garmin.expire_access_tokens(EMAIL)

    with garmin_client(user) as client:
        assert client.connectapi(PROFILE)["userName"] == EMAIL

    assert (garmin.counts["exchange"], garmin.counts["api"]) == (1, 2)


def test_an_upload_that_meets_a_refused_token_arrives_whole(user, connect, garmin):
    connect(user)
    garmin.expire_access_tokens(EMAIL)
    file = io.BytesIO(b"a FIT file" * 1000)
    file.name = "run.fit"

    with garmin_client(user) as client:
        client.upload(file)

    assert [upload["size"] for upload in garmin.uploads] == [10_000]


def test_a_dead_session_is_cleared(user, connect, garmin):
    connect(user)
    garmin.revoke(EMAIL)

    with pytest.raises(SessionExpired), garmin_client(user) as client:
        client.connectapi(PROFILE)

    state = state_of(user)
    assert state.status == Status.DISCONNECTED
    assert state.ended_reason == EndedReason.EXPIRED
    assert raw_row(user)["session_data"] is None


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("status", GarminUnavailable),
        ("app_validation", GarminUnavailable),
        ("unauthorized_other", GarminUnavailable),
        ("blocked", GarminUnavailable),
        ("html", GarminUnavailable),
        ("reset", GarminUnavailable),
        ("rate_limited", RateLimited),
    ],
)
def test_a_fault_of_the_exchange_keeps_the_session(user, connect, garmin, fault, error):
    connect(user, access_expired=True)
    before = raw_row(user)["session_data"]
    garmin.fail("exchange", fault, times=None)

    with pytest.raises(error), garmin_client(user) as client:
        client.connectapi(PROFILE)

    assert raw_row(user)["session_data"] == before


def test_a_fresh_token_that_is_refused_quiets_that_session_alone_for_five_minutes(
    user, other_user, connect, garmin
):
    connect(user), connect(other_user, BEN)
    garmin.fail("api", "unauthorized_other", times=None)
    now, asked = time.time(), []

    for seconds in (0, REFRESH_EVERY - 1, REFRESH_EVERY + 1):
        with time_machine.travel(now + seconds):
            for each in (user, other_user):
                with pytest.raises(TokenRefused), garmin_client(each) as client:
                    client.connectapi(PROFILE)
                asked.append(garmin.counts["exchange"])

    assert asked == [1, 2, 2, 2, 3, 4]


def test_a_refresh_that_fails_before_the_block_is_recorded_though_it_makes_no_call(
    user, connect, garmin
):
    connect(user, access_expired=True)
    garmin.fail("exchange", "html")

    with garmin_client(user):
        pass

    row = state_of(user)
    assert (row.failing_since is not None, row.failing_reason) == (True, "unavailable")


def test_the_callers_own_mistake_is_a_request_error(user, connect):
    connect(user)

    with pytest.raises(GarminRequestError) as caught, garmin_client(user) as client:
        client.connectapi("/no-such-service")

    assert caught.value.status == 404
    assert state_of(user).status == Status.ACTIVE


def test_another_process_refresh_is_taken_over(user, other_user, connect, garmin):
    rows = connect(user), connect(other_user, BEN)
    assert len({row.session_version for row in rows}) == 1  # The other's is not to be read.
    garmin.expire_access_tokens(EMAIL)

    with garmin_client(user) as late:
        with garmin_client(user) as early:
            early.connectapi(PROFILE)
        late.connectapi(PROFILE)
        assert garmin.counts["exchange"] == 1

        # To this block, the token that it took over is a fresh one.
        garmin.expire_access_tokens(EMAIL)
        with pytest.raises(TokenRefused):
            late.connectapi(PROFILE)

    assert garmin.counts["exchange"] == 1


def test_a_block_asks_for_no_other_fresh_token_even_without_a_cache(user, connect, garmin):
    connect(user)
    garmin.fail("api", "unauthorized_other", times=None)

    with garmin_client(user) as client:
        for _ in range(2):
            with pytest.raises(TokenRefused):
                client.connectapi(PROFILE)
            cache.clear()

    assert garmin.counts["exchange"] == 1


def test_a_disconnect_during_the_block_stays(user, connect, garmin):
    connect(user)
    garmin.expire_access_tokens(EMAIL)

    with pytest.raises(NotConnected), garmin_client(user) as client:
        disconnect(user)
        client.connectapi(PROFILE)

    assert raw_row(user)["session_data"] is None
    assert garmin.counts["exchange"] == 0


def test_a_block_does_not_go_on_with_a_new_logins_account(user, connect, garmin):
    connect(user)
    garmin.expire_access_tokens(EMAIL)

    with pytest.raises(GarminUnavailable), garmin_client(user) as client:
        connect(user, "other@example.com")
        client.connectapi(PROFILE)

    with garmin_client(user) as client:
        assert client.username == "other@example.com"


def test_an_unreadable_session_is_said_and_kept(user, connect):
    connect(user)
    damage(user)

    with pytest.raises(SessionUnreadable), garmin_client(user):
        pass

    assert bytes(raw_row(user)["session_data"]) == b"x"


def test_a_session_of_an_engine_that_is_not_installed_is_unreadable(user, connect):
    connect(user)
    GarminAuthenticationState.objects.update(engine="another")

    with pytest.raises(SessionUnreadable, match="'another'"), garmin_client(user):
        pass


@pytest.mark.django_db(transaction=True)
def test_no_session_is_opened_inside_a_transaction(user, connect):
    connect(user)

    with (
        pytest.raises(RuntimeError, match="garmin_client"),
        transaction.atomic(),
        garmin_client(user),
    ):
        pass


@pytest.mark.django_db(transaction=True)
def test_no_session_is_opened_without_autocommit(user, connect, garmin):
    """The lease would be a row lock while Garmin is asked, and a rollback would lose the token."""
    connect(user, access_expired=True)

    transaction.set_autocommit(False)
    try:
        with pytest.raises(RuntimeError, match="garmin_client"), garmin_client(user) as client:
            client.connectapi(PROFILE)
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)

    assert sum(garmin.counts.values()) == 0


@pytest.mark.django_db(transaction=True)
def test_refresh_and_death_send_their_signals(user, connect, garmin):
    names = []

    def refreshed(user, engine, **kwargs):
        names.append(("refreshed", user.pk, engine))

    def expired(user, engine, **kwargs):
        names.append(("expired", user.pk, engine))

    signals.session_refreshed.connect(refreshed)
    signals.session_expired.connect(expired)
    try:
        connect(user, access_expired=True)
        with garmin_client(user) as client:
            client.connectapi(PROFILE)
        garmin.revoke(EMAIL)
        with pytest.raises(SessionExpired), garmin_client(user) as client:
            client.connectapi(PROFILE)
    finally:
        signals.session_refreshed.disconnect(refreshed)
        signals.session_expired.disconnect(expired)

    assert names == [("refreshed", user.pk, "garth"), ("expired", user.pk, "garth")]
