"""The API's addresses. Each acts on the authenticated user only, and answers in JSON only."""

from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.core.signals import got_request_exception
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.utils.decorators import method_decorator
from django.utils.encoding import escape_uri_path
from django.utils.log import log_response
from django.utils.module_loading import import_string
from django.utils.translation import gettext_lazy as _
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_variables
from django.views.generic import View

from .. import login
from ..conf import conf
from ..exceptions import GarminAuthError
from ..limits.throttle import address_of
from ..logins.kept import forget_login
from ..storage.transactions import non_atomic_everywhere
from .authentication import CSRFFailed, NotAuthenticated
from .bodies import CodeBody, KeyBody, LoginBody, idempotency_key_of, read_body
from .connection import connection_of
from .problems import Problem

Step = login.Connected | login.MFARequired | login.LoginUnderWay

DESCRIPTION = Path(__file__).with_name("openapi.json")
JSON = "application/json"
# Seconds between two looks at a login that goes on outside of the request.
LOOK_AGAIN = 2


class JSONView(View):
    """Base of all views: JSON in and out, whatever happens, and never cached."""

    http_method_names: tuple[str, ...] = ()

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """Exempt the view from ATOMIC_REQUESTS, and from what would answer in HTML.

        SECURITY: from CSRF protection too, because only the authentication knows whether a cookie
        says who the user is. There it requires the token.
        """
        view = non_atomic_everywhere(super().as_view(**initkwargs))
        return csrf_exempt(login_not_required(never_cache(view)))

    # SECURITY: hides the variables of all frames below this one.
    @method_decorator(sensitive_variables())
    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            return self.respond(request, *args, **kwargs)
        except Problem as exc:
            problem = exc
        except GarminAuthError as exc:
            problem = Problem.of(exc)
        except Exception as exc:  # noqa: BLE001
            return self._report(exc)
        response = problem.response()
        if problem.status >= 500:  # Django would mail it to the admins, as a bug.
            self._log(response, level="warning")
        return response

    def respond(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Respond to the request, whose method may be any.

        Raises:
            Problem, GarminAuthError: what the response is then made of.
        """
        return super().dispatch(request, *args, **kwargs)

    def http_method_not_allowed(
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        raise Problem(
            405,
            "method_not_allowed",
            _("This address does not support this method."),
            {"Allow": ", ".join(map(str.upper, self.http_method_names))},
        )

    def _report(self, exc: Exception) -> HttpResponse:
        """Report a bug as Django does, but respond without HTML."""
        got_request_exception.send(sender=type(self), request=self.request)
        response = Problem(
            500, "server_error", _("Something went wrong on this site. Please try again later.")
        ).response()
        self._log(response, exception=exc)
        return response

    def _log(self, response: HttpResponse, **options: Any) -> None:
        log_response(
            *("%s: %s", response.reason_phrase, self.request.path),
            response=response,
            request=self.request,
            **options,
        )


class DescriptionView(JSONView):
    """The OpenAPI description of this API, for everybody."""

    http_method_names = ("get", "head")

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return HttpResponse(DESCRIPTION.read_bytes(), content_type=JSON)


class NotFoundView(JSONView):
    """Addresses below ours where there is nothing."""

    def respond(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        raise Problem(404, "not_found", _("There is nothing at this address."))


class UserView(JSONView):
    """Base of the views that act on the authenticated user, who is ``self.user``."""

    user: Any

    def respond(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if str(request.method).lower() not in self.http_method_names:
            return self.http_method_not_allowed(request)
        # Before the authentication, because the CSRF check would read a form.
        if request.method == "POST" and request.content_type != JSON:
            raise Problem(415, "unsupported_media_type", _("Send the body as application/json."))
        self.user = _authenticated(request)
        return super().respond(request, *args, **kwargs)

    def connection(self, status: int = 200) -> HttpResponse:
        """Respond with the user's connection as it is now.

        Args:
            status: the HTTP status. With 202, the headers say where and when to look again.
        """
        connection = connection_of(self.user)
        response = JsonResponse(connection, status=status)
        if status == 202:
            path = self.request.path
            url = path[: path.rindex("connection/")] + "connection/"
            response.headers["Location"] = escape_uri_path(url)
        if connection["login"] and connection["login"]["under_way"]:
            response.headers["Retry-After"] = str(LOOK_AGAIN)
        return response

    def conclude(self, step: Step | None = None) -> HttpResponse:
        """Respond after a step that succeeded.

        Args:
            step: the result of the step, None if it ended something.
        """
        if isinstance(step, login.MFARequired | login.LoginUnderWay):
            return self.connection(202)
        if hasattr(self.request, "session"):  # What one of our pages has kept there.
            forget_login(self.request)
        return self.connection()


class ConnectionView(UserView):
    """Shows the user's connection, or ends it."""

    http_method_names = ("get", "head", "delete")

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return self.connection()

    def delete(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        login.disconnect(self.user)
        return self.conclude()


class LoginView(UserView):
    """Logs in at Garmin with a password, or cancels the login."""

    http_method_names = ("post", "delete")

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        form = read_body(request, LoginBody)
        step = login.begin_login(
            self.user,
            form.cleaned_data["email"],
            form.cleaned_data["password"],
            form.cleaned_data["engine"],
            form.cleaned_data["domain"],
            **_origin(request),
        )
        return self.conclude(step)

    def delete(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        login.cancel_mfa(self.user)
        return self.conclude()


class MFAView(UserView):
    """Takes the verification code, in any process and from any client of the user."""

    http_method_names = ("post",)

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        form = read_body(request, CodeBody)
        key = idempotency_key_of(request)
        code = form.cleaned_data["code"]
        return self.conclude(login.submit_mfa(self.user, code, idempotency_key=key))


class KeyView(UserView):
    """Connects with a key that the user has made at Garmin."""

    http_method_names = ("post",)

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        form = read_body(request, KeyBody)
        step = login.connect_with_key(
            self.user,
            form.cleaned_data["key"],
            form.cleaned_data["ends_at"],
            form.cleaned_data["engine"],
            form.cleaned_data["domain"],
            **_origin(request),
        )
        return self.conclude(step)


def _origin(request: HttpRequest) -> dict[str, str]:
    """Return by what a step tells this request from others."""
    return {
        "idempotency_key": idempotency_key_of(request),
        "client_address": address_of(request),
    }


def _authenticated(request: HttpRequest) -> Any:
    """Return the user whom ``GARMIN_AUTH_API_AUTHENTICATION`` finds.

    Raises:
        Problem: it finds none, or does not permit the request.
        ImproperlyConfigured: what it returns is no user.
    """
    challenge = ""
    try:
        user = import_string(conf.API_AUTHENTICATION)(request)
    except NotAuthenticated as exc:
        user, challenge = None, exc.challenge
    except CSRFFailed:
        raise Problem(403, "csrf_failed", _("The CSRF token is missing or incorrect.")) from None
    except PermissionDenied:
        raise Problem(403, "permission_denied", _("You may not do this.")) from None
    if user is None or getattr(user, "is_anonymous", False):
        headers = {"WWW-Authenticate": challenge} if challenge else {}
        raise Problem(401, "not_authenticated", _("Log in to this site first."), headers)
    if not isinstance(user, get_user_model()):
        # SECURITY: such as a token. Whose connection would that be?
        raise ImproperlyConfigured(
            f"GARMIN_AUTH_API_AUTHENTICATION: {conf.API_AUTHENTICATION} must return an instance of "
            f"AUTH_USER_MODEL or None, and returned {type(user).__name__}."
        )
    request.user = user  # For the site's own code, such as GARMIN_AUTH_CLIENT_ADDRESS.
    return user
