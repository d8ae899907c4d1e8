"""Who the user of a request is: ``GARMIN_AUTH_API_AUTHENTICATION`` names one of these, or your own.

Such a function takes the request, and returns the user, or None if the request does not say who the
user is. Where a cookie says it, the function must require a CSRF token too.
"""

from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import CsrfViewMiddleware, get_token


class NotAuthenticated(Exception):
    """The request does not say who the user is, or what it says is not valid.

    Args:
        challenge: the header ``WWW-Authenticate`` of the response, "" for none.
    """

    def __init__(self, challenge: str = "") -> None:
        super().__init__(challenge)
        self.challenge = challenge


class CSRFFailed(PermissionDenied):
    """A cookie says who the user is, and the CSRF token is missing or wrong."""


class _CSRFCheck(CsrfViewMiddleware):
    def __init__(self) -> None:
        super().__init__(lambda request: HttpResponse())

    def _reject(self, request: HttpRequest, reason: str) -> Any:
        raise CSRFFailed(reason)


def session(request: HttpRequest) -> Any:
    """Return the user who is logged in to the site in this browser, as on all of its pages.

    Requests that may change something need the CSRF token in the header ``X-CSRFToken``. The cookie
    with the token is set by the others.

    Raises:
        NotAuthenticated: nobody is logged in.
        CSRFFailed: the CSRF token is missing or wrong.
    """
    if not request.user.is_authenticated:
        # RFC 9110 requires a challenge. No scheme for cookies has been registered.
        raise NotAuthenticated(f'Cookie cookie-name="{settings.SESSION_COOKIE_NAME}"')
    check = _CSRFCheck()
    check.process_request(request)
    check.process_view(request, session, (), {})
    get_token(request)  # Sets the cookie.
    return request.user


def rest_framework(request: HttpRequest) -> Any:
    """Return the user whom REST framework's ``DEFAULT_AUTHENTICATION_CLASSES`` find.

    They decide whether a CSRF token is needed: ``SessionAuthentication`` requires one.

    Raises:
        NotAuthenticated: they find nobody, or refuse what the request says.
        CSRFFailed: they do not permit the request.
        ImproperlyConfigured: REST framework is not installed.
    """
    try:  # Optional, and slow to import.
        from rest_framework.exceptions import APIException
        from rest_framework.exceptions import PermissionDenied as Forbidden
        from rest_framework.parsers import BaseParser
        from rest_framework.request import Request
        from rest_framework.settings import api_settings
    except ImportError as exc:
        raise ImproperlyConfigured(
            "GARMIN_AUTH_API_AUTHENTICATION needs REST framework. Install it: "
            "python -m pip install djangorestframework"
        ) from exc

    class NoParser(BaseParser):
        """Leaves the body alone, at which the CSRF check looks."""

        media_type = "*/*"

        def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> Any:
            return {}

    classes = [each() for each in api_settings.DEFAULT_AUTHENTICATION_CLASSES]
    framed = Request(request, parsers=[NoParser()], authenticators=classes)
    try:
        user = framed.user
    except Forbidden as exc:
        problem = str(exc)
    except APIException:
        user, problem = None, ""
    else:
        problem = ""
    if problem:
        raise CSRFFailed(problem)
    if user is None or not user.is_authenticated:
        raise NotAuthenticated((classes and classes[0].authenticate_header(framed)) or "")
    return user
