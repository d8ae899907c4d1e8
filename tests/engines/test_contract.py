"""What a block's client does is the same with each engine: built-in, or a site's own."""

import json
import logging
import pickle
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest

from garmin_auth.exceptions import (
    GarminAuthError,
    GarminRequestError,
    GarminUnavailable,
    RateLimited,
)
from garmin_auth.health import Outcome, check_session
from garmin_auth.models import GarminAuthenticationState
from garmin_auth.sessions import garmin_client
from garmin_auth.testing.garmin import steps
from tests.conftest import (
    EMAIL,
    PASSWORD,
    REFRESH,
    needs_garminconnect,
    needs_personal,
    raw_row,
    state_of,
)

pytestmark = pytest.mark.django_db(transaction=True)
states = GarminAuthenticationState.objects
# What a check asks, and data of one day with the parameter that names the day.
PROFILE = "/userprofile-service/socialProfile"
PROFILES = {"personal": "/userprofile-service/userprofile/settings"}
SUMMARY = "/usersummary-service/usersummary/daily", "calendarDate"
SUMMARIES = {"personal": ("/wellness-service/wellness/dailyHeartRate", "date")}
HOSTS = {"personal": "personal.connectapi.garmin.com"}
STEPS = {**REFRESH, "third": "di_refresh"}
ACTIVITY = "/activity-service/activity/7"
UPLOAD = "/upload-service/upload"
DAY = "2026-11-22"
JSON_TYPE, TEXT_TYPE = {"Content-Type": "application/json"}, {"Content-Type": "text/plain"}


WRITING = ["garth", pytest.param("garminconnect", marks=needs_garminconnect), "third"]
can_write = pytest.mark.parametrize("engine", WRITING, indirect=True)


@pytest.fixture(params=[*WRITING, pytest.param("personal", marks=needs_personal)])
def engine(request, settings):
    settings.GARMIN_AUTH_ENGINES = {"third": "tests.engines.third_engine.ThirdEngine"}
    return request.param


@pytest.fixture
def profile(engine):
    return PROFILES.get(engine, PROFILE)


@pytest.fixture
def summary(engine):
    return SUMMARIES.get(engine, SUMMARY)


@pytest.fixture
def step(engine):
    """How the engine asks for a fresh access token."""
    return STEPS[engine]


@pytest.fixture
def unusable(engine, garmin, step):
    """Let Garmin answer the next request for an access token with one that cannot be used."""

    def unusable(token, times=1):
        if engine == "personal":  # It answers with the token alone.
            body = token if isinstance(token, str) else json.dumps(token)
            garmin.fail(step, "status", times, status=200, body=body, headers=TEXT_TYPE)
        else:
            garmin.fail(step, "changed_json", times, changes={"access_token": token})

    return unusable


@pytest.fixture
def connect(engine, user, garmin):
    def connect(**options):
        garmin.add_account(EMAIL, PASSWORD)
        data = issue(garmin, engine, **options)
        states.connect(
            user.pk, engine=engine, session_data=data, account_name=EMAIL, validated_at=None
        )
        return data

    return connect


def issue(garmin, engine, **options):
    if engine != "third":
        return garmin.issue_session(EMAIL, engine=engine, **options)
    tokens = json.loads(garmin.issue_session(EMAIL, engine="garminconnect", **options))
    return json.dumps(
        {"access_token": tokens["di_token"], "refresh_token": tokens["di_refresh_token"]}
    )


@pytest.fixture
def client(connect, user):
    connect()
    with garmin_client(user) as client:
        yield client


@pytest.fixture
def asked(monkeypatch):
    """What Garmin's API was asked, request by request."""
    asked, answer = [], steps.answer

    def note(step, request, *arguments):
        if step == "api":
            asked.append(request)
        return answer(step, request, *arguments)

    monkeypatch.setattr(steps, "answer", note)
    return asked


def use(user):
    """Ask what a check asks, and return whose answer it is."""
    with garmin_client(user) as client:
        path = PROFILES.get(state_of(user).engine, PROFILE)
        return client.connectapi(path)["displayName"]


def stored(user):
    return states.values_list("session_data", flat=True).get(user_id=user.pk).decrypt()


def refreshes(garmin):
    return sum(garmin.counts[step] for step in set(STEPS.values()))


# A path, a method, a body


@pytest.mark.parametrize(
    ("form", "make_params"),
    [
        ("{path}?{day}={DAY}", lambda day: None),
        ("{path}", lambda day: {day: DAY}),
        ("{path}", lambda day: [(day, DAY)]),
        ("{path}?{day}={DAY}", lambda day: {"locale": "en"}),
        ("{relative}", lambda day: {day: DAY}),
        ("https://{host}{path}", lambda day: {day: DAY}),
    ],
)
def test_a_query_stands_in_the_path_or_in_params(client, asked, engine, summary, form, make_params):
    (path, day), host = summary, HOSTS.get(engine, "connectapi.garmin.com")
    where = form.format(path=path, day=day, DAY=DAY, relative=path.lstrip("/"), host=host)
    params = make_params(day)

    assert client.connectapi(where, params=params)["calendarDate"] == DAY
    assert set(asked[0].query) == {day, *(["locale"] if "locale" in str(params) else [])}


@can_write
def test_a_method_is_sent(client, asked):
    assert client.connectapi(ACTIVITY, method="DELETE") is None
    assert asked[0].method == "DELETE"


@can_write
def test_json_is_sent(client, garmin, asked, monkeypatch):
    with pytest.raises(GarminRequestError):  # The simulator has no workouts.
        client.connectapi("/workout-service/workout", method="POST", json={"name": "hills"})

    assert (asked[0].method, asked[0].json) == ("POST", {"name": "hills"})


@can_write
def test_a_file_is_sent(client, garmin, tmp_path):
    (tmp_path / "run.fit").write_bytes(b"a run")
    with (tmp_path / "run.fit").open("rb") as file:
        answer = client.connectapi(UPLOAD, method="POST", files={"file": ("run.fit", file)})

    assert answer["detailedImportResult"]["fileSize"] == 5
    assert garmin.uploads[0]["size"] == 5


def test_a_header_is_sent_and_the_bearer_stays_ours(client, asked, profile):
    client.connectapi(profile, headers={"X-Site": "ours", "Authorization": "Bearer somebody"})

    assert asked[0].headers["x-site"] == "ours"


@pytest.mark.parametrize("status", [200, 201, 202, 204])
@pytest.mark.parametrize("kind", ["application/json", "text/html", ""])
def test_an_empty_answer_is_none(client, garmin, engine, status, kind):
    headers = {"Content-Type": kind} if status != 204 else {}
    garmin.fail("api", "status", status=status, body="", headers=headers)

    options = {} if engine == "personal" else {"method": "PUT", "json": {}}
    assert client.connectapi(PROFILE, **options) is None


@pytest.mark.parametrize("value", [None, [], 0, "text", {}])
def test_json_of_any_form_is_the_callers(client, garmin, value):
    garmin.fail("api", "wrong_json", value=value)

    assert client.connectapi(PROFILE) == value


def test_a_page_in_place_of_json_is_unavailable(client, garmin):
    garmin.fail("api", "html")

    with pytest.raises(GarminUnavailable):
        client.connectapi(PROFILE)


@pytest.mark.parametrize(
    "location", ["https://[", "https://a b/", "http://connectapi.garmin.com/x", "https://evil/"]
)
def test_a_malformed_redirect_is_unavailable(client, garmin, location):
    garmin.fail("api", "redirect", location=location)

    with pytest.raises(GarminUnavailable):
        client.connectapi(PROFILE)


def test_redirects_without_end_are_unavailable(client, garmin):
    garmin.fail("api", "redirect", times=None, location=PROFILE)

    with pytest.raises(GarminUnavailable):
        client.connectapi(PROFILE)


# The caller's own mistakes


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        (PROFILE, {"json": float("nan")}),
        (PROFILE, {"json": {"a": [float("inf")]}}),
        (PROFILE, {"headers": {"X-Site": "one\ntwo"}}),
        (PROFILE, {"headers": {"X Site\r\n": "one"}}),
        (PROFILE, {"headers": {"X-Site": 1}}),
        ("https://[", {}),
    ],
)
def test_what_cannot_be_sent_is_the_callers_value_error(client, garmin, path, arguments):
    with pytest.raises(ValueError, match=r"\w") as caught:
        client.connectapi(path, **arguments)

    assert type(caught.value) is ValueError
    assert garmin.counts["api"] == 0


@pytest.mark.parametrize(
    "arguments", [{"json": object()}, {"no_such_argument": 1}, {"params": 1}, {"path": 1}]
)
def test_an_argument_of_a_wrong_kind_is_the_callers_type_error(client, garmin, arguments):
    with pytest.raises(TypeError):
        client.connectapi(**{"path": PROFILE, **arguments})

    assert garmin.counts["api"] == 0


def test_a_mistake_of_the_caller_shows_no_bearer(client, asked, profile):
    client.connectapi(profile)

    with pytest.raises(ValueError, match="nan") as caught:
        client.connectapi(PROFILE, json=float("nan"))

    ours = traceback.walk_tb(caught.value.__traceback__.tb_next)
    report = "".join(traceback.StackSummary.extract(ours, capture_locals=True).format())
    assert "connectapi" in report
    assert asked[0].headers["authorization"][:60] not in report


# Garmin's reason


@can_write
@pytest.mark.parametrize(
    ("status", "reason"),
    [(412, "User has not consented to uploads."), (409, "Duplicate Activity.")],
)
def test_garmins_reason_is_told(client, garmin, status, reason):
    body = json.dumps({"detailedImportResult": {"failures": [{"messages": [reason]}]}})
    garmin.fail("api", "status", status=status, body=body, headers=JSON_TYPE)

    with pytest.raises(GarminRequestError) as caught:
        client.connectapi(UPLOAD, method="POST", files={"file": ("run.fit", b"a run")})

    assert (caught.value.status, caught.value.body) == (status, body)
    assert reason in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.status, again.body, str(again)) == (status, body, str(caught.value))


def test_a_long_reason_is_shortened(client, garmin):
    garmin.fail("api", "status", status=400, body="a reason " * 100_000, headers=JSON_TYPE)

    with pytest.raises(GarminRequestError) as caught:
        client.connectapi(PROFILE)

    assert 400 < len(caught.value.body) <= 500


def test_no_reason_is_an_empty_one(client, garmin):
    garmin.fail("api", "status", status=400, body="", headers=JSON_TYPE)

    with pytest.raises(GarminRequestError) as caught:
        client.connectapi(PROFILE)

    assert caught.value.body == ""


def test_a_reason_repeats_no_secret(client, garmin, asked, user, profile):
    client.connectapi(profile)
    bearer = asked[0].headers["authorization"].split()[1]
    said = f"Refused {bearer}, {bearer[:40]} of {EMAIL} with ST-0123456-0a1b2c3d-sso, as said."
    garmin.fail("api", "status", status=403, body=said, headers=JSON_TYPE)

    with pytest.raises(GarminRequestError) as caught:
        client.connectapi(PROFILE)

    text = str(caught.value) + caught.value.body + str(vars(caught.value))
    assert not any(secret in text for secret in (bearer, bearer[:40], EMAIL, "ST-0123456"))
    assert caught.value.body.startswith("Refused [redacted]")
    assert caught.value.body.endswith("as said.")


# A refused access token


def test_a_refused_token_is_renewed_and_the_call_repeated_once(client, garmin, profile):
    garmin.expire_access_tokens()

    assert client.connectapi(profile)["displayName"]
    assert (refreshes(garmin), garmin.counts["api"]) == (1, 2)


def test_a_401_right_after_a_refresh_is_unavailable_and_asks_for_no_other(connect, user, garmin):
    connect()
    garmin.fail("api", "token_inactive", times=None)

    for _ in range(2):
        with garmin_client(user) as client:
            for _ in range(3):
                with pytest.raises(GarminUnavailable):
                    client.connectapi(PROFILE)

    assert refreshes(garmin) == 1
    assert raw_row(user)["session_data"] is not None


@can_write
def test_a_body_that_is_read_once_is_not_sent_empty(client, garmin, asked):
    garmin.expire_access_tokens()

    def send():
        return client.connectapi(UPLOAD, method="POST", data=(part for part in (b"a", b"run")))

    with pytest.raises(GarminUnavailable, match="only once"):
        send()

    assert len(asked) == 1
    assert refreshes(garmin) == 1
    with pytest.raises(GarminRequestError):  # Now it arrives, and is no file.
        send()


@can_write
def test_a_file_is_read_again_from_where_it_stood(client, garmin, tmp_path):
    garmin.expire_access_tokens()
    (tmp_path / "run.fit").write_bytes(b"left outa run")
    with (tmp_path / "run.fit").open("rb") as file:
        file.seek(8)
        client.connectapi(UPLOAD, method="POST", files={"file": ("run.fit", file)})

    assert garmin.uploads[-1]["size"] == 5


def test_threads_of_a_block_share_a_refresh(client, garmin, profile):
    garmin.expire_access_tokens()
    start = threading.Barrier(6)

    def call(_):
        start.wait()
        return client.connectapi(profile)["displayName"]

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(call, range(6)))) == 1
    assert refreshes(garmin) == 1


def test_after_hears_of_a_call_once_and_of_its_end(engine, garmin, connect, profile):
    from garmin_auth.engines import get_engine

    heard, data = [], connect()
    fresh = issue(garmin, engine)
    client = get_engine(engine).open(data, lambda: fresh, after=heard.append).client
    garmin.fail("api", "token_inactive")

    client.connectapi(profile)

    assert heard == [None]


# A profile without a name


@pytest.mark.parametrize("value", [{"userName": None}, {"userName": 7}, {}, [], None, "text", 5])
def test_a_profile_without_a_name_proves_that_the_session_works(connect, user, garmin, value):
    connect()
    garmin.fail("api", "wrong_json", value=value)

    assert check_session(user).outcome == Outcome.ACTIVE
    assert state_of(user).account_name.decrypt() == EMAIL


# An access token that cannot be used

UNUSABLE = ["", None, 5, [], "a\nb", "a\tb", "Ā"]


@pytest.mark.parametrize("token", UNUSABLE)
def test_a_refresh_with_an_unusable_token_loses_nothing(connect, user, garmin, unusable, token):
    connect(access_expired=True)
    unusable(token)

    with pytest.raises(GarminUnavailable):
        use(user)

    assert use(user)
    assert refreshes(garmin) == 2


@pytest.mark.parametrize("token", UNUSABLE)
def test_a_refresh_of_a_refused_token_loses_nothing(connect, user, garmin, unusable, token):
    """The former access token says that it is good, but Garmin has refused it."""
    connect()
    garmin.expire_access_tokens()
    unusable(token)

    with pytest.raises(GarminUnavailable):
        use(user)

    assert use(user)


@pytest.mark.parametrize("token", UNUSABLE)
def test_an_unusable_token_is_no_proof_of_anything(connect, user, unusable, token):
    connect(access_expired=True)
    unusable(token, times=None)

    assert [check_session(user).outcome for _ in range(3)] == [Outcome.UNKNOWN] * 3


# What is raised


@pytest.mark.parametrize(
    ("fault", "options", "error"),
    [
        ("status", {"status": 500}, GarminUnavailable),
        ("status", {"status": 404}, GarminRequestError),
        ("rate_limited", {"retry_after": 5}, RateLimited),
        ("rate_limited_200", {}, RateLimited),
        ("blocked", {}, GarminUnavailable),
        ("reset", {}, GarminUnavailable),
        ("reset_mid_body", {}, GarminUnavailable),
        ("truncated_json", {}, GarminUnavailable),
    ],
)
def test_what_fails_raises_ours(client, garmin, caplog, profile, fault, options, error):
    caplog.set_level(logging.DEBUG)
    garmin.fail("api", fault, times=None, **options)

    with pytest.raises(GarminAuthError) as caught:
        client.connectapi(profile)

    assert type(caught.value) is error
    assert caught.value.__cause__ is caught.value.__context__ is None
