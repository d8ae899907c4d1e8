"""Read the sessions that garth itself keeps: a GARTH_TOKEN string, or a folder of two JSON files.

No message repeats any of their content.
"""

import base64
import binascii
import json
from pathlib import Path
from typing import Any

from ...exceptions import SessionUnreadable

# The file names and fields that garth 0.4 to 0.8 writes.
FILES = ("oauth1_token.json", "oauth2_token.json")
OAUTH1_FIELDS = {"oauth_token", "oauth_token_secret"}
OAUTH1_OPTIONAL = {"mfa_token", "mfa_expiration_timestamp", "domain"}
OAUTH2_FIELDS = {
    "scope",
    "jti",
    "token_type",
    "access_token",
    "refresh_token",
    "expires_in",
    "expires_at",
    "refresh_token_expires_in",
    "refresh_token_expires_at",
}
HOW_TO = (
    "A GARTH_TOKEN is what this prints: python -c \"import garth; garth.resume('~/.garth'); "
    'print(garth.client.dumps())"'
)

Tokens = tuple[dict[str, Any], dict[str, Any]]


def from_token(text: str) -> Tokens:
    """Read a GARTH_TOKEN.

    Args:
        text: the string. White space anywhere in it is ignored.

    Returns:
        The OAuth1 and the OAuth2 token, not yet checked.

    Raises:
        SessionUnreadable: it is something else.
    """
    text = "".join(text.split())
    if not text:
        raise SessionUnreadable(f"There is no session to import: nothing was given. {HOW_TO}")
    if text.startswith(("{", "[")):
        raise SessionUnreadable(
            "This is JSON, not a GARTH_TOKEN: perhaps a session of another engine, or one of "
            f"garth's token files. Give a folder with --dir instead, or a GARTH_TOKEN. {HOW_TO}"
        )
    try:
        content = json.loads(base64.b64decode(text, validate=True))
    except (ValueError, RecursionError, binascii.Error):
        content = None
    if content is None:
        raise SessionUnreadable(f"This is not a GARTH_TOKEN, or a part of it is missing. {HOW_TO}")
    if not (
        isinstance(content, list)
        and len(content) == 2
        and all(isinstance(token, dict) for token in content)
    ):
        raise SessionUnreadable(
            "This does not contain garth's two tokens. It may be a session of another engine. "
            f"{HOW_TO}"
        )
    return content[0], content[1]


def from_folder(path: Path) -> Tokens:
    """Read a folder that garth's ``client.dump()`` wrote.

    Args:
        path: the folder.

    Returns:
        The OAuth1 and the OAuth2 token, not yet checked.

    Raises:
        SessionUnreadable: it is something else.
    """
    tokens = []
    for name in FILES:
        problem = ""
        try:
            token = json.loads((path / name).read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            problem = (
                f"There is no {name} in {path}: is it the folder that garth keeps its tokens in?"
            )
        except OSError as exc:
            problem = f"{path / name} cannot be read: {exc.strerror}."
        except (ValueError, RecursionError):
            problem = f"{path / name} is not JSON, or a part of it is missing."
        if not problem and not isinstance(token, dict):
            problem = f"{path / name} does not hold one of garth's tokens."
        if problem:
            raise SessionUnreadable(problem)
        tokens.append(token)
    return tokens[0], tokens[1]


def problem_of(tokens: Tokens, domain: str) -> str:
    """Return why tokens cannot be imported here, as a sentence, "" if they can.

    Args:
        tokens: what ``from_token`` or ``from_folder`` returned.
        domain: the domain of Garmin's that they must be for.
    """
    oauth1, oauth2 = tokens
    known = (OAUTH1_FIELDS <= oauth1.keys() <= OAUTH1_FIELDS | OAUTH1_OPTIONAL) and (
        oauth2.keys() == OAUTH2_FIELDS
    )
    if not known:
        return (
            "The tokens do not have the fields that garth 0.4 to 0.8 writes. They come from "
            "another version of garth, or another engine. Export them again with garth 0.8."
        )
    theirs = oauth1.get("domain")
    if theirs not in (None, domain):
        return (
            f"The session is not for {domain}, but for another domain of Garmin's or somebody "
            "else's. This site works with those in GARMIN_AUTH_DOMAIN."
        )
    return ""


def to_token(tokens: Tokens) -> str:
    """Return tokens as a GARTH_TOKEN."""
    return base64.b64encode(json.dumps(tokens).encode()).decode()
