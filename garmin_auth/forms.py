"""The forms for connecting with Garmin."""

import re
import unicodedata
from typing import Any, cast

from django import forms
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from .engines import offered_domains
from .engines.secret import Secret
from .exceptions import GarminAuthError, InvalidKey, InvalidMFACode, KeyRefused
from .models import Domain

# Garmin's codes have six digits. Other lengths are accepted, so that a change at Garmin locks
# nobody out.
CODE = re.compile(r"[0-9]{4,8}")

# The field to which the message of a failure belongs. All others belong to the form.
FIELDS: dict[type[GarminAuthError], str] = {
    InvalidKey: "key",
    InvalidMFACode: "code",
    KeyRefused: "key",
}


class SecretField(forms.CharField):
    """A password, a key or a code: its cleaned value is a ``Secret``.

    It is never rendered again, whatever widget a site uses.
    """

    def clean(self, value: Any) -> Any:
        return Secret(super().clean(value))

    def bound_data(self, data: Any, initial: Any) -> None:
        # SECURITY: this also keeps the value out of the frames that render the form. If a template
        # fails, an error report prints their variables.
        return None


class DomainForm(forms.Form):
    """Asks in which of Garmin's two services the account is, if the site offers both."""

    domain = forms.ChoiceField(label=_("Garmin service"), choices=Domain.choices)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        offered = offered_domains()
        if len(offered) < 2:
            del self.fields["domain"]
            return
        field = cast(forms.ChoiceField, self.fields["domain"])
        field.choices = [(name, Domain(name).label) for name in offered]


class LoginForm(DomainForm):
    """The email address and password of a Garmin account."""

    # Not an EmailField: Garmin has user names, phone numbers in China, and addresses that Django
    # would refuse. Garmin judges it.
    email = forms.CharField(
        label=_("Garmin email address"),
        max_length=254,
        # SECURITY: the values of both "autocomplete" keep browsers from filling in the password
        # that they have saved for this site. With "username" and "current-password", and with "off"
        # and "current-password", Chromium does.
        widget=forms.TextInput(
            attrs={
                "autocapitalize": "none",
                "autocomplete": "email",
                "inputmode": "email",
                "spellcheck": "false",
            }
        ),
    )
    password = SecretField(
        label=_("Garmin password"),
        help_text=_("Your password is sent to Garmin once and is not stored on this site."),
        max_length=1024,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )


class KeyForm(DomainForm):
    """A key that the user has created in Garmin Connect, and how long it is valid."""

    # SECURITY: not a PasswordInput, into which browsers fill the password that they have saved for
    # this site, and which they offer to save.
    key = SecretField(
        label=pgettext_lazy("garmin_auth", "Key"),
        help_text=_("The key is stored encrypted and is not shown again."),
        max_length=4096,
        widget=forms.TextInput(
            attrs={"autocapitalize": "none", "autocomplete": "off", "spellcheck": "false"}
        ),
    )
    days = forms.TypedChoiceField(
        label=_("How long is the key valid?"),
        help_text=_("Counted from today, so that you are told in time to replace the key."),
        choices=[
            ("", pgettext_lazy("garmin_auth", "I don't know")),
            # What Garmin offers.
            ("30", pgettext_lazy("garmin_auth", "30 days")),
            ("90", pgettext_lazy("garmin_auth", "90 days")),
            ("180", pgettext_lazy("garmin_auth", "180 days")),
            ("365", pgettext_lazy("garmin_auth", "365 days")),
        ],
        coerce=int,
        empty_value=None,
        required=False,
    )


class MFAForm(forms.Form):
    """The verification code, which Garmin sent or an authenticator app shows."""

    code = SecretField(
        label=pgettext_lazy("garmin_auth", "Verification code"),
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

    def clean_code(self) -> Secret:
        """Remove whitespace and dashes, and convert the digits of any script to ASCII.

        Raises:
            ValidationError: the result is not 4 to 8 digits.
        """
        code = re.sub(r"[\s-]", "", self.cleaned_data["code"].reveal())
        if code.isdecimal():
            code = "".join(str(unicodedata.decimal(digit)) for digit in code)
        if not CODE.fullmatch(code):
            raise forms.ValidationError(
                _("Enter the digits of the verification code, for example 123456."),
                code="not_a_code",
            )
        return Secret(code)


def focus_first_error(form: forms.Form) -> None:
    """Set ``autofocus`` on the first field with an error.

    If the form has non-field errors, do nothing: the template focuses those.

    Args:
        form: a bound form, about to be rendered.
    """
    if form.non_field_errors():
        return
    for bound in form:
        if bound.errors:
            bound.field.widget.attrs["autofocus"] = True
            return
