"""Sessions in garminconnect's own format, which its ``Client.dumps()`` writes."""

import json
import time
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from ...conf import DOMAINS
from ...exceptions import GarminUnavailable, SessionUnreadable
from ..base import RefreshIncomplete
from ..calls import claims_of, is_header_safe, moment_of

FIELDS = ("di_token", "di_refresh_token", "di_client_id")
# Our own field: when the refresh token ends, in seconds since 1970. The library drops Garmin's
# figure, and ignores this one.
ENDS = "di_refresh_token_ends"
# More seconds than any refresh token lives: 30 days are recorded, 90 reported.
LONGEST_LIFE = 2 * 365 * 86_400


def require_session(session_data: str, domain: str) -> dict[str, Any]:
    """Read what garminconnect's ``dumps()`` wrote, strictly and for one domain only.

    Args:
        session_data: the session.
        domain: Garmin's domain.

    Returns:
        The session's tokens and client ID, by the library's names.

    Raises:
        SessionUnreadable: it is something else. The exception repeats no token.
    """
    try:
        content = json.loads(session_data)
    except (ValueError, TypeError, RecursionError):
        content = None
    if not isinstance(content, dict) or not all(
        is_header_safe(content.get(name)) for name in FIELDS
    ):
        raise SessionUnreadable("The stored data is not a session of garminconnect.")
    if (theirs := _issuer(content["di_token"])) not in (None, domain):
        # The other domain's Garmin would refuse the refresh token, as if the session were dead.
        raise SessionUnreadable(f"The stored session is for {theirs}, not for {domain}.")
    return content


def dumps(tokens: dict[str, Any]) -> str:
    """Serialise a session as the library would.

    Args:
        tokens: the tokens and the client ID, by the library's names.
    """
    ends = {ENDS: tokens[ENDS]} if moment_of(tokens.get(ENDS)) else {}
    return json.dumps({**{field: tokens[field] for field in FIELDS}, **ends})


def with_end(tokens: dict[str, Any], answer: Any) -> dict[str, Any]:
    """Return a session together with the end of its refresh token, as far as Garmin names it.

    Args:
        tokens: the tokens and the client ID, by the library's names.
        answer: the JSON of the answer that had the refresh token. Its ``refresh_token_expires_in``
            is the number of seconds for which the token can be used (recorded: 2,591,999).
    """
    life = answer.get("refresh_token_expires_in") if isinstance(answer, dict) else None
    rest = {name: value for name, value in tokens.items() if name != ENDS}
    if not isinstance(life, int | float) or not 0 < life <= LONGEST_LIFE:
        return rest
    return {**rest, ENDS: int(time.time() + life)}


def ends_at(tokens: dict[str, Any]) -> datetime | None:
    """Return when a session ends unless it is refreshed, None if Garmin has not said.

    Args:
        tokens: what ``require_session`` has returned.
    """
    return moment_of(tokens.get(ENDS))


def refreshed(session_data: str, domain: str, answer: Any) -> str:
    """Return the session that results from Garmin's answer to a refresh.

    Args:
        session_data: the session before the refresh.
        domain: Garmin's domain.
        answer: the JSON of Garmin's answer.

    Raises:
        RefreshIncomplete: the answer has a new refresh token, but no usable access token.
        GarminUnavailable: the answer has neither.
        SessionUnreadable: as for ``require_session``.
    """
    before = require_session(session_data, domain)
    answer = answer if isinstance(answer, dict) else {}
    access, refresh = answer.get("access_token"), answer.get("refresh_token")
    rotated = {"di_refresh_token": refresh} if is_header_safe(refresh) else {}
    if is_header_safe(access) and _issuer(access) in (None, domain):
        client_id = claims_of(access).get("client_id")
        named = {"di_client_id": client_id} if is_header_safe(client_id) else {}
        return dumps(with_end({**before, "di_token": access, **rotated, **named}, answer))
    if rotated:
        raise RefreshIncomplete(dumps(with_end({**before, **rotated}, answer)))
    raise GarminUnavailable("Garmin answered the refresh without tokens that can be used.")


def access_ends_at(token: Any) -> datetime | None:
    """Return when an access token ends, None if it does not say.

    Args:
        token: the access token, a JWT.
    """
    return moment_of(claims_of(token).get("exp"))


def _issuer(token: Any) -> str | None:
    """Return which of Garmin's domains issued a JWT, None if it does not say."""
    issuer = claims_of(token).get("iss")
    try:
        host = urlsplit(issuer).hostname or "" if isinstance(issuer, str) else ""
    except ValueError:
        return None
    return next((domain for domain in DOMAINS if host.endswith(f".{domain}")), None)
