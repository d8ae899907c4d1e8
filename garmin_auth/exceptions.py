"""What the app's functions raise. Catch GarminAuthError for all, or a subclass to act on it.

No exception carries a password, code, token, cookie or e-mail address, nor is one chained to it.
``str(error)`` is for developers and logs; ``error.user_message`` is a translated sentence that
tells the user what to do.
"""

from typing import Any, ClassVar

from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _


class GarminAuthError(Exception):
    """Base of all. Do not raise directly.

    Args:
        detail: what happened, in a sentence for developers. Never anything secret.
    """

    user_message: Any = _("Something went wrong with your Garmin connection. Please try again.")

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail

    def __str__(self) -> str:
        return self.detail or type(self).__name__


class NotConnected(GarminAuthError):
    """The user has no stored session."""

    user_message = _("Your Garmin account is not connected. Connect it first.")


class SessionExpired(GarminAuthError):
    """Garmin has ended this session: it was cleared, and only a new login helps."""

    user_message = _(
        "Garmin has ended your connection, for example because your Garmin password was changed. "
        "Connect your Garmin account again."
    )


class SessionUnreadable(GarminAuthError):
    """The stored session cannot be opened: a wrong key, damaged data, or an engine not installed.

    The stored bytes are kept; the user's next login replaces them.
    """

    user_message = _(
        "Your stored Garmin connection cannot be opened at the moment. If this goes on, connect "
        "your Garmin account again or tell the people who run this site."
    )


class LoginRejected(GarminAuthError):
    """Garmin refuses the login, or this site does. Do not raise directly."""


class InvalidCredentials(LoginRejected):
    """Garmin does not accept this e-mail address and password."""

    user_message = _(
        "Garmin did not accept this e-mail address and password. Check both by signing in at "
        "Garmin Connect, then try again."
    )


class InvalidMFACode(LoginRejected):
    """Garmin does not accept the code; the pending login goes on.

    Args:
        attempts_left: how many more codes may be tried for this login.
    """

    def __init__(self, attempts_left: int) -> None:
        super().__init__(f"Garmin did not accept the MFA code; {attempts_left} attempts left.")
        self.attempts_left = attempts_left

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return type(self), (self.attempts_left,)

    @property
    def user_message(self) -> str:
        return ngettext(
            "Garmin did not accept this code. Type the newest one; you have %(count)d attempt "
            "left.",
            "Garmin did not accept this code. Type the newest one; you have %(count)d attempts "
            "left.",
            self.attempts_left,
        ) % {"count": self.attempts_left}


class ChallengeExpired(LoginRejected):
    """No pending login is left that a code could finish.

    Args:
        reason: ``"expired"``: it waited too long; ``"spent"``: Garmin accepted the code, but did
            not finish the login; ``"gone"``: it was finished, cancelled or replaced.
        detail: what happened, in a sentence for developers.
    """

    _messages: ClassVar[dict[str, Any]] = {
        "expired": _("The time for this code is over. Log in again to get a new one."),
        "spent": _(
            "Garmin accepted your code, but then had a problem of its own. Please log in again."
        ),
        "gone": _("No login is waiting for a code. Log in again to get a new one."),
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
    """Too many wrong codes for one login, which has ended."""

    user_message = _("Too many codes were wrong, so this login was stopped. Log in again.")


class CaptchaRequired(LoginRejected):
    """Garmin wants a CAPTCHA solved, which no server can do."""

    user_message = _(
        "Garmin wants to see that you are human. Sign in once at Garmin Connect in this browser, "
        "then try again here in a while."
    )


class AccountLocked(LoginRejected):
    """The Garmin account is locked or disabled."""

    user_message = _(
        "Garmin has locked this account. Unlock it at Garmin Connect, for example by resetting "
        "your password there, then try again."
    )


class RateLimited(GarminAuthError):
    """Garmin asks us to slow down.

    Args:
        retry_after: seconds to wait, as Garmin said; None where it did not.
        detail: what happened, in a sentence for developers.
    """

    def __init__(self, retry_after: int | None = None, detail: str = "") -> None:
        super().__init__(detail or "Garmin limits the rate of requests.")
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type, tuple[int | None, str]]:
        return type(self), (self.retry_after, self.detail)

    @property
    def user_message(self) -> str:
        if self.retry_after is None:
            return gettext(
                "Garmin is turning requests away at the moment and has not checked what you "
                "typed. Please try again in an hour."
            )
        minutes = max(1, -(-self.retry_after // 60))
        return ngettext(
            "Garmin is turning requests away at the moment and has not checked what you typed. "
            "Please try again in %(count)d minute.",
            "Garmin is turning requests away at the moment and has not checked what you typed. "
            "Please try again in %(count)d minutes.",
            minutes,
        ) % {"count": minutes}


class LoginThrottled(RateLimited):
    """This site lets the user try no more logins for now; Garmin was not asked.

    Args:
        retry_after: seconds until the next one.
        detail: what happened, in a sentence for developers.
    """

    def __init__(self, retry_after: int | None = None, detail: str = "") -> None:
        super().__init__(retry_after, detail or "Too many logins of this user lately.")

    @property
    def user_message(self) -> str:
        minutes = max(1, -(-(self.retry_after or 0) // 60))
        return ngettext(
            "You have tried to log in too often, so Garmin was not asked. Please try again in "
            "%(count)d minute.",
            "You have tried to log in too often, so Garmin was not asked. Please try again in "
            "%(count)d minutes.",
            minutes,
        ) % {"count": minutes}


class GarminUnavailable(GarminAuthError):
    """Garmin could not be reached, blocked us, or answered in a way that says nothing certain."""

    user_message = _(
        "Garmin cannot be reached or has a problem of its own. That does not mean that what you "
        "typed is wrong. Please try again in a few minutes."
    )


class TooManyLogins(GarminUnavailable):
    """This process has as many logins under way as it may; Garmin was not asked."""

    user_message = _(
        "This site is busy with other people's logins at the moment, so Garmin was not asked. "
        "Please try again in a minute."
    )


class LoginInterrupted(GarminUnavailable):
    """The process that ran the user's login outside a request has ended before it."""

    user_message = _(
        "Your login was interrupted, for example by a restart of this site. Please try again."
    )


class MassFailure(GarminUnavailable):
    """Garmin refuses the tokens of many users and accepts nobody's, so it is not their sessions.

    The consumer key, our clock or something at Garmin has changed. Nothing is cleared until
    Garmin accepts an exchange again.
    """


class GarminRequestError(GarminAuthError):
    """Garmin refused the caller's own API request. The session is fine.

    Args:
        status: the HTTP status, 400 to 499.
    """

    user_message = _("Garmin did not answer this request.")

    def __init__(self, status: int) -> None:
        super().__init__(f"Garmin answered {status} to the request.")
        self.status = status

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return type(self), (self.status,)
