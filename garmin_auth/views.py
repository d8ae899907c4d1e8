"""The pages on which users connect their Garmin accounts; each acts on ``request.user`` only."""

from importlib.resources import files
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.mixins import LoginRequiredMixin
from django.contrib.auth.views import RedirectURLMixin, redirect_to_login
from django.forms import Form
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import resolve_url
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.http import urlencode
from django.utils.translation import gettext_lazy as _
from django.views.decorators.cache import cache_control, never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_safe
from django.views.generic import FormView, TemplateView, View

from .accounts import account_of
from .exceptions import ChallengeExpired, GarminAuthError, InvalidMFACode
from .forms import LoginForm, MFAForm, focus_first_error
from .login import (
    Connected,
    MFARequired,
    cancel_mfa,
    disconnect,
    pending_login,
    start_login,
    submit_mfa,
)
from .transactions import non_atomic_everywhere


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

    def url_with_next(self, name: str) -> str:
        """Return the URL of one of our pages, with this request's ``next`` if that is safe."""
        target = self.get_redirect_url()
        query = f"?{urlencode({self.redirect_field_name: target})}" if target else ""
        return reverse(f"garmin_auth:{name}") + query


class PageView(GarminView):
    """Gives the templates what there is for the user; to be combined with a view that renders."""

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(  # type: ignore[misc]
            account=account_of(self.request.user),
            pending=pending_login(self.request.user),
            next=self.get_redirect_url(),
            login_url=self.url_with_next("login"),
            mfa_url=self.url_with_next("mfa"),
            # A site need not have the context processor.
            messages=messages.get_messages(self.request),
            **kwargs,
        )


class StatusView(PageView, TemplateView):
    """Tells the user what there is: connected as whom, since when, and a login under way."""

    template_name = "garmin_auth/status.html"


class LoginStepView(PageView, FormView):
    """A form that takes the login one step on, or says why that did not work."""

    def take_step(self, **fields: str) -> Connected | MFARequired:
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
            field = "code" if isinstance(error, InvalidMFACode) else None
            form.add_error(field, str(error.user_message))
            return self.form_invalid(form)
        if isinstance(result, MFARequired):
            return HttpResponseRedirect(self.url_with_next("mfa"))
        messages.success(self.request, _("Your Garmin account is connected."), fail_silently=True)
        return HttpResponseRedirect(self.get_success_url())

    def form_invalid(self, form: Form) -> HttpResponse:
        focus_first_error(form)
        return super().form_invalid(form)


class LoginView(LoginStepView):
    """Takes e-mail address and password, and goes on to the code where Garmin wants one."""

    template_name = "garmin_auth/login.html"
    form_class = LoginForm

    def take_step(self, **fields: str) -> Connected | MFARequired:
        return start_login(self.request.user, **fields)


class MFAView(LoginStepView):
    """Takes the code, in whatever process or browser the user happens to be."""

    template_name = "garmin_auth/mfa.html"
    form_class = MFAForm

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        context = self.get_context_data(**kwargs)
        if context["pending"]:
            return self.render_to_response(context)
        if context["account"].connected:  # Somebody went back to a page of the past.
            return HttpResponseRedirect(self.get_success_url())
        messages.info(request, ChallengeExpired("gone").user_message, fail_silently=True)
        return HttpResponseRedirect(context["login_url"])

    def get_form(self, form_class: type[Form] | None = None) -> Form:
        form = super().get_form(form_class)
        # As its help text, for Django ties that to the field: a screen reader that begins there
        # says where the code went.
        form.fields["code"].help_text = render_to_string(
            "garmin_auth/includes/sent.html", {"pending": pending_login(self.request.user)}
        )
        return form

    def take_step(self, **fields: str) -> Connected | MFARequired:
        return submit_mfa(self.request.user, **fields)


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
    """Drops the pending login."""

    def post(self, request: HttpRequest) -> HttpResponse:
        if cancel_mfa(request.user):
            messages.info(request, _("The login was cancelled."), fail_silently=True)
        return HttpResponseRedirect(self.get_success_url())


class DisconnectView(ActionView):
    """Forgets the user's session."""

    def post(self, request: HttpRequest) -> HttpResponse:
        if disconnect(request.user):
            messages.success(request, _("Your Garmin account is disconnected."), fail_silently=True)
        return HttpResponseRedirect(self.get_success_url())


@login_not_required
@require_safe
@cache_control(public=True, max_age=3600)
def stylesheet(request: HttpRequest) -> HttpResponse:
    """Serve the pages' CSS, so that they look finished also without django.contrib.staticfiles."""
    css = files("garmin_auth").joinpath("garmin_auth.css").read_bytes()
    return HttpResponse(css, content_type="text/css; charset=utf-8")
