"""Engines speak to Garmin; which one wrote a session stands in its row."""

from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..conf import conf
from ..deferred import deferred
from .requirements import Needs

if TYPE_CHECKING:
    from .. import exceptions
    from .base import Engine
else:
    exceptions = deferred("exceptions")

BUILT_IN = {
    "garth": "garmin_auth.engines.garth.GarthEngine",
    "garminconnect": "garmin_auth.engines.garminconnect.GarminConnectEngine",
}
# What the built-in engines are built on, and the commands that install it.
NEEDS = {
    BUILT_IN["garth"]: Needs({"garth": "0.8.0"}, 'pip install "garth>=0.8.0,<0.9"'),
    BUILT_IN["garminconnect"]: Needs(
        {"garminconnect": "0.3.20", "curl_cffi": "0.15"},
        'pip install --upgrade "django-garmin-auth[garminconnect]"',
        python=(3, 12),
    ),
}


def known_engines() -> dict[str, str]:
    """Return the dotted paths of all engines by name, the site's own before the built-in ones."""
    return {**BUILT_IN, **conf.ENGINES}


def get_engine(name: str | None = None) -> "Engine":
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


def get_stored_engine(name: str) -> "Engine":
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
    raise exceptions.SessionUnreadable(problem)


def what_is_missing(name: str) -> str:
    """Tell what an engine needs that is not installed here, "" if nothing; imports no library.

    Args:
        name: the name of a known engine.

    Returns:
        A part of a sentence, such as ``"the module mysite.garmin, which is not installed"``.
    """
    path = known_engines()[name]
    if path in NEEDS:
        return NEEDS[path].missing()
    module = path.rpartition(".")[0]
    try:
        found = find_spec(module) is not None
    except (ImportError, ValueError):
        found = False
    return "" if found else f"the module {module}, which is not installed"


def is_installed(name: str) -> bool:
    """Tell whether the engine that a row names can be used here; imports no library.

    Args:
        name: the engine's name, as stored.
    """
    return name in known_engines() and not what_is_missing(name)


@lru_cache
def _load(path: str) -> "Engine":
    return import_string(path)()
