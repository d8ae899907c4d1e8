"""The state of the connection on the page of a user, in a site's own user admin."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import flatten_fieldsets, quote
from django.forms import Media
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from ..models import GarminAuthenticationState, Status
from .display import state_in_words

FIELD = "garmin_account"


class GarminAccountLink:
    """Mixin for a site's own user admin, to be listed before ``UserAdmin``.

    It adds a section to the user's page that shows the state of the connection and links to its
    row, for staff who may see it. Your own ``fields`` or ``fieldsets`` may put the field
    ``garmin_account`` elsewhere. Nothing is decrypted.
    """

    admin_site: admin.AdminSite

    @property
    def media(self):
        return super().media + Media(css={"all": ["garmin_auth/admin.css"]})

    def get_readonly_fields(self, request, obj=None):
        return (*super().get_readonly_fields(request, obj), FIELD)

    def get_fieldsets(self, request, obj=None):
        fieldsets = super().get_fieldsets(request, obj)
        if obj is None or not self._may_see_accounts(request):  # None: a user is being added.
            return [(name, _without_field(options)) for name, options in fieldsets]
        if FIELD in flatten_fieldsets(fieldsets):
            return fieldsets
        return (*fieldsets, (_("Garmin account"), {"fields": (FIELD,)}))

    @admin.display(description=_("Garmin account"))
    def garmin_account(self, user):
        states = GarminAuthenticationState.objects.with_login_under_way().with_failing()
        state = states.filter(user_id=user.pk).first()
        if state is None:
            return Status.NONE.label
        if not self.admin_site.is_registered(GarminAuthenticationState):
            return state_in_words(state)
        opts = state._meta
        name = f"admin:{opts.app_label}_{opts.model_name}_change"
        url = reverse(name, args=[quote(state.pk)], current_app=self.admin_site.name)
        return format_html('<a href="{}">{}</a>', url, state_in_words(state))

    def _may_see_accounts(self, request) -> bool:
        """Return what the list's own admin says, and go by the permissions where there is none."""
        if self.admin_site.is_registered(GarminAuthenticationState):
            list_admin = self.admin_site.get_model_admin(GarminAuthenticationState)
            return list_admin.has_view_permission(request)
        return any(
            request.user.has_perm(f"garmin_auth.{permission}_garminauthenticationstate")
            for permission in ("view", "change")
        )


def _without_field(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a fieldset without our field, which may share its line with others."""
    lines = []
    for line in options["fields"]:
        if not isinstance(line, (list, tuple)):
            line = [line]
        if kept := [name for name in line if name != FIELD]:
            lines.append(kept[0] if len(kept) == 1 else tuple(kept))
    return {**options, "fields": tuple(lines)}
