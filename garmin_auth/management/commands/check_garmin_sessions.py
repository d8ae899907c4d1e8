import random
import sys
import time
from collections import Counter, defaultdict
from contextlib import redirect_stdout, suppress
from datetime import UTC
from typing import Any

from django.core.management import CommandError

from garmin_auth.checking.claims import due_sessions
from garmin_auth.checking.report import Check, Outcome, Report, Stopped
from garmin_auth.checks import check_stored_engines, check_stored_sessions
from garmin_auth.conf import conf
from garmin_auth.engines import is_installed, known_engines
from garmin_auth.health import check_sessions
from garmin_auth.limits.rate import sleep_until
from garmin_auth.models import GarminAuthenticationState
from garmin_auth.storage.retries import bookkeeping

from ._check_arguments import duration, label, rate, workers
from ._check_formats import FORMATS
from ._running import LastingStream, QuietCommand, confirm, interruptions, positive
from ._users import user_named

states = GarminAuthenticationState.objects
EXIT_EXPIRED = 3
EXIT_UNSURE = 4

STOPPED = {
    Stopped.RATE_LIMITED: "Garmin is rate limiting this site. Run it again later.",
    Stopped.MASS_FAILURE: (
        "Garmin refuses many users and accepts none. Check the consumer key and the clock. No more "
        "sessions are cleared until Garmin accepts one. If these sessions really are dead, run the "
        "command with --believe-refusals ENGINE."
    ),
    Stopped.UNAVAILABLE: "Garmin is down, or blocks this site. Run it again later.",
    Stopped.SIGNAL: "It was interrupted. The next run continues where it stopped.",
    Stopped.FROZEN: "GARMIN_AUTH_FROZEN is True, so this site does not connect to Garmin.",
}
# The unknown ones that have been failing for a long time are named separately.
FAILING = "failing"
# Names printed on standard error, to keep the mail readable.
MAX_NAMES = 20


class Command(QuietCommand):
    help = (
        "Check whether the stored Garmin sessions still work, least recently checked first. Run it "
        "from cron. Exit codes: 0 no action needed; 1 or 2 wrong usage or a broken set-up; 3 a "
        "session has ended; 4 the run stopped early, the state of some sessions is unknown, or all "
        "that are due are queued or claimed elsewhere."
    )

    def add_arguments(self, parser):
        parser.add_argument(
            "--max-age",
            type=duration,
            metavar="AGE",
            help="skip sessions that worked less than AGE ago: seconds, or 30m, 12h, 2d",
        )
        parser.add_argument("--user", help="check only this user (the value of USERNAME_FIELD)")
        parser.add_argument("--limit", type=positive, metavar="N", help="check at most N sessions")
        parser.add_argument(
            "--workers",
            type=workers,
            metavar="N",
            help="check up to N sessions at the same time (default: 1)",
        )
        parser.add_argument(
            "--rate",
            type=rate,
            metavar="R",
            help="start at most R checks: 5 or 5/s, 90/m, 600/h (default: GARMIN_AUTH_CHECK_RATE)",
        )
        parser.add_argument(
            "--jitter",
            type=duration,
            metavar="TIME",
            help="first wait for a random time up to TIME, so that not all sites start at once",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="show what would be checked, and do nothing"
        )
        parser.add_argument(
            "--enqueue", action="store_true", help="pass the checks to Celery, and exit"
        )
        parser.add_argument(
            "--believe-refusals",
            metavar="ENGINE",
            help=(
                "clear the sessions of this engine that Garmin refuses, even if it refuses so many "
                "users that no session would be cleared otherwise"
            ),
        )
        parser.add_argument(
            "--format",
            choices=tuple(FORMATS),
            default="text",
            help="format of the report (default: text); openmetrics is for Prometheus",
        )
        parser.add_argument(
            "--label",
            type=label,
            action="append",
            metavar="NAME=VALUE",
            help="a label for all metrics of --format openmetrics, such as the name of the site",
        )

    def handle(
        self,
        *,
        max_age,
        user,
        limit,
        workers,
        rate,
        jitter,
        dry_run,
        enqueue,
        believe_refusals,
        format,
        label,
        **options,
    ):
        if label and format != "openmetrics":
            raise CommandError("--label needs --format openmetrics.", returncode=2)
        if format == "openmetrics":
            self.write_utf_8()
        self.output = FORMATS[format](self.stdout.write, self.stderr.write, dict(label or ()))
        self.verbosity = options["verbosity"]
        # The counts and the first names by outcome. There may be too many results to keep them all.
        self.counts, self.unsaid = Counter(), Counter()
        self.names = defaultdict(list)
        self.ended = []  # The primary keys of all users whose sessions have ended.
        self.warned_of_unreadable_rows = False
        if enqueue and (workers or rate or dry_run or believe_refusals):
            raise CommandError(
                "--enqueue cannot be combined with --workers, --rate, --dry-run or "
                "--believe-refusals, because Celery's workers do the checks. Set their rate with "
                "GARMIN_AUTH_CHECK_RATE.",
                returncode=2,
            )
        if conf.FROZEN:
            self.stop_frozen(dry_run=dry_run, enqueue=enqueue)
        if believe_refusals is not None:
            confirm_refusals(believe_refusals)
        person = user_named(user) if user is not None else None
        self.warn_of_unreadable_rows()
        if dry_run:
            self.output.due(due_sessions(max_age, person)[:limit])
            return
        earlier = states.unreported() if person is None else states.unreported().filter(user=person)
        with interruptions() as interrupted:
            if jitter:
                wait = random.uniform(0, jitter.total_seconds())  # noqa: S311
                sleep_until(time.monotonic() + wait, interrupted)
            if enqueue:
                self.output.enqueued(enqueued(max_age, person, limit, interrupted))
                if interrupted():
                    self.stderr.write(f"The run stopped early. {STOPPED[Stopped.SIGNAL]}")
                    sys.exit(EXIT_UNSURE)
                return
            self.name_earlier(earlier)
            with self.progress(due_sessions(max_age, person), limit) as self.bar:
                report = check_sessions(
                    max_age=max_age,
                    user=person,
                    limit=limit,
                    workers=workers or 1,
                    rate=rate,
                    believe_refusals=believe_refusals or "",
                    on_check=self.show,
                    interrupted=interrupted,
                )
        self.output.report(report)
        self.complain(report)
        self.note_who_was_named()
        if code := exit_code(report):
            sys.exit(code)

    def write_utf_8(self):
        """Encode standard output as OpenMetrics must be, whatever the locale."""
        with suppress(AttributeError, OSError, ValueError):  # It is closed, or encodes nothing.
            self.stdout.reconfigure(encoding="utf-8", errors="replace")

    def stop_frozen(self, *, dry_run, enqueue):
        """Say that the site is frozen, and exit, before anything is read or asked."""
        self.output.frozen(dry_run=dry_run, enqueue=enqueue)
        self.stderr.write(f"The run stopped early. {STOPPED[Stopped.FROZEN]}")
        sys.exit(EXIT_UNSURE)

    def warn_of_unreadable_rows(self):
        databases = [GarminAuthenticationState.objects.using_write_db().db]
        for message in check_stored_sessions(None, databases=databases):
            self.stderr.write(self.style.WARNING(f"{message.msg} {message.hint}"))
            self.warned_of_unreadable_rows = True
        for message in check_stored_engines(None, databases=databases):
            self.stderr.write(self.style.WARNING(f"{message.msg} {message.hint}"))

    def progress(self, rows, limit):
        """Return tqdm's progress bar, which is invisible unless standard error is a terminal."""
        from tqdm import tqdm

        total, self.bar_stream = 0, LastingStream(sys.stderr)
        if visible := self.bar_stream.isatty() and self.output.names_users and self.verbosity:
            total = rows.count() if limit is None else min(limit, rows.count())
        # dynamic_ncols, because terminals can be resized. No leave, because the report follows.
        return tqdm(
            total=total,
            disable=not visible,
            file=self.bar_stream,
            unit=" sessions",
            dynamic_ncols=True,
            leave=False,
        )

    def say(self, line):
        """Write a line, above the progress bar if it is visible."""
        with self.bar.external_write_mode(file=self.bar_stream):
            self.stdout.write(line)

    def show(self, check: Check):
        self.counts[check.outcome] += 1
        self.bar.set_postfix(
            {str(outcome): count for outcome, count in self.counts.items()}, refresh=False
        )
        self.bar.update()
        self.remember(check)
        if check.outcome is Outcome.EXPIRED:
            self.ended.append(check.user.pk)
            with bookkeeping("that the end of a session is unreported"):
                states.mark_unreported([check.user.pk])
        if not self.output.names_users or (self.verbosity < 2 and check.outcome is Outcome.ACTIVE):
            return
        style = {
            Outcome.ACTIVE: self.style.SUCCESS,
            Outcome.EXPIRED: self.style.ERROR,
        }.get(check.outcome, self.style.WARNING)
        why = f"  {check.error}" if check.error else "  refreshed" if check.refreshed else ""
        self.say(f"{style(f'{check.outcome:<10}')}  {check.user.get_username()}{why}")

    def remember(self, check: Check):
        """Remember the user, to be named at the end."""
        if check.outcome is Outcome.UNREADABLE and (
            self.warned_of_unreadable_rows or not is_installed(check.engine)
        ):
            return  # It has already been reported.
        # Not among the unknown ones too.
        kind = FAILING if check.failing else check.outcome
        self.unsaid[kind] += 1
        if len(self.names[kind]) < MAX_NAMES:
            self.names[kind].append(check.user.get_username())

    def name_earlier(self, rows):
        """Name the users whom an earlier run should have named, and could not."""
        users = [row.user for row in rows.order_by("pk").select_related("user")[:MAX_NAMES]]
        if not users:
            return
        names, more = [user.get_username() for user in users], rows.count() - len(users)
        self.stderr.write(
            "Garmin ended these users' sessions in another run, which has not named them. They "
            "have to connect again: " + listed(names, more)
        )
        self.stderr.flush()
        if not self.stderr.broken:
            with bookkeeping("that the end of a session is reported"):
                states.mark_reported([user.pk for user in users])

    def note_who_was_named(self):
        """Leave to the next run whom this one could not name on either stream."""
        self.stdout.flush()
        self.stderr.flush()
        named = self.ended
        if self.stdout.broken or not self.output.names_users:
            # Standard error has the first names only.
            named = [] if self.stderr.broken else self.ended[:MAX_NAMES]
        if named:
            with bookkeeping("that the end of a session is reported"):
                states.mark_reported(named)

    def complain(self, report: Report):
        """Write what needs attention to standard error, which cron mails."""
        for outcome, sentence in (
            (
                Outcome.EXPIRED,
                "Garmin has ended these users' sessions. They have to connect again: ",
            ),
            (Outcome.UNKNOWN, "The state of these users' sessions is unknown. They are kept: "),
            (
                FAILING,
                "These users' sessions have been failing for a long time, while others worked. "
                "They are kept, but the users should connect again: ",
            ),
            (Outcome.UNREADABLE, "These users' sessions cannot be opened. They are kept: "),
        ):
            if names := self.names[outcome]:
                self.stderr.write(sentence + listed(names, self.unsaid[outcome] - len(names)))
        outages = {}
        if report.unknown:
            with bookkeeping("which engines do not work"):
                outages = states.outages()
        for (engine, domain), since in outages.items():
            self.stderr.write(
                f"No session of the engine {engine} has worked at {domain} since "
                f"{since.astimezone(UTC):%Y-%m-%d %H:%M} UTC. That is considered an outage, "
                "so no user is told. Check whether Garmin is down, or blocks this site."
            )
        if report.elsewhere:
            self.stderr.write(
                "All sessions that are due are queued for Celery or claimed by another run, so "
                "none was checked. If this lasts, see whether Celery's workers take messages."
            )
        if report.cache_failed:
            self.stderr.write(
                "The cache could not be used, so no cooldown or throttle was enforced. See the log."
            )
        if report.stopped:
            self.stderr.write(f"The run stopped early. {STOPPED[report.stopped]}")
        if report.left_out:
            self.stderr.write(
                "The remaining sessions of these services were skipped: "
                + ", ".join(report.left_out)
            )


def listed(names: list[Any], more: int) -> str:
    """Return names as a list, with the number of those that are left out.

    A site's user names may be numbers, or objects such as a phone number.
    """
    return ", ".join(map(str, names)) + (f" and {more} more" if more else "")


def confirm_refusals(engine: str) -> None:
    """On a terminal, ask for confirmation to clear this engine's refused sessions.

    Raises:
        CommandError: there is no such engine, or the answer is not the number asked for.
    """
    if engine not in known_engines():
        known = ", ".join(sorted(known_engines()))
        raise CommandError(
            f"--believe-refusals: unknown engine {engine!r}. Choose one of {known}.", returncode=2
        )
    if sys.stdin is None or not sys.stdin.isatty():
        return
    refused_users = GarminAuthenticationState.objects.refused_users()
    refused = sum(count for (name, _), count in refused_users.items() if name == engine)
    with redirect_stdout(sys.stderr):  # Standard output may be a file for the report.
        confirm(
            f"Garmin has refused {refused} users of the engine {engine} since it last accepted "
            "one. Each session that it refuses now will be cleared, and its user has to connect "
            "again.",
            refused,
        )


def enqueued(max_age, user, limit, interrupted) -> int:
    """Pass the checks to Celery, and return their number.

    Raises:
        CommandError: Celery is not installed, or its broker cannot be reached.
    """
    try:
        from kombu.exceptions import OperationalError

        from garmin_auth.tasks import enqueue_due_sessions
    except ImportError as exc:
        if (exc.name or "").partition(".")[0] not in ("celery", "kombu"):
            raise
        raise CommandError(
            'Celery is not installed: python -m pip install "django-garmin-auth[celery]"'
        ) from exc
    try:
        return enqueue_due_sessions(max_age, user=user, limit=limit, interrupted=interrupted)
    except (OperationalError, OSError) as exc:
        raise CommandError(
            f"Celery's broker cannot be reached: {exc}. Make sure that the site's Celery app sets "
            "broker_url, and that the app is imported when Django starts."
        ) from exc


def exit_code(report: Report) -> int:
    """Return the exit code: 4 takes precedence over 3, and unreadable rows alone mean 0."""
    if report.stopped or report.unknown or report.elsewhere:
        return EXIT_UNSURE
    return EXIT_EXPIRED if report.expired else 0
