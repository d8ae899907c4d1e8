"""Who may connect a Garmin account: the site decides, with ``GARMIN_AUTH_MAY_CONNECT``."""

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.functional import Promise
from django.utils.module_loading import import_string

from ..conf import conf
from ..exceptions import NotAllowed


def refusal_of(user: Any) -> str:
    """Return why the site does not let this user connect, "" if it does.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.

    Raises:
        ImproperlyConfigured: the site's callable returned neither True, False nor a sentence.
    """
    if conf.MAY_CONNECT is None:
        return ""
    answer = import_string(conf.MAY_CONNECT)(user)
    if answer is True:
        return ""
    if answer is False:
        return str(NotAllowed().user_message)
    if isinstance(answer, str | Promise):
        return str(answer)
    # SECURITY: None too. A callable that forgets to return must not let everybody in.
    raise ImproperlyConfigured(
        f"GARMIN_AUTH_MAY_CONNECT: {conf.MAY_CONNECT} must return True, or the sentence that tells "
        f"the user why not, and returned {type(answer).__name__}."
    )


def require_allowed(user: Any) -> None:
    """Raise if the site does not let this user connect.

    Raises:
        NotAllowed: with the site's sentence for the user.
    """
    if sentence := refusal_of(user):
        raise NotAllowed(sentence=sentence)
