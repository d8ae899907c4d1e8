"""Numbers to alarm on: how many connections there are, how they are, and what stops the checks.

``check_garmin_sessions --format openmetrics`` prints them for Prometheus.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Min, Q
from django.db.models.functions import Coalesce, Greatest
from django.utils import timezone

from .engines import offered_domains, offered_engines
from .limits import cooldown
from .limits.mass_failure import MASS
from .limits.shared_cache import shared_cache
from .models import GarminAuthenticationState, Status
from .storage.querysets import EPOCH, HAS_SESSION, failing_before

# A session that ends within this time is counted as ending.
ENDING = timedelta(days=7)
STATES = [str(status) for status in Status if status is not Status.NONE]


@dataclass(frozen=True)
class ServiceMetrics:
    """The connections of one engine at one of Garmin's domains.

    Args:
        engine: the engine's name, "" for rows that never had a session.
        domain: Garmin's domain.
        connections: the number of rows in each state: ``mfa_pending`` (a code is awaited, whether
            or not a session is stored), ``active`` and ``disconnected``.
        failing: sessions that have been failing for ``GARMIN_AUTH_FAILING_AFTER``, in an outage
            too.
        ending: sessions that end within 7 days.
        refused: users whom Garmin has refused since it last accepted one.
        oldest_check: the time since which the session that has waited longest has neither been
            checked nor worked; None without a session.
    """

    engine: str
    domain: str
    connections: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    failing: int = 0
    ending: int = 0
    refused: int = 0
    oldest_check: datetime | None = None

    @property
    def mass_failure(self) -> bool:
        """Whether Garmin refuses so many users that no session is cleared."""
        return self.refused >= MASS


@dataclass(frozen=True)
class Metrics:
    """The numbers of a site, or of one tenant.

    Args:
        services: one entry for each engine and domain that rows name, or that new logins use,
            sorted by both.
        cooldowns: by Garmin's domain, the seconds for which it is not asked after a rate limit; 0
            if there is no cooldown.
        cache_failed: whether the cache could not be read, so that ``cooldowns`` is not known.
    """

    services: list[ServiceMetrics]
    cooldowns: dict[str, int]
    cache_failed: bool

    @property
    def oldest_check(self) -> datetime | None:
        """The earliest ``oldest_check``, None without a session."""
        times = [each.oldest_check for each in self.services if each.oldest_check]
        return min(times, default=None)


def collect_metrics(using: str | None = None) -> Metrics:
    """Count the connections. Garmin is not asked, and nothing is decrypted.

    This takes one query, which reads every row once (0.6 s for a million on PostgreSQL): call it
    once in some minutes, not for each request. Cooldowns are read from the cache.

    Args:
        using: alias of the database to read, such as a replica's; None for the router's choice.

    Raises:
        django.db.Error: the database cannot be read.
        ImproperlyConfigured: a setting is wrong, or no engine is installed.
    """
    services = {
        (engine, domain): ServiceMetrics(engine, domain)
        for engine in offered_engines()
        for domain in offered_domains()
    }
    for counts in _count(using):
        connections = {state: counts.pop(state) for state in STATES}
        service = ServiceMetrics(connections=connections, **counts)
        services[service.engine, service.domain] = service
    cooldowns = {
        domain: cooldown.seconds_left(cooldown.site_scope(domain))
        for domain in sorted({domain for _engine, domain in services})
    }
    return Metrics(
        [services[name] for name in sorted(services)],
        cooldowns,
        cache_failed=not shared_cache.answers(),
    )


def _count(using: str | None) -> Any:
    """Return a dict for each engine and domain: the fields of ServiceMetrics, and the states."""
    rows = GarminAuthenticationState.objects.order_by()
    rows = rows if using is None else rows.using(using)
    # Databases differ in what is the greatest if one of them is NULL.
    seen = Greatest(
        Coalesce("last_checked_at", "connected_at"), Coalesce("last_validated", "connected_at")
    )
    soon = timezone.now() + ENDING
    return rows.values("engine", "domain").annotate(
        **{state: Count("pk", filter=Q(status=state)) for state in STATES},
        failing=Count("pk", filter=Q(failing_since__lte=failing_before())),
        ending=Count("pk", filter=HAS_SESSION & Q(session_ends_at__lte=soon)),
        refused=Count("pk", filter=Q(refused_at__gt=EPOCH)),
        oldest_check=Min(seen, filter=HAS_SESSION),
    )
