"""Log in through garminconnect's own flows, with our proxy, CA bundle, deadline and judgement.

The library tries up to five flows in turn. On any answer that it does not understand it tries the
next flow, and at the end it reports only the failure of the last one. Here Garmin's answers are
judged before the library sees them. A verdict (a wrong password, a wrong code, a locked account)
ends the login at once. Anything less certain is recorded, and the library continues.
"""

import http.cookiejar
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType, SimpleNamespace
from typing import Any

import requests
from garminconnect.client import (
    Client,
    GarminConnectAuthenticationError,
    GarminConnectConnectionError,
    _parse_widget_mfa_vars,
    sso,
)

from ...exceptions import (
    CaptchaRequired,
    GarminAuthError,
    GarminUnavailable,
    LoginRejected,
    RateLimited,
    SessionUnreadable,
)
from ..calls import PROFILE_PATH
from ..http.curl import CurlSession
from ..http.transport import get_transport
from ..interruptions import interruptions
from ..verdicts import (
    Answer,
    CodeRefused,
    judge_code,
    judge_login,
    judge_page,
    judge_widget_code,
    title_rejection,
    where_sent,
)

# The library's errors about a page of the widget end with the page's title.
WIDGET_TITLE = re.compile(r"'(.*)'$", re.DOTALL)
# The library's private names that we override or use. A release without one of them could bypass
# our proxy, deadline, lease or judgement, so it is refused.
HOOKS = (
    "_api_session",
    "_do_mobile_login",
    "_do_portal_web_login",
    "_establish_session",
    "_exchange_service_ticket",
    "_http_post",
    "_mfa_client_state",
    "_persist_tokens",
    "_post_credentials",
    "_refresh_di_token",
    "_refresh_session",
    "_restore_mfa_state",
    "_run_request",
    "_token_lock",
    "_widget_request_mfa_code",
    "_widget_web_login",
)
# The names with which the library's widget flow makes its session.
WIDGET_SESSION = ("_pkg", "cffi_requests", "Session")


def _require_known_release() -> None:
    missing = [name for name in HOOKS if not hasattr(Client(), name)]
    if not missing:
        names = Client._widget_web_login.__code__.co_names
        missing = [name for name in WIDGET_SESSION if name not in names]
    if missing:
        raise ImportError(f"this release of garminconnect is not known: it lacks {missing[0]}")


_require_known_release()


class Verdict(BaseException):
    """Ends the login. Not an Exception, because the library would catch it and try the next flow.

    Args:
        error: why: a LoginRejected, CodeRefused or SessionUnreadable, a RateLimited with a time to
            wait, or the exception that interrupts the task from outside.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class LoginClient(Client):
    """The library's client for one login or one refresh of one account.

    Args:
        domain: Garmin's domain.

    Attributes:
        faults: the failures that prove nothing, in order.
        code_accepted: whether Garmin has accepted the user's code, which is then spent.
        token_answer: the token endpoint's last answer, None if there was none.
        sent_to: where Garmin sent a code, masked by Garmin; "" if it did not say.
        profile: the API's profile of the account; None if it was not asked for or the call failed.
    """

    _mfa_session: Any

    def __init__(self, domain: str) -> None:
        super().__init__(domain=domain)
        self.faults: list[GarminAuthError] = []
        self.cs = get_transport(domain).new_session(self.faults.append)
        self._api_session = get_transport(domain).new_session(self.faults.append)
        self._api_session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        self.code_accepted = False
        self.token_answer: Answer | None = None
        self.sent_to = ""
        self.profile: Any = None
        # The flows that have sent the password. Garmin would refuse it from the same flow again,
        # and each attempt extends the account's rate limit (reported).
        self._sent_by: set[str] = set()

    def fault(self, problem: str) -> GarminAuthError:
        """Return the error that best explains why the login failed without a verdict.

        Args:
            problem: the name of the exception that the library raised, for the detail.

        Returns:
            The first RateLimited; else the first CaptchaRequired; else a GarminUnavailable.
        """
        for kind in (RateLimited, CaptchaRequired):
            for error in self.faults:
                if isinstance(error, kind):
                    return error
        met = " ".join(dict.fromkeys(str(error) for error in self.faults[-3:]))
        return GarminUnavailable(f"Garmin's login did not finish ({problem}). {met}".strip())

    def connectapi(self, path: str, **kwargs: Any) -> Any:
        with _uninterrupted():
            content = super().connectapi(path, **kwargs)
        if path == PROFILE_PATH:
            self.profile = content
        return content

    # The library's methods, overridden to use our sessions and our judgement.

    def _do_mobile_login(self, sess: Any, email: str, password: str) -> None:
        self._refuse_second("ios")
        with _uninterrupted():
            super()._do_mobile_login(self._ours(sess), email, password)

    def _do_portal_web_login(self, sess: Any, email: str, password: str) -> None:
        self._refuse_second("portal")
        with _uninterrupted():
            super()._do_portal_web_login(self._ours(sess), email, password)

    def _post_credentials(self, *args: Any, flow: str, **kwargs: Any) -> None:
        self._refuse_second(flow)
        self._sent_by.add(flow)
        super()._post_credentials(*args, flow=flow, **kwargs)

    def _refuse_second(self, flow: str) -> None:
        """Let each flow send the password only once.

        The library would send it with each TLS fingerprint that the flow tries.

        Raises:
            GarminConnectConnectionError: the flow has sent it.
        """
        if flow in self._sent_by:
            raise GarminConnectConnectionError("This flow has sent the password already.")

    def _widget_web_login(self, email: str, password: str) -> None:
        """Run the library's own code with our session.

        The library's method takes no session. It makes one of curl_cffi's, which follows the
        environment. So the code runs with other globals, in which curl_cffi's sessions are ours.
        The library's own globals do not change.
        """

        def new_session(impersonate: str, **options: Any) -> CurlSession:
            return CurlSession(self.domain, impersonate, self._on_answer, self.faults.append)

        curl_cffi = SimpleNamespace(Session=new_session)
        package = SimpleNamespace(HAS_CFFI=True, cffi_requests=curl_cffi)
        flow = FunctionType(
            Client._widget_web_login.__code__, {**vars(sso), "_pkg": lambda: package}
        )
        try:
            with _uninterrupted():
                flow(self, email, password)
        except (GarminConnectAuthenticationError, GarminConnectConnectionError) as exc:
            title = WIDGET_TITLE.search(str(exc))
            if title and (rejection := title_rejection(title[1])):
                raise Verdict(rejection) from None
            if isinstance(exc, GarminConnectConnectionError):
                raise
            raise GarminConnectConnectionError("The widget's page is not known.") from None

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
        """Exchange the ticket for tokens only.

        The library would fall back on a JWT_WEB cookie. It cannot be stored, because ``dumps()``
        leaves it out.
        """
        try:
            self._exchange_service_ticket(ticket, service_url=service_url)
        except GarminConnectAuthenticationError:
            # The library would end the login, as if the password were wrong.
            raise GarminConnectConnectionError("No client may trade this ticket.") from None

    def _http_post(self, url: str, **kwargs: Any) -> Any:
        with CurlSession(
            self.domain, "chrome", self._on_token_answer, self.faults.append
        ) as session:
            return session.post(url, **kwargs)

    def _persist_tokens(self) -> None:
        """Write no file, even if the environment names one."""

    def _on_token_answer(self, url: str, answer: Answer) -> None:
        self.token_answer = answer
        if answer.status >= 400:
            self._note(lambda: judge_page(answer))

    def _on_answer(self, url: str, answer: Answer) -> None:
        path = url.partition("?")[0]
        if path.endswith("/api/login"):
            content = self._note(lambda: judge_login(answer))
            self.sent_to = where_sent(content) or self.sent_to
        elif path.endswith("/api/mfa/verifyCode"):
            content = self._note(lambda: judge_code(answer)) or {}
            self.code_accepted = "serviceTicketId" in content and bool(content["serviceTicketId"])
        elif path.endswith("/sso/verifyMFA/loginEnterMfaCode"):
            self.code_accepted = self._note(lambda: judge_widget_code(answer)) is not None
        else:
            self._note(lambda: judge_page(answer))

    def _note(self, judge: Any) -> Any:
        """Judge an answer. A verdict ends the login; other failures are recorded.

        A rate limit with a time to wait is a verdict too, because all flows use the same host.

        Args:
            judge: judges the answer, with one of the functions in ``verdicts``.

        Returns:
            What ``judge`` returns, None if it raised.

        Raises:
            Verdict: the login has ended.
        """
        try:
            return judge()
        except (CodeRefused, LoginRejected) as exc:
            if not isinstance(exc, CaptchaRequired):  # Another flow may not ask for one.
                raise Verdict(exc) from None
            self.faults.append(exc)
        except GarminAuthError as exc:
            if isinstance(exc, RateLimited) and exc.retry_after:
                raise Verdict(exc) from None
            self.faults.append(exc)
        return None

    def _ours(self, sess: Any) -> Any:
        """Return a session that follows our settings, of the same kind and with the same cookies.

        Args:
            sess: the library's session, a ``requests.Session`` or one of curl_cffi's.
        """
        if isinstance(sess, requests.Session):
            session: Any = get_transport(self.domain).new_session(self.faults.append)
            session.hooks["response"].append(self._on_response)
        else:
            session = CurlSession(
                self.domain, sess.impersonate, self._on_answer, self.faults.append
            )
        for cookie in getattr(sess.cookies, "jar", sess.cookies):
            getattr(session.cookies, "jar", session.cookies).set_cookie(cookie)
        session.request = _uninterrupted()(session.request)
        return session

    def _on_response(self, response: requests.Response, **kwargs: Any) -> None:
        if not response.is_redirect:
            self._on_answer(str(response.url), Answer.of(response))


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hide an interruption of the task from the library, which would treat it as a failed flow."""
    try:
        yield
    except interruptions() as exc:
        raise Verdict(exc) from None
