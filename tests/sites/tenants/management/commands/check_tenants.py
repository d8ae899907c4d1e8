import signal
import sys

from django.core.management import BaseCommand, CommandError, call_command
from django_tenants.utils import get_public_schema_name, get_tenant_model, tenant_context


class Command(BaseCommand):
    help = "Checks the Garmin sessions of all tenants (docs/how-to/tenants.md)."

    def handle(self, **options):
        code, stop = 0, []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *received: stop.append(received))
        tenants = get_tenant_model().objects.exclude(schema_name=get_public_schema_name())
        for tenant in tenants.order_by("pk"):
            if stop:
                code = 4  # Stopped early, as the check says it.
                break
            with tenant_context(tenant):
                try:
                    call_command("check_garmin_sessions", "--format", "json")
                except SystemExit as ended:
                    code = max(code, ended.code)
                except CommandError as error:  # This tenant's tables, for example.
                    self.stderr.write(f"{tenant.schema_name}: {error}")
                    code = max(code, error.returncode)
        sys.exit(code)
