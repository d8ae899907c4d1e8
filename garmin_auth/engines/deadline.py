"""A deadline for a whole call: connect, handshake, headers and the last byte of the body.

The time-outs of requests and urllib3 are for each read, so a server that sends a byte now and
then holds a worker for ever. Here the socket itself asks, before each wait, how much is left.
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from queue import Empty, SimpleQueue
from typing import Any

from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

_ends_at: ContextVar[float | None] = ContextVar("garmin_auth_deadline", default=None)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """End every network wait inside the block within ``seconds``. The earlier of nested ones holds.

    What overruns raises TimeoutError, or what urllib3 and requests make of it.
    """
    ends_at = time.monotonic() + seconds
    outer = _ends_at.get()
    token = _ends_at.set(ends_at if outer is None else min(outer, ends_at))
    try:
        yield
    finally:
        _ends_at.reset(token)


def remaining() -> float | None:
    """Return the seconds left of the current deadline, None outside of any.

    Raises:
        TimeoutError: nothing is left.
    """
    ends_at = _ends_at.get()
    if ends_at is None:
        return None
    left = ends_at - time.monotonic()
    if left <= 0:
        raise TimeoutError("The call's deadline is over.")
    return left


def pause(seconds: float) -> bool:
    """Sleep, unless the current deadline ends before that. Tell whether it was done."""
    ends_at = _ends_at.get()
    if ends_at is not None and time.monotonic() + seconds >= ends_at:
        return False
    time.sleep(seconds)
    return True


def resolve(host: str, port: int) -> list[Any]:
    """Look a host up, within the current deadline: the system's resolver knows none.

    Args:
        host: its name.
        port: the port to connect to.

    Returns:
        What ``socket.getaddrinfo`` returns.

    Raises:
        OSError: as that does; TimeoutError when it takes too long.
    """
    answers: SimpleQueue[Any] = SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as exc:
            answers.put(exc)

    # Where it hangs, the thread is left behind until the resolver gives up.
    threading.Thread(target=look_up, daemon=True, name="garmin_auth look-up").start()
    try:
        answer = answers.get(timeout=remaining())
    except Empty:
        answer = TimeoutError("Looking the host up took too long.")
    if isinstance(answer, Exception):
        raise answer
    return answer


class _Deadlined:
    """Mixed into sockets: no wait outlasts the deadline."""

    settimeout: Callable[[float | None], None]
    # A body that the caller streams is read when the block has ended: the call's deadline stays.
    _ends_at: float | None = None

    def _arm(self) -> None:
        ends_at = _ends_at.get()
        if ends_at is None:
            ends_at = self._ends_at
        else:
            self._ends_at = ends_at
        if ends_at is None:
            return
        left = ends_at - time.monotonic()
        if left <= 0:
            raise TimeoutError("The call's deadline is over.")
        self.settimeout(left)

    def recv(self, *args):
        self._arm()
        return super().recv(*args)

    def recv_into(self, *args):
        self._arm()
        return super().recv_into(*args)

    def send(self, *args):
        self._arm()
        return super().send(*args)


class DeadlineSocket(_Deadlined, socket.socket):
    """Speaks plain HTTP to the proxy."""

    def sendall(self, data, flags=0):
        self._arm()  # One time-out for the whole of it: that is how socket.sendall() counts.
        return super().sendall(data, flags)


class DeadlineTLSSocket(_Deadlined, ssl.SSLSocket):
    """Speaks to Garmin. Its sendall() is a loop of send()."""

    def do_handshake(self, block=False):
        self._arm()
        return super().do_handshake(block)


class DeadlineConnection(HTTPSConnection):
    """Connects to each address of the host in turn, within the deadline."""

    # Whether the way to Garmin has been open since the last attempt to open it. urllib3 forgets it
    # when a broken connection is closed, and takes what Garmin broke for a fault of the proxy,
    # which is not tried again.
    _was_open = False

    def connect(self) -> None:
        self._was_open = False
        super().connect()
        self._was_open = True

    @property
    def has_connected_to_proxy(self) -> bool:
        return self._was_open or super().has_connected_to_proxy

    def _new_conn(self) -> socket.socket:
        try:
            addresses = resolve(self._dns_host, self.port)
        except (socket.gaierror, UnicodeError) as exc:
            raise NameResolutionError(self.host, self, socket.gaierror(str(exc))) from exc
        problem: OSError | None = None
        for position, (family, kind, protocol, _, address) in enumerate(addresses):
            sock = DeadlineSocket(family, kind, protocol)
            try:
                # Behind a proxy urllib3 leaves it out, and each POST waits 40 ms for an ACK.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                left = remaining()
                # A silent address leaves time for the next ones.
                sock.settimeout(None if left is None else left / (len(addresses) - position))
                sock.connect(address)
            except OSError as exc:
                sock.close()
                problem = exc
            else:
                return sock
        if isinstance(problem, TimeoutError):
            raise ConnectTimeoutError(self, f"Connecting to {self.host} took too long.")
        raise NewConnectionError(self, f"Cannot connect to {self.host}: {problem}")


class DeadlinePool(HTTPSConnectionPool):
    ConnectionCls = DeadlineConnection
