"""Sessions in garth's own format, which its ``Client.dumps()`` writes."""

import base64
import binascii
import json
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from django.utils import timezone

from ...exceptions import SessionUnreadable
from ..calls import is_header_safe
from .library import OAuth1Token, OAuth2Token

# An OAuth1 token is valid for about a year (reported). Garmin's answers do not say so.
OAUTH1_LIFETIME = timedelta(days=365)


T = TypeVar("T", OAuth1Token, OAuth2Token)


class UnusableToken(ValueError):
    """A token from Garmin is empty, or must not be sent in a header."""


def parse_session(session_data: str, domain: str) -> tuple[OAuth1Token, OAuth2Token]:
    """Read what garth's ``dumps()`` wrote, strictly and for one domain only.

    Args:
        session_data: the session.
        domain: Garmin's domain.

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
    if tokens[0].domain not in (None, domain):
        # The access token would be sent to whatever host the data names.
        raise SessionUnreadable(f"The stored session is not for {domain}.")
    return tokens


def ends_at(oauth1: OAuth1Token) -> datetime:
    """Return when a session that is stored now ends at the latest.

    If its login used MFA, Garmin has named the time. Otherwise it is a year from now; an imported
    session, whose login was earlier, ends before that.

    Args:
        oauth1: the session's OAuth1 token.
    """
    if oauth1.mfa_expiration_timestamp:
        return _as_utc(oauth1.mfa_expiration_timestamp)
    return timezone.now() + OAUTH1_LIFETIME


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
