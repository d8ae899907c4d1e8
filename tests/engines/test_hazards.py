"""The hazards of garth 0.8.0 in a server with many users, each with its number in garmin-wire.md.

Hazards 2, 3, 9 and 11 are of the environment: see test_environment.py and test_startup.py.
"""

import base64
import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import garth
import pytest
from django.db import connections

from garmin_auth.engines import get_engine
from garmin_auth.engines.base import Challenge, NewSession
from garmin_auth.engines.http import transport
from garmin_auth.exceptions import (
    ChallengeExpired,
    GarminAuthError,
    GarminRequestError,
    GarminUnavailable,
    RateLimited,
    SessionExpired,
    SessionUnreadable,
)
from garmin_auth.login import MFARequired, start_login
from garmin_auth.models import GarminAuthenticationState
from garmin_auth.sessions import garmin_client
from tests.conftest import EMAIL, PASSWORD, raw_row, state_of

PROFILE = "/userprofile-service/socialProfile"
THREADS, CALLS = 8, 1000
SOON = 10  # seconds; the deadlines of these tests are much shorter, and the faults much longer


@pytest.fixture
def engine():
    return get_engine("garth")


@pytest.fixture
def new_process(settings, garmin, tmp_path):
    """As in a process that has just started: no connection is open, no consumer key fetched."""
    bundle = tmp_path / "ca.pem"
    shutil.copy(garmin.ca_bundle, bundle)
    settings.GARMIN_AUTH_CA_BUNDLE = str(bundle)


@pytest.fixture
def busy_interpreter():
    """Threads change places at every chance, as between the processes of a loaded machine."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual)


def in_threads(work, count=THREADS):
    """Run ``work(number)`` in as many threads, all starting at once."""
    barrier = threading.Barrier(count)

    def start(number):
        try:
            barrier.wait()
            return work(number)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(start, range(count)))


def summary_path(account):
    name = account["display_name"]
    return f"/usersummary-service/usersummary/daily/{name}?calendarDate=2026-02-03"


def never_renewed():
    raise AssertionError("nothing here is to be refreshed")


def tokens_of(session_data):
    oauth1, oauth2 = json.loads(base64.b64decode(session_data))
    secret = ("oauth_token", "oauth_token_secret", "mfa_token", "access_token", "refresh_token")
    return [value for key, value in {**oauth1, **oauth2}.items() if key in secret and value]


def blob(value):
    return base64.b64encode(json.dumps(value).encode()).decode()


# 1: the headers of one user on the request of another


@pytest.mark.django_db(transaction=True)
def test_no_call_carries_the_bearer_of_another_user(
    garmin, django_user_model, connect, busy_interpreter
):
    users, paths = [], []
    for number in range(THREADS):
        email = f"user{number}@example.com"
        paths.append(summary_path(garmin.add_account(email, PASSWORD)))
        users.append(django_user_model.objects.create_user(f"user{number}"))
        connect(users[-1], email)

    def sync(number):
        with garmin_client(users[number]) as client:
            for _ in range(CALLS // THREADS):
                client.connectapi(paths[number])

    in_threads(sync)

    assert garmin.counts["api"] == CALLS
    assert garmin.counts["foreign_bearer"] == 0


def test_garths_own_client_mixes_the_bearers_up(garmin, busy_interpreter, monkeypatch):
    """The test of the test above: it would see a foreign bearer.

    How many of the calls are wrong depends on the machine's load, from 1 to 40 %. So it goes on
    until it has seen one.
    """
    for name in [name for name in os.environ if name.upper().endswith(("_PROXY", "_CA_BUNDLE"))]:
        monkeypatch.delenv(name)
    clients, paths = [], []
    for number in range(THREADS):
        account = garmin.add_account(f"user{number}@example.com", PASSWORD)
        client = garth.Client(proxies={"https": garmin.proxy_url}, ssl_verify=garmin.ca_bundle)
        client.loads(garmin.issue_session(account["email"]))
        clients.append(client)
        paths.append(summary_path(account))

    def sync(number):
        for _ in range(CALLS // THREADS):
            with contextlib.suppress(garth.exc.GarthHTTPError):  # Another's path: refused.
                clients[number].connectapi(paths[number])

    for _ in range(10):
        in_threads(sync)
        if garmin.counts["foreign_bearer"]:
            break
    for client in clients:
        client.sess.close()
    garth.Client.request.__defaults__[-1].clear()

    counts = garmin.counts
    print(f"garth's own client: {counts['foreign_bearer'] / counts['api']:.1%} foreign bearers")
    assert counts["foreign_bearer"] > 0


def test_no_bearer_stays_behind_for_a_call_without_one(garmin, engine, account):
    client = engine.open(garmin.issue_session(account), never_renewed).client
    client.connectapi(PROFILE)

    with pytest.raises(GarminRequestError) as caught:
        client.request("GET", "connectapi", PROFILE)

    assert caught.value.status == 401


def test_no_header_stays_behind_for_the_next_call(garmin, engine, account):
    client = engine.open(garmin.issue_session(account), never_renewed).client
    given = {"X-Mine": "1"}

    client.connectapi(PROFILE, headers=given)

    assert given == {"X-Mine": "1"}


def test_garths_own_data_classes_work_with_the_client(garmin, engine, account):
    client = engine.open(garmin.issue_session(account), never_renewed).client

    summary = garth.DailySummary.get("2026-02-03", client=client)

    assert str(summary.calendar_date) == "2026-02-03"


# 4: the consumer key


def test_eight_threads_fetch_the_consumer_once(new_process, garmin, engine, account):
    sessions = [garmin.issue_session(account) for _ in range(THREADS)]
    garmin.set_latency(0.1)

    in_threads(lambda number: engine.refresh(sessions[number]))

    assert garmin.counts["consumer"] == 1
    assert garmin.counts["exchange"] == THREADS


@pytest.mark.parametrize(
    ("fault", "options"),
    [
        ("wrong_json", {"value": {}}),
        ("wrong_json", {"value": {"consumer_key": "a"}}),
        ("wrong_json", {"value": {"consumer_key": 5, "consumer_secret": None}}),
        ("wrong_json", {"value": []}),
        ("html", {}),
        ("status", {"status": 500}),
        ("status", {"status": 403}),
        ("truncated_json", {}),
        ("reset_mid_body", {}),
        ("empty", {}),
        ("redirect", {}),
        ("stall", {}),
        ("trickle", {"interval": 0.1}),
    ],
)
def test_a_bad_consumer_answer_spoils_one_call_only(
    new_process, garmin, engine, account, monkeypatch, fault, options
):
    session = garmin.issue_session(account)
    garmin.fail("consumer", fault, times=None, **options)

    started = time.monotonic()
    with monkeypatch.context() as patch, pytest.raises(GarminUnavailable):
        patch.setattr(transport, "CONSUMER_TIMEOUT", 0.2)
        engine.refresh(session)
    garmin.heal()

    assert time.monotonic() - started < SOON

    assert engine.refresh(session)


def test_a_limited_consumer_file_is_a_rate_limit(new_process, garmin, engine, account):
    garmin.fail("consumer", "rate_limited", retry_after=7)

    with pytest.raises(RateLimited) as caught:
        engine.refresh(garmin.issue_session(account))

    assert caught.value.retry_after == 7


def test_a_consumer_in_the_settings_is_not_fetched(new_process, settings, garmin, engine, account):
    settings.GARMIN_AUTH_OAUTH_CONSUMER = garmin.consumer

    engine.refresh(garmin.issue_session(account))

    assert garmin.counts["consumer"] == 0


# 5: what ends a session, and what does not

NOT_DEAD = [
    ("exchange", "status", {"status": 503}),
    ("exchange", "status", {"status": 500}),
    ("exchange", "status", {"status": 401}),
    ("exchange", "status", {"status": 403, "body": "OAuthToken is invalid"}),
    ("exchange", "status", {"status": 200, "body": "OAuthToken is invalid"}),
    ("exchange", "reset", {}),
    ("exchange", "drop_after", {}),
    ("exchange", "reset_mid_body", {}),
    ("exchange", "html", {}),
    ("exchange", "challenge_page", {}),
    ("exchange", "truncated_json", {}),
    ("exchange", "wrong_json", {}),
    ("exchange", "wrong_json", {"value": {"access_token": "t"}}),
    ("exchange", "wrong_json", {"value": None}),
    ("exchange", "blocked", {}),
    ("exchange", "app_validation", {}),
    ("exchange", "unauthorized_other", {}),
    ("exchange", "empty", {}),
    ("exchange", "no_content", {}),
    ("exchange", "stall", {}),
    ("exchange", "trickle", {"interval": 0.1}),
    ("exchange", "slow_headers", {"interval": 0.1}),
    ("exchange", "redirect", {}),
    ("exchange", "redirect", {"location": "http://connectapi.garmin.com/"}),
    ("exchange", "redirect", {"location": "https://[evil/"}),
    ("connect", "refused", {}),
    ("connect", "reset", {}),
    ("connect", "stall", {}),
    ("connect", "status", {"status": 502}),
    ("connect", "slow_headers", {"interval": 0.1}),
    ("connect", "tls_failure", {}),
]
LIMITED = [
    ("rate_limited", {}),
    ("rate_limited", {"retry_after": 30}),
    ("rate_limited_200", {}),
    ("rate_limited_427", {}),
]


def but_for_the_failure(user):
    """The user's row without the record of what says nothing about the session."""
    names = ("failing_since", "failing_reason", "last_failed_at")
    return {name: value for name, value in raw_row(user).items() if name not in names}


@pytest.mark.parametrize(("step", "fault", "options"), NOT_DEAD)
def test_a_fault_at_refresh_leaves_the_session(
    new_process, garmin, settings, user, connect, monkeypatch, step, fault, options
):
    if fault in ("stall", "trickle", "slow_headers"):
        monkeypatch.setattr("garmin_auth.engines.garth.engine.REFRESH_TIMEOUT", 0.3)
    settings.GARMIN_AUTH_OAUTH_CONSUMER = garmin.consumer  # So that `connect` means the exchange.
    connect(user, access_expired=True)
    before = but_for_the_failure(user)
    garmin.fail(step, fault, times=None, **options)

    with pytest.raises(GarminUnavailable), garmin_client(user) as client:
        client.connectapi(PROFILE)

    assert but_for_the_failure(user) == before


@pytest.mark.parametrize(("fault", "options"), LIMITED)
def test_a_rate_limit_at_refresh_leaves_the_session(garmin, user, connect, fault, options):
    connect(user, access_expired=True)
    before = but_for_the_failure(user)
    garmin.fail("exchange", fault, **options)

    with pytest.raises(RateLimited) as caught, garmin_client(user) as client:
        client.connectapi(PROFILE)

    assert caught.value.retry_after == options.get("retry_after")
    assert but_for_the_failure(user) == before


def test_a_session_goes_on_after_a_fault(garmin, user, connect):
    connect(user, access_expired=True)
    garmin.fail("exchange", "status", status=503)
    with pytest.raises(GarminUnavailable), garmin_client(user) as client:
        client.connectapi(PROFILE)

    with garmin_client(user) as client:
        assert client.connectapi(PROFILE)["userName"] == EMAIL


def test_a_bug_of_ours_leaves_the_session(garmin, user, connect, monkeypatch):
    def bug(*args, **kwargs):
        raise KeyError("a bug")

    monkeypatch.setattr("garth.sso.exchange", bug)
    connect(user, access_expired=True)
    before = but_for_the_failure(user)

    with pytest.raises(GarminUnavailable), garmin_client(user) as client:
        client.connectapi(PROFILE)

    assert but_for_the_failure(user) == before


def test_garmins_words_for_a_dead_session_clear_it(garmin, user, connect):
    connect(user, access_expired=True)
    garmin.fail("exchange", "dead")

    with pytest.raises(SessionExpired), garmin_client(user) as client:
        client.connectapi(PROFILE)

    assert raw_row(user)["session_data"] is None
    assert state_of(user).ended_reason == "expired"


def test_a_revoked_session_is_cleared(garmin, user, connect):
    connect(user)
    garmin.revoke(EMAIL)

    with pytest.raises(SessionExpired), garmin_client(user) as client:
        client.connectapi(PROFILE)

    assert raw_row(user)["session_data"] is None


def test_dead_words_in_an_answer_that_does_not_end_prove_nothing(
    garmin, user, connect, monkeypatch
):
    monkeypatch.setattr("garmin_auth.engines.garth.engine.REFRESH_TIMEOUT", 0.3)
    connect(user, access_expired=True)
    before = but_for_the_failure(user)
    body = "15\r\nOAuthToken is invalid\r\n"  # One chunk, and the last is missing.
    headers = {"Transfer-Encoding": "chunked"}
    garmin.fail("exchange", "status", status=401, body=body, headers=headers)

    with pytest.raises(GarminUnavailable), garmin_client(user) as client:
        client.connectapi(PROFILE)

    assert but_for_the_failure(user) == before


def test_an_api_401_is_refreshed_and_repeated(garmin, user, connect):
    connect(user)
    garmin.expire_access_tokens(EMAIL)

    with garmin_client(user) as client:
        profile = client.connectapi(PROFILE)

    assert profile["userName"] == EMAIL
    assert (garmin.counts["exchange"], garmin.counts["api"]) == (1, 2)


def test_an_api_401_is_repeated_only_once(garmin, user, connect):
    connect(user)
    before = GarminAuthenticationState.objects.get(user=user).session_version
    garmin.fail("api", "token_inactive", times=None)

    with pytest.raises(GarminAuthError), garmin_client(user) as client:
        client.connectapi(PROFILE)

    assert (garmin.counts["exchange"], garmin.counts["api"]) == (1, 2)
    assert state_of(user).session_version == before + 1


def test_the_repetition_uploads_the_whole_file(garmin, user, connect):
    content = bytes(range(256)) * 400
    file = io.BytesIO(content)
    file.name = "/somewhere/run.fit"
    connect(user)
    garmin.expire_access_tokens(EMAIL)

    with garmin_client(user) as client:
        client.upload(file)

    assert garmin.counts["exchange"] == 1
    assert [upload["sha256"] for upload in garmin.uploads] == [hashlib.sha256(content).hexdigest()]


def test_the_repetition_uploads_from_where_the_file_stood(garmin, user, connect):
    file = io.BytesIO(b"header" + b"x" * 5000)
    file.name = "run.fit"
    file.seek(6)
    connect(user)
    garmin.expire_access_tokens(EMAIL)

    with garmin_client(user) as client:
        client.upload(file)

    assert [upload["size"] for upload in garmin.uploads] == [5000]


@pytest.mark.parametrize("make", [list, tuple], ids=["list", "tuple"])
def test_the_repetition_rewinds_every_form_of_files(garmin, user, connect, make):
    content = b"y" * 3000
    files = make([("file", ("run.fit", io.BytesIO(content), "application/octet-stream"))])
    connect(user)
    garmin.expire_access_tokens(EMAIL)

    with garmin_client(user) as client:
        client.connectapi("/upload-service/upload", method="POST", files=files)

    assert [upload["size"] for upload in garmin.uploads] == [3000]


def test_a_body_that_can_be_read_only_once_is_not_sent_in_part(garmin, user, connect):
    connect(user)
    garmin.expire_access_tokens(EMAIL)

    with pytest.raises(GarminUnavailable), garmin_client(user) as client:
        client.connectapi("/upload-service/upload", method="POST", data=iter([b"a", b"b"]))

    assert garmin.counts["api"] == 1


# 6: a pending login as plain data


@pytest.fixture
def challenge(garmin, engine, mfa_account):
    return engine.login(mfa_account, PASSWORD)


def test_a_challenge_survives_json(challenge):
    assert json.loads(json.dumps(challenge.state)) == challenge.state


def test_a_challenge_holds_no_password(challenge):
    assert PASSWORD not in json.dumps(challenge.state)


def test_a_challenge_is_small(challenge):
    assert len(json.dumps(challenge.state)) < 3000


def test_a_challenge_says_where_the_code_went(challenge):
    assert challenge.sent_to == "an*****@example.com"


def test_a_code_sent_by_phone_says_so(garmin, engine):
    garmin.add_account(EMAIL, PASSWORD, mfa=True, mfa_method="phone")

    challenge = engine.login(EMAIL, PASSWORD)

    assert challenge.sent_to == "*****42"
    assert isinstance(engine.submit_code(challenge.state, garmin.mfa_code(EMAIL)), NewSession)


@pytest.mark.parametrize(
    ("name", "domain", "domain_specified"),
    [
        ("SESSION", "sso.garmin.com", False),
        ("__VCAP_ID__", "sso.garmin.com", False),
        ("__cflb", "sso.garmin.com", False),
        ("__cf_bm", ".garmin.com", True),
        ("_cfuvid", ".garmin.com", True),
    ],
)
def test_a_challenge_keeps_each_cookie_with_its_flags(challenge, name, domain, domain_specified):
    [cookie] = [c for c in challenge.state["cookies"] if c["name"] == name]

    assert cookie["domain"] == domain
    assert cookie["domain_specified"] is domain_specified
    assert (cookie["path"], cookie["path_specified"]) == ("/", True)
    assert (cookie["secure"], cookie["http_only"]) == (True, True)
    assert (cookie["expires"] is not None) == (name == "__cf_bm")


def test_cookies_keep_their_flags_over_a_wrong_code(garmin, engine, challenge):
    again = engine.submit_code(json.loads(json.dumps(challenge.state)), "wrong")

    flags = [
        {(c["name"], *(v for k, v in c.items() if k != "value")) for c in state["cookies"]}
        for state in (challenge.state, again.state)
    ]
    assert flags[0] == flags[1]


def test_a_right_code_is_accepted_after_a_wrong_one(garmin, engine, challenge):
    again = engine.submit_code(json.loads(json.dumps(challenge.state)), "wrong")

    result = engine.submit_code(json.loads(json.dumps(again.state)), garmin.mfa_code(EMAIL))

    assert isinstance(again, Challenge)
    assert isinstance(result, NewSession)


@pytest.mark.django_db(transaction=True)
def test_a_code_is_accepted_in_another_process(garmin, user, mfa_account, run_python):
    assert isinstance(start_login(user, mfa_account, PASSWORD), MFARequired)

    output = run_python(
        "import sys\n"
        "from django.contrib.auth import get_user_model\n"
        "from garmin_auth.login import submit_mfa\n"
        "user = get_user_model().objects.get(pk=sys.argv[1])\n"
        "print(submit_mfa(user, sys.argv[2]))",
        user.pk,
        garmin.mfa_code(mfa_account),
    )

    assert output == "Connected()"
    with garmin_client(user) as client:
        assert client.connectapi(PROFILE)["userName"] == EMAIL


@pytest.mark.parametrize(
    ("fault", "options"),
    [
        ("status", {"status": 503}),
        ("status", {"status": 404}),
        ("rate_limited", {}),
        ("reset", {}),
        ("reset_mid_body", {}),
        ("stall", {}),
        ("trickle", {"interval": 0.1}),
        ("redirect", {}),
        ("redirect", {"location": "https://[evil/"}),
    ],
)
def test_a_fault_at_embed_does_not_spend_the_code(
    garmin, engine, challenge, monkeypatch, fault, options
):
    monkeypatch.setattr("garmin_auth.engines.garth.login.EMBED_TIMEOUT", 0.2)
    garmin.fail("embed", fault, times=None, **options)

    started = time.monotonic()
    result = engine.submit_code(challenge.state, garmin.mfa_code(EMAIL))

    assert isinstance(result, NewSession)
    assert time.monotonic() - started < SOON


@pytest.mark.parametrize(
    ("step", "fault"),
    [
        ("preauthorized", "status"),
        ("preauthorized", "reset"),
        ("preauthorized", "blocked"),
        ("exchange", "status"),
        ("exchange", "reset"),
        ("exchange", "blocked"),
        ("exchange", "truncated_json"),
        ("exchange", "drop_after"),
    ],
)
def test_one_fault_after_the_code_is_asked_again(
    garmin, engine, challenge, monkeypatch, step, fault
):
    monkeypatch.setattr("garmin_auth.engines.garth.login.COMPLETION_PAUSES", (0.01, 0.01))
    garmin.fail(step, fault)

    result = engine.submit_code(challenge.state, garmin.mfa_code(EMAIL))

    assert isinstance(result, NewSession)


@pytest.mark.parametrize("step", ["preauthorized", "exchange"])
@pytest.mark.parametrize("fault", ["status", "rate_limited", "reset", "unauthorized_other"])
def test_a_code_that_was_accepted_in_vain_is_spent(
    garmin, engine, challenge, monkeypatch, step, fault
):
    monkeypatch.setattr("garmin_auth.engines.garth.login.COMPLETION_PAUSES", (0.01, 0.01))
    garmin.fail(step, fault, times=None)

    with pytest.raises(ChallengeExpired) as caught:
        engine.submit_code(challenge.state, garmin.mfa_code(EMAIL))

    assert caught.value.reason == "spent"


@pytest.mark.parametrize(
    "change",
    [
        {"engine": "other"},
        {"domain": "garmin.cn"},
        {"domain": None},
        {"cookies": None},
        {"cookies": 5},
        {"cookies": ["a"]},
        {"cookies": [{}]},
        {"cookies": [{"name": "SESSION"}]},
        {"login_params": None},
        {"login_params": "x"},
    ],
)
def test_a_challenge_of_another_form_is_unreadable(engine, challenge, change):
    with pytest.raises(SessionUnreadable):
        engine.submit_code({**challenge.state, **change}, "123456")


@pytest.mark.parametrize("key", ["engine", "domain", "cookies", "login_params", "mfa_method"])
def test_a_challenge_that_lacks_something_is_unreadable(engine, challenge, key):
    state = {name: value for name, value in challenge.state.items() if name != key}

    with pytest.raises(SessionUnreadable):
        engine.submit_code(state, "123456")


# 7: what an exception tells

ENTRIES = ("login", "submit_code", "refresh", "open", "connectapi", "request", "fetch_account_name")
FOREIGN = ("garth.", "requests.", "requests_oauthlib.", "oauthlib.", "urllib3.", "http.")


def assert_tells_nothing(error, *secrets):
    """No secret in the exception, nor in what an error reporter prints of it."""
    assert isinstance(error, GarminAuthError)
    assert error.__cause__ is None
    assert error.__context__ is None
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [f"{frame.f_globals['__name__']}." for frame in frames]
    assert not [name for name in modules if name.startswith(FOREIGN)]
    # The entry point itself was called with the secrets, as was whoever called it.
    entry = max(
        number
        for number, frame in enumerate(frames)
        if modules[number].startswith("garmin_auth.engines.garth.")
        and frame.f_code.co_name in ENTRIES
    )
    told = [repr(error), str(error), repr(error.args), repr(vars(error)), str(error.user_message)]
    told += [repr(value) for frame in frames[entry + 1 :] for value in frame.f_locals.values()]
    told.append(pickle.dumps(error).decode("latin-1"))
    for secret in secrets:
        assert not [text for text in told if secret in text]


FAULTS = [
    ("status", {}),
    ("rate_limited", {}),
    ("rate_limited_200", {}),
    ("blocked", {}),
    ("unauthorized_other", {}),
    ("html", {}),
    ("wrong_json", {}),
    ("empty", {}),
    ("truncated_json", {}),
    ("reset", {}),
    ("reset_mid_body", {}),
    ("stall", {}),
    ("redirect", {}),
    ("redirect", {"location": "https://[evil/"}),
    ("redirect", {"location": "http://connectapi.garmin.com/"}),
]


@pytest.mark.parametrize(("fault", "options"), FAULTS)
@pytest.mark.parametrize("step", ["login", "exchange"])
def test_a_failed_login_tells_nothing(garmin, engine, account, settings, step, fault, options):
    settings.GARMIN_AUTH_TIMEOUT = 0.2
    garmin.fail(step, fault, times=None, **options)

    with pytest.raises(GarminAuthError) as caught:
        engine.login(account, PASSWORD)

    assert_tells_nothing(caught.value, account, PASSWORD)


@pytest.mark.parametrize(
    ("fault", "options"),
    [("captcha", {}), ("locked", {}), ("disabled", {}), ("unknown_type", {"message": PASSWORD})],
)
def test_a_refused_login_tells_nothing(garmin, engine, account, fault, options):
    garmin.fail("login", fault, **options)

    with pytest.raises(GarminAuthError) as caught:
        engine.login(account, PASSWORD)

    assert_tells_nothing(caught.value, account, PASSWORD)


def test_a_wrong_password_tells_nothing(garmin, engine, account):
    with pytest.raises(GarminAuthError) as caught:
        engine.login(account, "hunter2 hunter2")

    assert_tells_nothing(caught.value, account, "hunter2 hunter2")


@pytest.mark.parametrize(("fault", "options"), FAULTS)
@pytest.mark.parametrize("step", ["verify_code", "preauthorized"])
def test_a_failed_code_tells_nothing(
    garmin, engine, challenge, settings, monkeypatch, step, fault, options
):
    settings.GARMIN_AUTH_TIMEOUT = 0.2
    monkeypatch.setattr("garmin_auth.engines.garth.login.COMPLETION_PAUSES", ())
    garmin.fail(step, fault, times=None, **options)
    code = garmin.mfa_code(EMAIL)
    cookies = [cookie["value"] for cookie in challenge.state["cookies"]]

    with pytest.raises(GarminAuthError) as caught:
        engine.submit_code(challenge.state, code)

    assert_tells_nothing(caught.value, EMAIL, code, *cookies)


@pytest.mark.parametrize(("fault", "options"), [*FAULTS, ("dead", {})])
def test_a_failed_refresh_tells_nothing(garmin, engine, account, monkeypatch, fault, options):
    monkeypatch.setattr("garmin_auth.engines.garth.engine.REFRESH_TIMEOUT", 0.3)
    garmin.fail("exchange", fault, times=None, **options)
    session = garmin.issue_session(account)

    with pytest.raises(GarminAuthError) as caught:
        engine.refresh(session)

    assert_tells_nothing(caught.value, account, session, *tokens_of(session))


@pytest.mark.parametrize(
    ("fault", "options"), [case for case in FAULTS if case[0] not in ("empty", "wrong_json")]
)
def test_a_failed_call_tells_nothing(garmin, engine, account, settings, fault, options):
    settings.GARMIN_AUTH_TIMEOUT = 0.2
    garmin.fail("api", fault, times=None, **options)
    session = garmin.issue_session(account)
    opened = engine.open(session, lambda: session)

    with pytest.raises(GarminAuthError) as caught:
        opened.client.connectapi(PROFILE)

    assert_tells_nothing(caught.value, account, session, *tokens_of(session))


def test_a_failed_refresh_within_a_call_tells_nothing(garmin, engine, account):
    session = garmin.issue_session(account, access_expired=True)
    client = engine.open(session, lambda: engine.refresh(session)).client
    garmin.fail("exchange", "dead")

    with pytest.raises(SessionExpired) as caught:
        client.connectapi(PROFILE)

    assert_tells_nothing(caught.value, account, session, *tokens_of(session))


def test_what_leaves_garmin_client_has_nothing_chained(garmin, user, connect):
    connect(user, access_expired=True)
    garmin.fail("exchange", "reset")

    with pytest.raises(GarminUnavailable) as caught, garmin_client(user) as client:
        client.connectapi(PROFILE)

    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_a_session_does_not_show_its_secrets(garmin, engine, account):
    result = engine.login(account, PASSWORD)

    assert not [secret for secret in tokens_of(result.session_data) if secret in repr(result)]
    assert account not in repr(result)


def test_a_challenge_does_not_show_its_secrets(challenge):
    assert not [c["value"] for c in challenge.state["cookies"] if c["value"] in repr(challenge)]
    assert EMAIL not in repr(challenge)


# 8: stored sessions that are none

SECRET = "a-secret-of-somebody"
OAUTH1 = {"oauth_token": SECRET, "oauth_token_secret": "s", "domain": "garmin.com"}
OAUTH2 = {
    "scope": "CONNECT_READ",
    "jti": "j",
    "token_type": "bearer",
    "access_token": SECRET,
    "refresh_token": SECRET,
    "expires_in": 3600,
    "expires_at": 4_000_000_000,
    "refresh_token_expires_in": 3600,
    "refresh_token_expires_at": 4_000_000_000,
}


def without(token, key):
    return {name: value for name, value in token.items() if name != key}


MALFORMED = {
    "empty": "",
    "no base64": f"{SECRET}!",
    "base64 with newlines": blob([OAUTH1, OAUTH2])[:40] + "\n" + blob([OAUTH1, OAUTH2])[40:],
    "not ascii": "é" + SECRET,
    "cut off": blob([OAUTH1, OAUTH2])[:-8],
    "no json": base64.b64encode(SECRET.encode()).decode(),
    "no text": base64.b64encode(b"\xff\xfe\x00\x01\x02").decode(),
    "null": blob(None),
    "a number": blob(5),
    "a string": blob(SECRET),
    "two letters": blob("ab"),
    "an object": blob({"a": OAUTH1, "b": OAUTH2}),
    "an empty list": blob([]),
    "one token": blob([OAUTH1]),
    "three tokens": blob([OAUTH1, OAUTH2, OAUTH2]),
    "nulls": blob([None, None]),
    "numbers": blob([1, 2]),
    "strings": blob([SECRET, SECRET]),
    "lists": blob([[SECRET], [SECRET]]),
    "empty objects": blob([{}, {}]),
    "swapped": blob([OAUTH2, OAUTH1]),
    "unknown key": blob([{**OAUTH1, SECRET: 1}, {**OAUTH2, "access_token": None}]),
    "deep nesting": base64.b64encode(b"[" * 100_000).decode(),
    "deep token": blob([{**OAUTH1, "oauth_token": [[[[SECRET]]]]}, OAUTH2]),
    "NaN": blob([OAUTH1, {**OAUTH2, "expires_at": float("nan")}]),
    "infinity": blob([OAUTH1, {**OAUTH2, "expires_at": float("inf")}]),
    "a very long number": base64.b64encode(b"[" + b"9" * 10_000 + b", 1]").decode(),
    "surrogate": blob([{**OAUTH1, "oauth_token": "\ud800"}, OAUTH2]),
    "no token": blob([without(OAUTH1, "oauth_token"), OAUTH2]),
    "no token secret": blob([without(OAUTH1, "oauth_token_secret"), OAUTH2]),
    "no access token": blob([OAUTH1, without(OAUTH2, "access_token")]),
    "no expiry": blob([OAUTH1, without(OAUTH2, "expires_at")]),
    "null token": blob([{**OAUTH1, "oauth_token": None}, OAUTH2]),
    "numeric access token": blob([OAUTH1, {**OAUTH2, "access_token": 5}]),
    "empty access token": blob([OAUTH1, {**OAUTH2, "access_token": ""}]),
    "expiry in words": blob([OAUTH1, {**OAUTH2, "expires_at": SECRET}]),
    "token with newline": blob([OAUTH1, {**OAUTH2, "access_token": f"{SECRET}\r\nX-Evil: 1"}]),
    "token type with newline": blob([OAUTH1, {**OAUTH2, "token_type": "bearer\nX-Evil: 1"}]),
    "oauth1 token with newline": blob([{**OAUTH1, "oauth_token": f"{SECRET}\n"}, OAUTH2]),
    "token not ascii": blob([OAUTH1, {**OAUTH2, "access_token": "é" + SECRET}]),
    "domain garmin.cn": blob([{**OAUTH1, "domain": "garmin.cn"}, OAUTH2]),
    "domain evil.example": blob([{**OAUTH1, "domain": "evil.example"}, OAUTH2]),
    "domain with path": blob([{**OAUTH1, "domain": "garmin.com/x"}, OAUTH2]),
    "domain with user": blob([{**OAUTH1, "domain": "garmin.com@evil.example"}, OAUTH2]),
    "empty domain": blob([{**OAUTH1, "domain": ""}, OAUTH2]),
    "numeric domain": blob([{**OAUTH1, "domain": 5}, OAUTH2]),
}


def test_the_malformed_sessions_differ_from_a_good_one(engine):
    assert engine.open(blob([OAUTH1, OAUTH2]), never_renewed).client.domain == "garmin.com"


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_data_cannot_be_opened(engine, case):
    with pytest.raises(SessionUnreadable) as caught:
        engine.open(MALFORMED[case], never_renewed)

    assert_tells_nothing(caught.value, SECRET)


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_data_is_not_sent_to_be_refreshed(garmin, engine, case):
    with pytest.raises(SessionUnreadable) as caught:
        engine.refresh(MALFORMED[case])

    assert_tells_nothing(caught.value, SECRET)
    assert garmin.log == []


def test_malformed_data_is_kept(garmin, user, connect):
    state = connect(user)
    GarminAuthenticationState.objects.filter(pk=state.pk).update(session_data="damaged")
    before = raw_row(user)

    with pytest.raises(SessionUnreadable), garmin_client(user):
        pass

    assert raw_row(user) == before


def test_a_session_without_a_domain_goes_to_ours(garmin, engine, account):
    oauth1, oauth2 = json.loads(base64.b64decode(garmin.issue_session(account)))
    session = engine.open(blob([{**oauth1, "domain": None}, oauth2]), never_renewed)

    assert engine.fetch_account_name(session) == EMAIL
    assert garmin.log[-1]["host"] == "connectapi.garmin.com"


# 12: what many clients leave behind


def test_clients_add_no_hooks(garmin, engine, account):
    sessions = [engine.open(garmin.issue_session(account), never_renewed) for _ in range(300)]

    assert {len(session.client.sess.hooks["response"]) for session in sessions} == {0}


def test_refreshes_leave_no_hooks(garmin, engine, account):
    session = garmin.issue_session(account)
    for _ in range(3):
        session = engine.refresh(session)

    assert engine.open(session, never_renewed).client.sess.hooks["response"] == []


def test_clients_share_no_cookies(garmin, engine, account):
    clients = [engine.open(garmin.issue_session(account), never_renewed).client for _ in "ab"]

    clients[0].sess.cookies.set("SESSION", "mine")

    assert not clients[1].sess.cookies
