"""What the API answers when it cannot do what it is asked: problem details, as in RFC 9457."""

from http import HTTPStatus
from typing import Any

from django.http import JsonResponse

from .. import exceptions
from ..exceptions import GarminAuthError
from ..forms import FIELDS
from ..logins.records import facts_of

# The status and the code of each exception. Clients rely on both.
PROBLEMS: dict[type[GarminAuthError], tuple[int, str]] = {
    exceptions.GarminAuthError: (503, "failed"),
    exceptions.NotConnected: (409, "not_connected"),
    exceptions.SessionExpired: (409, "session_expired"),
    exceptions.SessionUnreadable: (409, "session_unreadable"),
    exceptions.LoginRejected: (422, "login_rejected"),
    exceptions.NotAllowed: (403, "not_allowed"),
    exceptions.InvalidCredentials: (422, "invalid_credentials"),
    exceptions.InvalidMFACode: (422, "invalid_code"),
    exceptions.ChallengeExpired: (409, "challenge_expired"),
    exceptions.TooManyAttempts: (422, "too_many_attempts"),
    exceptions.CaptchaRequired: (422, "captcha_required"),
    exceptions.AccountLocked: (422, "account_locked"),
    exceptions.ActionRequired: (422, "action_required"),
    exceptions.InvalidKey: (422, "invalid_key"),
    exceptions.KeyRefused: (422, "key_refused"),
    exceptions.RateLimited: (429, "rate_limited"),
    exceptions.LoginThrottled: (429, "login_throttled"),
    exceptions.GarminUnavailable: (503, "unavailable"),
    exceptions.TokenRefused: (503, "token_refused"),
    exceptions.NotAsked: (503, "not_asked"),
    exceptions.TooManyLogins: (503, "too_many_logins"),
    exceptions.LoginInterrupted: (503, "login_interrupted"),
    exceptions.MassFailure: (503, "mass_failure"),
    exceptions.Frozen: (503, "frozen"),
    exceptions.GarminRequestError: (422, "request_refused"),
}
# The facts of an exception that its problem has as members.
MEMBERS = ("retry_after", "attempts_left", "reason")


class Problem(Exception):
    """A request that is answered with a problem.

    Args:
        status: the HTTP status.
        code: the problem's stable name, for programs.
        detail: what happened, for the user, in the language of the request.
        headers: further headers of the response.
        members: further members of the problem. Those that are None are left out.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: Any,
        headers: dict[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(code)
        self.status, self.headers = status, headers or {}
        self.contents = {
            "code": code,
            "detail": str(detail),
            **{name: value for name, value in members.items() if value is not None},
        }

    @classmethod
    def of(cls, error: GarminAuthError) -> "Problem":
        """Return the problem that an exception is.

        Args:
            error: the exception. If its class is not one of ours, its nearest base class of ours
                decides.
        """
        kind, facts = facts_of(error)
        status, code = PROBLEMS[kind]
        detail = str(error.user_message)
        members = {name: facts[name] for name in MEMBERS if name in facts}
        if field := FIELDS.get(kind):
            members["errors"] = {field: [{"code": code, "message": detail}]}
        return cls(status, code, detail, **members)

    def response(self) -> JsonResponse:
        """Return the response."""
        wait = self.contents.get("retry_after")
        return JsonResponse(
            {
                "type": "about:blank",
                "title": HTTPStatus(self.status).phrase,
                "status": self.status,
                **self.contents,
            },
            status=self.status,
            headers={**self.headers, **({} if wait is None else {"Retry-After": str(wait)})},
            content_type="application/problem+json",
        )
