"""A third engine, as docs/how-to/write-an-engine.md tells it: one sign-in flow, with requests.

Not for Garmin itself, which turns logins away that look like this one.
"""

import json

import requests
from django.views.decorators.debug import sensitive_variables

from garmin_auth.conf import conf
from garmin_auth.engines.answers import (
    Answer,
    CodeRefused,
    api_error,
    judge_code,
    judge_login,
    judge_page,
    token_error,
)
from garmin_auth.engines.base import (
    REFRESH_TIMEOUT,
    Challenge,
    Engine,
    NewSession,
    OpenSession,
    nothing,
)
from garmin_auth.engines.boundary import clean
from garmin_auth.engines.deadline import deadline
from garmin_auth.engines.transport import get_transport
from garmin_auth.exceptions import GarminUnavailable, SessionExpired, SessionUnreadable

PROFILE = "/userprofile-service/socialProfile"
SSO_CLIENT, TOKEN_CLIENT = "GCM_IOS_DARK", "GARMIN_CONNECT_MOBILE_ANDROID_DI_2025Q2"
GRANT = "https://connectapi.garmin.com/di-oauth2-service/oauth/grant/service_ticket"


def send(session, method, host, path, **kwargs):
    """Send a request to one of Garmin's hosts. Raises GarminUnavailable if nothing came."""
    problem = ""
    try:
        return session.request(method, f"https://{host}.{conf.DOMAIN}{path}", **kwargs)
    except (requests.RequestException, OSError) as exc:
        problem = type(exc).__name__
    raise GarminUnavailable(f"Garmin could not be reached: {problem}.")


class Client:
    """What ``garmin_client`` gives to the site's code."""

    def __init__(self, session_data, renew, before, after):
        self.tokens = _tokens(session_data)
        self.renew, self.before, self.after = renew, before, after
        self.session = get_transport().new_session()
        self.worked = False

    def connectapi(self, path):
        return clean(lambda: self._connectapi(path))

    def _connectapi(self, path):
        response = self._send(path)
        if response.status_code == 401:
            self.tokens = _tokens(self.renew())
            response = self._send(path)
        error = api_error(response.status_code, response.headers)
        self.after(error)
        if error:
            raise error
        self.worked = True
        return response.json()

    def _send(self, path):
        self.before()
        headers = {"Authorization": f"Bearer {self.tokens['access_token']}"}
        with deadline(conf.TIMEOUT):
            return send(self.session, "GET", "connectapi", path, headers=headers)


class Session(OpenSession):
    def __init__(self, client):
        self.client = client

    @property
    def worked(self):
        return self.client.worked

    def session_data(self):
        return json.dumps(self.client.tokens)

    def close(self):
        self.client.session.cookies.clear()


class ThirdEngine(Engine):
    name = "third"
    rotates = True

    @sensitive_variables()
    def login(self, email, password):
        return clean(lambda: self._login(get_transport().new_session(), email, password))

    @sensitive_variables()
    def submit_code(self, state, code):
        return clean(lambda: self._submit_code(get_transport().new_session(), state, code))

    @sensitive_variables()
    def refresh(self, session_data):
        return clean(lambda: self._refresh(_tokens(session_data)))

    def open(self, session_data, renew, *, before=nothing, after=nothing):
        return clean(lambda: Session(Client(session_data, renew, before, after)))

    def account_name(self, session):
        return session.client.connectapi(PROFILE)["userName"]

    def read_export(self, text):
        return json.dumps(_tokens(text))

    def _login(self, session, email, password):
        page = {"clientId": SSO_CLIENT, "service": _service()}
        body = {"username": email, "password": password, "rememberMe": True, "captchaToken": ""}
        with deadline(self.login_timeout):
            path = "/mobile/sso/en_US/sign-in"
            judge_page(Answer.of(send(session, "GET", "sso", path, params=page)))
            content = judge_login(self._ask(session, "/mobile/api/login", body))
            if info := content.get("customerMfaInfo"):
                state = {"cookies": session.cookies.get_dict(), "email": email}
                return Challenge(state, info["email"])
            return self._new_session(content["serviceTicketId"], email)

    def _submit_code(self, session, state, code):
        for name, value in state["cookies"].items():
            session.cookies.set(name, value, domain=f"sso.{conf.DOMAIN}")
        body = {
            "mfaMethod": "email",
            "mfaVerificationCode": code,
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
        query = {"clientId": SSO_CLIENT, "locale": "en-US", "service": _service()}
        return Answer.of(send(session, "POST", "sso", path, params=query, json=body))

    def _new_session(self, ticket, email):
        fields = {"grant_type": GRANT, "service_ticket": ticket, "service_url": _service()}
        tokens = self._fetch_tokens(fields)
        return NewSession(json.dumps(tokens), account_name=email, validated=False)

    def _refresh(self, tokens):
        fields = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
        with deadline(REFRESH_TIMEOUT):
            return json.dumps(self._fetch_tokens(fields))

    def _fetch_tokens(self, fields):
        answer = Answer.of(
            send(
                get_transport().new_session(),
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
        return {name: answer.json[name] for name in ("access_token", "refresh_token")}


def _service():
    return f"https://mobile.integration.{conf.DOMAIN}/gcm/ios"


def _tokens(session_data):
    try:
        tokens = json.loads(session_data)
    except (ValueError, RecursionError):
        tokens = None
    if not isinstance(tokens, dict) or not {"access_token", "refresh_token"} <= tokens.keys():
        raise SessionUnreadable("The stored data is not a session of this engine.")
    return tokens
