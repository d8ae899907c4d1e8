"""The garminconnect engine, built on python-garminconnect 0.3.20 or newer, imported on first use.

Garmin accepts its logins where it refuses garth's, because they look like those of a phone or a
browser, with pauses of 2 to 20 seconds (the library's ``client/constants.py``) and several flows.
The library itself is not patched: the subclasses in ``login`` and ``client`` give it our proxy, CA
bundle, deadline and judgement.
"""

import gc
from typing import Any

from django.views.decorators.debug import sensitive_variables
from garminconnect.client import LOGIN_DELAY_MAX_S

from ...conf import REFRESH_TIMEOUT, conf
from ...exceptions import (
    ChallengeExpired,
    GarminAuthError,
    GarminUnavailable,
    RateLimited,
    SessionUnreadable,
)
from ..base import Challenge, NewSession, OpenSession, PasswordEngine, nothing
from ..calls import PROFILE_PATH, user_name_of
from ..http.deadline import deadline
from ..http.redaction import guard_loggers, redaction
from ..interruptions import interruptions
from ..secret import Secret
from ..tracebacks import hide_frames
from ..verdicts import CodeRefused, disguised_limit, token_error
from .client import GarminClient, SessionClient
from .login import LoginClient, Verdict
from .session import access_ends_at, dumps, ends_at, refreshed, require_session, with_end

guard_loggers()

# Seconds within which a login, with all its flows and pauses, may send requests.
LOGIN_TIMEOUT = 180
TOKEN_FILE = "garmin_tokens.json"  # noqa: S105 - the library's name for it
# More characters than any session of the library has.
LARGEST_FILE = 100_000
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

    def close(self) -> None:
        self._client.close()


class GarminConnectEngine(PasswordEngine):
    """Stores sessions in the format of garminconnect's ``Client.dumps()``."""

    name = "garminconnect"
    slow_login = True
    rotates = True
    use_prolongs = True

    @property
    def login_timeout(self) -> float:
        return LOGIN_TIMEOUT + LOGIN_DELAY_MAX_S  # A pause may begin at the last moment.

    def login(self, email, password):
        email, password = Secret(email), Secret(password)
        try:
            return hide_frames(lambda: self._login(LoginClient(self.domain), email, password))
        finally:
            # SECURITY: the library stores each flow's exception in a variable of the frame that
            # caught it. In such a cycle, the password would outlive the login.
            gc.collect()

    def submit_code(self, state, code):
        code = Secret(code)
        return hide_frames(lambda: self._submit_code(LoginClient(self.domain), state, code))

    @sensitive_variables()
    def refresh(self, session_data):
        return hide_frames(lambda: self._refresh(LoginClient(self.domain), session_data))

    @sensitive_variables()
    def open(self, session_data, renew, *, before=nothing, after=nothing):
        def renewed() -> str:
            fresh = renew()
            require_session(fresh, self.domain)
            return fresh

        def opened() -> GarminConnectSession:
            require_session(session_data, self.domain)
            return GarminConnectSession(self.domain, session_data, renewed, before, after)

        return hide_frames(opened)

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
            with file.open(encoding="utf-8-sig") as source:
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
    def fetch_account_name(self, session):
        return user_name_of(session.client.connectapi(PROFILE_PATH))

    def ends_at(self, session_data):
        return ends_at(require_session(session_data, self.domain))

    def access_ends_at(self, session_data):
        return access_ends_at(require_session(session_data, self.domain)["di_token"])

    def _normalise(self, text: str) -> str:
        """Serialise an imported session as the library would."""
        return dumps(require_session(text, self.domain))

    def _login(
        self, client: LoginClient, email: Secret, password: Secret
    ) -> NewSession | Challenge:
        def log_in() -> Any:
            return client.login(email.reveal(), password.reveal(), return_on_mfa=True)

        with deadline(LOGIN_TIMEOUT):
            answer = _run(client, log_in)
        if answer[0] == "needs_mfa":
            return self._challenge(answer[1], client.sent_to, email.reveal())
        return self._new_session(client, email.reveal())

    def _submit_code(
        self, client: LoginClient, state: dict[str, Any], code: Secret
    ) -> NewSession | Challenge:
        pending = state.get("client_state")
        if (
            (state.get("engine"), state.get("domain")) != (self.name, self.domain)
            or not isinstance(pending, dict)
            or not isinstance(state.get("account_name"), str)
        ):
            raise SessionUnreadable("The pending login belongs to another engine or domain.")
        problem: GarminAuthError
        try:
            with deadline(conf.TIMEOUT):
                _run(client, lambda: client.resume_login(pending, code.reveal()))
            return self._new_session(client, state["account_name"])
        except CodeRefused:
            # The next attempt needs the cookies that this answer set.
            changed = {**state, "client_state": client._mfa_client_state()}
            return Challenge(changed, str(state.get("sent_to", "")))
        except (GarminUnavailable, RateLimited) as exc:
            problem = exc
        if client.code_accepted:
            raise ChallengeExpired("spent", f"Garmin accepted the code, but then failed: {problem}")
        raise problem

    def _refresh(self, client: LoginClient, session_data: str) -> str:
        require_session(session_data, self.domain)
        client.loads(session_data)
        problem = ""
        try:
            with deadline(REFRESH_TIMEOUT), redaction():
                client._refresh_di_token()
        except interruptions():
            raise
        except (Exception, Verdict) as exc:  # noqa: BLE001 - the answer is judged below
            problem = type(exc).__name__
        answer = client.token_answer
        if answer is None and client.faults:
            raise client.faults[-1]
        if answer is None or not 200 <= answer.status < 300 or not isinstance(answer.json, dict):
            raise token_error(answer, problem)
        if limited := disguised_limit(answer.json):
            raise limited
        return refreshed(session_data, self.domain, answer.json)

    def _challenge(self, client_state: dict[str, Any], sent_to: str, email: str) -> Challenge:
        return Challenge(
            {
                "engine": self.name,
                "domain": self.domain,
                "client_state": client_state,
                "sent_to": sent_to,
                "account_name": email,
            },
            sent_to,
        )

    def _new_session(self, client: LoginClient, email: str) -> NewSession:
        name = user_name_of(client.profile)
        return NewSession(
            _dumps(client), account_name=name or email, validated=client.profile is not None
        )


def _run(client: LoginClient, call: Any) -> Any:
    """Run the library's login, and translate what it raises.

    Args:
        client: the client that the login uses.
        call: runs the login.

    Raises:
        CodeRefused, GarminAuthError: Garmin's verdict, or why there is none.
    """
    error: Exception
    try:
        with redaction():
            return call()
    except Verdict as verdict:
        error = verdict.error
    except interruptions():
        raise
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is not a verdict
        error = client.fault(type(exc).__name__)
    error.__context__ = None
    raise error


def _dumps(client: LoginClient) -> str:
    """Return the session data of a login that has succeeded.

    Raises:
        GarminUnavailable: Garmin's tokens cannot be used.
    """
    try:
        answer = client.token_answer.json if client.token_answer else None
        return dumps(with_end(require_session(client.dumps(), client.domain), answer))
    except SessionUnreadable as exc:
        problem = str(exc)
    raise GarminUnavailable(f"Garmin sent tokens that cannot be used. {problem}")
