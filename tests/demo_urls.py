"""The tests' project with the API, and a front end for it: what ``make demo`` serves."""

from pathlib import Path

from django.http import FileResponse
from django.urls import include, path

from tests.urls import urlpatterns as pages

SPA = Path(__file__).with_name("spa.html")


def spa(request):
    """Serve one file, as any web server would: what it shows comes from the API."""
    return FileResponse(SPA.open("rb"), content_type="text/html; charset=utf-8")


urlpatterns = [
    *pages,
    path("garmin/api/", include("garmin_auth.api.urls")),
    path("spa/", spa),
]
