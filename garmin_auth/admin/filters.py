"""The filters of the admin's list."""

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import Count, Q
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


class ConditionFilter(admin.SimpleListFilter):
    """A filter whose choices are conditions, by which its counts are taken too.

    Django's own counts look up each row among the primary keys of a choice. With a million rows,
    PostgreSQL does not finish that, because the keys do not fit into its ``work_mem``.
    """

    def __init__(self, request, params, model, model_admin):
        self.model_admin = model_admin
        super().__init__(request, params, model, model_admin)

    def condition(self, value: str | None, rows: Any) -> Q:
        """Return the condition of a choice, an empty one for what is none.

        Args:
            value: the choice.
            rows: the queryset to filter or count.
        """
        raise NotImplementedError

    def queryset(self, request, queryset):
        return queryset.filter(self.condition(self.value(), queryset))

    def get_facet_counts(self, pk_attname, filtered_qs):
        return {
            f"{number}__c": Count(pk_attname, filter=self.condition(str(value), filtered_qs))
            for number, (value, _label) in enumerate(self.lookup_choices)
        }


class ActFilter(ConditionFilter):
    """Filter by who has to do something, and what, for the connection to work or keep working."""

    title = pgettext_lazy("garmin_auth", "action required")
    parameter_name = "act"

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

    def condition(self, value, rows):
        if value == "key":
            return no_key(find_unreadable(self.request, self.model_admin))
        return who_must_act(rows).get(value, Q())


class StatusFilter(admin.ChoicesFieldListFilter):
    """Filter by the column, which an index has. It does not say whether a session can be read."""

    def choices(self, changelist):
        words = str(Status.ACTIVE.label)
        for choice in super().choices(changelist):
            if str(choice["display"]).startswith(words):
                more = pgettext("garmin_auth", "connected or unreadable")
                choice["display"] = more + choice["display"][len(words) :]
            yield choice


class SessionFilter(ConditionFilter):
    """Filter by whether the session can be read. Rows without a session match neither."""

    title = pgettext_lazy("garmin_auth", "session")
    parameter_name = "session"

    def lookups(self, request, model_admin):
        return (
            ("readable", pgettext_lazy("garmin_auth", "readable")),
            ("unreadable", pgettext_lazy("garmin_auth", "unreadable")),
        )

    def condition(self, value, rows):
        condition = {"readable": can_be_read, "unreadable": cannot_be_read}.get(value)
        return condition(find_unreadable(self.request, self.model_admin)) if condition else Q()


class EngineFilter(ConditionFilter):
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

    def condition(self, value, rows):
        if value is None:
            return Q()
        if value == self.UNKNOWN:
            return Q(HAS_SESSION) & ~Q(engine__in=known_engines())
        return Q(HAS_SESSION, engine=value)


class StalenessFilter(ConditionFilter):
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

    def condition(self, value, rows):
        day, week = (timezone.now() - timedelta(days=days) for days in (1, 7))
        return {
            "day": Q(HAS_SESSION, last_validated__gte=day),
            "week": Q(HAS_SESSION, last_validated__gte=week, last_validated__lt=day),
            "older": Q(HAS_SESSION, last_validated__lt=week),
            "never": Q(HAS_SESSION, last_validated=None),
        }.get(value, Q())


class EndFilter(ConditionFilter):
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

    def condition(self, value, rows):
        now = timezone.now()
        soon = now + timedelta(days=30)
        return {
            "past": Q(session_ends_at__lt=now),
            "soon": Q(session_ends_at__gte=now, session_ends_at__lt=soon),
            "later": Q(session_ends_at__gte=soon),
            "unknown": Q(HAS_SESSION, session_ends_at=None),
        }.get(value, Q())
