"""Sessions of the Personal API: a key, and the access token that it was last exchanged for."""

import json
import re
import unicodedata
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

from ...exceptions import GarminUnavailable, InvalidKey, SessionUnreadable
from ..calls import claims_of, is_header_safe, moment_of
from ..secret import Secret

# What may stand after the scheme in an Authorization header (RFC 9110, 11.2): ``ApiKey <key>``.
TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*")
# Characters. Garmin does not say how long its keys are. One that is shorter could be guessed.
SHORTEST = 20
LINE_BREAK = re.compile(r"[ \t]*[\r\n]+[ \t]*")


@dataclass(frozen=True)
class KeySession:
    """A session, stored as JSON.

    Args:
        domain: Garmin's domain, the only one that gets the key.
        key: the user's key.
        key_ends_at: when the key ends, in seconds since 1970; None if not known.
        token: the access token; "" if the key has not been exchanged yet.
        token_ends_at: when the token ends, in seconds since 1970.
    """

    domain: str
    key: str = field(repr=False)
    key_ends_at: float | None
    token: str = field(default="", repr=False)
    token_ends_at: float = 0

    @property
    def access_ends_at(self) -> datetime:
        return datetime.fromtimestamp(self.token_ends_at, UTC)

    def dumps(self) -> str:
        return json.dumps(asdict(self))

    def with_token(self, token: str) -> "KeySession":
        """Return this session with a token that Garmin has sent.

        Args:
            token: what Garmin sent as its answer, a JWT.

        Raises:
            GarminUnavailable: it is something else.
        """
        token = token.strip()
        ends_at = moment_of(claims_of(token).get("exp"))
        if ends_at is None or not TOKEN68.fullmatch(token):
            raise GarminUnavailable("Garmin answered the exchange of the key without a token.")
        return replace(self, token=token, token_ends_at=ends_at.timestamp())


def new_session(domain: str, key: str, ends_at: datetime | None) -> KeySession:
    """Return the session of a key that has not been exchanged yet.

    Args:
        domain: Garmin's domain.
        key: the key, as ``read_key`` returned it.
        ends_at: when it ends, None if not known.
    """
    return KeySession(domain, key, ends_at.timestamp() if ends_at else None)


def read_key(text: str) -> Secret:
    """Return the key that was pasted, without line breaks, spaces around it, or invisible marks.

    Args:
        text: what was pasted.

    Raises:
        InvalidKey: this cannot be a key.
    """
    visible = "".join(mark for mark in text if unicodedata.category(mark) != "Cf")
    key = LINE_BREAK.sub("", visible.strip())
    if re.search(r"\s", key):
        raise InvalidKey("spaces")
    if len(key) < SHORTEST or not TOKEN68.fullmatch(key):
        raise InvalidKey("password")
    return Secret(key)


def parse_session(session_data: str, domain: str) -> KeySession:
    """Read a session, strictly and for one domain only.

    Args:
        session_data: what ``KeySession.dumps()`` returned.
        domain: Garmin's domain.

    Raises:
        SessionUnreadable: it is something else. The exception repeats nothing of it.
    """
    try:
        session = KeySession(**json.loads(session_data))
    except (ValueError, TypeError, RecursionError):
        session = None
    if session is None or not _is_sound(session):
        raise SessionUnreadable("The stored data is not a session of the Personal API.")
    if session.domain != domain:
        # The other domain's Garmin would refuse the key, as if it had ended.
        raise SessionUnreadable(f"The stored session is not for {domain}.")
    return session


def _is_sound(session: KeySession) -> bool:
    return (
        is_header_safe(session.key)
        and (session.token == "" or is_header_safe(session.token))
        and moment_of(session.token_ends_at) is not None
        and (session.key_ends_at is None or moment_of(session.key_ends_at) is not None)
    )
