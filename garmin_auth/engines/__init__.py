"""Find and load engines, which speak to Garmin. A session's row names the engine that wrote it.

Facts about the built-in engines are here too, so that they are known without importing the
engines' libraries, which is slow.
"""

import os
import re
import sys
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..conf import DOMAINS, ENGINE_NAME_LENGTH, conf
from ..exceptions import GarminUnavailable, SessionUnreadable
from .base import Engine, KeyEngine, PasswordEngine
from .interruptions import interruptions


class Needs(NamedTuple):
    """What a built-in engine needs.

    Args:
        distributions: the distributions by name, each with the oldest version that works, as in
            ``setup.cfg``.
        python: the oldest Python that they run on.
        instead: the name of a better engine, "" if there is none.
    """

    distributions: dict[str, str]
    python: tuple[int, int] = (3, 11)
    instead: str = ""


BUILT_IN = {
    "garth": "garmin_auth.engines.garth.GarthEngine",
    "garminconnect": "garmin_auth.engines.garminconnect.GarminConnectEngine",
    "personal": "garmin_auth.engines.personal.PersonalEngine",
}
HTTP = {"requests": "2.32.2", "urllib3": "2.2", "certifi": "0"}
NEEDS = {
    "garth": Needs({"garth": "0.8.0", **HTTP}, instead="garminconnect"),
    "garminconnect": Needs(
        {"garminconnect": "0.3.20", "curl_cffi": "0.15", **HTTP}, python=(3, 12)
    ),
    "personal": Needs({"garmin-connect-personal-api-python": "1.0", **HTTP}, python=(3, 12)),
}
PYTHON = sys.version_info[:2]
# Environment variables that the libraries' own clients read and ours ignore.
VARIABLES = re.compile("GARTH_.*|GARMINTOKENS|GARMIN_PERSONAL_API_.*", re.IGNORECASE)


def known_engines() -> dict[str, str]:
    """Return the dotted paths of all engines by name. The site's own override the built-in ones."""
    return {**BUILT_IN, **conf.ENGINES}


def offered_engines() -> list[str]:
    """Return the names of the engines for new logins, the default first.

    These are the ones in ``GARMIN_AUTH_ENGINE``; without that setting, the first installed.

    Raises:
        ImproperlyConfigured: no engine is installed.
    """
    if conf.ENGINE is not None:
        return [conf.ENGINE] if isinstance(conf.ENGINE, str) else list(conf.ENGINE)
    for name in known_engines():
        if not what_is_missing(name):
            return [name]
    commands = " or ".join(
        install_command(name) for name in BUILT_IN if NEEDS[name].python <= PYTHON
    )
    raise ImproperlyConfigured(f"No Garmin engine is installed. Install one: {commands}")


def default_engine() -> str:
    """Return the name of the first engine for new logins.

    Raises:
        ImproperlyConfigured: no engine is installed.
    """
    return offered_engines()[0]


def offered_domains() -> list[str]:
    """Return Garmin's domains for new logins, the default first: those in ``GARMIN_AUTH_DOMAIN``.

    Raises:
        ImproperlyConfigured: the setting is wrong.
    """
    return [conf.DOMAIN] if isinstance(conf.DOMAIN, str) else list(conf.DOMAIN)


def get_engine(name: str | None = None, domain: str | None = None) -> Engine:
    """Return an engine, importing it on first use.

    Args:
        name: the engine's name, None for the first one for new logins.
        domain: Garmin's domain, None for the first one for new logins.

    Raises:
        ImproperlyConfigured: the engine is not known, or cannot be imported; or the domain is not
            one in ``GARMIN_AUTH_DOMAIN``.
    """
    name, domains = name or default_engine(), offered_domains()
    domain = domain or domains[0]
    if domain not in domains:
        raise ImproperlyConfigured(
            f"GARMIN_AUTH_DOMAIN does not have {domain!r}. Domains for new connections: "
            f"{', '.join(domains)}."
        )
    return _engine(name, domain)


def _engine(name: str, domain: str) -> Engine:
    path = known_engines().get(name)
    if path is None:
        known = ", ".join(sorted(known_engines()))
        raise ImproperlyConfigured(f"There is no Garmin engine {name!r}. Known engines: {known}.")
    try:
        return _load(path, domain)
    except interruptions():
        raise
    except Exception as exc:  # A library may fail in any way while it is imported.
        problem = f"The Garmin engine {name!r} cannot be imported: {exc}"
        if missing := what_is_missing(name):
            problem = f"The engine {name!r} needs {missing}. {remedy(name)}"
        raise ImproperlyConfigured(problem) from exc


def get_password_engine(name: str | None = None, domain: str | None = None) -> PasswordEngine:
    """Return an engine that logs in with a password.

    Args:
        name: the engine's name; None for the first one for new logins that takes a password.
        domain: as for ``get_engine``.

    Raises:
        ImproperlyConfigured: as for ``get_engine``; or users connect in another way with it.
    """
    engine = get_engine(name or _first_offered(PasswordEngine), domain)
    if not isinstance(engine, PasswordEngine):
        raise ImproperlyConfigured(
            f"The engine {engine.name!r} does not log in with a password. If it takes a key, call "
            "garmin_auth.login.connect_with_key()."
        )
    return engine


def get_key_engine(name: str | None = None, domain: str | None = None) -> KeyEngine:
    """Return an engine that takes a key.

    Args:
        name: the engine's name; None for the first one for new logins that takes a key, or, if
            none does, for ``personal``.
        domain: as for ``get_engine``.

    Raises:
        ImproperlyConfigured: as for ``get_engine``; or users connect in another way with it.
    """
    engine = get_engine(name or _first_offered(KeyEngine) or "personal", domain)
    if not isinstance(engine, KeyEngine):
        raise ImproperlyConfigured(f"The engine {engine.name!r} takes no key.")
    return engine


def get_stored_engine(name: str, domain: str) -> Engine:
    """Return the engine that a row or a challenge names, whatever new logins use.

    Args:
        name: the engine's name, as stored.
        domain: Garmin's domain, as stored.

    Raises:
        SessionUnreadable: the engine or the domain is not known, or the engine cannot be imported.
    """
    if domain not in DOMAINS:
        raise SessionUnreadable(f"{domain!r} is not one of Garmin's domains.")
    try:
        return _engine(name, domain)
    except ImproperlyConfigured as exc:
        problem = str(exc)
    raise SessionUnreadable(problem)


def is_limited_alone(name: str, domain: str) -> bool:
    """Return whether a rate limit on a session of this engine leaves all others alone.

    Args:
        name: the engine's name, as stored.
        domain: Garmin's domain, as stored.
    """
    try:
        return get_stored_engine(name, domain).limited_alone
    except SessionUnreadable:  # Garmin is not asked.
        return False


def require_usable(engine: Engine, session_data: str) -> str:
    """Return new session data if the engine can open it.

    Args:
        engine: the engine that returned the session data.
        session_data: the session data, which is about to be stored.

    Raises:
        GarminUnavailable: the engine cannot open it. Garmin's answer is to blame, not the keys.
    """
    problem = ""
    try:
        engine.open(session_data, lambda: session_data).close()
    except SessionUnreadable as exc:
        problem = str(exc)
    if problem:
        raise GarminUnavailable(f"Garmin sent tokens that cannot be used. {problem}")
    return session_data


def what_is_missing(name: str) -> str:
    """Return what an engine needs that is not installed, without importing its library.

    Args:
        name: the name of a known engine.

    Returns:
        Part of a sentence, such as ``"the module mysite.garmin, which is not installed"``; "" if
        nothing is missing.
    """
    path = known_engines()[name]
    if path == BUILT_IN.get(name):
        return _missing_distribution(NEEDS[name].distributions)
    module = path.rpartition(".")[0]
    try:
        found = find_spec(module) is not None
    except (ImportError, ValueError):
        found = False
    return "" if found else f"the module {module}, which is not installed"


def is_installed(name: str) -> bool:
    """Return whether the engine that a row names is installed, without importing its library.

    Args:
        name: the engine's name, as stored.
    """
    return name in known_engines() and not what_is_missing(name)


def installed_engines() -> list[str]:
    """Return the names of the installed engines, sorted, without importing their libraries."""
    return sorted(name for name in known_engines() if not what_is_missing(name))


def install_command(name: str) -> str:
    """Return the command that installs a built-in engine.

    Args:
        name: the engine's name, which is also the name of the extra.
    """
    return f'python -m pip install "django-garmin-auth[{name}]"'


def remedy(name: str) -> str:
    """Return instructions for installing an engine, in sentences.

    Args:
        name: the engine's name, which need not be known.
    """
    path = known_engines().get(name)
    if path is None:
        return "Add its dotted path to GARMIN_AUTH_ENGINES, or let its users connect again."
    if path != BUILT_IN.get(name):
        return f"Install the package that has {path}, or correct GARMIN_AUTH_ENGINES."
    needs = NEEDS[name]
    if needs.python > PYTHON:
        return (
            f"It needs Python {_dotted(needs.python)} or newer, and this is {_dotted(PYTHON)}. "
            f"With a newer Python, install it: {install_command(name)}"
        )
    if not needs.instead:
        return f"Install it: {install_command(name)}"
    return (
        f"Install it: {install_command(name)}. Or choose the engine whose new logins work, "
        f'GARMIN_AUTH_ENGINE = "{needs.instead}". {remedy(needs.instead)}'
    )


@lru_cache
def installed_version(name: str) -> str | None:
    """Return the installed version of a distribution, None if it is not installed.

    Args:
        name: the distribution's name.
    """
    from importlib import metadata  # Slow to import, and not needed at start-up.

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def foreign_variables() -> list[str]:
    """Return the names of the environment variables that look relevant, but that engines ignore."""
    return sorted(name for name in os.environ if VARIABLES.fullmatch(name))


def _first_offered(kind: Any) -> str | None:
    return next((name for name in offered_engines() if isinstance(get_engine(name), kind)), None)


@lru_cache
def _load(path: str, domain: str) -> Engine:
    engine: Engine = import_string(path)(domain)
    if not 0 < len(engine.name) <= ENGINE_NAME_LENGTH:
        raise ImproperlyConfigured(f"its name must have 1 to {ENGINE_NAME_LENGTH} characters.")
    return engine


def _missing_distribution(distributions: dict[str, str]) -> str:
    from packaging.version import Version  # Slow to import, and not needed at start-up.

    for name, oldest in distributions.items():
        version = installed_version(name)
        if version is None:
            return f"{name}, which is not installed"
        if Version(version) < Version(oldest):
            return f"{name} {oldest} or newer, and {version} is installed"
    return ""


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
