"""The pauses of 2 to 20 seconds that garminconnect makes in a login. A simulator needs none."""

from importlib.util import find_spec

# The library draws each pause between two of them.
_NAMES = [
    f"{flow}_DELAY_{end}_S" for flow in ("MOBILE", "WIDGET", "LOGIN") for end in ("MIN", "MAX")
]


def pauses() -> list[str]:
    """Return the dotted paths of the lengths of its pauses; none if it is not installed."""
    if find_spec("garminconnect") is None:
        return []
    return [f"garminconnect.client.sso.{name}" for name in _NAMES]
