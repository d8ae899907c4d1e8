"""What an engine needs installed, told by what installers write down: no library is imported."""

import os
import re
import sys
from typing import NamedTuple

PYTHON = sys.version_info[:2]


class Needs(NamedTuple):
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
            version = installed_version(name)
            if version is None:
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


def installed_version(name: str) -> str | None:
    """Return the version of a distribution that is installed, None: it is not.

    Installers name a folder by both, ``garth-0.8.0.dist-info`` (packaging.python.org, "Recording
    installed projects"). importlib.metadata, which knows all other ways too, is asked only where
    there is no such folder: every start of Django would pay for its import.

    Args:
        name: the distribution's name.
    """
    for path in sys.path:
        try:
            entries = os.listdir(path or ".")
        except OSError:  # There is no such folder, or it is a file: a zip, say.
            continue
        for entry in entries:
            stem, extension = os.path.splitext(entry)
            found, _, version = stem.partition("-")
            if extension == ".dist-info" and _normalized(found) == _normalized(name):
                return version
    from importlib import metadata  # Here for its cost, as said above.

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _normalized(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _numbers(version: str) -> tuple[int, ...]:
    release = re.match(r"[\d.]*", version)
    return tuple(int(number) for number in release[0].split(".") if number) if release else ()
