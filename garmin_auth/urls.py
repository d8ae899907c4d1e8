from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.urls import path

from .deferred import deferred
from .transactions import non_atomic_everywhere

views = deferred("views")


def page(name: str) -> Any:
    """Return the view of one of our pages, imported when it is first asked for.

    Args:
        name: the name of its class in ``views``.
    """

    # What Django asks of the view before it calls it has to be said here. Who may see it the view
    # knows better than a middleware, which would lead back to a page that takes no GET.
    @login_not_required
    @non_atomic_everywhere
    def view(request: Any, **kwargs: Any) -> Any:
        return getattr(views, name).as_view()(request, **kwargs)

    return view


def asset(name: str) -> Any:
    """Return the view of one of our files, imported when it is first asked for.

    Args:
        name: the name of the view in ``views``.
    """

    @login_not_required
    def view(request: Any) -> Any:
        return getattr(views, name)(request)

    return view


app_name = "garmin_auth"
urlpatterns = [
    path("", page("StatusView"), name="status"),
    path("login/", page("LoginView"), name="login"),
    path("login/progress/", page("ProgressView"), name="progress"),
    path("mfa/", page("MFAView"), name="mfa"),
    path("mfa/cancel/", page("MFACancelView"), name="mfa_cancel"),
    path("disconnect/", page("DisconnectView"), name="disconnect"),
    path("style.css", asset("stylesheet"), name="stylesheet"),
    path("admin.css", asset("admin_stylesheet"), name="admin_stylesheet"),
    path("script.js", asset("script"), name="script"),
]
