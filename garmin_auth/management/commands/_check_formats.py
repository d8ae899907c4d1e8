"""What ``check_garmin_sessions`` prints on standard output, in each format."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC
from typing import Any

from django.db import Error

from ...checking.openmetrics import Family, families_of_metrics, families_of_report, openmetrics
from ...checking.report import Report, Stopped
from ...metrics import collect_metrics
from ...storage.querysets import StateQuerySet


class Text:
    """Sentences, for people.

    Args:
        write: prints a line on standard output.
        complain: prints a line on standard error.
        labels: labels for each metric, in the one format that has some.
    """

    # Whether each check is printed too, so that standard output names all users.
    names_users = True

    def __init__(
        self,
        write: Callable[[str], Any],
        complain: Callable[[str], Any],
        labels: Mapping[str, str],
    ) -> None:
        self.write, self.complain, self.labels = write, complain, labels

    def frozen(self, *, dry_run: bool, enqueue: bool) -> None:
        """Print what is expected in this format though the site is frozen."""

    def due(self, rows: StateQuerySet) -> None:
        """Print what a run would check.

        Args:
            rows: the sessions.
        """
        due = 0
        for state in rows.iterator(chunk_size=500):
            due += 1
            when = state.last_checked_at
            utc = when and when.astimezone(UTC)
            said = f"last checked {utc:%Y-%m-%d %H:%M} UTC" if utc else "never checked"
            self.write(f"would check {state.user.get_username()} ({said})")
        self.write(f"{due} session{'' if due == 1 else 's'} would be checked. Nothing was done.")

    def enqueued(self, number: int) -> None:
        """Print how many checks were enqueued."""
        self.write(
            f"Enqueued {number} check{'' if number == 1 else 's'} of Garmin sessions for Celery."
        )

    def report(self, report: Report) -> None:
        """Print the report of a run."""
        counts = ", ".join(
            f"{value} {name}"
            for name, value in report.as_dict().items()
            if name in ("expired", "unknown", "unreadable", "failing", "skipped") and value
        )
        self.write(
            f"Checked {report.checked} Garmin session{'' if report.checked == 1 else 's'} in "
            f"{report.duration_s:.1f} s ({report.rate:.1f}/s): "
            f"{report.active} active ({report.refreshed} refreshed)"
            f"{', ' + counts if counts else ''}."
        )
        if len(report.engines) > 1:
            for engine, numbers in report.as_dict()["engines"].items():
                said = [f"{value} {name}" for name, value in numbers.items() if value]
                self.write(f"  {engine}: {', '.join(said)}")


class Json(Text):
    """One line of JSON, for programs."""

    names_users = False

    def frozen(self, *, dry_run: bool, enqueue: bool) -> None:
        report = {"enqueued": 0} if enqueue else Report(stopped=Stopped.FROZEN).as_dict()
        self._write(report | ({"dry_run": True, "due": 0} if dry_run else {}))

    def due(self, rows: StateQuerySet) -> None:
        self._write({**Report().as_dict(), "dry_run": True, "due": rows.count()})

    def enqueued(self, number: int) -> None:
        self._write({"enqueued": number})

    def report(self, report: Report) -> None:
        self._write(report.as_dict())

    def _write(self, data: dict[str, Any]) -> None:
        self.write(json.dumps(data))


class OpenMetrics(Text):
    """Metrics, for Prometheus: how the connections are, and what the run found."""

    names_users = False

    def frozen(self, *, dry_run: bool, enqueue: bool) -> None:
        report = Report(stopped=Stopped.FROZEN)
        self.write(openmetrics(*families_of_report(report), labels=self.labels))

    def due(self, rows: StateQuerySet) -> None:
        self._write(_number("due_sessions", rows.count(), "Sessions that a run would check now."))

    def enqueued(self, number: int) -> None:
        self._write(_number("enqueued_sessions", number, "Checks that the last run enqueued."))

    def report(self, report: Report) -> None:
        self._write(*families_of_report(report))

    def _write(self, *families: Family) -> None:
        """Print metrics. The connections are left out if they cannot be counted: the run is over.

        Args:
            families: what else there is to say.
        """
        connections: list[Family] = []
        try:
            connections.extend(families_of_metrics(collect_metrics()))
        except Error as exc:
            self.complain(f"The connections could not be counted: {type(exc).__qualname__}.")
        self.write(openmetrics(*connections, *families, labels=self.labels))


def _number(name: str, value: int, help_text: str) -> Family:
    return Family(f"garmin_auth_check_{name}", help_text, [({}, value)])


FORMATS = {"text": Text, "json": Json, "openmetrics": OpenMetrics}
