from django.urls import path

from . import views

app_name = "garmin_auth"
urlpatterns = [
    path("", views.StatusView.as_view(), name="status"),
    path("login/", views.LoginView.as_view(), name="login"),
    # A name may contain anything.
    path("login/<path:engine>/", views.LoginView.as_view(), name="login_with"),
    path("progress/", views.ProgressView.as_view(), name="progress"),
    path("mfa/", views.MFAView.as_view(), name="mfa"),
    path("mfa/cancel/", views.MFACancelView.as_view(), name="mfa_cancel"),
    path("disconnect/", views.DisconnectView.as_view(), name="disconnect"),
]
