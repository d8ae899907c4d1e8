from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class GarminAuthConfig(AppConfig):
    name = "garmin_auth"
    verbose_name = _("Garmin accounts")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from .checks import register_checks
        from .engines import known_engines
        from .storage.querysets import StateQuerySet

        register_checks()
        StateQuerySet.engine_names = staticmethod(known_engines)
