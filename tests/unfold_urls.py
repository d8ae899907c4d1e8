"""The admin of a site that has subclassed ours for django-unfold."""

from django.contrib import admin
from unfold.admin import ModelAdmin

from garmin_auth.admin import GarminAuthenticationStateAdmin
from garmin_auth.models import GarminAuthenticationState
from tests.urls import urlpatterns as urlpatterns

admin.site.unregister(GarminAuthenticationState)


@admin.register(GarminAuthenticationState)
class SiteStateAdmin(GarminAuthenticationStateAdmin, ModelAdmin):
    pass
