"""Record why a login failed, so that another process can show the same message."""

import json
from typing import Any

from .. import exceptions
from ..exceptions import GarminAuthError

KNOWN = {
    name: value
    for name, value in vars(exceptions).items()
    if isinstance(value, type) and issubclass(value, GarminAuthError)
}
# The constructor arguments that a message needs: numbers and known words. Never ``detail``, which
# is free text: a site's own engine may put anything into it.
FACTS = {
    "ChallengeExpired": ("reason",),
    "GarminRequestError": ("status",),
    "InvalidKey": ("reason",),
    "InvalidMFACode": ("attempts_left",),
    "LoginThrottled": ("retry_after",),
    "RateLimited": ("retry_after",),
}
# The words among them.
REASONS = ("expired", "spent", "gone", "spaces", "password")


def to_record(error: GarminAuthError) -> str:
    """Return a record of the error: one line of JSON with its class and facts, without secrets.

    Args:
        error: the error. If its class is not one of ours, its nearest base class of ours is used.
    """
    kind, facts = facts_of(error)
    return json.dumps({"error": kind.__name__, **facts})


def facts_of(error: GarminAuthError) -> tuple[type[GarminAuthError], dict[str, Any]]:
    """Return the error's class, and the facts that its message needs, by their names.

    Args:
        error: the error. If its class is not one of ours, its nearest base class of ours is used.
    """
    kind = next(base for base in type(error).__mro__ if base in KNOWN.values())
    facts = {fact: getattr(error, fact) for fact in FACTS.get(kind.__name__, ())}
    if not all(_is_plain(value) for value in facts.values()):
        return GarminAuthError, {}
    return kind, facts


def from_record(record: str) -> GarminAuthError:
    """Return the error that a record describes, without its ``detail``.

    Args:
        record: what ``to_record`` returned. If it cannot be read, for example because another
            release wrote it, the error is a GarminAuthError with its general message.
    """
    try:
        facts: dict[str, Any] = json.loads(record)
        error = KNOWN[facts.pop("error")](**facts)
        _ = str(error.user_message)
    except (ValueError, TypeError, KeyError, AttributeError):
        return GarminAuthError("The record of the failed login cannot be read.")
    return error


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, int) or value in REASONS
