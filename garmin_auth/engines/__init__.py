"""Engines speak to Garmin; which one wrote a session stands in its row."""

from functools import lru_cache

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..conf import conf
from ..exceptions import SessionUnreadable
from .base import Engine

BUILT_IN = {"garth": "garmin_auth.engines.garth.GarthEngine"}


def known_engines() -> dict[str, str]:
    """Return the dotted paths of all engines by name, the site's own before the built-in ones."""
    return {**BUILT_IN, **conf.ENGINES}


def get_engine(name: str | None = None) -> Engine:
    """Return an engine, importing it on first use.

    Args:
        name: the engine's name; None for the one that new logins use, ``GARMIN_AUTH_ENGINE``.

    Raises:
        ImproperlyConfigured: no such engine is known, or it cannot be imported.
    """
    name = name or conf.ENGINE
    path = known_engines().get(name)
    if path is None:
        known = ", ".join(sorted(known_engines()))
        raise ImproperlyConfigured(f"There is no Garmin engine {name!r}. Known engines: {known}.")
    try:
        return _load(path)
    except ImportError as exc:
        raise ImproperlyConfigured(f"The Garmin engine {name!r} cannot be imported: {exc}") from exc


def get_stored_engine(name: str) -> Engine:
    """Return the engine that a row or a challenge names.

    Args:
        name: the engine's name, as stored.

    Raises:
        SessionUnreadable: that engine is not installed here.
    """
    try:
        return get_engine(name)
    except ImproperlyConfigured as exc:
        problem = str(exc)
    raise SessionUnreadable(problem)


@lru_cache
def _load(path: str) -> Engine:
    return import_string(path)()
