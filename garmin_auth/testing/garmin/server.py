"""The server: an HTTP CONNECT proxy on loopback that answers in place of the hosts it allows.

It uses one thread per connection, and makes no connections of its own.
"""

import contextlib
import os
import socket
import ssl
import struct
import threading
import time
import weakref
from base64 import b64encode
from typing import TYPE_CHECKING

import trustme

from .. import control
from . import answers, steps
from .answers import Answer, as_json
from .faults import KINDS, Fault
from .wire import BadRequest, Request, pause, read_request

if TYPE_CHECKING:
    from ..simulator import GarminSimulator

LOOPBACK = "127.0.0.1"
EVERYWHERE = ("", "0.0.0.0")  # noqa: S104 - where a user asks for it
BACKLOG = 128
JOIN = 10.0  # seconds

_running: "weakref.WeakSet[Server]" = weakref.WeakSet()


class Server:
    """Listens, and starts a thread for each connection."""

    def __init__(self, simulator: "GarminSimulator", host: str, port: int):
        """Bind `host`:`port` (0: any free one). Raises `OSError` if the port is in use."""
        self.simulator = simulator
        self.stopping = False
        self._listener = socket.create_server((host, port), backlog=BACKLOG)
        self.host = LOOPBACK if host in EVERYWHERE else host  # As clients on this machine reach it.
        self.port: int = self._listener.getsockname()[1]
        authority = trustme.CA()
        self.ca_pem: bytes = authority.cert_pem.bytes()
        self._contexts = {host: _context(authority, host) for host in steps.HOSTS}
        self._connections: dict[Connection, threading.Thread] = {}
        self._thread = threading.Thread(
            target=self._accept, name=f"garmin-simulator-{self.port}", daemon=True
        )
        _running.add(self)
        self._thread.start()

    def stop(self) -> None:
        """Close the listener and every connection, and wait for their threads."""
        self.stopping = True
        # On some platforms, accept() only returns when a client connects.
        with contextlib.suppress(OSError):
            socket.create_connection((self.host, self.port), timeout=JOIN).close()
        self._thread.join(JOIN)
        self._listener.close()
        connections = list(self._connections.items())
        for connection, _ in connections:
            connection.hang_up()
        for _, thread in connections:
            thread.join(JOIN)
        _running.discard(self)

    def abandon(self) -> None:
        """Close the sockets that a forked child inherits: its copies keep connections open."""
        for owner in (self, *self._connections):
            with contextlib.suppress(OSError):
                os.close(owner.detach())
        self._connections.clear()

    def detach(self) -> int:
        return self._listener.detach()

    def context(self, host: str, trusted: bool = True) -> ssl.SSLContext:
        return self._contexts[host] if trusted else _context(trustme.CA(), host)

    def forget(self, connection: "Connection") -> None:
        self._connections.pop(connection, None)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                if self.stopping:
                    return
                time.sleep(0.05)  # out of file descriptors; some may become free
                continue
            if self.stopping:
                sock.close()
                return
            connection = Connection(self, sock)
            thread = threading.Thread(
                target=connection.run, name="garmin-simulator-connection", daemon=True
            )
            self._connections[connection] = thread
            thread.start()


def _lets_in(credentials: tuple[str, str] | None, request: Request) -> bool:
    """Return whether a CONNECT has the required credentials: Basic, in UTF-8 (RFC 7617)."""
    if credentials is None:
        return True
    wanted = b64encode(":".join(credentials).encode()).decode()
    return request.headers.get("proxy-authorization", "") == f"Basic {wanted}"


def _context(authority: "trustme.CA", host: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    context.set_alpn_protocols(["http/1.1"])  # curl offers h2 first
    context.num_tickets = 0  # no client resumes, and unread tickets turn a FIN into a reset
    return context


class Connection:
    """One client: a CONNECT and its requests, or calls of the control API."""

    def __init__(self, server: Server, sock: socket.socket):
        self.server = server
        self.simulator = server.simulator
        self.socket = sock
        self.reader = sock.makefile("rb")

    def run(self) -> None:
        # Whatever the client does to its connection, only this thread ends.
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._serve()
        except (OSError, BadRequest):
            pass
        finally:
            self.close()
            self.server.forget(self)

    def hang_up(self) -> None:
        """Wake the thread of this connection, from another thread."""
        # Not SSLSocket.shutdown(), which removes the TLS state that the thread is using.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def detach(self) -> int:
        return self.socket.detach()

    def close(self, reset: bool = False) -> None:
        with contextlib.suppress(OSError):
            if reset:
                linger = struct.pack("ii", 1, 0)
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.reader.close()
            self.socket.close()

    def _serve(self) -> None:
        while request := read_request(self.reader):
            if request.method == "CONNECT":
                return self._tunnel(request)
            self._send(control.answer(self.simulator, request))
            if request.wants_close:
                return None
        return None

    # The proxy

    def _tunnel(self, request: Request) -> None:
        host, _, port = request.target.rpartition(":")
        if host not in steps.HOSTS or port != "443":
            self.simulator.journal.count("refused_host")
            self._note("connect", request, host, 403, None)
            return self._send(as_json({"message": f"The simulator is not {request.target}"}, 403))
        self.simulator.journal.count("connect")
        if not _lets_in(self.simulator.proxy_credentials, request):
            self._note("connect", request, host, 407, None)
            return self._send(answers.proxy_authentication_required())
        fault = self.simulator.faults.take("connect", steps.domain_of(host))
        name = fault.name if fault else None
        refusal = fault.answer() if fault else None
        through = name in {None, "slow_headers", "tls_failure", "tls_stall"}
        status = 200 if through else refusal and refusal.status
        self._note("connect", request, host, status, fault)
        if name == "reset":
            return self.close(reset=True)
        if name == "stall":
            return pause(self.socket, fault.options["seconds"])
        if refusal:
            return self._send(refusal)
        if not through:
            return None
        established = b"HTTP/1.1 200 Connection established\r\n\r\n"
        if name == "slow_headers":
            self._drip(established, fault.options["interval"])
        else:
            self.socket.sendall(established)
        if name == "tls_stall":
            # Read first, because pause() mistakes data from the client for a disconnection.
            self.socket.recv(65536)
            return pause(self.socket, fault.options["seconds"])
        self._start_tls(self.server.context(host, trusted=name != "tls_failure"))
        while inner := read_request(self.reader, host):
            if not self._respond(inner):
                return None
        return None

    def _start_tls(self, context: ssl.SSLContext) -> None:
        self.reader.close()
        self.socket = context.wrap_socket(
            self.socket, server_side=True, do_handshake_on_connect=False
        )
        if self.server.stopping:  # hang_up() may have closed the socket that this one replaces
            raise ConnectionAbortedError("the simulator is stopping")
        self.reader = self.socket.makefile("rb")
        self.socket.do_handshake()
        # Garmin's servers send session tickets here, and with them the acknowledgement that a
        # client with Nagle's algorithm (urllib3, through a proxy) waits for before its request.
        if hasattr(socket, "TCP_QUICKACK"):
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    # Garmin

    def _respond(self, request: Request) -> bool:
        """Answer one request, and return False if the connection is closed."""
        simulator = self.simulator
        step = steps.step_of(request)
        domain = steps.domain_of(request.host)
        owner = self._owner(step, request, domain)
        simulator.journal.count(step)
        fault = simulator.faults.take(step, domain, owner)
        answer = self._answer(step, request, fault)
        arrives = answer is not None and not (fault and fault.name == "drop_after")
        self._note(step, request, request.host, answer.status if arrives else None, fault, owner)
        if simulator.latency:
            pause(self.socket, simulator.latency)
        if fault and KINDS[fault.name].answer is None:
            self._misdeliver(fault, answer)
            return fault.name in {
                *("changed_json", "late", "slow_headers", "trickle", "truncated_json")
            }
        self._send(answer)
        return not request.wants_close

    def _owner(self, step: str, request: Request, domain: str) -> str | None:
        """Return the owner of the credential sent, and count one of the other region."""
        regions = self.simulator.regions
        if owner := steps.owner(step, request, regions[domain]):
            return owner
        others = (regions[other] for other in regions if other != domain)
        if owner := next(filter(None, (steps.owner(step, request, it) for it in others)), None):
            self.simulator.journal.count("foreign_region")
        return owner

    def _answer(self, step: str, request: Request, fault: Fault | None) -> Answer | None:
        if fault and fault.name in {"reset", "stall"}:
            return None
        if fault and (answer := fault.answer()):
            return answer
        region = self.simulator.regions[steps.domain_of(request.host)]
        return steps.answer(step, request, region, self.simulator.journal)

    def _misdeliver(self, fault: Fault, answer: Answer | None) -> None:
        if fault.name in {"reset", "drop_after"}:
            return self.close(reset=True)
        if fault.name == "stall":
            return pause(self.socket, fault.options["seconds"])
        if fault.name == "late":
            pause(self.socket, fault.options["seconds"])
            return self._send(answer)
        if fault.name == "changed_json":
            return self._send(answers.changed(answer, fault.options["changes"]))
        half = answer.body[: len(answer.body) // 2]
        if fault.name == "truncated_json":
            return self.socket.sendall(answer.head(len(half)) + half)
        if fault.name == "reset_mid_body":
            self.socket.sendall(answer.head() + half)
            pause(self.socket, 0.05)  # a reset overtakes data that the client has not read yet
            return self.close(reset=True)
        if fault.name == "slow_headers":
            self._drip(answer.head(), fault.options["interval"])
            return self.socket.sendall(answer.body)
        self.socket.sendall(answer.head())
        return self._drip(answer.body, fault.options["interval"])

    def _send(self, answer: Answer) -> None:
        self.socket.sendall(answer.head() + answer.body)

    def _drip(self, data: bytes, interval: float) -> None:
        for i in range(len(data)):
            # Not after the last byte: the client may then send its next request, and pause()
            # mistakes data from the client for a disconnection.
            if i:
                pause(self.socket, interval)
            self.socket.sendall(data[i : i + 1])

    def _note(
        self,
        step: str,
        request: Request,
        host: str,
        status: int | None,
        fault: Fault | None,
        owner: str | None = None,
    ) -> None:
        # Only the path: queries contain service tickets.
        self.simulator.journal.note(
            step=step,
            method=request.method,
            host=host,
            path=request.path if request.host else "",
            status=status,
            account=owner,
            user_agent=request.headers.get("user-agent", ""),
            fault=fault.name if fault else None,
        )


def _after_fork() -> None:
    for server in list(_running):
        server.abandon()
    _running.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
