"""A check for ``django-health-check`` 4: whether the stored sessions can be kept alive.

It needs that package, which no extra of this app installs, and is imported by nothing of the app.
"""

import dataclasses
from datetime import timedelta

from django.db import close_old_connections
from django.db.models import Max, Q
from django.utils import timezone
from health_check.base import HealthCheck
from health_check.exceptions import ServiceUnavailable, ServiceWarning

from .conf import conf
from .engines import offered_domains
from .limits import cooldown, mass_failure
from .models import GarminAuthenticationState
from .storage.threads import connections_left_as_found


@dataclasses.dataclass
class GarminSessions(HealthCheck):
    """Fails in a mass failure, during a cooldown, and if the checks have not run for too long.

    Garmin is not asked. It takes two queries that read an index, and a third one if no session has
    been checked for ``max_age``. A site with ``GARMIN_AUTH_FROZEN`` is healthy.

    Args:
        max_age: for how long sessions may wait for a check, unless they are in use.
    """

    max_age: timedelta = timedelta(days=2)

    def run(self) -> None:
        """Raise if something is wrong.

        Raises:
            ServiceUnavailable: Garmin refuses many users, or the checks do not run.
            ServiceWarning: Garmin is rate limiting the site.
        """
        if conf.FROZEN:
            return
        # It runs in a thread of the event loop's, whose connections no request closes: neither what
        # other code has left there, nor ours with CONN_MAX_AGE.
        close_old_connections()
        with connections_left_as_found():
            self._run()

    def _run(self) -> None:
        for (engine, domain), refused in mass_failure.under_way().items():
            raise ServiceUnavailable(
                f"{domain} refuses {refused} users of the engine {engine} and accepts none."
            )
        if self._is_overdue():
            raise ServiceUnavailable(f"No Garmin session has been checked for {self.max_age}.")
        for domain in offered_domains():
            if left := cooldown.seconds_left(cooldown.site_scope(domain)):
                raise ServiceWarning(f"{domain} is rate limiting this site, for {left} seconds.")

    def _is_overdue(self) -> bool:
        """Return whether nothing was checked lately, though a session needs it."""
        rows = GarminAuthenticationState.objects.using_write_db()
        since = timezone.now() - self.max_age
        # Without a condition, because MariaDB reads the end of the index only then.
        latest = rows.aggregate(latest=Max("check_order"))["latest"]
        if latest is None or latest > since:
            return False
        unused = Q(last_validated=None) | Q(last_validated__lte=since)
        return rows.with_session().filter(unused, connected_at__lte=since).exists()
