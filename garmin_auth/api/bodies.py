"""What clients send: JSON, checked by the same forms as on the pages."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from django import forms
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, UnreadablePostError
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_variables

from ..forms import KeyForm, LoginForm, MFAForm
from ..logins.ways import Way, offered_ways
from .problems import Problem

# Bytes. The longest key that a form takes, with every character escaped, is shorter.
LARGEST = 65_536
# Garmin's keys end after a year at the most. Years like 9999 overflow in other time zones.
LONGEST_LIFE = timedelta(days=3660)
LONGEST_IDEMPOTENCY_KEY = 255
NOT_JSON = object()


class MomentField(forms.CharField):
    """A date and time as in RFC 3339, with its offset from UTC."""

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        if not text:
            return None
        try:
            moment = _aware(datetime.fromisoformat(text))
        except (ValueError, OverflowError):
            moment = None
        if moment is None:
            raise forms.ValidationError(
                _("Send a date and time with its offset, such as 2027-11-22T00:00:00Z."),
                code="not_a_moment",
            )
        if not timedelta() < moment - timezone.now() < LONGEST_LIFE:
            raise forms.ValidationError(
                _("This must be in the future, and not more than ten years away."),
                code="out_of_range",
            )
        return moment


def _aware(moment: datetime) -> datetime | None:
    return moment.astimezone(UTC) if timezone.is_aware(moment) else None


class WayForm(forms.Form):
    """In which of the ways that the site offers the user connects: the default is the first."""

    takes_key: bool
    way: Way

    engine = forms.CharField(required=False)
    domain = forms.CharField(required=False)

    def clean(self) -> dict[str, Any]:
        engine, domain = (self.cleaned_data.get(name) for name in ("engine", "domain"))
        ways = [way for way in offered_ways() if way.takes_key == self.takes_key]
        way = next((way for way in ways if engine in ("", way.engine)), None)
        if way is None:
            self.add_error("engine", _not_offered())
        elif domain and domain not in way.domains:
            self.add_error("domain", _not_offered())
        else:
            self.cleaned_data.update(engine=way.engine, domain=domain or way.domains[0])
        return self.cleaned_data


class LoginBody(WayForm):
    """The email address and password of a Garmin account."""

    takes_key = False
    email = LoginForm.base_fields["email"]
    password = LoginForm.base_fields["password"]


class KeyBody(WayForm):
    """A key that the user has created in Garmin Connect, and when it ends."""

    takes_key = True
    key = KeyForm.base_fields["key"]
    ends_at = MomentField(required=False)


class CodeBody(MFAForm):
    """The verification code."""


@sensitive_variables()
def read_body(request: HttpRequest, form_class: type[forms.Form]) -> forms.Form:
    """Return the valid form that a request sends as JSON.

    SECURITY: the body is read from the stream and not kept, so that no error report has it.

    Args:
        request: the request, whose body nobody has read.
        form_class: what it has to send.

    Raises:
        Problem: the body is too large, or not JSON; or it has wrong values.
    """
    try:
        sent = request.read(LARGEST + 1)
    except (OSError, UnreadablePostError, RequestDataTooBig):
        sent = b""
    if len(sent) > LARGEST:
        raise Problem(400, "too_large", _("This is too much data."))
    try:
        values = json.loads(sent.decode())
    except (ValueError, RecursionError):
        values = NOT_JSON  # The exception may repeat a part of it.
    if values is NOT_JSON:
        raise Problem(400, "not_json", _("The body must be JSON, in UTF-8."))
    if not isinstance(values, dict):
        raise Problem(422, "validation", _("The body must be a JSON object."), errors={})
    names = form_class.base_fields
    wrong = {
        name: [_error("not_text", _("This must be text."))]
        if name in names
        else [_error("unknown", _("There is no such value."))]
        for name, value in values.items()
        if name not in names or not _is_text(value)
    }
    if wrong:
        raise _invalid(wrong)
    form = form_class({name: value for name, value in values.items() if value is not None})
    if not form.is_valid():
        raise _invalid(
            {
                field: [_error(each["code"], each["message"]) for each in errors]
                for field, errors in form.errors.get_json_data().items()
            }
        )
    return form


def idempotency_key_of(request: HttpRequest) -> str:
    """Return the client's name for what it sends, so that sending it twice is one step; "" if none.

    Raises:
        Problem: it is too long.
    """
    key = request.headers.get("Idempotency-Key", "")
    if len(key) > LONGEST_IDEMPOTENCY_KEY:
        raise _invalid({"Idempotency-Key": [_error("max_length", _("This is too long."))]})
    return key


def _is_text(value: object) -> bool:
    if value is None:
        return True
    if not isinstance(value, str):
        return False
    try:
        value.encode()  # Half of a surrogate pair is no character.
    except UnicodeEncodeError:
        return False
    return True


def _invalid(errors: dict[str, Any]) -> Problem:
    return Problem(422, "validation", _("Some values are missing or wrong."), errors=errors)


def _error(code: str, message: Any) -> dict[str, str]:
    return {"code": code, "message": str(message)}


def _not_offered() -> forms.ValidationError:
    return forms.ValidationError(_("This site does not offer this."), code="not_offered")
