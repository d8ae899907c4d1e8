import sys

from django.core.management.base import CommandError
from django.db import connections

from garmin_auth.models import GarminAuthenticationState

from ._running import QuietCommand, confirm


class Command(QuietCommand):
    help = (
        "Empty a copy of production: delete all stored Garmin sessions, pending logins and account "
        "names from its database. Users stay, Garmin is not asked, and no signal is sent. Exit "
        "codes: 0 nothing is stored any more; 1 cancelled, or a broken set-up; 2 wrong usage."
    )

    def add_arguments(self, parser):
        parser.add_argument(
            "--noinput",
            "--no-input",
            action="store_false",
            dest="interactive",
            help="do not ask for confirmation",
        )

    def handle(self, *, interactive, **options):
        if interactive and (sys.stdin is None or not sys.stdin.isatty()):
            raise CommandError(
                "Standard input is not a terminal, so nobody can confirm. Nothing was done. To "
                "delete all sessions without confirmation, add --no-input.",
                returncode=2,
            )
        rows = GarminAuthenticationState.objects.using_write_db()
        sessions = rows.with_session().count()
        if not rows.exists():
            self.stdout.write("No Garmin sessions are stored. Nothing was deleted.")
            return
        if interactive:
            confirm(
                f"This deletes {named(sessions)} and everything else that is stored about Garmin "
                f"accounts from the database {place(rows.db)}. Never do this in production.",
                sessions,
            )
        _, deleted = rows.delete()
        number = deleted.get(rows.model._meta.label, 0)
        self.stdout.write(
            f"Deleted {named(sessions)} and {number} row{'' if number == 1 else 's'} in all. "
            "Garmin was not asked."
        )


def named(sessions: int) -> str:
    return f"{sessions} Garmin session{'' if sessions == 1 else 's'}"


def place(alias: str) -> str:
    """Return the name of a database and of its server, to tell a copy from production."""
    settings = connections[alias].settings_dict
    host = settings.get("HOST")
    return f"{settings['NAME']} on {host}" if host else str(settings["NAME"])
