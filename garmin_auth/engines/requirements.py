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
        instead: the name of an engine to choose rather; "" for none.
    """

    distributions: dict[str, str]
    command: str
    python: tuple[int, int] = (3, 11)
    instead: str = ""

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

    @property
    def runs_here(self) -> bool:
        """Whether this Python is new enough."""
        return self.python <= PYTHON

    @property
    def oldest_python(self) -> str:
        return _dotted(self.python)

    def remedy(self) -> str:
        """Say how to install it."""
        if self.runs_here:
            return f"Install it: {self.command}"
        return (
            f"It needs Python {self.oldest_python} or newer, and this is {_dotted(PYTHON)}. With a "
            f"newer Python, install it: {self.command}"
        )


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _numbers(version: str) -> tuple[int, ...]:
    release = re.match(r"[\d.]*", version)
    return tuple(int(number) for number in release[0].split(".") if number) if release else ()
