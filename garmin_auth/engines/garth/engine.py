"""The garth engine, built on garth 0.8 and imported on first use.

garth was written for one person's notebook. Its own code makes the requests, but through two
subclasses of its ``Client`` that prevent what a server must not do.
"""

from typing import Any

from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_variables

from ...conf import REFRESH_TIMEOUT, conf
from ...exceptions import GarminAuthError, GarminUnavailable, SessionUnreadable
from ..base import Challenge, NewSession, OpenSession, PasswordEngine, nothing
from ..calls import PROFILE_PATH, moment_of, user_name_of
from ..http.cookies import dump_cookies, load_cookies
from ..http.deadline import deadline
from ..secret import Secret
from ..tracebacks import hide_frames
from ..verdicts import Answer, CodeRefused, exchange_error, where_sent
from . import export
from .client import SessionClient
from .library import sso
from .login import LoginClient, complete, log_in, run
from .session import ends_at, parse_session, usable


class GarthSession(OpenSession):
    def __init__(self, *arguments: Any) -> None:
        self.client = SessionClient(*arguments)

    @property
    def worked(self) -> bool:
        return self.client.worked

    def close(self) -> None:
        # Not sess.close(), which would close the adapter that all sessions share.
        self.client.sess.cookies.clear()


class GarthEngine(PasswordEngine):
    """Stores sessions in the format of garth's ``Client.dumps()``."""

    name = "garth"
    label = _("With your Garmin password, the older way")
    login_note = _(
        "Since March 2026, Garmin has been refusing most new connections of this kind. Yours may "
        "fail, even with the right password. Existing connections keep working."
    )

    def login(self, email, password):
        email, password = Secret(email), Secret(password)
        return hide_frames(lambda: self._login(LoginClient(self.domain), email, password))

    def submit_code(self, state, code):
        code = Secret(code)
        return hide_frames(lambda: self._submit_code(LoginClient(self.domain), state, code))

    @sensitive_variables()
    def refresh(self, session_data):
        return hide_frames(lambda: self._refresh(LoginClient(self.domain), session_data))

    @sensitive_variables()
    def open(self, session_data, renew, *, before=nothing, after=nothing):
        return hide_frames(lambda: GarthSession(self.domain, session_data, renew, before, after))

    def read_export(self, text):
        return self._normalise(export.from_token(text))

    def read_folder(self, path):
        return self._normalise(export.from_folder(path))

    @sensitive_variables()
    def fetch_account_name(self, session):
        return user_name_of(session.client.connectapi(PROFILE_PATH))

    def access_ends_at(self, session_data):
        _, oauth2 = parse_session(session_data, self.domain)
        return moment_of(oauth2.expires_at)

    def ends_at(self, session_data):
        oauth1, _ = parse_session(session_data, self.domain)
        return ends_at(oauth1)

    def _normalise(self, tokens) -> str:
        """Serialise imported tokens as garth would, after checking that they are for this domain.

        Raises:
            SessionUnreadable: the tokens cannot be used here.
        """
        if problem := export.problem_of(tokens, self.domain):
            raise SessionUnreadable(problem)
        client = LoginClient(self.domain)
        client.oauth1_token, client.oauth2_token = parse_session(
            export.to_token(tokens), self.domain
        )
        return client.dumps()

    def _login(self, client, email, password) -> NewSession | Challenge:
        with deadline(conf.TIMEOUT):
            first, second = run(client, lambda: log_in(client, email, password))
            if first == "needs_mfa":
                params, method = second["login_params"], second["mfa_method"]
                return self._challenge(client, params, method, email.reveal())
            return self._new_session(client, (first, second), email.reveal())

    def _submit_code(self, client, state, code) -> NewSession | Challenge:
        login_params, method, email = _resume(client, state)
        with deadline(conf.TIMEOUT):
            try:
                ticket = run(
                    client,
                    lambda: sso.handle_mfa(client, login_params, code.reveal, mfa_method=method),
                )
            except CodeRefused:
                # The next attempt needs the cookies that this answer set.
                changed = {**state, "cookies": dump_cookies(client.sess.cookies)}
                return Challenge(changed, state.get("sent_to", ""))
            return self._new_session(client, complete(client, ticket), email)

    def _refresh(self, client, session_data) -> str:
        client.oauth1_token, _ = parse_session(session_data, self.domain)
        with deadline(REFRESH_TIMEOUT):
            client.oauth2_token = run(
                client, lambda: usable(sso.exchange(client.oauth1_token, client)), exchange_error
            )
        return client.dumps()

    def _challenge(self, client, login_params, method, email) -> Challenge:
        sent_to = where_sent(Answer.of(client.last_resp).json)
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
        """Serialise the session and use it once. If that call fails, the login is still good."""
        client.oauth1_token, client.oauth2_token = tokens
        session_data = client.dumps()
        try:
            client = SessionClient(self.domain, session_data, _no_renewal)
            name = user_name_of(client.connectapi(PROFILE_PATH))
        except GarminAuthError:
            return NewSession(session_data, account_name=email, validated=False)
        return NewSession(session_data, account_name=name or email, validated=True)


def _no_renewal() -> str:
    raise GarminUnavailable("Garmin refused the access token that it had just issued.")


def _resume(client: LoginClient, state: dict[str, Any]) -> tuple[dict[str, str], str, str]:
    """Load the cookies of a challenge into the client.

    Returns:
        The challenge's login parameters, MFA method and account name.

    Raises:
        SessionUnreadable: ``state`` is not a challenge of this engine, domain and version.
    """
    if state.get("engine") != GarthEngine.name or state.get("domain") != client.domain:
        raise SessionUnreadable("The pending login belongs to another engine or domain.")
    try:
        load_cookies(client.sess.cookies, state["cookies"])
        return dict(state["login_params"]), str(state["mfa_method"]), str(state["account_name"])
    except (KeyError, TypeError, ValueError, AttributeError):
        problem = "The pending login is not in the form that this version writes."
    raise SessionUnreadable(problem)
