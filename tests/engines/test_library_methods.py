"""Every public method of ``garminconnect.Garmin``, at a Garmin whose JSON is odd."""

import inspect
import io
import itertools

import pytest

pytest.importorskip("garminconnect", reason="garminconnect needs Python 3.12 or newer")

from garminconnect import Garmin

from garmin_auth.engines import get_engine
from garmin_auth.exceptions import GarminAuthError, GarminRequestError, GarminUnavailable

DAY = "2026-11-22"
REFUSED = {"login", "resume_login", "logout"}  # They would end or replace the session.
# What the simulator answers to everything.
ODD = [
    None,
    [],
    {},
    0,
    1.5,
    True,
    "text",
    [None],
    [1, "a"],
    [[]],
    [{}],
    {"userName": []},
    {"displayName": 5, "userData": 7},
    {"displayName": "Ana", "userData": [], "activities": 3, "devices": {"a": None}},
    [{"deviceId": None, "alarms": 1, "activityId": {}, "startTimeLocal": 7, "goalType": []}],
]
ARGUMENTS = {
    "activity_id": 7,
    "activityname": "run",
    "activityType": "RUNNING",
    "activity_path": "run.fit",
    "category": "ACTIVITY",
    "cdate": DAY,
    "date_str": DAY,
    "end": DAY,
    "enddate": DAY,
    "fordate": DAY,
    "gear_type": "SHOES",
    "goal_type": "STEPS",
    "item_type": "workout",
    "metric": "steps",
    "path": "/userprofile-service/socialProfile",
    "query": {"query": "x"},
    "sport": "RUNNING",
    "start": DAY,
    "startdate": DAY,
    "systolic": 120,
    "diastolic": 80,
    "timestamp": f"{DAY}T07:00:00",
    "unit_key": "kg",
    "weight": 70,
    "year": 2026,
}


def public_methods():
    return [
        name
        for name, method in inspect.getmembers(Garmin, inspect.isfunction)
        if not name.startswith("_") and name not in REFUSED
    ]


def arguments_for(method, folder):
    """Arguments that a method may be called with, as far as their names and types tell."""
    given = {}
    for name, parameter in itertools.islice(inspect.signature(method).parameters.items(), 1, None):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        kind = str(parameter.annotation)
        if name in ("activity_path", "file_path"):
            (folder / "run.fit").write_bytes(b"a run")
            given[name] = str(folder / "run.fit")
        elif name in ("start", "limit") and "int" in kind:
            given[name] = 1
        elif name in ARGUMENTS:
            given[name] = ARGUMENTS[name]
        elif parameter.default is not parameter.empty:
            continue
        elif "uuid" in name.lower():
            given[name] = "5e1f0a7c-0b1d-4c55-9a3e-51a1a70c0de5"
        elif "date" in name or "day" in name:
            given[name] = DAY
        elif "int" in kind or "float" in kind:
            given[name] = 7
        elif "dict" in kind:
            given[name] = {"name": "x"}
        elif "list" in kind:
            given[name] = ["7"]
        else:
            given[name] = "7"
    return given


@pytest.fixture
def client(garmin, account, settings):
    # A list of pages that never ends is the library's to end, after 2,000 of them.
    settings.GARMIN_AUTH_TIMEOUT = 5
    data = garmin.issue_session(account, engine="garminconnect")
    return get_engine("garminconnect").open(data, None).client


@pytest.fixture(autouse=True)
def few_pages(monkeypatch):
    for module in ("activities", "training", "achievements", "workouts"):
        monkeypatch.setattr(f"garminconnect.api.{module}.MAX_PAGINATED_REQUESTS", 3, raising=False)


def call(client, name, folder):
    """Call a method, and return what it raised; None: nothing."""
    try:
        getattr(client, name)(**arguments_for(getattr(Garmin, name), folder))
    except Exception as exc:  # noqa: BLE001
        return exc
    return None


@pytest.mark.parametrize("name", public_methods())
def test_odd_json_raises_ours_only(name, garmin, client, tmp_path):
    strange = {}
    for value in ODD:
        garmin.heal()
        garmin.fail("api", "wrong_json", times=None, value=value)
        before = garmin.counts["api"]
        error = call(client, name, tmp_path)
        # Where Garmin was not asked, it is about the arguments.
        if garmin.counts["api"] > before and not isinstance(error, GarminAuthError | None):
            strange[str(value)] = repr(error)
    assert strange == {}


def test_an_empty_answer_is_none_of_garmins_faults(garmin, client, tmp_path):
    client.display_name = "ana"
    strange = {}
    for name, status in itertools.product(public_methods(), (200, 202, 204)):
        garmin.heal()
        garmin.fail("api", "status", times=None, status=status, body="", headers={})
        error = call(client, name, tmp_path)
        if "JSON" in str(error):
            strange[name, status] = repr(error)
    assert strange == {}


def test_most_methods_ask_garmin_with_these_arguments(garmin, client, tmp_path):
    """Otherwise the tests above would prove little."""
    client.display_name = "ana"
    garmin.fail("api", "wrong_json", times=None, value={})
    asking = set()
    for name in public_methods():
        before = garmin.counts["api"]
        call(client, name, tmp_path)
        if garmin.counts["api"] > before:
            asking.add(name)

    assert len(asking) > 0.9 * len(public_methods()), set(public_methods()) - asking


def test_a_typed_answer_of_another_form_is_unavailable(garmin, client):
    pytest.importorskip("pydantic")
    client.display_name = "ana"
    garmin.fail("api", "wrong_json", times=None, value={"totalSteps": "many"})

    with pytest.raises(GarminUnavailable):
        client.typed.get_stats(DAY)


def test_a_duplicate_upload_says_so(garmin, client, tmp_path):
    (tmp_path / "run.fit").write_bytes(b"a run")
    garmin.fail("api", "status", status=409, body='{"message": "Duplicate Activity."}')

    with pytest.raises(GarminRequestError, match="Duplicate Activity") as caught:
        client.upload_activity(str(tmp_path / "run.fit"))

    assert caught.value.status == 409


def test_a_file_of_another_kind_is_the_callers_mistake(garmin, client, tmp_path):
    (tmp_path / "run.txt").write_text("a run")

    with pytest.raises(ValueError, match="format"):
        client.upload_activity(str(tmp_path / "run.txt"))
    with pytest.raises(FileNotFoundError):
        client.upload_activity(str(tmp_path / "gone.fit"))

    assert garmin.counts["api"] == 0


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.download("/../x"),
        lambda client: client.connectwebproxy("/a?b"),
        lambda client: client.download("/x", headers={"a": "b\n"}),
        lambda client: client.client.post("connectapi", "/x", json=float("nan")),
    ],
)
def test_what_cannot_be_sent_is_the_callers_value_error(garmin, client, ask):
    with pytest.raises(ValueError, match=r"\w"):
        ask(client)

    assert garmin.counts["api"] == 0


def test_a_body_that_is_read_once_is_not_sent_empty(garmin, account):
    data = garmin.issue_session(account, engine="garminconnect")
    engine = get_engine("garminconnect")
    client = engine.open(data, lambda: engine.refresh(data)).client
    garmin.expire_access_tokens()

    with pytest.raises(GarminUnavailable, match="only once"):
        client.client.post("connectapi", "/upload-service/upload", data=iter([b"a", b"run"]))

    assert garmin.counts["api"] == 1


def test_a_stream_is_the_callers_to_read(garmin, client):
    response = client.client.request(
        "GET", "connectapi", "/download-service/files/activity/7", stream=True
    )

    assert len(b"".join(response.iter_content(500))) == 2048
    assert isinstance(response.raw, io.IOBase)
