"""A third engine, as docs/how-to/write-an-engine.md tells it: one sign-in flow, with requests.

Not for Garmin itself, which turns logins away that look like this one.
"""

import json

import requests
from django.views.decorators.debug import sensitive_variables

from garmin_auth.conf import REFRESH_TIMEOUT, conf
from garmin_auth.engines.base import (
    Challenge,
    NewSession,
    OpenSession,
    PasswordEngine,
    RefreshIncomplete,
    nothing,
)
from garmin_auth.engines.calls import (
    PROFILE_PATH,
    ApiCalls,
    api_base,
    is_header_safe,
    user_name_of,
)
from garmin_auth.engines.http.deadline import deadline
from garmin_auth.engines.http.transport import get_transport
from garmin_auth.engines.tracebacks import hide_frames
from garmin_auth.engines.verdicts import (
    Answer,
    CodeRefused,
    judge_code,
    judge_login,
    judge_page,
    token_error,
)
from garmin_auth.exceptions import GarminUnavailable, SessionExpired, SessionUnreadable

FIELDS = ("access_token", "refresh_token")
SSO_CLIENT, TOKEN_CLIENT = "GCM_IOS_DARK", "GARMIN_CONNECT_MOBILE_ANDROID_DI_2025Q2"
GRANT = "https://connectapi.garmin.com/di-oauth2-service/oauth/grant/service_ticket"


def send(domain, session, method, host, path, **kwargs):
    """Send a request to one of Garmin's hosts. Raises GarminUnavailable if nothing came."""
    problem = ""
    try:
        return session.request(method, f"https://{host}.{domain}{path}", **kwargs)
    except (requests.RequestException, OSError) as exc:
        problem = type(exc).__name__
    raise GarminUnavailable(f"Garmin could not be reached: {problem}.")


class Client:
    """What ``garmin_client`` gives to the site's code."""

    def __init__(self, domain, session_data, renew, before, after):
        self._tokens, self._renew_session = _tokens(session_data), renew
        self.session = get_transport(domain).new_session()
        self.calls = ApiCalls(
            self.session,
            lambda: f"Bearer {self._tokens['access_token']}",
            lambda: False,  # A token that is over is refused, and then renewed.
            self._renew,
            before,
            after,
            api_base(domain),
        )

    def connectapi(self, path, method="GET", **kwargs):
        return hide_frames(lambda: self.calls.connectapi(path, method, **kwargs))

    def _renew(self):
        self._tokens = _tokens(self._renew_session())


class Session(OpenSession):
    def __init__(self, client):
        self.client = client

    @property
    def worked(self):
        return self.client.calls.worked

    def close(self):
        self.client.session.cookies.clear()


class ThirdEngine(PasswordEngine):
    name = "third"
    rotates = True

    @sensitive_variables()
    def login(self, email, password):
        session = get_transport(self.domain).new_session()
        return hide_frames(lambda: self._login(session, email, password))

    @sensitive_variables()
    def submit_code(self, state, code):
        session = get_transport(self.domain).new_session()
        return hide_frames(lambda: self._submit_code(session, state, code))

    @sensitive_variables()
    def refresh(self, session_data):
        return hide_frames(lambda: self._refresh(_tokens(session_data)))

    def open(self, session_data, renew, *, before=nothing, after=nothing):
        return hide_frames(lambda: Session(Client(self.domain, session_data, renew, before, after)))

    def fetch_account_name(self, session):
        return user_name_of(session.client.connectapi(PROFILE_PATH))

    def read_export(self, text):
        return json.dumps(_tokens(text))

    def _login(self, session, email, password):
        page = {"clientId": SSO_CLIENT, "service": _service(self.domain)}
        email, password = email.reveal(), password.reveal()
        body = {"username": email, "password": password, "rememberMe": True, "captchaToken": ""}
        with deadline(self.login_timeout):
            path = "/mobile/sso/en_US/sign-in"
            judge_page(Answer.of(send(self.domain, session, "GET", "sso", path, params=page)))
            content = judge_login(self._ask(session, "/mobile/api/login", body))
            if info := content.get("customerMfaInfo"):
                state = {"cookies": session.cookies.get_dict(), "email": email}
                return Challenge(state, info["email"])
            return self._new_session(content["serviceTicketId"], email)

    def _submit_code(self, session, state, code):
        for name, value in state["cookies"].items():
            session.cookies.set(name, value, domain=f"sso.{self.domain}")
        body = {
            "mfaMethod": "email",
            "mfaVerificationCode": code.reveal(),
            "rememberMyBrowser": True,
            "reconsentList": [],
            "mfaSetup": False,
        }
        with deadline(conf.TIMEOUT):
            try:
                content = judge_code(self._ask(session, "/mobile/api/mfa/verifyCode", body))
            except CodeRefused:
                return Challenge({**state, "cookies": session.cookies.get_dict()}, "")
            return self._new_session(content["serviceTicketId"], state["email"])

    def _ask(self, session, path, body):
        query = {"clientId": SSO_CLIENT, "locale": "en-US", "service": _service(self.domain)}
        return Answer.of(send(self.domain, session, "POST", "sso", path, params=query, json=body))

    def _new_session(self, ticket, email):
        fields = {
            "grant_type": GRANT,
            "service_ticket": ticket,
            "service_url": _service(self.domain),
        }
        tokens = self._fetch_tokens(fields)
        return NewSession(json.dumps(tokens), account_name=email, validated=False)

    def _refresh(self, tokens):
        fields = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
        with deadline(REFRESH_TIMEOUT):
            fresh = self._fetch_tokens(fields)
        if is_header_safe(fresh["refresh_token"]) and not is_header_safe(fresh["access_token"]):
            # The one before is worthless now: losing this one would be losing the session.
            raise RefreshIncomplete(json.dumps({**fresh, "access_token": tokens["access_token"]}))
        return json.dumps(fresh)

    def _fetch_tokens(self, fields):
        answer = Answer.of(
            send(
                self.domain,
                get_transport(self.domain).new_session(),
                "POST",
                "diauth",
                "/di-oauth2-service/oauth/token",
                data={"client_id": TOKEN_CLIENT, **fields},
                auth=(TOKEN_CLIENT, ""),
            )
        )
        if answer.status != 200:
            error = token_error(answer, "")
            if isinstance(error, SessionExpired) and fields["grant_type"] == GRANT:
                raise GarminUnavailable("Garmin refused the ticket that it had just issued.")
            raise error
        content = answer.json if isinstance(answer.json, dict) else {}
        return {name: content.get(name) for name in FIELDS}


def _service(domain):
    return f"https://mobile.integration.{domain}/gcm/ios"


def _tokens(session_data):
    try:
        tokens = json.loads(session_data)
    except (ValueError, RecursionError):
        tokens = None
    if not isinstance(tokens, dict) or not all(is_header_safe(tokens.get(n)) for n in FIELDS):
        raise SessionUnreadable("The stored data is not a session of this engine.")
    return tokens
