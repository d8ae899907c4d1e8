"""What recorded answers have that is easy to get wrong: garmin-wire.md lists it."""

from tests.testing.wire import (
    ADA,
    EXCHANGE,
    PROFILE,
    SIGN_IN,
    SSO,
    post_code,
    post_login,
    title_of,
)


def cookie_names(response):
    return {cookie.name for cookie in response.cookies}


def test_a_demand_for_a_code_has_its_lists_and_switches(ada_mfa, http):
    http.get(SIGN_IN, timeout=5)
    demand = post_login(http, *ADA).json()

    switches = demand["customerMfaInfo"]["mfaUISetting"]
    assert set(switches) == {"allowPhoneOption", "allowAddEmailAddress", "chooseDifferentWayShown"}
    assert {type(value) for value in switches.values()} == {bool}
    assert demand["consentTypeList"] == []


def test_the_answer_to_a_code_leaves_out_what_a_login_has(garmin, ada_mfa, http):
    http.get(SIGN_IN, timeout=5)
    post_login(http, *ADA)

    answer = post_code(http, garmin.mfa_code(ADA[0])).json()

    assert answer["responseStatus"]["type"] == "SUCCESSFUL"
    assert not {"customerMfaInfo", "consentTypeList", "captchaAlreadyPassed"} & set(answer)


def test_the_answer_to_a_password_has_them(ada, http):
    http.get(SIGN_IN, timeout=5)

    answer = post_login(http, *ADA).json()

    assert (answer["customerMfaInfo"], answer["consentTypeList"]) == (None, None)
    assert answer["captchaAlreadyPassed"] is False


def test_the_profile_names_its_image_by_uuid_and_its_location_in_words(as_ada):
    profile = as_ada.get(PROFILE, timeout=5).json()

    assert profile["profileImageUuid"]
    assert "profileImageType" not in profile
    assert isinstance(profile["location"], str)


def test_the_sign_in_pages_have_their_title(http):
    for page in (SIGN_IN, f"{SSO}/portal/sso/en-US/sign-in?clientId=GarminConnect"):
        assert title_of(http.get(page, timeout=5)) == "Garmin SSO Portal"


def test_the_page_after_a_login_is_empty(http):
    answer = http.get(f"{SSO}/portal/sso/embed", timeout=5)

    assert (answer.status_code, answer.content) == (200, b"")


def test_the_api_sets_cookies(as_ada):
    assert cookie_names(as_ada.get(PROFILE, timeout=5)) == {"_cfuvid", "ADRUM_BT1", "ADRUM_BTa"}
    assert cookie_names(as_ada.post(EXCHANGE, timeout=5)) == {"_cfuvid"}
