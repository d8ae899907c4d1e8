import sys
from pathlib import Path

from django.core.management.base import CommandError

from garmin_auth.engines import get_engine
from garmin_auth.exceptions import (
    GarminAuthError,
    RateLimited,
    SessionExpired,
    SessionUnreadable,
)
from garmin_auth.login import import_session, import_session_folder

from ._running import QuietCommand
from ._users import user_named


class Command(QuietCommand):
    help = (
        "Store an existing Garmin session for a user. Reads from standard input what the engine's "
        "library exports, such as a GARTH_TOKEN, or with --dir the folder in which it keeps its "
        "tokens. Nothing of it is ever printed."
    )

    def add_arguments(self, parser):
        parser.add_argument("user", metavar="USER", help="value of the user's USERNAME_FIELD")
        parser.add_argument("--dir", type=Path, metavar="FOLDER", help="the library's token folder")
        parser.add_argument("--engine", help="the engine that wrote it (GARMIN_AUTH_ENGINE)")
        parser.add_argument(
            "--check", action="store_true", help="ask Garmin first whether the session works"
        )

    def handle(self, *, user, dir, engine, check, **options):
        try:
            person = user_named(user)
            engine = get_engine(engine).name
            if dir is not None:
                import_session_folder(person, self.expand(dir), engine=engine, check=check)
            else:
                import_session(person, self.read_export(engine), engine=engine, check=check)
        except SessionUnreadable as exc:
            raise CommandError(f"{exc} Nothing was stored.") from exc
        except SessionExpired as exc:
            raise CommandError("Garmin has ended this session. Nothing was stored.") from exc
        except RateLimited as exc:
            raise CommandError(
                "Garmin limits our requests now, so the session could not be checked. Nothing was "
                "stored. Try again later, or leave out --check."
            ) from exc
        except GarminAuthError as exc:
            raise CommandError(
                f"The session could not be checked: {exc} Nothing was stored. Try again later, or "
                "leave out --check."
            ) from exc
        checked = "and works" if check else "(not checked; check_garmin_sessions will)"
        self.stdout.write(self.style.SUCCESS(f"The session of {user} is stored {checked}."))

    def expand(self, folder):
        try:
            return folder.expanduser()
        except RuntimeError as exc:
            raise CommandError(f"Nobody here has the home in {folder}.") from exc

    def read_export(self, engine):
        if sys.stdin.isatty():
            self.stderr.write(f"Paste the session of {engine}, then Enter and Ctrl-D:")
        try:
            return sys.stdin.read()
        except UnicodeDecodeError as exc:
            raise CommandError("Standard input is not text. Nothing was stored.") from exc
