from django.urls import path

from . import views

app_name = "garmin_auth"
urlpatterns = [
    path("", views.StatusView.as_view(), name="status"),
    path("login/", views.LoginView.as_view(), name="login"),
    path("login/progress/", views.ProgressView.as_view(), name="progress"),
    path("mfa/", views.MFAView.as_view(), name="mfa"),
    path("mfa/cancel/", views.MFACancelView.as_view(), name="mfa_cancel"),
    path("disconnect/", views.DisconnectView.as_view(), name="disconnect"),
    path("style.css", views.stylesheet, name="stylesheet"),
    path("admin.css", views.admin_stylesheet, name="admin_stylesheet"),
    path("script.js", views.script, name="script"),
]
