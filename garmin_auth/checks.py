"""Django system checks. Each finds one mistake in the set-up, and its hint says what to do."""

import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections

from .conf import Settings, conf
from .deferred import deferred
from .engines import (
    foreign_variables,
    is_installed,
    known_engines,
    limits,
    remedy,
    what_is_missing,
)
from .models import GarminAuthenticationState

if TYPE_CHECKING:
    from . import keys as fernet
else:
    fernet = deferred("keys")

# Rows that the database check looks at, from either end of the table.
SAMPLE = 50
PER_PROCESS_CACHES = ("locmem.LocMemCache", "dummy.DummyCache")
# Two processes may both be told that they were the first to add a key.
CACHES_THAT_RACE = ("filebased.FileBasedCache",)


def register_checks() -> None:
    """Register all of them; called once, by the AppConfig."""
    for check in (
        check_settings,
        check_keys,
        check_engine,
        check_trust,
        check_time_zone,
        check_cache,
        check_rate,
        check_environment,
        check_reach,
    ):
        register(check, "garmin_auth")
    # Not "garmin_auth" too: Django 6.1 runs what a tag names on all databases, unasked.
    register(check_stored_sessions, Tags.database)
    register(check_stored_engines, Tags.database)


def check_settings(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """E001: a GARMIN_AUTH_* setting has a value that cannot work."""
    return [
        Error(problem, hint="Correct the setting, or remove it for its default.", id=_id("E001"))
        for problem in _problems()
    ]


def check_keys(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """W001: no FERNET_KEYS. E002: a key that cannot work. W002: a key that is there twice."""
    keys = getattr(settings, "FERNET_KEYS", None)
    if keys is None:
        return [
            Warning(
                "FERNET_KEYS is not set, so Garmin sessions are encrypted with SECRET_KEY.",
                hint=(
                    "Set FERNET_KEYS to a list with a long random string of its own, and append "
                    "SECRET_KEY to it if sessions are stored already. Otherwise all of them are "
                    "lost when SECRET_KEY changes."
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
                "FERNET_KEYS holds the same key more than once.",
                hint="Remove the repetition: it opens nothing more and hides a mistake.",
                id=_id("W002"),
            )
        )
    return messages


def check_engine(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """E003: the engine that new logins use is not known, not installed, or too old."""
    try:
        name, engines = conf.ENGINE, known_engines()
    except ImproperlyConfigured:
        return []  # E001 says it.
    if name not in engines:
        return [
            Error(
                f"GARMIN_AUTH_ENGINE is {name!r}, which is no known engine.",
                hint=(
                    f"Choose one of {', '.join(sorted(engines))}, or name the dotted path of "
                    "yours in GARMIN_AUTH_ENGINES."
                ),
                id=_id("E003"),
            )
        ]
    missing = what_is_missing(name)
    if not missing:
        return []
    return [
        Error(
            f"The engine {name!r} needs {missing}.",
            hint=remedy(name),
            id=_id("E003"),
        )
    ]


def check_trust(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """E004: the CA bundle cannot be used."""
    try:
        bundle = conf.CA_BUNDLE
    except ImproperlyConfigured:
        return []  # E001 says it.
    if bundle is None:
        return []
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(bundle)
    except (OSError, ValueError) as exc:
        why = getattr(exc, "strerror", None) or exc
        return [
            Error(
                f"GARMIN_AUTH_CA_BUNDLE cannot be used: {bundle}: {why}.",
                hint="Name a readable PEM file of certificates, or remove it for certifi's.",
                id=_id("E004"),
            )
        ]
    return []


def check_time_zone(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """E005: USE_TZ is off, so that times have no zone."""
    if settings.USE_TZ:
        return []
    return [
        Error(
            "USE_TZ is False, and leases, checks and the admin's list compare times with a zone.",
            hint="Set USE_TZ = True, Django's default.",
            id=_id("E005"),
        )
    ]


def check_cache(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """W003: the cache is each process's own."""
    try:
        backend = settings.CACHES[conf.CACHE].get("BACKEND", "")
    except ImproperlyConfigured:
        return []  # E001 says it.
    if not backend.endswith(PER_PROCESS_CACHES):
        return []
    return [
        Warning(
            f"The cache {conf.CACHE!r} is not shared between processes, so a pause that Garmin "
            "asks one process for is not kept by the others.",
            hint=(
                "Name a cache that all processes share in GARMIN_AUTH_CACHE: Redis, Memcached, the "
                "database or files. With a single process, silence this check."
            ),
            id=_id("W003"),
        )
    ]


def check_rate(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """W008: the cache cannot hold the rate that all workers are to keep together."""
    try:
        backend = settings.CACHES[conf.CACHE].get("BACKEND", "")
        rate = conf.CHECK_RATE
    except ImproperlyConfigured:
        return []  # E001 says it.
    if rate is None or not backend.endswith(PER_PROCESS_CACHES + CACHES_THAT_RACE):
        return []
    return [
        Warning(
            f"The workers cannot keep GARMIN_AUTH_CHECK_RATE together in the cache {conf.CACHE!r}.",
            hint="Name a cache in Redis, in Memcached or in the database in GARMIN_AUTH_CACHE.",
            id=_id("W008"),
        )
    ]


def check_environment(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """W004: variables of the engines' libraries are set, which change nothing here."""
    names = foreign_variables()
    if not names:
        return []
    return [
        Warning(
            f"The environment has {', '.join(names)}, which garmin_auth does not follow.",
            hint=(
                "Unset what was meant for this site. To bring a session in, use "
                "manage.py import_garmin_session."
            ),
            id=_id("W004"),
        )
    ]


def check_reach(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """W006: settings that the engine of new logins cannot follow."""
    try:
        found = limits(conf.ENGINE)
    except ImproperlyConfigured:
        return []  # E001 says it.
    return [Warning(problem, hint=hint, id=_id("W006")) for problem, hint in found]


def check_stored_sessions(
    app_configs: Any, databases: Any = None, **kwargs: Any
) -> list[CheckMessage]:
    """W005: no key opens some stored sessions. A sample of the table's oldest and newest rows."""
    rows = GarminAuthenticationState.objects.current()
    if databases is None or rows.db not in databases:
        return []
    if any(message.is_serious() for message in check_keys(None)):
        return []  # E002 says it: such keys open nothing, and tell nothing about the rows.
    try:
        if rows.model._meta.db_table not in connections[rows.db].introspection.table_names():
            return []
        stored = rows.with_session().order_by("pk").values_list("pk", flat=True)
        sample = {*stored[:SAMPLE], *stored.reverse()[:SAMPLE]}
        lost = fernet.unreadable(sample)
    except DatabaseError:
        return []  # Older than this version's migrations: migrate comes first.
    if not lost:
        return []
    return [
        Warning(
            f"No key in FERNET_KEYS opens {len(lost)} of {len(sample)} stored Garmin sessions "
            "looked at. They are kept.",
            hint=fernet.UNREADABLE_HINT,
            id=_id("W005"),
        )
    ]


def check_stored_engines(
    app_configs: Any, databases: Any = None, **kwargs: Any
) -> list[CheckMessage]:
    """W007: some stored sessions are of engines that are not installed here."""
    rows = GarminAuthenticationState.objects.current()
    if databases is None or rows.db not in databases:
        return []
    try:
        if rows.model._meta.db_table not in connections[rows.db].introspection.table_names():
            return []
        # By a column that the index on engine holds, for this runs before every check of sessions.
        connected = rows.filter(connected_at__isnull=False).order_by("engine")
        stored = connected.values_list("engine", flat=True).distinct()
        absent = [name for name in stored if not is_installed(name)]
    except (DatabaseError, ImproperlyConfigured):
        return []  # Older than this version's migrations, or E001 says it.
    return [
        Warning(
            f"Garmin sessions of the engine {name!r} are stored, which is not installed here. "
            "They are kept, and cannot be used.",
            hint=remedy(name),
            id=_id("W007"),
        )
        for name in absent
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
    """Return what to do about a key that cannot work, "" if it can."""
    if not isinstance(key, str | bytes) or not key:
        return "A key is a non-empty string; better a long random one."
    if getattr(settings, "FERNET_USE_HKDF", True):
        return ""
    try:
        Fernet(key)
    except ValueError:
        return (
            "With FERNET_USE_HKDF = False a key is 32 bytes in URL-safe base64, as "
            "cryptography.fernet.Fernet.generate_key() makes it."
        )
    return ""


def _as_bytes(key: Any) -> Any:
    return key.encode() if isinstance(key, str) else key
