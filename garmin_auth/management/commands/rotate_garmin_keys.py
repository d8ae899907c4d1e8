import json
import sys

from django.conf import settings

from garmin_auth.keys import UNREADABLE_HINT
from garmin_auth.rotation import BATCH, Report, rotate_keys

from ._running import QuietCommand, interruptions, positive

EXIT_UNREADABLE = 3
EXIT_UNFINISHED = 4


class Command(QuietCommand):
    help = (
        "Encrypt all that is stored with the first key of FERNET_KEYS, while the site is in use. "
        "Exit codes: 0 everything is under the first key; 1 or 2 bad use or a broken set-up; 3 "
        "some rows hold what no key opens; 4 some rows are still under a former key, or the run "
        "was interrupted: run it again."
    )

    def add_arguments(self, parser):
        parser.add_argument(
            "--batch-size",
            type=positive,
            default=BATCH,
            metavar="N",
            help=f"rows in memory at a time ({BATCH})",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="count the rows under each key, write nothing"
        )
        parser.add_argument("--format", choices=("text", "json"), default="text")

    def handle(self, *, batch_size, dry_run, format, **options):
        self.line = ""
        try:
            with interruptions() as interrupted:
                report = rotate_keys(
                    batch_size=batch_size,
                    dry_run=dry_run,
                    on_progress=self.show_progress,
                    interrupted=interrupted,
                )
        finally:
            self.end_progress()
        if format == "json":
            self.stdout.write(json.dumps({**report.as_dict(), "dry_run": dry_run}))
        elif dry_run:
            self.print_keys(report)
        else:
            self.print_report(report)
        self.complain(report, dry_run)
        if code := exit_code(report):
            sys.exit(code)

    def show_progress(self, step, done, total):
        if not self.stderr.isatty():
            return
        line = f"{step}: {done} of {total} rows"
        self.stderr.write(f"\r{line:<{len(self.line)}}", style_func=str, ending="")
        self.stderr.flush()
        self.line = line

    def end_progress(self):
        if self.line:
            self.stderr.write("")

    def print_keys(self, report: Report):
        for position, count in enumerate(report.by_key):
            self.stdout.write(f"{name_of(position)}: {rows(count)}")
        self.stdout.write(f"no key: {rows(report.unreadable)}")
        self.stdout.write(f"{rows(report.rows)} looked at. Nothing was written.")

    def print_report(self, report: Report):
        self.stdout.write(
            f"Looked at {rows(report.rows)} in {report.duration_s:.1f} s: {report.rotated} "
            f"rotated, {report.current} under the first key, {report.left} left, "
            f"{report.unreadable} unreadable."
        )

    def complain(self, report: Report, dry_run):
        """Say on standard error what somebody should know."""
        if report.unreadable:
            pks = ", ".join(map(str, report.unreadable_pks))
            more = report.unreadable - len(report.unreadable_pks)
            self.stderr.write(
                "No key in FERNET_KEYS opens what these rows of "
                f"GarminAuthenticationState hold, and it is kept (primary keys): {pks}"
                f"{f' and {more} more' if more else ''}. {UNREADABLE_HINT}"
            )
        if report.stopped:
            self.stderr.write("It was interrupted. The next run goes on where this one stopped.")
        elif report.left and not dry_run:
            self.stderr.write(
                f"{rows(report.left)} still under a former key: in use throughout, or written by "
                "a process that does not have the new key first. Run it again."
            )


def exit_code(report: Report) -> int:
    """Return the command's exit code: 4 beats 3, for what is left to do may be done."""
    if report.stopped or report.left:
        return EXIT_UNFINISHED
    return EXIT_UNREADABLE if report.unreadable else 0


def name_of(position: int) -> str:
    """Return how a key is called without showing it."""
    without = getattr(settings, "FERNET_KEYS", None) is None
    return "SECRET_KEY" if without else f"FERNET_KEYS[{position}]"


def rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"
