import sys
from pathlib import Path

from django.core.management.base import CommandError

from garmin_auth.conf import DOMAINS
from garmin_auth.engines import get_engine
from garmin_auth.engines.base import KeyEngine
from garmin_auth.exceptions import (
    GarminAuthError,
    NotAllowed,
    RateLimited,
    SessionExpired,
    SessionUnreadable,
)
from garmin_auth.login import import_session, import_session_folder

from ._running import QuietCommand
from ._users import user_named


class Command(QuietCommand):
    help = (
        "Store an existing Garmin session for a user. The session is read from standard input, as "
        "the engine's library exports it (such as a GARTH_TOKEN), or with --dir from the folder "
        "where the library keeps its tokens. An engine that connects with a key reads the key in "
        "the same ways. None of it is ever printed."
    )

    def add_arguments(self, parser):
        parser.add_argument("user", metavar="USER", help="the user (the value of USERNAME_FIELD)")
        parser.add_argument(
            "--dir",
            type=Path,
            metavar="FOLDER",
            help="the folder where the library keeps its tokens",
        )
        parser.add_argument(
            "--engine", help="the engine of the session (default: the one for new logins)"
        )
        parser.add_argument(
            "--domain",
            choices=DOMAINS,
            help="the Garmin domain of the account (default: the one that the session names)",
        )
        parser.add_argument(
            "--check", action="store_true", help="first ask Garmin whether the session works"
        )

    def handle(self, *, user, dir, engine, domain, check, **options):
        try:
            person = user_named(user)
            chosen = get_engine(engine, domain)
            how = {"engine": chosen.name, "domain": domain, "check": check}
            if dir is not None:
                import_session_folder(person, dir, **how)
            else:
                import_session(person, self.read_export(chosen), **how)
        except NotAllowed as exc:
            raise CommandError(
                f"GARMIN_AUTH_MAY_CONNECT refuses {user}: {exc.user_message} Nothing was stored."
            ) from exc
        except SessionUnreadable as exc:
            raise CommandError(f"{exc} Nothing was stored.") from exc
        except SessionExpired as exc:
            raise CommandError("Garmin has ended this session. Nothing was stored.") from exc
        except RateLimited as exc:
            raise CommandError(
                "Garmin is rate limiting this site, so the session could not be checked. Nothing "
                "was stored. Try again later, or leave out --check."
            ) from exc
        except GarminAuthError as exc:
            raise CommandError(
                f"The session could not be checked: {exc} Nothing was stored. Try again later, or "
                "leave out --check."
            ) from exc
        checked = "and works" if check else "(not checked yet: run check_garmin_sessions)"
        self.stdout.write(self.style.SUCCESS(f"The session of {user} is stored {checked}."))

    def read_export(self, engine):
        if sys.stdin is None:
            raise CommandError("Standard input is closed, so there is no session to read.")
        if sys.stdin.isatty():
            what = "key" if isinstance(engine, KeyEngine) else f"session of {engine.name}"
            self.stderr.write(f"Paste the {what}, then press Enter and Ctrl-D:")
        try:
            return sys.stdin.read()
        except UnicodeDecodeError as exc:
            raise CommandError("Standard input is not text. Nothing was stored.") from exc
