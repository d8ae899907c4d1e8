"""Python processes for tests, forked from one that has imported the slow libraries already.

Each is a process of its own, as ``python ARGUMENTS`` makes one: with its own environment, which
Django and this app read first there. Only garth, garminconnect and parts of Django are imported
before, which takes two seconds of CPU and is what most tests have no use for. A test that is about
imports, or about variables that a library reads at its import, starts an interpreter instead.

``python -m tests.fork_server`` is the server: one thread, a socket as its standard input. An order
is a line of JSON and the file descriptors of the process's standard streams and of a pipe, which
hears the process id and, once it has ended, how.
"""

import contextlib
import gc
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

from django.core.exceptions import ImproperlyConfigured

ROOT = Path(__file__).resolve().parent.parent
PRELOADED = (
    "garth",
    "garminconnect",
    "curl_cffi.requests",
    "requests_oauthlib",
    "cryptography.fernet",
    "django.contrib.messages.middleware",
    "django.core.handlers.wsgi",
    "django.core.management",
    "django.db.backends.sqlite3.base",
    "django.db.backends.postgresql.base",
    "django.db.backends.mysql.base",
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


class ForkServer:
    """The server, as a test holds it."""

    def __init__(self):
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tests.fork_server"], cwd=ROOT, stdin=theirs
            )

    def start(self, arguments, environment, cwd=ROOT):
        """Start what ``python ARGUMENTS`` would, and return it.

        Args:
            arguments: ``-c CODE``, ``-m MODULE`` or a script, and what it gets.
            environment: all of it; of what the interpreter reads, only PYTHONPATH counts.
            cwd: the folder it runs in.
        """
        order = {"arguments": [*map(str, arguments)], "environment": environment, "cwd": str(cwd)}
        text = json.dumps(order).encode()
        pipes = [os.pipe() for _ in range(4)]
        (stdin, to_stdin), *(others) = pipes
        theirs = [stdin, *(writing for _, writing in others)]
        with self._lock:
            socket.send_fds(self._socket, [NUMBER.pack(len(text))], theirs)
            self._socket.sendall(text)
        for descriptor in theirs:
            os.close(descriptor)
        return ForkedProcess(to_stdin, *(reading for reading, _ in others))

    def stop(self):
        """End the server; what it has started goes on."""
        self._socket.close()
        self._server.wait(30)


class ForkedProcess:
    """What tests use of ``subprocess.Popen``, with pipes for all that it reads and writes."""

    def __init__(self, stdin, stdout, stderr, ended):
        self.stdin = os.fdopen(stdin, "w")
        self.stdout, self.stderr = os.fdopen(stdout), os.fdopen(stderr)
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
        """Write to it, read all that it writes until it ends, and return that."""
        if not self.stdin.closed:
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
            if not getattr(self, name).closed
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
                run(**order)
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


def run(arguments, environment, cwd):
    """Do what the interpreter does with these arguments, in this process."""
    os.environ.clear()
    os.environ.update(environment)
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


def preload():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in PRELOADED:
            # A library or a database's driver that is not installed is none that a test needs.
            with contextlib.suppress(ImportError, ImproperlyConfigured):
                __import__(name)
    assert threading.active_count() == 1, "Who forks has one thread."
    gc.freeze()  # So that no collection in a child copies the memory that it shares.


if __name__ == "__main__":
    preload()
    serve()
