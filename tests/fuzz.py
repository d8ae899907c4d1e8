"""Nonsense from Garmin, and nonsense from the database: only our own exceptions may come of it.

``python -m tests.fuzz --examples 50000`` is what ``make soak`` runs; test_fuzz.py runs less of it.
"""

import argparse
import base64
import io
import json
import os
import pickle
import sys
import time
from datetime import UTC
from email.utils import format_datetime
from http.client import HTTPException, HTTPResponse
from types import SimpleNamespace

import django
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()

from django.contrib.auth import get_user_model
from django.core.cache import caches
from django.test.utils import (
    override_settings,
    setup_databases,
    setup_test_environment,
    teardown_databases,
)

from garmin_auth.engines import get_engine
from garmin_auth.engines import verdicts as answers
from garmin_auth.engines.base import Challenge, NewSession
from garmin_auth.engines.verdicts import Answer, CodeRefused
from garmin_auth.exceptions import GarminAuthError, RateLimited, SessionExpired, SessionUnreadable
from garmin_auth.health import check_session
from garmin_auth.login import MFARequired, start_login, submit_mfa
from garmin_auth.models import GarminAuthenticationState
from garmin_auth.sessions import garmin_client
from garmin_auth.testing import GarminSimulator
from garmin_auth.testing.garmin import answers as garmins
from garmin_auth.testing.garmin import steps
from garmin_auth.testing.garmin.answers import Answer as GarminsAnswer

EMAIL, PASSWORD = "ana@example.com", "correct horse battery staple"
PROFILE = "/userprofile-service/socialProfile"
DEAD_WORDS = "OAuthToken is invalid"
TIMEOUT = 0.5  # seconds: too little for the pauses before the engine asks again
USUAL_TIMEOUT = 20  # seconds, for what has to work before nonsense is said

# JSON and text of any shape

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from(
        [
            "SUCCESSFUL",
            "MFA_REQUIRED",
            "codeEntryInvalid",
            "CAPTCHA_REQUIRED",
            "429",
            427,
            10**400,
            "\ud800",
            "a\r\nb: c",
            "",
            "garmin.com",
            "evil.example",
        ]
    )
)
WORDS = st.sampled_from(
    [
        "responseStatus",
        "type",
        "message",
        "serviceTicketId",
        "customerMfaInfo",
        "error",
        "status-code",
        "userName",
        "email",
        "oauth_token",
        "access_token",
        "expires_in",
        "domain",
    ]
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(WORDS | st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def paths_in(value, path=()):
    """Every place in a JSON value."""
    yield path
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from paths_in(inner, (*path, key))


def changed(value, path, change):
    """The value with what is at ``path`` put through ``change``; None for a change: left out."""
    if not path:
        return change(value) if change else None
    copy = value.copy()
    if change is None and len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = changed(copy[path[0]], path[1:], change)
    return copy


@st.composite
def mutated_json(draw, good):
    """A good JSON value in which one to three places are missing, or something else."""
    value = draw(good)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(paths_in(value))))
        if draw(st.booleans()):
            new = draw(JSON)
            value = changed(value, path, lambda _, new=new: new)
        else:
            value = changed(value, path, None)
    return value


@st.composite
def mutated_bytes(draw, good):
    """Good bytes, cut short, with some of them replaced, doubled or inserted."""
    value = draw(good)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(value)))
        end = draw(st.integers(start, min(len(value), start + 20)))
        value = value[:start] + draw(st.binary(max_size=8)) + value[end:]
    if draw(st.booleans()):
        value = value[: draw(st.integers(0, len(value)))]
    return value


def as_json(value):
    return json.dumps(value).encode("utf-8", "surrogatepass")


# Garmin's answers

GOOD_JSON = [
    json.loads(answer.body)
    for answer in (
        garmins.sso_success("ST-1-x-sso", "https://x", "guid", "sso.garmin.com"),
        garmins.sso_mfa_required(EMAIL, "email"),
        garmins.sso_mfa_required(EMAIL, "phone"),
        *(garmins.sso_refusal(reason) for reason in garmins.SSO_REFUSALS),
        garmins.rate_limited_200(),
        garmins.rate_limited_427(),
        garmins.not_found(),
        garmins.token_inactive(),
    )
] + [
    {"consumer_key": "key", "consumer_secret": "secret"},
    {"userName": EMAIL, "displayName": "x", "id": 5},
    {
        "scope": "A",
        "jti": "j",
        "access_token": "at",
        "token_type": "bearer",
        "refresh_token": "rt",
        "expires_in": 75017,
        "refresh_token_expires_in": 2591999,
    },
]
GOOD_BODIES = [as_json(value) for value in GOOD_JSON] + [
    garmins.dead().body,
    garmins.app_validation().body,
    garmins.challenge_page().body,
    garmins.preauthorized("token", "secret", None, None).body,
    garmins.preauthorized("token", "secret", "mfa", "2027-03-18 05:33:02.000").body,
    b"",
]
BODIES = st.one_of(
    st.binary(max_size=100),
    JSON.map(as_json),
    mutated_json(st.sampled_from(GOOD_JSON)).map(as_json),
    mutated_bytes(st.sampled_from(GOOD_BODIES)),
    st.sampled_from(GOOD_BODIES),
    st.sampled_from([b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5000, b"\xef\xbb\xbf{}", b"NaN"]),
)
STATUSES = st.sampled_from([200, 401, 403, 409, 427, 429, 204, 302, 500, 503]) | st.integers(
    200, 599
)
HEADER_TEXT = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=30)
TYPES = st.sampled_from(
    [
        "application/json",
        "application/json;charset=UTF-8",
        "text/html",
        "TEXT/HTML; charset=x",
        "text/plain",
        "text/html;charset=utf-16",
        "application/json;charset=rot13",
        ";;=",
        "",
    ]
)
RETRY_AFTER = (
    HEADER_TEXT
    | st.integers().map(str)
    | st.sampled_from(["²", "7.5", "٣", "9" * 5000, "Wed, 21 Oct 2015 07:28:00", "0", "-1"])
    | st.datetimes(timezones=st.just(UTC)).map(lambda when: format_datetime(when, usegmt=True))
)
ENCODINGS = st.sampled_from(["gzip", "deflate", "br", "zstd", "x", "gzip, gzip", "identity"])
COOKIES = HEADER_TEXT | st.sampled_from(
    [
        "SESSION=x; Domain=evil.example",
        "SESSION=; Max-Age=0",
        "a=b; Expires=never",
        "=x",
        "x",
        "a=b; Max-Age=99999999999999999999",
        "a=b; Version=1; Port=x",
        "a=b; Domain=.",
    ]
)
LOCATIONS = HEADER_TEXT | st.sampled_from(
    [
        "https://evil.example/",
        "http://sso.garmin.com/",
        "//[",
        "https://sso.garmin.com:0x/",
        "//",
        PROFILE,
        "file:///etc/passwd",
        "https://connectapi.garmin.com/x",
        "https://\x80.garmin.com",
    ]
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "content-type": TYPES | HEADER_TEXT,
        "retry-after": RETRY_AFTER,
        "location": LOCATIONS,
        "set-cookie": COOKIES,
        "www-authenticate": HEADER_TEXT,
    },
)


def latin(headers):
    """What a client reads of header values: never a character that no byte is."""
    return {k: v for k, v in headers.items() if all(ord(c) < 256 for c in v)}


READ_ANSWERS = st.builds(
    lambda status, headers, body: Answer(
        status, CaseInsensitiveDict(latin(headers)), body.decode("utf-8", "replace")
    ),
    STATUSES | st.integers(),
    HEADERS,
    BODIES,
)


def is_ours(error):
    """Assert of an exception all that holds for ours: it can be said, and be sent elsewhere."""
    assert isinstance(error, GarminAuthError), repr(error)
    assert error.__cause__ is None
    assert str(error)
    assert str(error.user_message)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    if isinstance(error, RateLimited) and error.retry_after is not None:
        assert 0 < error.retry_after <= 86_400


def check_judging(answer):
    """Judge one answer in every way there is."""
    is_dead = answer.status == 401 and DEAD_WORDS in answer.text
    for judge in (answers.judge_page, answers.judge_login, answers.judge_code):
        try:
            content = judge(answer)
        except CodeRefused:
            assert judge is answers.judge_code
        except GarminAuthError as error:
            is_ours(error)
            assert not isinstance(error, SessionExpired)  # noqa: PT017
        else:
            assert 200 <= answer.status < 300
            if judge is not answers.judge_page:
                kind = content["responseStatus"]["type"]
                assert kind == "MFA_REQUIRED" or content["serviceTicketId"]
    for heard in (answer, None):
        error = answers.exchange_error(heard, "ValueError")
        is_ours(error)
        if isinstance(error, SessionExpired):
            assert heard
            assert is_dead
        error = answers.login_exchange_error(heard, "ValueError")
        is_ours(error)
        assert not isinstance(error, SessionExpired)
    error = answers.api_error(answer.status, answer.headers)
    if error is None:
        assert 200 <= answer.status < 300
    else:
        is_ours(error)
        assert not isinstance(error, SessionExpired)
    limit = answers.disguised_limit(answer.json)
    if limit is not None:
        is_ours(limit)


# A Garmin that talks nonsense

USUAL = dict(steps.ANSWERS)

STEPS = ("sign_in", "login", "verify_code", "embed", "preauthorized", "exchange", "api")


class Raw(GarminsAnswer):
    """Bytes in place of an answer."""

    def head(self, length=None):
        return b""


def http(status, reason, headers, body, length):
    lines = [f"HTTP/1.1 {status}{reason}", *(f"{k}: {v}" for k, v in headers.items())]
    lines += [f"Content-Length: {len(body) + length}", "Connection: close"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def status_of(raw):
    """The status as a client reads it, None where it finds none."""
    response = HTTPResponse(SimpleNamespace(makefile=lambda mode: io.BytesIO(raw)))
    try:
        response.begin()
    except HTTPException:
        return None
    return response.status


WIRE_ANSWERS = st.one_of(
    *[
        st.builds(
            http,
            STATUSES,
            st.sampled_from([" OK", "", " \xff"]),
            st.builds(
                lambda headers, encoding: latin({**headers, **encoding}),
                HEADERS,
                st.just({}) | st.just({}) | st.builds(lambda e: {"Content-Encoding": e}, ENCODINGS),
            ),
            BODIES,
            st.just(0),
        )
    ]
    * 12,
    st.builds(http, STATUSES, st.just(" OK"), st.just({}), BODIES, st.sampled_from([-1, 1, 10**9])),
    st.builds(lambda body: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body, BODIES),
    mutated_bytes(
        st.builds(http, STATUSES, st.just(" OK"), HEADERS.map(latin), BODIES, st.just(0))
    ),
)


class Site:
    """A user with a stored session, and a Garmin to talk to it."""

    def __init__(self, garmin, user):
        self.garmin, self.user = garmin, user
        self.engine = get_engine("garth")
        garmin.add_account(EMAIL, PASSWORD, mfa=True)

    def store(self, **options):
        GarminAuthenticationState.objects.connect(
            self.user.pk,
            engine="garth",
            session_data=self.garmin.issue_session(EMAIL, **options),
            account_name=EMAIL,
            validated_at=None,
        )

    def stored(self):
        rows = GarminAuthenticationState.objects.filter(user_id=self.user.pk)
        return rows.values_list("session_data", "mfa_challenge", "mfa_pending").get()

    def say(self, step, raw):
        """Let Garmin say only that at ``step``, and close the connection."""

        def answer(request, *_):
            request.headers["connection"] = "close"
            return Raw(200, raw)

        steps.ANSWERS[step] = answer

    def check_wire(self, step, raw):
        """Go all the ways that lead by ``step``. A session is lost by the proven words only."""
        caches["default"].clear()
        GarminAuthenticationState.objects.filter(user_id=self.user.pk).delete()
        try:
            if step in ("exchange", "api"):
                self.store(access_expired=step == "exchange")
                before = self.stored()
                self.say(step, raw)
                ask = garmin_use if len(raw) % 2 else check_session
                outcome = attempt(ask, self.user)
                self.check_session_kept(step, before, outcome, raw)
                return
            if step in ("sign_in", "login"):
                self.store()
                before = self.stored()
                self.say(step, raw)
                attempt(start_login, self.user, EMAIL, PASSWORD)
                assert self.stored()[0] == before[0]
                return
            with override_settings(GARMIN_AUTH_TIMEOUT=USUAL_TIMEOUT):
                assert isinstance(start_login(self.user, EMAIL, PASSWORD), MFARequired)
            self.say(step, raw)
            attempt(submit_mfa, self.user, self.garmin.mfa_code(EMAIL))
        finally:
            steps.ANSWERS.update(USUAL)

    def check_session_kept(self, step, before, outcome, raw):
        session = self.stored()[0]
        if session is None:
            # Proof is the exchange's 401 with the words, whatever the mutation left around them.
            assert step == "exchange"
            assert status_of(raw) == 401
            assert isinstance(outcome, SessionExpired) or outcome.outcome == "expired"
        elif session != before[0]:
            # A new access token: this exchange's, or one that followed the API's 401.
            status = status_of(raw)
            assert status in range(200, 300) if step == "exchange" else status == 401

    def check_session_data(self, data):
        """Give the engine something as a stored session or an export."""
        session = attempt(self.engine.open, data, lambda: data)
        if not isinstance(session, GarminAuthError):
            session.close()
        else:
            assert isinstance(session, SessionUnreadable)
        exported = attempt(self.engine.read_export, data)
        if isinstance(exported, GarminAuthError):
            assert isinstance(exported, SessionUnreadable)
        else:
            assert not isinstance(attempt(self.engine.open, exported, None), GarminAuthError)
        fresh = attempt(self.engine.refresh, data)
        assert isinstance(fresh, str | GarminAuthError)

    def check_challenge(self, state):
        """Give the engine something as the state of a pending login."""
        result = attempt(self.engine.submit_code, state, "123456")
        assert isinstance(result, Challenge | NewSession | GarminAuthError)


def attempt(call, *arguments):
    """Return what comes, an exception of ours included. Another one is a finding."""
    try:
        return call(*arguments)
    except GarminAuthError as error:
        is_ours(error)
        assert error.__context__ is None  # noqa: PT017
        return error


def garmin_use(user):
    with garmin_client(user) as client:
        return client.connectapi(PROFILE)


# What stands in the database

TOKENS = st.just(
    [
        {
            "oauth_token": "token",
            "oauth_token_secret": "secret",
            "mfa_token": "mfa",
            "mfa_expiration_timestamp": "2027-03-18T05:33:02",
            "domain": "garmin.com",
        },
        {
            "scope": "A B",
            "jti": "jti",
            "token_type": "bearer",
            "access_token": "access",
            "refresh_token": "refresh",
            "expires_in": 75017,
            "expires_at": 1900000000,
            "refresh_token_expires_in": 2591999,
            "refresh_token_expires_at": 1900000000,
        },
    ]
)


def as_blob(value):
    return base64.b64encode(as_json(value)).decode()


SESSION_DATA = st.one_of(
    st.text(max_size=60),
    st.binary(max_size=60).map(lambda data: base64.b64encode(data).decode()),
    JSON.map(as_blob),
    JSON.map(lambda value: as_json(value).decode("utf-8", "surrogatepass")),
    mutated_json(TOKENS).map(as_blob),
    mutated_bytes(TOKENS.map(lambda value: as_blob(value).encode())).map(
        lambda data: data.decode("latin-1")
    ),
    mutated_bytes(TOKENS.map(as_json)).map(lambda data: base64.b64encode(data).decode()),
    st.sampled_from([as_blob([[]] * 2), base64.b64encode(b"[" * 100_000).decode()]),
)
COOKIE = {
    "name": "SESSION",
    "value": "x",
    "domain": "sso.garmin.com",
    "domain_specified": False,
    "domain_initial_dot": False,
    "path": "/",
    "path_specified": True,
    "secure": True,
    "expires": None,
    "http_only": True,
}
CHALLENGE = {
    "engine": "garth",
    "domain": "garmin.com",
    "login_params": {"clientId": "GCM_ANDROID_DARK", "locale": "en-US", "service": "https://x"},
    "mfa_method": "email",
    "sent_to": "an*****@example.com",
    "account_name": EMAIL,
    "cookies": [COOKIE, {**COOKIE, "name": "__cf_bm", "domain": ".garmin.com", "expires": 4e9}],
}
CHALLENGES = mutated_json(st.just(CHALLENGE)).filter(lambda state: isinstance(state, dict))


def run(examples, strategy, check, same=None):
    """Run ``check`` on so many examples. Raises on a finding, with the smallest such example.

    Args:
        same: a word to which the examples are the same each time. None: always new ones.
    """

    @seed(same)
    @hypothesis_settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def test(example):
        check(example)

    test()


def fuzz(site, examples):
    """Run everything, and return how many examples of each kind there were, in how many seconds."""
    kinds = {
        "answers judged": (examples, READ_ANSWERS, check_judging),
        "answers on the wire": (
            max(1, examples // 10),
            st.tuples(st.sampled_from(STEPS), WIRE_ANSWERS),
            lambda example: site.check_wire(*example),
        ),
        "stored sessions": (examples, SESSION_DATA, site.check_session_data),
        "pending logins": (max(1, examples // 10), CHALLENGES, site.check_challenge),
    }
    for name, (number, strategy, check) in kinds.items():
        started = time.monotonic()
        problem = None
        try:
            run(number, strategy, check)
        except Exception as error:  # noqa: BLE001
            problem = error
        yield name, number, time.monotonic() - started, problem


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=50_000)
    options = parser.parse_args()
    setup_test_environment()
    databases = setup_databases(verbosity=0, interactive=False)
    findings = 0
    with (
        GarminSimulator() as garmin,
        override_settings(
            **garmin.settings,
            GARMIN_AUTH_TIMEOUT=TIMEOUT,
            GARMIN_AUTH_OAUTH_CONSUMER=garmin.consumer,
        ),
    ):
        site = Site(garmin, get_user_model().objects.create_user("ana"))
        for name, number, seconds, problem in fuzz(site, options.examples):
            print(f"{name}: {number:,} in {seconds:.0f} s, {'FOUND' if problem else 'nothing'}")
            if problem is not None:
                findings += 1
                sys.excepthook(type(problem), problem, problem.__traceback__)
    teardown_databases(databases, verbosity=0)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
