"""The garth engine. The only module that imports garth, and itself only imported on first use.

garth 0.8 was written for one person's notebook. What it does that a server must not do is closed
here: it is used through two subclasses of its Client, and its own code does the talking.
"""

import base64
import binascii
import json
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urljoin

import requests
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_variables
from urllib3.exceptions import HTTPError

from ..conf import conf
from ..exceptions import (
    ChallengeExpired,
    GarminAuthError,
    GarminUnavailable,
    RateLimited,
    SessionUnreadable,
)
from . import garth_export
from .answers import (
    Answer,
    CodeRefused,
    api_error,
    disguised_limit,
    exchange_error,
    judge_code,
    judge_login,
    judge_page,
    login_exchange_error,
)
from .base import (
    REFRESH_TIMEOUT,
    After,
    Before,
    Challenge,
    Engine,
    NewSession,
    OpenSession,
    Renew,
    nothing,
)
from .bodies import Rewind
from .boundary import clean
from .cookies import dump_cookies, load_cookies
from .deadline import deadline, pause
from .redaction import guard_loggers, redaction
from .transport import get_transport


@contextmanager
def _without_garth_variables() -> Iterator[None]:
    """Hide ``GARTH_*`` while garth is imported: it makes a client, and may fail or phone home.

    Its settings library looks names up without regard to case.
    """
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if _is_garth_variable(name)}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _is_garth_variable(name: str) -> bool:
    return name.upper().startswith("GARTH_")


with _without_garth_variables(), warnings.catch_warnings():
    # Its deprecation is what our README is about; a warning in every worker helps nobody.
    warnings.simplefilter("ignore", DeprecationWarning)
    import garth
    from garth import sso
    from garth.auth_tokens import OAuth1Token, OAuth2Token
    from garth.http import USER_AGENT
    from garth.telemetry import Telemetry

guard_loggers()

T = TypeVar("T")

# An OAuth1 token lives for about a year, which is not said on the wire (reported).
OAUTH1_LIFETIME = timedelta(days=365)
PROFILE_PATH = "/userprofile-service/socialProfile"
EMBED_PATH = "/portal/sso/embed"
# Garmin's answer to the code comes before this step, which only sets a load balancer's cookie.
EMBED_TIMEOUT = 5  # seconds
# Pauses before Garmin is asked again for what an accepted code has earned, in seconds.
COMPLETION_PAUSES = (0.5, 1.5)


class _Client(garth.Client):
    """What both our clients have in common: nothing from the environment, nothing shared."""

    def __init__(self) -> None:
        # Not garth's own: it reads GARTH_HOME, GARTH_TOKEN and GARTH_TELEMETRY_*, and mounts an
        # adapter that follows the environment.
        transport = get_transport()
        self.domain = conf.DOMAIN
        self.sess = transport.new_session()
        self.sess.headers.update(USER_AGENT)
        self.telemetry = Telemetry.model_construct(enabled=False)

    def configure(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: garth would mount an adapter of its own, without our deadlines and trust."""
        raise NotImplementedError(
            "This client is configured by the GARMIN_AUTH_* settings and by the stored session."
        )

    def load(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("Store the session with garmin_auth.login.import_session().")

    def loads(self, *args: Any, **kwargs: Any) -> None:
        self.load()

    def login(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("Log in with garmin_auth.login.start_login().")

    def resume_login(self, *args: Any, **kwargs: Any) -> Any:
        self.login()

    def _send(
        self,
        method: str,
        subdomain: str,
        path: str,
        referrer: str | bool,
        headers: dict[str, str],
        **kwargs: Any,
    ) -> requests.Response:
        """Send one request, in the current deadline. Raises GarminUnavailable if nothing came."""
        last = getattr(self, "last_resp", None)
        if referrer is True and last is not None:
            headers["referer"] = last.url
        problem = ""
        try:
            with redaction():
                response = self.sess.request(
                    method,
                    urljoin(f"https://{subdomain}.{self.domain}", path),
                    headers=headers,
                    **kwargs,
                )
        except GarminAuthError:
            raise
        except (requests.RequestException, HTTPError, OSError, ValueError) as exc:
            problem = type(exc).__name__  # ValueError: a redirect to what is no URL.
        if problem:
            # Raised here, for what was caught holds the request, and that the password.
            raise GarminUnavailable(f"Garmin could not be reached: {problem}.")
        return response


class LoginClient(_Client):
    """Serves ``garth.sso``: each answer is judged before garth sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.oauth_response: requests.Response | None = None
        # garth hands the session's hooks on to the OAuth1 session it makes.
        self.sess.hooks["response"].append(self._keep_oauth_response)

    def _keep_oauth_response(self, response: requests.Response, **kwargs: Any) -> None:
        if "/oauth-service/" in response.url:
            self.oauth_response = response

    def request(
        self, method, subdomain, path, /, api=False, referrer=False, headers=None, **kwargs
    ):
        if path == EMBED_PATH:
            return self._embed(method, subdomain, path, referrer, headers, **kwargs)
        response = self._send(method, subdomain, path, referrer, dict(headers or {}), **kwargs)
        self.last_resp = response
        answer = Answer.of(response)
        if path == "/mobile/api/login":
            judge_login(answer)
        elif path == "/mobile/api/mfa/verifyCode":
            judge_code(answer)
        else:
            judge_page(answer)
        return response

    def _embed(self, method, subdomain, path, referrer, headers, **kwargs):
        """Ask, and go on whatever comes: the ticket is in hand, and the code may be spent."""
        try:
            with deadline(EMBED_TIMEOUT):
                return self._send(method, subdomain, path, referrer, dict(headers or {}), **kwargs)
        except GarminUnavailable:
            return None


class SessionClient(_Client):
    """The ``garth.Client`` that a site's code gets: for one user, in as many threads as it likes.

    Its calls raise GarminAuthError subclasses only.
    """

    oauth2_token: OAuth2Token

    def __init__(
        self, session_data: str, renew: Renew, before: Before = nothing, after: After = nothing
    ) -> None:
        super().__init__()
        self.oauth1_token, self.oauth2_token = parse_session(session_data)
        self.worked = False
        self._renew_session, self._before, self._after = renew, before, after
        self._renewing = threading.RLock()

    # A mistake in the caller's arguments is met in frames that hold the bearer.
    @sensitive_variables()
    def request(
        self, method, subdomain, path, /, api=False, referrer=False, headers=None, **kwargs
    ):
        """Send a request, with a fresh access token where that is needed.

        A 401 of the API is answered with one refresh and one repetition, file bodies rewound.
        """
        response = clean(
            lambda: self._request(method, subdomain, path, api, referrer, headers, kwargs)
        )
        self.worked = self.worked or api
        return response

    @sensitive_variables()
    def connectapi(self, path, method="GET", **kwargs):
        """Call the API and return its JSON, None for an empty answer.

        Raises:
            GarminRequestError: Garmin answered 4xx to this request.
            SessionExpired, RateLimited, GarminUnavailable: as for ``garmin_client``.
        """
        headers = kwargs.pop("headers", None)
        response = clean(
            lambda: self._request(method, "connectapi", path, True, False, headers, kwargs)
        )
        content = None if response.status_code == 204 else _json_of(response)
        if limited := disguised_limit(content):
            self._after(limited)
            raise limited
        self.worked = True
        return content

    def upload(self, fp, /, path="/upload-service/upload"):
        """Upload a file and return Garmin's JSON."""
        content = self.connectapi(
            path, method="POST", files={"file": (os.path.basename(fp.name), fp)}
        )
        if not isinstance(content, dict):
            raise GarminUnavailable("Garmin answered the upload in an unknown form.")
        return content

    def refresh_oauth2(self) -> None:
        """Fetch and store a fresh access token now."""
        self._renew(self.oauth2_token)

    def _request(self, method, subdomain, path, api, referrer, headers, kwargs):
        given = dict(headers or {})  # garth's own default is one dict for the whole process
        budget = float(conf.TIMEOUT)
        if api and self.oauth2_token.expired:
            self._renew(self.oauth2_token)
        rewind = Rewind(kwargs)
        started = time.monotonic()
        token = self.oauth2_token

        def send():
            authorization = {"Authorization": str(token)} if api else {}
            with deadline(budget):
                return self._send(
                    method, subdomain, path, referrer, {**given, **authorization}, **kwargs
                )

        if api:
            self._before()
        response = send()
        if api and response.status_code == 401:
            budget = max(budget - (time.monotonic() - started), 0.001)
            response.close()
            self._renew(token)
            rewind()
            token = self.oauth2_token
            response = send()
        self.last_resp = response
        error = api_error(response.status_code, response.headers)
        if api:
            self._after(error)
        if error:
            response.close()
            raise error
        return response

    def _renew(self, stale: OAuth2Token) -> None:
        with self._renewing:
            if self.oauth2_token is not stale:
                return  # Another thread of this block has done it.
            self.oauth1_token, self.oauth2_token = parse_session(self._renew_session())


def _json_of(response: requests.Response) -> Any:
    problem = ""
    try:
        with deadline(conf.TIMEOUT):  # The caller may have asked for a stream.
            content = response.json()
    except (ValueError, RecursionError, OSError) as exc:
        problem = type(exc).__name__
    if problem:
        raise GarminUnavailable(f"Garmin answered with something other than JSON: {problem}.")
    return content


class GarthSession(OpenSession):
    def __init__(self, *arguments: Any) -> None:
        self.client = SessionClient(*arguments)

    @property
    def worked(self) -> bool:
        return self.client.worked

    def session_data(self) -> str:
        return self.client.dumps()

    def close(self) -> None:
        # Not sess.close(): the adapter is everybody's.
        self.client.sess.cookies.clear()


class GarthEngine(Engine):
    """Sessions in the form of garth's ``Client.dumps()``."""

    name = "garth"
    login_note = _(
        "Since March 2026 Garmin has been refusing most new connections of this kind. Yours may "
        "not work, even with the right password. Earlier connections go on."
    )

    @sensitive_variables()
    def login(self, email, password):
        return clean(lambda: self._login(LoginClient(), email, password))

    @sensitive_variables()
    def submit_code(self, state, code):
        return clean(lambda: self._submit_code(LoginClient(), state, code))

    @sensitive_variables()
    def refresh(self, session_data):
        return clean(lambda: self._refresh(LoginClient(), session_data))

    @sensitive_variables()
    def open(self, session_data, renew, *, before=nothing, after=nothing):
        return clean(lambda: GarthSession(session_data, renew, before, after))

    def read_export(self, text):
        return self._normalise(garth_export.from_token(text))

    def read_folder(self, path):
        return self._normalise(garth_export.from_folder(path))

    @sensitive_variables()
    def account_name(self, session):
        return _user_name(session.client)

    def ends_at(self, session_data):
        """A year after the login; at the latest, where the session was imported without MFA."""
        oauth1, _ = parse_session(session_data)
        if oauth1.mfa_expiration_timestamp:
            return _as_utc(oauth1.mfa_expiration_timestamp)
        return timezone.now() + OAUTH1_LIFETIME

    def _normalise(self, tokens) -> str:
        """Write what was imported as garth itself would, once it is known to be for our domain."""
        if problem := garth_export.problem_of(tokens, conf.DOMAIN):
            raise SessionUnreadable(problem)
        client = LoginClient()
        client.oauth1_token, client.oauth2_token = parse_session(garth_export.to_token(tokens))
        return client.dumps()

    def _login(self, client, email, password) -> NewSession | Challenge:
        with deadline(conf.TIMEOUT):
            result: Any = _oauth(
                client,
                login_exchange_error,
                lambda: sso.login(email, password, client=client, return_on_mfa=True),
            )
            if result[0] == "needs_mfa":
                pending = result[1]
                return self._challenge(
                    client, pending["login_params"], pending["mfa_method"], email
                )
            return self._new_session(client, result, email)

    def _submit_code(self, client, state, code) -> NewSession | Challenge:
        login_params, method, email = _resume(client, state)
        with deadline(conf.TIMEOUT):
            try:
                ticket = _oauth(
                    client,
                    login_exchange_error,
                    lambda: sso.handle_mfa(client, login_params, lambda: code, mfa_method=method),
                )
            except CodeRefused:
                # Cookies that the answer set are needed for the next try.
                changed = {**state, "cookies": dump_cookies(client.sess.cookies)}
                return Challenge(changed, state.get("sent_to", ""))
            return self._new_session(client, _complete(client, ticket), email)

    def _refresh(self, client, session_data) -> str:
        client.oauth1_token, _ = parse_session(session_data)
        with deadline(REFRESH_TIMEOUT):
            client.oauth2_token = _oauth(
                client, exchange_error, lambda: sso.exchange(client.oauth1_token, client)
            )
        return client.dumps()

    def _challenge(self, client, login_params, method, email) -> Challenge:
        info = Answer.of(client.last_resp).json.get("customerMfaInfo")
        info = info if isinstance(info, dict) else {}
        sent_to = info.get("phoneNumber" if method == "phone" else "email") or ""
        sent_to = sent_to if isinstance(sent_to, str) else ""
        return Challenge(
            {
                "engine": self.name,
                "domain": client.domain,
                "login_params": login_params,
                "mfa_method": method,
                "sent_to": sent_to,
                "account_name": email,
                "cookies": dump_cookies(client.sess.cookies),
            },
            sent_to,
        )

    def _new_session(self, client, tokens, email) -> NewSession:
        """Serialise, and use the session once. A fault there does not undo the login."""
        client.oauth1_token, client.oauth2_token = tokens
        session_data = client.dumps()
        try:
            name = _user_name(SessionClient(session_data, _no_renewal))
        except GarminAuthError:
            return NewSession(session_data, account_name=email, validated=False)
        return NewSession(session_data, account_name=name or email, validated=True)


def parse_session(session_data: str) -> tuple[OAuth1Token, OAuth2Token]:
    """Read what garth's ``dumps()`` wrote: strictly, and for our domain only.

    Raises:
        SessionUnreadable: it is something else. Nothing of it is in the exception.
    """
    try:
        oauth1, oauth2 = json.loads(base64.b64decode(session_data, validate=True))
        tokens = OAuth1Token(**oauth1), OAuth2Token(**oauth2)
    except (ValueError, TypeError, RecursionError, binascii.Error):
        tokens = None
    if tokens is None:
        raise SessionUnreadable("The stored data is not a session of garth 0.8.")
    if not all(map(_is_header_safe, _secrets(*tokens))):
        raise SessionUnreadable("The stored session holds a token with illegal characters.")
    domain = tokens[0].domain
    if domain not in (None, conf.DOMAIN):
        # The bearer would go to whatever host the data names.
        raise SessionUnreadable(f"The stored session is not for {conf.DOMAIN}.")
    return tokens


def _as_utc(moment: datetime) -> datetime:
    # Garmin's timestamp has no zone, and is GMT (recorded).
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _secrets(oauth1: OAuth1Token, oauth2: OAuth2Token) -> list[str]:
    return [oauth1.oauth_token, oauth1.oauth_token_secret, oauth2.token_type, oauth2.access_token]


def _is_header_safe(value: str) -> bool:
    return bool(value) and value.isascii() and value.isprintable()


def _oauth(
    client: LoginClient,
    error_of: Callable[[Answer | None, str], GarminAuthError],
    call: Callable[[], T],
) -> T:
    """Run garth code that speaks OAuth1, and translate what it raises.

    Those requests go through a session that garth makes, with requests' own exceptions; and
    whatever garth makes of an answer that it does not understand is a fault, never a verdict.
    """
    client.oauth_response = None
    try:
        with redaction():
            sso.OAUTH_CONSUMER = get_transport().consumer()
            return call()
    except (GarminAuthError, CodeRefused):
        raise
    except Exception as exc:  # noqa: BLE001
        problem = type(exc).__name__
    answer = None
    try:
        if client.oauth_response is not None:
            answer = Answer.of(client.oauth_response)
    except (requests.RequestException, OSError, RuntimeError):
        answer = None  # Its body broke off: no verdict.
    raise error_of(answer, problem)


def _complete(client: LoginClient, ticket: str) -> tuple[OAuth1Token, OAuth2Token]:
    """Trade the ticket of an accepted code for tokens. The code is spent, so be stubborn."""
    client.get("sso", EMBED_PATH, headers=sso.SSO_PAGE_HEADERS, referrer=True)
    error: GarminAuthError
    try:
        oauth1 = _stubbornly(
            lambda: _oauth(
                client, login_exchange_error, lambda: sso.get_oauth1_token(ticket, client)
            )
        )
        oauth2 = _stubbornly(
            lambda: _oauth(
                client, login_exchange_error, lambda: sso.exchange(oauth1, client, login=True)
            )
        )
        return oauth1, oauth2
    except (GarminUnavailable, RateLimited) as exc:
        error = ChallengeExpired("spent", f"Garmin accepted the code, but then failed: {exc}")
    raise error


def _stubbornly(call: Callable[[], T]) -> T:
    for seconds in COMPLETION_PAUSES:
        try:
            return call()
        except GarminUnavailable:
            if not pause(seconds):
                raise
    return call()


def _user_name(client: SessionClient) -> str:
    profile = client.connectapi(PROFILE_PATH)
    name = profile.get("userName") if isinstance(profile, dict) else None
    if not isinstance(name, str):
        raise GarminUnavailable("Garmin answered with a profile of an unknown form.")
    return name


def _no_renewal() -> str:
    raise GarminUnavailable("Garmin refused the access token that it had just issued.")


def _resume(client: LoginClient, state: dict[str, Any]) -> tuple[dict[str, str], str, str]:
    """Give the client the cookies of a challenge, and return what else it holds."""
    if state.get("engine") != GarthEngine.name or state.get("domain") != client.domain:
        raise SessionUnreadable("The pending login is of another engine or another domain.")
    try:
        load_cookies(client.sess.cookies, state["cookies"])
        return dict(state["login_params"]), str(state["mfa_method"]), str(state["account_name"])
    except (KeyError, TypeError, ValueError, AttributeError):
        problem = "The pending login is not in the form that this version writes."
    raise SessionUnreadable(problem)
