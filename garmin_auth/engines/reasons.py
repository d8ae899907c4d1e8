"""Shorten what Garmin said and remove its secrets, so that an exception can repeat it."""

import re

LONGEST = 500  # Characters.
REDACTED = "[redacted]"
# An email address, a JWT, a service ticket, or a long text that may be a token.
SUSPECT = re.compile(
    r"""[^\s@"'<>:;,]{1,64}(?:@|%40)[^\s@"'<>:;,]{1,255}"""
    r"|eyJ[\w.-]+"
    r"|ST-\d+-[\w-]+"
    r"|[\w+=-]{20,}"
)
# A long text of letters only is not a token, for example ``detailedImportResultFailures``.
WORDS = re.compile(r"[A-Za-z_=-]+")


def reason(text: str, *secrets: str, longest: int = LONGEST) -> str:
    """Return a text with everything that is secret, or may be, replaced.

    Args:
        text: what Garmin said.
        secrets: the secrets that were sent to Garmin, which it may have repeated.
        longest: how many characters to keep.
    """
    for secret in filter(None, secrets):
        text = text.replace(secret, REDACTED)
    return SUSPECT.sub(_redact, text).strip()[:longest]


def _redact(match: re.Match[str]) -> str:
    found = match[0]
    is_words = WORDS.fullmatch(found) and not found.startswith("eyJ")
    return found if is_words else REDACTED
