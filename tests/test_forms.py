import pytest
from django import forms

from garmin_auth.forms import LoginForm, MFAForm, SecretField, focus_first_error


def with_focus(form):
    return [field.name for field in form if field.field.widget.attrs.get("autofocus")]


@pytest.mark.parametrize("typed", ["123456", " 123456 ", "123 456", "123-456", "12 34 56"])
def test_a_code_is_taken_as_people_copy_it(typed):
    form = MFAForm({"code": typed})
    assert form.is_valid()
    assert form.cleaned_data["code"].reveal() == "123456"


@pytest.mark.parametrize("zero", ["\u0660", "\u0966", "\uff10"])
def test_a_code_is_taken_in_any_script(zero):
    form = MFAForm({"code": "".join(chr(ord(zero) + digit) for digit in range(1, 7))})
    assert form.is_valid()
    assert form.cleaned_data["code"].reveal() == "123456"


def test_a_code_keeps_its_leading_zeros():
    form = MFAForm({"code": "000042"})
    assert form.is_valid()
    assert form.cleaned_data["code"].reveal() == "000042"


@pytest.mark.parametrize("typed", ["abcdef", "123", "123456789", "12345a", "²²²²²²", "-- --"])
def test_what_is_no_code_is_told_so(typed):
    form = MFAForm({"code": typed})
    assert form.errors.as_data()["code"][0].code == "not_a_code"


def test_an_empty_code_is_required():
    assert MFAForm({"code": " "}).errors.as_data()["code"][0].code == "required"


def test_a_password_keeps_its_spaces():
    form = LoginForm({"email": "ana@example.com", "password": "  two  spaces "})
    assert form.is_valid()
    assert form.cleaned_data["password"].reveal() == "  two  spaces "


def test_an_email_address_loses_its_spaces():
    form = LoginForm({"email": " ana@example.com ", "password": "x"})
    assert form.is_valid()
    assert form.cleaned_data["email"] == "ana@example.com"


@pytest.mark.parametrize(
    "name", ["ana", "13812345678", "name..x@docomo.ne.jp", "j\u00f6rg@example.com"]
)
def test_a_user_name_is_for_garmin_to_judge(name):
    form = LoginForm({"email": name, "password": "x"})
    assert form.is_valid()
    assert form.cleaned_data["email"] == name


def test_a_user_name_is_required():
    assert LoginForm({"email": " ", "password": "x"}).errors.as_data()["email"][0].code == (
        "required"
    )


def test_the_user_name_is_typed_on_the_keyboard_of_addresses():
    assert 'type="text"' in str(LoginForm()["email"])
    assert 'inputmode="email"' in str(LoginForm()["email"])


def test_an_email_address_is_shown_again():
    assert "ana@example.com" in str(LoginForm({"email": "ana@example.com"})["email"])


def test_a_password_is_not_shown_again():
    assert "s3cret" not in LoginForm({"email": "", "password": "s3cret"}).as_p()


def test_a_code_is_not_shown_again():
    assert "4711" not in MFAForm({"code": "4711 and so on"}).as_p()


def test_a_secret_is_not_shown_again_by_a_widget_that_would():
    class SiteForm(forms.Form):
        secret = SecretField(widget=forms.PasswordInput(render_value=True))

    form = SiteForm({"secret": "s3cret"})
    assert form.is_valid()
    assert "s3cret" not in str(form["secret"])


def test_the_code_field_says_what_it_is_to_phones_and_password_managers():
    html = str(MFAForm()["code"])
    assert 'autocomplete="one-time-code"' in html
    assert 'inputmode="numeric"' in html


def test_browsers_are_not_told_that_the_sites_own_password_belongs_here():
    form = LoginForm()
    assert 'autocomplete="email"' in str(form["email"])
    assert 'autocomplete="new-password"' in str(form["password"])


def test_the_first_field_in_error_gets_the_focus():
    form = LoginForm({"email": "ana@example.com", "password": ""})
    focus_first_error(form)
    assert with_focus(form) == ["password"]


def test_only_one_field_gets_the_focus():
    form = LoginForm({})
    focus_first_error(form)
    assert with_focus(form) == ["email"]


def test_no_field_gets_the_focus_if_the_form_as_a_whole_is_in_error():
    form = LoginForm({})
    form.add_error(None, "Not now.")
    focus_first_error(form)
    assert with_focus(form) == []


def test_a_focus_is_not_handed_on_to_the_next_form():
    focus_first_error(LoginForm({}))
    assert with_focus(LoginForm()) == []
