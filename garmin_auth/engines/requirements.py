"""What an engine needs installed, told by importlib.metadata: no library is imported for it."""

import re
import sys
from dataclasses import dataclass
from importlib import metadata

PYTHON = sys.version_info[:2]


@dataclass(frozen=True)
class Needs:
    """What a built-in engine is built on.

    Args:
        distributions: their names, each with the oldest version that will do.
        command: what installs them.
        python: the oldest Python that they run on.
    """

    distributions: dict[str, str]
    command: str
    python: tuple[int, int] = (3, 11)

    def missing(self) -> str:
        """Say what is missing or too old, as part of a sentence; "": nothing."""
        for name, oldest in self.distributions.items():
            try:
                version = metadata.version(name)
            except metadata.PackageNotFoundError:
                return f"{name}, which is not installed"
            if _numbers(version) < _numbers(oldest):
                return f"{name} {oldest} or newer, and {version} is installed"
        return ""

    def remedy(self) -> str:
        """Say how to install it."""
        if self.python <= PYTHON:
            return f"Install it: {self.command}"
        wanted, running = (".".join(map(str, v)) for v in (self.python, PYTHON))
        return (
            f"It needs Python {wanted} or newer, and this is {running}. With a newer Python, "
            f"install it: {self.command}"
        )


def _numbers(version: str) -> tuple[int, ...]:
    release = re.match(r"[\d.]*", version)
    return tuple(int(number) for number in release[0].split(".") if number) if release else ()
