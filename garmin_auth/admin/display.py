"""How the admin shows states and times."""

from typing import Any

from django.utils import timezone
from django.utils.dateformat import format as format_date
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from ..engines import is_installed
from ..models import EndedReason, Status
from ..storage import keys
from ..templatetags.garmin_auth import garmin_in

# The classes of states in admin.css.
GOOD, WAITING, BAD, OFF = "good", "waiting", "bad", "off"


def state_in_words(state: Any) -> Any:
    """Describe the session, or why there is none, and a login that is pending or in progress.

    Nothing is decrypted.

    Args:
        state: a GarminAuthenticationState of ``with_login_under_way().with_failing()``.
    """
    facts = []
    if state.connected_at is not None:
        facts.append(_session(state))
    elif state.status == Status.DISCONNECTED:
        bad = state.ended_reason == EndedReason.EXPIRED
        facts.append((BAD if bad else OFF, state.get_ended_reason_display()))
    if state.status == Status.MFA_PENDING:
        facts.append((WAITING, Status.MFA_PENDING.label))
    if state.login_under_way:
        facts.append((WAITING, pgettext_lazy("garmin_auth", "sign-in in progress")))
    return format_html_join(", ", '<span class="ga-state ga-{}">{}</span>', facts)


def _session(state: Any) -> tuple[str, Any]:
    if not is_installed(state.engine):
        return BAD, pgettext_lazy("garmin_auth", "unreadable (engine not installed)")
    if keys.key_of(bytes(state.session_data)) is None:
        return BAD, _("unreadable (no key in FERNET_KEYS matches)")
    if state.is_failing:
        return BAD, pgettext_lazy("garmin_auth", "failing")
    return GOOD, Status.ACTIVE.label


def time_in_words(moment: Any) -> Any:
    """Return in words how far a moment is from now, with the exact time as a tooltip."""
    if moment is None:
        return None
    local = timezone.localtime(moment) if timezone.is_aware(moment) else moment
    exact = f"{date_format(local, 'DATETIME_FORMAT')} {format_date(local, 'T')}"
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        format_date(local, "c"),
        exact,
        garmin_in(moment),
    )
