"""Django system checks. Each finds one mistake in the set-up and says how to correct it."""

import re
import ssl
from collections.abc import Iterator
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from cryptography.fernet import Fernet
from django.apps import apps
from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.db import BaseDatabaseCache
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections, router
from django.shortcuts import resolve_url
from django.template import TemplateDoesNotExist, engines
from django.template.backends.django import DjangoTemplates
from django.template.loader import get_template
from django.urls import NoReverseMatch, Resolver404, get_script_prefix, resolve
from django.utils import timezone
from django.utils.module_loading import import_string
from django.utils.translation import get_language

import garmin_auth

from .conf import Settings, conf
from .engines import (
    foreign_variables,
    get_engine,
    installed_engines,
    is_installed,
    known_engines,
    offered_engines,
    remedy,
    what_is_missing,
)
from .models import GarminAuthenticationState
from .reversing import included
from .storage.keys import UNREADABLE_HINT, unreadable
from .storage.lifetimes import RENEW_AFTER

# How many rows the database check reads at each end of the table.
SAMPLE = 50
PER_PROCESS_CACHES = ("locmem.LocMemCache", "dummy.DummyCache")
# In these caches, two processes may both succeed in adding the same key.
CACHES_THAT_RACE = ("filebased.FileBasedCache",)
# 128 random bits take 32 hexadecimal digits, with 8 or more different ones.
KEY_LENGTH, KEY_CHARACTERS = 32, 8
# What is in keys that were copied from documentation, or made by startproject.
PLACEHOLDERS = (
    "a long random string",
    "changeme",
    "django-insecure-",
    "only for development",
    "the new key",
    "the present key",
)
# Settings that name a callable of the site.
CALLABLES = ("API_AUTHENTICATION", "CLIENT_ADDRESS", "MAY_CONNECT", "THREAD_CONTEXT")
TAGS_WITH_LINKS = re.compile(rb"{%\s*garmin_(?:status|connect_link|banner)\b")
STATUS_TEMPLATE = "garmin_auth/status.html"
DISTRIBUTION = "django-garmin-auth"
# On PyPI. It is no relation, but its package has the same name.
NAMESAKE = "garmin-auth"
REINSTALL = f"python -m pip install --force-reinstall --no-deps {DISTRIBUTION}"


def register_checks() -> None:
    """Register all checks. Called once, by the AppConfig."""
    for check in (
        check_settings,
        check_names,
        check_files,
        check_frozen,
        check_keys,
        check_engine,
        check_trust,
        check_time_zone,
        check_cache,
        check_rate,
        check_environment,
        check_static_files,
        check_callables,
        check_auth,
        check_login_url,
        check_terms_url,
        check_templates,
        check_routers,
    ):
        register(check, "garmin_auth")
    # Imports the libraries, which takes longer than all other checks together.
    register(check_imports, "garmin_auth", deploy=True)
    register(check_owners, "garmin_auth", deploy=True)  # Reads the files of every distribution.
    register(check_strength_of_keys, "garmin_auth", deploy=True)
    register(check_tags, "garmin_auth", deploy=True)  # Reads the site's templates.
    # Without the tag "garmin_auth": with it, Django 6.1 would run them on every database.
    register(check_cache_table, Tags.database)
    register(check_stored_sessions, Tags.database)
    register(check_stored_engines, Tags.database)
    register(check_runs, Tags.database)


def check_settings(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """E001: a GARMIN_AUTH_* setting has a value that cannot work."""
    return [
        Error(problem, hint="Correct the setting, or remove it to use the default.", id=_id("E001"))
        for problem in _problems()
    ]


def check_names(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """W013: a GARMIN_AUTH_* setting does not exist."""
    known = [f"GARMIN_AUTH_{name}" for name in vars(Settings) if name.isupper()]
    messages: list[CheckMessage] = []
    for name in sorted(dir(settings)):
        if not name.startswith("GARMIN_AUTH_") or not name.isupper() or name in known:
            continue
        meant = get_close_matches(name, known, n=1, cutoff=0.85)
        hint = f"Did you mean {meant[0]}?" if meant else "Remove it."
        messages.append(
            Warning(
                f"{name} is not a setting of garmin_auth, so it has no effect.",
                hint=f"{hint} If your own code reads it, silence this check or rename it.",
                id=_id("W013"),
            )
        )
    return messages


def check_files(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """W015: PyPI's garmin-auth has overwritten files of this package, or deleted them."""
    if next(iter(metadata.distributions(name=NAMESAKE)), None):
        return [_installed_here(NAMESAKE)]
    if getattr(garmin_auth, "__file__", None) is None:
        return [
            Warning(
                "The file __init__.py of the package garmin_auth is missing.",
                hint=(
                    f"Uninstalling {NAMESAKE!r}, whose package has the same name, deletes it. "
                    f"Install ours again: {REINSTALL}"
                ),
                id=_id("W015"),
            )
        ]
    return []


def check_owners(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """W015: any other distribution has files in this package."""
    found = metadata.packages_distributions().get("garmin_auth", [])
    owners = {name.lower().replace("_", "-") for name in found}
    # check_files reports the namesake.
    return [_installed_here(name) for name in sorted(owners - {DISTRIBUTION, NAMESAKE})]


def check_frozen(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """W011: the site is frozen, so it does not connect to Garmin."""
    try:
        frozen = conf.FROZEN
    except ImproperlyConfigured:
        return []  # E001 reports it.
    if not frozen:
        return []
    return [
        Warning(
            "GARMIN_AUTH_FROZEN is True, so this site does not connect to Garmin.",
            hint=(
                "In production, remove the setting. If this site is a copy of production, silence "
                "this check."
            ),
            id=_id("W011"),
        )
    ]


def check_keys(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """W001: FERNET_KEYS is not set. E002: it is no list of usable keys. W002: a duplicate key."""
    keys = getattr(settings, "FERNET_KEYS", None)
    if keys is None:
        return [
            Warning(
                "FERNET_KEYS is not set, so Garmin sessions are encrypted with SECRET_KEY.",
                hint=(
                    "Set FERNET_KEYS to a list with a long random string. If sessions are already "
                    "stored, append SECRET_KEY to the list. Otherwise all sessions are lost when "
                    "SECRET_KEY changes."
                ),
                id=_id("W001"),
            )
        ]
    if not isinstance(keys, list | tuple) or not keys:
        return [
            Error(
                "FERNET_KEYS must be a list with at least one key.",
                hint='Write FERNET_KEYS = ["a long random string"].',
                id=_id("E002"),
            )
        ]
    messages: list[CheckMessage] = [
        Error(
            f"FERNET_KEYS[{position}] is not a usable key.",
            hint=hint,
            id=_id("E002"),
        )
        for position, key in enumerate(keys)
        if (hint := _problem_of_key(key))
    ]
    usable = [_as_bytes(key) for key in keys if isinstance(key, str | bytes)]
    if len(set(usable)) < len(usable):
        messages.append(
            Warning(
                "FERNET_KEYS lists the same key more than once.",
                hint="Remove the duplicate. It may be a mistake for another key.",
                id=_id("W002"),
            )
        )
    return messages


def check_strength_of_keys(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """W012: a key is short, has few different characters, or comes from documentation."""
    keys = getattr(settings, "FERNET_KEYS", None)
    if not isinstance(keys, list | tuple):
        return []  # W001 or E002 reports it.
    return [
        Warning(
            f"FERNET_KEYS[{position}] is short or easy to guess.",
            hint=(
                'Generate a key: python -c "import secrets; print(secrets.token_urlsafe(48))". '
                "Put it first in FERNET_KEYS, run manage.py rotate_garmin_keys, and remove the "
                "weak one."
            ),
            id=_id("W012"),
        )
        for position, key in enumerate(keys)
        if isinstance(key, str | bytes) and key and _is_weak(_as_bytes(key))
    ]


def check_engine(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """E003: an engine that new logins use is not known, not installed, or too old."""
    try:
        engines, _ = known_engines(), conf.ENGINE
    except ImproperlyConfigured:
        return []  # E001 reports it.
    try:
        offered = offered_engines()
    except ImproperlyConfigured as exc:
        problem, _, hint = str(exc).partition(". ")
        return [Error(f"{problem}.", hint=hint, id=_id("E003"))]
    messages: list[CheckMessage] = []
    for name in offered:
        if name not in engines:
            verb = "is" if len(offered) == 1 else "names"
            messages.append(
                Error(
                    f"GARMIN_AUTH_ENGINE {verb} {name!r}, which is not a known engine.",
                    hint=(
                        f"Choose one of {', '.join(sorted(engines))}, or add the dotted path of "
                        "your engine to GARMIN_AUTH_ENGINES."
                    ),
                    id=_id("E003"),
                )
            )
        elif missing := what_is_missing(name):
            messages.append(
                Error(
                    f"The engine {name!r} needs {missing}.",
                    hint=remedy(name),
                    id=_id("E003"),
                )
            )
    return messages


def check_imports(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """E006: an installed engine cannot be imported."""
    try:
        names = installed_engines()
    except ImproperlyConfigured:
        return []  # E001 reports it.
    messages: list[CheckMessage] = []
    for name in names:
        try:
            get_engine(name)
        except ImproperlyConfigured as exc:
            hint = (
                "Install its packages again in this environment. If you do not use this engine, "
                "uninstall them."
            )
            if name in conf.ENGINES:
                hint = "Correct the engine, or remove it from GARMIN_AUTH_ENGINES."
            messages.append(Error(str(exc), hint=hint, id=_id("E006")))
    return messages


def check_trust(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """E004: the CA bundle cannot be used."""
    try:
        bundle = conf.CA_BUNDLE
    except ImproperlyConfigured:
        return []  # E001 reports it.
    if bundle is None:
        return []
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(bundle)
    except (OSError, ValueError) as exc:
        why = getattr(exc, "strerror", None) or exc
        return [
            Error(
                f"GARMIN_AUTH_CA_BUNDLE cannot be used: {bundle}: {why}.",
                hint="Set it to a readable PEM file of certificates, or remove it for certifi's.",
                id=_id("E004"),
            )
        ]
    return []


def check_time_zone(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """E005: USE_TZ is off, so times have no time zone."""
    if settings.USE_TZ:
        return []
    return [
        Error(
            "USE_TZ is False, but garmin_auth compares aware datetimes.",
            hint="Set USE_TZ = True, which is Django's default.",
            id=_id("E005"),
        )
    ]


def check_cache(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """W003: the cache is not shared between processes."""
    try:
        backend = settings.CACHES[conf.CACHE].get("BACKEND", "")
    except ImproperlyConfigured:
        return []  # E001 reports it.
    if not backend.endswith(PER_PROCESS_CACHES):
        return []
    return [
        Warning(
            f"The cache {conf.CACHE!r} is not shared between processes. When Garmin asks one "
            "process to slow down, the others do not know.",
            hint=(
                "Set GARMIN_AUTH_CACHE to a cache that all processes share: Redis, Memcached, the "
                "database or files. If the site has only one process, silence this check."
            ),
            id=_id("W003"),
        )
    ]


def check_cache_table(app_configs: Any, databases: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """W010: the cache is in the database, and its table does not exist."""
    try:
        cache = caches[conf.CACHE]
    except ImproperlyConfigured:
        return []  # E001 reports it.
    if not isinstance(cache, BaseDatabaseCache):
        return []
    alias = _write_db(cache.cache_model_class)
    if databases is None or alias not in databases:
        return []
    try:
        tables = connections[alias].introspection.table_names()
    except DatabaseError:
        return []  # The database is away, which is not the cache's fault.
    table = cache._table  # type: ignore[attr-defined]
    if table in tables:
        return []
    return [
        Warning(
            f"The table {table!r} of the cache {conf.CACHE!r} does not exist, so cooldowns "
            "and login limits have no effect.",
            hint="Run manage.py createcachetable.",
            id=_id("W010"),
        )
    ]


def check_rate(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """W008: the cache cannot enforce one rate for all processes."""
    try:
        backend = settings.CACHES[conf.CACHE].get("BACKEND", "")
        rate = conf.CHECK_RATE
    except ImproperlyConfigured:
        return []  # E001 reports it.
    if rate is None or not backend.endswith(PER_PROCESS_CACHES + CACHES_THAT_RACE):
        return []
    return [
        Warning(
            f"The cache {conf.CACHE!r} cannot enforce GARMIN_AUTH_CHECK_RATE across processes.",
            hint="Set GARMIN_AUTH_CACHE to a cache in Redis, Memcached or the database.",
            id=_id("W008"),
        )
    ]


def check_environment(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """W004: environment variables for the engines' libraries are set. They have no effect here."""
    names = foreign_variables()
    if not names:
        return []
    return [
        Warning(
            f"The environment sets {', '.join(names)}, which garmin_auth ignores.",
            hint=(
                "Unset them if they are meant for this site. To import a session, run "
                "manage.py import_garmin_session."
            ),
            id=_id("W004"),
        )
    ]


def check_static_files(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """W009: the style sheet and the scripts of the pages are not served."""
    if not apps.is_installed("django.contrib.staticfiles"):
        return [
            Warning(
                "'django.contrib.staticfiles' is not in INSTALLED_APPS, so the style sheet and the "
                "scripts of garmin_auth's pages are not served.",
                hint=(
                    "Add 'django.contrib.staticfiles' to INSTALLED_APPS. If your site has neither "
                    "these pages nor the admin, silence this check."
                ),
                id=_id("W009"),
            )
        ]
    if settings.STATIC_URL is None:
        return [
            Warning(
                "STATIC_URL is not set, so garmin_auth's pages cannot be rendered.",
                hint="Set STATIC_URL = 'static/', as in the settings of a new project.",
                id=_id("W009"),
            )
        ]
    return []


def check_callables(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """E007: a setting names a callable of the site that cannot be imported."""
    messages: list[CheckMessage] = []
    for name in CALLABLES:
        try:
            path = getattr(conf, name)
            found = path is None or callable(import_string(path))
        except ImproperlyConfigured:
            continue  # E001 reports it.
        except ImportError:
            found = False
        if not found:
            messages.append(
                Error(
                    f"GARMIN_AUTH_{name} is {path!r}, which cannot be imported or called.",
                    hint="Correct the path, or remove the setting to use the default.",
                    id=_id("E007"),
                )
            )
    return messages


def check_auth(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """W017: the pages cannot be imported without django.contrib.auth."""
    if apps.is_installed("django.contrib.auth"):
        return []
    return [
        Warning(
            "'django.contrib.auth' is not in INSTALLED_APPS, so garmin_auth's pages cannot be "
            "imported.",
            hint=(
                "Add 'django.contrib.auth' to INSTALLED_APPS. If your site does not include "
                "garmin_auth.urls, silence this check."
            ),
            id=_id("W017"),
        )
    ]


def check_login_url(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """W016: visitors of the pages are sent to a LOGIN_URL that leads nowhere."""
    if not getattr(settings, "ROOT_URLCONF", None) or check_auth(None) or not included():
        return []
    try:
        url = urlsplit(resolve_url(settings.LOGIN_URL))
    except NoReverseMatch:
        pass
    else:
        if url.netloc or _leads_somewhere(url.path):
            return []
    return [
        Warning(
            f"LOGIN_URL is {str(settings.LOGIN_URL)!r}, which is no page of this site. Visitors of "
            "garmin_auth's pages are sent there.",
            hint=(
                "Set LOGIN_URL to the URL, or the URL's name, of the page where users log in to "
                "your site. If your web server serves that page, silence this check."
            ),
            id=_id("W016"),
        )
    ]


def check_terms_url(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """E008: GARMIN_AUTH_TERMS_URL is neither a URL nor the name of a URL pattern."""
    # A middleware may set request.urlconf to URLs that include ours, and that have the name.
    if not getattr(settings, "ROOT_URLCONF", None) or not included():
        return []
    try:
        _ = conf.TERMS_URL and resolve_url(conf.TERMS_URL)
    except ImproperlyConfigured:
        return []  # E001 reports it.
    except NoReverseMatch as exc:
        return [
            Error(
                f"GARMIN_AUTH_TERMS_URL leads nowhere: {exc}",
                hint=(
                    "Set it to a URL, or to the name of a URL pattern that needs no arguments; or "
                    "remove it for no link."
                ),
                id=_id("E008"),
            )
        ]
    return []


def check_templates(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """W020: the site includes our URLs, but its template engines do not find our templates."""
    if not getattr(settings, "ROOT_URLCONF", None) or check_auth(None) or not included():
        return []
    try:
        # Compiling a template takes longer than looking for its file.
        if any((folder / STATUS_TEMPLATE).is_file() for folder in _folders()):
            return []
        get_template(STATUS_TEMPLATE)
    except TemplateDoesNotExist:
        pass
    except Exception:  # noqa: BLE001 - a loader of the site may need a request, or its table
        return []
    else:
        return []
    return [
        Warning(
            "No engine in TEMPLATES finds the templates of garmin_auth, so its pages cannot be "
            "rendered.",
            hint=(
                "Add an engine to TEMPLATES whose BACKEND is "
                "'django.template.backends.django.DjangoTemplates' and whose APP_DIRS is True. If "
                "its OPTIONS contain loaders, leave APP_DIRS out, and add "
                "'django.template.loaders.app_directories.Loader' to them."
            ),
            id=_id("W020"),
        )
    ]


def check_routers(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """E009: a database router keeps our table in a different database from the users."""
    users = GarminAuthenticationState._meta.get_field("user").related_model
    ours, theirs = _write_db(GarminAuthenticationState), _write_db(users)
    if not {ours, theirs} <= set(connections) or _location(ours) == _location(theirs):
        return []
    return [
        Error(
            f"Your database router keeps garmin_auth in {ours!r}, but {settings.AUTH_USER_MODEL} "
            f"in {theirs!r}, so no Garmin session can be stored.",
            hint=(
                f"Let the router keep garmin_auth in {theirs!r} too, and run manage.py migrate "
                f"--database {theirs}. If both are the same database, silence this check."
            ),
            id=_id("E009"),
        )
    ]


def _leads_somewhere(path: str) -> bool:
    if not path.startswith("/"):
        return False  # To a browser, it is relative to the page that redirects there.
    # reverse() returns it quoted, and Django resolves paths that are not.
    path = "/" + unquote(path).removeprefix(get_script_prefix())
    # LocaleMiddleware redirects to the path with the language in front.
    for candidate in (path, f"/{get_language() or settings.LANGUAGE_CODE}{path}"):
        try:
            resolve(candidate)
        except Resolver404:
            continue
        return True
    return False


def check_tags(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """W014: a template uses tags that link to our pages, but our URLs are not included."""
    if not getattr(settings, "ROOT_URLCONF", None) or included():
        return []
    return [
        Warning(
            f"{template} uses tags of garmin_auth, but the site has not included garmin_auth.urls, "
            "so they have no links.",
            hint=(
                'Add path("garmin/", include("garmin_auth.urls")) to your URLs. If a middleware '
                "sets request.urlconf to URLs that include them, silence this check."
            ),
            id=_id("W014"),
        )
        for template in _templates()
        if TAGS_WITH_LINKS.search(template.read_bytes())
    ]


def check_stored_sessions(
    app_configs: Any, databases: Any = None, **kwargs: Any
) -> list[CheckMessage]:
    """W005: no key decrypts some stored sessions, in a sample of the oldest and newest rows."""
    rows = _rows(databases)
    if rows is None:
        return []
    if any(message.is_serious() for message in check_keys(None)):
        return []  # E002 reports it.
    try:
        if rows.model._meta.db_table not in connections[rows.db].introspection.table_names():
            return []
        stored = rows.with_session().order_by("pk").values_list("pk", flat=True)
        sample = {*stored[:SAMPLE], *stored.reverse()[:SAMPLE]}
        lost = unreadable(sample)
    except DatabaseError:
        return []  # The migrations have not been applied yet.
    if not lost:
        return []
    return [
        Warning(
            f"No key in FERNET_KEYS decrypts {len(lost)} of the {len(sample)} stored Garmin "
            "sessions looked at. They are kept.",
            hint=UNREADABLE_HINT,
            id=_id("W005"),
        )
    ]


def check_stored_engines(
    app_configs: Any, databases: Any = None, **kwargs: Any
) -> list[CheckMessage]:
    """W007: the engine of some stored sessions is not installed."""
    rows = _rows(databases)
    if rows is None:
        return []
    try:
        if rows.model._meta.db_table not in connections[rows.db].introspection.table_names():
            return []
        # Filtered by connected_at, which is in the index on engine: every run of checks does this.
        connected = rows.filter(connected_at__isnull=False).order_by("engine")
        stored = connected.values_list("engine", flat=True).distinct()
        absent = [name for name in stored if not is_installed(name)]
    except (DatabaseError, ImproperlyConfigured):
        return []  # The migrations have not been applied yet, or E001 reports it.
    return [
        Warning(
            f"Garmin sessions of the engine {name!r} are stored, but it is not installed. They are "
            "kept, but cannot be used.",
            hint=remedy(name),
            id=_id("W007"),
        )
        for name in absent
    ]


def check_runs(app_configs: Any, databases: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """W019: sessions that use prolongs are neither used nor checked, and will end."""
    rows = _rows(databases)
    if rows is None:
        return []
    now = timezone.now()
    try:
        if rows.model._meta.db_table not in connections[rows.db].introspection.table_names():
            return []
        # By the indexed column, in which those that nobody has prolonged come first.
        due = rows.filter(session_renew_at__lte=now, session_ends_at__gt=now)
        first = due.order_by("session_ends_at").first()
        if first is None or first.session_ends_at is None or first.session_renew_at is None:
            return []
        third = (first.session_ends_at - first.session_renew_at) / (1 / RENEW_AFTER - 1)
        # In this order: only the first of them has an index.
        if (
            rows.filter(check_order__gt=now - third).exists()
            or rows.filter(last_validated__gt=now - third).exists()
        ):
            return []
    except DatabaseError:
        return []  # The migrations have not been applied yet.
    return [
        Warning(
            f"For {third.days} days no Garmin session has been used or checked. Sessions that only "
            f"use prolongs end from {first.session_ends_at:%Y-%m-%d} on.",
            hint="Run manage.py check_garmin_sessions from cron, at least once a week.",
            id=_id("W019"),
        )
    ]


def _id(number: str) -> str:
    return f"garmin_auth.{number}"


def _problems() -> Iterator[str]:
    for name in vars(Settings):
        if not name.isupper():
            continue
        try:
            getattr(conf, name)
        except ImproperlyConfigured as exc:
            yield str(exc)


def _problem_of_key(key: Any) -> str:
    """Return how to correct a key, "" if it can be used."""
    if not isinstance(key, str | bytes) or not key:
        return "A key must be a non-empty string, preferably a long random one."
    if getattr(settings, "FERNET_USE_HKDF", True):
        return ""
    try:
        Fernet(key)
    except ValueError:
        return (
            "With FERNET_USE_HKDF = False a key must be 32 bytes in URL-safe base64, as returned "
            "by cryptography.fernet.Fernet.generate_key()."
        )
    return ""


def _write_db(model: Any) -> str:
    """Return the alias of the database that a model is written to, "" if it is not known.

    A router of the site may need a request, or a tenant.
    """
    try:
        return router.db_for_write(model)
    except Exception:  # noqa: BLE001 - the site's own code
        return ""


def _rows(databases: Any) -> Any:
    """Return the stored rows, None if their database is not among those to look at."""
    alias = _write_db(GarminAuthenticationState)
    return GarminAuthenticationState.objects.using(alias) if alias in (databases or ()) else None


def _location(alias: str) -> list[str]:
    """Return what tells the database of an alias from others: several may be for one database."""
    return [str(connections.settings[alias][name]) for name in ("ENGINE", "HOST", "PORT", "NAME")]


def _templates() -> Iterator[Path]:
    """Return the files of the site's Django templates."""
    for folder in sorted(_folders()):
        yield from sorted(path for path in folder.rglob("*") if path.is_file())


def _folders() -> set[Path]:
    """Return the folders in which the site's Django template engines look."""
    backends = [each for each in engines.all() if isinstance(each, DjangoTemplates)]
    loaders = [loader for backend in backends for loader in backend.engine.template_loaders]
    return {
        Path(folder)
        for loader in loaders
        if hasattr(loader, "get_dirs")
        for folder in loader.get_dirs()
    }


def _is_weak(key: bytes) -> bool:
    if len(key) < KEY_LENGTH or len(set(key)) < KEY_CHARACTERS:
        return True
    return any(words.encode() in key.lower() for words in PLACEHOLDERS)


def _installed_here(name: str) -> Warning:
    return Warning(
        f"The distribution {name!r} has installed its files in the package garmin_auth.",
        hint=(
            "The two cannot be in one environment: each overwrites and deletes files of the "
            f"other. Run python -m pip uninstall {name}, then {REINSTALL}"
        ),
        id=_id("W015"),
    )


def _as_bytes(key: Any) -> Any:
    return key.encode() if isinstance(key, str) else key
