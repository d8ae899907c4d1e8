from django.urls import include, path
from rest_framework.routers import DefaultRouter

from .api import GarminViewSet

router = DefaultRouter()
router.register("garmin", GarminViewSet)
urlpatterns = [
    path("accounts/", include("rest_framework.urls")),
    path("api/v2/", include(router.urls)),
    path("garmin/", include("garmin_auth.urls")),
]
