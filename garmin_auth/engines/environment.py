"""What curl takes from the environment, where nobody tells it otherwise.

One sign-in flow of garminconnect, the widget, makes a curl_cffi session of its own, which no
setting of ours reaches. Whether it would go the settings' way is told here, without importing
either library.
"""

import os

from ..conf import conf

# In the order in which curl and curl_cffi (0.15 and 0.16) look; the first that is not empty wins.
PROXY_VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
NO_PROXY_VARIABLES = ("no_proxy", "NO_PROXY")
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
VARIABLES = (*PROXY_VARIABLES, *NO_PROXY_VARIABLES, *CA_VARIABLES)


def environment_agrees() -> bool:
    """Tell whether curl, left to the environment, takes the proxy and authorities of the settings.

    Raises:
        ImproperlyConfigured: a setting cannot be used.
    """
    return not disagreements()


def disagreements() -> list[str]:
    """Return the names of the settings that the environment contradicts.

    Raises:
        ImproperlyConfigured: a setting cannot be used.
    """
    names = []
    if _proxy(conf.PROXIES.get("https", "")) != _proxy(proxy_for(f"sso.{conf.DOMAIN}")):
        names.append("GARMIN_AUTH_PROXIES")
    if _path(conf.CA_BUNDLE or "") != _path(ca_bundle()):
        names.append("GARMIN_AUTH_CA_BUNDLE")
    return names


def proxy_for(host: str) -> str:
    """Return the proxy that curl would take to an https host, "" for none.

    Args:
        host: its name.
    """
    exceptions = _first(NO_PROXY_VARIABLES)
    if exceptions == "*" or any(_covers(entry, host) for entry in exceptions.split(",")):
        return ""
    return _first(PROXY_VARIABLES)


def ca_bundle() -> str:
    """Return the PEM file that the environment gives curl_cffi, "" for the public authorities."""
    bundle = _first(CA_VARIABLES[:2])
    if bundle:
        return bundle
    # Unlike the others, this one is taken only if the file is there.
    bundle = _first(CA_VARIABLES[2:])
    return bundle if os.path.exists(bundle) else ""


def _first(names: tuple[str, ...]) -> str:
    return next((value for name in names if (value := os.environ.get(name))), "")


def _covers(entry: str, host: str) -> bool:
    """Tell whether an entry of no_proxy is for this host: itself, or a domain above it."""
    domain = entry.strip(" .").lower()
    return bool(domain) and f".{host}".endswith(f".{domain}")


def _proxy(url: str) -> str:
    url = url.rstrip("/")
    return url if "://" in url or not url else f"http://{url}"  # curl's default.


def _path(path: str) -> str:
    return os.path.realpath(path) if path else ""
