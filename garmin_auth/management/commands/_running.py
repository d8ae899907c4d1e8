"""What the commands that cron runs have in common."""

import argparse
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, OutputWrapper
from django.db import DatabaseError


class QuietCommand(BaseCommand):
    """Ends on a broken set-up with a sentence; says no warnings: they would be a mail a day."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except ImproperlyConfigured as exc:
            raise CommandError(str(exc)) from exc
        except DatabaseError as exc:
            raise CommandError(
                f"The database cannot be used: {exc}. Has manage.py migrate been run?"
            ) from exc

    def check(self, *args: Any, **kwargs: Any) -> None:
        stderr, self.stderr = self.stderr, OutputWrapper(StringIO())
        try:
            super().check(*args, **kwargs)
        finally:
            self.stderr = stderr


@contextmanager
def interruptions() -> Iterator:
    """Yield a function that tells whether SIGINT or SIGTERM has come: the check under way ends."""
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


def positive(text: str) -> int:
    """Read a number above 0."""
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return min(int(text), sys.maxsize)  # More is no number to a database.
