"""Engines speak to Garmin; which one wrote a session stands in its row.

What is to be known of the built-in ones before they are imported, which is slow, stands here too.
"""

import os
import re
from collections.abc import Callable, Iterable
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
    from . import garminconnect_limits
    from .base import Engine
else:
    exceptions = deferred("exceptions")
    garminconnect_limits = deferred("engines.garminconnect_limits")

BUILT_IN = {
    "garth": "garmin_auth.engines.garth.GarthEngine",
    "garminconnect": "garmin_auth.engines.garminconnect.GarminConnectEngine",
}
# What the built-in engines are built on, and the commands that install it.
NEEDS = {
    BUILT_IN["garth"]: Needs(
        {"garth": "0.8.0"},
        'pip install "garth>=0.8.0,<0.9"',
        instead="garminconnect",
    ),
    BUILT_IN["garminconnect"]: Needs(
        {"garminconnect": "0.3.20", "curl_cffi": "0.15"},
        'pip install --upgrade "django-garmin-auth[garminconnect]"',
        python=(3, 12),
    ),
}
# The settings that an engine cannot follow.
LIMITS: dict[str, Callable[[], Iterable[tuple[str, str]]]] = {
    BUILT_IN["garminconnect"]: lambda: garminconnect_limits.limits(),
}
# What the libraries read from the environment for clients of their own, and ours do not.
VARIABLES = re.compile("GARTH_.*|GARMINTOKENS", re.IGNORECASE)


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


def installed_engines() -> list[str]:
    """Return the names of the engines that can be used here; imports no library."""
    return sorted(name for name in known_engines() if not what_is_missing(name))


def remedy(name: str) -> str:
    """Say how an engine comes to be installed.

    Args:
        name: the engine's name; it need not be known.
    """
    path = known_engines().get(name)
    if path is None:
        return "Name its dotted path in GARMIN_AUTH_ENGINES. Its users may also connect anew."
    if path not in NEEDS:
        return f"Install the package that has {path}, or correct GARMIN_AUTH_ENGINES."
    needs = NEEDS[path]
    if not needs.instead:
        return needs.remedy()
    return (
        f"{needs.remedy()}. Or choose the engine whose new logins work, "
        f'GARMIN_AUTH_ENGINE = "{needs.instead}". {NEEDS[BUILT_IN[needs.instead]].remedy()}'
    )


def limits(name: str) -> list[tuple[str, str]]:
    """Return which settings an engine cannot follow: sentences, each with what to do about it.

    An engine of the site's own brings a system check of its own for that.

    Args:
        name: the engine's name; it need not be known.

    Raises:
        ImproperlyConfigured: a setting cannot be used.
    """
    return list(LIMITS.get(known_engines().get(name, ""), tuple)())


def foreign_variables() -> list[str]:
    """Return the names of the environment's variables that no engine follows, though one might."""
    return sorted(name for name in os.environ if VARIABLES.fullmatch(name))


@lru_cache
def _load(path: str) -> "Engine":
    return import_string(path)()
