"""The tests' URLs on a site whose web server serves the folder that collectstatic has filled."""

from django.conf import settings
from django.urls import path
from django.views.static import serve

from tests.urls import urlpatterns

urlpatterns = [
    path("static/<path:path>", serve, {"document_root": settings.STATIC_ROOT}),
    *urlpatterns,
]
