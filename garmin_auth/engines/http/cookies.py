"""Cookies as JSON-compatible records, so that another process can continue a login."""

from http.cookiejar import Cookie, CookieJar
from typing import Any

# With domain_specified, because a host-only cookie must not be sent to other hosts of the domain.
FIELDS = (
    "name",
    "value",
    "domain",
    "domain_specified",
    "domain_initial_dot",
    "path",
    "path_specified",
    "secure",
    "expires",
)


def dump_cookies(jar: CookieJar) -> list[dict[str, Any]]:
    """Return all cookies of a jar as records, with their domains, paths and flags."""
    return [
        {
            **{field: getattr(cookie, field) for field in FIELDS},
            "http_only": cookie.has_nonstandard_attr("HttpOnly"),
        }
        for cookie in jar
    ]


def load_cookies(jar: CookieJar, records: list[dict[str, Any]]) -> None:
    """Add cookies to a jar.

    Args:
        jar: the jar.
        records: what ``dump_cookies`` returned.

    Raises:
        KeyError, TypeError: the records are something else.
    """
    for record in records:
        jar.set_cookie(
            Cookie(
                version=0,
                port=None,
                port_specified=False,
                discard=record["expires"] is None,
                comment=None,
                comment_url=None,
                rest={"HttpOnly": ""} if record["http_only"] else {},
                **{field: record[field] for field in FIELDS},
            )
        )
