"""The results of checks: of one session, or of a whole run."""

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """What a check found out about a session."""

    ACTIVE = "active"
    EXPIRED = "expired"
    UNKNOWN = "unknown"
    UNREADABLE = "unreadable"
    GONE = "gone"


class Stopped(StrEnum):
    """Why a run stopped early."""

    RATE_LIMITED = "rate_limited"
    MASS_FAILURE = "mass_failure"
    UNAVAILABLE = "unavailable"
    SIGNAL = "signal"
    FROZEN = "frozen"


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Args:
        user: the user whose session was checked.
        outcome: the result. GONE means that the user was disconnected before the check.
        refreshed: whether the access token was refreshed.
        error: the exception, None for an active session.
        engine: name of the engine that wrote the session; "" if there was no session.
        domain: the Garmin domain that the session is for; "" if there was no session.
        worked: whether a call to Garmin succeeded.
        limited_alone: whether a rate limit on the session leaves all others alone.
        reason: the ``FailingReason`` of an unknown result, "" if it is not the session that fails.
        failing: whether the session has been failing for ``GARMIN_AUTH_FAILING_AFTER``.
        recovers: whether it works again after the user was told that it fails.
    """

    user: Any
    outcome: Outcome
    refreshed: bool = False
    error: Exception | None = None
    engine: str = ""
    domain: str = ""
    worked: bool = False
    limited_alone: bool = False
    reason: str = ""
    failing: bool = False
    recovers: bool = False


# These counts are also kept for each engine.
BY_ENGINE = ("checked", Outcome.ACTIVE, Outcome.EXPIRED, Outcome.UNKNOWN, Outcome.UNREADABLE)


@dataclass
class Report:
    """The counts of one run. ``checked`` is active + expired + unknown + unreadable.

    Args:
        checked: sessions that were checked.
        active: sessions that work; ``refreshed`` of them needed a fresh access token.
        expired: sessions that Garmin has ended, which are now cleared.
        unknown: sessions whose state is unknown, which are kept.
        unreadable: sessions that cannot be opened, which are kept.
        failing: how many of the unknown ones have been failing for ``GARMIN_AUTH_FAILING_AFTER``
            while others worked, so that their users have been told.
        skipped: sessions that were validated recently enough, or disconnected before their turn.
        stopped: why the run stopped early, None if it did not.
        left_out: what was not checked further because the run stopped early: a domain, or an engine
            at a domain, as in ``"garth at garmin.com"``. All others were still checked.
        duration_s: seconds from reading the first row to writing the last result.
        engines: the counts ``checked``, ``active``, ``expired``, ``unknown`` and ``unreadable`` for
            each engine, by its name. A session whose engine is not installed counts as unreadable,
            under that engine's name.
        cache_failed: whether the cache could not be used, so that no cooldown was enforced.
        elsewhere: if the run has checked nothing, how many sessions are due, but queued for Celery
            or claimed by other runs.
    """

    checked: int = 0
    active: int = 0
    refreshed: int = 0
    expired: int = 0
    unknown: int = 0
    unreadable: int = 0
    failing: int = 0
    skipped: int = 0
    stopped: Stopped | None = None
    left_out: list[str] = field(default_factory=list)
    duration_s: float = 0.0
    engines: dict[str, dict[str, int]] = field(default_factory=dict)
    cache_failed: bool = False
    elsewhere: int = 0

    def count(self, check: Check) -> None:
        if check.outcome is Outcome.GONE:
            self.skipped += 1
            return
        self.checked += 1
        self.refreshed += check.refreshed
        self.failing += check.failing
        setattr(self, check.outcome, getattr(self, check.outcome) + 1)
        counts = self.engines.setdefault(check.engine, {str(name): 0 for name in BY_ENGINE})
        counts["checked"] += 1
        counts[check.outcome] += 1

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as JSON-compatible data, in their documented order."""
        counts = asdict(self)
        engines = counts.pop("engines")
        del counts["cache_failed"], counts["elsewhere"]
        return {
            **counts,
            "duration_s": round(self.duration_s, 3),
            "rate": round(self.rate, 1),
            "engines": dict(sorted(engines.items())),
        }

    @property
    def rate(self) -> float:
        """Checks per second, over the whole run."""
        return self.checked / self.duration_s if self.duration_s else 0.0
