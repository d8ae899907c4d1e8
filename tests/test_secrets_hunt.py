"""The hunt: walk every path, know every secret that came by, and look for it everywhere."""

import base64
import binascii
import html
import inspect
import io
import json
import logging
import pickle
import re
import shutil
import sys
import traceback
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from unittest import mock
from urllib.parse import parse_qsl, quote, quote_plus

import django
import pytest
from django.conf import settings as django_settings
from django.contrib.sessions.models import Session
from django.core.cache import caches
from django.core.mail import mail_admins
from django.core.management import CommandError, call_command
from django.core.signals import got_request_exception
from django.db import DatabaseError, connection
from django.db.backends.signals import connection_created
from django.dispatch import Signal
from django.test import Client
from django.utils.log import AdminEmailHandler
from django.views.debug import ExceptionReporter

from garmin_auth import signals
from garmin_auth.api.problems import PROBLEMS
from garmin_auth.engines import default_engine, get_engine
from garmin_auth.engines.garth import GarthEngine
from garmin_auth.exceptions import (
    AccountLocked,
    CaptchaRequired,
    ChallengeExpired,
    GarminAuthError,
    GarminRequestError,
    GarminUnavailable,
    InvalidCredentials,
    InvalidKey,
    InvalidMFACode,
    KeyRefused,
    NotConnected,
    RateLimited,
    SessionExpired,
    SessionUnreadable,
    TooManyAttempts,
)
from garmin_auth.health import check_session
from garmin_auth.login import (
    Connected,
    MFARequired,
    cancel_mfa,
    connect_with_key,
    disconnect,
    import_session,
    import_session_folder,
    start_login,
    submit_mfa,
)
from garmin_auth.models import GarminAuthenticationState
from garmin_auth.sessions import garmin_client
from garmin_auth.testing.garmin import steps
from garmin_auth.testing.garmin.faults import KINDS
from tests.api import conftest as api
from tests.conftest import needs_personal
from tests.rows import damage
from tests.test_views import (
    CANCEL,
    DISCONNECT,
    LOGIN,
    MFA,
    PAGES,
    another_code,
    let_challenge_expire,
)

pytestmark = pytest.mark.django_db(transaction=True)

PROFILE = "/userprofile-service/socialProfile"
SETTINGS = "/userprofile-service/userprofile/settings"
KEY_PAGE = "/garmin/login/personal/"
PASSWORD, EMAIL, CODE, COOKIE, TICKET, TOKEN, KEY = (
    "password",
    "e-mail address",
    "code",
    "cookie",
    "ticket",
    "token",
    "key",
)
# Shorter values ("1") say nothing, and would be found anywhere.
SHORTEST = 8
ANY = (Connected, MFARequired, type(None), GarminAuthError)
# What logging says of itself in each record: six digits of a clock are a code now and then.
LOGGINGS_OWN = {"created", "msecs", "relativeCreated", "process", "thread"}
# What is read as it is formatted. Of SQL with a session in it, each copy costs.
READ_ALREADY = {"msg", "message"}
# Where no answer comes, or not to the end.
SILENT = {"stall", "slow_headers", "trickle"}


# What is secret


class Wiretap:
    """Hears all that Garmin is asked and answers, and keeps the values that nobody may find."""

    def __init__(self):
        self.values = {}

    def note(self, kind, value):
        if isinstance(value, str) and (kind == CODE or len(value) >= SHORTEST):
            self.values.setdefault(value, kind)

    def session(self, data):
        """A whole session, as garth writes it, or as the engine for keys does."""
        self.note(TOKEN, data)
        if data.startswith("{"):
            self.note(KEY, json.loads(data)["key"])
            self.note(TOKEN, json.loads(data)["token"])
            return
        for token in json.loads(base64.b64decode(data)):
            self.fields(token)

    def hear(self, request, answer):
        self.fields(request.json)
        self.fields(request.form)
        self.fields(request.query)
        for value in request.cookies.values():
            self.note(COOKIE, value)
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        if scheme == "Bearer":
            self.note(TOKEN, credentials)
        if scheme == "ApiKey":
            self.note(KEY, credentials)
            self.note(TOKEN, answer.body.decode())  # Garmin answers with the token alone.
        for name, value in answer.headers:
            if name == "Set-Cookie":
                self.note(COOKIE, value.partition(";")[0].partition("=")[2])
        body = answer.body.decode("utf-8", "replace")
        self.fields(dict(parse_qsl(body)))
        try:
            content = json.loads(body)
        except ValueError:
            content = None
        if isinstance(content, dict):
            self.fields(content)

    def fields(self, content):
        kinds = {
            "username": EMAIL,
            "password": PASSWORD,
            "mfaVerificationCode": CODE,
            "serviceTicketId": TICKET,
            "ticket": TICKET,
            "oauth_token": TOKEN,
            "oauth_token_secret": TOKEN,
            "mfa_token": TOKEN,
            "access_token": TOKEN,
            "refresh_token": TOKEN,
        }
        for name, kind in kinds.items():
            self.note(kind, content.get(name))


# Where to look


def unpacked(text):
    """The text, and what is in it in base64."""
    runs = re.findall(r"[A-Za-z0-9+/_-]{24,}", text)
    decoded = []
    for run in runs:
        run = run.replace("-", "+").replace("_", "/")
        try:
            decoded.append(base64.b64decode(run + "=" * (-len(run) % 4)).decode("latin-1"))
        except binascii.Error:
            continue
    return "\n".join([text, *decoded])


class Text:
    """What was seen in one place. It may be long, and is asked for many values."""

    def __init__(self, text):
        self._text = text
        # Not the microseconds of a time, as written or in a variable's repr(), and no colour of
        # Django's error report.
        rest = re.sub(r"datetime\.datetime\([^)]*\)|color: ?#\d{6};", "", text)
        self._codes = set(re.findall(r"(?<![0-9A-Za-z_])(?<!\d\.)\d{6}(?![0-9A-Za-z_])", rest))

    def has(self, value, kind):
        if kind == CODE:
            return value in self._codes
        return any(form in self._text for form in forms_of(value))


@cache
def forms_of(value):
    """How a value is written in text, URLs, forms, HTML and JSON."""
    escaped = json.dumps(value)[1:-1]
    return {value, quote(value), quote_plus(value), html.escape(value), escaped}


def database_places():
    """Every table read raw, and, on SQLite, the file's bytes with all that was ever deleted."""
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            rows = cursor.fetchall()
            yield f"table {table}", "\n".join(repr(tuple(map(readable, row))) for row in rows)
    if connection.vendor == "sqlite":
        for suffix in ("", "-wal", "-journal"):
            path = Path(f"{connection.settings_dict['NAME']}{suffix}")
            if path.exists():
                yield f"file {suffix}", path.read_bytes().decode("latin-1")


def dump_places():
    for form in ("json", "xml"):
        output = io.StringIO()
        call_command("dumpdata", "garmin_auth", format=form, stdout=output)
        yield f"dump as {form}", output.getvalue()


def readable(value):
    return bytes(value).decode("latin-1") if isinstance(value, bytes | memoryview) else value


def session_places():
    for session in Session.objects.all():
        yield "Django session", repr(session.get_decoded())


def pickled(value):
    return pickle.dumps(value).decode("latin-1")


def error_report(exc_type, exc, tb):
    """Django's report with DEBUG off, of the frames of a site's own code and of ours."""
    while tb and tb.tb_frame.f_code.co_filename == __file__ and is_the_hunts(tb.tb_frame):
        tb = tb.tb_next
    # Of a chained exception the report reads this, whatever it is given.
    exc = exc.with_traceback(tb)
    reporter = ExceptionReporter(None, exc_type, exc, tb, is_email=True)
    # Both are made of this, which takes longest.
    data = reporter.get_traceback_data()
    reporter.get_traceback_data = lambda: data
    return reporter.get_traceback_html() + reporter.get_traceback_text()


def is_the_hunts(frame):
    return not frame.f_code.co_name.startswith("site_")


class Everything(logging.Handler):
    """A site's handler that keeps records whole: formatted, their arguments, their tracebacks."""

    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        args = record.args if isinstance(record.args, tuple) else ()
        content = {
            key: value
            for key, value in vars(record).items()
            if key not in LOGGINGS_OWN | READ_ALREADY
            and not any(value is argument for argument in args)
        }
        parts = [record.name, self.format(record), repr(content)]
        if record.exc_info and record.exc_info[1]:
            parts += ["".join(traceback.format_exception(*record.exc_info))]
            # Making a report logs too. With DEBUG on, Django hides nothing in it.
            if record.levelno >= logging.ERROR and not django_settings.DEBUG:
                parts += [error_report(*record.exc_info)]
        self.records.append("\n".join(parts))


@contextmanager
def everything_logged(handler):
    """All loggers at DEBUG, propagating, whatever they were told."""
    root = logging.getLogger()
    loggers = [
        root,
        *(x for x in root.manager.loggerDict.values() if isinstance(x, logging.Logger)),
    ]
    before = [(logger, logger.level, logger.propagate, logger.disabled) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        logger.propagate, logger.disabled = True, False
    root.addHandler(handler)
    yield
    root.removeHandler(handler)
    for logger, level, propagate, disabled in before:
        logger.setLevel(level)
        logger.propagate, logger.disabled = propagate, disabled


class Hunt:
    """Walks paths through one of the doors, and keeps whatever was to be seen on the way."""

    def __init__(self, garmin, user, door, tap, handler, mailbox, settings):
        self.garmin, self.user, self.tap = garmin, user, tap
        self.pages, self.api = door == "pages", door == "api"
        self.settings = settings
        self.browser = Client(raise_request_exception=False)
        self.browser.force_login(user)
        self.seen = []
        self._handler, self._mailbox = handler, mailbox
        self._number = count()

    # The ways

    def account(self, *, mfa=False):
        """Open an account of its own, and return its e-mail address and password."""
        number = next(self._number)
        email, password = f"ana{number}.huntress@garmin.example", f"correct horse battery {number}"
        self.garmin.add_account(email, password, mfa=mfa)
        self.tap.note(EMAIL, email)
        self.tap.note(PASSWORD, password)
        return email, password

    def session(self, engine="garth", **options):
        """Store a session of a new account for the user; return the account's address."""
        email, _ = self.account(mfa=True)
        data = self.garmin.issue_session(email, engine, **options)
        self.tap.session(data)
        GarminAuthenticationState.objects.connect(
            self.user.pk, engine=engine, session_data=data, account_name=email, validated_at=None
        )
        return email

    def login(self, email, password, expected):
        self.tap.note(EMAIL, email)
        self.tap.note(PASSWORD, password)
        if self.pages:
            return self.post(LOGIN, {"email": email, "password": password}, expected)
        if self.api:
            return self.send(api.LOGIN, {"email": email, "password": password}, expected)
        return self.attempt(lambda: start_login(self.user, email, password), expected)

    def code(self, code, expected):
        self.tap.note(CODE, code)
        if self.pages:
            return self.post(MFA, {"code": code}, expected)
        if self.api:
            return self.send(api.MFA, {"code": code}, expected)
        return self.attempt(lambda: submit_mfa(self.user, code), expected)

    def key(self, key, expected):
        self.tap.note(KEY, key)
        if self.pages or self.api:
            self.settings.GARMIN_AUTH_ENGINE = [default_engine(), "personal"]
        if self.api:
            return self.send(api.KEY, {"key": key}, expected)
        if self.pages:
            return self.post(KEY_PAGE, {"key": key, "days": "90"}, expected)
        return self.attempt(lambda: connect_with_key(self.user, key), expected)

    def pending(self):
        """Begin a login that waits for its code, and return its account's address."""
        email, password = self.account(mfa=True)
        self.login(email, password, MFARequired)
        return email

    def use(self, expected, path=PROFILE):
        return self.attempt(lambda: site_use(self.user, path), expected)

    def check(self):
        check = check_session(self.user)
        self.note("check", repr(check))
        self.note_error(check.error)

    def command(self, name, *arguments, expected=None, **options):
        output, errors = io.StringIO(), io.StringIO()
        result = self.attempt(
            lambda: call_command(name, *arguments, stdout=output, stderr=errors, **options),
            (SystemExit, expected or type(None)),
        )
        self.note("a command's output", output.getvalue() + errors.getvalue())
        return result

    # What is seen on the way

    def note(self, place, text, allowed=()):
        self.seen.append((place, text, allowed))

    def attempt(self, call, expected):
        try:
            result = call()
        except (Exception, SystemExit) as exc:  # noqa: BLE001
            result = exc
            self.note("error report", error_report(type(exc), exc, exc.__traceback__))
            self.note_error(exc)
        assert isinstance(result, expected), type(result)
        return result

    def note_error(self, error):
        while error is not None:
            self.note("exception", f"{error} {error!r} {error.args!r} {vars(error)!r}")
            self.note("pickle", pickled(error))
            error = error.__cause__ or error.__context__

    def post(self, url, data, expected):
        answer = self.browser.post(url, data)
        self.note_page(answer)
        if expected is ANY:
            assert answer.status_code < 500
        elif issubclass(expected, GarminAuthError):
            assert answer.status_code == 200
        elif issubclass(expected, Exception):
            assert answer.status_code == 500
        else:
            assert answer.status_code == 302
            assert (answer.url == MFA) is (expected is MFARequired)
        return answer

    def send(self, url, data, expected):
        answer = self.browser.post(url, json.dumps(data), content_type="application/json")
        self.note_answer(answer)
        if issubclass(expected, GarminAuthError):
            status = PROBLEMS[expected][0]
        else:
            status = {Connected: 200, MFARequired: 202}.get(expected, 500)
        assert answer.status_code == status, answer.content
        return answer

    def note_answer(self, answer):
        """Only the connection says as whom its user is connected; no problem does."""
        allowed = (EMAIL,) if answer.status_code < 400 else ()
        self.note("API response", answer.content.decode(), allowed)
        self.note_headers(answer)

    def note_page(self, answer):
        # Its own user sees as whom he is connected, and his address in the form again.
        self.note("page", answer.content.decode(), allowed=(EMAIL,))
        self.note_headers(answer)

    def note_headers(self, answer):
        self.note("headers", repr(answer.headers))
        self.note("browser's cookies", repr({k: v.value for k, v in self.browser.cookies.items()}))

    # The end

    def look_around(self):
        """Read all that is kept. Then the pauses and counts that the cache holds are forgotten."""
        for url in PAGES:
            self.note_page(self.browser.get(url))
        if self.api:
            self.note_answer(self.browser.get(api.CONNECTION))
        for place, text in [*database_places(), *session_places(), *dump_places()]:
            self.note(place, text)
        caches["default"].clear()

    def findings(self):
        """Where something was found, and of what kind."""
        self.look_around()
        for record in self._handler.records:
            self.note("log", record)
        for mail in self._mailbox:
            parts = [mail.subject, mail.body, *(str(part) for part, _ in mail.alternatives)]
            self.note("mail to admins", "\n".join(parts))
        # Reports, records and pages have most lines in common: each is read once.
        texts = {(place, allowed): {} for place, _, allowed in self.seen}
        for place, text, allowed in self.seen:
            texts[place, allowed].update(dict.fromkeys(text.split("\n")))
        found = set()
        for (place, allowed), lines in texts.items():
            text = Text(unpacked("\n".join(lines)))
            for value, kind in self.tap.values.items():
                if kind not in allowed and text.has(value, kind):
                    found.add((place, kind))
        return sorted(found)


def site_use(user, path):
    """A site's own code: what it does is in error reports with all its variables."""
    with garmin_client(user) as client:
        client.connectapi(path)


def site_misuse(user):
    with garmin_client(user) as client:
        client.connectapi(PROFILE, no_such_argument=True)


def site_bug(user):
    with garmin_client(user) as client:
        client.connectapi(PROFILE)
        raise KeyError("a bug of the site's")


@pytest.fixture(params=["functions", "pages"])
def door(request):
    return request.param


@pytest.fixture
def tap(garmin, monkeypatch):
    tap, answer = Wiretap(), steps.answer

    def listen(step, request, *arguments):
        given = answer(step, request, *arguments)
        tap.hear(request, given)
        return given

    monkeypatch.setattr(steps, "answer", listen)
    return tap


@pytest.fixture
def hunt(garmin, tap, user, door, settings, mailoutbox, monkeypatch):
    get_engine("garth")  # Its libraries' loggers are there from now on.
    monkeypatch.setattr("garmin_auth.engines.garth.login.COMPLETION_PAUSES", (0.01, 0.01))
    settings.DEBUG = False
    # Django 6.0 wants addresses, 5.2 pairs.
    ada = "ada@site.example"
    settings.ADMINS = [ada if django.VERSION >= (6, 0) else ("Ada", ada)]
    settings.CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "kept"}
    }
    call_command("createcachetable")
    handler, mailer = Everything(), AdminEmailHandler(include_html=True)
    logging.getLogger("django.request").addHandler(mailer)
    reports = []

    def report(**kwargs):
        reports.append(error_report(*sys.exc_info()))

    got_request_exception.connect(report)
    with everything_logged(handler):
        hunt = Hunt(garmin, user, door, tap, handler, mailoutbox, settings)
        connection.force_debug_cursor = True  # So that the SQL is logged, with its parameters.
        yield hunt
        connection.force_debug_cursor = False
    got_request_exception.disconnect(report)
    logging.getLogger("django.request").removeHandler(mailer)
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE kept")


@contextmanager
def broken_database(statement="UPDATE"):
    """The database refuses what is written to our table."""

    def refuse(execute, sql, params, many, context):
        if sql.startswith(statement) and "garmin_auth" in sql and "session_data" in sql:
            raise DatabaseError("the disk is full")
        return execute(sql, params, many, context)

    def wrap(connection, **kwargs):
        if refuse not in connection.execute_wrappers:  # A write is tried again on a new connection.
            connection.execute_wrappers.append(refuse)

    # A refresh has a thread, and so a connection, of its own.
    connection_created.connect(wrap)
    try:
        with (
            connection.execute_wrapper(refuse),
            mock.patch("garmin_auth.storage.retries.WRITE_FOR", 0),
        ):
            yield
    finally:
        connection_created.disconnect(wrap)


@contextmanager
def broken_cache():
    """The cache, which is in the database, can be neither read nor written."""

    def refuse(execute, sql, params, many, context):
        if connection.ops.quote_name("kept") in sql:
            raise DatabaseError("the cache is gone")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(refuse):
        yield


class BuggyEngine(GarthEngine):
    """An engine with bugs, which hold secrets when they are met."""

    name = "garth"

    def login(self, email, password):
        held = super().login(email, password)
        raise AttributeError(f"a bug {held is None}")

    def submit_code(self, state, code):
        held = super().submit_code(state, code)
        raise AttributeError(f"a bug {held is None}")

    def fetch_account_name(self, session):
        headers = {"Authorization": str(session.client.oauth2_token)}
        raise AttributeError(f"a bug {len(headers)}")


# The paths

PATHS, KEY_PATHS = [], []


def path(walk):
    PATHS.append(walk)
    return walk


@path
def login_without_mfa(hunt):
    hunt.login(*hunt.account(), Connected)


@path
def login_with_mfa(hunt):
    email = hunt.pending()
    hunt.code(hunt.garmin.mfa_code(email), Connected)


@path
def login_over_a_session(hunt):
    hunt.session()
    login_with_mfa(hunt)


@path
def wrong_password(hunt):
    email, _ = hunt.account()
    hunt.login(email, "hunter2-hunter2-hunter2", InvalidCredentials)


@path
def unknown_account(hunt):
    hunt.login("nobody.at.all@garmin.example", "a password of nobody", InvalidCredentials)


@path
def wrong_code(hunt):
    email = hunt.pending()
    hunt.code(another_code(hunt.garmin.mfa_code(email)), InvalidMFACode)
    hunt.look_around()
    hunt.code(hunt.garmin.mfa_code(email), Connected)


@path
def too_many_codes(hunt):
    email = hunt.pending()
    code = hunt.garmin.mfa_code(email)
    for _ in range(4):
        code = another_code(code)
        hunt.code(code, InvalidMFACode)
    hunt.code(another_code(code), TooManyAttempts)


@path
def code_without_a_login(hunt):
    hunt.code("731946", ChallengeExpired)


@path
def expired_at_garmin(hunt):
    email = hunt.pending()
    hunt.garmin.expire_mfa(email)
    hunt.code(hunt.garmin.mfa_code(email), ChallengeExpired)


@path
def expired_here(hunt):
    email = hunt.pending()
    let_challenge_expire(hunt.user)
    hunt.code(hunt.garmin.mfa_code(email), ChallengeExpired)


@path
def spent(hunt):
    email = hunt.pending()
    hunt.garmin.fail("preauthorized", "status", times=None)
    hunt.code(hunt.garmin.mfa_code(email), ChallengeExpired)


@path
def captcha(hunt):
    hunt.garmin.fail("login", "captcha")
    hunt.login(*hunt.account(), CaptchaRequired)


@path
def locked(hunt):
    hunt.garmin.fail("login", "locked")
    hunt.login(*hunt.account(), AccountLocked)


@path
def rate_limited(hunt):
    hunt.garmin.fail("login", "rate_limited", retry_after=7)
    email, password = hunt.account()
    hunt.login(email, password, RateLimited)
    hunt.login(email, password, ANY)


@path
def rate_limited_code(hunt):
    email = hunt.pending()
    hunt.garmin.fail("verify_code", "rate_limited_200")
    hunt.code(hunt.garmin.mfa_code(email), RateLimited)


@path
def cancelled(hunt):
    hunt.pending()
    hunt.look_around()
    if hunt.pages:
        hunt.note_page(hunt.browser.post(CANCEL))
    else:
        assert cancel_mfa(hunt.user)


@path
def disconnected(hunt):
    hunt.session()
    hunt.look_around()
    if hunt.pages:
        hunt.note_page(hunt.browser.post(DISCONNECT))
    else:
        assert disconnect(hunt.user)


@path
def used(hunt):
    hunt.session()
    hunt.use(type(None))


@path
def used_wrongly(hunt):
    hunt.session()
    hunt.use(GarminRequestError, "/no-such-service/at-all")


@path
def misused(hunt):
    hunt.session()
    hunt.attempt(lambda: site_misuse(hunt.user), TypeError)


@path
def used_by_a_site_with_a_bug(hunt):
    hunt.session(access_expired=True)
    hunt.attempt(lambda: site_bug(hunt.user), KeyError)


@path
def used_without_a_session(hunt):
    hunt.use(NotConnected)


@path
def refreshed(hunt):
    hunt.session(access_expired=True)
    hunt.use(type(None))


@path
def refreshed_after_an_api_401(hunt):
    email = hunt.session()
    hunt.garmin.expire_access_tokens(email)
    hunt.use(type(None))


@path
def dead(hunt):
    email = hunt.session()
    hunt.garmin.revoke(email)
    hunt.use(SessionExpired)


@path
def dead_at_a_check(hunt):
    email = hunt.session()
    hunt.garmin.revoke(email)
    hunt.command("check_garmin_sessions")


@path
def checked(hunt):
    hunt.session(access_expired=True)
    hunt.command("check_garmin_sessions", "--format", "json")


@path
def unreadable(hunt):
    hunt.session()
    damage(hunt.user, "session_data")
    hunt.use(SessionUnreadable)
    hunt.command("check_garmin_sessions")


@path
def imported(hunt):
    email, _ = hunt.account()
    data = hunt.garmin.issue_session(email)
    hunt.tap.session(data)
    hunt.attempt(lambda: import_session(hunt.user, data, check=True), type(None))


@path
def imported_by_the_command(hunt):
    email, _ = hunt.account()
    data = hunt.garmin.issue_session(email)
    hunt.tap.session(data)
    stdin, sys.stdin = sys.stdin, io.StringIO(data)
    hunt.command("import_garmin_session", hunt.user.get_username(), "--check")
    sys.stdin = stdin


@path
def imported_from_a_folder(hunt):
    email, _ = hunt.account()
    data = hunt.garmin.issue_session(email)
    hunt.tap.session(data)
    folder = Path(hunt.garmin.ca_bundle).with_suffix(".garth")
    folder.mkdir()
    tokens = json.loads(base64.b64decode(data))
    for name, token in zip(("oauth1_token", "oauth2_token"), tokens, strict=True):
        (folder / f"{name}.json").write_text(json.dumps(token))
    hunt.attempt(lambda: import_session_folder(hunt.user, folder), type(None))
    shutil.rmtree(folder)


@path
def imported_dead(hunt):
    email, _ = hunt.account()
    data = hunt.garmin.issue_session(email, access_expired=True)
    hunt.tap.session(data)
    hunt.garmin.revoke(email)
    hunt.attempt(lambda: import_session(hunt.user, data, check=True), SessionExpired)


@path
def imported_in_part(hunt):
    email, _ = hunt.account()
    data = hunt.garmin.issue_session(email)
    hunt.tap.session(data)
    hunt.attempt(lambda: import_session(hunt.user, data[:-40]), SessionUnreadable)
    tokens = base64.b64decode(data).decode()
    hunt.attempt(lambda: import_session(hunt.user, tokens), SessionUnreadable)
    stdin, sys.stdin = sys.stdin, io.StringIO(data[:-40])
    hunt.command("import_garmin_session", hunt.user.get_username(), expected=CommandError)
    sys.stdin = stdin


@path
def keys_rotated(hunt):
    hunt.session()
    hunt.settings.FERNET_KEYS = ["another key", *hunt.settings.FERNET_KEYS]
    hunt.command("rotate_garmin_keys")


@path
def database_fails_at_login(hunt):
    with broken_database():
        hunt.login(*hunt.account(), DatabaseError)


@path
def database_fails_at_the_challenge(hunt):
    def refuse(execute, sql, params, many, context):
        if sql.startswith(("UPDATE", "INSERT")) and "garmin_auth" in sql:
            raise DatabaseError("the disk is full")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(refuse):
        hunt.login(*hunt.account(mfa=True), DatabaseError)


@path
def database_fails_at_the_code(hunt):
    email = hunt.pending()
    with broken_database():
        hunt.code(hunt.garmin.mfa_code(email), DatabaseError)


@path
def database_fails_at_the_write_back(hunt):
    hunt.session(access_expired=True)
    # Nobody else waits for the database to come back.
    with broken_database():
        hunt.use(DatabaseError)


@path
def database_fails_at_an_import(hunt):
    email, _ = hunt.account()
    data = hunt.garmin.issue_session(email)
    hunt.tap.session(data)
    with broken_database():
        hunt.attempt(lambda: import_session(hunt.user, data), DatabaseError)


@path
def bug_at_login(hunt):
    hunt.settings.GARMIN_AUTH_ENGINES = {"garth": f"{__name__}.BuggyEngine"}
    hunt.login(*hunt.account(), AttributeError)


@path
def bug_at_the_code(hunt):
    email = hunt.pending()
    hunt.settings.GARMIN_AUTH_ENGINES = {"garth": f"{__name__}.BuggyEngine"}
    hunt.code(hunt.garmin.mfa_code(email), AttributeError)


@path
def bug_at_a_check(hunt):
    hunt.session()
    hunt.settings.GARMIN_AUTH_ENGINES = {"garth": f"{__name__}.BuggyEngine"}
    hunt.check()


@path
def broken_receivers(hunt):
    def break_down(**kwargs):
        raise RuntimeError("a receiver with a bug")

    all_signals = [value for value in vars(signals).values() if isinstance(value, Signal)]
    for signal in all_signals:
        signal.connect(break_down)
    try:
        login_with_mfa(hunt)
        hunt.garmin.expire_access_tokens()
        hunt.use(type(None))
        hunt.garmin.revoke(next(value for value, kind in hunt.tap.values.items() if kind == EMAIL))
        hunt.use(SessionExpired)
    finally:
        for signal in all_signals:
            signal.disconnect(break_down)


@path
def broken_template(hunt):
    name = "login.html"
    templates = {**hunt.settings.TEMPLATES[0]}
    del templates["APP_DIRS"]
    templates["OPTIONS"] = {
        **templates["OPTIONS"],
        "loaders": [
            (
                "django.template.loaders.locmem.Loader",
                {f"garmin_auth/{name}": "{% load i18n %}{% include form %}"},
            ),
            "django.template.loaders.app_directories.Loader",
        ],
    }
    usual, hunt.settings.TEMPLATES = hunt.settings.TEMPLATES, [templates]
    email, _ = hunt.account()
    expected = Exception if hunt.pages else InvalidCredentials
    hunt.login(email, "hunter2-hunter2-hunter2", expected)
    hunt.settings.TEMPLATES = usual


def key_path(walk):
    KEY_PATHS.append(walk)
    return path(walk)


def new_key(hunt):
    email, _ = hunt.account()
    return hunt.garmin.add_key(email)


@key_path
def a_key_connects(hunt):
    hunt.key(new_key(hunt), Connected)


@key_path
def a_key_replaces_a_session(hunt):
    hunt.session()
    hunt.key(new_key(hunt), Connected)
    hunt.key(new_key(hunt), Connected)


@key_path
def a_key_is_refused(hunt):
    hunt.key("a-key-that-Garmin-never-made-for-anybody", KeyRefused)


@key_path
def a_key_is_copied_badly(hunt):
    hunt.key(f"Key: {new_key(hunt)}", InvalidKey)
    hunt.key(f" {new_key(hunt)}\n", Connected)


@key_path
def a_password_is_typed_in_place_of_a_key(hunt):
    hunt.key("hunter2!hunter2!hunter2!hunter2!", InvalidKey)
    hunt.key("correct horse battery staple", InvalidKey)


@key_path
def a_key_is_rate_limited(hunt):
    hunt.garmin.fail("personal_token", "key_rate_limited", retry_after=None)
    hunt.key(new_key(hunt), RateLimited)


@key_path
def a_key_is_used(hunt):
    hunt.session("personal")
    hunt.use(type(None), SETTINGS)
    hunt.use(GarminRequestError, "/no-such-service/at-all")
    hunt.attempt(lambda: site_misuse(hunt.user), TypeError)


@key_path
def a_key_is_exchanged_again(hunt):
    hunt.garmin.expire_access_tokens(hunt.session("personal"))
    hunt.use(type(None), SETTINGS)
    hunt.session("personal", access_expired=True)
    hunt.command("check_garmin_sessions", "--format", "json")


@key_path
def a_key_ends(hunt):
    hunt.garmin.revoke(hunt.session("personal"))
    hunt.use(SessionExpired, SETTINGS)


@key_path
def a_key_ends_before_a_check(hunt):
    hunt.garmin.revoke(hunt.session("personal"))
    hunt.command("check_garmin_sessions")


@key_path
def a_key_is_imported(hunt):
    key = new_key(hunt)
    hunt.tap.note(KEY, key)
    arguments = ("import_garmin_session", hunt.user.get_username(), "--engine", "personal")
    for text, expected in ((key, None), (f"the key is {key}", CommandError)):
        stdin, sys.stdin = sys.stdin, io.StringIO(text)
        hunt.command(*arguments, "--check", expected=expected)
        sys.stdin = stdin


@key_path
def a_bug_with_a_key(hunt):
    hunt.settings.GARMIN_AUTH_ENGINES = {"personal": "tests.buggy_keys.BuggyPersonalEngine"}
    hunt.key(new_key(hunt), AttributeError)
    hunt.session("personal", access_expired=True)
    hunt.use(AttributeError, SETTINGS)


@key_path
def the_database_fails_at_a_key(hunt):
    key = new_key(hunt)
    with broken_database():
        hunt.key(key, DatabaseError)


def goes_by_a_door(walk):
    """Return whether a path leads through a login or a code, which have a page."""
    names = set(walk.__code__.co_names)
    helpers = (globals().get(name) for name in names)
    return bool(names & {"login", "code", "pending", "post"}) or any(
        goes_by_a_door(helper)
        for helper in helpers
        if inspect.isfunction(helper) and helper.__module__ == __name__
    )


@pytest.mark.parametrize(
    ("door", "walk"),
    [
        pytest.param(
            door,
            walk,
            id=f"{door}-{walk.__name__}",
            marks=[needs_personal] if walk in KEY_PATHS else [],
        )
        for door in ("functions", "pages")
        for walk in PATHS
        if door == "functions" or goes_by_a_door(walk)
    ],
    indirect=["door"],
)
def test_a_path_leaves_no_secret(hunt, walk):
    walk(hunt)

    assert hunt.findings() == []


# The API

# What Django itself writes with all variables while DEBUG is on.
DJANGOS_REPORTS = {"mail to admins"}


@needs_personal
@pytest.mark.parametrize("door", ["api"], indirect=True)
@pytest.mark.parametrize("debug", [False, True])
def test_the_api_leaves_no_secret(hunt, debug):
    hunt.settings.ROOT_URLCONF = "tests.demo_urls"
    hunt.settings.DEBUG = debug
    wrong_password(hunt)
    with broken_cache():
        hunt.login(*hunt.account(), Connected)  # It only counts less.
    database_fails_at_login(hunt)
    wrong_code(hunt)
    hunt.look_around()
    database_fails_at_the_code(hunt)
    a_key_is_refused(hunt)
    a_key_is_copied_badly(hunt)
    the_database_fails_at_a_key(hunt)

    known = {PASSWORD, EMAIL, CODE, COOKIE, TICKET, TOKEN, KEY}
    assert set(hunt.tap.values.values()) == known
    shown = DJANGOS_REPORTS if debug else set()
    assert [each for each in hunt.findings() if each[0] not in shown] == []


# Every fault at every step


@pytest.mark.parametrize("door", ["functions"], indirect=True)
@pytest.mark.parametrize("step", ["login", "verify_code", "preauthorized", "exchange", "api"])
def test_no_fault_leaves_a_secret(hunt, step):
    # Where an answer does not come, nothing is said; at one step that is tried.
    slow = SILENT if step != "login" else set()
    names = {name for name, kind in KINDS.items() if step in kind.steps} - slow
    for name in sorted(names):
        # Even the 6 s are enough for the steps that come before, on a busy machine too.
        hunt.settings.GARMIN_AUTH_TIMEOUT = 6 if name in SILENT else 20
        hunt.garmin.fail(step, name, times=None)
        email, password = hunt.account(mfa=True)
        if isinstance(hunt.login(email, password, ANY), MFARequired):
            hunt.code(hunt.garmin.mfa_code(email), ANY)
        hunt.session(access_expired=True)
        hunt.use(ANY)
        hunt.garmin.heal()
        hunt.look_around()

    assert {entry["fault"] for entry in hunt.garmin.log} >= names
    assert hunt.findings() == []


@needs_personal
@pytest.mark.parametrize("door", ["functions"], indirect=True)
def test_no_fault_of_an_exchange_leaves_a_key(hunt):
    step = "personal_token"
    names = {name for name, kind in KINDS.items() if step in kind.steps} - SILENT
    for name in sorted(names):
        hunt.garmin.fail(step, name, times=None)
        hunt.key(new_key(hunt), ANY)
        hunt.session("personal", access_expired=True)
        hunt.use(ANY, SETTINGS)
        hunt.garmin.heal()
        hunt.look_around()

    assert {entry["fault"] for entry in hunt.garmin.log} >= names
    assert hunt.findings() == []


# The tests of the hunt


@pytest.fixture
def secret(hunt):
    """A token that only this test knows."""
    hunt.tap.note(TOKEN, "a-token/of <this> test")
    return "a-token/of <this> test"


def plant_in_a_log(hunt, secret):
    logging.getLogger("site").debug("found it: %s", secret)


def plant_in_the_arguments_of_a_record(hunt, secret):
    logging.getLogger("site").debug("%.0s", secret)


def plant_in_a_traceback(hunt, secret):
    try:
        raise KeyError(secret)
    except KeyError:
        logging.getLogger("site").debug("look", exc_info=True)


def plant_in_an_error_report(hunt, secret):
    def site_code():
        held = secret
        raise KeyError(len(held))

    hunt.attempt(site_code, KeyError)


def plant_in_a_mail(hunt, secret):
    mail_admins("subject", "text", html_message=html.escape(secret))


def plant_in_the_database(hunt, secret):
    hunt.user.last_name = secret
    hunt.user.save()


def plant_in_the_cache(hunt, secret):
    caches["default"].set("key", {"value": secret})


def plant_in_a_key_of_the_cache(hunt, secret):
    caches["default"].set(quote(secret), 1)


def plant_in_the_django_session(hunt, secret):
    session = hunt.browser.session
    session["held"] = base64.b64encode(secret.encode()).decode()
    session.save()


def plant_in_a_cookie(hunt, secret):
    hunt.browser.cookies["messages"] = quote(secret)


def plant_in_a_page(hunt, secret):
    hunt.user.first_name = secret
    hunt.note("page", html.escape(secret))


def plant_in_an_exception(hunt, secret):
    def leak():
        raise GarminUnavailable(secret)

    hunt.attempt(leak, GarminUnavailable)


PLANTS = {
    plant_in_a_log: "log",
    plant_in_the_arguments_of_a_record: "log",
    plant_in_a_traceback: "log",
    plant_in_an_error_report: "error report",
    plant_in_a_mail: "mail to admins",
    plant_in_the_database: "table auth_user",
    plant_in_the_cache: "table kept",
    plant_in_a_key_of_the_cache: "table kept",
    plant_in_the_django_session: "Django session",
    plant_in_a_cookie: "browser's cookies",
    plant_in_a_page: "page",
    plant_in_an_exception: "pickle",
}


@pytest.mark.parametrize("door", ["functions"], indirect=True)
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_what_is_planted_is_found(hunt, secret, plant):
    plant(hunt, secret)

    assert (PLANTS[plant], TOKEN) in hunt.findings()


@pytest.mark.parametrize("door", ["functions"], indirect=True)
def test_a_login_tells_the_hunt_every_kind_of_secret(hunt):
    login_with_mfa(hunt)

    kinds = {PASSWORD, EMAIL, CODE, COOKIE, TICKET, TOKEN}
    assert kinds <= set(hunt.tap.values.values())


@pytest.mark.parametrize("door", ["functions"], indirect=True)
def test_what_logging_says_of_itself_is_no_code(hunt):
    hunt.tap.note(CODE, "123456")
    own = {"relativeCreated": 123456.7, "process": 123456, "thread": 123456}

    hunt._handler.emit(logging.makeLogRecord({"name": "site", "msg": "look", **own}))

    assert hunt.findings() == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("code 123456.", True),
        ("'123456'", True),
        ("1123456", False),
        ("12:00:01.123456", False),
        ("color: #123456;", False),
        ("#123456", True),
        ("datetime.datetime(2026, 11, 25, 3, 37, 21, 123456, tzinfo=utc)", False),
    ],
)
def test_a_code_is_found_as_a_whole_word(text, found):
    assert Text(text).has("123456", CODE) is found
