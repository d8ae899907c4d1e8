"""The stored session of each user. No network and no engine here: only what the database does.

Every transition is one UPDATE with its condition in the WHERE clause (compare-and-set), so that
processes need no locks: the method tells whether it was the one that won.
"""

from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import models, router
from django.db.models import Case, ExpressionWrapper, F, Q, Value, When
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from fernet_fields import EncryptedTextField

ENCRYPTED_FIELDS = ("session_data", "account_name", "mfa_challenge")


class Status(models.TextChoices):
    """What there is for a user. ``NONE`` is said of users without a row."""

    NONE = "none", _("not connected")
    MFA_PENDING = "mfa_pending", _("waiting for a code")
    ACTIVE = "active", _("connected")
    DISCONNECTED = "disconnected", _("disconnected")


class EndedReason(models.TextChoices):
    """Why no session is stored. Blank while one is."""

    NEVER = "never", _("never connected")
    USER = "user", _("disconnected by the user")
    STAFF = "staff", _("disconnected by staff")
    EXPIRED = "expired", _("ended by Garmin")


class DatabaseNow(Now):
    """The database's clock, by which leases end; on MariaDB and MySQL in UTC, as Django stores."""

    def as_mysql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        return self.as_sql(compiler, connection, template="UTC_TIMESTAMP(6)", **extra)


class StateQuerySet(models.QuerySet):
    """Rows, and what may happen to them."""

    def current(self) -> "StateQuerySet":
        """Return these rows on the database that is written to: a replica may lag behind."""
        return self.using(router.db_for_write(self.model))

    def with_session(self) -> "StateQuerySet":
        """Return the rows that hold a session, whether or not a login is pending as well."""
        return self.filter(session_data__isnull=False)

    def connect(
        self,
        user_id: Any,
        *,
        engine: str,
        session_data: str,
        account_name: str | None,
        validated_at: datetime | None,
        challenge_from: datetime | None = None,
    ) -> bool:
        """Store a new session for the user, in place of whatever is there, and end the login.

        Args:
            user_id: the user's primary key.
            engine: name of the engine that wrote ``session_data``.
            session_data: the engine's own serialisation.
            account_name: the Garmin user name, None if not known.
            validated_at: when the session was first used with success, None if not yet.
            challenge_from: store only if the challenge begun at this time is still pending.

        Returns:
            Whether it was stored: False only if that challenge is gone.
        """
        now = timezone.now()
        rows = self.current().filter(user_id=user_id)
        if challenge_from is None:
            rows.get_or_create(user_id=user_id)
        else:
            rows = rows.filter(mfa_pending=True, mfa_started_at=challenge_from)
        return bool(
            rows.update(
                engine=engine,
                session_data=session_data,
                session_version=F("session_version") + 1,
                account_name=account_name,
                connected_at=now,
                last_validated=validated_at,
                last_checked_at=None,
                ended_reason="",
                updated_at=now,
                **_NO_CHALLENGE,
                **_NO_LEASE,
            )
        )

    def replace_session(self, pk: Any, version: int, session_data: str) -> bool:
        """Write a session back if nobody has changed it since ``version`` was read.

        That ends a lease too: whoever holds one works on what is no longer stored.
        """
        return bool(
            self.current()
            .with_session()
            .filter(pk=pk, session_version=version)
            .update(
                session_data=session_data,
                session_version=F("session_version") + 1,
                updated_at=timezone.now(),
                **_NO_LEASE,
            )
        )

    def take_lease(self, pk: Any, version: int, owner: str, seconds: float) -> bool:
        """Become the one who may refresh this session, unless somebody else is.

        Args:
            pk: the row's key.
            version: the session that was read; another one is not leased.
            owner: who asks; different for each attempt, at most 64 characters.
            seconds: how long the others wait if this process dies.
        """
        until = ExpressionWrapper(
            DatabaseNow() + timedelta(seconds=seconds), output_field=models.DateTimeField()
        )
        return bool(
            self.current()
            .with_session()
            .filter(pk=pk, session_version=version)
            .exclude(lease_expires_at__gt=DatabaseNow())
            .update(lease_owner=owner, lease_expires_at=until)
        )

    def release_lease(self, pk: Any, owner: str) -> bool:
        """Give the lease back, if it still is this owner's."""
        return bool(self.current().filter(pk=pk, lease_owner=owner).update(**_NO_LEASE))

    def lease_owner(self, pk: Any) -> str:
        """Return who has a lease that was not given back, also if its time is over; "": nobody."""
        owner = self.current().filter(pk=pk).values_list("lease_owner", flat=True).first()
        return owner or ""

    def refuse_exchange(self, pk: Any) -> int:
        """Note that Garmin refused this user's token at the exchange.

        Returns:
            How many users were refused since Garmin last accepted an exchange, this one included:
            what others have noted is counted after this is written, so of N processes at once the
            last ones see all N.
        """
        rows = self.current()
        rows.filter(pk=pk, refused_at=None).update(refused_at=timezone.now())
        return rows.filter(refused_at__isnull=False).count()

    def accept_exchange(self) -> int:
        """Note that Garmin accepted an exchange. Return how many users' refusals that explains."""
        return self.current().filter(refused_at__isnull=False).update(refused_at=None)

    def refused_users(self) -> int:
        """Return how many users were refused since Garmin last accepted an exchange."""
        return self.current().filter(refused_at__isnull=False).count()

    def expire_session(self, pk: Any, version: int) -> bool:
        """Clear a session that Garmin has ended, if it still is the one read as ``version``."""
        return bool(
            self.current()
            .with_session()
            .filter(pk=pk, session_version=version)
            .update(**_no_session(EndedReason.EXPIRED))
        )

    def disconnect(self, user_id: Any, reason: str) -> bool:
        """Remove the user's session and pending login. Tell whether there was either."""
        return bool(
            self.current()
            .filter(Q(session_data__isnull=False) | Q(mfa_pending=True), user_id=user_id)
            .update(**_no_session(reason), **_NO_CHALLENGE)
        )

    def mark_validated(
        self, pk: Any, connected_at: datetime | None, *, checked: bool = False
    ) -> bool:
        """Note that the session begun at ``connected_at`` has just worked; nothing is encrypted.

        Args:
            pk: the row's key.
            connected_at: when that session began; a later one is left alone.
            checked: whether it was a check that found out.
        """
        now = timezone.now()
        return bool(
            self.current()
            .with_session()
            .filter(pk=pk, connected_at=connected_at)
            .update(last_validated=now, **({"last_checked_at": now} if checked else {}))
        )

    def mark_checked(self, user_id: Any) -> bool:
        """Note that a check has just looked at the user's session, whatever it found."""
        rows = self.current().filter(user_id=user_id)
        return bool(rows.update(last_checked_at=timezone.now()))

    def purge_challenges(self, before: datetime) -> int:
        """Remove the pending logins begun before then, and return how many there were."""
        rows = self.current().filter(mfa_pending=True, mfa_started_at__lt=before)
        return rows.update(updated_at=timezone.now(), **_NO_CHALLENGE)

    def begin_challenge(self, user_id: Any, challenge: str) -> datetime:
        """Store a pending login in place of an earlier one, and return when it began."""
        now = timezone.now()
        self.current().get_or_create(user_id=user_id)
        self.current().filter(user_id=user_id).update(
            mfa_pending=True,
            mfa_challenge=challenge,
            mfa_started_at=now,
            mfa_attempts=0,
            updated_at=now,
        )
        return now

    def count_attempt(self, pk: Any, started_at: datetime, limit: int) -> bool:
        """Count one code for this pending login. False: it is gone, or has had ``limit`` codes."""
        return bool(
            self.current()
            .filter(pk=pk, mfa_pending=True, mfa_started_at=started_at, mfa_attempts__lt=limit)
            .update(mfa_attempts=F("mfa_attempts") + 1, updated_at=timezone.now())
        )

    def update_challenge(self, pk: Any, started_at: datetime, challenge: str) -> bool:
        """Store what a wrong code changed in this pending login, if it still is the one pending."""
        return bool(
            self.current()
            .filter(pk=pk, mfa_pending=True, mfa_started_at=started_at)
            .update(mfa_challenge=challenge, updated_at=timezone.now())
        )

    def end_challenge(self, user_id: Any, started_at: datetime | None = None) -> bool:
        """Remove the pending login, or only the one begun at ``started_at``."""
        rows = self.current().filter(user_id=user_id, mfa_pending=True)
        if started_at is not None:
            rows = rows.filter(mfa_started_at=started_at)
        return bool(rows.update(updated_at=timezone.now(), **_NO_CHALLENGE))


_NO_CHALLENGE = {
    "mfa_pending": False,
    "mfa_challenge": None,
    "mfa_started_at": None,
    "mfa_attempts": 0,
}
_NO_LEASE = {"lease_owner": "", "lease_expires_at": None}


def _no_session(reason: str) -> dict[str, Any]:
    return {
        "session_data": None,
        "session_version": F("session_version") + 1,
        "account_name": None,
        "connected_at": None,
        "ended_reason": reason,
        "updated_at": timezone.now(),
        **_NO_LEASE,
    }


_Manager = models.Manager.from_queryset(StateQuerySet)


class StateManager(_Manager):
    """Loads no encrypted column until it is asked for.

    So a list, a related object or the deletion of a user never decrypts anything, and a row that
    no key opens breaks none of them.
    """

    def get_queryset(self) -> StateQuerySet:
        return super().get_queryset().defer(*ENCRYPTED_FIELDS)  # type: ignore[return-value]


class GarminAuthenticationState(models.Model):
    """One user's authenticated session with Garmin Connect, and the login under way, if any."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        related_name="garmin_authentication",
        verbose_name=_("user"),
    )
    engine = models.CharField(_("engine"), max_length=50, default="garth")
    session_data = EncryptedTextField(_("session"), null=True, editable=False)
    session_version = models.PositiveBigIntegerField(_("session version"), default=0)
    account_name = EncryptedTextField(_("Garmin account"), null=True, editable=False)
    connected_at = models.DateTimeField(_("connected since"), null=True, blank=True)
    last_validated = models.DateTimeField(_("last validated"), null=True, blank=True)
    last_checked_at = models.DateTimeField(_("last checked"), null=True, blank=True)
    ended_reason = models.CharField(
        _("reason for having no session"),
        max_length=20,
        choices=EndedReason.choices,
        default=EndedReason.NEVER,
        blank=True,
    )
    mfa_pending = models.BooleanField(_("waiting for a code"), default=False)
    mfa_challenge = EncryptedTextField(_("pending login"), null=True, editable=False)
    mfa_started_at = models.DateTimeField(_("pending login begun"), null=True, blank=True)
    mfa_attempts = models.PositiveSmallIntegerField(_("codes tried"), default=0)
    lease_owner = models.CharField(
        _("refreshed by"), max_length=64, default="", blank=True, editable=False
    )
    lease_expires_at = models.DateTimeField(
        _("refreshed until"), null=True, blank=True, editable=False
    )
    # Evidence of a mass failure: set by a refused exchange, cleared by anybody's accepted one.
    refused_at = models.DateTimeField(
        _("refused by Garmin"), null=True, blank=True, editable=False, db_index=True
    )
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated"), auto_now=True)
    # Computed by the database, so that Python and queries cannot disagree and nothing is decrypted.
    status = models.GeneratedField(
        verbose_name=_("status"),
        choices=[choice for choice in Status.choices if choice[0] != Status.NONE],
        expression=Case(
            When(mfa_pending=True, then=Value(Status.MFA_PENDING.value)),
            When(session_data__isnull=False, then=Value(Status.ACTIVE.value)),
            default=Value(Status.DISCONNECTED.value),
        ),
        output_field=models.CharField(max_length=20),
        db_persist=True,
    )

    objects = StateManager()

    class Meta:
        verbose_name = _("Garmin account")
        verbose_name_plural = _("Garmin accounts")
        base_manager_name = "objects"
        constraints = [  # noqa: RUF012
            models.CheckConstraint(
                name="garmin_auth_mfa_pending_has_challenge",
                condition=Q(mfa_pending=True, mfa_challenge__isnull=False)
                | Q(mfa_pending=False, mfa_challenge__isnull=True),
            )
        ]

    def __str__(self) -> str:
        return f"{self.user} ({self.get_status_display()})"
