"""Log in through ``garth.sso``, judging Garmin's answers before garth sees them."""

from collections.abc import Callable
from typing import Any, TypeVar

import requests

from ...exceptions import (
    ChallengeExpired,
    GarminAuthError,
    GarminUnavailable,
    RateLimited,
)
from ..http.deadline import deadline, pause
from ..http.instruments import unobserved
from ..http.redaction import redaction
from ..http.transport import get_transport
from ..interruptions import interruptions
from ..secret import Secret
from ..verdicts import (
    Answer,
    CodeRefused,
    judge_code,
    judge_login,
    judge_page,
    login_exchange_error,
)
from .client import BaseClient
from .library import OAuth1Token, OAuth2Token, sso
from .session import usable

T = TypeVar("T")

EMBED_PATH = "/portal/sso/embed"
# Short, because Garmin has already answered the code: this step only sets a load balancer's cookie.
EMBED_TIMEOUT = 5  # Seconds.
# Seconds to wait before Garmin is asked again for the tokens of an accepted code.
COMPLETION_PAUSES = (0.5, 1.5)


class LoginClient(BaseClient):
    """The client that ``garth.sso`` uses. It judges each answer before garth sees it.

    Args:
        domain: Garmin's domain.

    Attributes:
        oauth_response: the last response to a request for a token, None if there was none.
    """

    def __init__(self, domain: str) -> None:
        super().__init__(domain)
        self.oauth_response: requests.Response | None = None
        # garth copies the session's hooks to the OAuth1 session that it makes.
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
        """Send the request and ignore a failure: the ticket is here, and the code may be spent."""
        try:
            with deadline(EMBED_TIMEOUT):
                return self._send(method, subdomain, path, referrer, dict(headers or {}), **kwargs)
        except GarminUnavailable:
            return None


def log_in(client: LoginClient, email: Secret, password: Secret) -> Any:
    """Log in with garth's own code. Call this through ``run``.

    Args:
        client: the client to log in with.
        email: the Garmin account's email address.
        password: its password.

    Returns:
        Both tokens; or ``"needs_mfa"`` and garth's state of the pending login.
    """
    result: Any = sso.login(email.reveal(), password.reveal(), client=client, return_on_mfa=True)
    return result if result[0] == "needs_mfa" else tuple(map(usable, result))


def run(
    client: LoginClient,
    call: Callable[[], T],
    error_of: Callable[[Answer | None, str], GarminAuthError] = login_exchange_error,
) -> T:
    """Run garth's code, and translate what it raises.

    garth sends its OAuth1 requests through its own session, which raises the exceptions of
    requests. If garth fails on an answer that it does not understand, that proves nothing about
    the login or the session.

    Args:
        client: the client that the code uses.
        call: runs the code.
        error_of: returns the error that a failed exchange means, given the answer and the name of
            the exception.

    Returns:
        What ``call`` returns.

    Raises:
        GarminAuthError, CodeRefused: as Garmin judged, or what ``error_of`` returns.
    """
    client.oauth_response = None
    try:
        with redaction(), unobserved():
            sso.OAUTH_CONSUMER = get_transport(client.domain).consumer()
            return call()
    except (GarminAuthError, CodeRefused):
        raise
    except interruptions():
        raise
    except Exception as exc:  # noqa: BLE001
        problem = type(exc).__name__
    answer = None
    try:
        if client.oauth_response is not None:
            answer = Answer.of(client.oauth_response)
    except (requests.RequestException, OSError, RuntimeError):
        answer = None  # Its body is incomplete and proves nothing.
    raise error_of(answer, problem)


def complete(client: LoginClient, ticket: str) -> tuple[OAuth1Token, OAuth2Token]:
    """Exchange the ticket of an accepted code for tokens.

    This is retried, because the code cannot be used again.

    Args:
        client: the client that submitted the code.
        ticket: the ticket.

    Raises:
        ChallengeExpired: Garmin did not issue the tokens.
    """
    client.get("sso", EMBED_PATH, headers=sso.SSO_PAGE_HEADERS, referrer=True)
    error: GarminAuthError
    try:
        oauth1 = _with_retries(
            lambda: run(client, lambda: usable(sso.get_oauth1_token(ticket, client)))
        )
        oauth2 = _with_retries(
            lambda: run(client, lambda: usable(sso.exchange(oauth1, client, login=True)))
        )
        return oauth1, oauth2
    except (GarminUnavailable, RateLimited) as exc:
        error = ChallengeExpired("spent", f"Garmin accepted the code, but then failed: {exc}")
    raise error


def _with_retries(call: Callable[[], T]) -> T:
    for seconds in COMPLETION_PAUSES:
        try:
            return call()
        except GarminUnavailable:
            if not pause(seconds):
                raise
    return call()
