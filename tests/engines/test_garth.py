"""The garth engine against the simulator: what comes out of it, call by call."""

import base64
import io
import json
import pickle

import pytest

from garmin_auth import exceptions
from garmin_auth.engines import get_engine
from garmin_auth.engines.base import Challenge, NewSession
from garmin_auth.exceptions import (
    AccountLocked,
    ActionRequired,
    CaptchaRequired,
    ChallengeExpired,
    GarminAuthError,
    GarminRequestError,
    GarminUnavailable,
    InvalidCredentials,
    InvalidKey,
    InvalidMFACode,
    LoginThrottled,
    RateLimited,
    SessionExpired,
    SessionUnreadable,
    TooManyAttempts,
)
from garmin_auth.login import Connected, MFARequired, start_login, submit_mfa
from garmin_auth.sessions import garmin_client
from tests.conftest import EMAIL, PASSWORD

PROFILE = "/userprofile-service/socialProfile"


@pytest.fixture
def engine():
    return get_engine("garth")


@pytest.fixture
def session(garmin, engine, account):
    return engine.open(garmin.issue_session(account), None)


@pytest.fixture
def challenge(engine, mfa_account):
    return engine.login(mfa_account, PASSWORD)


def tokens(session_data):
    return json.loads(base64.b64decode(session_data))


# Login


def test_a_login_gives_a_session_that_has_worked(engine, account):
    result = engine.login(account, PASSWORD)

    assert isinstance(result, NewSession)
    assert (result.account_name, result.validated) == (EMAIL, True)


def test_a_login_goes_through_garmins_steps_in_order(garmin, engine, account):
    engine.login(account, PASSWORD)

    steps = [entry["step"] for entry in garmin.log]
    steps = [step for step in steps if step not in ("connect", "consumer")]
    assert steps == ["sign_in", "login", "embed", "preauthorized", "exchange", "api"]


def test_the_session_of_a_login_opens(engine, account):
    data = engine.login(account, PASSWORD).session_data

    assert engine.fetch_account_name(engine.open(data, None)) == EMAIL


def test_a_login_with_mfa_gives_a_challenge(challenge):
    assert isinstance(challenge, Challenge)


def test_the_session_of_a_code_can_be_refreshed(garmin, engine, challenge):
    new = engine.submit_code(challenge.state, garmin.mfa_code(EMAIL))

    data = engine.refresh(new.session_data)

    assert engine.fetch_account_name(engine.open(data, None)) == EMAIL


def test_a_wrong_code_keeps_the_login_going(garmin, engine, challenge):
    assert isinstance(engine.submit_code(challenge.state, "wrong"), Challenge)


def test_a_wrong_code_still_says_where_the_code_went(engine, challenge):
    assert engine.submit_code(challenge.state, "wrong").sent_to == challenge.sent_to


def test_the_profile_may_fail_at_login(garmin, engine, account):
    garmin.fail("api", "status", status=503)

    result = engine.login(account, PASSWORD)

    assert (result.account_name, result.validated) == (EMAIL, False)


def test_a_wrong_password_is_said_to_be_wrong(engine, account):
    with pytest.raises(InvalidCredentials):
        engine.login(account, "wrong")


ANYWHERE = [
    ("status", {"status": 503}, GarminUnavailable),
    ("status", {"status": 404}, GarminUnavailable),
    ("blocked", {}, GarminUnavailable),
    ("reset_mid_body", {}, GarminUnavailable),
    ("rate_limited", {}, RateLimited),
    ("rate_limited_427", {}, RateLimited),
    ("rate_limited_200", {}, RateLimited),
    ("no_content", {}, GarminUnavailable),
]


@pytest.mark.parametrize(
    ("fault", "options", "expected"),
    [
        *ANYWHERE,
        ("reset", {}, GarminUnavailable),
        ("drop_after", {}, GarminUnavailable),
        ("challenge_page", {}, GarminUnavailable),
        ("html", {}, GarminUnavailable),
        ("wrong_json", {}, GarminUnavailable),
        ("truncated_json", {}, GarminUnavailable),
        ("empty", {}, GarminUnavailable),
        ("unauthorized_other", {}, GarminUnavailable),
        ("unknown_type", {}, ActionRequired),
        ("unknown_type", {"status": 401}, ActionRequired),
        ("unknown_type", {"status": 500}, GarminUnavailable),
        ("unknown_type", {"kind": "SERVICE_UNAVAILABLE"}, GarminUnavailable),
        ("captcha", {}, CaptchaRequired),
        ("locked", {}, AccountLocked),
        ("locked", {"status": 200}, AccountLocked),
        ("disabled", {}, AccountLocked),
    ],
)
def test_faults_of_a_login(garmin, engine, account, fault, options, expected):
    garmin.fail("login", fault, times=None, **options)

    with pytest.raises(GarminAuthError) as caught:
        engine.login(account, PASSWORD)

    assert type(caught.value) is expected


@pytest.mark.parametrize(
    ("fault", "options", "expected"), [case for case in ANYWHERE if case[0] != "no_content"]
)
def test_faults_of_the_sign_in_page(garmin, engine, account, fault, options, expected):
    garmin.fail("sign_in", fault, times=None, **options)

    with pytest.raises(GarminAuthError) as caught:
        engine.login(account, PASSWORD)

    assert type(caught.value) is expected
    assert garmin.counts["login"] == 0


@pytest.mark.parametrize("step", ["preauthorized", "exchange"])
@pytest.mark.parametrize(
    ("fault", "options", "expected"),
    [
        *ANYWHERE,
        ("reset", {}, GarminUnavailable),
        ("html", {}, GarminUnavailable),
        ("wrong_json", {}, GarminUnavailable),
        ("truncated_json", {}, GarminUnavailable),
        ("empty", {}, GarminUnavailable),
        ("app_validation", {}, GarminUnavailable),
        ("status", {"status": 401, "body": "OAuthToken is invalid"}, GarminUnavailable),
    ],
)
def test_faults_of_oauth_at_login(garmin, engine, account, step, fault, options, expected):
    garmin.fail(step, fault, times=None, **options)

    with pytest.raises(GarminAuthError) as caught:
        engine.login(account, PASSWORD)

    assert type(caught.value) is expected


UNUSABLE = [
    {"access_token": ""},
    {"access_token": None},
    {"access_token": "a\nb"},
    {"access_token": "\u0100"},
    {"token_type": ""},
    {"token_type": "bearer\t"},
    {"expires_in": "soon"},
]


@pytest.mark.parametrize("changes", UNUSABLE)
def test_an_unusable_token_at_login_is_a_fault_of_garmins(garmin, engine, account, changes):
    garmin.fail("exchange", "changed_json", changes=changes)

    with pytest.raises(GarminUnavailable):
        engine.login(account, PASSWORD)


@pytest.mark.parametrize("changes", UNUSABLE)
def test_an_unusable_token_after_a_code_is_asked_for_again(garmin, engine, challenge, changes):
    garmin.fail("exchange", "changed_json", changes=changes)

    assert isinstance(engine.submit_code(challenge.state, garmin.mfa_code(EMAIL)), NewSession)


@pytest.mark.parametrize("changes", UNUSABLE)
def test_nothing_but_unusable_tokens_after_a_code_spends_it(garmin, engine, challenge, changes):
    garmin.fail("exchange", "changed_json", times=None, changes=changes)

    with pytest.raises(ChallengeExpired) as caught:
        engine.submit_code(challenge.state, garmin.mfa_code(EMAIL))

    assert caught.value.reason == "spent"


@pytest.mark.parametrize("changes", UNUSABLE)
def test_an_unusable_token_at_a_refresh_is_a_fault_of_garmins(garmin, engine, account, changes):
    garmin.fail("exchange", "changed_json", changes=changes)

    with pytest.raises(GarminUnavailable):
        engine.refresh(garmin.issue_session(account))


@pytest.mark.parametrize(
    ("fault", "options", "expected"),
    [
        *ANYWHERE,
        ("reset", {}, GarminUnavailable),
        ("challenge_page", {}, GarminUnavailable),
        ("truncated_json", {}, GarminUnavailable),
        ("wrong_json", {}, GarminUnavailable),
        ("empty", {}, GarminUnavailable),
        ("unknown_type", {}, ActionRequired),
        ("code_expired", {}, ChallengeExpired),
        ("code_expired", {"status": 200}, ChallengeExpired),
        ("code_max", {}, TooManyAttempts),
        ("locked", {}, AccountLocked),
        ("captcha", {}, CaptchaRequired),
    ],
)
def test_faults_of_a_code(garmin, engine, challenge, fault, options, expected):
    garmin.fail("verify_code", fault, **options)

    with pytest.raises(GarminAuthError) as caught:
        engine.submit_code(challenge.state, garmin.mfa_code(EMAIL))

    assert type(caught.value) is expected


@pytest.mark.parametrize(
    ("fault", "options"),
    [("code_invalid", {}), ("code_invalid", {"status": 200}), ("code_409", {})],
)
def test_what_garmin_calls_a_wrong_code(garmin, engine, challenge, fault, options):
    garmin.fail("verify_code", fault, **options)

    assert isinstance(engine.submit_code(challenge.state, "123456"), Challenge)


def test_a_code_that_was_not_judged_can_be_sent_again(garmin, engine, challenge):
    garmin.fail("verify_code", "status", status=503)
    with pytest.raises(GarminUnavailable):
        engine.submit_code(challenge.state, garmin.mfa_code(EMAIL))

    result = engine.submit_code(challenge.state, garmin.mfa_code(EMAIL))

    assert isinstance(result, NewSession)


def test_a_challenge_without_an_address_says_none(garmin, engine, mfa_account):
    kind = {"responseStatus": {"type": "MFA_REQUIRED"}, "customerMfaInfo": None}
    garmin.fail("login", "wrong_json", value=kind)

    assert engine.login(mfa_account, PASSWORD).sent_to == ""


# Refresh


def test_a_refresh_changes_the_access_token_only(garmin, engine, account):
    before = garmin.issue_session(account)

    after = engine.refresh(before)

    assert tokens(after)[0] == tokens(before)[0]
    assert tokens(after)[1]["access_token"] != tokens(before)[1]["access_token"]


def test_a_refresh_keeps_the_mfa_token(garmin, engine, mfa_account):
    before = garmin.issue_session(mfa_account)

    after = engine.refresh(engine.refresh(before))

    assert tokens(after)[0]["mfa_token"] == tokens(before)[0]["mfa_token"]


def test_a_session_is_written_as_it_was_read(garmin, engine, mfa_account):
    data = garmin.issue_session(mfa_account)

    imported = engine.read_export(data)

    assert engine.read_export(imported) == imported
    assert tokens(imported)[1] == tokens(data)[1]


def test_a_refresh_of_a_revoked_session_says_so(garmin, engine, account):
    data = garmin.issue_session(account)
    garmin.revoke(account)

    with pytest.raises(SessionExpired):
        engine.refresh(data)


# Use


def test_opening_asks_garmin_nothing(garmin, session):
    assert garmin.log == []
    assert not session.worked


def test_a_session_has_worked_after_a_success(session):
    session.client.connectapi(PROFILE)

    assert session.worked


@pytest.mark.parametrize("fault", ["status", "html", "rate_limited_200", "truncated_json"])
def test_a_session_has_not_worked_after_a_failure(garmin, session, fault):
    garmin.fail("api", fault, times=None)

    with pytest.raises(GarminAuthError):
        session.client.connectapi(PROFILE)

    assert not session.worked


@pytest.mark.parametrize(
    ("fault", "options", "expected"),
    [
        ("status", {"status": 500}, GarminUnavailable),
        ("status", {"status": 503}, GarminUnavailable),
        ("status", {"status": 403}, GarminUnavailable),  # HTML: blocked
        ("status", {"status": 404}, GarminRequestError),
        ("status", {"status": 400}, GarminRequestError),
        ("blocked", {}, GarminUnavailable),
        ("challenge_page", {}, GarminUnavailable),
        ("html", {}, GarminUnavailable),
        ("truncated_json", {}, GarminUnavailable),
        ("reset", {}, GarminUnavailable),
        ("reset_mid_body", {}, GarminUnavailable),
        ("rate_limited", {}, RateLimited),
        ("rate_limited_427", {}, RateLimited),
        ("rate_limited_200", {}, RateLimited),
    ],
)
def test_faults_of_an_api_call(garmin, session, fault, options, expected):
    garmin.fail("api", fault, times=None, **options)

    with pytest.raises(GarminAuthError) as caught:
        session.client.connectapi(PROFILE)

    assert type(caught.value) is expected


def test_a_missing_resource_is_the_callers_404(session):
    with pytest.raises(GarminRequestError) as caught:
        session.client.connectapi("/no-such-service/thing")

    assert caught.value.status == 404


def test_an_empty_answer_is_none(session):
    assert session.client.connectapi("/activity-service/activity/5", method="DELETE") is None


def test_a_download_gives_bytes(session):
    content = session.client.download("/download-service/files/activity/5")

    assert len(content) == 2048


def test_an_upload_in_an_unknown_form_is_a_fault(garmin, session):
    garmin.fail("api", "wrong_json", value=[])
    file = io.BytesIO(b"x")
    file.name = "run.fit"

    with pytest.raises(GarminUnavailable):
        session.client.upload(file)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("configure", {"domain": "evil.example"}),
        ("load", {"dir_path": "/tmp"}),
        ("loads", {"dir_path": "x"}),
        ("login", {}),
        ("resume_login", {}),
    ],
)
def test_what_would_undo_the_cures_is_refused(session, method, arguments):
    with pytest.raises(NotImplementedError):
        getattr(session.client, method)(**arguments)


def test_an_explicit_refresh_takes_what_renew_gives(garmin, engine, account):
    data = garmin.issue_session(account)
    fresh = engine.refresh(data)
    client = engine.open(data, lambda: fresh).client

    client.refresh_oauth2()

    assert client.oauth2_token.access_token == tokens(fresh)[1]["access_token"]


def test_an_expired_token_is_not_sent(garmin, engine, account):
    data = garmin.issue_session(account, access_expired=True)
    session = engine.open(data, lambda: engine.refresh(data))

    session.client.connectapi(PROFILE)

    assert (garmin.counts["exchange"], garmin.counts["api"]) == (1, 1)


def test_a_renewal_that_gives_rubbish_is_unreadable(garmin, engine, account):
    data = garmin.issue_session(account, access_expired=True)

    with pytest.raises(SessionUnreadable):
        engine.open(data, lambda: "rubbish").client.connectapi(PROFILE)


# Garmin China


def test_garmin_china_is_used_from_login_to_call(garmin, settings, user):
    garmin.add_account(EMAIL, PASSWORD, mfa=True, domain="garmin.cn")
    settings.GARMIN_AUTH_DOMAIN = "garmin.cn"

    assert isinstance(start_login(user, EMAIL, PASSWORD), MFARequired)
    assert submit_mfa(user, garmin.mfa_code(EMAIL)) == Connected()
    garmin.expire_access_tokens(EMAIL)
    with garmin_client(user) as client:
        assert client.connectapi(PROFILE)["userName"] == EMAIL

    hosts = {entry["host"] for entry in garmin.log} - {"thegarth.s3.amazonaws.com"}
    assert hosts == {"sso.garmin.cn", "connectapi.garmin.cn"}


# The exceptions


EXCEPTIONS = [
    cls("what happened")
    for cls in vars(exceptions).values()
    if isinstance(cls, type)
    and issubclass(cls, GarminAuthError)
    and not issubclass(
        cls, InvalidMFACode | ChallengeExpired | InvalidKey | RateLimited | GarminRequestError
    )
] + [
    InvalidMFACode(3),
    ChallengeExpired("spent", "what happened"),
    InvalidKey("spaces", "what happened"),
    RateLimited(30, "what happened"),
    RateLimited(),
    LoginThrottled(60, "what happened"),
    GarminRequestError(404),
]


@pytest.mark.parametrize("error", EXCEPTIONS, ids=lambda error: type(error).__name__)
def test_exceptions_survive_pickle(error):
    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is type(error)
    assert (vars(copy), copy.args, str(copy)) == (vars(error), error.args, str(error))
    assert copy.user_message == error.user_message


def test_all_exceptions_are_tried():
    kinds = {cls for cls in vars(exceptions).values() if isinstance(cls, type)}
    kinds = {cls for cls in kinds if issubclass(cls, GarminAuthError)}

    assert {type(error) for error in EXCEPTIONS} == kinds
