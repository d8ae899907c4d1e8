"""The engine for Garmin's Personal API: keys, tokens, Garmin's own client, and what it may read."""

import io
import json
import logging
import pickle
import traceback
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.utils import timezone

from garmin_auth.accounts import account_of
from garmin_auth.engines import foreign_variables, get_engine
from garmin_auth.exceptions import (
    Frozen,
    GarminRequestError,
    GarminUnavailable,
    InvalidKey,
    KeyRefused,
    LoginThrottled,
    MassFailure,
    NotAllowed,
    RateLimited,
    SessionExpired,
    SessionUnreadable,
)
from garmin_auth.health import Outcome, check_session, check_sessions
from garmin_auth.login import Connected, connect_with_key, import_session, start_login
from garmin_auth.models import EndedReason
from garmin_auth.sessions import garmin_client
from tests.conftest import EMAIL, PASSWORD, raw_row, state_of

garmin_personal_api = pytest.importorskip(
    "garmin_personal_api", reason="Garmin's client needs Python 3.12 or newer"
)

pytestmark = pytest.mark.django_db(transaction=True)
SETTINGS = "/userprofile-service/userprofile/settings"
BEN = "ben@example.com"
DAY = "2026-11-22"
NO_KEY = "a" * 43


@pytest.fixture
def key(garmin, account):
    return garmin.add_key(EMAIL)


@pytest.fixture
def bens_key(garmin):
    garmin.add_account(BEN, PASSWORD)
    return garmin.add_key(BEN)


@pytest.fixture
def connected(user, key):
    connect_with_key(user, key)
    return user


@pytest.fixture
def client(connected):
    with garmin_client(connected) as client:
        yield client


def no(user):
    return False


def use(user):
    with garmin_client(user) as client:
        return client.connectapi(SETTINGS)["displayName"]


def stored(user):
    return json.loads(state_of(user).session_data.decrypt())


def text_of(error):
    """All that an error reporter shows of an exception, with the variables of the app's frames."""
    frames = traceback.walk_tb(error.__traceback__)
    ours = [(frame, line) for frame, line in frames if "/tests/" not in frame.f_code.co_filename]
    stack = traceback.StackSummary.extract(iter(ours), capture_locals=True)
    return "".join(stack.format()) + repr(error) + str(vars(error)) + repr(pickle.dumps(error))


# To connect


def test_a_key_connects(user, key, garmin):
    ends_at = timezone.now() + timedelta(days=90)

    assert connect_with_key(user, key, ends_at) == Connected()

    account = account_of(user)
    assert (account.connected, account.engine, account.name) == (True, "personal", "")
    assert account.ends_at == ends_at
    assert account.last_validated is not None
    assert use(user)
    assert garmin.counts["personal_token"] == 1


def test_the_end_of_a_key_need_not_be_known(connected):
    assert account_of(connected).ends_at is None


def test_an_end_without_a_time_zone_is_the_callers_mistake(user, key, garmin):
    with pytest.raises(ValueError, match="aware"):
        connect_with_key(user, key, datetime(2027, 1, 1))

    assert garmin.counts["personal_token"] == 0


def test_a_refresh_leaves_the_end_of_the_key_alone(user, key, garmin):
    ends_at = datetime(2027, 5, 1, 12, 30, tzinfo=UTC)
    connect_with_key(user, key, ends_at)
    garmin.expire_access_tokens()

    use(user)

    assert account_of(user).ends_at == ends_at
    assert get_engine("personal").ends_at(json.dumps(stored(user))) == ends_at


def test_a_site_with_another_engine_for_logins_takes_keys_too(user, key, settings):
    settings.GARMIN_AUTH_ENGINE = "garth"

    connect_with_key(user, key)

    assert state_of(user).engine == "personal"


def test_an_engine_with_passwords_takes_no_key(user, key):
    with pytest.raises(ImproperlyConfigured, match="'garth' takes no key"):
        connect_with_key(user, key, engine="garth")


def test_an_engine_with_keys_takes_no_password(user, account, settings):
    settings.GARMIN_AUTH_ENGINE = "personal"

    with pytest.raises(ImproperlyConfigured, match=r"connect_with_key\(\)"):
        start_login(user, EMAIL, PASSWORD)


@pytest.mark.parametrize(
    "form",
    ["{}\n", "  {}\t", "\r\n{}\r\n", "\ufeff{}", "{}\u200b", "\u00a0{}\u2060 "],
)
def test_what_is_copied_along_with_a_key_is_left_out(user, key, form):
    connect_with_key(user, form.format(key))

    assert stored(user)["key"] == key


def test_a_key_that_a_mail_has_wrapped_is_put_together(user, key):
    connect_with_key(user, f"{key[:20]}\r\n  {key[20:]}\n")

    assert stored(user)["key"] == key


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Key: {}", "spaces"),
        ("{} (ends in May)", "spaces"),
        (PASSWORD, "spaces"),
        ("hunter2", "password"),
        ("", "password"),
        (" \n", "password"),
        ("Pa$$word-of-many-characters!", "password"),
        (EMAIL + "." * 20, "password"),
        ("пароль" * 5, "password"),
    ],
)
def test_what_cannot_be_a_key_is_not_sent_to_garmin(user, key, garmin, text, reason):
    with pytest.raises(InvalidKey) as caught:
        connect_with_key(user, text.format(key))

    assert caught.value.reason == reason
    assert garmin.counts["personal_token"] == 0
    shown = text_of(caught.value)
    assert key not in shown
    assert not text.strip() or text not in shown


def test_each_mistake_has_its_own_sentence():
    sentences = {str(InvalidKey("spaces").user_message), str(InvalidKey("password").user_message)}

    assert len(sentences | {str(KeyRefused.user_message)}) == 3


def test_a_key_that_garmin_refuses_stores_nothing(user, garmin):
    with pytest.raises(KeyRefused) as caught:
        connect_with_key(user, NO_KEY)

    assert state_of(user) is None
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert NO_KEY not in text_of(caught.value)


def test_a_working_connection_stays_until_the_new_key_works(connected, key):
    before = raw_row(connected)["session_data"]

    with pytest.raises(KeyRefused):
        connect_with_key(connected, NO_KEY)

    assert raw_row(connected)["session_data"] == before
    assert use(connected)


def test_a_key_is_replaced_by_its_renewal(connected, key, garmin):
    new = garmin.renew_key(key, 180)

    connect_with_key(connected, new)

    assert stored(connected)["key"] == new
    assert use(connected)


UNKNOWN = [
    ("key_refused", {"status": 403}),
    ("blocked", {}),
    ("status", {"status": 401}),  # A page.
    ("status", {"status": 401, "body": "<!doctype html><p>no", "headers": {"Content-Type": "a/b"}}),
    ("status", {"status": 404, "body": "{}"}),
    ("status", {"status": 500}),
    ("challenge_page", {}),
    ("wrong_json", {"value": {"token": "eyJ.eyJ.x"}}),
    ("empty", {}),
    ("no_content", {}),
    ("redirect", {"location": "https://personal.connectapi.garmin.com/x"}),
    ("redirect", {"location": "https://evil.example/"}),
    ("reset", {}),
    ("reset_mid_body", {}),
]


@pytest.mark.parametrize(("fault", "options"), UNKNOWN)
def test_what_does_not_judge_a_key_is_unavailable(user, key, garmin, fault, options):
    garmin.fail("personal_token", fault, times=None, **options)

    with pytest.raises(GarminUnavailable) as caught:
        connect_with_key(user, key)

    assert key not in text_of(caught.value)
    assert state_of(user) is None


@pytest.mark.parametrize(("fault", "options"), UNKNOWN)
def test_what_does_not_judge_a_key_proves_nothing(connected, garmin, fault, options):
    garmin.expire_access_tokens()
    garmin.fail("personal_token", fault, times=None, **options)

    assert check_session(connected).outcome == Outcome.UNKNOWN
    garmin.heal()
    assert use(connected)


def test_a_key_that_works_counts_though_its_first_use_fails(user, key, garmin):
    garmin.fail("api", "status", status=503)

    connect_with_key(user, key)

    assert account_of(user).last_validated is None
    assert use(user)


def test_keys_are_not_tried_without_end(user, garmin):
    for _ in range(5):
        with pytest.raises(KeyRefused):
            connect_with_key(user, NO_KEY)

    with pytest.raises(LoginThrottled):
        connect_with_key(user, NO_KEY)
    assert garmin.counts["personal_token"] == 5


@pytest.mark.parametrize("setting", ["FROZEN", "MAY_CONNECT"])
def test_a_site_that_does_not_let_the_user_connect_sends_no_key(
    user, key, garmin, settings, setting
):
    value, error = (True, Frozen) if setting == "FROZEN" else (f"{__name__}.no", NotAllowed)
    setattr(settings, f"GARMIN_AUTH_{setting}", value)

    with pytest.raises(error):
        connect_with_key(user, key)
    assert garmin.counts["connect"] == 0


def test_no_key_is_sent_inside_a_transaction(user, key, garmin):
    with transaction.atomic(), pytest.raises(RuntimeError, match="connect_with_key"):
        connect_with_key(user, key)
    assert garmin.counts["connect"] == 0


def test_a_key_sent_twice_is_exchanged_once(user, key, garmin):
    for _ in range(2):
        connect_with_key(user, key, idempotency_key="the form's")

    assert garmin.counts["personal_token"] == 1


# How it lives, and how it ends


def test_an_expired_token_is_exchanged_before_the_call(user, connect, garmin):
    connect(user, engine="personal", access_expired=True)
    asked = garmin.counts["personal_token"]

    assert use(user)
    assert garmin.counts["personal_token"] == asked + 1
    assert garmin.counts["api"] == 1


@pytest.mark.parametrize("end", ["delete_key", "renew_key"])
def test_a_key_that_is_gone_ends_the_session(connected, key, garmin, end):
    getattr(garmin, end)(key)

    with pytest.raises(SessionExpired) as caught:
        use(connected)

    assert state_of(connected).ended_reason == EndedReason.EXPIRED
    assert key not in text_of(caught.value)


def test_a_key_past_its_end_ends_the_session(user, garmin, account):
    connect_with_key(user, garmin.add_key(EMAIL, days=2 / 86_400))
    garmin.regions["garmin.com"].keys._keys[stored(user)["key"]].ends_at = 0
    garmin.expire_access_tokens()

    assert check_session(user).outcome == Outcome.EXPIRED


def test_a_token_is_never_valid_for_longer_than_its_key(user, garmin, account):
    connect_with_key(user, garmin.add_key(EMAIL, days=1 / 24))

    assert stored(user)["token_ends_at"] <= timezone.now().timestamp() + 3600


def test_when_garmin_refuses_everybodys_keys_no_session_is_cleared(
    django_user_model, connect, garmin
):
    users = [django_user_model.objects.create_user(f"user{n}") for n in range(3)]
    for user in users:
        connect(user, f"{user.username}@example.com", engine="personal")
    garmin.expire_access_tokens()
    garmin.fail("personal_token", "key_refused", times=None)

    outcomes = []
    for user in users:
        try:
            use(user)
        except (SessionExpired, MassFailure) as exc:
            outcomes.append(type(exc))

    assert outcomes == [SessionExpired, SessionExpired, MassFailure]


# Rate limits are a key's own


@pytest.mark.parametrize("step", ["api", "personal_token"])
def test_a_rate_limit_of_one_key_leaves_the_others_alone(
    connected, other_user, bens_key, garmin, step
):
    connect_with_key(other_user, bens_key)
    garmin.expire_access_tokens()
    garmin.fail(step, "key_rate_limited", times=None, account=EMAIL, retry_after=600)
    with pytest.raises(RateLimited) as caught:
        use(connected)
    asked = dict(garmin.counts)

    with pytest.raises(RateLimited):
        use(connected)
    assert garmin.counts["api"] == asked["api"]
    assert garmin.counts["personal_token"] == asked["personal_token"]
    assert caught.value.retry_after == 600
    assert use(other_user)


def test_a_rate_limit_of_one_key_does_not_end_a_run(connected, other_user, bens_key, garmin):
    connect_with_key(other_user, bens_key)
    garmin.fail("api", "key_rate_limited", times=None, account=EMAIL, retry_after=600)

    report = check_sessions(workers=1)

    assert (report.active, report.unknown, report.stopped) == (1, 1, None)


def test_a_rate_limit_of_a_key_leaves_other_engines_alone(connected, other_user, connect, garmin):
    connect(other_user, BEN, engine="garth")
    garmin.fail("api", "key_rate_limited", times=None, account=EMAIL, retry_after=600)
    with pytest.raises(RateLimited):
        use(connected)

    with garmin_client(other_user) as client:
        assert client.connectapi("/userprofile-service/socialProfile")


def test_a_limited_key_is_not_tried_again_by_another_login(user, other_user, key, garmin):
    garmin.fail("personal_token", "key_rate_limited", retry_after=600)
    with pytest.raises(RateLimited):
        connect_with_key(user, key)

    with pytest.raises(RateLimited):
        connect_with_key(other_user, key)
    assert garmin.counts["personal_token"] == 1


def test_a_limit_without_a_time_is_a_short_one(connected, garmin):
    garmin.fail("api", "key_rate_limited", retry_after=None)
    with pytest.raises(RateLimited):
        use(connected)

    with pytest.raises(RateLimited) as caught:
        use(connected)
    assert caught.value.retry_after <= 60


# Garmin's own client


def test_the_client_is_garmins(client):
    assert isinstance(client, garmin_personal_api.GarminPersonalApiClient)
    assert client.base_url == "https://personal.connectapi.garmin.com"
    assert client.get_daily_summaries(DAY, DAY)["data"][0]["calendarDate"] == DAY
    assert client.get_daily_heart_rate(DAY)["calendarDate"] == DAY
    assert client.get_user_profile_settings()["displayName"]
    assert client.search_activities(limit=1)[0]["activityId"]


def test_a_file_is_downloaded(client):
    with zipfile.ZipFile(io.BytesIO(client.download_activity(7))) as archive:
        assert archive.namelist() == ["7_ACTIVITY.fit"]


def test_a_file_is_downloaded_with_a_fresh_token(client, garmin):
    garmin.expire_access_tokens()

    assert client.download_activity("7")
    assert garmin.counts["personal_token"] == 2


@pytest.mark.parametrize("number", ["", "a", 0, "7/../8"])
def test_a_number_of_no_activity_is_the_callers_mistake(client, garmin, number):
    asked = garmin.counts["api"]

    with pytest.raises(ValueError, match="activity_id"):
        client.download_activity(number)
    assert garmin.counts["api"] == asked


@pytest.mark.parametrize(
    ("method", "fault", "options", "error"),
    [
        ("download_activity", "empty", {}, GarminUnavailable),
        ("download_activity", "status", {"status": 404, "body": "{}"}, GarminRequestError),
        ("download_activity", "status", {"status": 500, "body": "a secret"}, GarminUnavailable),
        ("get_activity", "status", {"status": 404, "body": "{}"}, GarminRequestError),
        ("get_activity", "status", {"status": 500, "body": "a secret"}, GarminUnavailable),
        ("get_activity", "truncated_json", {}, GarminUnavailable),
        ("get_activity", "html", {}, GarminUnavailable),
    ],
)
def test_what_fails_raises_ours(client, garmin, method, fault, options, error):
    garmin.fail("api", fault, times=None, **options)

    with pytest.raises(error) as caught:
        getattr(client, method)(7)

    assert "a secret" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize("method", ["POST", "put", "DELETE", "PATCH", "HEAD"])
def test_what_would_write_is_refused_with_a_clear_error(client, garmin, method):
    asked = garmin.counts["api"]

    with pytest.raises(ValueError, match=f"can only be read, so a {method} cannot be sent"):
        client.connectapi("/upload-service/upload", method=method)
    assert garmin.counts["api"] == asked


@pytest.mark.parametrize(
    "path", ["https://evil.example/x", "//evil.example/x", "http://a.garmin.com"]
)
def test_the_token_goes_to_garmin_only(client, path):
    with pytest.raises(GarminUnavailable, match=r"not a host of|InvalidSchema"):
        client.connectapi(path)


def test_the_clients_own_timeout_is_a_deadline(client, garmin):
    client.timeout = 0.2
    garmin.fail("api", "trickle", interval=0.05)

    with pytest.raises(GarminUnavailable, match=r"within 0\.2 seconds"):
        client.get_user_profile_settings()


def test_what_garmins_client_logs_is_redacted(client, caplog):
    caplog.set_level(logging.DEBUG)

    client.download_activity(7)

    said = [record.getMessage() for record in caplog.records if "garmin_personal" in record.name]
    assert said == ["[garmin_auth: redacted]"]


def test_the_client_does_not_know_the_key(client, key):
    held = [value for value in vars(client).values() if isinstance(value, str | dict | list)]

    assert key not in repr(client) + repr(held)


# What is on the machine


def test_the_environment_changes_nothing(user, key, bens_key, monkeypatch, tmp_path):
    config = tmp_path / ".config" / "garmin"
    config.mkdir(parents=True)
    (config / "connect-personal-api-key").write_text(bens_key)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GARMIN_PERSONAL_API_KEY", bens_key)
    monkeypatch.setenv("GARMIN_PERSONAL_API_BASE_URL", "https://evil.example")

    connect_with_key(user, key)

    with garmin_client(user) as client:
        client.get_daily_steps(DAY, DAY)
        assert client.base_url == "https://personal.connectapi.garmin.com"
    assert {"GARMIN_PERSONAL_API_KEY", "GARMIN_PERSONAL_API_BASE_URL"} <= {*foreign_variables()}
    assert [path.name for path in config.iterdir()] == ["connect-personal-api-key"]


def test_no_file_is_written(user, key, garmin, run_python, tmp_path):
    (tmp_path / "home").mkdir()
    code = """
import sys
from django.contrib.auth import get_user_model
from garmin_auth.login import connect_with_key
from garmin_auth.sessions import garmin_client
user = get_user_model().objects.get(pk=sys.argv[1])
connect_with_key(user, sys.argv[2])
with garmin_client(user) as client:
    client.download_activity(7)
"""

    run_python(code, user.pk, key, new_interpreter=True, HOME=str(tmp_path / "home"))

    assert [*(tmp_path / "home").rglob("*")] == []


# What is stored


@pytest.mark.parametrize(
    "changes",
    [
        {"key": ""},
        {"key": 5},
        {"key": "a\nb"},
        {"token": None},
        {"token": "a\nb"},
        {"token_ends_at": None},
        {"token_ends_at": "soon"},
        {"token_ends_at": 1e300},
        {"key_ends_at": "soon"},
        {"domain": "garmin.cn"},
        {"domain": "evil.example"},
        {"more": 1},
    ],
)
def test_a_session_is_read_strictly(garmin, account, changes):
    engine = get_engine("personal")
    data = json.loads(garmin.issue_session(EMAIL, engine="personal"))
    engine.open(json.dumps(data), None).close()

    with pytest.raises(SessionUnreadable) as caught:
        engine.open(json.dumps({**data, **changes}), None)
    shown = repr(caught.value) + repr(pickle.dumps(caught.value))
    assert data["key"] not in shown
    assert data["token"] not in shown


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "null", '"text"', "[" * 100_000])
def test_what_is_no_session_is_unreadable(text):
    with pytest.raises(SessionUnreadable):
        get_engine("personal").open(text, None)


def test_a_region_keeps_its_keys(user, garmin, settings):
    settings.GARMIN_AUTH_DOMAIN = ["garmin.com", "garmin.cn"]
    garmin.add_account(EMAIL, PASSWORD, domain="garmin.cn")
    connect_with_key(user, garmin.add_key(EMAIL), domain="garmin.cn")
    assert use(user)
    assert {entry["host"] for entry in garmin.log if entry["step"] == "api"} == {
        "personal.connectapi.garmin.cn"
    }

    with pytest.raises(SessionUnreadable, match=r"not for garmin\.com"):
        get_engine("personal", "garmin.com").open(state_of(user).session_data.decrypt(), None)


# An import


def test_a_key_is_imported_without_asking_garmin(user, key, garmin):
    import_session(user, f"{key}\n", engine="personal")

    assert garmin.counts["connect"] == 0
    assert use(user)
    assert garmin.counts["personal_token"] == 1


def test_an_imported_key_is_checked(user, key):
    import_session(user, key, engine="personal", check=True)

    assert account_of(user).last_validated is not None


def test_a_dead_key_is_not_imported(user, key, garmin):
    garmin.delete_key(key)

    with pytest.raises(SessionExpired):
        import_session(user, key, engine="personal", check=True)
    assert state_of(user) is None


def test_a_limited_key_is_not_asked_about_again_by_an_import(user, key, garmin):
    garmin.fail("personal_token", "key_rate_limited", retry_after=600)
    for _ in range(2):
        with pytest.raises(RateLimited):
            import_session(user, key, engine="personal", check=True)

    assert garmin.counts["personal_token"] == 1


@pytest.mark.parametrize("text", ["", "hunter2", "a password of many words", '{"di_token": "a"}'])
def test_an_import_of_something_else_says_what_to_do(user, text):
    with pytest.raises(SessionUnreadable, match="personalApiToken") as caught:
        import_session(user, text, engine="personal")

    assert not text or text not in str(caught.value)


def test_the_folder_of_garmins_client_is_imported(user, key, tmp_path):
    (tmp_path / "connect-personal-api-key").write_text(f"{key}\n")

    data = get_engine("personal").read_folder(Path(tmp_path))

    assert json.loads(data)["key"] == key


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xfa", b"hunter2"])
def test_a_folder_without_a_key_says_so(tmp_path, content):
    if content is not None:
        (tmp_path / "connect-personal-api-key").write_bytes(content)

    with pytest.raises(SessionUnreadable, match=r"cannot be|is not text"):
        get_engine("personal").read_folder(tmp_path)
