"""Run the Garmin simulator on its own, so that you can try a site without Garmin."""

import errno
import json
import os
import shlex
import signal
import socket
import threading
from pathlib import Path

from django.core.management.base import BaseCommand, CommandError

POLL = 0.5  # How often to look for the parent process, in seconds.


class Command(BaseCommand):
    help = "Run a simulated Garmin Connect on this machine until you interrupt it."
    requires_system_checks = ()

    def add_arguments(self, parser):
        parser.add_argument(
            "--port",
            type=int,
            default=0,
            help="port to listen on (default: any free one)",
        )
        parser.add_argument(
            "--host",
            default="127.0.0.1",
            help=(
                "address to listen on (default: 127.0.0.1); 0.0.0.0 lets other machines and "
                "containers use the simulator, and control it"
            ),
        )
        parser.add_argument(
            "--ca-file",
            type=Path,
            metavar="PATH",
            help=(
                "write the CA certificate to this file, readable by everyone (default: a temporary "
                "file of your own)"
            ),
        )
        parser.add_argument(
            "--account",
            action="append",
            default=[],
            metavar="EMAIL:PASSWORD",
            help="add an account; can be repeated",
        )
        parser.add_argument(
            "--mfa-account",
            action="append",
            default=[],
            metavar="EMAIL:PASSWORD",
            help="add an account that asks for a code; can be repeated",
        )
        parser.add_argument(
            "--china-account",
            action="append",
            default=[],
            metavar="EMAIL:PASSWORD",
            help="add an account that exists at garmin.cn, not at garmin.com; can be repeated",
        )
        parser.add_argument(
            "--keys",
            action="store_true",
            help="make a key for the Personal API for each account, and print it",
        )
        parser.add_argument(
            "--ready-file",
            type=Path,
            metavar="PATH",
            help="write the simulator's addresses to this file, as JSON, once it is listening",
        )
        parser.add_argument(
            "--latency",
            type=float,
            default=0.0,
            metavar="S",
            help="seconds to wait before each answer",
        )
        parser.add_argument(
            "--exit-with-parent",
            action="store_true",
            help="exit when the parent process does",
        )

    def handle(self, **options):
        try:
            from garmin_auth.testing import GarminSimulator
        except ImportError as error:
            raise CommandError(str(error)) from None
        if not 0 <= options["port"] <= 65535:
            raise CommandError(f"--port must be a number from 0 to 65535, not {options['port']}.")
        if options["latency"] < 0:
            raise CommandError("--latency must not be negative.")
        accounts = [
            {**_account(text), "mfa": mfa, "domain": domain}
            for option, mfa, domain in (
                ("account", False, "garmin.com"),
                ("mfa_account", True, "garmin.com"),
                ("china_account", False, "garmin.cn"),
            )
            for text in options[option]
        ]

        parent = os.getppid()
        host = options["host"]
        garmin = GarminSimulator(
            options["port"], host=host, ca_file=options["ca_file"], code_sent=self.print_code
        )
        garmin.set_latency(options["latency"])
        for account in accounts:
            try:
                garmin.add_account(**account)
            except ValueError as error:
                raise CommandError(str(error)) from None
        with _signals() as ended:
            try:
                garmin.start()
            except OSError as error:
                raise CommandError(_why_not(error, host, options["port"])) from None
            try:
                self.announce(garmin, accounts)
                if options["keys"]:
                    self.print_keys(garmin, accounts)
                if host == "0.0.0.0":  # noqa: S104
                    name = f"http://{socket.gethostname()}:{garmin.port}"
                    self.stdout.write(f"From other machines: {name}")
                    self.stdout.flush()
                _write_ready_file(options["ready_file"], garmin)
                while not ended.wait(POLL):
                    if options["exit_with_parent"] and os.getppid() != parent:
                        break
            finally:
                garmin.stop()
                if options["ready_file"]:
                    options["ready_file"].unlink(missing_ok=True)

    def announce(self, garmin, accounts):
        self.stdout.write(f"Garmin simulator: proxy   {garmin.proxy_url}")
        self.stdout.write(f"                  CA file {garmin.ca_bundle}")
        self.stdout.write(f"                  control {garmin.control_url}")
        self.stdout.write("Add to the site's settings:")
        for name, value in garmin.settings.items():
            self.stdout.write(f"    {name} = {json.dumps(value)}")
        self.stdout.write("To use garminconnect without Django, set in its environment:")
        for name, value in garmin.library_environment.items():
            self.stdout.write(f"    export {name}={shlex.quote(value)}")
        for account in accounts:
            notes = " (asks for a code)" if account["mfa"] else ""
            if account["domain"] != "garmin.com":
                notes += f" ({account['domain']})"
            self.stdout.write(f"Account: {account['email']} {account['password']}{notes}")
        self.stdout.flush()

    def print_keys(self, garmin, accounts):
        for account in accounts:
            email, domain = account["email"], account["domain"]
            self.stdout.write(f"Key of {email}: {garmin.add_key(email, domain=domain)}")
        self.stdout.flush()

    def print_code(self, email, code):
        self.stdout.write(f"Code for {email}: {code}")
        self.stdout.flush()


class _signals:
    """An event that SIGINT and SIGTERM set inside a with block."""

    def __enter__(self):
        ended = threading.Event()
        self.previous = {}
        # Only the main thread can handle signals, but call_command() may run in another.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, lambda *_: ended.set())
        return ended

    def __exit__(self, *exc_info):
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def _account(text):
    email, _, password = text.partition(":")
    if "@" not in email or not password:
        raise CommandError(f"An account must be EMAIL:PASSWORD, not {text!r}.")
    return {"email": email, "password": password}


def _why_not(error, host, port):
    if error.filename:
        return f"Cannot write {error.filename}: {error.strerror}."
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} of {host} is in use. Choose another, or leave out --port."
    return f"Cannot listen on port {port} of {host}: {error.strerror}."


def _write_ready_file(path, garmin):
    if path is None:
        return
    where = {
        "proxy_url": garmin.proxy_url,
        "ca_bundle": garmin.ca_bundle,
        "control_url": garmin.control_url,
    }
    # The file appears in one step, so that no process reads half of it.
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(where))
        part.replace(path)
    except OSError as error:
        raise CommandError(f"Cannot write {path}: {error.strerror}.") from None
