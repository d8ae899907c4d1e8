"""What a login comes to. Import these from ``garmin_auth.login``."""

from dataclasses import dataclass, field
from datetime import datetime

from django.utils import timezone


@dataclass(frozen=True)
class Connected:
    """The login has succeeded, and its session is stored."""


@dataclass(frozen=True)
class MFARequired:
    """Garmin has sent the user a code. Pass it to ``submit_mfa``.

    Args:
        sent_to: where Garmin sent it, masked by Garmin; "" if it did not say.
        expires_at: when this site drops the pending login.
        attempts_left: how many codes the user may still try.
        engine: name of the engine that the login uses.
        domain: the Garmin domain that it is for.
    """

    sent_to: str
    expires_at: datetime
    attempts_left: int | None = field(default=None, compare=False)
    engine: str = field(default="", compare=False)
    domain: str = field(default="", compare=False)

    @property
    def expired(self) -> bool:
        return self.expires_at <= timezone.now()

    @property
    def seconds_left(self) -> int:
        """Seconds until this site drops the pending login."""
        return max(0, int((self.expires_at - timezone.now()).total_seconds()))


@dataclass(frozen=True)
class LoginUnderWay:
    """The login continues in the background; ``accounts.account_of`` returns its progress."""
