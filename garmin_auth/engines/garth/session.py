"""Sessions in garth's own format, which its ``Client.dumps()`` writes."""

import base64
import binascii
import json
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from django.utils import timezone

from ...conf import conf
from ...exceptions import SessionUnreadable
from ..calls import is_header_safe, moment_of
from .library import OAuth1Token, OAuth2Token

# An OAuth1 token is valid for about a year (reported). Garmin's answers do not say so.
OAUTH1_LIFETIME = timedelta(days=365)


T = TypeVar("T", OAuth1Token, OAuth2Token)


class UnusableToken(ValueError):
    """A token from Garmin is empty, or must not be sent in a header."""


def parse_session(session_data: str) -> tuple[OAuth1Token, OAuth2Token]:
    """Read what garth's ``dumps()`` wrote, strictly and for our domain only.

    Args:
        session_data: the session.

    Returns:
        The OAuth1 and the OAuth2 token.

    Raises:
        SessionUnreadable: it is something else. The exception repeats nothing of it.
    """
    try:
        oauth1, oauth2 = json.loads(base64.b64decode(session_data, validate=True))
        tokens = OAuth1Token(**oauth1), OAuth2Token(**oauth2)
    except (ValueError, TypeError, RecursionError, binascii.Error):
        tokens = None
    if tokens is None:
        raise SessionUnreadable("The stored data is not a session of garth 0.8.")
    if not all(_is_usable(token) for token in tokens):
        raise SessionUnreadable("The stored session holds a token with illegal characters.")
    domain = tokens[0].domain
    if domain not in (None, conf.DOMAIN):
        # The access token would be sent to whatever host the data names.
        raise SessionUnreadable(f"The stored session is not for {conf.DOMAIN}.")
    return tokens


def ends_at(session_data: str) -> datetime:
    """Return when a session that is stored now ends at the latest.

    If its login used MFA, Garmin has named the time. Otherwise it is a year from now; an imported
    session, whose login was earlier, ends before that.

    Args:
        session_data: the session.

    Raises:
        SessionUnreadable: it is not a session of garth's.
    """
    oauth1, _ = parse_session(session_data)
    if oauth1.mfa_expiration_timestamp:
        return _as_utc(oauth1.mfa_expiration_timestamp)
    return timezone.now() + OAUTH1_LIFETIME


def access_ends_at(session_data: str) -> datetime | None:
    """Return when the access token of a session ends, None if it does not say.

    Args:
        session_data: the session.

    Raises:
        SessionUnreadable: it is not a session of garth's.
    """
    _, oauth2 = parse_session(session_data)
    return moment_of(oauth2.expires_at)


def _as_utc(moment: datetime) -> datetime:
    # Garmin's timestamp names no time zone, and is in GMT (recorded).
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def usable(token: T) -> T:
    """Return a token that Garmin has sent, if ``parse_session`` would accept it.

    Args:
        token: the token.

    Raises:
        UnusableToken: ``parse_session`` would refuse it.
    """
    if not _is_usable(token):
        raise UnusableToken
    return token


def _is_usable(token: OAuth1Token | OAuth2Token) -> bool:
    if isinstance(token, OAuth1Token):
        values = token.oauth_token, token.oauth_token_secret
    else:
        values = token.token_type, token.access_token
    return all(map(is_header_safe, values))
