"""The ways to connect among which users choose: one for each engine in ``GARMIN_AUTH_ENGINE``."""

from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from ..engines import get_engine, offered_domains, offered_engines
from ..engines.base import KeyEngine


@dataclass(frozen=True)
class Way:
    """A way to connect.

    Args:
        engine: name of the engine.
        label: the way in a sentence, for users.
        note: what users should know before they connect, "" if there is nothing.
        takes_key: whether users connect with a key, not with a password.
        domains: Garmin's domains among which users choose, the default first.
    """

    engine: str
    label: Any
    note: Any
    takes_key: bool
    domains: tuple[str, ...]


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
    return Way(
        engine,
        found.label,
        found.login_note,
        isinstance(found, KeyEngine),
        tuple(offered_domains()),
    )


def several_engines() -> bool:
    """Return whether the site offers several engines."""
    try:
        return len(offered_engines()) > 1
    except ImproperlyConfigured:
        return False


def several_domains() -> bool:
    """Return whether the site offers both of Garmin's services."""
    try:
        return len(offered_domains()) > 1
    except ImproperlyConfigured:
        return False


def engine_to_use_again(engine: str) -> str:
    """Return the engine to name in a link to the login page, "" for the default one.

    Args:
        engine: name of the engine that the user has connected with, "" if none.
    """
    return engine if several_engines() and engine in offered_engines() else ""


def takes_key(engine: str) -> bool:
    """Return whether users connect with a key with this engine, which is imported.

    Args:
        engine: the engine's name, "" if there is none.
    """
    way = way_of(engine) if engine else None
    return way is not None and way.takes_key
