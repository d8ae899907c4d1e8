"""Which settings the engine garminconnect cannot follow, told without importing the library."""

from collections.abc import Iterator

from ..conf import conf
from .environment import CA_VARIABLES, PROXY_VARIABLES, disagreements

# The default of GARMIN_AUTH_TIMEOUT, in seconds.
TIMEOUT = 30


def limits() -> Iterator[tuple[str, str]]:
    """Yield what is not followed as the settings are now: a sentence, and what to do about it.

    Raises:
        ImproperlyConfigured: a setting cannot be used.
    """
    if contradicted := disagreements():
        yield (
            f"{' and '.join(contradicted)} and the environment do not say the same, and one "
            "sign-in flow of garminconnect, the widget, follows the environment alone. It is left "
            "out, so that a login has one way less to succeed.",
            f"Set {PROXY_VARIABLES[1]} and {CA_VARIABLES[1]} for all processes of the site to what "
            "the settings say; unset what they do not set.",
        )
    if conf.OAUTH_CONSUMER is not None:
        yield (
            "GARMIN_AUTH_OAUTH_CONSUMER means nothing to the engine garminconnect.",
            "Keep it for as long as sessions of the engine garth are stored; it is theirs.",
        )
    if conf.TIMEOUT != TIMEOUT:
        yield (
            "GARMIN_AUTH_TIMEOUT does not bound the logins of the engine garminconnect, which "
            "pause between their requests: they have 180 seconds. All its other calls follow.",
            "Nothing need be done: logins run outside the request. Silence this warning.",
        )
