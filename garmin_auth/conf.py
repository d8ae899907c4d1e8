"""The app's settings: one typed property each, read from Django's settings at every access."""

from collections.abc import Mapping
from os import PathLike
from types import UnionType
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.functional import Promise

# Garmin runs two separate services. An account exists in one of them.
DOMAINS = ("garmin.com", "garmin.cn")
# The most characters of an engine's name, which each row stores.
ENGINE_NAME_LENGTH = 50
# Seconds for one refresh, from connecting to the last byte.
REFRESH_TIMEOUT = 15
# A year in seconds. More would overflow sockets or dates.
LARGEST = 31_536_000


class Settings:
    """Reads ``GARMIN_AUTH_*``. A property raises ImproperlyConfigured on a value it cannot use."""

    @property
    def ENGINE(self) -> str | list[str] | tuple[str, ...] | None:
        """Name of the engine for new logins. ``None``: the installed one, garth first.

        With a list of names, users choose, and the first is the default.
        """
        wanted = "the name of an engine, or a list of different names"
        engine = self._typed("ENGINE", None, str | list | tuple | None, wanted)
        if isinstance(engine, list | tuple) and (
            not engine
            or not all(isinstance(name, str) for name in engine)
            or len(set(engine)) < len(engine)
        ):
            raise ImproperlyConfigured(f"GARMIN_AUTH_ENGINE must be {wanted}.")
        return engine

    @property
    def ENGINES(self) -> dict[str, str]:
        """Your own engines: a dict of names to dotted paths of ``Engine`` classes."""
        wanted = "a dict of engine names to dotted paths"
        engines = self._typed("ENGINES", {}, dict, wanted)
        if not all(isinstance(name, str) for name in engines) or not all(
            map(_is_dotted_path, engines.values())
        ):
            raise ImproperlyConfigured(f"GARMIN_AUTH_ENGINES must be {wanted}.")
        if not all(0 < len(name) <= ENGINE_NAME_LENGTH for name in engines):
            raise ImproperlyConfigured(
                "GARMIN_AUTH_ENGINES must have names of 1 to "
                f"{ENGINE_NAME_LENGTH} characters, which is what a row can store."
            )
        return engines

    @property
    def DOMAIN(self) -> str | list[str] | tuple[str, ...]:
        """Garmin's domain: ``garmin.com``, or ``garmin.cn`` for accounts in China.

        With a list of both, users choose, and the first is the default.
        """
        wanted = f"one of {', '.join(DOMAINS)}, or a list of both"
        domain = self._typed("DOMAIN", DOMAINS[0], str | list | tuple, wanted)
        names = [domain] if isinstance(domain, str) else list(domain)
        if not names or not all(name in DOMAINS for name in names) or len(set(names)) < len(names):
            raise ImproperlyConfigured(f"GARMIN_AUTH_DOMAIN must be {wanted}, not {domain!r}.")
        return domain

    @property
    def PROXIES(self) -> dict[str, str]:
        """The proxy for all requests to Garmin, as ``{"https": url}``. Empty: no proxy."""
        proxies = self._typed("PROXIES", {}, dict, 'a dict such as {"https": "http://proxy:3128"}')
        if set(proxies) - {"https"} or not all(map(_is_proxy_url, proxies.values())):
            raise ImproperlyConfigured(
                'GARMIN_AUTH_PROXIES must be a dict such as {"https": "http://proxy:3128"}: '
                "Garmin is only ever asked over https, through an http:// or https:// proxy."
            )
        return proxies

    @property
    def CA_BUNDLE(self) -> str | None:
        """Path of a PEM file of certificate authorities to trust. ``None``: certifi's."""
        bundle = self._typed("CA_BUNDLE", None, str | PathLike | None, "the path of a PEM file")
        return None if bundle is None else str(bundle)

    @property
    def CACHE(self) -> str:
        """Alias of a cache that all processes share, for cooldowns, throttles and rates."""
        cache = self._typed("CACHE", "default", str, "the alias of a cache")
        if cache not in django_settings.CACHES:
            raise ImproperlyConfigured(f"GARMIN_AUTH_CACHE names {cache!r}, not one of CACHES.")
        return cache

    @property
    def TIMEOUT(self) -> float:
        """Maximum seconds for one call to Garmin, from connecting to the last byte."""
        return self._positive("TIMEOUT", 30)

    @property
    def LEASE(self) -> float:
        """Seconds that a process has for a refresh before another one takes over; at least 15."""
        lease = self._positive("LEASE", 20)
        if lease < REFRESH_TIMEOUT:
            raise ImproperlyConfigured(
                f"GARMIN_AUTH_LEASE must be at least {REFRESH_TIMEOUT} seconds, because a refresh "
                f"may take that long, not {lease!r}."
            )
        return lease

    @property
    def THREAD_CONTEXT(self) -> str | None:
        """Dotted path of a callable that returns a context manager for the app's own threads.

        It is called in the caller's thread, and each thread of the app enters what it returns. Use
        it to carry over what your site keeps on the database connection, such as the tenant. Its
        attribute ``key``, if it has one, tells tenants apart in the cache.
        ``None``: nothing to carry over.
        """
        return self._dotted_path("THREAD_CONTEXT", "a callable that returns a context manager")

    @property
    def CLIENT_ADDRESS(self) -> str | None:
        """Dotted path of a callable that takes the request and returns the client's IP address.

        It limits the logins of each address, whichever users make them. Behind a proxy, only your
        site knows which header to trust. ``None``: no such limit.
        """
        return self._dotted_path("CLIENT_ADDRESS", "a callable that takes the request")

    @property
    def MAY_CONNECT(self) -> str | None:
        """Dotted path of a callable that says whether a user may connect a Garmin account.

        It takes the user, and returns ``True``, or the sentence that tells the user why not.
        Sessions that are stored already are not affected. ``None``: everybody may.
        """
        return self._dotted_path("MAY_CONNECT", "a callable that takes the user")

    @property
    def API_AUTHENTICATION(self) -> str:
        """Dotted path of a callable that says who the user of a request to the API is.

        It takes the request, and returns the user, or ``None``. The default is the site's session,
        with a CSRF token; ``garmin_auth.api.authentication.rest_framework`` uses REST
        framework's classes.
        """
        return (
            self._dotted_path("API_AUTHENTICATION", "a callable that takes the request")
            or "garmin_auth.api.authentication.session"
        )

    @property
    def TERMS_URL(self) -> str | None:
        """Your site's terms, which the login page links to: a URL, or the name of a URL pattern.

        ``None``: no link.
        """
        wanted = "a URL, or the name of a URL pattern"
        return self._typed("TERMS_URL", None, str | Promise | None, wanted)  # reverse_lazy() too.

    @property
    def OAUTH_CONSUMER(self) -> dict[str, str] | None:
        """Key and secret of garth's OAuth consumer. ``None``: fetched once per process."""
        consumer = self._get("OAUTH_CONSUMER", None)
        if consumer is not None and not is_consumer(consumer):
            raise ImproperlyConfigured(
                'GARMIN_AUTH_OAUTH_CONSUMER must be a dict with the strings "consumer_key" and '
                '"consumer_secret", or None to have it fetched.'
            )
        return consumer

    @property
    def MFA_TTL(self) -> float:
        """Seconds that a login waits for its code. Garmin's limit is not known; 600 is common."""
        return self._positive("MFA_TTL", 600)

    @property
    def MFA_MAX_ATTEMPTS(self) -> int:
        """How many codes a user may try for one login."""
        return self._count("MFA_MAX_ATTEMPTS", 5)

    @property
    def LOGIN_WORKERS(self) -> int:
        """How many logins one process may run in the background at the same time."""
        return self._count("LOGIN_WORKERS", 4)

    @property
    def ASYNC_WORKERS(self) -> int:
        """How many calls of ``use_garmin`` and async logins one process runs at the same time.

        Others wait for their turn.
        """
        return self._count("ASYNC_WORKERS", 20)

    @property
    def CHECK_RATE(self) -> float | None:
        """How many checks all processes together may start in a second. ``None``: no limit."""
        if self._get("CHECK_RATE", None) is None:
            return None
        return self._positive("CHECK_RATE", 0)

    @property
    def FAILING_AFTER(self) -> float:
        """Seconds for which a connection may fail before its user is told; 3 days."""
        return self._positive("FAILING_AFTER", 259_200)

    @property
    def FROZEN(self) -> bool:
        """``True``: ask Garmin nothing. For copies of production, such as staging.

        A copy with the same keys would otherwise refresh, and so end, production's sessions.
        """
        return self._typed("FROZEN", False, bool, "True or False")

    def _get(self, name: str, default: Any) -> Any:
        return getattr(django_settings, f"GARMIN_AUTH_{name}", default)

    def _typed(self, name: str, default: Any, kind: type | UnionType, wanted: str) -> Any:
        value = self._get(name, default)
        if not isinstance(value, kind):
            # Only the type is named, because the value may contain a password, such as a proxy's.
            raise ImproperlyConfigured(
                f"GARMIN_AUTH_{name} must be {wanted}, not of type {type(value).__name__}."
            )
        return value

    def _dotted_path(self, name: str, to_what: str) -> str | None:
        wanted = f"the dotted path of {to_what}"
        path = self._typed(name, None, str | None, wanted)
        if path is not None and not _is_dotted_path(path):
            raise ImproperlyConfigured(f"GARMIN_AUTH_{name} must be {wanted}.")
        return path

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
