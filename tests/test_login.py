import inspect
import json
import threading
from datetime import datetime, timedelta

import pytest
from asgiref.sync import async_to_sync
from django.core.cache.backends.locmem import LocMemCache
from django.core.exceptions import ImproperlyConfigured
from django.db import IntegrityError, connection, connections, transaction
from django.dispatch import Signal
from django.utils import timezone

from garmin_auth import signals
from garmin_auth.accounts import account_of
from garmin_auth.engines.base import Challenge
from garmin_auth.exceptions import (
    ChallengeExpired,
    GarminUnavailable,
    InvalidCredentials,
    InvalidMFACode,
    KeyRefused,
    LoginThrottled,
    NotConnected,
    TooManyAttempts,
)
from garmin_auth.limits import throttle
from garmin_auth.limits.turns import turn
from garmin_auth.login import (
    Connected,
    MFARequired,
    aconnect_with_key,
    adisconnect,
    astart_login,
    asubmit_mfa,
    begin_login,
    cancel_mfa,
    connect_with_key,
    disconnect,
    import_session,
    pending_login,
    start_login,
    submit_mfa,
)
from garmin_auth.logins import attending
from garmin_auth.logins.pending import load, wrong_code
from garmin_auth.logins.records import to_record
from garmin_auth.models import EndedReason, GarminAuthenticationState, Status
from tests.conftest import EMAIL, PASSWORD, raw_row, state_of
from tests.waiting import wait_for_logins

pytestmark = pytest.mark.every_database
WRONG = "000000"
THIRD = {"third": "tests.engines.third_engine.ThirdEngine"}


def submit_wrong(user, error=InvalidMFACode):
    try:
        submit_mfa(user, WRONG)
    except error:
        pass
    finally:
        connections.close_all()


def awaited(function):
    """An async function as a synchronous caller has it, and any other as it is."""
    return async_to_sync(function) if inspect.iscoroutinefunction(function) else function


@pytest.fixture
def pending(user, mfa_account):
    return start_login(user, mfa_account, PASSWORD)


@pytest.fixture
def received():
    """The signals that were sent, in order, as (name, arguments)."""
    calls = []
    receivers = []
    for name, signal in vars(signals).items():
        if not isinstance(signal, Signal):
            continue

        def receiver(sender, signal, name=name, **kwargs):
            calls.append((name, {"sender": sender, **kwargs}))

        receivers.append((signal, receiver))
        signal.connect(receiver)
    yield calls
    for signal, receiver in receivers:
        signal.disconnect(receiver)


def test_a_password_is_enough_without_mfa(user, account):
    assert start_login(user, account, PASSWORD) == Connected()
    assert state_of(user).status == Status.ACTIVE


def test_the_login_itself_shows_that_the_session_works(user, account):
    start_login(user, account, PASSWORD)

    assert state_of(user).last_validated is not None


def test_the_garmin_user_name_is_kept(user, account):
    start_login(user, account, PASSWORD)

    assert account_of(user).name == EMAIL


def test_a_fault_of_the_profile_does_not_undo_the_login(user, account, garmin):
    garmin.fail("api", "status", status=503, times=None)

    assert start_login(user, account, PASSWORD) == Connected()
    assert state_of(user).last_validated is None
    assert account_of(user).name == EMAIL


def test_a_wrong_password_is_refused_and_stores_nothing(user, account):
    with pytest.raises(InvalidCredentials):
        start_login(user, account, "wrong")

    assert state_of(user) is None


def test_mfa_is_asked_for_where_garmin_wants_it(user, pending):
    assert "*" in pending.sent_to
    assert pending.expires_at > timezone.now()
    assert state_of(user).status == Status.MFA_PENDING


def test_the_right_code_connects(user, pending, garmin):
    assert submit_mfa(user, garmin.mfa_code(EMAIL)) == Connected()
    assert state_of(user).status == Status.ACTIVE


def test_the_pending_login_is_json_without_the_password(user, pending):
    stored = state_of(user).mfa_challenge.decrypt()

    assert PASSWORD not in stored
    assert json.loads(stored)["engine"] == "garth"


def test_the_pending_login_is_encrypted(user, pending):
    challenge = bytes(raw_row(user)["mfa_challenge"])

    assert challenge.startswith(b"gAAAA")


def test_a_wrong_code_keeps_the_login_and_says_what_is_left(user, pending, garmin):
    with pytest.raises(InvalidMFACode) as caught:
        submit_mfa(user, WRONG)

    assert caught.value.attempts_left == 4
    assert submit_mfa(user, garmin.mfa_code(EMAIL)) == Connected()


def test_an_attempt_that_garmin_does_not_answer_is_given_back(user, pending, garmin):
    garmin.fail("verify_code", "reset", times=None)

    with pytest.raises(GarminUnavailable):
        submit_mfa(user, WRONG)

    assert state_of(user).mfa_attempts == 0


@pytest.mark.django_db(transaction=True)
def test_the_attempt_is_counted_before_garmin_is_asked(user, pending, hold):
    held = hold("verify_code")
    waiting = threading.Thread(target=submit_wrong, args=(user,))
    waiting.start()
    held.wait()

    assert state_of(user).mfa_attempts == 1

    held.release()
    waiting.join()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("attempts", [1, 5])
def test_the_end_of_a_login_is_not_the_end_of_the_next(
    user, pending, garmin, hold, settings, attempts
):
    settings.GARMIN_AUTH_MFA_MAX_ATTEMPTS = attempts
    if attempts > 1:
        garmin.expire_mfa(EMAIL)
    held = hold("verify_code")
    waiting = threading.Thread(target=submit_wrong, args=(user, ChallengeExpired))
    waiting.start()
    held.wait()
    start_login(user, EMAIL, PASSWORD)
    held.release()
    waiting.join()

    assert pending_login(user).attempts_left == attempts


def test_no_attempt_is_left_where_the_site_allows_fewer_meanwhile(user, pending, settings):
    for _ in range(2):
        with pytest.raises(InvalidMFACode):
            submit_mfa(user, WRONG)
    settings.GARMIN_AUTH_MFA_MAX_ATTEMPTS = 1
    assert pending_login(user).attempts_left == 0


def test_no_time_is_left_of_a_login_that_has_expired():
    assert MFARequired("", timezone.now() - timedelta(hours=1)).seconds_left == 0


@pytest.mark.parametrize(
    ("problem", "update", "reason"),
    [
        ("none", 1, "gone"),
        ("none", 2, "gone"),
        ("expired", 1, "expired"),
        ("no attempts left", 2, "gone"),
        ("unusable tokens", 2, "spent"),
    ],
)
def test_a_login_that_begins_before_an_update_for_this_one_stays(
    user, mfa_account, garmin, settings, problem, update, reason
):
    settings.GARMIN_AUTH_ENGINES = THIRD
    start_login(user, EMAIL, PASSWORD, "third" if problem == "unusable tokens" else "garth")
    if problem == "expired":
        settings.GARMIN_AUTH_MFA_TTL = 0.001
    elif problem == "no attempts left":
        GarminAuthenticationState.objects.update(mfa_attempts=5)
    garmin.fail("di_exchange", "changed_json", changes={"access_token": ""})
    code, updates = garmin.mfa_code(EMAIL), []

    def begin_another(execute, sql, *rest):
        if sql.startswith("UPDATE"):
            updates.append(sql)
            if len(updates) == update:
                start_login(user, EMAIL, PASSWORD)
        return execute(sql, *rest)

    with connection.execute_wrapper(begin_another), pytest.raises(ChallengeExpired) as caught:
        submit_mfa(user, code)

    assert len(updates) > update
    assert caught.value.reason == reason
    assert pending_login(user).attempts_left == 5


def test_a_fault_keeps_the_login(user, pending, garmin):
    code = garmin.mfa_code(EMAIL)
    garmin.fail("verify_code", "status", status=503)
    with pytest.raises(GarminUnavailable):
        submit_mfa(user, code)

    assert submit_mfa(user, code) == Connected()


def test_the_last_attempt_ends_the_login(user, pending, settings):
    settings.GARMIN_AUTH_MFA_MAX_ATTEMPTS = 2
    with pytest.raises(InvalidMFACode):
        submit_mfa(user, WRONG)

    with pytest.raises(TooManyAttempts):
        submit_mfa(user, WRONG)

    assert state_of(user).status == Status.DISCONNECTED


def test_garmin_is_not_asked_beyond_the_limit(user, pending, garmin, settings):
    settings.GARMIN_AUTH_MFA_MAX_ATTEMPTS = 1
    GarminAuthenticationState.objects.update(mfa_attempts=1)

    with pytest.raises(TooManyAttempts):
        submit_mfa(user, garmin.mfa_code(EMAIL))

    assert garmin.counts["verify_code"] == 0


def test_an_expired_login_is_over(user, pending, garmin, settings):
    settings.GARMIN_AUTH_MFA_TTL = 0.001

    with pytest.raises(ChallengeExpired) as caught:
        submit_mfa(user, garmin.mfa_code(EMAIL))

    assert caught.value.reason == "expired"
    assert garmin.counts["verify_code"] == 0
    assert pending_login(user) is None


def test_a_code_that_garmin_calls_expired_ends_the_login(user, pending, garmin):
    code = garmin.mfa_code(EMAIL)
    garmin.expire_mfa(EMAIL)

    with pytest.raises(ChallengeExpired) as caught:
        submit_mfa(user, code)

    assert caught.value.reason == "expired"
    assert pending_login(user) is None


@pytest.mark.parametrize(
    ("engine", "step", "fault"),
    [
        ("garth", "exchange", {"fault": "status", "status": 503}),
        ("third", "di_exchange", {"fault": "changed_json", "changes": {"access_token": ""}}),
    ],
)
def test_an_accepted_code_that_garmin_does_not_finish_is_spent(
    user, mfa_account, garmin, settings, engine, step, fault
):
    settings.GARMIN_AUTH_ENGINES = THIRD
    start_login(user, EMAIL, PASSWORD, engine)
    garmin.fail(step, times=None, **fault)

    with pytest.raises(ChallengeExpired) as caught:
        submit_mfa(user, garmin.mfa_code(EMAIL))

    assert caught.value.reason == "spent"
    assert "Garmin " in str(caught.value)
    assert pending_login(user) is None


class CacheThatGoesAway(LocMemCache):
    """A cache like a Redis that is not there any more once Garmin has issued tokens."""

    garmin = None

    def validate_key(self, key):
        if self.garmin.counts["exchange"]:
            raise ConnectionError("The cache is away.")
        super().validate_key(key)


@pytest.mark.parametrize("mfa", [False, True])
def test_a_cache_that_is_away_does_not_cost_the_session(user, garmin, settings, monkeypatch, mfa):
    garmin.add_account(EMAIL, PASSWORD, mfa=mfa)
    monkeypatch.setattr(CacheThatGoesAway, "garmin", garmin)
    path = f"{__name__}.{CacheThatGoesAway.__name__}"
    settings.CACHES = {"default": {"BACKEND": path, "LOCATION": f"goes away {mfa}"}}

    start_login(user, EMAIL, PASSWORD)
    if mfa:
        submit_mfa(user, garmin.mfa_code(EMAIL))

    assert account_of(user).connected


def test_a_code_works_once(user, pending, garmin):
    code = garmin.mfa_code(EMAIL)
    submit_mfa(user, code)

    with pytest.raises(ChallengeExpired) as caught:
        submit_mfa(user, code)

    assert caught.value.reason == "gone"


def test_a_cancelled_login_takes_no_code(user, pending, garmin):
    assert cancel_mfa(user)

    with pytest.raises(ChallengeExpired):
        submit_mfa(user, garmin.mfa_code(EMAIL))


def test_another_process_reads_the_pending_login(user, mfa_account):
    required = start_login(user, EMAIL, PASSWORD)
    found = pending_login(user)

    assert found == required
    assert found.sent_to
    assert (found.engine, found.domain) == (required.engine, required.domain)
    assert (found.engine, found.domain) == ("garth", "garmin.com")


def test_what_a_wrong_code_changes_is_stored(user, pending):
    stored = load(user)
    changed = stored.changed_by(Challenge("new state", sent_to="a***@example.com"))
    record = json.loads(changed.decrypt())
    assert (record["state"], record["sent_to"]) == ("new state", "a***@example.com")
    unchanged = json.loads(stored.changed_by(Challenge("new state", "")).decrypt())
    assert unchanged["sent_to"] == stored.record["sent_to"]

    cancel_mfa(user)
    assert wrong_code(user, stored.pk, stored.started_at).reason == "gone"


def test_cancelling_nothing_says_so(user):
    assert not cancel_mfa(user)


def test_a_second_login_replaces_the_pending_one(user, pending, garmin):
    first_code = garmin.mfa_code(EMAIL)
    start_login(user, EMAIL, PASSWORD)

    if first_code != garmin.mfa_code(EMAIL):
        with pytest.raises(InvalidMFACode):
            submit_mfa(user, first_code)
    assert submit_mfa(user, garmin.mfa_code(EMAIL)) == Connected()


def test_the_working_session_stays_until_the_new_one_is_stored(user, connect, garmin):
    connect(user)
    garmin.add_account("mfa@example.com", PASSWORD, mfa=True)
    before = raw_row(user)["session_data"]

    start_login(user, "mfa@example.com", PASSWORD)
    assert raw_row(user)["session_data"] == before
    with pytest.raises(InvalidMFACode):
        submit_mfa(user, WRONG)
    assert raw_row(user)["session_data"] == before
    submit_mfa(user, garmin.mfa_code("mfa@example.com"))

    assert raw_row(user)["session_data"] != before
    assert account_of(user).name == "mfa@example.com"


@pytest.mark.parametrize("challenge", ["not JSON", "[]", "{}", '{"engine": "garth"}'])
def test_a_damaged_challenge_is_as_good_as_gone(user, pending, challenge):
    GarminAuthenticationState.objects.update(mfa_challenge=challenge)

    with pytest.raises(ChallengeExpired):
        submit_mfa(user, WRONG)
    assert pending_login(user) is None


def test_disconnecting_forgets_session_and_pending_login(user, connect, garmin):
    connect(user)
    garmin.add_account("mfa@example.com", PASSWORD, mfa=True)
    start_login(user, "mfa@example.com", PASSWORD)

    assert disconnect(user)

    row = raw_row(user)
    assert row["session_data"] is row["mfa_challenge"] is row["account_name"] is None


def test_disconnecting_twice_says_so(user, connect):
    connect(user)

    assert disconnect(user)
    assert not disconnect(user)


def test_the_end_says_who_asked_for_it(user, connect):
    connect(user)

    async_to_sync(adisconnect)(user, "staff")

    assert state_of(user).ended_reason == "staff"


@pytest.fixture(params=["failed", "interrupted"])
def noted_failure(request, user):
    """A login outside a request has not succeeded, and the row still says so."""
    states = GarminAuthenticationState.objects
    states.begin_login(user.pk, "a login", 60 if request.param == "failed" else -1)
    if request.param == "failed":
        states.fail_login(user.pk, "a login", to_record(InvalidCredentials()))
    assert account_of(user).login_failure


@pytest.mark.django_db(transaction=True)
def test_a_noted_failure_is_nothing_to_disconnect(user, noted_failure, received):
    assert not disconnect(user)
    assert received == []


def test_a_noted_failure_is_nothing_to_cancel(user, noted_failure):
    assert not cancel_mfa(user)
    assert account_of(user).login_failure is None


def test_disconnecting_clears_a_noted_failure(user, noted_failure):
    disconnect(user)

    assert account_of(user).login_failure is None
    assert state_of(user).ended_reason == EndedReason.NEVER


@pytest.mark.parametrize("end", [disconnect, cancel_mfa])
def test_a_login_under_way_is_something_to_end(user, end):
    GarminAuthenticationState.objects.begin_login(user.pk, "a login", 60)

    assert end(user)
    assert not account_of(user).login_under_way


def test_the_same_password_at_another_service_is_another_background_login(
    user, account, garmin, gate, settings, monkeypatch
):
    monkeypatch.setattr(attending, "TURN_POLL", 0.05)
    settings.GARMIN_AUTH_DOMAIN = ["garmin.cn", "garmin.com"]
    begin_login(user, EMAIL, PASSWORD)
    begin_login(user, EMAIL, PASSWORD, domain="garmin.com")
    gate.set()
    wait_for_logins()

    assert garmin.counts["login"] == 2
    assert account_of(user).domain == "garmin.com"


# What a login may be told besides the password

ADDRESS = {"client_address": "192.0.2.1"}


@pytest.mark.parametrize("log_in", [start_login, begin_login, astart_login])
def test_a_login_takes_all_options_and_needs_none(
    user, other_user, garmin, settings, monkeypatch, log_in
):
    settings.GARMIN_AUTH_ENGINES = {"slow": "tests.slow_engine.SlowGarthEngine"}
    settings.GARMIN_AUTH_ENGINE = "garth"
    settings.GARMIN_AUTH_DOMAIN = ["garmin.com", "garmin.cn"]
    monkeypatch.setattr(throttle, "CLIENT_LIMIT", 1)
    garmin.add_account(EMAIL, PASSWORD, mfa=True, domain="garmin.cn")
    log_in = awaited(log_in)

    for _ in range(2):
        required = log_in(
            user, EMAIL, PASSWORD, "slow", "garmin.cn", idempotency_key="a form", **ADDRESS
        )
    assert (required.engine, required.domain) == ("slow", "garmin.cn")
    assert garmin.counts["login"] == 1
    with pytest.raises(LoginThrottled):
        log_in(other_user, EMAIL, PASSWORD, **ADDRESS)

    for _ in range(2):
        with pytest.raises(InvalidCredentials):
            log_in(user, EMAIL, "wrong")
    assert garmin.counts["login"] == 3


@pytest.mark.parametrize("connect", [connect_with_key, aconnect_with_key])
def test_a_key_takes_all_options_and_needs_none(
    user, other_user, garmin, settings, monkeypatch, connect
):
    settings.GARMIN_AUTH_ENGINES = {"third-key": "tests.engines.third_key_engine.ThirdKeyEngine"}
    settings.GARMIN_AUTH_ENGINE = ["garth", "third-key"]
    settings.GARMIN_AUTH_DOMAIN = ["garmin.com", "garmin.cn"]
    monkeypatch.setattr(throttle, "CLIENT_LIMIT", 1)
    garmin.add_account(EMAIL, PASSWORD, domain="garmin.cn")
    key, connect = garmin.add_key(EMAIL), awaited(connect)

    with pytest.raises(ValueError, match="aware"):
        connect(user, key, datetime(2027, 1, 1))
    for _ in range(2):
        connect(user, key, None, "third-key", "garmin.cn", idempotency_key="a form", **ADDRESS)
    assert account_of(user).domain == "garmin.cn"
    assert garmin.counts["personal_token"] == 1
    with pytest.raises(KeyRefused):
        connect(user, key, None, "third-key", "garmin.com", idempotency_key="a form")
    with pytest.raises(ImproperlyConfigured, match="takes no key"):
        connect(user, key, engine="garth")
    with pytest.raises(LoginThrottled):
        connect(other_user, key, **ADDRESS)

    for _ in range(2):
        with pytest.raises(KeyRefused):
            connect(user, "a-key-that-was-never-made")
    assert garmin.counts["personal_token"] == 4


@pytest.mark.parametrize("submit", [submit_mfa, asubmit_mfa])
def test_a_code_of_the_same_form_is_one_attempt(user, pending, submit):
    for form, left in (({"idempotency_key": "a form"}, [4, 4]), ({}, [3, 2])):
        for attempts_left in left:
            with pytest.raises(InvalidMFACode) as caught:
                awaited(submit)(user, WRONG, **form)
            assert caught.value.attempts_left == attempts_left


def test_another_code_waits_even_where_the_site_waits_briefly_for_garmin(user, pending, settings):
    settings.GARMIN_AUTH_TIMEOUT = 1
    GarminAuthenticationState.objects.update(mfa_attempts=5)
    waited = []

    def submit_another(execute, sql, *rest):
        if sql.startswith("UPDATE") and not waited:
            with pytest.raises(GarminUnavailable, match="Another code"), turn("code", user, 0):
                pass
            waited.append(sql)
        return execute(sql, *rest)

    with connection.execute_wrapper(submit_another), pytest.raises(TooManyAttempts):
        submit_mfa(user, WRONG)
    assert waited


@pytest.mark.django_db(transaction=True)
def test_no_function_runs_inside_a_transaction(user, garmin):
    for call, *typed in (
        (begin_login, EMAIL, PASSWORD),
        (start_login, EMAIL, PASSWORD),
        (astart_login, EMAIL, PASSWORD),
        (connect_with_key, "a key"),
        (aconnect_with_key, "a key"),
        (submit_mfa, WRONG),
        (asubmit_mfa, WRONG),
        (cancel_mfa,),
        (disconnect,),
    ):
        message = rf"^{call.__name__}\(\) must not run inside"
        with pytest.raises(RuntimeError, match=message), transaction.atomic():
            awaited(call)(user, *typed)

    assert sum(garmin.counts.values()) == 0


@pytest.mark.django_db(transaction=True)
def test_each_transition_sends_its_signal(user, mfa_account, garmin, received):
    start_login(user, EMAIL, PASSWORD)
    submit_mfa(user, garmin.mfa_code(EMAIL))
    disconnect(user)

    assert [name for name, _ in received] == [
        "mfa_required",
        "session_connected",
        "session_disconnected",
    ]
    assert all(arguments["user"] == user for _, arguments in received)
    assert {arguments["sender"] for _, arguments in received} == {GarminAuthenticationState}
    assert received[-1][1]["reason"] == "user"


@pytest.mark.django_db(transaction=True)
def test_a_receiver_that_raises_does_no_harm(user, account, received, caplog):
    def fail(**kwargs):
        raise ValueError("a broken receiver")

    signals.session_connected.connect(fail)
    try:
        assert start_login(user, EMAIL, PASSWORD) == Connected()
    finally:
        signals.session_connected.disconnect(fail)
    assert "a broken receiver" in caplog.text


def test_signals_wait_for_the_commit(user, account, received, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        start_login(user, EMAIL, PASSWORD)
        assert received == []

    assert [name for name, _ in received] == ["session_connected"]


@pytest.mark.django_db(transaction=True)
def test_the_log_names_the_transition_and_the_user_and_nothing_secret(user, mfa_account, caplog):
    with caplog.at_level("DEBUG", logger="garmin_auth"):
        start_login(user, EMAIL, PASSWORD)

    lines = [record.getMessage() for record in caplog.records if record.name == "garmin_auth"]
    assert lines == [f"mfa_required user={user.pk}"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("mfa", [False, True])
def test_a_user_who_is_deleted_meanwhile_gets_a_login_that_has_ended(user, garmin, mfa):
    garmin.add_account(EMAIL, PASSWORD, mfa=mfa)
    type(user).objects.filter(pk=user.pk).delete()

    with pytest.raises(ChallengeExpired) as caught:
        start_login(user, EMAIL, PASSWORD)
    assert caught.value.reason == "gone"
    assert state_of(user) is None


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("check", [False, True])
def test_a_user_who_is_deleted_meanwhile_gets_no_import(user, garmin, check):
    garmin.add_account(EMAIL, PASSWORD)
    data = garmin.issue_session(EMAIL)
    type(user).objects.filter(pk=user.pk).delete()

    with pytest.raises(NotConnected, match="was deleted"):
        import_session(user, data, check=check)
    assert state_of(user) is None


def test_another_error_of_the_database_is_not_taken_for_a_deleted_user(user, account):
    def refuse(execute, sql, *rest):
        if sql.startswith("INSERT"):
            raise IntegrityError("a constraint of the site's own")
        return execute(sql, *rest)

    with connection.execute_wrapper(refuse), pytest.raises(IntegrityError, match="site's own"):
        start_login(user, EMAIL, PASSWORD)
