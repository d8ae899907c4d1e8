"""The files that our pages load. A site need not have django.contrib.staticfiles."""

from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from django.urls import reverse

# By the name of the URL: the file, and what it is.
ASSETS = {
    "stylesheet": ("garmin_auth.css", "text/css"),
    "script": ("garmin_auth.js", "text/javascript"),
    "admin_stylesheet": ("admin.css", "text/css"),
}


@lru_cache
def content_of(name: str) -> bytes:
    """Return a file's bytes, read once a process.

    Args:
        name: the name of its URL.
    """
    return Path(__file__).with_name(ASSETS[name][0]).read_bytes()


@lru_cache
def version_of(name: str) -> str:
    """Return what changes whenever the file does."""
    return sha256(content_of(name)).hexdigest()[:12]


def url_of(name: str) -> str:
    """Return a file's URL with its version, so that an update is seen in spite of caches."""
    return f"{reverse(f'garmin_auth:{name}')}?v={version_of(name)}"
