"""``{% load garmin_auth %}``: the state of the user's Garmin connection on a site's own pages."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django import template
from django.utils import timezone
from django.utils.dateformat import format as format_date
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.http import escape_leading_slashes, urlencode
from django.utils.translation import gettext, ngettext

from ..assets import url_of
from ..deferred import deferred

if TYPE_CHECKING:
    from .. import accounts
else:
    accounts = deferred("accounts")

register = template.Library()

DAY = timedelta(days=1)
KEY = "_garmin_auth_badge"


@register.inclusion_tag("garmin_auth/includes/status_badge.html", takes_context=True)
def garmin_status(context: Any) -> dict[str, Any]:
    """Show what there is for the user, in a few words; nothing to a visitor."""
    return {"badge": _badge(context)}


@register.inclusion_tag("garmin_auth/includes/connect_link.html", takes_context=True)
def garmin_connect_link(context: Any) -> dict[str, Any]:
    """Link to what the user can do next: connect, go on, or manage; nothing to a visitor.

    It leads back to the page that shows it.
    """
    badge = _badge(context)
    return {"badge": badge, "url": badge and badge.url + _next(context)}


@register.inclusion_tag("garmin_auth/includes/banner.html", takes_context=True)
def garmin_banner(context: Any) -> dict[str, Any]:
    """Show a banner from the death of a session until the user connects again.

    Not on our own pages, which say it themselves.
    """
    badge = _badge(context)
    if badge is None or not badge.session_ended or _is_ours(context.get("request")):
        return {"badge": None}
    return {"badge": badge, "url": badge.url + _next(context)}


@register.simple_tag
def garmin_time(moment: datetime | None, style: str = "datetime") -> str:
    """Write a moment in Django's current time zone, exact to machines.

    Args:
        moment: the moment; None writes nothing.
        style: ``"datetime"``; ``"time"``: without the day, if that is less than a day away;
            ``"date"``: the day only.
    """
    if not moment:
        return ""
    local = timezone.localtime(moment) if timezone.is_aware(moment) else moment
    if style == "date":
        text = date_format(local, "DATE_FORMAT")
    else:
        near = style == "time" and abs(moment - timezone.now()) < DAY
        text = date_format(local, "TIME_FORMAT" if near else "DATETIME_FORMAT")
        text = f"{text} {format_date(local, 'T')}"
    return format_html('<time datetime="{}">{}</time>', format_date(local, "c"), text)


@register.filter(expects_localtime=False)
def garmin_ago(moment: datetime) -> str:
    """Say in words how long ago a moment was.

    Not Django's timesince: "ago" around a number needs a case of its own in some languages.
    """
    minutes = int((timezone.now() - moment).total_seconds() // 60)
    if minutes < 1:
        return gettext("just now")
    if minutes < 60:
        text = ngettext("%(count)d minute ago", "%(count)d minutes ago", minutes)
        return text % {"count": minutes}
    hours = minutes // 60
    if hours < 24:
        return ngettext("%(count)d hour ago", "%(count)d hours ago", hours) % {"count": hours}
    days = hours // 24
    return ngettext("%(count)d day ago", "%(count)d days ago", days) % {"count": days}


@register.filter(expects_localtime=False)
def garmin_in(moment: datetime) -> str:
    """Say in words how far off a moment is, or how long ago it was."""
    hours = int((moment - timezone.now()).total_seconds() // 3600)
    if hours < 0:
        return garmin_ago(moment)
    if hours < 24:
        return gettext("within a day")
    days = hours // 24
    return ngettext("in %(count)d day", "in %(count)d days", days) % {"count": days}


@register.simple_tag
def garmin_asset(name: str) -> str:
    """Return the URL of our ``stylesheet`` or ``script``, which changes whenever the file does."""
    return url_of(name)


def _badge(context: Any) -> "accounts.Badge | None":
    """Look the badge up once for each request, or rendering where there is no request."""
    request = context.get("request")
    user = getattr(request, "user", None) or context.get("user")
    memory = vars(request) if request is not None else context.dicts[0]
    if KEY not in memory:
        memory[KEY] = accounts.badge_of(user)
    return memory[KEY]


def _next(context: Any) -> str:
    """Return the query that leads back here: not from our own pages, nor to one made by a POST."""
    request = context.get("request")
    if request is None or request.method not in ("GET", "HEAD"):
        return ""
    if _is_ours(request):
        return ""
    return f"?{urlencode({'next': escape_leading_slashes(request.get_full_path())})}"


def _is_ours(request: Any) -> bool:
    """Tell whether one of our own pages is being made."""
    match = getattr(request, "resolver_match", None)
    return match is not None and match.app_name == "garmin_auth"
