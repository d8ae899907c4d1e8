"""Send a request's body a second time."""

from typing import Any

from ..exceptions import GarminUnavailable


class Rewind:
    """Remembers where a request's streams stand; calling it brings them back there.

    Args:
        kwargs: the request's keyword arguments, as requests takes them.
    """

    def __init__(self, kwargs: dict[str, Any]) -> None:
        files = kwargs.get("files") or {}
        parts = list(files.values() if isinstance(files, dict) else (part for _, part in files))
        parts = [part[1] if isinstance(part, tuple | list) else part for part in parts]
        self._streams: list[tuple[Any, int]] = []
        self._possible = not hasattr(kwargs.get("data"), "__next__")
        for stream in (*parts, kwargs.get("data")):
            if hasattr(stream, "read"):
                try:
                    self._streams.append((stream, stream.tell()))
                except (OSError, AttributeError):
                    self._possible = False

    def __call__(self) -> None:
        """Bring the streams back. Raises GarminUnavailable if that cannot be done."""
        if not self._possible:
            raise GarminUnavailable(
                "The access token was refused and has been refreshed, but the request's body can "
                "be read only once. Send the request again."
            )
        for stream, position in self._streams:
            stream.seek(position)
