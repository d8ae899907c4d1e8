"""The simulator's embedded widget, garminconnect's third way to log in."""

import pytest

from tests.testing.wire import (
    ADA,
    EMBED,
    WIDGET_LOGIN,
    WIDGET_SEND,
    ask_widget_for_code,
    csrf_of,
    exchange_ticket,
    open_widget,
    post_widget_code,
    post_widget_login,
    script_of,
    ticket_of,
    title_of,
    wrong,
)


def test_widget_logs_in(ada, http):
    page = post_widget_login(http)

    assert (page.status_code, title_of(page)) == (200, "Success")
    assert exchange_ticket(http, ticket_of(page), EMBED).status_code == 200


def test_widget_shows_the_form_again_after_a_wrong_password(ada, http):
    page = post_widget_login(http, password="wrong")

    assert (page.status_code, title_of(page)) == (401, "GARMIN Authentication Application")
    assert script_of(page) == {}
    again = {"username": ADA[0], "password": ADA[1], "_csrf": csrf_of(page)}
    assert title_of(http.post(WIDGET_LOGIN, data=again, timeout=5)) == "Success"


@pytest.mark.parametrize("csrf", ["", "GUESS"])
def test_widget_refuses_a_form_that_is_not_its_own(garmin, ada, http, csrf):
    assert post_widget_login(http, _csrf=csrf).status_code == 403


def test_widget_refuses_a_form_without_cookies(ada, http):
    csrf = csrf_of(open_widget(http))
    http.cookies.clear()

    form = {"username": ADA[0], "password": ADA[1], "_csrf": csrf}

    assert http.post(WIDGET_LOGIN, data=form, timeout=5).status_code == 403


def test_widget_sends_a_code_when_asked_to(garmin, ada_mfa, http):
    page = post_widget_login(http)
    script = script_of(page)
    assert (script["mfaMethod"], script["codeSentTo"]) == ("email", "")
    with pytest.raises(LookupError, match="No code has been sent"):
        garmin.mfa_code(ADA[0])

    assert ask_widget_for_code(http, page).status_code == 200
    page = post_widget_code(http, page, garmin.mfa_code(ADA[0]))

    assert title_of(page) == "Success"
    assert exchange_ticket(http, ticket_of(page), EMBED).status_code == 200


def test_widget_sends_no_code_for_another_account(garmin, ada_mfa, http):
    page = post_widget_login(http)

    assert ask_widget_for_code(http, page, customerGuid="another").status_code == 400


def test_widget_sends_no_code_before_a_login(ada_mfa, http):
    open_widget(http)

    assert http.post(WIDGET_SEND, json={"mfaMethod": "email"}, timeout=5).status_code == 400


@pytest.mark.parametrize(("method", "word"), [("phone", "sms"), ("totp", "totp")])
def test_widget_names_the_method_in_its_own_word(garmin, http, method, word):
    garmin.add_account(*ADA, mfa=True, mfa_method=method)

    assert script_of(post_widget_login(http))["mfaMethod"] == word


def test_widget_has_nothing_to_send_to_an_authenticator(garmin, http):
    garmin.add_account(*ADA, mfa=True, mfa_method="totp")
    page = post_widget_login(http)

    assert title_of(post_widget_code(http, page, garmin.mfa_code(ADA[0]))) == "Success"


def test_widget_refuses_the_code_that_another_one_has_replaced(garmin, ada_mfa, http):
    page = post_widget_login(http)
    codes = []
    while len(set(codes)) < 2:
        ask_widget_for_code(http, page)
        codes.append(garmin.mfa_code(ADA[0]))

    assert title_of(post_widget_code(http, page, codes[0])) != "Success"
    assert title_of(post_widget_code(http, page, codes[-1])) == "Success"


def test_widget_takes_the_right_code_after_a_wrong_one(garmin, ada_mfa, http):
    page = post_widget_login(http)
    ask_widget_for_code(http, page)
    code = garmin.mfa_code(ADA[0])

    again = post_widget_code(http, page, wrong(code))

    assert title_of(again) == "Enter MFA code for login"
    assert "codeEntryInvalid" in again.text
    assert csrf_of(again) == csrf_of(page)
    assert title_of(post_widget_code(http, page, code)) == "Success"


def test_widget_says_that_a_code_comes_too_late(garmin, ada_mfa, http):
    page = post_widget_login(http)
    ask_widget_for_code(http, page)
    garmin.expire_mfa(ADA[0])

    assert "codeEntryExpired" in post_widget_code(http, page, garmin.mfa_code(ADA[0])).text


@pytest.mark.parametrize("csrf", ["", "GUESS"])
def test_widget_refuses_a_code_in_a_form_that_is_not_its_own(garmin, ada_mfa, http, csrf):
    page = post_widget_login(http)
    ask_widget_for_code(http, page)

    refused = post_widget_code(http, page, garmin.mfa_code(ADA[0]), _csrf=csrf)

    assert refused.status_code == 403
