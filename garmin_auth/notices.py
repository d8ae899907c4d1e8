"""Tell users what happens to their connections without them.

No mail is sent unless you call ``mail_users``, in the ``ready()`` method of one of your AppConfigs.
For your pages, use the template tag ``garmin_banner``.
"""

import logging
from collections.abc import Callable, Collection
from enum import StrEnum
from typing import Any
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMultiAlternatives
from django.dispatch import Signal
from django.template.loader import render_to_string
from django.urls import get_script_prefix
from django.utils import translation
from django.utils.encoding import escape_uri_path

from . import signals
from .engines import offered_domains
from .logins.permission import refusal_of
from .logins.ways import engine_to_use_again, takes_key
from .models import EndedReason, GarminAuthenticationState
from .reversing import page_url
from .templatetags.garmin_auth import garmin_language

logger = logging.getLogger("garmin_auth")


class Notice(StrEnum):
    """What users can be told by email. Each is named after its signal."""

    FAILING = "failing"
    RECOVERED = "recovered"
    ENDING = "ending"
    EXPIRED = "expired"
    DISCONNECTED = "disconnected"


def mail_users(
    site_url: str,
    *,
    kinds: Collection[str] = tuple(Notice),
    language_of: Callable[[Any], str | None] = lambda user: None,
    unsubscribe_url_of: Callable[[Any], str | None] = lambda user: None,
) -> None:
    """From now on, email users about their connections: one mail for each thing that happens.

    - ``"failing"``: the connection has been failing for ``GARMIN_AUTH_FAILING_AFTER``, while others
      worked.
    - ``"recovered"``: it works again. Sent only with ``"failing"``.
    - ``"ending"``: it ends soon: 30 days and 7 days before; once, if use prolongs it.
    - ``"expired"``: Garmin has ended it.
    - ``"disconnected"``: staff have disconnected it. What users do themselves, they know.

    The process that finds out sends the mail, after commit. Inactive users, and users without an
    email address, get none. If a mail cannot be sent, this is logged without the address, and the
    mail is not retried; the banner and the status page still tell the user.

    Args:
        site_url: your site's URL, such as ``"https://example.com"``, for the link to the login
            page. If Django serves only a part of the host, add its path:
            ``"https://example.com/portal"``. A worker has no request to take it from, and the Sites
            framework knows no scheme.
        kinds: which of them to send; all by default.
        language_of: returns the language code for a user, or None for ``LANGUAGE_CODE``. The
            language of the current request is never used: it may be another person's.
        unsubscribe_url_of: returns the URL where a user can turn these mails off, for the
            ``List-Unsubscribe`` header, or None.

    Raises:
        ImproperlyConfigured: ``site_url`` is not an absolute URL, or there is no such kind.
    """
    parts = urlsplit(site_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ImproperlyConfigured(
            f"mail_users needs your site's URL, such as 'https://example.com', not {site_url!r}."
        )
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if unknown := set(kinds) - set(Notice):
        raise ImproperlyConfigured(
            f"mail_users knows the kinds {', '.join(Notice)}, not {', '.join(sorted(unknown))}."
        )

    def mail(kind: str, user: Any, facts: dict[str, Any]) -> None:
        with translation.override(language_of(user) or settings.LANGUAGE_CODE):
            message = notice_mail(
                kind, user, site_url, unsubscribe_url=unsubscribe_url_of(user), **facts
            )
            if message is not None:
                _send(message, user)

    def on_failing(user: Any, since: Any, reason: str, **kwargs: Any) -> None:
        mail(Notice.FAILING, user, {"since": since, "reason": reason})

    def on_recovered(user: Any, failed_since: Any, **kwargs: Any) -> None:
        if Notice.FAILING in kinds:
            mail(Notice.RECOVERED, user, {"since": failed_since})

    def on_ending(user: Any, ends_at: Any, **kwargs: Any) -> None:
        mail(Notice.ENDING, user, {"ends_at": ends_at})

    def on_expired(user: Any, **kwargs: Any) -> None:
        mail(Notice.EXPIRED, user, {})

    def on_disconnected(user: Any, reason: str, **kwargs: Any) -> None:
        if reason == EndedReason.STAFF:
            mail(Notice.DISCONNECTED, user, {})

    receivers: dict[str, tuple[Signal, Callable[..., None]]] = {
        Notice.FAILING: (signals.session_failing, on_failing),
        Notice.RECOVERED: (signals.session_recovered, on_recovered),
        Notice.ENDING: (signals.session_ending, on_ending),
        Notice.EXPIRED: (signals.session_expired, on_expired),
        Notice.DISCONNECTED: (signals.session_disconnected, on_disconnected),
    }
    for kind in kinds:
        signal, receiver = receivers[kind]
        # Not weak, because nothing else refers to it. With the dispatch_uid, a second call of
        # mail_users does not send a second mail.
        signal.connect(receiver, weak=False, dispatch_uid=f"garmin_auth.mail_users.{kind}")


def mail_user_on_expiry(
    site_url: str, *, language_of: Callable[[Any], str | None] = lambda user: None
) -> None:
    """From now on, email each user whose session Garmin has ended: ``mail_users`` for that alone.

    Args:
        site_url: as for ``mail_users``.
        language_of: likewise.

    Raises:
        ImproperlyConfigured: as for ``mail_users``.
    """
    mail_users(site_url, kinds=(Notice.EXPIRED,), language_of=language_of)


def expiry_mail(user: Any, site_url: str) -> EmailMultiAlternatives | None:
    """Return the mail that tells the user to connect again: ``notice_mail`` for that alone."""
    return notice_mail(Notice.EXPIRED, user, site_url)


def notice_mail(
    kind: str, user: Any, site_url: str, *, unsubscribe_url: str | None = None, **facts: Any
) -> EmailMultiAlternatives | None:
    """Return one of the mails of ``mail_users``, in the current language if it is translated.

    Its templates are ``garmin_auth/mail/session_<kind>_subject.txt``, ``…_body.txt`` and
    ``…_body.html``.

    Args:
        kind: a ``Notice``.
        user: an ``AUTH_USER_MODEL`` instance.
        site_url: your site's URL, as for ``mail_users``. The link leads there if the login page has
            no URL of its own, because our URLs are not included, or are under a prefix that
            captures something.
        unsubscribe_url: for the ``List-Unsubscribe`` header, None for no such header.
        facts: what the templates get besides: ``since`` and ``reason`` with ``"failing"``,
            ``since`` with ``"recovered"``, ``ends_at`` with ``"ending"``.

    Returns:
        The mail, not yet sent; None if the user is inactive, has no email address, or may not
        connect (``GARMIN_AUTH_MAY_CONNECT``).
    """
    address = getattr(user, email_field(user), "") or ""
    # As in Django's ModelBackend: a model that does not say so has no inactive users.
    if not (getattr(user, "is_active", True) and address):
        return None
    if kind != Notice.RECOVERED and refusal_of(user):
        return None  # The other mails ask the user to connect again.
    engine, domain = _service_of(user)
    again = engine_to_use_again(engine)
    context = {
        "user": user,
        "site_name": urlsplit(site_url).hostname,
        "login_url": _page_url("login_with" if again else "login", site_url, again),
        "takes_key": lambda: takes_key(engine),  # It imports the engine.
        "status_url": _page_url("status", site_url),
        "garmin_url": f"https://connect.{domain}",
        **facts,
    }
    templates = f"garmin_auth/mail/session_{kind}"
    headers = {"Auto-Submitted": "auto-generated"}  # Prevents out-of-office replies.
    if unsubscribe_url:
        headers["List-Unsubscribe"] = f"<{unsubscribe_url}>"
    # Text, dates and direction in one language. The URLs above are in the user's.
    with translation.override(garmin_language()):
        subject = render_to_string(f"{templates}_subject.txt", context)
        body = render_to_string(f"{templates}_body.txt", context)
        html = render_to_string(f"{templates}_body.html", context)
    message = EmailMultiAlternatives(
        subject=" ".join(subject.split()),  # No line breaks in headers.
        body=body,
        to=[address],
        headers=headers,
    )
    message.attach_alternative(html, "text/html")
    return message


def email_field(user_model: Any) -> str:
    """Return the name of the field with the email address, which the model need not have.

    Args:
        user_model: ``AUTH_USER_MODEL`` or an instance. It need not derive from Django's
            ``AbstractBaseUser``.
    """
    if hasattr(user_model, "get_email_field_name"):
        return str(user_model.get_email_field_name())
    return str(getattr(user_model, "EMAIL_FIELD", "email"))


def session_ended(user: Any) -> bool:
    """Return whether Garmin has ended the user's session and they have not connected again.

    This takes one query, and none for an anonymous user.

    Args:
        user: an ``AUTH_USER_MODEL`` instance, an AnonymousUser, or None.
    """
    if user is None or not user.is_authenticated:
        return False
    rows = GarminAuthenticationState.objects.using_write_db().filter(user_id=user.pk)
    return rows.filter(ended_reason=EndedReason.EXPIRED).exists()


def _service_of(user: Any) -> tuple[str, str]:
    """Return the engine and the Garmin domain of the user's session, even of one that has ended."""
    rows = GarminAuthenticationState.objects.using_write_db().filter(user_id=user.pk)
    return rows.values_list("engine", "domain").first() or ("", offered_domains()[0])


def _page_url(name: str, site_url: str, engine: str = "") -> str:
    path = page_url(name, engine=engine) if engine else page_url(name)
    if not path:
        return site_url
    parts = urlsplit(site_url)
    # Both may name the path at which Django is mounted, with or without percent-encoding.
    base, script_name = (unquote(each.rstrip("/")) for each in (parts.path, get_script_prefix()))
    base = escape_uri_path(base.removesuffix(script_name))
    return f"{parts.scheme}://{parts.netloc}{base}{path}"


def _send(message: EmailMultiAlternatives, user: Any) -> None:
    try:
        message.send()
    except Exception as exc:  # noqa: BLE001
        # The mail backend may raise anything, and the exception's text may contain the address.
        logger.error(
            "mail_users failed user=%s error=%s",
            user.pk,
            type(exc).__name__,
            extra={"event": "mail_failed", "user_pk": user.pk, "error": type(exc).__name__},
        )
