"""The base class and functions shared by the commands for cron."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from typing import Any, cast

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, OutputWrapper
from django.db import DatabaseError, Error, connections, router
from django.db.migrations.executor import MigrationExecutor

from ...models import GarminAuthenticationState


class LastingStream:
    """A stream that ends no command, whatever becomes of it.

    Characters that its encoding does not have are escaped. If it is closed, full, or read by nobody
    any more, what is written to it is dropped.

    Args:
        stream: the stream; None, as Python has it, if it was closed from the start.

    Attributes:
        broken: whether something was dropped.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.broken = stream is None

    def write(self, text: str) -> None:
        self._try(lambda: self._write(text))

    def flush(self) -> None:
        self._try(getattr(self._stream, "flush", lambda: None))

    def isatty(self) -> bool:
        try:
            return not self.broken and bool(getattr(self._stream, "isatty", lambda: False)())
        except ValueError:  # It was closed.
            return False

    def discard(self) -> None:
        """If it is broken, let Python's own flush at its end succeed: else it exits with 120."""
        if self.broken and self._stream is not None:
            with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError as exc:
            escaped = text.encode(exc.encoding, "backslashreplace")
            self._stream.write(escaped.decode(exc.encoding))

    def _try(self, call: Callable[[], Any]) -> None:
        if self.broken:
            return
        try:
            call()
        except (OSError, ValueError):  # ValueError: it was closed.
            self.broken = True


class QuietCommand(BaseCommand):
    """Reports a broken set-up in one sentence. Prints no warnings, which cron would mail daily.

    It goes on without a standard output or error that breaks.
    """

    def __init__(self, stdout: Any = None, stderr: Any = None, **options: Any) -> None:
        stdout, stderr = LastingStream(stdout or sys.stdout), LastingStream(stderr or sys.stderr)
        super().__init__(cast(Any, stdout), cast(Any, stderr), **options)

    def run_from_argv(self, argv: list[str]) -> None:
        try:
            super().run_from_argv(argv)
        finally:
            for stream in (self.stdout, self.stderr):
                stream.flush()
                stream.discard()

    def execute(self, *args: Any, **options: Any) -> str | None:
        for name in ("stdout", "stderr"):
            if options.get(name):
                options[name] = LastingStream(options[name])
        try:
            return super().execute(*args, **options)
        except ImproperlyConfigured as exc:
            raise CommandError(str(exc)) from exc
        except DatabaseError as exc:
            remedy = " Run manage.py migrate." if _is_behind() else ""
            raise CommandError(f"The database cannot be used: {exc}.{remedy}") from exc

    def check(self, *args: Any, **kwargs: Any) -> None:
        stderr, self.stderr = self.stderr, OutputWrapper(StringIO())
        try:
            super().check(*args, **kwargs)
        finally:
            self.stderr = stderr


@contextmanager
def interruptions() -> Iterator:
    """Yield a function that returns whether SIGINT or SIGTERM was received, instead of exiting.

    A caller that handles these signals itself is told of them afterwards, so that it stops too.
    """
    came: list[int] = []
    former = {}
    main = threading.current_thread() is threading.main_thread()
    for number in (signal.SIGINT, signal.SIGTERM) if main else ():
        former[number] = signal.signal(number, lambda received, frame: came.append(received))
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    for received in came:
        handler = former[signal.Signals(received)]
        if callable(handler) and handler is not signal.default_int_handler:
            handler(received, None)


def _is_behind() -> bool:
    """Return whether migrations of this app have not been applied, as far as the database says."""
    try:
        executor = MigrationExecutor(connections[router.db_for_write(GarminAuthenticationState)])
        return bool(executor.migration_plan(executor.loader.graph.leaf_nodes("garmin_auth")))
    except (Error, ImproperlyConfigured):
        return False  # The database is away.


def confirm(question: str, number: int) -> None:
    """Ask for confirmation on the terminal, which is given by typing a number.

    Args:
        question: says what the command is about to do.
        number: what has to be typed.

    Raises:
        CommandError: something else was typed.
    """
    try:
        answer = input(f"{question} Type {number} to continue: ")
    except EOFError:
        answer = ""
    if answer.strip() != str(number):
        raise CommandError("Canceled. Nothing was done.")


def positive(text: str) -> int:
    """Parse a number greater than 0."""
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number greater than 0")
    return min(int(text), sys.maxsize)  # Databases accept no larger number.
