"""Read HTTP/1.1, and wait without outliving the client."""

import json
import selectors
import socket
import ssl
import time
from dataclasses import dataclass
from functools import cached_property
from io import BufferedReader
from urllib.parse import parse_qsl

MAX_LINE = 65536  # bytes
MAX_BODY = 64 * 1024 * 1024  # bytes


class BadRequest(Exception):
    """The data received is not HTTP."""


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    host: str = ""

    @cached_property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @cached_property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    @cached_property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True))

    @cached_property
    def json(self) -> dict:
        """The body as a JSON object; empty if it is anything else."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    @cached_property
    def cookies(self) -> dict[str, str]:
        pairs = (pair.strip().partition("=") for pair in self.headers.get("cookie", "").split(";"))
        return {name: value.strip('"') for name, _, value in pairs if name}

    @property
    def wants_close(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


def read_request(reader: BufferedReader, host: str = "") -> Request | None:
    """Read a request; None at the end of the connection. Raises `BadRequest` or `OSError`."""
    line = _line(reader)
    if not line:
        return None
    parts = line.split()
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise BadRequest(line[:80])
    headers: dict[str, str] = {}
    while text := _line(reader):
        name, colon, value = text.partition(":")
        if not colon:
            raise BadRequest("header")
        name = name.strip().lower()
        value = value.strip()
        headers[name] = f"{headers[name]}; {value}" if name in headers else value
    return Request(parts[0], parts[1], headers, _body(reader, headers), host)


def _line(reader: BufferedReader) -> str:
    line = reader.readline(MAX_LINE)
    if len(line) == MAX_LINE:
        raise BadRequest("line too long")
    return line.decode("latin-1").rstrip("\r\n")


def _body(reader: BufferedReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        chunks = []
        while size := _number(_line(reader), 16):
            chunks.append(_exactly(reader, size))
            reader.readline(MAX_LINE)
        while _line(reader):
            pass
        return b"".join(chunks)
    return _exactly(reader, _number(headers.get("content-length", "0"), 10))


def _number(text: str, base: int) -> int:
    try:
        number = int(text.partition(";")[0], base)
    except ValueError:
        raise BadRequest("length") from None
    if not 0 <= number <= MAX_BODY:
        raise BadRequest("length")
    return number


def _exactly(reader: BufferedReader, size: int) -> bytes:
    data = reader.read(size) if size else b""
    if len(data) < size:
        raise ConnectionResetError("the client disconnected before the end of its body")
    return data


def pause(sock: socket.socket, seconds: float) -> None:
    """Wait, but no longer than the client does.

    Raises `ConnectionAbortedError` as soon as the client disconnects or the simulator stops, so
    that no thread outlives its connection.
    """
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if selector.select(left) and _hung_up(sock):
                raise ConnectionAbortedError("the client went away")


def _hung_up(sock: socket.socket) -> bool:
    # TLS has its own messages, so "readable" does not prove that the client has gone. A client that
    # sends more before it has its answer (HTTP pipelining) counts as gone, but none does.
    sock.setblocking(False)
    try:
        sock.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return False
    except OSError:
        return True
    finally:
        sock.setblocking(True)
    return True
