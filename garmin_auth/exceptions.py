"""The exceptions that the app raises. All of them derive from GarminAuthError.

No exception, nor any chained to it, contains a password, code, token, cookie or email address.
``str(error)`` is for developers and logs. ``error.user_message`` is a translated message that tells
the user what to do.
"""

from typing import Any, ClassVar

from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _


class GarminAuthError(Exception):
    """The base class. Do not raise it directly.

    Args:
        detail: what happened, for developers. It must not contain a secret.
    """

    user_message: Any = _("Something went wrong with your Garmin connection. Please try again.")

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail

    def __str__(self) -> str:
        return self.detail or type(self).__name__


class NotConnected(GarminAuthError):
    """The user has no stored session."""

    user_message = _("Your Garmin account is not connected. Please connect it first.")


class SessionExpired(GarminAuthError):
    """Garmin has ended the session, which was cleared. Only a new login helps."""

    user_message = _(
        "Garmin has disconnected your account, for example because your Garmin password was "
        "changed. Please connect your Garmin account again."
    )


class SessionUnreadable(GarminAuthError):
    """The stored session cannot be opened: wrong key, damaged data, or an engine not installed.

    It is kept until the user's next login replaces it.
    """

    user_message = _(
        "Your saved Garmin connection cannot be read at the moment. If the problem persists, "
        "connect your Garmin account again or contact the site's administrators."
    )


class LoginRejected(GarminAuthError):
    """Garmin, or this site, refuses the login. Do not raise it directly."""


class NotAllowed(LoginRejected):
    """The site does not let this user connect; see ``GARMIN_AUTH_MAY_CONNECT``.

    Args:
        detail: what happened, for developers.
        sentence: what the site tells the user; "" for a general sentence.
    """

    def __init__(self, detail: str = "", sentence: str = "") -> None:
        super().__init__(detail or "GARMIN_AUTH_MAY_CONNECT does not let this user connect.")
        self.sentence = sentence

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.detail, self.sentence)

    @property
    def user_message(self) -> str:
        return self.sentence or gettext("You cannot connect a Garmin account on this site.")


class InvalidCredentials(LoginRejected):
    """Garmin does not accept this email address and password."""

    user_message = _(
        "Garmin did not accept this email address and password. Make sure that you can sign in "
        "to Garmin Connect with them, then try again."
    )


class InvalidMFACode(LoginRejected):
    """Garmin does not accept the code. The login stays pending.

    Args:
        attempts_left: how many more codes the user may try.
    """

    def __init__(self, attempts_left: int) -> None:
        super().__init__(f"Garmin did not accept the MFA code; {attempts_left} attempts left.")
        self.attempts_left = attempts_left

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return type(self), (self.attempts_left,)

    @property
    def user_message(self) -> str:
        return ngettext(
            "Garmin did not accept this code. Enter the most recent code. You have "
            "%(count)d attempt left.",
            "Garmin did not accept this code. Enter the most recent code. You have "
            "%(count)d attempts left.",
            self.attempts_left,
        ) % {"count": self.attempts_left}


class ChallengeExpired(LoginRejected):
    """There is no pending login that the code could finish.

    Args:
        reason: ``"expired"`` if it waited too long; ``"spent"`` if Garmin accepted the code but did
            not finish the login; ``"gone"`` if it was finished, cancelled or replaced.
        detail: what happened, for developers.
    """

    _messages: ClassVar[dict[str, Any]] = {
        "expired": _("This verification code has expired. Sign in again to get a new one."),
        "spent": _(
            "Garmin accepted your code, but could not complete the sign-in. Please sign in again."
        ),
        "gone": _("No sign-in is waiting for a verification code. Please sign in again."),
    }

    def __init__(self, reason: str = "gone", detail: str = "") -> None:
        super().__init__(detail or f"The pending login is {reason}.")
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reason, self.detail)

    @property
    def user_message(self) -> Any:
        return self._messages[self.reason]


class TooManyAttempts(LoginRejected):
    """Too many codes were wrong, and the login has ended."""

    user_message = _("You entered too many wrong codes. Please sign in again.")


class CaptchaRequired(LoginRejected):
    """Garmin asks for a CAPTCHA, which no server can solve."""

    user_message = _(
        "Garmin wants to verify that you are human. Sign in to Garmin Connect in this browser, "
        "then try again here later."
    )


class AccountLocked(LoginRejected):
    """The Garmin account is locked or disabled."""

    user_message = _(
        "Garmin has locked this account. Unlock it in Garmin Connect, for example by resetting "
        "your password, then try again."
    )


class ActionRequired(LoginRejected):
    """Garmin asks the user for something in a browser, such as a consent or a phone number.

    ``detail`` contains Garmin's own word for it, which this app does not know.
    """

    user_message = _(
        "Garmin asks you to complete a step first, for example to accept new terms. Sign in to "
        "Garmin Connect in a browser, complete the step, then try again here."
    )


class InvalidKey(LoginRejected):
    """What was entered cannot be a key for Garmin's Personal API. Garmin was not asked.

    Args:
        reason: ``"spaces"`` if there are spaces in it; ``"password"`` if it is shorter than a key,
            or has characters that no key has, so that it is probably a password.
        detail: what happened, for developers.
    """

    _messages: ClassVar[dict[str, Any]] = {
        "spaces": _(
            "A key contains no spaces. Copy the whole key and nothing else, then paste it."
        ),
        "password": _(
            "This is not a key. Do not enter your Garmin password here, but the key that you "
            "created in Garmin Connect."
        ),
    }

    def __init__(self, reason: str = "password", detail: str = "") -> None:
        super().__init__(detail or f"This cannot be a key ({reason}).")
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reason, self.detail)

    @property
    def user_message(self) -> Any:
        return self._messages[self.reason]


class KeyRefused(LoginRejected):
    """Garmin does not accept the key: it has ended, was deleted or replaced, or never existed."""

    user_message = _(
        "Garmin did not accept this key. It may have expired or been deleted. Create a new key in "
        "Garmin Connect and enter it here."
    )


class RateLimited(GarminAuthError):
    """Garmin asks this site to slow down.

    Args:
        retry_after: seconds to wait; None if Garmin named no time.
        detail: what happened, for developers.
    """

    def __init__(self, retry_after: int | None = None, detail: str = "") -> None:
        super().__init__(detail or "Garmin is rate limiting this site.")
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type, tuple[int | None, str]]:
        return type(self), (self.retry_after, self.detail)

    @property
    def user_message(self) -> str:
        if self.retry_after is None:
            return gettext(
                "Garmin is limiting requests at the moment and did not check what you entered. "
                "Please try again later."
            )
        minutes = max(1, -(-self.retry_after // 60))
        return ngettext(
            "Garmin is limiting requests at the moment and did not check what you entered. "
            "Please try again in %(count)d minute.",
            "Garmin is limiting requests at the moment and did not check what you entered. "
            "Please try again in %(count)d minutes.",
            minutes,
        ) % {"count": minutes}


class LoginThrottled(RateLimited):
    """This site allows the user no more logins for now. Garmin was not asked.

    Args:
        retry_after: seconds until the next login is allowed.
        detail: what happened, for developers.
    """

    def __init__(self, retry_after: int | None = None, detail: str = "") -> None:
        super().__init__(retry_after, detail or "Too many recent logins of this user.")

    @property
    def user_message(self) -> str:
        minutes = max(1, -(-(self.retry_after or 0) // 60))
        return ngettext(
            "You have tried to sign in too many times, so nothing was sent to Garmin. Please try "
            "again in %(count)d minute.",
            "You have tried to sign in too many times, so nothing was sent to Garmin. Please try "
            "again in %(count)d minutes.",
            minutes,
        ) % {"count": minutes}


class GarminUnavailable(GarminAuthError):
    """Garmin could not be reached, blocked this site, or gave an answer that proves nothing.

    Attributes:
        failing_reason: the ``FailingReason`` that this is for a stored session, "" if it is not the
            session that fails.
    """

    failing_reason = "unavailable"
    user_message = _(
        "Garmin cannot be reached or is having problems. This does not mean that what you entered "
        "is wrong. Please try again in a few minutes."
    )


class TokenRefused(GarminUnavailable):
    """Garmin refuses an access token that it has just issued. The session is kept."""

    failing_reason = "refused"
    user_message = _(
        "Garmin refuses your connection at the moment. Sign in to Garmin Connect to see whether "
        "Garmin wants something from you. If that does not help, connect your account again."
    )


class NotAsked(GarminUnavailable):
    """Garmin was not asked, or its answer was not used, for a reason on this site.

    For example, another process is refreshing the session, or the caller's transaction blocks it.
    """

    failing_reason = ""
    user_message = _(
        "Your Garmin connection is in use elsewhere on this site. Please try again in a minute."
    )


class TooManyLogins(GarminUnavailable):
    """Too many background logins are in progress in this process. Garmin was not asked."""

    user_message = _(
        "Too many people are connecting their Garmin accounts at the moment. Please try again in "
        "a minute."
    )


class LoginInterrupted(GarminUnavailable):
    """The process that ran the user's background login has ended before the login did."""

    user_message = _(
        "Your sign-in was interrupted, for example because this site was restarted. Please try "
        "again."
    )


class MassFailure(GarminUnavailable):
    """Garmin refuses the tokens of many users and accepts none, so the sessions are not to blame.

    The cause is the consumer key, this site's clock, or a change at Garmin. No session of the
    engine is cleared until Garmin accepts an exchange.
    """

    failing_reason = ""


class Frozen(GarminUnavailable):
    """``GARMIN_AUTH_FROZEN`` is True, so Garmin was not asked. The session is kept.

    Args:
        detail: what happened, for developers.
    """

    failing_reason = ""
    user_message = _(
        "This site does not connect to Garmin at the moment. If you did not expect this, contact "
        "the site's administrators."
    )

    def __init__(self, detail: str = "") -> None:
        super().__init__(
            detail or "GARMIN_AUTH_FROZEN is True, so this site does not connect to Garmin."
        )


class GarminRequestError(GarminAuthError):
    """Garmin refused the caller's API request. The session is fine.

    Args:
        status: the HTTP status, 400 to 499.
        body: the reason that Garmin gave, shortened, without secrets; "" if it gave none.
    """

    user_message = _("Garmin refused this request.")

    def __init__(self, status: int, body: str = "") -> None:
        reason = f": {body}" if body else "."
        super().__init__(f"Garmin answered {status} to the request{reason}")
        self.status = status
        self.body = body

    def __reduce__(self) -> tuple[type, tuple[int, str]]:
        return type(self), (self.status, self.body)
