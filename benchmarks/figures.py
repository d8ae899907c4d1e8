"""The measurements, their goals, the machine, and how they are shown."""

import os
import platform
import sqlite3
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata

PACKAGES = (
    "Django",
    "garth",
    "garminconnect",
    "requests",
    "urllib3",
    "cryptography",
    "psycopg",
    "celery",
)


@dataclass(frozen=True)
class Figure:
    """One measurement.

    Args:
        what: what was compared with what.
        value: the median.
        unit: the unit after the number: "×" for a ratio, else "ms", "/s", "MB" or nothing.
        low, high: the minimum and maximum of the rounds.
        at_most, at_least: the goal, None if there is none.
        note: the values behind the ratio, in a few words.
        counts: what was counted, by name, for a table of the benchmark's own.
    """

    what: str
    value: float
    unit: str = "×"
    low: float | None = None
    high: float | None = None
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""
    counts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, what: str, values: Iterable[float], **options) -> "Figure":
        """Make a figure from the values of all rounds."""
        values = list(values)
        return cls(what, statistics.median(values), low=min(values), high=max(values), **options)

    @property
    def goal(self) -> str:
        if self.at_most is not None:
            return f"≤ {self.at_most:g}"
        return "" if self.at_least is None else f"≥ {self.at_least:g}"

    @property
    def verdict(self) -> str:
        """PASS or FAIL, "" if there is no goal."""
        if self.at_most is not None:
            return "PASS" if self.value <= self.at_most else "FAIL"
        if self.at_least is not None:
            return "PASS" if self.value >= self.at_least else "FAIL"
        return ""

    def cells(self) -> tuple[str, ...]:
        spread = "" if self.low is None else f"{number(self.low)} … {number(self.high)}"
        return (
            self.what,
            f"{number(self.value)} {self.unit}".strip(),
            spread,
            self.goal,
            self.verdict,
            self.note,
        )


HEAD = ("measured", "median", "rounds", "goal", "", "made of")


def number(value: float | None) -> str:
    """Format a number with its significant digits."""
    if value is None:
        return ""
    if value == int(value) and value < 1000:
        return str(int(value))
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def as_text(figures: Iterable[Figure]) -> str:
    """Format the figures for a terminal."""
    rows = [HEAD, *(figure.cells() for figure in figures)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEAD) - 1)]
    return "\n".join(
        "  ".join([*(f"{row[at]:{width}}" for at, width in enumerate(widths)), row[-1]]).rstrip()
        for row in rows
    )


def as_markdown(figures: Iterable[Figure]) -> str:
    """Format the figures as a Markdown table."""
    rows = [HEAD, ("---",) * len(HEAD), *(figure.cells() for figure in figures)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def machine() -> str:
    """Return what the machine is that measures: its processor, cores and memory."""
    with open("/proc/cpuinfo") as lines:
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = models[0] if models else platform.machine()
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GB"


def packages() -> dict[str, str]:
    """Return the versions of what the figures depend on, besides our code."""
    return {
        "system": platform.platform(terse=True),
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
        **{name: metadata.version(name) for name in PACKAGES if _installed(name)},
    }


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
