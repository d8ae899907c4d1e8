"""The types of the arguments of ``check_garmin_sessions``."""

import argparse
import re
from datetime import timedelta

from ...checking.openmetrics import LABELS
from ._running import positive

LONGEST = 3650 * 86_400  # seconds
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
# More threads than this would wait for Python's lock (the GIL) rather than for Garmin.
MAX_WORKERS = 256


def duration(text: str) -> timedelta:
    """Parse ``--max-age`` and ``--jitter``: seconds, or a number with s, m, h or d."""
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", text.strip(), re.ASCII)
    if not match:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time: write seconds, or a number with s, m, h or d, such as 12h"
        )
    seconds = int(match[1]) * UNITS[match[2]]
    if seconds > LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {LONGEST // UNITS['d']} days")
    return timedelta(seconds=seconds)


def workers(text: str) -> int:
    """Parse ``--workers``."""
    number = positive(text)
    if number > MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"{text} is too many: at most {MAX_WORKERS} are allowed")
    return number


def rate(text: str) -> float:
    """Parse ``--rate``: checks a second, or a number with /s, /m or /h."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)(?:/([smh]))?", text.strip(), re.ASCII)
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a rate: write checks a second, such as 5 or 0.5, or 5/s, 90/m, 600/h"
        )
    return float(match[1]) / UNITS[match[2] or ""]


def label(text: str) -> tuple[str, str]:
    """Parse ``--label``: a name that Prometheus and our own metrics leave free, and its value."""
    name, separator, value = text.partition("=")
    if not separator or not re.fullmatch(r"(?!__)[A-Za-z_][A-Za-z0-9_]*", name):
        raise argparse.ArgumentTypeError(f"{text!r} is not a label: write NAME=VALUE")
    if name in LABELS:
        raise argparse.ArgumentTypeError(f"the label {name} is in use: choose another name")
    return name, value
