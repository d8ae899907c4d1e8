"""What Garmin's answers mean: the one place where dead is told from unknown.

Judging raises an exception of ``garmin_auth.exceptions`` or returns what was asked for. Only one
answer proves that a session is dead: the exchange's 401 with Garmin's own words for it. Whatever
else is odd is a fault and says nothing about the session. "Recorded" below means seen in recorded
Garmin traffic, "reported" in users' reports, "page bundle" in the scripts of Garmin's sign-in page.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property, partial
from typing import Any

from ..exceptions import (
    AccountLocked,
    CaptchaRequired,
    ChallengeExpired,
    GarminAuthError,
    GarminRequestError,
    GarminUnavailable,
    InvalidCredentials,
    LoginRejected,
    RateLimited,
    SessionExpired,
    TooManyAttempts,
)

# Cloudflare's 429; the portal's 427 (both reported).
RATE_LIMIT_STATUSES = (427, 429)
# Seconds; a longer Retry-After is not sane, and is taken for "not said".
MAX_RETRY_AFTER = 3600
# Seconds that our clock may differ from Garmin's Date header before it is worth a word.
MAX_SKEW = 120
# Tomcat's page for a revoked OAuth1 token at the exchange (reported).
DEAD_SESSION_WORDS = "OAuthToken is invalid"
# OAuth 2's word for a refresh token that is worthless (RFC 6749, 5.2), with 400 (reported).
DEAD_REFRESH_TOKEN = "invalid_grant"  # noqa: S105

# responseStatus.type, then responseStatus.message, of the SSO's JSON.
REJECTIONS: Mapping[str, Callable[..., LoginRejected]] = {
    "INVALID_USERNAME_PASSWORD": InvalidCredentials,  # recorded, with status 401
    "generalLoginInvalidUsernameOrPassword": InvalidCredentials,  # recorded
    "CAPTCHA_REQUIRED": CaptchaRequired,  # reported, with status 200
    "generalLoginAccountLocked": AccountLocked,  # page bundle
    "generalLoginAccountDisabled": AccountLocked,  # page bundle
    "codeEntryExpired": partial(ChallengeExpired, "expired"),  # page bundle
    "codeEntryMaxLimit": TooManyAttempts,  # page bundle
}
WRONG_CODE = "codeEntryInvalid"  # page bundle
TITLE = re.compile(r"<title>(.+?)</title>")
# What tells the widget's page that asks for a code (python-garminconnect's own reading of it).
WIDGET_CODE_MARKS = ("mfa-code", "var mfaMethod")


class CodeRefused(Exception):
    """Garmin did not accept the MFA code; the login goes on."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer as plain data.

    Args:
        status: the HTTP status.
        headers: the headers, looked up without regard to case.
        text: the body.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    text: str = field(repr=False)

    @classmethod
    def of(cls, response: Any) -> "Answer":
        """Take over a ``requests.Response``, reading its body."""
        return cls(response.status_code, response.headers, response.text)

    @cached_property
    def json(self) -> Any:
        """The body as JSON; None where it is not."""
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            return None

    @property
    def is_html(self) -> bool:
        return "html" in self.headers.get("content-type", "").lower()


def judge_page(answer: Answer) -> None:
    """Judge a page that only has to be there.

    Raises:
        RateLimited, GarminUnavailable: it is not.
    """
    _raise_if_limited(answer)
    if not 200 <= answer.status < 300:
        raise _unknown(answer)


def judge_sso(answer: Answer) -> dict[str, Any]:
    """Judge the answer to a password, or to a code.

    Returns:
        The JSON of a success, with its ticket, or of a demand for a code.

    Raises:
        LoginRejected: a subclass, in Garmin's own words, whatever the status.
        CodeRefused: the code is wrong.
        RateLimited, GarminUnavailable: nothing was judged.
    """
    _raise_if_limited(answer)
    content = answer.json if isinstance(answer.json, dict) else {}
    verdict = content.get("responseStatus")
    verdict = verdict if isinstance(verdict, dict) else {}
    kind, message = verdict.get("type"), verdict.get("message")
    if answer.status == 200 and kind == "MFA_REQUIRED":
        return content
    if answer.status == 200 and kind == "SUCCESSFUL":
        if isinstance(content.get("serviceTicketId"), str) and content["serviceTicketId"]:
            return content
        raise GarminUnavailable("Garmin accepted the login, but sent no ticket.")
    # The message is the more precise of the two.
    for word in (message, kind):
        if not isinstance(word, str):
            continue
        if word == WRONG_CODE:
            raise CodeRefused
        if word in REJECTIONS:
            raise REJECTIONS[word](detail=f"Garmin said {word}.")
    raise _unknown(answer)


def judge_login(answer: Answer) -> dict[str, Any]:
    """Judge the answer to a password: as ``judge_sso``, but there is no code that could be wrong.

    Raises:
        LoginRejected, RateLimited, GarminUnavailable: as for ``judge_sso``.
    """
    try:
        return judge_sso(answer)
    except CodeRefused:
        pass
    raise _unknown(answer)


def judge_code(answer: Answer) -> dict[str, Any]:
    """Judge the answer to a code: as ``judge_sso``, and a 409 in no known words is a wrong code.

    A third-party client notes that status; the words on this API are not known.
    """
    try:
        return judge_sso(answer)
    except GarminUnavailable:
        if answer.status != 409:
            raise
    raise CodeRefused


def judge_widget_code(answer: Answer) -> str:
    """Judge the page that answers a code in the sign-in widget, whose words nobody has recorded.

    Returns:
        The title of a success.

    Raises:
        CodeRefused: it asks for the code again.
        AccountLocked: its title says so.
        RateLimited, GarminUnavailable: nothing was judged.
    """
    judge_page(answer)
    title = match[1] if (match := TITLE.search(answer.text)) else ""
    if title == "Success":
        return title
    if "locked" in title.lower():
        raise AccountLocked("The sign-in widget's title says that the account is locked.")
    if any(mark in answer.text for mark in WIDGET_CODE_MARKS):
        raise CodeRefused
    raise _unknown(answer)


def exchange_error(answer: Answer | None, problem: str) -> GarminAuthError:
    """Tell what a failed exchange of a stored session's token means.

    Args:
        answer: what Garmin answered; None if nothing came.
        problem: the name of what was raised, for the detail.

    Returns:
        SessionExpired only for a proven death; RateLimited or GarminUnavailable otherwise.
    """
    if answer is None:
        return GarminUnavailable(f"The exchange of the token got no answer: {problem}.")
    if limited := _limited(answer):
        return limited
    if answer.status == 401 and DEAD_SESSION_WORDS in answer.text:
        return SessionExpired(
            "Garmin refused the session's token at the exchange."
            + _skew(answer.headers.get("date"))
        )
    return _unknown(answer, problem)


def login_exchange_error(answer: Answer | None, problem: str) -> GarminAuthError:
    """Tell what a failed exchange means at login, where there is no session that could be dead."""
    error = exchange_error(answer, problem)
    if isinstance(error, SessionExpired):
        return GarminUnavailable("Garmin refused the token that it had just issued.")
    return error


def token_error(answer: Answer | None, problem: str) -> GarminAuthError:
    """Tell what a failed refresh at Garmin's token endpoint (``diauth``) means.

    Args:
        answer: what Garmin answered; None if nothing came.
        problem: the name of what was raised, for the detail.

    Returns:
        SessionExpired only for 400 with ``invalid_grant``; RateLimited or GarminUnavailable
        otherwise.
    """
    if answer is None:
        return GarminUnavailable(f"The refresh of the token got no answer: {problem}.")
    if limited := _limited(answer):
        return limited
    content = answer.json if isinstance(answer.json, dict) else {}
    if answer.status == 400 and content.get("error") == DEAD_REFRESH_TOKEN:
        return SessionExpired("Garmin refused the session's refresh token.")
    return _unknown(answer, problem)


def api_error(status: int, headers: Mapping[str, str]) -> GarminAuthError | None:
    """Tell what an API answer means by its status and headers; None: it is a success.

    Args:
        status: the HTTP status.
        headers: the headers, looked up without regard to case.
    """
    answer = Answer(status, headers, "")
    if limited := _limited(answer):
        return limited
    if 200 <= status < 300:
        # Cloudflare's challenge page comes as a 200 too (reported).
        return _unknown(answer) if answer.is_html else None
    blocked = status == 403 and answer.is_html  # Cloudflare (reported)
    if 400 <= status < 500 and status != 408 and not blocked:
        return GarminRequestError(status)
    return _unknown(answer)


def disguised_limit(content: Any) -> RateLimited | None:
    """Find a rate limit said as ``{"error": {"status-code": "429"}}``, with 200 (reported)."""
    error = content.get("error") if isinstance(content, dict) else None
    code = error.get("status-code") if isinstance(error, dict) else None
    if str(code) in map(str, RATE_LIMIT_STATUSES):
        return RateLimited(None, f"Garmin answered 200 with an error {code}.")
    return None


def _limited(answer: Answer) -> RateLimited | None:
    if answer.status in RATE_LIMIT_STATUSES:
        wait = _retry_after(answer.headers.get("retry-after"))
        return RateLimited(wait, f"Garmin answered {answer.status}.")
    return disguised_limit(answer.json)


def _raise_if_limited(answer: Answer) -> None:
    if limited := _limited(answer):
        raise limited


def _skew(date: str | None) -> str:
    """Name a clock that is off, for Garmin refuses what it signs: a sentence, "" if it is right."""
    try:
        ahead = (datetime.now(UTC) - parsedate_to_datetime(date or "")).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return ""
    if abs(ahead) < MAX_SKEW:
        return ""
    return (
        f" Our clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} Garmin's: "
        "set it right."
    )


def _retry_after(value: str | None) -> int | None:
    """Read a Retry-After header, seconds or an HTTP date (RFC 9110, 10.2.3); None if not sane."""
    if not value:
        return None
    try:
        if value.strip().isdecimal():
            seconds = int(value)
        else:
            when = parsedate_to_datetime(value)
            when = when if when.tzinfo else when.replace(tzinfo=UTC)
            seconds = int((when - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return None
    return seconds if 0 < seconds <= MAX_RETRY_AFTER else None


def _unknown(answer: Answer, problem: str = "") -> GarminUnavailable:
    kind = answer.headers.get("content-type", "no content type").split(";")[0][:50]
    suffix = f" ({problem})" if problem else ""
    return GarminUnavailable(
        f"Garmin answered {answer.status} with {kind}, which says nothing certain{suffix}."
    )
