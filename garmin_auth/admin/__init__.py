"""The admin: staff see the state of every connection but no secrets, and act through actions."""

import time
from collections import Counter
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import quote
from django.contrib.auth import get_user_model
from django.db import router, transaction
from django.http import HttpResponseRedirect
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.translation import gettext, ngettext, pgettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from .. import signals
from ..checking.pool import WorkerPool
from ..checking.report import Outcome
from ..conf import conf
from ..engines import offered_domains
from ..health import StopRule, check_session
from ..limits import mass_failure
from ..login import disconnect
from ..logins.records import from_record
from ..models import EndedReason, GarminAuthenticationState
from ..notices import email_field
from ..storage import keys
from ..storage.transactions import non_atomic_everywhere, send_on_commit
from . import unreadable
from .confirmation import ask, confirmed_rows, in_time
from .counts import count_rows
from .display import state_in_words, time_in_words
from .filters import (
    ActFilter,
    EndFilter,
    EngineFilter,
    SessionFilter,
    StalenessFilter,
    StatusFilter,
)
from .link import GarminAccountLink

__all__ = ["GarminAccountLink", "GarminAuthenticationStateAdmin"]

# Up to this many selected rows are checked in one thread. The result of each is shown, also where
# they are disconnected. For more rows, only the counts are shown.
TOLD_ONE_BY_ONE = 10
# How many threads check the selected rows, and for how many seconds they start new checks. A web
# server would not wait much longer for the response.
CHECK_WORKERS, CHECK_SECONDS = 8, 20
# For how many seconds rows are disconnected or deleted.
CHANGE_SECONDS = 20


@admin.register(GarminAuthenticationState)
class GarminAuthenticationStateAdmin(admin.ModelAdmin):
    """Read-only. Sessions, pending logins and account names are not shown, not even encrypted."""

    list_display = (
        "user",
        "state",
        "session_engine",
        "connected",
        "ends",
        "validated",
        "checked",
    )
    list_filter = (
        ActFilter,
        ("status", StatusFilter),
        SessionFilter,
        EngineFilter,
        StalenessFilter,
        EndFilter,
    )
    # Counting for the filters reads every row, so it is only done on "Show counts". The counts by
    # engine show how far a site has moved to another engine. Without counts, a page reads only the
    # rows that it shows, and counts in an index (benchmarks/RESULTS.md).
    show_facets = admin.ShowFacets.ALLOW
    show_full_result_count = False
    list_select_related = ("user",)
    ordering = ("-updated_at", "-pk")
    change_list_template = "garmin_auth/admin/change_list.html"
    change_form_template = "garmin_auth/admin/change_form.html"
    fields = (
        "user",
        "state",
        "session_engine",
        "domain",
        "connected_at",
        "session_ends_at",
        "last_validated",
        "last_checked_at",
        "failing_since",
        "failing_reason",
        "ended_reason",
        "mfa_started_at",
        "mfa_attempts",
        "last_failure",
        "created_at",
        "updated_at",
    )
    readonly_fields = fields
    actions = ("check_now", "disconnect", "delete_selected")

    class Media:
        css = {"all": ("garmin_auth/admin.css",)}  # noqa: RUF012

    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        # The list's actions need this permission. A single row is read-only, because saving it
        # would overwrite changes made by other processes since it was shown.
        return obj is None and super().has_change_permission(request)

    def has_view_permission(self, request, obj=None):
        return super().has_view_permission(request) or super().has_change_permission(request)

    def has_delete_selected_permission(self, request):
        """Return whether rows may be deleted, and the site has not disabled Django's action."""
        enabled = "delete_selected" in dict(self.admin_site.actions)
        return enabled and self.has_delete_permission(request)

    def get_queryset(self, request):
        """Annotate each row with whether a login is in progress, and whether it keeps failing."""
        return super().get_queryset(request).with_login_under_way().with_failing()

    def get_ordering(self, request):
        """Sort by last change, newest first; under a time filter, by that time, earliest first."""
        for name, column in (("validated", "last_validated"), ("ends", "session_ends_at")):
            if name in request.GET:
                return (column, "pk")
        return super().get_ordering(request)

    def get_search_results(self, request, queryset, search_term):
        """Search in a subquery: SQLite would otherwise look up the user of every row, in order."""
        if not search_term:
            return super().get_search_results(request, queryset, search_term)
        everybody = self.model._default_manager.all()
        found, _duplicates = super().get_search_results(request, everybody, search_term)
        return queryset.filter(pk__in=found.values("pk")), False

    def get_search_fields(self, request):
        """Search as the user model's admin does; without one, by user name and email address."""
        user_model = get_user_model()
        user_admin = self.admin_site._registry.get(user_model)
        fields = tuple(user_admin.get_search_fields(request)) if user_admin else ()
        known = {field.name: field for field in user_model._meta.get_fields()}
        if not fields:
            fields = (user_model.USERNAME_FIELD, email_field(user_model))
            # A relation holds no text to search in.
            fields = [name for name in fields if name in known and not known[name].is_relation]
        return tuple(
            _of_user(field) for field in fields if field.lstrip("^=@").split("__")[0] in known
        )

    @method_decorator(non_atomic_everywhere)
    def changelist_view(self, request, extra_context=None):
        # Not atomic, because the actions ask Garmin.
        response = super().changelist_view(request, extra_context)  # This checks the permissions.
        if "from_page" in request.POST and isinstance(response, HttpResponseRedirect):
            return HttpResponseRedirect(self._page_before(request))
        changes = (getattr(response, "context_data", None) or {}).get("cl")
        if changes is not None and changes.add_facets:
            response.context_data["figures"] = count_rows(
                self.get_queryset(request), unreadable.find_unreadable(request, self)
            )
        found = unreadable.found_already(request)
        if found is not None and not found.all_looked_at:
            sentence = gettext(
                "Only the %(count)d sessions that worked least recently were examined to see "
                "whether they can be read."
            )
            self.message_user(request, sentence % {"count": unreadable.LOOKED_AT}, messages.WARNING)
        if conf.FROZEN and request.method == "GET":
            sentence = gettext(
                "GARMIN_AUTH_FROZEN is True, so this site does not connect to Garmin: no session "
                "is used or checked, and nobody can connect an account."
            )
            self.message_user(request, sentence, messages.WARNING)
        failures = mass_failure.under_way().items() if request.method == "GET" else ()
        for (engine, domain), count in failures:
            sentence = gettext(
                "%(domain)s has refused the sessions of %(count)d users of the engine %(engine)s "
                "and accepted none since. Check the consumer key and the clock of this server. "
                "None of these sessions is cleared until one is accepted. If they really are "
                "dead, run manage.py check_garmin_sessions --believe-refusals %(engine)s."
            )
            self.message_user(
                request,
                sentence % {"count": count, "engine": engine, "domain": domain},
                messages.ERROR,
            )
        return response

    def change_view(self, request, object_id, form_url="", extra_context=None):
        """Show the actions as buttons too, for staff who may use them."""
        actions_url = self._url("changelist") if self.has_change_permission(request) else ""
        extra_context = {"actions_url": actions_url, **(extra_context or {})}
        return super().change_view(request, object_id, form_url, extra_context)

    def delete_model(self, request, obj):
        """Delete a row, after disconnecting it, so that receivers are told."""
        with transaction.atomic(using=router.db_for_write(self.model)):
            if GarminAuthenticationState.objects.disconnect(obj.user_id, EndedReason.STAFF):
                reason = str(EndedReason.STAFF)
                send_on_commit(signals.session_disconnected, obj.user, reason=reason)
            super().delete_model(request, obj)

    def delete_queryset(self, request, queryset):
        for state in queryset.select_related("user"):
            self.delete_model(request, state)

    @admin.display(description=pgettext_lazy("garmin_auth", "status"), ordering="status")
    def state(self, state):
        """Describe the session, and a login that is waiting for a code or in progress."""
        return state_in_words(state)

    @admin.display(description=pgettext_lazy("garmin_auth", "engine"), ordering="engine")
    def session_engine(self, state):
        """Name the engine of the session. Without one, the column has the former session's."""
        if not state.connected_at:
            return self.get_empty_value_display()
        several = len(offered_domains()) > 1
        return f"{state.engine} ({state.domain})" if several else state.engine

    @admin.display(description=_("error of the last sign-in"))
    def last_failure(self, state):
        """Say why the last background login failed. Such a failure is kept for an hour."""
        if not state.login_failure:
            return self.get_empty_value_display()
        message = from_record(state.login_failure).user_message
        return format_html("{} ({})", message, time_in_words(state.login_expires_at))

    @admin.action(description=_("Check selected Garmin accounts"), permissions=["change"])
    def check_now(self, request, queryset):
        if conf.FROZEN:  # The list says why.
            self.message_user(
                request, gettext("The selected Garmin accounts were not checked."), messages.WARNING
            )
            return
        states = list(queryset.select_related("user"))
        one_by_one = len(states) <= TOLD_ONE_BY_ONE
        ends = time.monotonic() + CHECK_SECONDS
        stop = StopRule()

        def in_time():
            for state in states:
                if time.monotonic() > ends:
                    return
                if not stop.left_out.has(state):
                    yield state

        checkers = WorkerPool(
            1 if one_by_one else CHECK_WORKERS,
            lambda state: (state, check_session(state.user)),
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
            sentence = ngettext(
                "%(count)d account was not checked, because Garmin was too slow or unavailable. "
                "Try again later, or run check_garmin_sessions.",
                "%(count)d accounts were not checked, because Garmin was too slow or unavailable. "
                "Try again later, or run check_garmin_sessions.",
                left,
            )
            self.message_user(request, sentence % {"count": left}, messages.WARNING)

    @admin.action(description=_("Disconnect selected Garmin accounts"), permissions=["change"])
    def disconnect(self, request, queryset):
        if (pks := confirmed_rows(request, queryset)) is None:
            return ask(
                self,
                request,
                queryset,
                self._page_before(request),
                title=gettext("Disconnect Garmin accounts"),
                button=pgettext("garmin_auth", "Disconnect"),
                question=gettext("Do you want to disconnect the Garmin accounts of these users?"),
                consequence=gettext(
                    "Their stored sessions and pending sign-ins will be deleted. They will have to "
                    "connect again."
                ),
            )
        one_by_one = len(pks) <= TOLD_ONE_BY_ONE
        done = Counter()
        reached = 0
        for state in in_time(queryset, pks, CHANGE_SECONDS):
            reached += 1
            if state is None:
                continue
            was_connected = disconnect(state.user, EndedReason.STAFF)
            done[was_connected] += 1
            if was_connected:
                level, sentence = messages.SUCCESS, gettext("The Garmin account was disconnected.")
            else:
                level, sentence = messages.INFO, gettext("The Garmin account was not connected.")
            if one_by_one:
                self.message_user(request, f"“{state.user}”: {sentence}", level)
            self.log_change(request, state, sentence)
        if not one_by_one:
            sentence = gettext("Disconnected: %(disconnected)d. Not connected: %(others)d.")
            counts = {"disconnected": done[True], "others": done[False]}
            self.message_user(request, sentence % counts, messages.SUCCESS)
        if left := len(pks) - reached:
            sentence = ngettext(
                "%(count)d account was not disconnected, because it took too long. Try again.",
                "%(count)d accounts were not disconnected, because it took too long. Try again.",
                left,
            )
            self.message_user(request, sentence % {"count": left}, messages.WARNING)

    @admin.action(
        description=getattr(delete_selected, "short_description"),  # noqa: B009
        permissions=["delete_selected"],
    )
    def delete_selected(self, request, queryset):
        """Delete rows as Django's action does, of which this takes the place, but in time."""
        pks = confirmed_rows(request, queryset)
        if pks is None:
            if self._is_kept(request, list(queryset.select_related("user")[:TOLD_ONE_BY_ONE])):
                return delete_selected(self, request, queryset)  # It says why.
            return ask(
                self,
                request,
                queryset,
                self._page_before(request),
                title=gettext("Delete Garmin accounts"),
                button=pgettext("garmin_auth", "Delete"),
                question=gettext(
                    "Do you want to delete the Garmin accounts of these users from this site?"
                ),
                consequence=gettext(
                    "Their stored sessions and pending sign-ins will be deleted. They will have to "
                    "connect again."
                ),
            )
        deleted = kept = reached = 0
        for state in in_time(queryset, pks, CHANGE_SECONDS):
            reached += 1
            if state is None:
                continue
            if self._is_kept(request, [state]):
                kept += 1
                continue
            self.log_deletions(request, [state])
            self.delete_model(request, state)
            deleted += 1
        if deleted:
            sentence = ngettext(
                "%(count)d Garmin account was deleted.",
                "%(count)d Garmin accounts were deleted.",
                deleted,
            )
            self.message_user(request, sentence % {"count": deleted}, messages.SUCCESS)
        if kept:
            sentence = ngettext(
                "%(count)d account was not deleted, because other objects depend on it.",
                "%(count)d accounts were not deleted, because other objects depend on them.",
                kept,
            )
            self.message_user(request, sentence % {"count": kept}, messages.WARNING)
        if left := len(pks) - reached:
            sentence = ngettext(
                "%(count)d account was not deleted, because it took too long. Try again.",
                "%(count)d accounts were not deleted, because it took too long. Try again.",
                left,
            )
            self.message_user(request, sentence % {"count": left}, messages.WARNING)

    @admin.display(description=pgettext_lazy("garmin_auth", "connected"), ordering="connected_at")
    def connected(self, state):
        return time_in_words(state.connected_at)

    @admin.display(
        description=pgettext_lazy("garmin_auth", "expiration date"), ordering="session_ends_at"
    )
    def ends(self, state):
        return time_in_words(state.session_ends_at)

    @admin.display(
        description=pgettext_lazy("garmin_auth", "last worked"), ordering="last_validated"
    )
    def validated(self, state):
        return time_in_words(state.last_validated)

    @admin.display(
        description=pgettext_lazy("garmin_auth", "last checked"), ordering="last_checked_at"
    )
    def checked(self, state):
        return time_in_words(state.last_checked_at)

    def _sum_up(self, request, outcomes) -> None:
        """Show the results of many rows in one message. Each row's history has its own result."""
        sentence = gettext(
            "Checked: %(checked)d. Working: %(active)d. Disconnected by Garmin: %(expired)d. "
            "Inconclusive: %(unknown)d. Unreadable: %(unreadable)d. Not connected: %(gone)d."
        )
        counts = {str(outcome): outcomes[outcome] for outcome in Outcome}
        good = outcomes[Outcome.ACTIVE] == outcomes.total()
        self.message_user(
            request,
            sentence % {"checked": outcomes.total(), **counts},
            messages.SUCCESS if good else messages.WARNING,
        )

    def _is_kept(self, request, states) -> bool:
        """Return whether other objects, or permissions for them, stand in the way of deletion."""
        *_objects, perms_needed, protected = self.get_deleted_objects(states, request)
        return bool(perms_needed or protected)

    def _url(self, view, *args) -> str:
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_{view}"
        return reverse(name, args=args, current_app=self.admin_site.name)

    def _page_before(self, request) -> str:
        """Return the URL of the page that an action was chosen on: the list, or one account's."""
        if "from_page" in request.POST:
            return self._url("change", quote(request.POST.get(ACTION_CHECKBOX_NAME, "")))
        return request.get_full_path()

    def _result(self, check) -> tuple[int, str]:
        if check.outcome is Outcome.ACTIVE:
            if check.refreshed:
                return messages.SUCCESS, gettext("The connection works. It was refreshed.")
            return messages.SUCCESS, gettext("The connection works.")
        if check.outcome is Outcome.EXPIRED:
            return messages.ERROR, gettext(
                "Garmin has disconnected this account. The user has to connect it again."
            )
        if check.outcome is Outcome.GONE:
            return messages.INFO, gettext("The Garmin account is not connected.")
        if check.outcome is Outcome.UNREADABLE:
            return messages.WARNING, f"{check.error} {keys.UNREADABLE_HINT}"
        sentence = gettext("The check was inconclusive, and the session was kept: %(error)s")
        return messages.WARNING, sentence % {"error": check.error}


def _of_user(field: str) -> Any:
    """Turn a search field of the user model into one of ours, keeping its prefix (``^=@``)."""
    bare = field.lstrip("^=@")
    return f"{field[: len(field) - len(bare)]}user__{bare}"
