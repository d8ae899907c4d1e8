"""The API for front ends that are not Django's: ``include("garmin_auth.api.urls")``."""

from django.urls import path, re_path

from . import views

app_name = "garmin_auth_api"
urlpatterns = [
    path("openapi.json", views.DescriptionView.as_view(), name="openapi"),
    path("connection/", views.ConnectionView.as_view(), name="connection"),
    path("connection/login/", views.LoginView.as_view(), name="login"),
    path("connection/mfa/", views.MFAView.as_view(), name="mfa"),
    path("connection/key/", views.KeyView.as_view(), name="key"),
    # Also without the slash at the end, for which CommonMiddleware would answer with HTML.
    re_path(r"^connection(/(?s:.*))?\Z", views.NotFoundView.as_view()),
]
