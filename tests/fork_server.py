"""Python processes for tests, forked from one that has imported the slow libraries already.

Each is a process of its own, as ``python ARGUMENTS`` makes one: with its own environment, which
Django and this app read first there. Only garth, garminconnect and parts of Django are imported
before, which takes two seconds of CPU and is what most tests have no use for. A test that is about
imports, or about variables that a library reads at its import, starts an interpreter instead.

``python -m tests.fork_server`` is the server: one thread, a socket as its standard input. An order
is a line of JSON and the file descriptors of the process's standard streams and of a pipe, which
hears the process id and, once it has ended, how. Each process has streams as its interpreter would
have made them, whatever they are: test_fork_server.py compares.
"""

import atexit
import contextlib
import gc
import io
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from subprocess import STDOUT

from django.core.exceptions import ImproperlyConfigured

ROOT = Path(__file__).resolve().parent.parent
PRELOADED = (
    "garth",
    "garminconnect",
    "curl_cffi.requests",
    "requests_oauthlib",
    "cryptography.fernet",
    "cryptography.hazmat.backends.openssl.backend",
    "cryptography.hazmat.primitives.kdf.hkdf",
    "django.contrib.messages.middleware",
    "django.core.handlers.wsgi",
    "django.core.management",
    "django.db.backends.sqlite3.base",
    "django.db.backends.postgresql.base",
    "django.db.backends.mysql.base",
    "django.db.migrations.autodetector",
    "django.db.migrations.executor",
    "django.db.models",
    "django.forms",
    "django.middleware.csrf",
    "django.template.defaulttags",
    "django.template.loader",
    "django.test",
    "django.views.decorators.debug",
)
NUMBER = struct.Struct("i")
# Imports and queries make objects by the thousand. To look as often as usual for cycles among them
# takes a tenth of a test's time, and a sixth of a short process's.
FEW_COLLECTIONS = (200_000, 50, 100)
STREAMS = ("stdin", "stdout", "stderr")
CLOSED = object()  # In place of a stream that a process is to have.


class ForkServer:
    """The server, as a test holds it."""

    def __init__(self):
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tests.fork_server"], cwd=ROOT, stdin=theirs
            )

    @property
    def pid(self):
        """The process id of the server, the parent of all that it starts."""
        return self._server.pid

    def start(self, arguments, environment, cwd=ROOT, new_session=False, **streams):
        """Start what ``python ARGUMENTS`` would, and return it.

        Args:
            arguments: ``-c CODE``, ``-m MODULE`` or a script, and what it gets.
            environment: all of it; of what the interpreter reads, PYTHONPATH, PYTHONIOENCODING and
                PYTHONUNBUFFERED count.
            cwd: the folder it runs in.
            new_session: whether it leads a session, and so a process group, of its own.
            streams: by name, where its standard streams are not pipes to here: a file descriptor,
                ``CLOSED``, or for ``stderr`` ``STDOUT``.
        """
        given = dict(enumerate(map(streams.get, STREAMS)))
        order = {
            "arguments": [*map(str, arguments)],
            "environment": environment,
            "cwd": str(cwd),
            "new_session": new_session,
            "closed": [number for number, stream in given.items() if stream is CLOSED],
        }
        text = json.dumps(order).encode()
        ended, end = os.pipe()
        pipes = {number: os.pipe() for number, stream in given.items() if stream is None}
        ours = {n: os.fdopen(ends[n == 0], "r" if n else "w") for n, ends in pipes.items()}
        theirs = {n: ends[n > 0] for n, ends in pipes.items()}
        sent = [theirs.get(n, stream) for n, stream in given.items()]
        if sent[2] is STDOUT:
            sent[2] = sent[1]
        # For a closed one, anything that is open.
        sent = [end if stream is CLOSED else stream for stream in (*sent, end)]
        with self._lock:
            socket.send_fds(self._socket, [NUMBER.pack(len(text))], sent)
            self._socket.sendall(text)
        for descriptor in (end, *theirs.values()):
            os.close(descriptor)
        return ForkedProcess([ours.get(number) for number in given], ended)

    def stop(self):
        """End the server; what it has started goes on."""
        self._socket.close()
        self._server.wait(30)


class ForkedProcess:
    """What tests use of ``subprocess.Popen``."""

    def __init__(self, streams, ended):
        self.stdin, self.stdout, self.stderr = streams
        self._ended = os.fdopen(ended, "rb", buffering=0)
        self.pid = self._hear()
        self.returncode = None

    def _hear(self):
        told = self._ended.read(NUMBER.size)
        assert told, "The fork server has died."
        return NUMBER.unpack(told)[0]

    def poll(self):
        """Return the exit code, None while the process runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout=None):
        """Wait for its end, and return the exit code; minus N: signal N has killed it."""
        if self.returncode is None:
            if not select.select([self._ended], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            self.returncode = self._hear()
            self._ended.close()
        return self.returncode

    def communicate(self, text="", timeout=None):
        """Write to it, read all that it writes to us until it ends, and return that."""
        if self.stdin and not self.stdin.closed:
            with contextlib.suppress(BrokenPipeError), self.stdin:
                self.stdin.write(text)
        written = {}

        def read(name):
            with getattr(self, name) as stream:
                written[name] = "" if stream.closed else stream.read()

        gives_up_at = None if timeout is None else time.monotonic() + timeout
        readers = [
            threading.Thread(target=read, args=(name,), daemon=True)
            for name in ("stdout", "stderr")
            if getattr(self, name) and not getattr(self, name).closed
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(None if gives_up_at is None else max(0, gives_up_at - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        self.wait(timeout)
        return written.get("stdout", ""), written.get("stderr", "")

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


# Started as ``python ARGUMENTS``, it lets the fork server make that process, and ends as it does.
COMMAND = """#!{executable} -SsE
import json, os, signal, socket, sys
first = (sys.argv[1:] or ["-"])[0]
if first.startswith("-") and first not in ("-c", "-m"):
    os.execv({executable!r}, [{executable!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
order = [sys.argv[1:], dict(os.environ), os.getcwd()]
socket.send_fds(server, [b"."], [0, 1, 2])
server.sendall(json.dumps(order).encode())
server.shutdown(socket.SHUT_WR)
code = int(server.makefile().read())
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@contextlib.contextmanager
def python_command(server, folder):
    """Put a ``python`` into a folder, for shells, whose processes this fork server makes."""
    address = str(folder / "fork_server")
    command = folder / "python"
    command.write_text(COMMAND.format(executable=sys.executable, address=address))
    command.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        threading.Thread(target=_take_orders, args=(server, listener), daemon=True).start()
        yield
        listener.shutdown(socket.SHUT_RDWR)


def _take_orders(server, listener):
    with contextlib.suppress(OSError):  # It has been closed.
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_obey, args=(server, connection), daemon=True).start()


def _obey(server, connection):
    with connection:
        _, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
        arguments, environment, cwd = json.loads(connection.makefile().read())
        streams = dict(zip(STREAMS, descriptors, strict=True))
        process = server.start(arguments, environment, cwd, **streams)
        for descriptor in descriptors:
            os.close(descriptor)
        connection.sendall(str(process.wait()).encode())


def serve():
    orders = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *args: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(wake.fileno())
    children = {}
    while True:
        ready, _, _ = select.select([orders, woken], [], [])
        if woken in ready:
            woken.recv(1000)
            bury(children)
        if orders in ready:
            header, descriptors, _, _ = socket.recv_fds(orders, NUMBER.size, 4)
            if not header:
                return
            order = json.loads(orders.recv(NUMBER.unpack(header)[0], socket.MSG_WAITALL))
            *streams, ended = descriptors
            child = os.fork()
            if child == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                for number, descriptor in enumerate(streams):
                    os.dup2(descriptor, number)
                for descriptor in (*descriptors, *children.values()):
                    os.close(descriptor)
                for connection in (orders, woken, wake):
                    connection.close()
                run_to_the_end(order)
                return
            for descriptor in streams:
                os.close(descriptor)
            children[child] = ended
            os.write(ended, NUMBER.pack(child))


def bury(children):
    """Tell of each child that has ended."""
    while children:
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            return
        ended = children.pop(child)
        with contextlib.suppress(BrokenPipeError):
            os.write(ended, NUMBER.pack(os.waitstatus_to_exitcode(status)))
        os.close(ended)


def run_to_the_end(order):
    """Do the same, and end the process as the interpreter does, with one thing left out.

    That is to take each of a thousand modules apart, which costs nine tenths of a short process.
    Whatever else is to be told at the end than a number, the interpreter tells.
    """
    code = 0
    try:
        run(**order)
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        code = end.code or 0
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream:
                stream.flush()
    except (OSError, ValueError):  # The other end, or the stream, is closed.
        sys.exit(code)
    os._exit(code & 0xFF)


def run(arguments, environment, cwd, new_session, closed):
    """Do what the interpreter does with these arguments, in this process."""
    if new_session:
        os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    for number in closed:
        os.close(number)
    default = sys.stdout
    for number, name in enumerate(STREAMS):
        opened = None if number in closed else open_stream(number, environment, default)
        setattr(sys, name, opened)
        setattr(sys, f"__{name}__", opened)
    os.chdir(cwd)
    time.tzset()
    where = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:1] = [str(cwd), *where]
    what, *rest = arguments
    if what == "-c":
        sys.argv = ["-c", *rest[1:]]
        main = type(sys)("__main__")
        sys.modules["__main__"] = main
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    elif what == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(what, run_name="__main__")


def open_stream(number, environment, default):
    """Open a standard stream as the interpreter does at its start; ``default`` is what it made."""
    buffered = not environment.get("PYTHONUNBUFFERED")
    encoding, _, errors = environment.get("PYTHONIOENCODING", "").partition(":")
    if not errors:
        errors = "strict" if encoding else default.errors
    mode, buffering = ("wb", -1 if buffered else 0) if number else ("rb", -1)
    binary = open(number, mode, buffering, closefd=False)  # noqa: SIM115
    return io.TextIOWrapper(
        binary,
        encoding=encoding or default.encoding,
        errors="backslashreplace" if number == 2 else errors,
        newline="\n",
        line_buffering=buffered and (number == 2 or binary.isatty()),
        write_through=not buffered,
    )


def preload():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in PRELOADED:
            # A library or a database's driver that is not installed is none that a test needs.
            with contextlib.suppress(ImportError, ImproperlyConfigured):
                __import__(name)
    assert threading.active_count() == 1, "Who forks has one thread."
    gc.set_threshold(*FEW_COLLECTIONS)
    gc.freeze()  # So that no collection in a child copies the memory that it shares.


if __name__ == "__main__":
    preload()
    serve()
