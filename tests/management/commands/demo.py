"""Show what the app does: several processes, one database, a simulated Garmin."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import connection
from django.test import override_settings

from garmin_auth.engines import BUILT_IN, NEEDS, get_engine, install_command, what_is_missing
from garmin_auth.engines.base import KeyEngine
from garmin_auth.login import disconnect, start_login
from garmin_auth.models import GarminAuthenticationState
from garmin_auth.testing import GarminSimulator

ADDRESS = ("127.0.0.1", 8000)

# What a web process does with the password, another with the code, and a worker with the session.
LOGIN = """
from garmin_auth.login import start_login
print(start_login(user, {email!r}, {password!r}))
"""
CODE = """
from garmin_auth.login import submit_mfa
print(submit_mfa(user, {code!r}))
"""
KEY = """
from garmin_auth.login import connect_with_key
print(connect_with_key(user, {key!r}))
"""
WORKERS = {
    "garth": """
import garth
from garmin_auth.sessions import garmin_client
with garmin_client(user) as client:
    day = garth.DailySummary.get("2026-11-22", client=client)
print(f"{{client.username}} on {{day.calendar_date}}: {{day.total_steps}} steps, "
      f"resting heart rate {{day.resting_heart_rate}}")
""",
    "garminconnect": """
from garmin_auth.sessions import garmin_client
with garmin_client(user) as client:
    day = client.get_stats("2026-11-22")
    name = client.connectapi("/userprofile-service/socialProfile")["userName"]
print(f"{{name}} on {{day['calendarDate']}}: {{day['totalSteps']}} steps, "
      f"resting heart rate {{day['restingHeartRate']}}")
""",
    "personal": """
from garmin_auth.sessions import garmin_client
with garmin_client(user) as client:
    [day] = client.get_daily_summaries("2026-11-22", "2026-11-22")["data"]
print(f"{{user}} on {{day['calendarDate']}}: {{day['totalSteps']}} steps, "
      f"resting heart rate {{day['restingHeartRate']}}")
""",
}
PROCESS = """
import django, os, warnings
warnings.simplefilter("ignore", DeprecationWarning)
django.setup()
from django.contrib.auth import get_user_model
user = get_user_model().objects.get(username={username!r})
"""

PEOPLE = {
    "ana": "disconnected by Garmin",
    "ben": "connected, with MFA",
    "cleo": "waiting for a code",
    "dora": "connected, and waiting for the code of a new login",
    "emil": "disconnected by himself",
    "finn": "connected, but no key decrypts the session",
    "gwen": "never connected",
}
WITH_MFA = ("ben", "cleo", "dora")


class Command(BaseCommand):
    help = (
        "Show garmin_auth with a simulated Garmin, on SQLite. Then serve the pages and the admin."
    )
    requires_system_checks = ()

    def add_arguments(self, parser):
        parser.add_argument("--once", action="store_true", help="exit without serving the pages")
        parser.add_argument(
            "--engine", choices=sorted(BUILT_IN), default="garth", help="the engine to use"
        )

    def handle(self, *, once, engine, **options):
        self.engine = engine
        self.require_engine()
        self.takes_keys = isinstance(get_engine(engine), KeyEngine)
        if connection.vendor != "sqlite":
            raise CommandError("The demo needs SQLite. Unset GARMIN_AUTH_TEST_DATABASE.")
        if not once:
            self.require_free_port()
        signal.signal(signal.SIGTERM, lambda *arguments: sys.exit(0))
        self.fresh_database()
        self.passwords = {username: f"{username}'s password" for username in PEOPLE}
        with (
            GarminSimulator(code_sent=self.show_mail) as garmin,
            override_settings(**garmin.settings, GARMIN_AUTH_ENGINE=engine),
            # The sign-in widget of garminconnect follows nothing else.
            patch.dict(os.environ, garmin.library_environment if engine != "garth" else {}),
        ):
            self.garmin = garmin
            self.environment = {
                **os.environ,
                **garmin.environment,
                "GARMIN_AUTH_TEST_ENGINE": engine,
            }
            try:
                self.story()
                if not once:
                    self.every_state()
                    self.serve()
            except KeyboardInterrupt:
                self.stdout.write("\nStopped.")

    def story(self):
        for username in PEOPLE:
            get_user_model().objects.create_user(username, password=username)
            self.garmin.add_account(*self.login_of(username), mfa=username in WITH_MFA)
        tell = self.story_of_keys if self.takes_keys else self.story_of_passwords
        tell()
        code = self.process("manage.py", "check_garmin_sessions", expect=3)
        self.stdout.write(
            f"  exit code {code}: a session has ended, and its user has to connect again"
        )

    def story_of_keys(self):
        keys = {name: self.garmin.add_key(f"{name}@example.com") for name in ("ana", "ben")}
        self.title("Ana creates a key in Garmin Connect. A web process connects her with it.")
        self.script("ana", KEY, key=keys["ana"])

        self.title("Ben does the same. No password crosses the site.")
        self.script("ben", KEY, key=keys["ben"])

        self.sync_and_look()

        self.title("Ana deletes her key at Garmin. Cron checks the sessions; hers has ended.")
        self.garmin.delete_key(keys["ana"])

    def sync_and_look(self):
        self.title("A worker, without password and code, syncs for Ben.")
        self.script("ben", WORKERS[self.engine])

        self.title("What the database contains, read with raw SQL:")
        self.show_table()

    def story_of_passwords(self):
        self.title("Ana has no MFA. She enters her Garmin password, and a web process logs her in.")
        self.script("ana", LOGIN, **self.credentials("ana"))

        self.title("Ben has MFA. Garmin emails him a code, and the web process ends.")
        self.script("ben", LOGIN, **self.credentials("ben"))

        self.title("Ben enters the code. Another process finishes his login.")
        self.script("ben", CODE, code=self.garmin.mfa_code("ben@example.com"))

        self.sync_and_look()

        self.title("Ana changes her password at Garmin. Cron checks the sessions; hers has ended.")
        self.passwords["ana"] = "ana's new password"
        self.garmin.set_password(*self.login_of("ana"), sign_out_everywhere=True)

    def every_state(self):
        """Put the other people into their states in ``PEOPLE``."""
        users = {user.username: user for user in get_user_model().objects.all()}
        if not self.takes_keys:
            self.title("Garmin emails codes for the logins that are waiting:")
            start_login(users["cleo"], *self.login_of("cleo"))
        states = GarminAuthenticationState.objects
        for username in ("dora", "emil", "finn"):
            email, _ = self.login_of(username)
            states.connect(
                users[username].pk,
                engine=self.engine,
                session_data=self.garmin.issue_session(email, engine=self.engine),
                account_name=email,
                validated_at=None,
            )
        if not self.takes_keys:
            start_login(users["dora"], *self.login_of("dora"))
        disconnect(users["emil"])
        with connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE {states.model._meta.db_table} SET session_data = %s, account_name = %s "
                "WHERE user_id = %s",
                [b"written with a lost key", b"written with a lost key", users["finn"].pk],
            )
        get_user_model().objects.create_superuser("admin", password="admin")

    def serve(self):
        host, port = ADDRESS
        site = f"http://{host}:{port}"
        self.title(f"The pages are at {site}/garmin/, the admin is at {site}/admin/")
        self.stdout.write(f"After a login, {site}/spa/ is a front end that uses the API.")
        self.stdout.write("Log in as one of these users. The password is the user name.")
        for username, state in {**PEOPLE, "admin": "superuser"}.items():
            self.stdout.write(f"  {username:<6} {state}")
        self.stdout.write("Accounts at the simulated Garmin:")
        for username in PEOPLE:
            email, password = self.login_of(username)
            code = "  (asks for a code, which is printed here)" if username in WITH_MFA else ""
            self.stdout.write(f"  {email:<18} {password}{code}")
        self.stdout.write("Press Ctrl-C to stop.\n")
        call_command("runserver", f"{host}:{port}", use_reloader=False, skip_checks=True)

    def login_of(self, username):
        return f"{username}@example.com", self.passwords[username]

    def credentials(self, username):
        return dict(zip(("email", "password"), self.login_of(username), strict=True))

    def require_engine(self):
        missing = what_is_missing(self.engine)
        if not missing:
            return
        oldest = NEEDS[self.engine].python
        remedy = f"Install it: {install_command(self.engine)}"
        if sys.version_info < oldest:
            python = "{}.{}".format(*oldest)
            remedy = (
                f"It runs on Python {python} or newer: make demo "
                f"PYTHON=python{python} ARGS='--once --engine {self.engine}'"
            )
        raise CommandError(f"The engine {self.engine} needs {missing}. {remedy}")

    def require_free_port(self):
        try:
            socket.create_server(ADDRESS).close()
        except OSError as exc:
            raise CommandError(
                f"Port {ADDRESS[1]} is in use. Stop the server there, or run make demo ARGS=--once "
                "to serve no pages."
            ) from exc

    def fresh_database(self):
        path = Path(connection.settings_dict["NAME"])
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
        call_command("migrate", verbosity=0, skip_checks=True)
        self.stdout.write(f"Created a new SQLite database: {path}")

    def title(self, text):
        self.stdout.write(f"\n{self.style.MIGRATE_HEADING(text)}")

    def show_mail(self, email, code):
        self.stdout.write(f"  [mail to {email}] Your Garmin code is {code}")

    def script(self, username, script, **values):
        """Run Python code in a new operating-system process."""
        self.process("-c", PROCESS.format(username=username) + script.format(**values))

    def process(self, *arguments, expect=0):
        """Run Python in a new process, print its output, and return its exit code."""
        child = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=settings.BASE_DIR,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            output, _ = child.communicate(timeout=120)
        finally:
            child.kill()
        if child.returncode != expect:
            raise CommandError(f"Process {child.pid} ended with {child.returncode}:\n{output}")
        for line in output.splitlines():
            self.stdout.write(f"  [process {child.pid}] {line}")
        return child.returncode

    def show_table(self):
        columns = ("user_id", "status", "session_data", "account_name", "mfa_challenge")
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT {', '.join(columns)} FROM {GarminAuthenticationState._meta.db_table}"
            )
            for row in cursor.fetchall():
                self.stdout.write("  " + "  ".join(map(shorten, columns, row)))


def shorten(column, value):
    text = value.decode() if isinstance(value, bytes) else str(value)
    return f"{column}={text if len(text) < 20 else text[:20] + '…'}"
