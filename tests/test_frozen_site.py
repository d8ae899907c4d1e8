"""``GARMIN_AUTH_FROZEN``: a copy of production asks Garmin nothing in any way, and says so."""

import copy
import io
import json
import logging
import pickle
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse
from django.utils import timezone

from garmin_auth.engines import get_engine
from garmin_auth.engines.http.transport import Transport, get_transport
from garmin_auth.exceptions import Frozen, GarminUnavailable
from garmin_auth.health import Outcome, Stopped, check_session, check_sessions
from garmin_auth.login import (
    begin_login,
    cancel_mfa,
    disconnect,
    import_session,
    start_login,
    submit_mfa,
)
from garmin_auth.models import GarminAuthenticationState, Status
from garmin_auth.rotation import rotate_keys
from garmin_auth.sessions import garmin_client
from tests.conftest import BUILT_IN, EMAIL, PASSWORD, needs_garminconnect, raw_row, state_of

pytestmark = pytest.mark.django_db(transaction=True)
states = GarminAuthenticationState.objects

PROFILE = "/userprofile-service/socialProfile"
STATUS, LOGIN, MFA = "/garmin/", "/garmin/login/", "/garmin/mfa/"
CANCEL, DISCONNECT = "/garmin/mfa/cancel/", "/garmin/disconnect/"
LIST = reverse("admin:garmin_auth_garminauthenticationstate_changelist")
SENTENCE = "This site does not connect to Garmin at the moment."
SETTING = "GARMIN_AUTH_FROZEN is True"
engines = pytest.mark.parametrize("engine", BUILT_IN)


@pytest.fixture
def freeze(settings):
    """Freeze the site from now on."""

    def freeze():
        settings.GARMIN_AUTH_FROZEN = True

    return freeze


@pytest.fixture
def frozen(freeze):
    freeze()


@pytest.fixture
def waiting(user, mfa_account, settings, freeze, garmin):
    """Let the user's login wait for a code; then freeze the site. Return the code."""
    settings.GARMIN_AUTH_ENGINE = "garth"
    start_login(user, EMAIL, PASSWORD)
    code = garmin.mfa_code(EMAIL)
    garmin.journal.reset()
    freeze()
    return code


def text_of(response):
    return response.content.decode()


# Sessions


@engines
def test_no_client_is_opened(user, connect, garmin, engine, frozen):
    connect(user, engine=engine, access_expired=True)
    before = raw_row(user)

    with pytest.raises(Frozen, match=SETTING), garmin_client(user):
        pass

    assert garmin.log == []
    assert raw_row(user) == before


def test_nothing_is_decrypted_so_a_copy_needs_no_keys(user, connect, frozen, settings):
    connect(user)
    settings.FERNET_KEYS = ["a key of another site"]

    with pytest.raises(Frozen), garmin_client(user):
        pass


@engines
def test_a_client_that_was_opened_before_asks_nothing_more(user, connect, garmin, engine, freeze):
    connect(user, engine=engine)

    with garmin_client(user) as client:
        freeze()
        with pytest.raises(Frozen):
            client.connectapi(PROFILE)

    assert garmin.log == []


@engines
def test_such_a_client_refreshes_nothing_either(user, connect, garmin, engine, freeze):
    connect(user, engine=engine)
    before = raw_row(user)
    with garmin_client(user) as client:
        client.connectapi(PROFILE)
        garmin.expire_access_tokens(EMAIL)
        asked = len(garmin.log)
        freeze()

        with pytest.raises(Frozen):
            client.connectapi(PROFILE)

    assert len(garmin.log) == asked
    assert raw_row(user)["session_data"] == before["session_data"]
    assert state_of(user).status == Status.ACTIVE


def test_a_workers_handler_of_an_unreachable_garmin_handles_it(frozen):
    error = Frozen()

    assert isinstance(error, GarminUnavailable)
    assert SETTING in str(error)
    assert SENTENCE in str(error.user_message)
    for same in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (type(same), str(same)) == (Frozen, str(error))


def test_a_value_that_is_no_bool_lets_nothing_pass(user, connect, garmin, settings):
    connect(user)
    settings.GARMIN_AUTH_FROZEN = "False"

    with pytest.raises(Exception, match="GARMIN_AUTH_FROZEN must be"), garmin_client(user):
        pass

    assert garmin.log == []


# The last gate


def test_a_requests_session_of_ours_sends_nothing(garmin, frozen):
    with pytest.raises(Frozen):
        get_transport("garmin.com").new_session().get(f"https://connectapi.garmin.com{PROFILE}")

    assert garmin.log == []


def test_the_oauth_consumer_is_not_fetched(garmin, frozen, settings):
    settings.GARMIN_AUTH_OAUTH_CONSUMER = None
    transport = Transport("garmin.com", garmin.proxy_url, garmin.ca_bundle)  # It has none yet.

    with pytest.raises(Frozen):
        transport.consumer()

    assert garmin.log == []


@needs_garminconnect
def test_a_curl_session_of_ours_sends_nothing(garmin, frozen):
    from garmin_auth.engines.http.curl import CurlSession  # It needs curl_cffi.

    with CurlSession("garmin.com", "chrome") as session, pytest.raises(Frozen):
        session.get("https://sso.garmin.com/sso/signin")

    assert garmin.log == []


@engines
def test_an_engine_that_is_used_by_itself_sends_nothing_and_proves_nothing(garmin, engine, frozen):
    garmin.add_account(EMAIL, PASSWORD)
    data = garmin.issue_session(EMAIL, engine=engine)

    with pytest.raises(GarminUnavailable):
        get_engine(engine).refresh(data)

    assert garmin.log == []


def test_a_sites_own_engine_is_not_used(user, garmin, settings, frozen):
    settings.GARMIN_AUTH_ENGINES = {"third": "tests.engines.third_engine.ThirdEngine"}
    settings.GARMIN_AUTH_ENGINE = "third"

    with pytest.raises(Frozen):
        start_login(user, EMAIL, PASSWORD)

    assert garmin.log == []


# Logins


@engines
@pytest.mark.parametrize("log_in", [start_login, begin_login])
def test_no_login_starts(user, account, garmin, settings, engine, log_in, frozen):
    settings.GARMIN_AUTH_ENGINE = engine

    with pytest.raises(Frozen):
        log_in(user, EMAIL, PASSWORD)

    assert garmin.log == []
    assert state_of(user) is None


def test_a_code_is_not_sent_and_not_counted(user, waiting, garmin):
    with pytest.raises(Frozen):
        submit_mfa(user, waiting)

    assert garmin.log == []
    row = state_of(user)
    assert (row.status, row.mfa_attempts) == (Status.MFA_PENDING, 0)


def test_a_pending_login_can_be_cancelled(user, waiting, garmin):
    assert cancel_mfa(user)

    assert garmin.log == []
    assert state_of(user).status == Status.DISCONNECTED


def test_a_session_can_be_disconnected(user, connect, garmin, frozen):
    connect(user)

    assert disconnect(user)

    assert garmin.log == []


@engines
def test_an_import_is_not_checked(user, garmin, engine, frozen):
    garmin.add_account(EMAIL, PASSWORD)
    data = garmin.issue_session(EMAIL, engine=engine)

    with pytest.raises(Frozen):
        import_session(user, data, engine=engine, check=True)

    assert garmin.log == []
    assert state_of(user) is None


def test_an_import_without_a_check_asks_nobody_and_is_stored(user, garmin, frozen):
    garmin.add_account(EMAIL, PASSWORD)

    import_session(user, garmin.issue_session(EMAIL), engine="garth")

    assert garmin.log == []
    assert state_of(user).status == Status.ACTIVE


def test_keys_are_rotated(user, connect, garmin, frozen):
    connect(user)

    assert rotate_keys().rows == 1
    assert garmin.log == []


# Checks


@pytest.fixture
def as_it_was(user, other_user, connect, frozen):
    """Store a session and an old pending login; afterwards both rows must be as they were."""
    connect(user)
    states.begin_challenge(other_user.pk, "{}")
    states.filter(user=other_user).update(mfa_started_at=timezone.now() - timedelta(days=1))
    before = [raw_row(user), raw_row(other_user)]
    yield
    assert [raw_row(user), raw_row(other_user)] == before


def test_one_session_is_not_checked(user, as_it_was, garmin):
    check = check_session(user)

    assert (check.outcome, check.engine, check.worked) == (Outcome.UNKNOWN, "garth", False)
    assert isinstance(check.error, Frozen)
    assert garmin.log == []


def test_a_run_checks_nothing(as_it_was, garmin):
    report = check_sessions()

    assert (report.checked, report.unknown, report.stopped) == (0, 0, Stopped.FROZEN)
    assert garmin.log == []


def run_check(*arguments):
    output, errors = io.StringIO(), io.StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("check_garmin_sessions", *arguments, stdout=output, stderr=errors)
    return ended.value.code, output.getvalue(), errors.getvalue()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--dry-run",),
        ("--enqueue",),
        ("--jitter", "10h"),
        ("--believe-refusals", "garth"),
    ],
)
def test_the_command_says_so_in_one_sentence(as_it_was, garmin, arguments):
    code, output, errors = run_check(*arguments)

    assert code == 4
    assert output == ""
    assert SETTING in errors
    assert len(errors.splitlines()) == 1
    assert garmin.log == []


def test_a_report_in_json_says_it(as_it_was):
    code, output, _errors = run_check("--format", "json")

    report = json.loads(output)
    assert (code, report["stopped"], report["checked"]) == (4, "frozen", 0)


def test_a_dry_run_in_json_has_its_keys(as_it_was):
    _code, output, _errors = run_check("--format", "json", "--dry-run")

    report = json.loads(output)
    assert (report["stopped"], report["dry_run"], report["due"]) == ("frozen", True, 0)


def test_a_report_in_json_of_what_was_enqueued_has_its_key(as_it_was):
    _code, output, _errors = run_check("--format", "json", "--enqueue")

    assert json.loads(output) == {"enqueued": 0}


def test_wrong_usage_is_said_first(frozen):
    with pytest.raises(CommandError) as caught:
        call_command("check_garmin_sessions", "--enqueue", "--dry-run")

    assert caught.value.returncode == 2


def test_an_import_with_a_check_says_it_in_the_shell(user, garmin, frozen, monkeypatch):
    garmin.add_account(EMAIL, PASSWORD)
    monkeypatch.setattr("sys.stdin", io.StringIO(garmin.issue_session(EMAIL)))

    with pytest.raises(CommandError, match=SETTING):
        call_command("import_garmin_session", "ana", "--engine", "garth", "--check")

    assert garmin.log == []


# Celery


@pytest.fixture
def tasks():
    return pytest.importorskip("garmin_auth.checking.celery_tasks")


def test_the_task_that_enqueues_does_nothing_and_logs_it_once(tasks, as_it_was, caplog):
    # There is no broker here: a message would not get anywhere.
    with caplog.at_level(logging.INFO, "garmin_auth"):
        assert tasks.check_due_sessions() == {"enqueued": 0}

    assert [SETTING in record.getMessage() for record in caplog.records] == [True]
    assert states.claimed_checks() == 0


def test_the_task_of_one_session_does_nothing_and_logs_it_once(
    tasks, user, as_it_was, garmin, caplog
):
    with caplog.at_level(logging.INFO, "garmin_auth"):
        found = tasks.check_stored_session(state_of(user).pk)

    assert found == {"outcome": "skipped", "refreshed": False, "engine": ""}
    assert [SETTING in record.getMessage() for record in caplog.records] == [True]
    assert garmin.log == []


# Pages


@pytest.fixture
def browser(client, user):
    client.force_login(user)
    return client


def test_the_login_page_says_so_in_place_of_the_form(browser, frozen):
    page = text_of(browser.get(LOGIN))

    assert SENTENCE in page
    assert 'name="password"' not in page


def test_a_password_that_is_sent_all_the_same_goes_nowhere(browser, account, garmin, frozen):
    page = text_of(browser.post(LOGIN, {"email": EMAIL, "password": PASSWORD}))

    assert page.count(SENTENCE) == 1
    assert PASSWORD not in page
    assert garmin.log == []


def test_a_form_that_a_site_shows_all_the_same_has_the_sentence(browser, frozen):
    response = browser.post(LOGIN, {"email": EMAIL, "password": PASSWORD})

    assert SENTENCE in str(response.context["form"].non_field_errors())


def test_the_page_for_the_code_says_so_and_the_login_can_be_cancelled(browser, user, waiting):
    page = text_of(browser.get(MFA))

    assert SENTENCE in page
    assert 'name="code"' not in page
    assert f'action="{CANCEL}"' in page
    browser.post(CANCEL)
    assert state_of(user).status == Status.DISCONNECTED


def test_a_code_that_is_sent_all_the_same_goes_nowhere(browser, user, waiting, garmin):
    page = text_of(browser.post(MFA, {"code": waiting}))

    assert page.count(SENTENCE) == 1
    assert garmin.log == []
    assert state_of(user).mfa_attempts == 0


def test_the_status_page_says_so_and_the_account_can_be_disconnected(
    browser, user, connect, frozen, garmin
):
    connect(user)

    page = text_of(browser.get(STATUS))

    assert SENTENCE in page
    assert f'href="{LOGIN}"' not in page
    browser.post(DISCONNECT)
    assert state_of(user).status == Status.DISCONNECTED
    assert garmin.log == []


@pytest.mark.parametrize("page", [STATUS, LOGIN])
def test_a_site_that_is_not_frozen_says_nothing_of_it(browser, page):
    assert SENTENCE not in text_of(browser.get(page))


# The admin


def test_the_admins_list_says_so(admin_client, frozen):
    assert SETTING in text_of(admin_client.get(LIST))


def test_the_admins_list_of_another_site_does_not(admin_client):
    assert SETTING not in text_of(admin_client.get(LIST))


def test_the_admins_check_asks_nothing(admin_client, user, as_it_was, garmin):
    chosen = {"action": "check_now", "_selected_action": [state_of(user).pk]}

    page = text_of(admin_client.post(LIST, chosen, follow=True))

    assert "The selected Garmin accounts were not checked." in page
    assert SETTING in page
    assert garmin.log == []


def test_staff_can_disconnect(admin_client, user, connect, frozen):
    connect(user)
    selected = [state_of(user).pk]
    chosen = {"action": "disconnect", "_selected_action": selected, "post": "yes"}

    admin_client.post(LIST, chosen)

    assert state_of(user).status == Status.DISCONNECTED


def test_a_site_that_is_thawed_goes_on(user, connect, garmin, settings):
    connect(user)
    settings.GARMIN_AUTH_FROZEN = True
    assert check_session(user).outcome is Outcome.UNKNOWN

    settings.GARMIN_AUTH_FROZEN = False

    assert check_session(user).outcome is Outcome.ACTIVE
