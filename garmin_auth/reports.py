"""What checks find: of one session, and of a whole run."""

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """What a check found."""

    ACTIVE = "active"
    EXPIRED = "expired"
    UNKNOWN = "unknown"
    UNREADABLE = "unreadable"
    GONE = "gone"


class Stopped(StrEnum):
    """Why a run ended before its time."""

    RATE_LIMITED = "rate_limited"
    MASS_FAILURE = "mass_failure"
    UNAVAILABLE = "unavailable"
    SIGNAL = "signal"


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Args:
        user: whose session it is.
        outcome: what was found. GONE: the session was disconnected before it could be checked.
        refreshed: whether the access token was refreshed on the way.
        error: what was raised, None for an active session.
        engine: the name of the engine that wrote the session; "" if there was none.
        worked: whether Garmin has answered a call of the session with success.
    """

    user: Any
    outcome: Outcome
    refreshed: bool = False
    error: Exception | None = None
    engine: str = ""
    worked: bool = False


# What is counted by engine too.
BY_ENGINE = ("checked", Outcome.ACTIVE, Outcome.EXPIRED, Outcome.UNKNOWN, Outcome.UNREADABLE)


@dataclass
class Report:
    """Counts of one run: ``checked`` is active + expired + unknown + unreadable.

    Args:
        checked: sessions that were looked at.
        active: sessions that work; ``refreshed`` of them needed a fresh access token.
        expired: sessions that Garmin has ended; they are cleared.
        unknown: sessions of which nothing can be said; they are kept.
        unreadable: sessions that cannot be opened; they are kept.
        skipped: sessions that were validated recently enough, or gone before their turn.
        stopped: why the run ended early, None if it did not.
        duration_s: seconds from the first row read to the last result written.
        engines: by the name of each engine whose sessions were looked at: ``checked``, ``active``,
            ``expired``, ``unknown`` and ``unreadable``, which add up to the counts of the run. A
            session whose engine is not installed is unreadable, under that engine's name.
    """

    checked: int = 0
    active: int = 0
    refreshed: int = 0
    expired: int = 0
    unknown: int = 0
    unreadable: int = 0
    skipped: int = 0
    stopped: Stopped | None = None
    duration_s: float = 0.0
    engines: dict[str, dict[str, int]] = field(default_factory=dict)

    def count(self, check: Check) -> None:
        if check.outcome is Outcome.GONE:
            self.skipped += 1
            return
        self.checked += 1
        self.refreshed += check.refreshed
        setattr(self, check.outcome, getattr(self, check.outcome) + 1)
        counts = self.engines.setdefault(check.engine, {str(name): 0 for name in BY_ENGINE})
        counts["checked"] += 1
        counts[check.outcome] += 1

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as JSON-compatible data, in the order that the command documents."""
        counts = asdict(self)
        engines = counts.pop("engines")
        return {
            **counts,
            "duration_s": round(self.duration_s, 3),
            "rate": round(self.rate, 1),
            "engines": dict(sorted(engines.items())),
        }

    @property
    def rate(self) -> float:
        """Checks a second, over the whole run."""
        return self.checked / self.duration_s if self.duration_s else 0.0
