"""The simulator, driven by garminconnect itself: unpatched, in processes of its own."""

import json
import os
import subprocess
import sys

import pytest

from garmin_auth.testing import GarminSimulator

pytest.importorskip("garminconnect", reason="garminconnect needs Python 3.12 and its extra")

PASSWORD = "correct horse"
NOTHING = {"di_token": None, "di_refresh_token": None, "di_client_id": None}
MOBILE, PORTAL, WIDGET = "mobile+cffi", "portal+cffi", "widget+cffi"
MOBILE_WITHOUT_CURL = "mobile+requests"

# Reads what to do from standard input and prints what became of it, both as JSON.
CHILD = """
import json, sys
from garminconnect.client import Client

ALL = {"mobile+cffi", "mobile+requests", "widget+cffi", "portal+cffi", "portal+requests"}

def log_in(client, email, password, flow):
    client.skip_strategies = ALL - {flow}
    _, state = client.login(email, password, return_on_mfa=True)
    return state

def resume(client, state, code):
    client.resume_login(state, code)

def guess_and_resume(client, state, guess, code):
    try:
        client.resume_login(state, guess)
    except Exception as error:
        client.resume_login(None, code)
        return str(error)

def use(client, session):
    client.loads(session)
    return client.connectapi("/userprofile-service/socialProfile")["userName"]

def refresh(client, session):
    client.loads(session)
    client._refresh_di_token()

asked = json.load(sys.stdin)
client, said = Client(asked["domain"]), {"result": None, "error": None, "message": ""}
try:
    said["result"] = globals()[asked["do"]](client, **asked["with"])
except Exception as error:
    said |= {"error": type(error).__name__, "message": str(error)}
print(json.dumps(said | {"session": client.dumps()}))
"""


class Library:
    """Calls of garminconnect's client, each in a new process."""

    def __init__(self, simulator, fork_server):
        self.environment = os.environ | simulator.library_environment
        self.fork_server = fork_server
        self.processes = []

    def start(self, do, domain="garmin.com", **options):
        process = self.fork_server.start(["-c", CHILD], self.environment)
        self.processes.append(process)
        process.stdin.write(json.dumps({"do": do, "domain": domain, "with": options}))
        process.stdin.close()
        return process

    def finish(self, process):
        """What became of it: result, error (its class), message, session (what dumps() gives)."""
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        return json.loads(output)

    def __call__(self, do, **options):
        return self.finish(self.start(do, **options))

    def end(self):
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def garmin():
    """One for the module: its logins are under way side by side."""
    with GarminSimulator() as simulator:
        yield simulator


@pytest.fixture(scope="module")
def library(garmin, fork_server):
    calls = Library(garmin, fork_server)
    yield calls
    calls.end()


@pytest.fixture(scope="module")
def login(garmin, library):
    """All logins of this module begin at once, because each pauses for seconds; then each is
    waited for by the test that needs it."""
    processes, outcomes = {}, {}
    for name, (flow, mfa, faults) in LOGINS.items():
        domain = "garmin.cn" if name == "china" else "garmin.com"
        garmin.add_account(email_of(name), PASSWORD, mfa=mfa, domain=domain)
        for step, fault in faults.items():
            garmin.fail(step, fault, times=None, account=email_of(name))
        processes[name] = library.start(
            "log_in",
            domain=domain,
            email=email_of(name),
            password="guess" if name == "wrong password" else PASSWORD,
            flow=flow,
        )

    def outcome(name):
        if name not in outcomes:
            outcomes[name] = library.finish(processes[name])
        return outcomes[name]

    return outcome


LOGINS = {
    # What: flow, with a code?, faults
    "portal": (PORTAL, True, {}),
    "widget": (WIDGET, False, {}),
    "widget with code": (WIDGET, True, {}),
    "mobile": (MOBILE, False, {}),
    "mobile without curl": (MOBILE_WITHOUT_CURL, False, {}),
    "china": (MOBILE, False, {}),
    "mobile with code": (MOBILE, True, {}),
    "wrong code": (MOBILE, True, {}),
    "right code after a wrong one": (MOBILE, True, {}),
    "widget code after a wrong one": (WIDGET, True, {}),
    "error is a string": (MOBILE, True, {"verify_code": "error_string"}),
    "wrong password": (MOBILE, False, {}),
    "cookie for tokens": (MOBILE, False, {"di_exchange": "oauth_error"}),
}


def email_of(name):
    return f"{name.replace(' ', '.')}@example.com"


def steps_of(garmin, name):
    return [entry["step"] for entry in garmin.log if entry["account"] == email_of(name)]


def wrong(code):
    return f"{(int(code) + 1) % 10**6:06}"


@pytest.fixture
def email(garmin, request):
    """The account of this test alone, at a simulator that the whole module shares."""
    email = email_of(request.node.originalname)
    garmin.add_account(email, PASSWORD)
    return email


@pytest.fixture
def mint(garmin, email):
    def mint(**options):
        return garmin.issue_session(email, engine="garminconnect", **options)

    return mint


# Logging in


@pytest.mark.parametrize("name", ["mobile", "mobile without curl", "widget", "china"])
def test_library_logs_in(login, library, name):
    said = login(name)

    assert (said["error"], said["result"]) == (None, None)
    domain = "garmin.cn" if name == "china" else "garmin.com"
    used = library("use", domain=domain, session=said["session"])
    assert (used["result"], used["session"]) == (email_of(name), said["session"])


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("mobile", ["login", "di_exchange", "api"]),
        ("widget", ["widget_login", "di_exchange", "api"]),
    ],
)
def test_login_goes_through_the_steps_in_order(login, garmin, name, steps):
    login(name)

    assert steps_of(garmin, name)[: len(steps)] == steps


@pytest.mark.parametrize("name", ["mobile with code", "widget with code", "portal"])
def test_second_process_finishes_the_login(login, garmin, library, name):
    state = login(name)["result"]

    said = library("resume", state=state, code=garmin.mfa_code(email_of(name)))

    assert said["error"] is None, said["message"]
    assert library("use", session=said["session"])["result"] == email_of(name)


def test_wrong_password_is_an_authentication_error(login):
    said = login("wrong password")

    assert said["error"] == "GarminConnectAuthenticationError"
    assert json.loads(said["session"]) == NOTHING


def test_wrong_code_counts_at_both_doors(login, garmin, library):
    state = login("wrong code")["result"]
    code = garmin.mfa_code(email_of("wrong code"))

    said = library("resume", state=state, code=wrong(code))

    assert said["error"] == "GarminConnectAuthenticationError"
    assert steps_of(garmin, "wrong code") == ["login", "verify_code", "portal_verify_code"]


@pytest.mark.parametrize("name", ["right code after a wrong one", "widget code after a wrong one"])
def test_right_code_is_accepted_after_a_wrong_one(login, garmin, library, name):
    state = login(name)["result"]
    code = garmin.mfa_code(email_of(name))

    said = library("guess_and_resume", state=state, guess=wrong(code), code=code)

    assert said["error"] is None, said["message"]
    assert "failed" in said["result"]


# Traps of the library, which an engine must close


def test_login_that_falls_back_to_a_cookie_has_nothing_to_store(login, garmin):
    said = login("cookie for tokens")

    assert said["error"] is None
    assert json.loads(said["session"]) == NOTHING
    assert steps_of(garmin, "cookie for tokens")[-2:] == ["jwt_web", "api"]


def test_error_that_is_a_string_raises_an_attribute_error(login, garmin, library):
    state = login("error is a string")["result"]

    said = library("resume", state=state, code=garmin.mfa_code(email_of("error is a string")))

    assert said["error"] == "AttributeError"


def test_fault_of_a_refresh_looks_like_a_dead_session(garmin, library, email, mint):
    session = mint(access_expired=True)
    garmin.fail("di_refresh", "status", times=None, account=email, status=503)
    fault = library("use", session=session)
    garmin.heal("di_refresh")
    garmin.revoke(email)
    dead = library("use", session=session)

    assert fault == dead
    assert fault["message"] == "API Error 401 - Token is not active"


# Sessions


def test_issued_session_is_what_the_library_dumps(library, email, mint):
    session = mint()

    said = library("use", session=session)

    assert (said["result"], said["session"]) == (email, session)


def test_expired_session_is_refreshed_on_use(garmin, library, email, mint):
    session = mint(access_expired=True)

    said = library("use", session=session)

    assert said["result"] == email
    before, after = json.loads(session), json.loads(said["session"])
    assert before["di_client_id"] == after["di_client_id"]
    assert before["di_token"] != after["di_token"]
    assert before["di_refresh_token"] != after["di_refresh_token"]


def test_session_from_before_a_refresh_is_worthless(library, mint):
    session = mint()
    renewed = library("refresh", session=session)["session"]

    old, new = (library.start("refresh", session=each) for each in (session, renewed))

    assert library.finish(old)["message"] == "DI token refresh failed: 400"
    assert library.finish(new)["error"] is None


def test_revoked_session_is_refused(garmin, library, email, mint):
    session = mint()
    garmin.revoke(email)

    said = library("refresh", session=session)

    assert said["message"] == "DI token refresh failed: 400"


# Getting there


def test_other_hosts_are_refused(garmin):
    script = "from curl_cffi import requests; requests.get('https://example.com/')"

    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | garmin.library_environment,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert "403" in done.stderr
    assert garmin.counts["refused_host"] == 1


def test_proxies_of_the_machine_lead_nobody_past_it(garmin, mint, monkeypatch, fork_server):
    for name in ("https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "*")
    library = Library(garmin, fork_server)

    assert library("refresh", session=mint())["error"] is None
