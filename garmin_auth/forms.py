"""The forms on which a user logs in at Garmin."""

import re
import unicodedata
from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

# Garmin's codes have six digits; a length that we have not seen should not lock anybody out.
CODE = re.compile(r"[0-9]{4,8}")


class SecretField(forms.CharField):
    """A password or a code: what was typed is never shown again, whatever widget a site uses."""

    def bound_data(self, data: Any, initial: Any) -> None:
        # SECURITY: nor is it a variable of the frames that render the form, which an error report
        # would print when a template fails.
        return None


class LoginForm(forms.Form):
    """E-mail address and password of a Garmin account."""

    email = forms.EmailField(
        label=_("Garmin e-mail address"),
        max_length=254,
        widget=forms.EmailInput(attrs={"autocomplete": "username", "spellcheck": "false"}),
    )
    password = SecretField(
        label=_("Garmin password"),
        help_text=_("It goes to Garmin once and is not stored here."),
        max_length=1024,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
    )


class MFAForm(forms.Form):
    """The code that Garmin sent."""

    code = SecretField(
        label=_("Code from Garmin"),
        max_length=32,
        widget=forms.TextInput(
            attrs={
                "autocomplete": "one-time-code",
                "autofocus": True,
                "inputmode": "numeric",
                "spellcheck": "false",
            }
        ),
    )

    def clean_code(self) -> str:
        """Drop the spaces and dashes that people copy along, and take any script's digits."""
        code = re.sub(r"[\s-]", "", self.cleaned_data["code"])
        if code.isdecimal():
            code = "".join(str(unicodedata.decimal(digit)) for digit in code)
        if not CODE.fullmatch(code):
            raise forms.ValidationError(
                _("Type the digits of the code that Garmin sent you, for example 123456."),
                code="not_a_code",
            )
        return code


def focus_first_error(form: forms.Form) -> None:
    """Let the browser begin at the first field in error, unless the form as a whole has one.

    Args:
        form: a form about to be rendered. Its template gives errors of the whole form the focus.
    """
    if form.non_field_errors():
        return
    for bound in form:
        if bound.errors:
            bound.field.widget.attrs["autofocus"] = True
            return
