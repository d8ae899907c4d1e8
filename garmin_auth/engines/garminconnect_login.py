"""garminconnect's own ways of logging in, with our proxy, trust and deadline, judged by us.

The library tries up to five flows in turn, takes whatever it does not understand for a reason to
try the next, and says at the end what the last one met. Here Garmin's answers are seen before the
library sees them: a verdict (a wrong password, a wrong code, a locked account) ends the login at
once, and what says nothing certain is noted while the library goes on.
"""

import http.cookiejar
from typing import Any

import requests
from garminconnect.client import (
    Client,
    GarminConnectAuthenticationError,
    GarminConnectConnectionError,
    GarminConnectTooManyRequestsError,
    _parse_widget_mfa_vars,
)

from ..conf import conf
from ..exceptions import (
    AccountLocked,
    CaptchaRequired,
    GarminAuthError,
    GarminUnavailable,
    InvalidCredentials,
    LoginRejected,
    RateLimited,
    SessionUnreadable,
)
from .answers import (
    Answer,
    CodeRefused,
    judge_code,
    judge_login,
    judge_page,
    judge_widget_code,
)
from .curl import CurlSession
from .deadline import remaining
from .environment import environment_agrees
from .transport import get_transport

WIDGET = "widget+cffi"
# Seconds that the widget flow may take: four requests of 30, and a pause of 8.
WIDGET_SECONDS = 4 * 30 + 8
PROFILE_PATH = "/userprofile-service/socialProfile"
# What of the library is overridden although its name is private: without one of them, a new
# release would go around our proxy, our deadline, our lease or our judgement, so it is refused.
HOOKS = (
    "_api_session",
    "_do_mobile_login",
    "_do_portal_web_login",
    "_establish_session",
    "_exchange_service_ticket",
    "_http_post",
    "_mfa_client_state",
    "_persist_tokens",
    "_refresh_di_token",
    "_refresh_session",
    "_restore_mfa_state",
    "_run_request",
    "_widget_request_mfa_code",
    "_widget_web_login",
)
if missing := [name for name in HOOKS if not hasattr(Client(), name)]:
    raise ImportError(f"this release of garminconnect is not known: it lacks {missing[0]}")


class Verdict(BaseException):
    """Garmin has judged. Not an Exception: the library would catch that, and go on guessing.

    Args:
        error: the judgement: a LoginRejected, CodeRefused, or SessionUnreadable.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class LoginClient(Client):
    """One login, or one refresh, of one account; made anew for each.

    Attributes:
        faults: what was met that says nothing certain, in order.
        code_accepted: whether Garmin has accepted the user's code, which is then spent.
        token_answer: what the token endpoint answered last, None for nothing.
        sent_to: where Garmin sent a code, masked by Garmin; "" if it did not say.
        profile: what the API said about the account, once it has.
    """

    _mfa_session: Any

    def __init__(self) -> None:
        super().__init__(domain=conf.DOMAIN)
        self.cs = get_transport().new_session()
        self._api_session = get_transport().new_session()
        self._api_session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        self.faults: list[GarminAuthError] = []
        self.code_accepted = False
        self.token_answer: Answer | None = None
        self.sent_to = ""
        self.profile: dict[str, Any] = {}
        if not environment_agrees():
            self.skip_strategies = {WIDGET}  # It makes a session of its own.

    def fault(self, problem: str) -> GarminAuthError:
        """Return the error that says best why the login came to no end.

        Args:
            problem: the name of what the library raised, for the detail.
        """
        for kind in (RateLimited, CaptchaRequired):
            for error in self.faults:
                if isinstance(error, kind):
                    return error
        met = "; ".join(str(error) for error in self.faults[-3:])
        return GarminUnavailable(f"Garmin's login came to no end ({problem}). {met}".strip())

    def connectapi(self, path: str, **kwargs: Any) -> Any:
        content = super().connectapi(path, **kwargs)
        if path == PROFILE_PATH and isinstance(content, dict):
            self.profile = content
        return content

    # The library's own methods, led to our sessions and seen by our judgement.

    def _do_mobile_login(self, sess: Any, email: str, password: str) -> None:
        super()._do_mobile_login(self._ours(sess), email, password)

    def _do_portal_web_login(self, sess: Any, email: str, password: str) -> None:
        super()._do_portal_web_login(self._ours(sess), email, password)

    def _widget_web_login(self, email: str, password: str) -> None:
        left = remaining()
        if left is not None and left < WIDGET_SECONDS:
            raise GarminConnectConnectionError("Not enough time is left for the widget.")
        try:
            super()._widget_web_login(email, password)
        except GarminConnectTooManyRequestsError:
            self.faults.append(RateLimited(None, "The sign-in widget was rate limited."))
            raise
        except GarminConnectAuthenticationError as exc:
            words = str(exc).lower()  # The title of the page.
            error = next((kind for word, kind in WIDGET_WORDS.items() if word in words), None)
            if error is None:
                raise GarminConnectConnectionError("The widget's title is not known.") from None
            raise Verdict(error("The title of Garmin's sign-in widget says so.")) from None

    def _widget_request_mfa_code(self, sess: Any, page_html: str, referer: str) -> None:
        super()._widget_request_mfa_code(sess, page_html, referer)
        self.sent_to = _parse_widget_mfa_vars(page_html).get("codeSentTo", "")

    def _restore_mfa_state(self, state: dict[str, Any]) -> None:
        try:
            super()._restore_mfa_state(state)
        except GarminConnectAuthenticationError:
            problem = SessionUnreadable("The pending login is not one of garminconnect's.")
            raise Verdict(problem) from None
        self._mfa_session = self._ours(self._mfa_session)

    def _establish_session(
        self, ticket: str, sess: Any = None, service_url: str | None = None
    ) -> None:
        """Trade the ticket for tokens, and for nothing else.

        The library's own way out, a JWT_WEB cookie, cannot be stored: ``dumps()`` leaves it out.
        """
        try:
            self._exchange_service_ticket(ticket, service_url=service_url)
        except GarminConnectAuthenticationError:
            # It would end the login, as if the password were wrong.
            raise GarminConnectConnectionError("No client may trade this ticket.") from None

    def _http_post(self, url: str, **kwargs: Any) -> Any:
        with CurlSession("chrome", self._on_token_answer) as session:
            return session.post(url, **kwargs)

    def _persist_tokens(self) -> None:
        """Write no file, whatever the environment names."""

    def _on_token_answer(self, url: str, answer: Answer) -> None:
        self.token_answer = answer
        if answer.status >= 400:
            self._note(lambda: judge_page(answer))

    def _on_answer(self, url: str, answer: Answer) -> None:
        path = url.partition("?")[0]
        if path.endswith("/api/login"):
            content = self._note(lambda: judge_login(answer))
            self.sent_to = _sent_to(content) or self.sent_to
        elif path.endswith("/api/mfa/verifyCode"):
            content = self._note(lambda: judge_code(answer)) or {}
            self.code_accepted = "serviceTicketId" in content and bool(content["serviceTicketId"])
        elif path.endswith("/sso/verifyMFA/loginEnterMfaCode"):
            self.code_accepted = self._note(lambda: judge_widget_code(answer)) is not None
        else:
            self._note(lambda: judge_page(answer))

    def _note(self, judge: Any) -> Any:
        """Judge an answer: a verdict ends the login, anything less is noted."""
        try:
            return judge()
        except (CodeRefused, LoginRejected) as exc:
            if not isinstance(exc, CaptchaRequired):  # Another flow may not want one.
                raise Verdict(exc) from None
            self.faults.append(exc)
        except GarminAuthError as exc:
            self.faults.append(exc)
        return None

    def _ours(self, sess: Any) -> Any:
        """Return a session like the library's, with its cookies, that is led by our settings."""
        if isinstance(sess, requests.Session):
            session: Any = get_transport().new_session()
            session.hooks["response"].append(self._on_response)
        else:
            session = CurlSession(sess.impersonate, self._on_answer)
        for cookie in getattr(sess.cookies, "jar", sess.cookies):
            getattr(session.cookies, "jar", session.cookies).set_cookie(cookie)
        return session

    def _on_response(self, response: requests.Response, **kwargs: Any) -> None:
        if not response.is_redirect:
            self._on_answer(str(response.url), Answer.of(response))


# The library takes these words in the title of the widget's page for a verdict.
WIDGET_WORDS: dict[str, type[LoginRejected]] = {
    "locked": AccountLocked,
    "invalid": InvalidCredentials,
    "incorrect": InvalidCredentials,
}


def _sent_to(content: Any) -> str:
    """Read from the demand for a code where it went."""
    info = content.get("customerMfaInfo") if isinstance(content, dict) else None
    info = info if isinstance(info, dict) else {}
    method = info.get("mfaLastMethodUsed")
    sent_to = info.get("phoneNumber" if method in ("phone", "sms") else "email")
    return sent_to if isinstance(sent_to, str) else ""
