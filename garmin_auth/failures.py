"""How a login has failed, as a short text that another process turns into the same sentence."""

import json
from typing import Any

from . import exceptions
from .exceptions import GarminAuthError

KNOWN = {
    name: value
    for name, value in vars(exceptions).items()
    if isinstance(value, type) and issubclass(value, GarminAuthError)
}
# What a sentence needs besides the class: constructor arguments that are numbers or known words.
# Never ``detail``: it is free text, and a third engine may put anything into it.
FACTS = {
    "ChallengeExpired": ("reason",),
    "GarminRequestError": ("status",),
    "InvalidMFACode": ("attempts_left",),
    "LoginThrottled": ("retry_after",),
    "RateLimited": ("retry_after",),
}


def to_record(error: GarminAuthError) -> str:
    """Return a record of the error: a line of JSON with its class and facts, without secrets.

    Args:
        error: what was raised; of a class that is not ours, the nearest base that is.
    """
    name = next(base.__name__ for base in type(error).__mro__ if base in KNOWN.values())
    facts = {fact: getattr(error, fact) for fact in FACTS.get(name, ())}
    if not all(_is_plain(value) for value in facts.values()):
        name, facts = GarminAuthError.__name__, {}
    return json.dumps({"error": name, **facts})


def from_record(record: str) -> GarminAuthError:
    """Return the error of a record, without its ``detail``.

    Args:
        record: what ``to_record`` returned; of one that is not known here, such as another
            release's, the base class with its general sentence.
    """
    try:
        facts: dict[str, Any] = json.loads(record)
        error = KNOWN[facts.pop("error")](**facts)
        _ = str(error.user_message)
    except (ValueError, TypeError, KeyError, AttributeError):
        return GarminAuthError("How the login has failed is not known here.")
    return error


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, int) or value in ("expired", "spent", "gone")
