"""Staff see every state and none of the secrets; what they may do is in the actions."""

import time
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.contrib.auth import get_user_model
from django.db.models import BooleanField, ExpressionWrapper, Q
from django.urls import reverse
from django.utils import timezone
from django.utils.dateformat import format as format_date
from django.utils.decorators import method_decorator
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from .deferred import deferred
from .engines import installed_engines, is_installed, known_engines
from .models import CONNECTED, DatabaseNow, EndedReason, GarminAuthenticationState, Status
from .templatetags.garmin_auth import garmin_in
from .transactions import non_atomic_everywhere

if TYPE_CHECKING:
    from . import crew, evidence, figures, health, keys, login, reports
else:
    crew, evidence, figures, health, keys, login, reports = map(
        deferred, ("crew", "evidence", "figures", "health", "keys", "login", "reports")
    )

# Of so many rows an action tells each result; of more, the counts. And so many, one thread checks.
TOLD_ONE_BY_ONE = 10
# Threads that check what was selected, and seconds after which they begin no further check: a web
# server waits for no request much longer.
CHECK_WORKERS, CHECK_SECONDS = 8, 20


class ActFilter(admin.SimpleListFilter):
    """Who must do something, so that the connection works, or goes on to?"""

    title = _("who must act")
    parameter_name = "act"

    def lookups(self, request, model_admin):
        return (
            ("reconnect", _("user: connect again, Garmin has ended it")),
            ("soon", _("user: connect again, it ends within 30 days")),
            ("code", _("user: type the code")),
            ("staff", _("staff: has not worked for 7 days")),
            ("engine", _("staff: its engine is not installed")),
        )

    def queryset(self, request, queryset):
        now = timezone.now()
        week = now - timedelta(days=7)
        condition = {
            "reconnect": Q(status=Status.DISCONNECTED, ended_reason=EndedReason.EXPIRED),
            "soon": Q(CONNECTED, session_ends_at__lt=now + timedelta(days=30)),
            "code": Q(status=Status.MFA_PENDING),
            "staff": Q(CONNECTED, last_validated__lt=week),
            "engine": Q(CONNECTED) & ~Q(engine__in=installed_engines()),
        }.get(self.value(), Q())
        return queryset.filter(condition)


class EngineFilter(admin.SimpleListFilter):
    """Which engine wrote the session? A row without one has none, whatever its column says.

    The engines that are known here: to ask the table for all that it names would read all of it.
    """

    title = _("engine")
    parameter_name = "engine"
    # No name of an engine, for a setting names them.
    UNKNOWN = "?"

    def lookups(self, request, model_admin):
        names = [(name, name) for name in sorted(known_engines())]
        return [*names, (self.UNKNOWN, _("not known here"))]

    def queryset(self, request, queryset):
        if self.value() is None:
            return queryset
        if self.value() == self.UNKNOWN:
            return queryset.filter(CONNECTED).exclude(engine__in=known_engines())
        return queryset.filter(CONNECTED, engine=self.value())


class StalenessFilter(admin.SimpleListFilter):
    """When did the session last work?"""

    title = _("last validated")
    parameter_name = "validated"

    def lookups(self, request, model_admin):
        return (
            ("day", _("in the last 24 hours")),
            ("week", _("1 to 7 days ago")),
            ("older", _("more than 7 days ago")),
            ("never", _("never, though connected")),
        )

    def queryset(self, request, queryset):
        day, week = (timezone.now() - timedelta(days=days) for days in (1, 7))
        condition = {
            "day": Q(CONNECTED, last_validated__gte=day),
            "week": Q(CONNECTED, last_validated__gte=week, last_validated__lt=day),
            "older": Q(CONNECTED, last_validated__lt=week),
            "never": Q(CONNECTED, last_validated=None),
        }.get(self.value(), Q())
        return queryset.filter(condition)


class EndFilter(admin.SimpleListFilter):
    """When will the session end by itself?"""

    title = _("ends by")
    parameter_name = "ends"

    def lookups(self, request, model_admin):
        return (
            ("past", _("already past")),
            ("soon", _("within 30 days")),
            ("later", _("later")),
            ("unknown", _("not known, though connected")),
        )

    def queryset(self, request, queryset):
        now = timezone.now()
        soon = now + timedelta(days=30)
        condition = {
            "past": Q(session_ends_at__lt=now),
            "soon": Q(session_ends_at__gte=now, session_ends_at__lt=soon),
            "later": Q(session_ends_at__gte=soon),
            "unknown": Q(CONNECTED, session_ends_at=None),
        }.get(self.value(), Q())
        return queryset.filter(condition)


class StateChangeList(ChangeList):
    """Marks the rows of the page whose session no key or no engine opens: one more query for all
    of them, nothing decrypted."""

    def get_results(self, request):
        super().get_results(request)
        self.result_list = list(self.result_list)
        lost = keys.unreadable(state.pk for state in self.result_list)
        engines = {state.engine for state in self.result_list}
        absent = {name for name in engines if not is_installed(name)}
        for state in self.result_list:
            state.is_unreadable = state.pk in lost
            state.has_no_engine = state.engine in absent


@admin.register(GarminAuthenticationState)
class GarminAuthenticationStateAdmin(admin.ModelAdmin):
    """Read-only. Sessions, pending logins and account names are not shown, not even encrypted."""

    list_display = (
        "user",
        "state",
        "engine",
        "connected",
        "ends",
        "validated",
        "checked",
    )
    list_filter = (ActFilter, "status", EngineFilter, StalenessFilter, EndFilter)
    # Counts beside the filters, by engine to watch the site's move to another, cost a look at every
    # row: "Show counts" asks for them. Other pages read no more than they show, and count in an
    # index (benchmarks/RESULTS.md).
    show_facets = admin.ShowFacets.ALLOW
    show_full_result_count = False
    list_select_related = ("user",)
    ordering = ("-updated_at", "-pk")
    change_list_template = "garmin_auth/admin/change_list.html"
    fields = (
        "user",
        "state",
        "engine",
        "connected_at",
        "session_ends_at",
        "last_validated",
        "last_checked_at",
        "ended_reason",
        "mfa_started_at",
        "mfa_attempts",
        "created_at",
        "updated_at",
    )
    readonly_fields = fields
    actions = ("check_now", "disconnect")

    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        # For the list, it is the permission that the actions need. A single row is for reading
        # only: saving it would write back what workers have changed since it was shown.
        return obj is None and super().has_change_permission(request)

    def has_view_permission(self, request, obj=None):
        return super().has_view_permission(request) or super().has_change_permission(request)

    def get_queryset(self, request):
        """Tell of each row whether a login is under way, by the database's clock."""
        under_way = Q(login_failure="", login_expires_at__gt=DatabaseNow())
        return (
            super()
            .get_queryset(request)
            .annotate(login_is_under_way=ExpressionWrapper(under_way, BooleanField()))
        )

    def get_ordering(self, request):
        """Put first what changed last; of what is filtered by a time, what that time is up for."""
        for name, column in (("validated", "last_validated"), ("ends", "session_ends_at")):
            if name in request.GET:
                return (column, "pk")
        return super().get_ordering(request)

    def get_search_results(self, request, queryset, search_term):
        """Search first and sort then: SQLite would look up the user of every row, sorted."""
        if not search_term:
            return super().get_search_results(request, queryset, search_term)
        everybody = self.model._default_manager.all()
        found, _duplicates = super().get_search_results(request, everybody, search_term)
        return queryset.filter(pk__in=found.values("pk")), False

    def get_search_fields(self, request):
        """Search as the site searches its users; without an admin of theirs, by name and e-mail."""
        user_model = get_user_model()
        user_admin = self.admin_site._registry.get(user_model)
        fields = tuple(user_admin.get_search_fields(request)) if user_admin else ()
        if not fields:
            fields = (user_model.USERNAME_FIELD, user_model.get_email_field_name())
        names = {field.name for field in user_model._meta.get_fields()}
        return tuple(
            _of_user(field) for field in fields if field.lstrip("^=@").split("__")[0] in names
        )

    def get_changelist(self, request, **kwargs):
        return StateChangeList

    @method_decorator(non_atomic_everywhere)
    def changelist_view(self, request, extra_context=None):
        # Its actions ask Garmin, which must not happen inside a transaction.
        response = super().changelist_view(request, extra_context)  # Refuses who may not see it.
        changes = (getattr(response, "context_data", None) or {}).get("cl")
        if changes is not None and changes.add_facets:
            response.context_data["figures"] = figures.figures_of(self.model.objects.all())
        if request.method == "GET" and evidence.mass_failure():
            self.message_user(
                request,
                gettext(
                    "Garmin refuses many users and accepts nobody: look at the consumer key and "
                    "the clock. No session is cleared until Garmin accepts somebody again."
                ),
                messages.ERROR,
            )
        return response

    @admin.display(description=_("status"), ordering="status")
    def state(self, state):
        """All facts: what the session is like, whether a login waits for a code or still runs."""
        words = []
        if state.connected_at is not None:
            lost = getattr(state, "is_unreadable", None)
            lost = bool(keys.unreadable([state.pk])) if lost is None else lost
            absent = getattr(state, "has_no_engine", None)
            absent = not is_installed(state.engine) if absent is None else absent
            if absent:
                words.append(_("unreadable: its engine is not installed"))
            else:
                words.append(_("unreadable: no key opens it") if lost else Status.ACTIVE.label)
        elif state.status == Status.DISCONNECTED:
            words.append(state.get_ended_reason_display())
        if state.status == Status.MFA_PENDING:
            words.append(Status.MFA_PENDING.label)
        if state.login_is_under_way:
            words.append(_("a login is under way"))
        return ", ".join(map(str, words))

    @admin.action(description=_("Check the selected sessions now"), permissions=["change"])
    def check_now(self, request, queryset):
        states = list(queryset.select_related("user"))
        one_by_one = len(states) <= TOLD_ONE_BY_ONE
        ends = time.monotonic() + CHECK_SECONDS
        stop = health.StopRule()

        def in_time():
            for state in states:
                if time.monotonic() > ends or stop.reason:
                    return
                yield state

        checkers = crew.Crew(
            1 if one_by_one else CHECK_WORKERS,
            lambda state: (state, health.check_session(state.user)),
        )
        outcomes = Counter()
        for state, check in checkers.map(in_time()):
            stop.hear(check)
            outcomes[check.outcome] += 1
            level, sentence = self._result(check)
            if one_by_one:
                self.message_user(request, f"“{state.user}”: {sentence}", level)
            self.log_change(request, state, sentence)
        if not one_by_one:
            self._sum_up(request, outcomes)
        if left := len(states) - outcomes.total():
            sentence = gettext(
                "Not checked: %d. Garmin was too slow, or had problems of its own. Try again "
                "later, or leave them to check_garmin_sessions."
            )
            self.message_user(request, sentence % left, messages.WARNING)

    @admin.action(description=_("Disconnect the selected accounts"), permissions=["change"])
    def disconnect(self, request, queryset):
        for state in queryset.select_related("user"):
            if login.disconnect(state.user, EndedReason.STAFF):
                self._tell(request, state, messages.SUCCESS, gettext("disconnected"))
            else:
                self._tell(request, state, messages.INFO, gettext("was not connected"))

    @admin.display(description=_("connected"), ordering="connected_at")
    def connected(self, state):
        return _in_words(state.connected_at)

    @admin.display(description=_("ends by"), ordering="session_ends_at")
    def ends(self, state):
        return _in_words(state.session_ends_at)

    @admin.display(description=_("last validated"), ordering="last_validated")
    def validated(self, state):
        return _in_words(state.last_validated)

    @admin.display(description=_("last checked"), ordering="last_checked_at")
    def checked(self, state):
        return _in_words(state.last_checked_at)

    def _sum_up(self, request, outcomes) -> None:
        """Show the results of many rows in one message; each is in its row's history."""
        sentence = gettext(
            "Checked: %(checked)d. Working: %(active)d. Ended by Garmin: %(expired)d. Not to be "
            "judged, and kept: %(unknown)d. Unreadable: %(unreadable)d. Not connected: %(gone)d."
        )
        counts = {str(outcome): outcomes[outcome] for outcome in reports.Outcome}
        good = outcomes[reports.Outcome.ACTIVE] == outcomes.total()
        self.message_user(
            request,
            sentence % {"checked": outcomes.total(), **counts},
            messages.SUCCESS if good else messages.WARNING,
        )

    def _tell(self, request, state, level, sentence) -> None:
        """Show a row's result, and write it into the row's history."""
        self.message_user(request, f"“{state.user}”: {sentence}", level)
        self.log_change(request, state, sentence)

    def _result(self, check) -> tuple[int, str]:
        if check.outcome is reports.Outcome.ACTIVE:
            refreshed = gettext("works; its access token was refreshed")
            return messages.SUCCESS, refreshed if check.refreshed else gettext("works")
        if check.outcome is reports.Outcome.EXPIRED:
            return messages.ERROR, gettext("was ended by Garmin; the user has to connect again")
        if check.outcome is reports.Outcome.GONE:
            return messages.INFO, gettext("is not connected")
        if check.outcome is reports.Outcome.UNREADABLE:
            return messages.WARNING, f"{check.error} {keys.UNREADABLE_HINT}"
        return messages.WARNING, gettext("could not be judged, and is kept: %s") % check.error


class GarminAccountLink:
    """For a site's own user admin: put it before ``UserAdmin``, to show what there is for a user.

    A section of the user's page says it in a few words, and leads to the row for those who may see
    it. Nothing is decrypted.
    """

    def get_readonly_fields(self, request, obj=None):
        return (*super().get_readonly_fields(request, obj), "garmin_account")

    def get_fieldsets(self, request, obj=None):
        fieldsets = super().get_fieldsets(request, obj)
        may_see = any(
            request.user.has_perm(f"garmin_auth.{permission}_garminauthenticationstate")
            for permission in ("view", "change")
        )
        if obj is None or not may_see:  # None: the user is being made.
            return fieldsets
        return (*fieldsets, (_("Garmin account"), {"fields": ("garmin_account",)}))

    @admin.display(description=_("Garmin account"))
    def garmin_account(self, user):
        row = GarminAuthenticationState.objects.filter(user_id=user.pk).first()
        if row is None:
            return Status.NONE.label
        url = reverse("admin:garmin_auth_garminauthenticationstate_change", args=[row.pk])
        return format_html('<a href="{}">{}</a>', url, _facts(row))


def _facts(state) -> str:
    """Say what the session is like, or why there is none, and whether a login waits for a code."""
    words = [Status.ACTIVE.label] if state.connected_at is not None else []
    if state.status == Status.DISCONNECTED:
        words.append(state.get_ended_reason_display())
    if state.status == Status.MFA_PENDING:
        words.append(Status.MFA_PENDING.label)
    return ", ".join(map(str, words))


def _in_words(moment) -> Any:
    """Say how long ago a moment was, or is to come, with the exact one on hover."""
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


def _of_user(field: str) -> Any:
    """Turn a search field of the user model into one of ours, its prefix in front."""
    bare = field.lstrip("^=@")
    return f"{field[: len(field) - len(bare)]}user__{bare}"
