"""Each user's stored session. Its transitions are in ``storage.querysets``."""

from django.conf import settings
from django.db import models
from django.db.models import Case, Q, Value, When
from django.db.models.functions import Coalesce
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from .conf import DOMAINS
from .storage.fields import CiphertextField
from .storage.querysets import EPOCH, StateManager


class Status(models.TextChoices):
    """The state of a user's connection. A user without a row is ``NONE``."""

    NONE = "none", pgettext_lazy("garmin_auth", "not connected")
    MFA_PENDING = "mfa_pending", pgettext_lazy("garmin_auth", "verification code required")
    ACTIVE = "active", pgettext_lazy("garmin_auth", "connected")
    DISCONNECTED = "disconnected", pgettext_lazy("garmin_auth", "disconnected")


class EndedReason(models.TextChoices):
    """Why no session is stored; blank while one is."""

    NEVER = "never", pgettext_lazy("garmin_auth", "never connected")
    USER = "user", _("disconnected by the user")
    STAFF = "staff", pgettext_lazy("garmin_auth", "disconnected by staff")
    EXPIRED = "expired", _("disconnected by Garmin")


class Domain(models.TextChoices):
    """Garmin runs two separate services. An account exists in one of them."""

    COM = DOMAINS[0], "Garmin"
    CN = DOMAINS[1], _("Garmin China (佳明)")


class FailingReason(models.TextChoices):
    """Why the uses and checks of a session say nothing certain; blank while it works."""

    REFUSED = "refused", _("Garmin refuses this connection")
    UNAVAILABLE = "unavailable", _("Garmin does not answer as it should")
    ACCOUNT = "account", _("Garmin does not give access to the account's data")


class GarminAuthenticationState(models.Model):
    """One user's session with Garmin Connect, and their login in progress, if any."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        related_name="garmin_authentication",
        verbose_name=pgettext_lazy("garmin_auth", "user"),
    )
    engine = models.CharField(
        pgettext_lazy("garmin_auth", "engine"), max_length=50, default="", blank=True
    )
    # Where the account is; only this domain's hosts get the session.
    domain = models.CharField(
        _("Garmin domain"),
        max_length=20,
        choices=Domain.choices,
        default=Domain.COM,
        db_default=Domain.COM,
    )
    session_data = CiphertextField(
        pgettext_lazy("garmin_auth", "session"), null=True, editable=False
    )
    session_version = models.PositiveBigIntegerField(
        pgettext_lazy("garmin_auth", "session version"), default=0
    )
    account_name = CiphertextField(_("Garmin account"), null=True, editable=False)
    connected_at = models.DateTimeField(
        pgettext_lazy("garmin_auth", "connected since"), null=True, blank=True
    )
    session_ends_at = models.DateTimeField(
        pgettext_lazy("garmin_auth", "expiration date"), null=True, blank=True
    )
    # Of a session that use prolongs: from when on a check prolongs it, and from when on the user is
    # warned that none has (storage.lifetimes).
    session_renew_at = models.DateTimeField(
        _("to be prolonged from"), null=True, blank=True, editable=False
    )
    session_ends_soon_at = models.DateTimeField(
        pgettext_lazy("garmin_auth", "expires soon from"), null=True, blank=True, editable=False
    )
    ending_warnings = models.PositiveSmallIntegerField(
        _("warnings of the expiration"), default=0, db_default=0, editable=False
    )
    last_validated = models.DateTimeField(
        pgettext_lazy("garmin_auth", "last worked"), null=True, blank=True
    )
    last_checked_at = models.DateTimeField(
        pgettext_lazy("garmin_auth", "last checked"), null=True, blank=True
    )
    # The first use or check that said nothing certain since the session last worked, and why.
    failing_since = models.DateTimeField(
        pgettext_lazy("garmin_auth", "failing since"), null=True, blank=True, db_index=True
    )
    failing_reason = models.CharField(
        pgettext_lazy("garmin_auth", "reason for the failures"),
        max_length=20,
        choices=FailingReason.choices,
        default="",
        db_default="",
        blank=True,
    )
    # When session_failing was sent, until session_recovered is.
    failing_told_at = models.DateTimeField(
        pgettext_lazy("garmin_auth", "failure reported"), null=True, blank=True, editable=False
    )
    # The last such use or check, kept after the session works again: tells a recent outage.
    last_failed_at = models.DateTimeField(
        pgettext_lazy("garmin_auth", "last failed"), null=True, blank=True, editable=False
    )
    ended_reason = models.CharField(
        pgettext_lazy("garmin_auth", "reason for disconnection"),
        max_length=20,
        choices=EndedReason.choices,
        default=EndedReason.NEVER,
        blank=True,
    )
    mfa_pending = models.BooleanField(
        pgettext_lazy("garmin_auth", "verification code required"), default=False
    )
    mfa_challenge = CiphertextField(
        pgettext_lazy("garmin_auth", "pending sign-in"), null=True, editable=False
    )
    mfa_started_at = models.DateTimeField(
        pgettext_lazy("garmin_auth", "pending sign-in started"), null=True, blank=True
    )
    mfa_attempts = models.PositiveSmallIntegerField(
        pgettext_lazy("garmin_auth", "codes entered"), default=0
    )
    # A background login, or how it failed, in columns that every process can read. They have
    # database defaults because the previous release may insert rows during a deployment.
    login_id = models.CharField(
        pgettext_lazy("garmin_auth", "sign-in in progress"),
        max_length=64,
        default="",
        db_default="",
        blank=True,
        editable=False,
    )
    # A login with another password, which waits for the end of that one.
    next_login_id = models.CharField(
        pgettext_lazy("garmin_auth", "waiting sign-in"),
        max_length=64,
        default="",
        db_default="",
        blank=True,
        editable=False,
    )
    login_failure = models.CharField(
        _("error of the last sign-in"),
        max_length=200,
        default="",
        db_default="",
        blank=True,
        editable=False,
    )
    login_expires_at = models.DateTimeField(
        _("sign-in in progress until"), null=True, blank=True, editable=False
    )
    lease_owner = models.CharField(
        pgettext_lazy("garmin_auth", "refresh lease owner"),
        max_length=64,
        default="",
        blank=True,
        editable=False,
    )
    lease_expires_at = models.DateTimeField(
        pgettext_lazy("garmin_auth", "refresh lease expires"), null=True, blank=True, editable=False
    )
    # Lets simultaneous runs of checks share the work.
    check_run = models.CharField(
        _("claimed by check run"),
        max_length=64,
        default="",
        db_default="",
        blank=True,
        editable=False,
    )
    check_expires_at = models.DateTimeField(
        pgettext_lazy("garmin_auth", "claim expires"), null=True, blank=True, editable=False
    )
    # Evidence of a mass failure. Set when Garmin refuses a refresh; cleared in all rows of the
    # engine when Garmin next accepts a refresh or a login.
    refused_at = models.DateTimeField(
        _("refused by Garmin since"), null=True, blank=True, editable=False, db_index=True
    )
    created_at = models.DateTimeField(pgettext_lazy("garmin_auth", "created"), auto_now_add=True)
    updated_at = models.DateTimeField(pgettext_lazy("garmin_auth", "updated"), auto_now=True)
    # Computed by the database, so that Python and queries always agree and nothing is decrypted.
    status = models.GeneratedField(
        verbose_name=pgettext_lazy("garmin_auth", "status"),
        choices=[choice for choice in Status.choices if choice[0] != Status.NONE],
        expression=Case(
            When(mfa_pending=True, then=Value(Status.MFA_PENDING.value)),
            When(session_data__isnull=False, then=Value(Status.ACTIVE.value)),
            default=Value(Status.DISCONNECTED.value),
        ),
        output_field=models.CharField(max_length=20),
        db_persist=True,
    )
    # In which order sessions are checked, those never checked first. A row without a session has no
    # place in it, so a run of checks reads none of those.
    check_order = models.GeneratedField(
        verbose_name=_("place in the order of checks"),
        expression=Case(
            When(session_data__isnull=False, then=Coalesce("last_checked_at", Value(EPOCH))),
        ),
        output_field=models.DateTimeField(null=True),
        db_persist=True,
    )

    objects = StateManager()

    class Meta:
        verbose_name = _("Garmin account")
        verbose_name_plural = _("Garmin accounts")
        base_manager_name = "objects"
        indexes = [  # noqa: RUF012
            # For choosing the sessions to check next.
            models.Index(fields=["check_order", "id"], name="garmin_auth_due"),
            models.Index(fields=["check_expires_at"], name="garmin_auth_claims"),
            # For the purge at the start of each run.
            models.Index(fields=["mfa_started_at"], name="garmin_auth_challenges"),
            models.Index(fields=["login_expires_at"], name="garmin_auth_logins"),
            # For the admin's list, its filters and their row counts (see benchmarks/EXPLAIN.md).
            models.Index(fields=["updated_at", "id"], name="garmin_auth_changed"),
            models.Index(fields=["status", "updated_at", "id"], name="garmin_auth_status"),
            models.Index(
                fields=["engine", "updated_at", "id", "connected_at"], name="garmin_auth_engine"
            ),
            models.Index(fields=["session_ends_at", "id", "connected_at"], name="garmin_auth_ends"),
        ]
        constraints = [  # noqa: RUF012
            models.CheckConstraint(
                name="garmin_auth_mfa_pending_has_challenge",
                condition=Q(mfa_pending=True, mfa_challenge__isnull=False)
                | Q(mfa_pending=False, mfa_challenge__isnull=True),
            ),
            models.CheckConstraint(
                name="garmin_auth_session_has_its_start",
                condition=Q(session_data__isnull=True, connected_at__isnull=True)
                | Q(session_data__isnull=False, connected_at__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        # Not the status too, because "active" does not say whether the session can be read.
        return str(self.user)
