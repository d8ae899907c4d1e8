"""Who may connect a Garmin account is the site's to say."""

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.utils.translation import gettext_lazy

from garmin_auth.exceptions import NotAllowed
from garmin_auth.login import (
    Connected,
    LoginUnderWay,
    begin_login,
    cancel_mfa,
    connect_with_key,
    disconnect,
    import_session,
    start_login,
    submit_mfa,
)
from tests.conftest import EMAIL, PASSWORD, state_of
from tests.waiting import wait_for_logins

SENTENCE = "Your plan does not include Garmin."
answers = {}


def may_connect(user):
    """The site's rule."""
    return answers.get(user.username, True)


@pytest.fixture(autouse=True)
def rule(settings):
    settings.GARMIN_AUTH_MAY_CONNECT = "tests.logins.test_permission.may_connect"
    answers.clear()
    return answers


@pytest.fixture(params=["start_login", "begin_login", "connect_with_key", "import_session"])
def step(request, user, account, garmin, settings):
    settings.GARMIN_AUTH_ENGINES = {"keys": "tests.engines.third_key_engine.ThirdKeyEngine"}
    settings.GARMIN_AUTH_ENGINE = ["garth", "keys"]
    session, key = garmin.issue_session(EMAIL, engine="garth"), garmin.add_key(EMAIL)
    return {
        "connect_with_key": lambda: connect_with_key(user, key),
        "start_login": lambda: start_login(user, EMAIL, PASSWORD),
        "begin_login": lambda: begin_login(user, EMAIL, PASSWORD),
        "import_session": lambda: import_session(user, session),
    }[request.param]


@pytest.mark.parametrize("answer", [SENTENCE, gettext_lazy(SENTENCE)])
def test_a_user_who_may_not_is_told_the_sites_sentence(rule, step, user, garmin, answer):
    rule["ana"] = answer

    with pytest.raises(NotAllowed) as caught:
        step()

    assert str(caught.value.user_message) == SENTENCE
    assert garmin.counts["login"] == 0
    assert state_of(user) is None


def test_without_a_rule_everybody_connects(step, user, settings):
    settings.GARMIN_AUTH_MAY_CONNECT = None

    step()

    assert state_of(user).session_data


@pytest.mark.parametrize("answer", [True, "", gettext_lazy("")])
def test_a_user_who_may_connects(rule, step, user, answer):
    rule["ana"] = answer

    step()

    assert state_of(user).session_data


def test_a_plain_no_has_a_sentence_too(rule, step):
    rule["ana"] = False

    with pytest.raises(NotAllowed) as caught:
        step()

    assert caught.value.user_message == "You cannot connect a Garmin account on this site."


@pytest.mark.parametrize("answer", [None, 1, 0, []])
def test_a_rule_that_answers_otherwise_lets_nobody_in(rule, step, user, answer):
    rule["ana"] = answer

    with pytest.raises(ImproperlyConfigured, match="may_connect must return True"):
        step()

    assert state_of(user) is None


def test_another_user_may(rule, user, other_user, account):
    rule["ana"] = SENTENCE

    assert start_login(other_user, EMAIL, PASSWORD) == Connected()


def test_a_code_is_refused_and_the_login_can_be_cancelled(rule, user, mfa_account, garmin):
    start_login(user, EMAIL, PASSWORD)
    rule["ana"] = SENTENCE

    with pytest.raises(NotAllowed):
        submit_mfa(user, garmin.mfa_code(EMAIL))

    assert garmin.counts["verify_code"] == 0
    assert cancel_mfa(user)


def test_who_may_no_longer_connect_stays_connected_and_can_disconnect(rule, user, connect):
    connect(user)
    rule["ana"] = SENTENCE

    assert state_of(user).session_data
    assert disconnect(user)


def test_a_slow_login_is_refused_too(rule, user, account, slow_logins, settings):
    settings.GARMIN_AUTH_ENGINE = ["garth", "slow"]
    rule["ana"] = SENTENCE
    with pytest.raises(NotAllowed):
        begin_login(user, EMAIL, PASSWORD, "slow")

    rule["ana"] = True
    assert begin_login(user, EMAIL, PASSWORD, "slow") == LoginUnderWay()
    wait_for_logins()


def test_the_import_command_says_the_sentence(rule, user, tmp_path):
    rule["ana"] = SENTENCE

    with pytest.raises(CommandError, match=SENTENCE):
        call_command("import_garmin_session", "ana", "--dir", str(tmp_path))


# The pages


@pytest.mark.parametrize("url", ["/garmin/", "/garmin/login/"])
def test_a_page_says_the_sentence_and_offers_no_login(rule, client, user, url):
    rule["ana"] = SENTENCE
    client.force_login(user)

    page = client.get(url).content.decode()

    assert SENTENCE in page
    assert "password" not in page
    assert 'href="/garmin/login/"' not in page


def test_a_password_that_is_sent_all_the_same_goes_nowhere(rule, client, user, account, garmin):
    rule["ana"] = SENTENCE
    client.force_login(user)

    response = client.post("/garmin/login/", {"email": EMAIL, "password": PASSWORD})

    assert SENTENCE in response.content.decode()
    assert garmin.counts["login"] == 0


def test_the_code_page_says_the_sentence_and_takes_no_code(rule, client, user, mfa_account):
    start_login(user, EMAIL, PASSWORD)
    rule["ana"] = SENTENCE
    client.force_login(user)

    page = client.get("/garmin/mfa/").content.decode()

    assert SENTENCE in page
    assert 'name="code"' not in page
    assert "Cancel sign-in" in page


def test_a_connected_user_who_may_not_is_offered_no_new_login(rule, client, user, connect):
    connect(user)
    rule["ana"] = SENTENCE
    client.force_login(user)

    page = client.get("/garmin/").content.decode()

    assert EMAIL in page
    assert 'href="/garmin/login/"' not in page
    assert "Disconnect my Garmin account" in page
