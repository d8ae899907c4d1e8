"""The ways to connect among which users choose: one for each engine in ``GARMIN_AUTH_ENGINE``."""

from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from ..engines import get_engine, offered_engines
from ..engines.base import KeyEngine


@dataclass(frozen=True)
class Way:
    """A way to connect.

    Args:
        engine: name of the engine.
        label: the way in a sentence, for users.
        note: what users should know before they connect, "" if there is nothing.
        takes_key: whether users connect with a key, not with a password.
    """

    engine: str
    label: Any
    note: Any
    takes_key: bool


def offered_ways() -> list[Way]:
    """Return the ways that the site offers, the default first, without those that cannot be used.

    The engines are imported for it.
    """
    try:
        names = offered_engines()
    except ImproperlyConfigured:
        return []
    return [way for name in names if (way := way_of(name))]


def way_of(engine: str) -> Way | None:
    """Return the way to connect with an engine, None if the engine cannot be imported.

    Args:
        engine: the engine's name.
    """
    try:
        found = get_engine(engine)
    except ImproperlyConfigured:
        return None
    return Way(engine, found.label, found.login_note, isinstance(found, KeyEngine))
