"""Bodies that the caller reads: each read has its own deadline, and raises our exceptions.

The time between two reads does not count, so that a slow caller is not cut off. A stream as a whole
may take as long as the caller keeps reading.
"""

import http.client
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

from urllib3 import BaseHTTPResponse, HTTPResponse
from urllib3.exceptions import HTTPError

from .causes import unanswered
from .deadline import deadline

T = TypeVar("T")


class Stream(HTTPResponse):
    """urllib3's response, with a deadline for each read. requests reads every body through it."""

    _asked: str
    _seconds: float

    def read(self, *args, **kwargs):
        return self._in_time(super().read, *args, **kwargs)

    def read1(self, *args, **kwargs):
        return self._in_time(super().read1, *args, **kwargs)

    def read_chunked(self, *args, **kwargs):
        yield from self._each_in_time(super().read_chunked(*args, **kwargs))

    def _each_in_time(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        while (chunk := self._in_time(next, chunks, None)) is not None:
            yield chunk

    def _in_time(self, read: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        with deadline(self._seconds):
            try:
                return read(*args, **kwargs)
            except (HTTPError, http.client.HTTPException, OSError) as exc:
                fault = unanswered(exc, self._asked)
        self.close()
        raise fault


def as_stream(response: BaseHTTPResponse, url: str, seconds: float) -> None:
    """Turn urllib3's response into a ``Stream``, because urllib3 cannot be told to create one.

    Args:
        response: the response, whose body has not been read yet.
        url: the URL of the request.
        seconds: how long one read may take.
    """
    response.__class__ = Stream
    stream = cast(Stream, response)
    stream._asked, stream._seconds = url, seconds
