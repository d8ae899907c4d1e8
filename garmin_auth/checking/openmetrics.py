"""Metrics and reports as text for Prometheus.

The text is what both parsers accept: OpenMetrics 1.0, and Prometheus's older format, which is the
one that node_exporter's textfile collector reads. So each family is a gauge, no sample has a time,
and what only OpenMetrics has (``# UNIT``, ``# EOF``) is a comment to the other.
"""

import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ..engines import offered_engines
from ..metrics import Metrics, ServiceMetrics
from .report import Outcome, Report, Stopped

OUTCOMES = (Outcome.ACTIVE, Outcome.EXPIRED, Outcome.UNKNOWN, Outcome.UNREADABLE)
# The names of the labels, which a site's own must not be.
LABELS = ("engine", "domain", "state", "outcome", "reason")


class Family(NamedTuple):
    """A metric.

    Args:
        name: its name, which ends with the unit.
        help: what it says.
        samples: its values, each with its labels.
    """

    name: str
    help: str
    samples: list[tuple[dict[str, str], float]]


def openmetrics(*families: Family, labels: Mapping[str, str] | None = None) -> str:
    """Return the text of metrics, up to the end of the last line.

    Args:
        families: the metrics.
        labels: labels to add to each value.
    """
    lines = []
    for name, help_text, samples in families:
        lines.append(f"# TYPE {name} gauge")
        if name.endswith("_seconds"):
            lines.append(f"# UNIT {name} seconds")
        lines.append(f"# HELP {name} {help_text}")
        for own, value in samples:
            pairs = ",".join(
                f'{label}="{_escape(text)}"' for label, text in {**(labels or {}), **own}.items()
            )
            lines.append(f"{name}{{{pairs}}} {value}" if pairs else f"{name} {value}")
    return "\n".join([*lines, "# EOF"])


def families_of_metrics(metrics: Metrics) -> Iterator[Family]:
    """Yield the families that say how the connections are.

    Args:
        metrics: the numbers.
    """
    services = [(_labels(each), each) for each in metrics.services]
    yield Family(
        "garmin_auth_connections",
        "Users by the state of their Garmin connection.",
        [
            (labels | {"state": state}, count)
            for labels, each in services
            for state, count in each.connections.items()
        ],
    )
    yield Family(
        "garmin_auth_failing_connections",
        "Sessions that have been failing for GARMIN_AUTH_FAILING_AFTER.",
        [(labels, each.failing) for labels, each in services],
    )
    yield Family(
        "garmin_auth_ending_connections",
        "Sessions that end within 7 days.",
        [(labels, each.ending) for labels, each in services],
    )
    yield Family(
        "garmin_auth_refused_users",
        "Users whom Garmin has refused since it last accepted one.",
        [(labels, each.refused) for labels, each in services],
    )
    yield Family(
        "garmin_auth_mass_failure",
        "Whether Garmin refuses so many users that no session is cleared.",
        [(labels, int(each.mass_failure)) for labels, each in services],
    )
    yield Family(
        "garmin_auth_oldest_check_timestamp_seconds",
        "When the session that has waited longest was last checked or used.",
        [
            (labels, round(each.oldest_check.timestamp(), 3))
            for labels, each in services
            if each.oldest_check
        ],
    )
    yield Family(
        "garmin_auth_cooldown_seconds",
        "For how long Garmin is not asked, after a rate limit; 0 if it is.",
        []
        if metrics.cache_failed
        else [({"domain": domain}, left) for domain, left in metrics.cooldowns.items()],
    )
    yield Family(
        "garmin_auth_cache_failed",
        "Whether the cache could not be used, so that no cooldown is known or enforced.",
        [({}, int(metrics.cache_failed))],
    )


def families_of_report(report: Report) -> Iterator[Family]:
    """Yield the families that say what a run of checks found, with the time of its end.

    Args:
        report: the run's report.
    """
    engines = {name: report.engines.get(name, {}) for name in (*report.engines, *offered_engines())}
    yield Family(
        "garmin_auth_check_sessions",
        "Sessions that the last run checked, by what it found.",
        [
            ({"engine": engine, "outcome": str(outcome)}, counts.get(outcome, 0))
            for engine, counts in sorted(engines.items())
            for outcome in OUTCOMES
        ],
    )
    for name, value, help_text in (
        ("refreshed_sessions", report.refreshed, "Sessions that the last run refreshed."),
        ("skipped_sessions", report.skipped, "Sessions that had worked recently enough."),
        ("elsewhere_sessions", report.elsewhere, "Due sessions that are queued, if all are."),
        ("duration_seconds", round(report.duration_s, 3), "How long the last run took."),
        ("timestamp_seconds", round(time.time(), 3), "When the last run ended."),
    ):
        yield Family(f"garmin_auth_check_{name}", help_text, [({}, value)])
    yield Family(
        "garmin_auth_check_stopped",
        "Whether the last run stopped early, by the reason.",
        [({"reason": str(reason)}, int(report.stopped == reason)) for reason in Stopped],
    )


def _labels(service: ServiceMetrics) -> dict[str, str]:
    return {"engine": service.engine, "domain": service.domain}


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
