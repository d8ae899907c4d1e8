"""What Garmin's answers mean. Only this module decides whether a session is dead.

Three answers prove that it is: a 401 to garth's exchange with ``DEAD_SESSION_WORDS``, a 400 to
garminconnect's refresh with ``DEAD_REFRESH_TOKEN``, and a 401 that is no HTML page to the exchange
of a key for the Personal API. Any other failure proves nothing about the session. In the comments,
"recorded" means seen in recorded Garmin traffic, "reported" seen in users' reports, and "page
bundle" seen in the scripts of Garmin's sign-in page.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property, partial
from typing import Any

from ..exceptions import (
    AccountLocked,
    ActionRequired,
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
from .reasons import reason

logger = logging.getLogger("garmin_auth")

# Which entry of "customerMfaInfo" says where the code went, by the method. Other methods send none.
SENT_TO = {"email": "email", "phone": "phoneNumber", "sms": "phoneNumber"}
# Cloudflare answers 429, the portal 427 (both reported).
RATE_LIMIT_STATUSES = (427, 429)
# Seconds. A longer Retry-After is implausible and is ignored.
MAX_RETRY_AFTER = 3600
# Seconds that our clock may differ from Garmin's Date header before the error mentions it.
MAX_SKEW = 120
# From Tomcat's page when the exchange refuses a revoked OAuth1 token (reported).
DEAD_SESSION_WORDS = "OAuthToken is invalid"
# OAuth 2's error for an invalid refresh token (RFC 6749, 5.2), sent with a 400 (reported).
DEAD_REFRESH_TOKEN = "invalid_grant"  # noqa: S105

# Values of responseStatus.type and responseStatus.message in the JSON of Garmin's SSO.
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
# Types that are not refusals. They say nothing if the rest of the answer is wrong.
KNOWN_TYPES = ("", "SUCCESSFUL", "MFA_REQUIRED")
# Statuses with which an unknown type concerns the account; with any other, it is a fault. A 409
# to a code is separate: it means that the code is wrong.
PERSONAL_STATUSES = (200, 400, 401, 403)
TITLE = re.compile(r"<title>(.+?)</title>")
# Text that identifies the widget's page that asks for a code (according to python-garminconnect).
WIDGET_CODE_MARKS = ("mfa-code", "var mfaMethod")
# Titles and types that say nothing about the account: those of the sign-in page itself, of server
# errors, and of Cloudflare.
IMPERSONAL = re.compile(
    r"authentication application|sso portal|\bsession\b|cloudflare|just a moment"
    r"|attention required|^error\b|server error|gateway|unavailable|time-?out|maintenance"
    r"|bad request|forbidden|denied|not found|too many|\b[45]\d\d\b",
    re.IGNORECASE,
)
# The known words in the widget's titles (according to python-garminconnect).
WIDGET_WORDS: Mapping[str, type[LoginRejected]] = {
    "locked": AccountLocked,
    "invalid": InvalidCredentials,
    "incorrect": InvalidCredentials,
}
LONGEST_WORD = 100  # Characters of Garmin's wording that an exception repeats.


class CodeRefused(Exception):
    """Garmin did not accept the MFA code. The login stays pending."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer as plain data.

    Args:
        status: the HTTP status.
        headers: the headers, with case-insensitive look-up.
        text: the body.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    text: str = field(repr=False)

    @classmethod
    def of(cls, response: Any) -> "Answer":
        """Convert a ``requests.Response``, reading its body."""
        return cls(response.status_code, response.headers, response.text)

    @cached_property
    def json(self) -> Any:
        """The body as JSON, None if it is something else."""
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            return None

    @property
    def is_html(self) -> bool:
        return "html" in self.headers.get("content-type", "").lower()


def judge_page(answer: Answer) -> None:
    """Judge a page that only has to arrive.

    Raises:
        RateLimited, GarminUnavailable: the answer is not a success.
    """
    _raise_if_limited(answer)
    if not 200 <= answer.status < 300:
        raise _unknown(answer)


def judge_sso(answer: Answer) -> dict[str, Any]:
    """Judge the answer to a password or to a code.

    Returns:
        The answer's JSON: either a success with its ticket, or a request for a code.

    Raises:
        LoginRejected: Garmin refuses the login; the subclass says why. Known refusals count
            whatever the status is.
        CodeRefused: the code is wrong.
        RateLimited, GarminUnavailable: Garmin did not judge the login.
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
    # The message first, because it is more precise.
    for word in (message, kind):
        if not isinstance(word, str):
            continue
        if word == WRONG_CODE:
            raise CodeRefused
        if word in REJECTIONS:
            raise REJECTIONS[word](detail=f"Garmin said {word}.")
    if isinstance(kind, str) and answer.status in PERSONAL_STATUSES and not _is_impersonal(kind):
        raise _action_required(kind)
    raise _unknown(answer)


def judge_login(answer: Answer) -> dict[str, Any]:
    """Judge the answer to a password, as ``judge_sso`` does. No code can be wrong here.

    Returns:
        As for ``judge_sso``.

    Raises:
        LoginRejected, RateLimited, GarminUnavailable: as for ``judge_sso``.
    """
    try:
        return judge_sso(answer)
    except CodeRefused:
        pass
    raise _unknown(answer)


def where_sent(content: Any) -> str:
    """Return where Garmin sent the code, as it masked it.

    Args:
        content: the JSON of an answer that asks for a code.

    Returns:
        "" if it does not say, or if an authenticator app shows the code.
    """
    info = content.get("customerMfaInfo") if isinstance(content, dict) else None
    if not isinstance(info, dict):
        return ""
    method = info.get("mfaLastMethodUsed") or "email"  # As the libraries take it.
    sent_to = info.get(SENT_TO.get(str(method), ""))
    return sent_to if isinstance(sent_to, str) else ""


def judge_code(answer: Answer) -> dict[str, Any]:
    """Judge the answer to a code, as ``judge_sso`` does. A 409 also means a wrong code.

    The 409 comes from the notes of a third-party client. The words that this API sends with it are
    not known.

    Returns:
        As for ``judge_sso``.

    Raises:
        LoginRejected, CodeRefused, RateLimited, GarminUnavailable: as for ``judge_sso``.
    """
    try:
        return judge_sso(answer)
    except GarminUnavailable:
        if answer.status != 409:
            raise
    raise CodeRefused


def judge_widget_code(answer: Answer) -> str:
    """Judge the page that the sign-in widget shows after a code. Nobody has recorded its wording.

    Returns:
        The title, which says that the login succeeded.

    Raises:
        CodeRefused: the page asks for the code again, or calls it invalid.
        LoginRejected: the title says that Garmin refuses the login; the subclass says why.
        RateLimited, GarminUnavailable: Garmin did not judge the code.
    """
    judge_page(answer)
    title = match[1] if (match := TITLE.search(answer.text)) else ""
    if title == "Success":
        return title
    if any(mark in answer.text for mark in WIDGET_CODE_MARKS):
        raise CodeRefused
    rejection = title_rejection(title)
    if isinstance(rejection, InvalidCredentials):  # The code: the password is already accepted.
        raise CodeRefused
    raise rejection or _unknown(answer)


def title_rejection(title: str) -> LoginRejected | None:
    """Return the refusal that the title of one of the widget's pages means, None if not certain.

    Args:
        title: the title of a page that neither is a success nor asks for a code.
    """
    for word, rejection in WIDGET_WORDS.items():
        if word in title.lower():
            return rejection("According to the title of Garmin's sign-in page.")
    return None if _is_impersonal(title) else _action_required(title)


def _is_impersonal(word: str) -> bool:
    return word.strip() in KNOWN_TYPES or bool(IMPERSONAL.search(word.replace("_", " ")))


def _action_required(word: str) -> ActionRequired:
    """Return the error that sends the user to Garmin, and log Garmin's wording for the operator."""
    word = reason(word, longest=LONGEST_WORD)
    logger.warning(
        "Garmin ended a login for an unknown reason: %s",
        word,
        extra={"event": "login_ended_by_garmin"},
    )
    return ActionRequired(f"Garmin said {word!r}, which this app does not know.")


def exchange_error(answer: Answer | None, problem: str) -> GarminAuthError:
    """Return the error that a failed exchange of a stored session's token means.

    Args:
        answer: Garmin's answer, None if there was none.
        problem: the name of the exception that was raised, for the detail.

    Returns:
        SessionExpired only for a 401 with ``DEAD_SESSION_WORDS``; otherwise RateLimited or
        GarminUnavailable.
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
    """Return the error that a failed exchange means in a login, where no session can be dead yet.

    Args:
        answer, problem: as for ``exchange_error``.

    Returns:
        RateLimited or GarminUnavailable.
    """
    error = exchange_error(answer, problem)
    if isinstance(error, SessionExpired):
        return GarminUnavailable("Garmin refused the token that it had just issued.")
    return error


def token_error(answer: Answer | None, problem: str) -> GarminAuthError:
    """Return the error that a failed refresh at Garmin's token endpoint (``diauth``) means.

    Args:
        answer, problem: as for ``exchange_error``.

    Returns:
        SessionExpired only for a 400 with ``DEAD_REFRESH_TOKEN``; otherwise RateLimited or
        GarminUnavailable.
    """
    if answer is None:
        return GarminUnavailable(f"The refresh of the token got no answer: {problem}.")
    if limited := _limited(answer):
        return limited
    content = answer.json if isinstance(answer.json, dict) else {}
    if answer.status == 400 and content.get("error") == DEAD_REFRESH_TOKEN:
        return SessionExpired("Garmin refused the session's refresh token.")
    return _unknown(answer, problem)


def key_error(answer: Answer) -> GarminAuthError:
    """Return the error that a failed exchange of a key for the Personal API means.

    Garmin's words for a refused key are not known, so the status decides.

    Args:
        answer: Garmin's answer, which has no token.

    Returns:
        SessionExpired only for a 401 that is no HTML page; otherwise RateLimited or
        GarminUnavailable, also for a 403: that is how Garmin blocks addresses.
    """
    if limited := _limited(answer):
        return limited
    if answer.status == 401 and not answer.is_html and not answer.text.lstrip().startswith("<"):
        return SessionExpired("Garmin refused the key.")
    return _unknown(answer)


def api_error(
    status: int, headers: Mapping[str, str], body: str = "", *, bearer: str = ""
) -> GarminAuthError | None:
    """Return the error that an API answer means, None if it is a success.

    Only the status and the headers decide.

    Args:
        status: the HTTP status.
        headers: the headers, with case-insensitive look-up.
        body: the body or its beginning, from which the caller learns why Garmin refused a request.
        bearer: the access token that was sent, which no exception repeats.

    Returns:
        GarminRequestError for a 4xx that concerns the caller's request; otherwise RateLimited or
        GarminUnavailable.
    """
    answer = Answer(status, headers, "")
    if limited := _limited(answer):
        return limited
    if 200 <= status < 300:
        # Cloudflare also sends its challenge page with a 200 (reported).
        is_empty = status == 204 or headers.get("content-length") == "0"
        return _unknown(answer) if answer.is_html and not is_empty else None
    blocked = status == 403 and answer.is_html  # Cloudflare (reported)
    if 400 <= status < 500 and status != 408 and not blocked:
        return GarminRequestError(status, reason(body, bearer))
    return _unknown(answer)


def disguised_limit(content: Any) -> RateLimited | None:
    """Recognise the rate limit ``{"error": {"status-code": "429"}}``, sent with a 200 (reported).

    Args:
        content: the JSON of the answer.

    Returns:
        The error, None if it is not a rate limit.
    """
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
    """Return a sentence about our clock if it is wrong, because Garmin refuses what it signs.

    Args:
        date: Garmin's Date header.

    Returns:
        The sentence; "" if the clock is right or the header tells nothing.
    """
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
    """Return the seconds in a Retry-After header, None if there are none or they are implausible.

    Args:
        value: the header: seconds, or an HTTP date (RFC 9110, 10.2.3).
    """
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
        f"Garmin answered {answer.status} with {kind}, which proves nothing{suffix}."
    )
