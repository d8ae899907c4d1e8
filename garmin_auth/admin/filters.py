"""The filters of the admin's list."""

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext, pgettext_lazy

from ..engines import installed_engines, known_engines
from ..models import EndedReason, Status
from ..storage.lifetimes import soon
from ..storage.querysets import HAS_SESSION
from .unreadable import can_be_read, cannot_be_read, find_unreadable, no_key


def who_must_act(rows: Any) -> dict[str, Q]:
    """Return the conditions for rows whose user or staff must act, by the names of ActFilter.

    Args:
        rows: a queryset of GarminAuthenticationState.
    """
    week = timezone.now() - timedelta(days=7)
    # A session that has never worked counts from its start.
    not_for_a_week = Q(last_validated__lt=week) | Q(last_validated=None, connected_at__lt=week)
    return {
        "reconnect": Q(status=Status.DISCONNECTED, ended_reason=EndedReason.EXPIRED),
        "failing": rows.failing_condition(),
        "soon": Q(HAS_SESSION) & soon(),
        "code": Q(status=Status.MFA_PENDING),
        "staff": Q(HAS_SESSION) & not_for_a_week,
        "engine": Q(HAS_SESSION) & ~Q(engine__in=installed_engines()),
    }


class ActFilter(admin.SimpleListFilter):
    """Filter by who has to do something, and what, for the connection to work or keep working."""

    title = pgettext_lazy("garmin_auth", "action required")
    parameter_name = "act"

    def __init__(self, request, params, model, model_admin):
        self.model_admin = model_admin
        super().__init__(request, params, model, model_admin)

    def lookups(self, request, model_admin):
        return (
            ("reconnect", _("User: connect again (disconnected by Garmin)")),
            ("failing", _("User: connect again (has been failing)")),
            ("soon", _("User: connect again (expires soon)")),
            ("code", _("User: enter the verification code")),
            ("staff", _("Staff: has not worked for 7 days")),
            ("key", _("Staff: no key in FERNET_KEYS matches")),
            ("engine", _("Staff: engine is not installed")),
        )

    def queryset(self, request, queryset):
        if self.value() == "key":
            return queryset.filter(no_key(find_unreadable(request, self.model_admin)))
        return queryset.filter(who_must_act(queryset).get(self.value(), Q()))


class StatusFilter(admin.ChoicesFieldListFilter):
    """Filter by the column, which an index has. It does not say whether a session can be read."""

    def choices(self, changelist):
        words = str(Status.ACTIVE.label)
        for choice in super().choices(changelist):
            if str(choice["display"]).startswith(words):
                more = pgettext("garmin_auth", "connected or unreadable")
                choice["display"] = more + choice["display"][len(words) :]
            yield choice


class SessionFilter(admin.SimpleListFilter):
    """Filter by whether the session can be read. Rows without a session match neither."""

    title = pgettext_lazy("garmin_auth", "session")
    parameter_name = "session"

    def __init__(self, request, params, model, model_admin):
        self.model_admin = model_admin
        super().__init__(request, params, model, model_admin)

    def lookups(self, request, model_admin):
        return (
            ("readable", pgettext_lazy("garmin_auth", "readable")),
            ("unreadable", pgettext_lazy("garmin_auth", "unreadable")),
        )

    def queryset(self, request, queryset):
        condition = {"readable": can_be_read, "unreadable": cannot_be_read}.get(self.value())
        if condition is None:
            return queryset
        return queryset.filter(condition(find_unreadable(request, self.model_admin)))


class EngineFilter(admin.SimpleListFilter):
    """Filter by the engine that wrote the session. Rows without a session match no engine.

    The choices are the engines known to this process, because finding the engines in use would
    read the whole table.
    """

    title = pgettext_lazy("garmin_auth", "engine")
    parameter_name = "engine"
    # Not a name that a site would give its own engine.
    UNKNOWN = "?"

    def lookups(self, request, model_admin):
        names = [(name, name) for name in sorted(known_engines())]
        return [*names, (self.UNKNOWN, pgettext_lazy("garmin_auth", "unknown engine"))]

    def queryset(self, request, queryset):
        if self.value() is None:
            return queryset
        if self.value() == self.UNKNOWN:
            return queryset.filter(HAS_SESSION).exclude(engine__in=known_engines())
        return queryset.filter(HAS_SESSION, engine=self.value())


class StalenessFilter(admin.SimpleListFilter):
    """Filter by when the session last worked."""

    title = pgettext_lazy("garmin_auth", "last time it worked")
    parameter_name = "validated"

    def lookups(self, request, model_admin):
        return (
            ("day", pgettext_lazy("garmin_auth", "in the last 24 hours")),
            ("week", pgettext_lazy("garmin_auth", "1 to 7 days ago")),
            ("older", pgettext_lazy("garmin_auth", "more than 7 days ago")),
            ("never", pgettext_lazy("garmin_auth", "never")),
        )

    def queryset(self, request, queryset):
        day, week = (timezone.now() - timedelta(days=days) for days in (1, 7))
        condition = {
            "day": Q(HAS_SESSION, last_validated__gte=day),
            "week": Q(HAS_SESSION, last_validated__gte=week, last_validated__lt=day),
            "older": Q(HAS_SESSION, last_validated__lt=week),
            "never": Q(HAS_SESSION, last_validated=None),
        }.get(self.value(), Q())
        return queryset.filter(condition)


class EndFilter(admin.SimpleListFilter):
    """Filter by when the session ends at the latest."""

    title = pgettext_lazy("garmin_auth", "expiration date")
    parameter_name = "ends"

    def lookups(self, request, model_admin):
        return (
            ("past", pgettext_lazy("garmin_auth", "in the past")),
            ("soon", pgettext_lazy("garmin_auth", "within 30 days")),
            ("later", pgettext_lazy("garmin_auth", "in more than 30 days")),
            ("unknown", pgettext_lazy("garmin_auth", "unknown")),
        )

    def queryset(self, request, queryset):
        now = timezone.now()
        soon = now + timedelta(days=30)
        condition = {
            "past": Q(session_ends_at__lt=now),
            "soon": Q(session_ends_at__gte=now, session_ends_at__lt=soon),
            "later": Q(session_ends_at__gte=soon),
            "unknown": Q(HAS_SESSION, session_ends_at=None),
        }.get(self.value(), Q())
        return queryset.filter(condition)
