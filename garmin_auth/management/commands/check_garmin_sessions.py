import argparse
import json
import random
import re
import sys
import time
from collections import Counter, defaultdict
from datetime import timedelta

from django.core.management import CommandError

from garmin_auth.checks import check_stored_engines, check_stored_sessions
from garmin_auth.claims import due_sessions
from garmin_auth.crew import sleep_until
from garmin_auth.engines import is_installed
from garmin_auth.health import check_sessions
from garmin_auth.models import GarminAuthenticationState
from garmin_auth.reports import Check, Outcome, Report, Stopped

from ._running import QuietCommand, interruptions, positive
from ._users import user_named

EXIT_EXPIRED = 3
EXIT_UNSURE = 4

LONGEST = 3650 * 86_400  # seconds
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
STOPPED = {
    Stopped.RATE_LIMITED: "Garmin limits our requests now. Run it again later.",
    Stopped.MASS_FAILURE: (
        "Garmin refuses many users and accepts nobody: look at the consumer key and the clock. "
        "Nothing more is cleared until Garmin accepts somebody again."
    ),
    Stopped.UNAVAILABLE: "Garmin does not work or blocks us. Run it again later.",
    Stopped.SIGNAL: "It was interrupted. The next run goes on where this one stopped.",
}
# More threads than this wait for each other's Python rather than for Garmin.
MAX_WORKERS = 256
# Names on standard error, for a mail that is still read.
MAX_NAMES = 20


class Command(QuietCommand):
    help = (
        "Check that the stored Garmin sessions still live, those checked longest ago first. Made "
        "for cron. Exit codes: 0 nobody needs to act; 1 or 2 bad use or a broken set-up; 3 a "
        "session has died; 4 the run stopped early, or some sessions could not be judged."
    )

    def add_arguments(self, parser):
        parser.add_argument(
            "--max-age",
            type=duration,
            metavar="AGE",
            help="skip what was validated since: seconds, or 30m, 12h, 2d",
        )
        parser.add_argument("--user", help="only this user (value of USERNAME_FIELD)")
        parser.add_argument("--limit", type=positive, metavar="N", help="check at most N sessions")
        parser.add_argument(
            "--workers",
            type=workers,
            metavar="N",
            help="check so many sessions at the same time (1)",
        )
        parser.add_argument(
            "--rate",
            type=rate,
            metavar="R",
            help="begin at most so many checks: 5 or 5/s a second, 90/m a minute (no limit)",
        )
        parser.add_argument(
            "--jitter",
            type=duration,
            metavar="TIME",
            help="wait up to so long first, so that many sites do not begin on the hour",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="say what would be checked, and do nothing"
        )
        parser.add_argument(
            "--enqueue", action="store_true", help="hand the checks to Celery, and end"
        )
        parser.add_argument("--format", choices=("text", "json"), default="text")

    def handle(
        self, *, max_age, user, limit, workers, rate, jitter, dry_run, enqueue, format, **options
    ):
        self.format = format
        self.verbosity = options["verbosity"]
        # Of each outcome: how many, and the first names. Results are not kept: they may be many.
        self.counts, self.unsaid = Counter(), Counter()
        self.names = defaultdict(list)
        self.warned_of_unreadable_rows = False
        if enqueue and (workers or rate or dry_run):
            raise CommandError(
                "--enqueue leaves the checks to Celery's workers: --workers, --rate and --dry-run "
                "mean nothing with it. The rate of all workers is GARMIN_AUTH_CHECK_RATE.",
                returncode=2,
            )
        person = user_named(user) if user is not None else None
        self.warn_of_unreadable_rows()
        if dry_run:
            self.say_what_is_due(due_sessions(max_age, person), limit)
            return
        with interruptions() as interrupted:
            if jitter:
                wait = random.uniform(0, jitter.total_seconds())  # noqa: S311
                sleep_until(time.monotonic() + wait, interrupted)
            if enqueue:
                self.say_what_was_enqueued(enqueued(max_age, person, limit, interrupted))
                if interrupted():
                    self.stderr.write(f"The run stopped early. {STOPPED[Stopped.SIGNAL]}")
                    sys.exit(EXIT_UNSURE)
                return
            with self.progress(due_sessions(max_age, person), limit) as self.bar:
                report = check_sessions(
                    max_age=max_age,
                    user=person,
                    limit=limit,
                    workers=workers or 1,
                    rate=rate,
                    on_check=self.show,
                    interrupted=interrupted,
                )
        self.print_report(report)
        self.complain(report)
        if code := exit_code(report):
            sys.exit(code)

    def warn_of_unreadable_rows(self):
        databases = [GarminAuthenticationState.objects.current().db]
        for message in check_stored_sessions(None, databases=databases):
            self.stderr.write(self.style.WARNING(f"{message.msg} {message.hint}"))
            self.warned_of_unreadable_rows = True
        for message in check_stored_engines(None, databases=databases):
            self.stderr.write(self.style.WARNING(f"{message.msg} {message.hint}"))

    def say_what_is_due(self, rows, limit):
        rows = rows[:limit] if limit else rows
        if self.format == "json":
            due = rows.count()
            self.stdout.write(json.dumps({**Report().as_dict(), "dry_run": True, "due": due}))
            return
        due = 0
        for state in rows.iterator(chunk_size=500):
            due += 1
            when = state.last_checked_at
            when = f"last checked {when:%Y-%m-%d %H:%M} UTC" if when else "never checked"
            self.stdout.write(f"would check {state.user.get_username()} ({when})")
        self.stdout.write(
            f"{due} session{'' if due == 1 else 's'} would be checked. "
            "Nothing was asked or written."
        )

    def say_what_was_enqueued(self, number):
        if self.format == "json":
            self.stdout.write(json.dumps({"enqueued": number}))
            return
        self.stdout.write(
            f"Enqueued the check{'' if number == 1 else 's'} of {number} Garmin "
            f"session{'' if number == 1 else 's'}; Celery's workers do the rest."
        )

    def progress(self, rows, limit):
        """Return tqdm's bar for a terminal, and nothing visible for a file or cron's mail."""
        from tqdm import tqdm

        total = 0
        if visible := sys.stderr.isatty() and self.format == "text" and self.verbosity:
            total = rows.count() if limit is None else min(limit, rows.count())
        # dynamic_ncols: terminals are resized; leave: the report says it all.
        return tqdm(
            total=total,
            disable=not visible,
            file=sys.stderr,
            unit=" sessions",
            dynamic_ncols=True,
            leave=False,
        )

    def say(self, line):
        """Write a line, above the bar if there is one."""
        with self.bar.external_write_mode(file=sys.stdout):
            self.stdout.write(line)

    def show(self, check: Check):
        self.counts[check.outcome] += 1
        self.bar.set_postfix(
            {str(outcome): count for outcome, count in self.counts.items()}, refresh=False
        )
        self.bar.update()
        self.remember(check)
        if self.format == "json" or (self.verbosity < 2 and check.outcome is Outcome.ACTIVE):
            return
        style = {
            Outcome.ACTIVE: self.style.SUCCESS,
            Outcome.EXPIRED: self.style.ERROR,
        }.get(check.outcome, self.style.WARNING)
        why = f"  {check.error}" if check.error else "  refreshed" if check.refreshed else ""
        self.say(f"{style(f'{check.outcome:<10}')}  {check.user.get_username()}{why}")

    def remember(self, check: Check):
        """Remember whom to name at the end."""
        if check.outcome is Outcome.UNREADABLE and (
            self.warned_of_unreadable_rows or not is_installed(check.engine)
        ):
            return  # It has been said.
        self.unsaid[check.outcome] += 1
        if len(self.names[check.outcome]) < MAX_NAMES:
            self.names[check.outcome].append(check.user.get_username())

    def print_report(self, report: Report):
        if self.format == "json":
            self.stdout.write(json.dumps(report.as_dict()))
            return
        counts = ", ".join(
            f"{value} {name}"
            for name, value in report.as_dict().items()
            if name in ("expired", "unknown", "unreadable", "skipped") and value
        )
        self.stdout.write(
            f"Checked {report.checked} Garmin session{'' if report.checked == 1 else 's'} in "
            f"{report.duration_s:.1f} s ({report.rate:.1f}/s): "
            f"{report.active} active ({report.refreshed} refreshed)"
            f"{', ' + counts if counts else ''}."
        )
        if len(report.engines) > 1:
            for engine, counts in report.as_dict()["engines"].items():
                said = [f"{value} {name}" for name, value in counts.items() if value]
                self.stdout.write(f"  {engine}: {', '.join(said)}")

    def complain(self, report: Report):
        """Say on standard error what somebody should know: it is all that cron need mail."""
        for outcome, sentence in (
            (Outcome.EXPIRED, "Garmin has ended these sessions; the users must connect again: "),
            (Outcome.UNKNOWN, "These sessions could not be judged, and are kept: "),
            (Outcome.UNREADABLE, "These sessions cannot be opened, and are kept: "),
        ):
            if names := self.names[outcome]:
                more = self.unsaid[outcome] - len(names)
                tail = f" and {more} more" if more else ""
                self.stderr.write(sentence + ", ".join(names) + tail)
        if report.stopped:
            self.stderr.write(f"The run stopped early. {STOPPED[report.stopped]}")


def enqueued(max_age, user, limit, interrupted) -> int:
    """Hand the checks to Celery, and return how many. Raises CommandError."""
    try:
        from kombu.exceptions import OperationalError

        from garmin_auth.tasks import enqueue_due_sessions
    except ImportError as exc:
        if (exc.name or "").partition(".")[0] not in ("celery", "kombu"):
            raise
        raise CommandError(
            'Celery is not installed: pip install "django-garmin-auth[celery]"'
        ) from exc
    try:
        return enqueue_due_sessions(max_age, user=user, limit=limit, interrupted=interrupted)
    except (OperationalError, OSError) as exc:
        raise CommandError(
            f"Celery's broker cannot be reached: {exc}. Does the site's Celery app name it in "
            "broker_url, and is the app imported when Django starts?"
        ) from exc


def exit_code(report: Report) -> int:
    """Return the command's exit code: 4 beats 3, and unreadable rows alone change nothing."""
    if report.stopped or report.unknown:
        return EXIT_UNSURE
    return EXIT_EXPIRED if report.expired else 0


def duration(text: str) -> timedelta:
    """Read ``--max-age`` and ``--jitter``: seconds, or a number with s, m, h or d."""
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", text.strip(), re.ASCII)
    if not match:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: write seconds, or a number with s, m, h or d, such as 12h"
        )
    seconds = int(match[1]) * UNITS[match[2]]
    if seconds > LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {LONGEST // UNITS['d']} days")
    return timedelta(seconds=seconds)


def workers(text: str) -> int:
    """Read ``--workers``."""
    number = positive(text)
    if number > MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"{text} threads are too many: {MAX_WORKERS} at the most")
    return number


def rate(text: str) -> float:
    """Read ``--rate``: checks a second, or with /s, /m or /h."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)(?:/([smh]))?", text.strip(), re.ASCII)
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no rate: write checks a second, such as 5 or 0.5, or 5/s, 90/m, 600/h"
        )
    return float(match[1]) / UNITS[match[2] or ""]
