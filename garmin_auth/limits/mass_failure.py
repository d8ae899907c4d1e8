"""Decide whether a refused refresh proves that the session is dead.

It does, unless Garmin has refused three different users since it last accepted a refresh or a
login. In that case Garmin, the consumer key or our clock is to blame. Refusals are stored in the
database, each with one UPDATE, so that all processes see the same ones: in a mass failure, at most
the first two users lose their sessions. Engines are counted separately, because accepted tokens of
one engine say nothing about the consumer key of another; and so are Garmin's domains, which are
different services.
"""

import logging
from typing import Any

from ..exceptions import MassFailure, SessionExpired
from ..models import GarminAuthenticationState
from .shared_cache import shared_cache, tenant_cache_key

logger = logging.getLogger("garmin_auth")

# When this many different users are refused and none is accepted, their sessions are not to blame.
MASS = 3
# The alarm is logged at most once in this many seconds.
QUIET = 3600


def record_refused(pk: Any, engine: str, domain: str, refusal: SessionExpired) -> None:
    """Record a refused refresh. Return if the refusal proves that the session is dead.

    Args:
        pk: primary key of the user's row.
        engine: name of the session's engine.
        domain: the session's Garmin domain.
        refusal: what the engine raised.

    Raises:
        MassFailure: many users are being refused; the caller must not clear the session.
    """
    refused = GarminAuthenticationState.objects.refuse_exchange(pk, engine, domain)
    if refused < MASS:
        return
    if shared_cache.add(_alarm(engine, domain), 1, QUIET):
        logger.error(
            "%s has refused the tokens of %d users of the engine %s and has accepted none since. "
            "No session is cleared until it accepts one. Check the consumer key and the clock. "
            "Last refusal: %s",
            domain,
            refused,
            engine,
            refusal,
            extra={"event": "mass_failure", "engine": engine, "domain": domain, "refused": refused},
        )
    raise MassFailure(f"Garmin refuses the tokens of {refused} users and accepts none.")


def record_accepted(engine: str, domain: str) -> None:
    """Record an accepted refresh or login. Earlier refusals then no longer count.

    Args:
        engine: name of the engine whose tokens Garmin accepted.
        domain: the Garmin domain that did.
    """
    if GarminAuthenticationState.objects.accept_exchange(engine, domain):
        shared_cache.delete(_alarm(engine, domain))


def under_way() -> dict[tuple[str, str], int]:
    """Return how many users have been refused in each mass failure, by engine and domain."""
    refused = GarminAuthenticationState.objects.refused_users()
    return {service: count for service, count in sorted(refused.items()) if count >= MASS}


def _alarm(engine: str, domain: str) -> str:
    return tenant_cache_key("mass failure", engine, domain)
