"""``{% load garmin_auth %}``: the state of the user's Garmin connection on a site's own pages."""

from datetime import datetime, timedelta
from typing import Any

from django import template
from django.conf import settings
from django.utils import timezone
from django.utils.dateformat import format as format_date
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.http import escape_leading_slashes, urlencode
from django.utils.translation import get_language, npgettext, pgettext

from ..accounts import Badge, badge_of

register = template.Library()

DAY = timedelta(days=1)
KEY = "_garmin_auth_badge"


@register.inclusion_tag("garmin_auth/includes/status_badge.html", takes_context=True)
def garmin_status(context: Any) -> dict[str, Any]:
    """Show the state of the user's connection in a few words. Show nothing to anonymous users."""
    return {"badge": _badge(context)}


@register.inclusion_tag("garmin_auth/includes/connect_link.html", takes_context=True)
def garmin_connect_link(context: Any) -> dict[str, Any]:
    """Link to what the user can do next, such as connect. Show nothing to anonymous users.

    Afterwards the user returns to the current page. Nothing is shown either where the page has no
    URL.
    """
    badge = _badge(context)
    if badge is None or not badge.url:
        return {"badge": None}
    return {"badge": badge, "url": badge.url + _next(context)}


@register.inclusion_tag("garmin_auth/includes/banner.html", takes_context=True)
def garmin_banner(context: Any) -> dict[str, Any]:
    """Show a banner if Garmin has ended the session or keeps failing, until the user has acted.

    It is not shown on our own pages, which tell the user themselves.
    """
    badge = _badge(context)
    if badge is None or _is_ours(context.get("request")):
        return {"badge": None}
    if not (badge.session_ended or badge.status == "failing"):
        return {"badge": None}
    return {"badge": badge, "url": badge.url and badge.url + _next(context)}


@register.simple_tag
def garmin_language() -> str:
    """Return the language that our texts are in where a page is in the current language.

    It is the current one, unless there is no translation: then our texts are in another.
    """
    # Translators: The code of the language that you translate into, such as "de".
    ours, current = pgettext("garmin_auth language", "en"), get_language()
    return current if current and f"{current}-".startswith(f"{ours}-") else ours


@register.simple_tag
def garmin_lang() -> str:
    """Return the attributes of an element with our texts, "" if they are in the page's language."""
    language = garmin_language()
    if language == get_language():
        return ""
    direction = "rtl" if language.partition("-")[0] in settings.LANGUAGES_BIDI else "ltr"
    return format_html(' lang="{}" dir="{}"', language, direction)


@register.simple_tag
def garmin_time(moment: datetime | None, style: str = "datetime") -> str:
    """Format a moment in the current time zone, as a ``<time>`` element with the exact time.

    On our own pages, a script writes it in the browser's time zone, unless the site has activated
    one for the user.

    Args:
        moment: a datetime, or None.
        style: ``"datetime"``; ``"time"``, which omits the date if the moment is less than a day
            from now; or ``"date"``, which omits the time.

    Returns:
        The HTML, "" for None.
    """
    if not moment:
        return ""
    local = timezone.localtime(moment) if timezone.is_aware(moment) else moment
    if style == "time" and abs(moment - timezone.now()) >= DAY:
        style = "datetime"
    text = date_format(local, f"{style.upper()}_FORMAT")
    if style != "date":
        text = f"{text} {format_date(local, 'T')}"
    zones = timezone.get_current_timezone_name(), timezone.get_default_timezone_name()
    chosen = format_html(' data-style="{}"', style) if zones[0] == zones[1] else ""
    return format_html('<time datetime="{}"{}>{}</time>', format_date(local, "c"), chosen, text)


@register.filter(expects_localtime=False)
def garmin_ago(moment: datetime) -> str:
    """Return in words how long ago a moment was.

    Django's ``timesince`` is not used, because in some languages "ago" changes the case of the
    noun.

    Args:
        moment: an aware datetime.
    """
    minutes = int((timezone.now() - moment).total_seconds() // 60)
    if minutes < 1:
        return pgettext("garmin_auth", "just now")
    if minutes < 60:
        text = npgettext("garmin_auth", "%(count)d minute ago", "%(count)d minutes ago", minutes)
        return text % {"count": minutes}
    hours = minutes // 60
    if hours < 24:
        text = npgettext("garmin_auth", "%(count)d hour ago", "%(count)d hours ago", hours)
        return text % {"count": hours}
    days = hours // 24
    text = npgettext("garmin_auth", "%(count)d day ago", "%(count)d days ago", days)
    return text % {"count": days}


@register.filter(expects_localtime=False)
def garmin_in(moment: datetime) -> str:
    """Return in words how far off a moment is, or how long ago it was.

    Args:
        moment: an aware datetime.
    """
    hours = int((moment - timezone.now()).total_seconds() // 3600)
    if hours < 0:
        return garmin_ago(moment)
    if hours < 24:
        return pgettext("garmin_auth", "in less than a day")
    days = hours // 24
    text = npgettext("garmin_auth", "in %(count)d day", "in %(count)d days", days)
    return text % {"count": days}


@register.filter
def garmin_minutes(seconds: int) -> str:
    """Write a number of seconds as minutes and seconds, such as 1:05."""
    return f"{seconds // 60}:{seconds % 60:02}"


def _badge(context: Any) -> Badge | None:
    """Return the user's badge. It is read once per request, or per rendering without a request."""
    request = context.get("request")
    user = getattr(request, "user", None) or context.get("user")
    memory = vars(request) if request is not None else context.dicts[0]
    if KEY not in memory:
        memory[KEY] = badge_of(user, request)
    return memory[KEY]


def _next(context: Any) -> str:
    """Return the query string that leads back to this page.

    It is empty on our own pages, and on a page that answers a POST.
    """
    request = context.get("request")
    if request is None or request.method not in ("GET", "HEAD"):
        return ""
    if _is_ours(request):
        return ""
    return f"?{urlencode({'next': escape_leading_slashes(request.get_full_path())})}"


def _is_ours(request: Any) -> bool:
    """Return whether this request is for one of our own pages."""
    match = getattr(request, "resolver_match", None)
    return match is not None and match.app_names[-1:] == ["garmin_auth"]
