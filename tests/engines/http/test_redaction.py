"""What the libraries log of our calls, and of everybody else's."""

import logging
import logging.config
import threading

import pytest
import requests
from requests_oauthlib import OAuth1

from garmin_auth.engines import get_engine
from garmin_auth.engines.base import Challenge
from garmin_auth.engines.http.redaction import REDACTED, redaction
from garmin_auth.exceptions import GarminUnavailable, SessionExpired
from garmin_auth.sessions import garmin_client
from garmin_auth.signals import session_refreshed
from tests.conftest import EMAIL, PASSWORD

PROFILE = "/userprofile-service/socialProfile"
LIBRARIES = ("charset_normalizer", "http", "oauthlib", "requests", "requests_oauthlib", "urllib3")
# Those that were seen to log a secret with garth 0.8: the request line, the base string, the body.
TALKATIVE = ("oauthlib.oauth1.rfc5849", "requests_oauthlib.oauth1_auth", "urllib3.connectionpool")


class Records(logging.Handler):
    """What a site's handler gets, as text."""

    def __init__(self):
        super().__init__()
        self.by_logger = []

    def emit(self, record):
        self.by_logger.append((record.name, self.format(record)))

    def texts(self, *loggers):
        return [
            text
            for name, text in self.by_logger
            if name.partition(".")[0] in LIBRARIES and (not loggers or name in loggers)
        ]


@pytest.fixture
def engine():
    return get_engine("garth")


@pytest.fixture
def records(engine):
    """A site that logs everything."""
    records, root = Records(), logging.getLogger()
    level = root.level
    root.addHandler(records)
    root.setLevel(logging.DEBUG)
    yield records
    root.removeHandler(records)
    root.setLevel(level)


@pytest.fixture
def mine(garmin):
    """A site's own session, which knows nothing of us; through the simulator too."""
    with requests.Session() as session:
        session.trust_env = False
        session.proxies = {"https": garmin.proxy_url}
        session.verify = garmin.ca_bundle
        yield session


def assert_redacted(records):
    assert set(records.texts()) == {REDACTED}


def test_a_login_is_redacted(records, garmin, engine, account):
    engine.login(account, PASSWORD)

    assert_redacted(records)


@pytest.mark.parametrize("name", TALKATIVE)
def test_a_login_is_logged_by(records, garmin, engine, account, name):
    """The test of the tests here: those libraries do log."""
    engine.login(account, PASSWORD)

    assert records.texts(name)


def test_a_code_is_redacted(records, garmin, engine, mfa_account):
    challenge = engine.login(mfa_account, PASSWORD)
    records.by_logger.clear()

    engine.submit_code(challenge.state, garmin.mfa_code(mfa_account))

    assert_redacted(records)


def test_a_wrong_code_is_redacted(records, garmin, engine, mfa_account):
    challenge = engine.login(mfa_account, PASSWORD)
    records.by_logger.clear()

    assert isinstance(engine.submit_code(challenge.state, "no code"), Challenge)

    assert_redacted(records)


def test_a_refresh_is_redacted(records, garmin, engine, account):
    engine.refresh(garmin.issue_session(account))

    assert_redacted(records)


def test_a_refused_refresh_is_redacted(records, garmin, engine, account):
    session = garmin.issue_session(account)
    garmin.revoke(account)

    with pytest.raises(SessionExpired):
        engine.refresh(session)

    assert_redacted(records)


def test_fetching_the_consumer_is_redacted(records, garmin, engine, account, settings, tmp_path):
    bundle = tmp_path / "ca.pem"  # As in a process that has just started: another transport.
    with open(garmin.ca_bundle) as authority:
        bundle.write_text(authority.read())
    settings.GARMIN_AUTH_CA_BUNDLE = str(bundle)

    engine.refresh(garmin.issue_session(account))

    assert garmin.counts["consumer"] == 1
    assert_redacted(records)


def test_a_call_of_the_client_is_redacted(records, garmin, engine, account):
    engine.open(garmin.issue_session(account), None).client.connectapi(PROFILE)

    assert_redacted(records)


def test_a_call_of_the_clients_own_session_is_redacted(records, garmin, engine, account):
    client = engine.open(garmin.issue_session(account), None).client

    client.sess.get(f"https://connectapi.garmin.com{PROFILE}")

    assert_redacted(records)


def test_a_call_that_fails_is_redacted(records, garmin, engine, account):
    garmin.fail("api", "html")

    with pytest.raises(GarminUnavailable):
        engine.open(garmin.issue_session(account), None).client.connectapi(PROFILE)

    assert_redacted(records)


def test_a_sites_own_request_is_logged_unchanged(records, garmin, engine, account, mine):
    engine.login(account, PASSWORD)
    records.by_logger.clear()

    mine.get("https://connectapi.garmin.com/mine?ticket=ST-of-the-site")

    assert any("GET /mine?ticket=ST-of-the-site" in text for text in records.texts())
    assert REDACTED not in records.texts()


def test_a_sites_own_signature_is_logged_unchanged(records, garmin, engine, account, mine):
    engine.login(account, PASSWORD)
    records.by_logger.clear()

    mine.get("https://connectapi.garmin.com/mine", auth=OAuth1("key-of-the-site", "secret"))

    assert any("key-of-the-site" in text for text in records.texts(*TALKATIVE[:2]))
    assert REDACTED not in records.texts()


def test_a_sites_own_request_is_logged_unchanged_after_a_failed_call(records, garmin, engine, mine):
    garmin.fail("sign_in", "reset", times=None)
    with pytest.raises(GarminUnavailable):
        engine.login(EMAIL, PASSWORD)

    mine.get("https://connectapi.garmin.com/mine")

    assert any("GET /mine" in text for text in records.texts())


def test_a_sites_own_request_between_calls_is_logged_unchanged(
    records, garmin, engine, account, mine
):
    client = engine.open(garmin.issue_session(account), None).client
    client.connectapi(PROFILE)

    mine.get("https://connectapi.garmin.com/mine")
    client.connectapi(PROFILE)

    assert any("GET /mine" in text for text in records.texts())


@pytest.mark.django_db(transaction=True)
def test_a_request_of_a_receiver_within_our_call_is_logged_unchanged(
    records, garmin, user, connect, mine
):
    connect(user, access_expired=True)

    def receive(**kwargs):
        mine.get("https://connectapi.garmin.com/mine")

    session_refreshed.connect(receive)
    try:
        with garmin_client(user) as client:
            client.connectapi(PROFILE)
    finally:
        session_refreshed.disconnect(receive)

    assert any("GET /mine" in text for text in records.texts())


def test_another_threads_request_during_a_call_is_logged_unchanged(
    records, garmin, engine, account, mine
):
    garmin.fail("api", "slow_headers", interval=0.005)
    client = engine.open(garmin.issue_session(account), None).client
    call = threading.Thread(target=client.connectapi, args=(PROFILE,))
    call.start()
    while not garmin.counts["api"]:
        pass

    mine.get("https://sso.garmin.com/mine")
    during = call.is_alive()
    call.join()

    assert during
    assert any("GET /mine" in text for text in records.texts())
    assert REDACTED in records.texts()


def test_a_record_keeps_its_level_and_its_logger(engine, caplog):
    with redaction():
        logging.getLogger("urllib3.connectionpool").warning("ticket=%s", "ST-1")

    assert caplog.record_tuples == [("urllib3.connectionpool", logging.WARNING, REDACTED)]


def test_a_record_keeps_no_traceback(engine, caplog):
    with redaction():
        try:
            raise ValueError("ST-1")
        except ValueError:
            logging.getLogger("requests_oauthlib").exception("ST-1", stack_info=True)

    assert (caplog.records[0].exc_info, caplog.records[0].stack_info) == (None, None)


def test_redaction_may_be_nested(engine, caplog):
    with redaction():
        with redaction():
            pass
        logging.getLogger("urllib3").warning("ST-1")

    assert caplog.messages == [REDACTED]


def test_other_loggers_of_the_thread_are_left_alone(engine, caplog):
    with redaction():
        logging.getLogger("site.urllib3").warning("mine")

    assert caplog.messages == ["mine"]


def test_every_logger_of_the_libraries_is_guarded(engine):
    names = [
        name
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in LIBRARIES
    ]

    assert set(TALKATIVE) <= set(names)
    assert [name for name in names if not logging.getLogger(name).filters] == []


def test_a_site_that_configures_its_logging_later_stays_guarded(engine, caplog):
    logger = logging.getLogger("urllib3.connectionpool")
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "loggers": {"urllib3.connectionpool": {"level": "DEBUG"}},
        }
    )

    with redaction():
        logger.debug("ST-1")
    logger.setLevel(logging.NOTSET)

    assert caplog.messages == [REDACTED]


def test_importing_the_engine_leaves_levels_handlers_and_propagation(run_python):
    code = """
import logging
def state():
    loggers = [l for l in logging.root.manager.loggerDict.values() if isinstance(l, logging.Logger)]
    return {l.name: (l.level, l.propagate, l.disabled, list(l.handlers)) for l in loggers}
import garth, requests, urllib3, requests_oauthlib
before = state()
import garmin_auth.engines.garth
after = state()
print(all(after[name] == before[name] for name in before))
"""

    assert run_python(f"import warnings; warnings.simplefilter('ignore')\n{code}") == "True"
