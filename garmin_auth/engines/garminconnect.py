"""The garminconnect engine, on python-garminconnect 0.3.20 and newer, imported on first use.

Its logins pass where garth's are refused, by looking like a phone's and a browser's: with pauses of
2 to 20 seconds, and several flows. The library itself is unpatched: ``garminconnect_login`` and
``garminconnect_client`` lead it through our proxy, trust, deadline and judgement.
"""

import base64
import binascii
import gc
import json
from typing import Any
from urllib.parse import urlsplit

from django.views.decorators.debug import sensitive_variables
from garminconnect.client import LOGIN_DELAY_MAX_S

from ..conf import DOMAINS, conf
from ..exceptions import (
    ChallengeExpired,
    GarminAuthError,
    GarminUnavailable,
    RateLimited,
    SessionUnreadable,
)
from .answers import CodeRefused, token_error
from .base import REFRESH_TIMEOUT, Challenge, Engine, NewSession, OpenSession, nothing
from .boundary import clean
from .deadline import deadline
from .garminconnect_client import PROFILE_PATH, GarminClient, SessionClient
from .garminconnect_login import LoginClient, Verdict
from .redaction import guard_loggers, redaction

guard_loggers()

# Seconds in which a login, with all its flows and pauses, may send a request.
LOGIN_TIMEOUT = 180
FIELDS = ("di_token", "di_refresh_token", "di_client_id")
TOKEN_FILE = "garmin_tokens.json"  # noqa: S105 - the library's name for it
# More than any session of the library's.
LARGEST_FILE = 100_000  # bytes
HOW_TO = (
    'A session of garminconnect is what this prints: python -c "import garminconnect; '
    "client = garminconnect.client.Client(); client.load('~/.garminconnect'); "
    'print(client.dumps())"'
)


class GarminConnectSession(OpenSession):
    def __init__(self, *arguments: Any) -> None:
        self._client = SessionClient(*arguments)
        self.client = GarminClient(self._client)

    @property
    def worked(self) -> bool:
        return self._client.worked

    def session_data(self) -> str:
        return self._client.dumps()

    def close(self) -> None:
        self._client.close()


class GarminConnectEngine(Engine):
    """Sessions in the form of garminconnect's ``Client.dumps()``."""

    name = "garminconnect"
    slow_login = True
    rotates = True

    @property
    def login_timeout(self) -> float:
        return LOGIN_TIMEOUT + LOGIN_DELAY_MAX_S  # A pause may begin at the last moment.

    @sensitive_variables()
    def login(self, email, password):
        try:
            return clean(lambda: self._login(LoginClient(), email, password))
        finally:
            # SECURITY: the library keeps what each flow has met in a variable of the very frame
            # that met it: cycles, in which the password would outlive the login.
            gc.collect()

    @sensitive_variables()
    def submit_code(self, state, code):
        return clean(lambda: self._submit_code(LoginClient(), state, code))

    @sensitive_variables()
    def refresh(self, session_data):
        return clean(lambda: self._refresh(LoginClient(), session_data))

    @sensitive_variables()
    def open(self, session_data, renew, *, before=nothing, after=nothing):
        def renewed() -> str:
            fresh = renew()
            require_session(fresh)
            return fresh

        def opened() -> GarminConnectSession:
            require_session(session_data)
            return GarminConnectSession(session_data, renewed, before, after)

        return clean(opened)

    def read_export(self, text):
        text = text.strip()
        if not text:
            raise SessionUnreadable(f"There is no session to import: nothing was given. {HOW_TO}")
        if not text.startswith("{"):
            raise SessionUnreadable(
                "This is not a session of garminconnect, which is JSON. If it is a GARTH_TOKEN, "
                f"say that garth wrote it: --engine garth. {HOW_TO}"
            )
        return self._normalise(text)

    def read_folder(self, path):
        file, problem, text = path / TOKEN_FILE, "", ""
        try:
            with file.open(encoding="utf-8") as source:
                text = source.read(LARGEST_FILE)
        except FileNotFoundError:
            problem = (
                f"There is no {TOKEN_FILE} in {path}: is it the folder that garminconnect keeps "
                "its tokens in? If garth does, say so: --engine garth."
            )
        except OSError as exc:
            problem = f"{file} cannot be read: {exc.strerror}."
        except ValueError:
            problem = f"{file} is not text."
        if problem:
            raise SessionUnreadable(problem)
        return self._normalise(text)

    @sensitive_variables()
    def account_name(self, session):
        return _user_name(session.client.connectapi(PROFILE_PATH))

    @staticmethod
    def _normalise(text: str) -> str:
        """Write what was imported as the library itself would."""
        content = require_session(text)
        return json.dumps({field: content[field] for field in FIELDS})

    def _login(self, client: LoginClient, email: str, password: str) -> NewSession | Challenge:
        with deadline(LOGIN_TIMEOUT):
            answer = _run(client, lambda: client.login(email, password, return_on_mfa=True))
        if answer[0] == "needs_mfa":
            return self._challenge(answer[1], client.sent_to, email)
        return self._new_session(client, email)

    def _submit_code(
        self, client: LoginClient, state: dict[str, Any], code: str
    ) -> NewSession | Challenge:
        pending = state.get("client_state")
        if (
            (state.get("engine"), state.get("domain")) != (self.name, conf.DOMAIN)
            or not isinstance(pending, dict)
            or not isinstance(state.get("account_name"), str)
        ):
            raise SessionUnreadable("The pending login is of another engine or another domain.")
        problem: GarminAuthError | None = None
        try:
            with deadline(conf.TIMEOUT):
                _run(client, lambda: client.resume_login(pending, code))
        except CodeRefused:
            # Cookies that the answer set are needed for the next try.
            changed = {**state, "client_state": client._mfa_client_state()}
            return Challenge(changed, str(state.get("sent_to", "")))
        except (GarminUnavailable, RateLimited) as exc:
            problem = exc
        if problem and client.code_accepted:
            raise ChallengeExpired("spent", f"Garmin accepted the code, but then failed: {problem}")
        if problem:
            raise problem
        return self._new_session(client, state["account_name"])

    def _refresh(self, client: LoginClient, session_data: str) -> str:
        require_session(session_data)
        client.loads(session_data)
        problem = ""
        try:
            with deadline(REFRESH_TIMEOUT), redaction():
                client._refresh_di_token()
        except Exception as exc:  # noqa: BLE001 - whatever the library makes of the answer
            problem = type(exc).__name__
        if problem:
            raise token_error(client.token_answer, problem)
        return _dumps(client)

    def _challenge(self, client_state: dict[str, Any], sent_to: str, email: str) -> Challenge:
        return Challenge(
            {
                "engine": self.name,
                "domain": conf.DOMAIN,
                "client_state": client_state,
                "sent_to": sent_to,
                "account_name": email,
            },
            sent_to,
        )

    def _new_session(self, client: LoginClient, email: str) -> NewSession:
        name = client.profile.get("userName")
        known = isinstance(name, str) and bool(name)
        return NewSession(_dumps(client), account_name=name if known else email, validated=known)


def require_session(session_data: str) -> dict[str, str]:
    """Read what garminconnect's ``dumps()`` wrote: strictly, and for our domain only.

    Raises:
        SessionUnreadable: it is something else. Nothing of it is in the exception.
    """
    try:
        content = json.loads(session_data)
    except (ValueError, TypeError, RecursionError):
        content = None
    if not isinstance(content, dict) or not all(_is_token(content.get(name)) for name in FIELDS):
        raise SessionUnreadable("The stored data is not a session of garminconnect.")
    if (domain := _issuer(content["di_token"])) not in (None, conf.DOMAIN):
        # The other domain's Garmin would refuse the refresh token, as if the session were dead.
        raise SessionUnreadable(f"The stored session is for {domain}, not for {conf.DOMAIN}.")
    return content


def _is_token(value: object) -> bool:
    """Tell whether it may travel in a header."""
    return isinstance(value, str) and bool(value) and value.isascii() and value.isprintable()


def _issuer(token: str) -> str | None:
    """Return which of Garmin's domains issued a JWT, None if it does not say."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        host = urlsplit(claims["iss"]).hostname or ""
    except (LookupError, ValueError, TypeError, AttributeError, binascii.Error):
        return None
    return next((domain for domain in DOMAINS if host.endswith(f".{domain}")), None)


def _run(client: LoginClient, call: Any) -> Any:
    """Run the library's login, and translate what it raises.

    Raises:
        CodeRefused, GarminAuthError: as Garmin judged, or did not.
    """
    error: Exception
    try:
        with redaction():
            return call()
    except Verdict as verdict:
        error = verdict.error
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is no verdict
        error = client.fault(type(exc).__name__)
    error.__context__ = None
    raise error


def _dumps(client: LoginClient) -> str:
    """Return the session that a login or refresh has brought.

    Raises:
        GarminUnavailable: it is none that could be stored.
    """
    session_data = client.dumps()
    problem: GarminAuthError | None = None
    try:
        require_session(session_data)
    except SessionUnreadable as exc:
        problem = exc
    if problem:
        raise GarminUnavailable("Garmin sent tokens of an unknown form.")
    return session_data


def _user_name(profile: Any) -> str:
    name = profile.get("userName") if isinstance(profile, dict) else None
    if not isinstance(name, str):
        raise GarminUnavailable("Garmin answered with a profile of an unknown form.")
    return name
