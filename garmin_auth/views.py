"""The pages on which users connect their Garmin accounts; each acts on ``request.user`` only."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.contrib import messages
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.mixins import LoginRequiredMixin
from django.contrib.auth.views import RedirectURLMixin, redirect_to_login
from django.forms import Form
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import resolve_url
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.cache import patch_cache_control
from django.utils.decorators import method_decorator
from django.utils.http import urlencode
from django.utils.translation import gettext_lazy as _
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_safe
from django.views.decorators.vary import vary_on_headers
from django.views.generic import FormView, TemplateView, View

from . import pauses
from .assets import ASSETS, content_of, version_of
from .deferred import deferred
from .exceptions import ChallengeExpired, GarminAuthError, InvalidMFACode, RateLimited
from .forms import LoginForm, MFAForm, focus_first_error
from .transactions import non_atomic_everywhere

if TYPE_CHECKING:
    from . import accounts, login

    Step = login.Connected | login.MFARequired | login.LoginUnderWay
else:
    accounts, login = deferred("accounts"), deferred("login")


@method_decorator(sensitive_post_parameters(), name="dispatch")
@method_decorator(never_cache, name="dispatch")
@method_decorator(csrf_protect, name="dispatch")
class GarminView(LoginRequiredMixin, RedirectURLMixin, View):
    """What our pages have in common: a user, CSRF, no caching, a safe ``next``, no transaction."""

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """Exempt the view from ATOMIC_REQUESTS on every database: a router chooses the row's."""
        return non_atomic_everywhere(super().as_view(**initkwargs))

    def get_default_redirect_url(self) -> str:
        return resolve_url(self.next_page or "garmin_auth:status")

    def leave_connected(self) -> HttpResponse:
        """Say that the login has succeeded, and lead to where the user wants to go."""
        messages.success(self.request, _("Your Garmin account is connected."), fail_silently=True)
        return HttpResponseRedirect(self.get_success_url())

    def url_with_next(self, name: str) -> str:
        """Return the URL of one of our pages, with this request's ``next`` if that is safe."""
        target = self.get_redirect_url()
        query = f"?{urlencode({self.redirect_field_name: target})}" if target else ""
        return reverse(f"garmin_auth:{name}") + query


class PageView(GarminView):
    """Gives the templates what there is for the user; to be combined with a view that renders."""

    # How this request's step has failed, if it has.
    failure: GarminAuthError | None = None

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        account = accounts.account_of(self.request.user)
        return super().get_context_data(  # type: ignore[misc]
            account=account,
            retry_at=_retry_at(self.failure or account.login_failure),
            pending=login.pending_login(self.request.user),
            next=self.get_redirect_url(),
            login_url=self.url_with_next("login"),
            mfa_url=self.url_with_next("mfa"),
            progress_url=self.url_with_next("progress"),
            # A site need not have the context processor.
            messages=messages.get_messages(self.request),
            **kwargs,
        )


class StatusView(PageView, TemplateView):
    """Tells the user what there is: connected as whom, since when, and a login under way."""

    template_name = "garmin_auth/status.html"


class LoginStepView(PageView, FormView):
    """A form that takes the login one step on, or says why that did not work."""

    def take_step(self, **fields: str) -> "Step":
        """Hand the form's fields to Garmin. Raises GarminAuthError."""
        raise NotImplementedError

    # SECURITY: hides the variables of every frame from here on, those of the form's fields too.
    @method_decorator(sensitive_variables())
    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return super().post(request, *args, **kwargs)

    def form_valid(self, form: Form) -> HttpResponse:
        try:
            result = self.take_step(**form.cleaned_data)
        except GarminAuthError as error:
            self.failure = error
            field = "code" if isinstance(error, InvalidMFACode) else None
            form.add_error(field, str(error.user_message))
            return self.form_invalid(form)
        if isinstance(result, login.LoginUnderWay):
            return HttpResponseRedirect(self.url_with_next("progress"))
        if isinstance(result, login.MFARequired):
            return HttpResponseRedirect(self.url_with_next("mfa"))
        return self.leave_connected()

    def form_invalid(self, form: Form) -> HttpResponse:
        focus_first_error(form)
        return super().form_invalid(form)


class LoginView(LoginStepView):
    """Takes e-mail address and password, and goes on to the code where Garmin wants one."""

    template_name = "garmin_auth/login.html"
    form_class = LoginForm

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        context = self.get_context_data(**kwargs)
        if context["account"].login_under_way:
            return HttpResponseRedirect(context["progress_url"])
        return self.render_to_response(context)

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(
            login_note=login.login_note(), site_pause=_site_pause(), **kwargs
        )

    def take_step(self, **fields: str) -> "Step":
        return login.begin_login(self.request.user, **fields)


@method_decorator(vary_on_headers("Accept"), name="dispatch")
class ProgressView(PageView, TemplateView):
    """Shows that a login is under way outside the request, and goes on when it has ended.

    To a client that prefers JSON it tells whether it is, and where to go if not.
    """

    template_name = "garmin_auth/progress.html"

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        context = self.get_context_data(**kwargs)
        account = context["account"]
        if request.get_preferred_type(["text/html", "application/json"]) == "application/json":
            return JsonResponse(
                {"under_way": True}
                if account.login_under_way
                # This page itself knows the way on, and what to say there.
                else {"under_way": False, "url": context["progress_url"]}
            )
        if account.login_under_way:
            return self.render_to_response(context)
        if account.login_failure:
            return HttpResponseRedirect(context["login_url"])
        if context["pending"]:
            return HttpResponseRedirect(context["mfa_url"])
        if account.connected:
            return self.leave_connected()
        return HttpResponseRedirect(context["login_url"])


class MFAView(LoginStepView):
    """Takes the code, in whatever process or browser the user happens to be."""

    template_name = "garmin_auth/mfa.html"
    form_class = MFAForm

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        context = self.get_context_data(**kwargs)
        if context["pending"]:
            return self.render_to_response(context)
        if context["account"].login_under_way:
            return HttpResponseRedirect(context["progress_url"])
        if context["account"].connected:  # Somebody went back to a page of the past.
            return HttpResponseRedirect(self.get_success_url())
        messages.info(request, ChallengeExpired("gone").user_message, fail_silently=True)
        return HttpResponseRedirect(context["login_url"])

    def get_form(self, form_class: type[Form] | None = None) -> Form:
        form = super().get_form(form_class)
        # As its help text, for Django ties that to the field: a screen reader that begins there
        # says where the code went.
        form.fields["code"].help_text = render_to_string(
            "garmin_auth/includes/sent.html", {"pending": login.pending_login(self.request.user)}
        )
        return form

    def take_step(self, **fields: str) -> "login.Connected | login.MFARequired":
        return login.submit_mfa(self.request.user, **fields)


class ActionView(GarminView):
    """Does one thing, on POST only, and goes back to a page."""

    http_method_names = ("post",)

    def handle_no_permission(self) -> HttpResponseRedirect:
        # Not back to this URL: after the site's login it would be asked for with GET.
        return redirect_to_login(
            self.get_default_redirect_url(),
            self.get_login_url(),
            self.get_redirect_field_name(),
        )


class MFACancelView(ActionView):
    """Drops the user's login, whether it waits for a code or is under way."""

    def post(self, request: HttpRequest) -> HttpResponse:
        if login.cancel_mfa(request.user):
            messages.info(request, _("The login was cancelled."), fail_silently=True)
        return HttpResponseRedirect(self.get_success_url())


class DisconnectView(ActionView):
    """Forgets the user's session."""

    def post(self, request: HttpRequest) -> HttpResponse:
        if login.disconnect(request.user):
            messages.success(request, _("Your Garmin account is disconnected."), fail_silently=True)
        return HttpResponseRedirect(self.get_success_url())


def _retry_at(failure: GarminAuthError | None) -> datetime | None:
    """Return from when on the user may try again, None if nobody said."""
    if not isinstance(failure, RateLimited) or failure.retry_after is None:
        return None
    return timezone.now() + timedelta(seconds=failure.retry_after)


def _site_pause() -> datetime | None:
    """Return until when Garmin has asked this site to slow down, None if it has not.

    Logins are let through meanwhile: Garmin counts them by account.
    """
    left = pauses.seconds_left(pauses.SITE)
    return timezone.now() + timedelta(seconds=left) if left else None


def _asset(name: str) -> Any:
    """Return a view of one of our files."""

    @login_not_required
    @require_safe
    def asset(request: HttpRequest) -> HttpResponse:
        response = HttpResponse(content_of(name), content_type=f"{ASSETS[name][1]}; charset=utf-8")
        # Not if another version was asked for: while a site is updated, a process of the old
        # release may be asked for a file of the new one.
        if request.GET.get("v") == version_of(name):
            patch_cache_control(response, public=True, max_age=31_536_000, immutable=True)
        else:
            patch_cache_control(response, public=True, max_age=3600)
        return response

    return asset


stylesheet = _asset("stylesheet")
script = _asset("script")
admin_stylesheet = _asset("admin_stylesheet")
