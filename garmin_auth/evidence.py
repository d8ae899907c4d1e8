"""Is it this session that is dead, or is it Garmin, our consumer key or our clock?

A refused token is proof of death, unless three different users have been refused since Garmin last
accepted anybody's exchange, a login's too. The evidence is in the database, one UPDATE at a time,
so that all processes see the same: of a mass failure, the first two users lose their sessions at
the most. Each engine has its own: that Garmin accepts the tokens of one says nothing about the
consumer key of another.
"""

import logging
from typing import Any

from django.core.cache import caches

from .conf import conf
from .exceptions import MassFailure, SessionExpired
from .models import GarminAuthenticationState

logger = logging.getLogger("garmin_auth")

# So many different users refused, and none accepted, is not about their sessions.
MASS = 3
# Seconds in which the alarm is logged once.
QUIET = 3600
ALARM = "garmin_auth:mass_failure"


def require_proof(pk: Any, engine: str, refusal: SessionExpired) -> None:
    """Note a refused exchange, and let the caller clear the session only if that is proof.

    Args:
        pk: the key of the user's row.
        engine: the name of the engine that asked.
        refusal: what the engine raised.

    Raises:
        MassFailure: many users are being refused; nothing may be cleared.
    """
    refused = GarminAuthenticationState.objects.refuse_exchange(pk, engine)
    if refused < MASS:
        return
    if caches[conf.CACHE].add(f"{ALARM}:{engine}", 1, QUIET):
        logger.error(
            "Garmin has refused %d users' tokens of the engine %s and accepted nobody's since. "
            "Nothing is cleared until it accepts one. Is the consumer key right, and the clock? %s",
            refused,
            engine,
            refusal,
        )
    raise MassFailure(f"Garmin refuses the tokens of {refused} users and accepts nobody's.")


def accepted(engine: str) -> None:
    """Note an exchange that Garmin accepted: whoever was refused before it was refused for good.

    Args:
        engine: the name of the engine that asked.
    """
    if GarminAuthenticationState.objects.accept_exchange(engine):
        caches[conf.CACHE].delete(f"{ALARM}:{engine}")


def mass_failure() -> bool:
    """Tell whether clearing has stopped, for any engine."""
    refused = GarminAuthenticationState.objects.refused_users()
    return any(count >= MASS for count in refused.values())
