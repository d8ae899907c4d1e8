"""Staff see every state and none of the secrets; what they may do is in the actions."""

from datetime import timedelta
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.contrib.auth import get_user_model
from django.db.models import Q
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from .engines import known_engines
from .evidence import mass_failure
from .health import Outcome, check_session
from .keys import UNREADABLE_HINT, unreadable
from .login import disconnect
from .models import EndedReason, GarminAuthenticationState, Status
from .transactions import non_atomic_everywhere


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
            "day": Q(last_validated__gte=day),
            "week": Q(last_validated__gte=week, last_validated__lt=day),
            "older": Q(last_validated__lt=week),
            "never": Q(last_validated=None, session_data__isnull=False),
        }.get(self.value(), Q())
        return queryset.filter(condition)


class StateChangeList(ChangeList):
    """Marks the rows of the page whose session no key opens: one more query, nothing decrypted."""

    def get_results(self, request):
        super().get_results(request)
        self.result_list = list(self.result_list)
        lost = unreadable(state.pk for state in self.result_list)
        for state in self.result_list:
            state.is_unreadable = state.pk in lost


@admin.register(GarminAuthenticationState)
class GarminAuthenticationStateAdmin(admin.ModelAdmin):
    """Read-only. Sessions, pending logins and account names are not shown, not even encrypted."""

    list_display = (
        "user",
        "state",
        "engine",
        "connected_at",
        "last_validated",
        "last_checked_at",
    )
    list_filter = ("status", StalenessFilter, ("engine", admin.AllValuesFieldListFilter))
    list_select_related = ("user",)
    ordering = ("-updated_at", "-pk")
    fields = (
        *list_display,
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
        if request.method == "GET" and mass_failure():
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
        """Both facts: what the session is like, and whether a login waits for a code."""
        words = []
        if state.connected_at is not None:
            lost = getattr(state, "is_unreadable", None)
            lost = bool(unreadable([state.pk])) if lost is None else lost
            if state.engine not in known_engines():
                words.append(_("unreadable: its engine is not installed"))
            else:
                words.append(_("unreadable: no key opens it") if lost else Status.ACTIVE.label)
        elif state.status == Status.DISCONNECTED:
            words.append(EndedReason(state.ended_reason).label)
        if state.status == Status.MFA_PENDING:
            words.append(Status.MFA_PENDING.label)
        return ", ".join(map(str, words))

    @admin.action(description=_("Check the selected sessions now"), permissions=["change"])
    def check_now(self, request, queryset):
        for state in queryset.select_related("user"):
            check = check_session(state.user)
            level, sentence = self._result(check)
            self._tell(request, state, level, sentence)

    @admin.action(description=_("Disconnect the selected accounts"), permissions=["change"])
    def disconnect(self, request, queryset):
        for state in queryset.select_related("user"):
            if disconnect(state.user, EndedReason.STAFF):
                self._tell(request, state, messages.SUCCESS, gettext("disconnected"))
            else:
                self._tell(request, state, messages.INFO, gettext("was not connected"))

    def _tell(self, request, state, level, sentence) -> None:
        """Show a row's result, and write it into the row's history."""
        self.message_user(request, f"“{state.user}”: {sentence}", level)
        self.log_change(request, state, sentence)

    def _result(self, check) -> tuple[int, str]:
        if check.outcome is Outcome.ACTIVE:
            refreshed = gettext("works; its access token was refreshed")
            return messages.SUCCESS, refreshed if check.refreshed else gettext("works")
        if check.outcome is Outcome.EXPIRED:
            return messages.ERROR, gettext("was ended by Garmin; the user has to connect again")
        if check.outcome is Outcome.GONE:
            return messages.INFO, gettext("is not connected")
        if check.outcome is Outcome.UNREADABLE:
            return messages.WARNING, f"{check.error} {UNREADABLE_HINT}"
        return messages.WARNING, gettext("could not be judged, and is kept: %s") % check.error


def _of_user(field: str) -> Any:
    """Turn a search field of the user model into one of ours, its prefix in front."""
    bare = field.lstrip("^=@")
    return f"{field[: len(field) - len(bare)]}user__{bare}"
