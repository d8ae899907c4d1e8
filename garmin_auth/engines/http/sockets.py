"""Sockets and connections that keep the deadline.

The timeouts of requests and urllib3 apply to each read, so a server that sends a byte now and then
could outlast them. Here the socket itself checks, before each wait, how much time is left.

The overrides accept any arguments, because CPython's and gevent's methods take different ones.
"""

import socket
import ssl
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from .deadline import remaining
from .greenlets import time_limit
from .instruments import Uninstrumented

T = TypeVar("T")


def resolve(host: str, port: int) -> list[Any]:
    """Resolve a host name within the current deadline, which the system's resolver does not know.

    Args:
        host: the host name.
        port: the port to connect to.

    Returns:
        What ``socket.getaddrinfo`` returns.

    Raises:
        OSError, UnicodeError: what ``socket.getaddrinfo`` raises.
        TimeoutError: the deadline has passed.
    """
    answers: SimpleQueue[Any] = SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as exc:
            answers.put(exc)

    # If the resolver hangs, the thread stays behind until it gives up.
    threading.Thread(target=look_up, daemon=True, name="garmin_auth look-up").start()
    try:
        answer = answers.get(timeout=remaining())
    except Empty:
        answer = TimeoutError("Resolving the host name took too long.")
    if isinstance(answer, Exception):
        raise answer
    return answer


class _Deadlined:
    """A mixin for sockets. No wait goes on after the deadline."""

    settimeout: Callable[[float | None], None]

    def _in_time(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        left = remaining()
        if left is None:
            return call(*args, **kwargs)
        self.settimeout(left)
        with time_limit(left):
            return call(*args, **kwargs)

    def recv(self, *args, **kwargs):
        return self._in_time(super().recv, *args, **kwargs)

    def recv_into(self, *args, **kwargs):
        return self._in_time(super().recv_into, *args, **kwargs)

    def send(self, *args, **kwargs):
        return self._in_time(super().send, *args, **kwargs)


class DeadlineSocket(_Deadlined, socket.socket):
    """The TCP socket, which sends plain HTTP to the proxy. For TLS, DeadlineTLSSocket wraps it."""

    def sendall(self, *args, **kwargs):
        # socket.sendall() applies one timeout to the whole of the data.
        return self._in_time(super().sendall, *args, **kwargs)


class DeadlineTLSSocket(_Deadlined, ssl.SSLSocket):
    """The TLS socket. Its sendall() needs no override, because it calls send() in a loop."""

    def do_handshake(self, *args, **kwargs):
        return self._in_time(super().do_handshake, *args, **kwargs)


class DeadlineConnection(Uninstrumented, HTTPSConnection):
    """Tries each address of the host in turn, within the deadline."""

    # Whether the last attempt to connect to Garmin succeeded. urllib3 forgets that when it closes a
    # broken connection. It then blames the proxy for what Garmin did, and does not try again.
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
                # Behind a proxy, urllib3 does not set this, and each POST waits 40 ms for an ACK.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                left = remaining()
                # An address that does not answer must leave time for the others.
                sock.settimeout(None if left is None else left / (len(addresses) - position))
                sock.connect(address)
            except OSError as exc:
                sock.close()
                problem = exc
            else:
                return sock
        if isinstance(problem, TimeoutError):
            raise ConnectTimeoutError(self, f"Connecting to {self.host} took too long.")
        raise NewConnectionError(self, f"Cannot connect to {self.host}: {problem}") from problem


class DeadlinePool(HTTPSConnectionPool):
    ConnectionCls = DeadlineConnection
