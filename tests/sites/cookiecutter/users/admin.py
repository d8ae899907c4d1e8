from django.contrib import admin
from django.contrib.auth.admin import UserAdmin

from garmin_auth.admin import GarminAccountLink

from .models import User


@admin.register(User)
class EmailUserAdmin(GarminAccountLink, UserAdmin):
    fieldsets = (
        (None, {"fields": ("email", "password")}),
        ("Personal info", {"fields": ("name",)}),
        ("Permissions", {"fields": ("is_active", "is_staff", "is_superuser")}),
    )
    list_display = ("email", "name", "is_superuser")
    search_fields = ("name",)
    ordering = ("id",)
