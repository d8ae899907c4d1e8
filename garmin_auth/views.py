"""The pages where users connect their Garmin accounts. Each acts on ``request.user`` only."""

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

from django.contrib import messages
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.mixins import LoginRequiredMixin
from django.contrib.auth.views import RedirectURLMixin, redirect_to_login
from django.forms import Form
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import resolve_url
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import get_script_prefix, resolve
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.functional import cached_property, lazy
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.vary import vary_on_headers
from django.views.generic import FormView, TemplateView, View

from . import accounts, login
from .conf import conf
from .engines import offered_domains
from .exceptions import (
    AccountLocked,
    ActionRequired,
    CaptchaRequired,
    ChallengeExpired,
    Frozen,
    GarminAuthError,
    InvalidCredentials,
    RateLimited,
)
from .forms import FIELDS, KeyForm, LoginForm, MFAForm, focus_first_error
from .limits import cooldown
from .limits.throttle import address_of
from .logins.kept import forget_login, keep_login, kept_login
from .logins.permission import refusal_of
from .logins.ways import (
    Way,
    engine_to_use_again,
    offered_ways,
    several_domains,
    several_engines,
    way_of,
)
from .models import Domain
from .reversing import page_url
from .storage.transactions import non_atomic_everywhere

Step = login.Connected | login.MFARequired | login.LoginUnderWay

# The page of Garmin Connect where users create keys.
KEY_PATH = "/app/settings/personalApiToken"
# Seconds between two loads of the progress page where its script does not run.
REFRESH = 5
# Failures whose message sends the user to Garmin Connect.
SOLVED_AT_GARMIN = (AccountLocked, ActionRequired, CaptchaRequired, InvalidCredentials)


@method_decorator(sensitive_post_parameters(), name="dispatch")
@method_decorator(never_cache, name="dispatch")
@method_decorator(csrf_protect, name="dispatch")
class GarminView(LoginRequiredMixin, RedirectURLMixin, View):
    """Base of all views: login required, CSRF protection, no caching, a safe ``next``."""

    http_method_names: tuple[str, ...] = ("get", "head", "options")

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """Exempt the view from ATOMIC_REQUESTS and from LoginRequiredMiddleware.

        The exemption covers every database, because a router may choose any of them. The view
        requires a login itself: the middleware would redirect back to its URL with GET, which
        ``ActionView`` does not accept.
        """
        return login_not_required(non_atomic_everywhere(super().as_view(**initkwargs)))

    def get_default_redirect_url(self) -> str:
        return resolve_url(self.next_page) if self.next_page else self.url_of("status")

    def add_message(self, level: int, message: Any) -> None:
        """Add a message for the user, unless the request may change nothing."""
        if self.request.method != "HEAD":
            messages.add_message(self.request, level, message, fail_silently=True)

    def leave_connected(self) -> HttpResponse:
        """Add a success message, and redirect to the success URL."""
        forget_login(self.request)
        self.add_message(messages.SUCCESS, _("Your Garmin account is connected."))
        return HttpResponseRedirect(self.get_success_url())

    def get_target(self) -> str:
        """Return where the user wants to go, else this view's ``next_page``, or ""."""
        return self.get_redirect_url() or (resolve_url(self.next_page) if self.next_page else "")

    def url_of(self, name: str) -> str:
        """Return the URL of one of our pages, in the same place of the site as this one.

        Args:
            name: the page's URL name, without the namespace.
        """
        return page_url(name, self.request)

    def url_with_next(self, name: str, **query: str) -> str:
        """Return the URL of one of our pages, which leads on to the target of this one.

        Args:
            name: the page's URL name, without the namespace.
            query: what else its query string has.
        """
        return self._with_next(self.url_of(name), **query)

    def login_url_with_next(self, engine: str = "", **query: str) -> str:
        """Return the URL of the login page, which leads on to the target of this one.

        Args:
            engine: name of the engine to connect with, "" for the default.
            query: what else its query string has.
        """
        with_engine = page_url("login_with", self.request, engine=engine) if engine else ""
        return self._with_next(with_engine or self.url_of("login"), **query)

    def _with_next(self, url: str, **query: str) -> str:
        target = self.get_target()
        if target and url:
            query[_redirect_field_of(url)] = target
        return f"{url}?{urlencode(query)}" if query and url else url


class PageView(GarminView):
    """Mixin that adds the state of the user's connection to the template context."""

    # Why the step in this request failed; None if it did not.
    failure: GarminAuthError | None = None

    def head(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Answer as GET does, but change nothing: a page that is rendered uses up the messages."""
        response = self.get(request, *args, **kwargs)  # type: ignore[attr-defined]
        return HttpResponse() if isinstance(response, TemplateResponse) else response

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        account = accounts.account_of(self.request.user)
        failure = self.failure or account.login_failure
        pending = login.pending_login(self.request.user)
        engine = self._engine_to_use_again(account, pending)
        ours = {
            "account": account,
            "frozen": Frozen.user_message if conf.FROZEN else "",
            "refusal": refusal_of(self.request.user),
            "retry_at": _retry_at(failure),
            "garmin_connect_url": (
                f"https://connect.{self.domain_of(account, pending)}/"
                if account.failing_since or isinstance(failure, SOLVED_AT_GARMIN)
                else ""
            ),
            "pending": pending,
            # Called by templates only where a session is stored, because it imports the engine.
            "present_way": lambda: way_of(account.engine),
            "several_ways": several_engines(),
            "region": dict(Domain.choices).get(account.domain, "") if several_domains() else "",
            "next": self.get_target(),
            "status_url": self.url_of("status"),
            "cancel_url": self.url_of("mfa_cancel"),
            "disconnect_url": self.url_of("disconnect"),
            "login_url": self.login_url_with_next(engine),
            "other_account_url": self.login_url_with_next(engine, other="1"),
            "mfa_url": self.url_with_next("mfa"),
            "progress_url": self.url_with_next("progress"),
            # The site may not use these context processors.
            "messages": messages.get_messages(self.request),
            "csp_nonce": _csp_nonce(self.request),
        }
        # In this order, because the site's prefix may capture something of any name.
        return super().get_context_data(**{**kwargs, **ours})  # type: ignore[misc]

    def domain_of(self, account: accounts.Account, pending: login.MFARequired | None) -> str:
        """Return the Garmin domain where the user's account is, the site's default if not known."""
        known = (pending and pending.domain) or kept_login(self.request).domain or account.domain
        return known or offered_domains()[0]

    def _engine_to_use_again(
        self, account: accounts.Account, pending: login.MFARequired | None
    ) -> str:
        """Return the engine with which the user tries again, "" for the default."""
        if not several_engines():
            return ""
        if account.login_under_way or account.login_failure:  # Only passwords are slow.
            engine = kept_login(self.request).engine or next(
                (way.engine for way in offered_ways() if not way.takes_key), ""
            )
        else:
            engine = pending.engine if pending else account.engine
        return engine_to_use_again(engine)


class StatusView(PageView, TemplateView):
    """Shows the user's connection, and their login in progress, if any."""

    template_name = "garmin_auth/status.html"


class LoginStepView(PageView, FormView):
    """Base of the form views: each takes one step of the login, or shows why it failed.

    Each form that is shown carries a new ``idempotency_key``, so that a double click is one step.
    """

    def take_step(self, **fields: Any) -> Step:
        """Take the step with the form's cleaned data, in which a password or code is a ``Secret``.

        Raises:
            GarminAuthError: the step failed. The form shows the error's ``user_message``.
        """
        raise NotImplementedError

    http_method_names = ("get", "head", "options", "post")

    # SECURITY: hides the variables of all frames below this one, including the form fields'.
    @method_decorator(sensitive_variables())
    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return super().post(request, *args, **kwargs)

    def form_valid(self, form: Form) -> HttpResponse:
        try:
            result = self.take_step(**form.cleaned_data)
        except GarminAuthError as error:
            self.failure = error
            field = FIELDS.get(type(error))
            form.add_error(field, str(error.user_message))
            return self.form_invalid(form)
        if isinstance(result, login.LoginUnderWay):
            return HttpResponseRedirect(self.url_with_next("progress"))
        if isinstance(result, login.MFARequired):
            return HttpResponseRedirect(self.url_with_next("mfa"))
        return self.leave_connected()

    @property
    def idempotency_key(self) -> str:
        """The key of the form that was sent, "" if a site's own template has none."""
        return self.request.POST.get("idempotency_key", "")

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(idempotency_key=uuid4().hex, **kwargs)

    def form_invalid(self, form: Form) -> HttpResponse:
        focus_first_error(form)
        return super().form_invalid(form)


class LoginView(LoginStepView):
    """Asks for the email address and password, or for a key, as the engine needs it.

    The engine is that in the URL, else the default one. Leads to ``MFAView`` if Garmin asks for a
    code.
    """

    template_name = "garmin_auth/login.html"
    form_class = LoginForm
    key_template_name = "garmin_auth/key.html"
    key_form_class = KeyForm

    @cached_property
    def ways(self) -> list[Way]:
        """The ways to connect that the site offers; empty if none can be used."""
        return offered_ways()

    @cached_property
    def way(self) -> Way | None:
        """The way to connect on this page, None if the site offers none that can be used.

        Raises:
            Http404: the site does not offer the one in the URL.
        """
        engine = self.kwargs.get("engine")
        if engine is None:
            return self.ways[0] if self.ways else None
        for way in self.ways:
            if way.engine == engine:
                return way
        raise Http404("This site does not offer this engine.")

    @property
    def takes_key(self) -> bool:
        return self.way is not None and self.way.takes_key

    def get_template_names(self) -> list[str]:
        return [self.key_template_name] if self.takes_key else super().get_template_names()

    def get_form_class(self) -> type[Form]:
        return self.key_form_class if self.takes_key else super().get_form_class()

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        context = self.get_context_data(**kwargs)
        if context["account"].login_under_way:
            return HttpResponseRedirect(context["progress_url"])
        return self.render_to_response(context)

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        domain = self.chosen_domain or self.get_initial().get("domain") or offered_domains()[0]
        return super().get_context_data(
            ways=[(way, self.login_url_with_next(way.engine), way == self.way) for way in self.ways]
            if len(self.ways) > 1
            else [],
            login_note=self.way.note if self.way else "",
            key_url=f"https://connect.{domain}{KEY_PATH}",
            site_pause=_site_pause(domain),
            terms_url=resolve_url(conf.TERMS_URL) if conf.TERMS_URL else "",
            **kwargs,
        )

    def domain_of(self, account: accounts.Account, pending: login.MFARequired | None) -> str:
        """Return the Garmin domain that the user has just chosen, else the one that is known."""
        return self.chosen_domain or super().domain_of(account, pending)

    @property
    def chosen_domain(self) -> str:
        """The Garmin domain in the form that was sent, "" if there is none."""
        chosen = self.request.POST.get("domain", "")
        return chosen if chosen in offered_domains() else ""

    def get_initial(self) -> dict[str, Any]:
        """Return the address of the login that failed or waits, unless another is wanted."""
        kept, initial = kept_login(self.request), super().get_initial()
        if "other" in self.request.GET:
            return initial
        domain = kept.domain
        if not domain and several_domains():
            domain = accounts.account_of(self.request.user).domain
        return {"email": kept.email, "domain": domain, **initial}

    def take_step(self, **fields: Any) -> Step:
        # The form may have further fields, which are the site's.
        engine = self.way.engine if self.way else None
        domain = fields.get("domain")
        form = {
            "idempotency_key": self.idempotency_key,
            "client_address": address_of(self.request),
        }
        if self.takes_key:
            days = fields.get("days")
            ends_at = timezone.now() + timedelta(days=days) if days else None
            return login.connect_with_key(
                self.request.user, fields["key"], ends_at, engine, domain, **form
            )
        step = login.begin_login(
            self.request.user, fields["email"], fields["password"], engine, domain, **form
        )
        keep_login(self.request, fields["email"], engine or "", domain or "")
        return step


@method_decorator(vary_on_headers("Accept"), name="dispatch")
class ProgressView(PageView, TemplateView):
    """Shows a background login in progress, and redirects once it has ended.

    A client that prefers JSON gets ``{"under_way": true}``, or false and the ``url`` to go to. The
    page is loaded again every few seconds by its ``Refresh`` header, which no policy blocks. Its
    script replaces it by itself with ``?live=1``, which has no such header, and asks for JSON.
    """

    template_name = "garmin_auth/progress.html"

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        context = self.get_context_data(**kwargs)
        account = context["account"]
        if request.get_preferred_type(["text/html", "application/json"]) == "application/json":
            return JsonResponse(
                {"under_way": True}
                if account.login_under_way
                # This page itself, which adds the message and redirects.
                else {"under_way": False, "url": context["progress_url"]}
            )
        if account.login_under_way:
            response = self.render_to_response(context)
            if "live" not in request.GET:
                response.headers["Refresh"] = str(REFRESH)
            return response
        if account.login_failure:
            return HttpResponseRedirect(context["login_url"])
        if context["pending"]:
            return HttpResponseRedirect(context["mfa_url"])
        if account.connected:
            return self.leave_connected()
        return HttpResponseRedirect(context["login_url"])

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        seconds = kept_login(self.request).seconds
        return super().get_context_data(seconds_elapsed=seconds, **kwargs)


class MFAView(LoginStepView):
    """Asks for the verification code, in any process and any browser of the user."""

    template_name = "garmin_auth/mfa.html"
    form_class = MFAForm

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        context = self.get_context_data(**kwargs)
        if context["pending"]:
            return self.render_to_response(context)
        if context["account"].login_under_way:
            return HttpResponseRedirect(context["progress_url"])
        if context["account"].connected:  # The user went back to an old page.
            return HttpResponseRedirect(self.get_success_url())
        self.add_message(messages.INFO, ChallengeExpired("gone").user_message)
        return HttpResponseRedirect(context["login_url"])

    def get_form(self, form_class: type[Form] | None = None) -> Form:
        form = super().get_form(form_class)
        # In the help text, because Django links that to the field: a screen reader that starts at
        # the field also reads where the code was sent.
        # Lazy, because the template may be in another language than the rest of the page.
        form.fields["code"].help_text = lazy(render_to_string, SafeString)(
            "garmin_auth/includes/sent.html", {"pending": login.pending_login(self.request.user)}
        )
        return form

    def take_step(self, **fields: Any) -> login.Connected | login.MFARequired:
        return login.submit_mfa(
            self.request.user, fields["code"], idempotency_key=self.idempotency_key
        )


class ActionView(GarminView):
    """Base of the views that act on POST only, and then redirect."""

    http_method_names = ("post",)

    def handle_no_permission(self) -> HttpResponseRedirect:
        # Not back to this URL: after the site's login, the browser would request it with GET.
        return redirect_to_login(
            self.get_default_redirect_url(),
            self.get_login_url(),
            self.get_redirect_field_name(),
        )


class MFACancelView(ActionView):
    """Cancels the user's login, whether it is waiting for a code or running in the background."""

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        forget_login(request)
        if login.cancel_mfa(request.user):
            self.add_message(messages.INFO, _("The sign-in was canceled."))
        return HttpResponseRedirect(self.get_success_url())


class DisconnectView(ActionView):
    """Removes the user's session."""

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        forget_login(request)
        if login.disconnect(request.user):
            self.add_message(messages.SUCCESS, _("Your Garmin account has been disconnected."))
        return HttpResponseRedirect(self.get_success_url())


def _redirect_field_of(url: str) -> str:
    """Return the name of the parameter for the target, as the view at one of our URLs reads it.

    A site may have put a view of its own there.
    """
    view = resolve(unquote(url).removeprefix(get_script_prefix().rstrip("/"))).func
    options = getattr(view, "view_initkwargs", {})
    view_class = getattr(view, "view_class", GarminView)
    return options.get("redirect_field_name") or view_class.redirect_field_name


def _csp_nonce(request: HttpRequest) -> str:
    """Return the nonce of the request's Content-Security-Policy, "" if it has none.

    That is Django's own, of version 6.0 or newer, or that of django-csp.
    """
    nonce = getattr(request, "_csp_nonce", None)
    if nonce is None:
        nonce = getattr(request, "csp_nonce", None)
    return "" if nonce is None else str(nonce)  # Both are lazy: this puts it into the policy.


def _retry_at(failure: GarminAuthError | None) -> datetime | None:
    """Return when the user may try again, None if not known."""
    if not isinstance(failure, RateLimited) or failure.retry_after is None:
        return None
    return timezone.now() + timedelta(seconds=failure.retry_after)


def _site_pause(domain: str) -> datetime | None:
    """Return when the cooldown of a Garmin domain's sessions ends, None if there is none.

    Logins are still allowed during it, because Garmin counts them by account.

    Args:
        domain: Garmin's domain.
    """
    left = cooldown.seconds_left(cooldown.site_scope(domain))
    return timezone.now() + timedelta(seconds=left) if left else None
