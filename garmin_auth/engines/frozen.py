"""Refuse to ask Garmin on a frozen site (``GARMIN_AUTH_FROZEN``)."""

from ..conf import conf
from ..exceptions import Frozen


def refuse_frozen() -> None:
    """Raise if this site must not connect to Garmin.

    Raises:
        Frozen: ``GARMIN_AUTH_FROZEN`` is True.
    """
    if conf.FROZEN:
        raise Frozen()
