"""The app's settings: one typed property each, read from Django's settings at every access."""

from collections.abc import Mapping
from os import PathLike
from types import UnionType
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured

# Garmin runs two separate services; an account lives in one of them.
DOMAINS = ("garmin.com", "garmin.cn")
# A year in seconds: more overflows what sockets or dates can hold.
LARGEST = 31_536_000


class Settings:
    """Reads ``GARMIN_AUTH_*``. A property raises ImproperlyConfigured on a value it cannot use."""

    @property
    def ENGINE(self) -> str:
        """Name of the engine that new logins use."""
        return self._typed("ENGINE", "garth", str, "the name of an engine")

    @property
    def ENGINES(self) -> dict[str, str]:
        """Further engines, name to dotted path of an ``Engine``. They extend the built-in ones."""
        wanted = "a dict of engine names to dotted paths"
        engines = self._typed("ENGINES", {}, dict, wanted)
        if not all(isinstance(name, str) for name in engines) or not all(
            map(_is_dotted_path, engines.values())
        ):
            raise ImproperlyConfigured(f"GARMIN_AUTH_ENGINES must be {wanted}.")
        return engines

    @property
    def DOMAIN(self) -> str:
        """Garmin's domain: ``garmin.com``, or ``garmin.cn`` for accounts in China."""
        domain = self._typed("DOMAIN", DOMAINS[0], str, f"one of {', '.join(DOMAINS)}")
        if domain not in DOMAINS:
            raise ImproperlyConfigured(
                f"GARMIN_AUTH_DOMAIN must be one of {', '.join(DOMAINS)}, not {domain!r}."
            )
        return domain

    @property
    def PROXIES(self) -> dict[str, str]:
        """The proxy that Garmin is reached through, as ``{"https": url}``. Empty: none."""
        proxies = self._typed("PROXIES", {}, dict, 'a dict such as {"https": "http://proxy:3128"}')
        if set(proxies) - {"https"} or not all(map(_is_proxy_url, proxies.values())):
            raise ImproperlyConfigured(
                'GARMIN_AUTH_PROXIES must be a dict such as {"https": "http://proxy:3128"}: '
                "Garmin is only ever asked over https, through an http:// or https:// proxy."
            )
        return proxies

    @property
    def CA_BUNDLE(self) -> str | None:
        """Path of the PEM file of certificate authorities to trust. None: certifi's."""
        bundle = self._typed("CA_BUNDLE", None, str | PathLike | None, "the path of a PEM file")
        return None if bundle is None else str(bundle)

    @property
    def CACHE(self) -> str:
        """Alias of the cache that holds what all processes must know, such as pauses."""
        cache = self._typed("CACHE", "default", str, "the alias of a cache")
        if cache not in django_settings.CACHES:
            raise ImproperlyConfigured(f"GARMIN_AUTH_CACHE names {cache!r}, not one of CACHES.")
        return cache

    @property
    def TIMEOUT(self) -> float:
        """Seconds that one call to Garmin may take, from connecting to the last byte."""
        return self._positive("TIMEOUT", 30)

    @property
    def LEASE(self) -> float:
        """Seconds that one process may refresh a session before the others think it dead."""
        return self._positive("LEASE", 20)

    @property
    def OAUTH_CONSUMER(self) -> dict[str, str] | None:
        """The OAuth consumer's key and secret. None: fetched once a process, as garth does."""
        consumer = self._get("OAUTH_CONSUMER", None)
        if consumer is not None and not is_consumer(consumer):
            raise ImproperlyConfigured(
                'GARMIN_AUTH_OAUTH_CONSUMER must be a dict with the strings "consumer_key" and '
                '"consumer_secret", or None to have it fetched.'
            )
        return consumer

    @property
    def MFA_TTL(self) -> float:
        """Seconds that a pending MFA login is kept. Garmin's limit is not known; 600 is usual."""
        return self._positive("MFA_TTL", 600)

    @property
    def MFA_MAX_ATTEMPTS(self) -> int:
        """Number of codes that a user may try for one login."""
        return self._count("MFA_MAX_ATTEMPTS", 5)

    @property
    def LOGIN_WORKERS(self) -> int:
        """Number of logins that one process may have under way outside of requests."""
        return self._count("LOGIN_WORKERS", 4)

    @property
    def CHECK_RATE(self) -> float | None:
        """Checks a second that all Celery workers together may begin. None: no limit."""
        if self._get("CHECK_RATE", None) is None:
            return None
        return self._positive("CHECK_RATE", 0)

    def _get(self, name: str, default: Any) -> Any:
        return getattr(django_settings, f"GARMIN_AUTH_{name}", default)

    def _typed(self, name: str, default: Any, kind: type | UnionType, wanted: str) -> Any:
        value = self._get(name, default)
        if not isinstance(value, kind):
            # Its type will do: the value may hold a password, such as a proxy's.
            raise ImproperlyConfigured(
                f"GARMIN_AUTH_{name} must be {wanted}, not of type {type(value).__name__}."
            )
        return value

    def _count(self, name: str, default: int) -> int:
        count = self._typed(name, default, int, "a whole number above 0")
        self._positive(name, default)
        return count

    def _positive(self, name: str, default: float) -> float:
        value = self._get(name, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (is_number and 0 < value <= LARGEST):  # Nor NaN, nor infinity.
            raise ImproperlyConfigured(
                f"GARMIN_AUTH_{name} must be a number above 0, up to {LARGEST}, not {value!r}."
            )
        return value


def is_consumer(value: object) -> bool:
    """Tell whether ``value`` is a usable OAuth consumer: a mapping with both strings."""
    return isinstance(value, Mapping) and all(
        isinstance(value.get(key), str) and value[key]
        for key in ("consumer_key", "consumer_secret")
    )


def _is_proxy_url(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _is_dotted_path(value: object) -> bool:
    return isinstance(value, str) and bool(value.rpartition(".")[0])


conf = Settings()
