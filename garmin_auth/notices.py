"""Tell users that Garmin has ended their session: by mail, and in what your code says.

Nothing here is connected by itself: call ``mail_user_on_expiry`` in the ``ready()`` of an AppConfig
of yours. On your pages, the tag ``garmin_banner`` says it.
"""

import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import urljoin, urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import translation

from .models import EndedReason, GarminAuthenticationState
from .signals import session_expired

logger = logging.getLogger("garmin_auth")

SUBJECT = "garmin_auth/mail/session_expired_subject.txt"
BODY = "garmin_auth/mail/session_expired_body.txt"


def mail_user_on_expiry(
    site_url: str, *, language_of: Callable[[Any], str | None] = lambda user: None
) -> None:
    """Mail users from now on when Garmin has ended their session, once for each session.

    The process in which a session dies sends the mail, after commit: cron's, a worker's or a web
    process. Users who are inactive or have no e-mail address get none. A mail that cannot be sent
    is logged, without the address, and not tried again: the banner and the page still say it.

    Args:
        site_url: where your site is, such as ``"https://example.com"``, for the link to the login
            page. A worker has no request to take it from, and the Sites framework, where it is
            installed, knows no scheme and says ``example.com`` until somebody corrects that.
        language_of: returns the language code for a user; None: ``LANGUAGE_CODE``. Never that of
            the request under way, which may be another person's.

    Raises:
        ImproperlyConfigured: ``site_url`` is no absolute URL.
    """
    parts = urlsplit(site_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ImproperlyConfigured(
            f"mail_user_on_expiry needs your site's URL, such as 'https://example.com', not "
            f"{site_url!r}."
        )

    def mail_user(user: Any, **kwargs: Any) -> None:
        with translation.override(language_of(user) or settings.LANGUAGE_CODE):
            message = expiry_mail(user, site_url)
            if message is not None:
                _send(message, user)

    # Not weak: nobody else holds it. By its name: connected twice, it still mails once.
    session_expired.connect(mail_user, weak=False, dispatch_uid="garmin_auth.mail_user_on_expiry")


def expiry_mail(user: Any, site_url: str) -> EmailMessage | None:
    """Return the mail that tells the user to connect again, in the current language.

    Its words are the templates ``garmin_auth/mail/session_expired_subject.txt`` and ``…_body.txt``.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.
        site_url: where your site is.

    Returns:
        The mail, not yet sent; None if the user is inactive or has no e-mail address.
    """
    address = getattr(user, user.get_email_field_name(), "") or ""
    if not (user.is_active and address):
        return None
    context = {
        "user": user,
        "site_name": urlsplit(site_url).hostname,
        "login_url": urljoin(site_url, reverse("garmin_auth:login")),
    }
    return EmailMessage(
        subject=" ".join(render_to_string(SUBJECT, context).split()),  # No line breaks in headers.
        body=render_to_string(BODY, context),
        to=[address],
        headers={"Auto-Submitted": "auto-generated"},  # No "out of office" comes back.
    )


def session_ended(user: Any) -> bool:
    """Tell whether Garmin has ended the user's session, and they have not connected again.

    It costs one query, and none for an anonymous user.

    Args:
        user: an ``AUTH_USER_MODEL`` instance, an AnonymousUser, or None.
    """
    if user is None or not user.is_authenticated:
        return False
    rows = GarminAuthenticationState.objects.current().filter(user_id=user.pk)
    return rows.filter(ended_reason=EndedReason.EXPIRED).exists()


def _send(message: EmailMessage, user: Any) -> None:
    try:
        message.send()
    except Exception as exc:  # noqa: BLE001
        # Whatever the site's mail backend raises; its text may hold the address.
        logger.error("mail_user_on_expiry failed user=%s error=%s", user.pk, type(exc).__name__)
