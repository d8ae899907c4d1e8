import json
import sys

from django.conf import settings

from garmin_auth.rotation import BATCH, Report, rotate_keys
from garmin_auth.storage.keys import UNREADABLE_HINT

from ._running import QuietCommand, interruptions, positive

EXIT_UNREADABLE = 3
EXIT_UNFINISHED = 4


class Command(QuietCommand):
    help = (
        "Re-encrypt everything stored with the first key of FERNET_KEYS, while the site runs. "
        "Exit codes: 0 everything is encrypted with the first key; 1 or 2 wrong usage or a broken "
        "set-up; 3 some rows hold a value that no key decrypts; 4 some rows still use another key, "
        "or the run was interrupted: run it again."
    )

    def add_arguments(self, parser):
        parser.add_argument(
            "--batch-size",
            type=positive,
            default=BATCH,
            metavar="N",
            help=f"rows held in memory at a time (default: {BATCH})",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="count the rows for each key, and write nothing"
        )
        parser.add_argument(
            "--format",
            choices=("text", "json"),
            default="text",
            help="format of the report (default: text)",
        )

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
        self.stdout.write(f"Looked at {rows(report.rows)}. Nothing was written.")

    def print_report(self, report: Report):
        self.stdout.write(
            f"Looked at {rows(report.rows)} in {report.duration_s:.1f} s: {report.rotated} "
            f"rotated, {report.current} under the first key, {report.left} left, "
            f"{report.unreadable} unreadable."
        )

    def complain(self, report: Report, dry_run):
        """Write what needs attention to standard error."""
        if report.unreadable:
            pks = ", ".join(map(str, report.unreadable_pks))
            more = report.unreadable - len(report.unreadable_pks)
            self.stderr.write(
                "These rows of GarminAuthenticationState hold a value that no key in FERNET_KEYS "
                f"decrypts. They are kept (primary keys): {pks}"
                f"{f' and {more} more' if more else ''}. {UNREADABLE_HINT}"
            )
        if report.stopped:
            self.stderr.write("It was interrupted. The next run continues where this one stopped.")
        elif report.left and not dry_run:
            self.stderr.write(
                f"Another key is still needed for {rows(report.left)}. They were in use throughout "
                "the run, or a process that does not have the new key first has written them. Run "
                "the command again."
            )


def exit_code(report: Report) -> int:
    """Return the exit code: 4 takes precedence over 3, because another run can help."""
    if report.stopped or report.left:
        return EXIT_UNFINISHED
    return EXIT_UNREADABLE if report.unreadable else 0


def name_of(position: int) -> str:
    """Return a name for the key at this position, without showing the key itself."""
    without = getattr(settings, "FERNET_KEYS", None) is None
    return "SECRET_KEY" if without else f"FERNET_KEYS[{position}]"


def rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"
