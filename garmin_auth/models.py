"""The stored session of each user. No network and no engine here: only what the database does.

Every transition is one UPDATE with its condition in the WHERE clause (compare-and-set), so that
processes need no locks: the method tells whether it was the one that won. What a deadlock has
undone is written again.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from django.conf import settings
from django.db import models, router
from django.db.models import Case, Count, ExpressionWrapper, F, Min, Q, Value, When
from django.db.models.functions import Concat, Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from fernet_fields import EncryptedTextField

from .deadlocks import RepeatingQuerySet

# A session is stored: as session_data says, but from a column that indexes can hold.
CONNECTED = Q(connected_at__isnull=False)
ENCRYPTED_FIELDS = ("session_data", "account_name", "mfa_challenge")
# Before anything that a row can tell.
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# For so long the table tells how a login outside a request has failed.
LOGIN_KEPT = timedelta(hours=1)


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


def _from_now(seconds: float) -> "ExpressionWrapper[Any]":
    """So many seconds after the database's now."""
    return ExpressionWrapper(
        DatabaseNow() + timedelta(seconds=seconds), output_field=models.DateTimeField()
    )


def _under_way() -> Q:
    return ~Q(login_id="") & Q(login_failure="", login_expires_at__gt=DatabaseNow())


def _was_refused() -> Q:
    """As a range: SQLite looks up no IS NOT NULL in an index, and the admin asks at every page."""
    return Q(refused_at__gt=EPOCH)


def _login_is_under_way() -> "ExpressionWrapper[Any]":
    return ExpressionWrapper(_under_way(), output_field=models.BooleanField())


class LoginRecord(NamedTuple):
    """A login that runs, or ran, outside a request.

    Args:
        login_id: which one.
        failure: how it failed, "" if it did not, or its process died.
        under_way: whether its process has given a sign of life lately.
        ended_at: until when it counts, or counted, as under way.
    """

    login_id: str
    failure: str
    under_way: bool
    ended_at: datetime


class StateQuerySet(RepeatingQuerySet["GarminAuthenticationState"]):
    """Rows, and what may happen to them."""

    def current(self) -> "StateQuerySet":
        """Return these rows on the database that is written to: a replica may lag behind."""
        return self.using(router.db_for_write(self.model))

    def with_session(self) -> "StateQuerySet":
        """Return the rows that hold a session, whether or not a login is pending as well."""
        return self.filter(session_data__isnull=False)

    def with_login_under_way(self) -> "StateQuerySet":
        """Add ``login_under_way``: whether a login outside a request has given a sign of life."""
        return self.annotate(login_under_way=_login_is_under_way())

    def connect(
        self,
        user_id: Any,
        *,
        engine: str,
        session_data: str,
        account_name: str | None,
        validated_at: datetime | None,
        ends_at: datetime | None = None,
        challenge_from: datetime | None = None,
        login_id: str = "",
    ) -> bool:
        """Store a new session for the user, in place of whatever is there, and end the login.

        Args:
            user_id: the user's primary key.
            engine: name of the engine that wrote ``session_data``.
            session_data: the engine's own serialisation.
            account_name: the Garmin user name, None if not known.
            validated_at: when the session was first used with success, None if not yet.
            ends_at: when it ends by itself at the latest, None if not known.
            challenge_from: store only if the challenge begun at this time is still pending.
            login_id: store only if this login is still the user's login under way.

        Returns:
            Whether it was stored: False only if that challenge or login is gone.
        """
        now = timezone.now()
        rows = self.current().filter(user_id=user_id)
        if challenge_from is not None:
            rows = rows.filter(mfa_pending=True, mfa_started_at=challenge_from)
        elif login_id:
            rows = rows.filter(login_id=login_id, login_failure="")
        else:
            rows.get_or_create(user_id=user_id)
        return bool(
            rows.update(
                engine=engine,
                session_data=session_data,
                session_version=F("session_version") + 1,
                account_name=account_name,
                connected_at=now,
                session_ends_at=ends_at,
                last_validated=validated_at,
                last_checked_at=None,
                refused_at=None,
                ended_reason="",
                updated_at=now,
                **_NO_CHALLENGE,
                **_NO_LOGIN,
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
        return bool(
            self.current()
            .with_session()
            .filter(pk=pk, session_version=version)
            .exclude(lease_expires_at__gt=DatabaseNow())
            .update(lease_owner=owner, lease_expires_at=_from_now(seconds))
        )

    def release_lease(self, pk: Any, owner: str) -> bool:
        """Give the lease back, if it still is this owner's."""
        return bool(self.current().filter(pk=pk, lease_owner=owner).update(**_NO_LEASE))

    def lease_owner(self, pk: Any) -> str:
        """Return who has a lease that was not given back, also if its time is over; "": nobody."""
        owner = self.current().filter(pk=pk).values_list("lease_owner", flat=True).first()
        return owner or ""

    def refuse_exchange(self, pk: Any, engine: str) -> int:
        """Note that Garmin refused this user's token at the exchange.

        Args:
            pk: the row's key.
            engine: the engine that asked; each proves its own set-up only.

        Returns:
            How many users were refused since Garmin last accepted an exchange of that engine, this
            one included: what others have noted is counted after this is written, so of N
            processes at once the last ones see all N.
        """
        rows = self.current().filter(engine=engine)
        rows.filter(pk=pk, refused_at=None).update(refused_at=timezone.now())
        return rows.filter(_was_refused()).count()

    def accept_exchange(self, engine: str) -> int:
        """Note that Garmin accepted an exchange of this engine. Return how many users' refusals
        that explains."""
        rows = self.current().filter(_was_refused(), engine=engine)
        return rows.update(refused_at=None)

    def refused_users(self) -> dict[str, int]:
        """Return how many users were refused since Garmin last accepted an exchange, by engine."""
        rows = self.current().filter(_was_refused()).order_by()
        # As an expression: SQLite would walk the index on engine, and so every row.
        return dict(rows.values_list(Concat("engine", Value(""))).annotate(Count("pk")))

    def expire_session(self, pk: Any, version: int) -> bool:
        """Clear a session that Garmin has ended, if it still is the one read as ``version``."""
        return bool(
            self.current()
            .with_session()
            .filter(pk=pk, session_version=version)
            .update(**_no_session(EndedReason.EXPIRED))
        )

    def disconnect(self, user_id: Any, reason: str) -> bool:
        """Remove the user's session and any login. Tell whether there was either.

        How the last login has failed is forgotten too, and is neither.
        """
        rows = self.current().filter(user_id=user_id)
        something = Q(session_data__isnull=False) | Q(mfa_pending=True) | _under_way()
        if rows.filter(something).update(**_no_session(reason), **_NO_CHALLENGE, **_NO_LOGIN):
            return True
        # Under the same condition: a login may have begun meanwhile.
        rows.exclude(login_id="").exclude(_under_way()).update(
            updated_at=timezone.now(), **_NO_LOGIN
        )
        return False

    def mark_validated(self, pk: Any, connected_at: datetime | None) -> bool:
        """Note that the session begun at ``connected_at`` has just worked; nothing is encrypted.

        Args:
            pk: the row's key.
            connected_at: when that session began; a later one is left alone.
        """
        rows = self.current().with_session().filter(pk=pk, connected_at=connected_at)
        return bool(rows.update(last_validated=timezone.now()))

    def mark_checked(self, user_ids: Iterable[Any], worked_before: datetime | None = None) -> int:
        """Note that checks have just looked at these users' sessions, and give up the claims.

        Args:
            user_ids: whose sessions.
            worked_before: note too that the sessions worked, of those that began before then: a
                later login's is not the one that was checked. None: say nothing about that.
        """
        now = timezone.now()
        rows = self.current().filter(user_id__in=list(user_ids))
        worked = {}
        if worked_before is not None:
            began_before = Q(connected_at__lte=worked_before, session_data__isnull=False)
            worked = {
                "last_validated": Case(
                    When(began_before, then=Value(now)), default=F("last_validated")
                )
            }
        return rows.update(last_checked_at=now, **worked, **_NO_CLAIM)

    def unclaimed(self) -> "StateQuerySet":
        """Return the rows that no run of checks has claimed."""
        return self.exclude(check_expires_at__gt=DatabaseNow())

    def claim_checks(
        self, run: str, number: int, seconds: float
    ) -> "list[GarminAuthenticationState]":
        """Claim the first of these rows for a run, and return what it got, with the users.

        Args:
            run: the run's name, at most 64 characters, which sort in the order of their starts.
            number: how many to claim at the most.
            seconds: how long other runs leave them alone if this process dies.
        """
        # Another run may be faster with all of the first ones: then there may be more behind them.
        while first := list(self.unclaimed().values_list("pk", flat=True)[:number]):
            rows = GarminAuthenticationState.objects.current().filter(pk__in=first)
            rows.unclaimed().update(check_run=run, check_expires_at=_from_now(seconds))
            position = {pk: at for at, pk in enumerate(first)}
            if mine := list(rows.filter(check_run=run).select_related("user")):
                return sorted(mine, key=lambda row: position[row.pk])
        return []

    def keep_checks(self, run: str, pks: Iterable[Any], seconds: float) -> int:
        """Claim these rows of a run anew, from now on, but for those checked meanwhile."""
        rows = self.current().filter(pk__in=list(pks), check_run=run)
        return rows.update(check_expires_at=_from_now(seconds))

    def release_checks(self, run: str, pks: Iterable[Any] | None = None) -> int:
        """Give back what a run has claimed and not checked: these rows, or all."""
        # Of claims there is an index; of the names of runs there is none.
        rows = self.current().filter(check_run=run, check_expires_at__isnull=False)
        if pks is not None:
            rows = rows.filter(pk__in=list(pks))
        return rows.update(**_NO_CLAIM)

    def claimed_checks(self) -> int:
        """Return how many rows runs have claimed and not checked yet."""
        return self.current().filter(check_expires_at__gt=DatabaseNow()).count()

    def oldest_run(self) -> str:
        """Return the name of the run that began first of those under way, "" if there is none."""
        rows = self.current().filter(check_expires_at__gt=DatabaseNow())
        return rows.aggregate(oldest=Min("check_run"))["oldest"] or ""

    def purge_challenges(self, before: datetime) -> int:
        """Remove the pending logins begun before then, and return how many there were."""
        rows = self.current().filter(mfa_pending=True, mfa_started_at__lt=before)
        return rows.update(updated_at=timezone.now(), **_NO_CHALLENGE)

    def begin_login(self, user_id: Any, login_id: str, seconds: float) -> bool:
        """Note that a login of the user's is under way outside a request, unless one is already.

        Args:
            user_id: the user's primary key.
            login_id: different for each login, at most 64 characters.
            seconds: how long it counts as under way without ``keep_login``, by the database's
                clock: so long the user waits if this process dies.
        """
        self.current().get_or_create(user_id=user_id)
        return bool(
            self.current()
            .filter(user_id=user_id)
            .exclude(login_failure="", login_expires_at__gt=DatabaseNow())
            .update(
                login_id=login_id,
                login_failure="",
                login_expires_at=_from_now(seconds),
                updated_at=timezone.now(),
            )
        )

    def keep_login(self, user_id: Any, login_id: str, seconds: float) -> bool:
        """Say that this login still is under way. False: it was cancelled or replaced."""
        rows = self.current().filter(user_id=user_id, login_id=login_id, login_failure="")
        return bool(rows.update(login_expires_at=_from_now(seconds)))

    def fail_login(self, user_id: Any, login_id: str, failure: str) -> bool:
        """Note how this login has failed, for the user to read. False: nobody waits for it.

        Args:
            user_id: the user's primary key.
            login_id: the login.
            failure: why, as non-empty text without secrets.
        """
        rows = self.current().filter(user_id=user_id, login_id=login_id, login_failure="")
        return bool(rows.update(login_failure=failure, login_expires_at=DatabaseNow()))

    def end_login(self, user_id: Any) -> bool:
        """Forget the login under way, or how the last one failed. Tell whether there was one."""
        rows = self.current().filter(user_id=user_id).exclude(login_id="")
        return bool(rows.update(updated_at=timezone.now(), **_NO_LOGIN))

    def login_record(self, user_id: Any) -> LoginRecord | None:
        """Return what the table knows of the user's login outside a request, None: nothing."""
        row = (
            self.current()
            .filter(user_id=user_id)
            .exclude(login_id="")
            .values_list(
                "login_id",
                "login_failure",
                _login_is_under_way(),
                "login_expires_at",
            )
            .first()
        )
        return LoginRecord(*row) if row else None

    def purge_logins(self, before: datetime) -> int:
        """Forget the logins that ended, or whose process died, before then."""
        rows = self.current().filter(login_expires_at__lt=before)
        return rows.update(updated_at=timezone.now(), **_NO_LOGIN)

    def begin_challenge(self, user_id: Any, challenge: str, login_id: str = "") -> datetime | None:
        """Store a pending login in place of an earlier one, and return when it began.

        Args:
            user_id: the user's primary key.
            challenge: its state, as text.
            login_id: store only if this login is still the user's login under way; else None.
        """
        now = timezone.now()
        rows = self.current().filter(user_id=user_id)
        if login_id:
            rows = rows.filter(login_id=login_id, login_failure="")
        else:
            rows.get_or_create(user_id=user_id)
        stored = rows.update(
            mfa_pending=True,
            mfa_challenge=challenge,
            mfa_started_at=now,
            mfa_attempts=0,
            updated_at=now,
            **_NO_LOGIN,
        )
        return now if stored else None

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
_NO_LOGIN = {"login_id": "", "login_failure": "", "login_expires_at": None}
_NO_CLAIM = {"check_run": "", "check_expires_at": None}
_NO_LEASE = {"lease_owner": "", "lease_expires_at": None}


def _no_session(reason: str) -> dict[str, Any]:
    return {
        "session_data": None,
        "session_version": F("session_version") + 1,
        "account_name": None,
        "connected_at": None,
        "session_ends_at": None,
        "ended_reason": reason,
        "updated_at": timezone.now(),
        **_NO_LEASE,
    }


_Manager = models.Manager.from_queryset(StateQuerySet)


class StateManager(_Manager["GarminAuthenticationState"]):
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
    session_ends_at = models.DateTimeField(_("ends by"), null=True, blank=True)
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
    # A login that runs outside a request, or how it failed: a column, so that all processes know.
    # With defaults of the database's: the former version inserts rows while this one is deployed.
    login_id = models.CharField(
        _("login under way"),
        max_length=64,
        default="",
        db_default="",
        blank=True,
        editable=False,
    )
    login_failure = models.CharField(
        _("failure of the last login"),
        max_length=200,
        default="",
        db_default="",
        blank=True,
        editable=False,
    )
    login_expires_at = models.DateTimeField(
        _("login under way until"), null=True, blank=True, editable=False
    )
    lease_owner = models.CharField(
        _("refreshed by"), max_length=64, default="", blank=True, editable=False
    )
    lease_expires_at = models.DateTimeField(
        _("refreshed until"), null=True, blank=True, editable=False
    )
    # So that runs of checks at the same time share the work.
    check_run = models.CharField(
        _("claimed by check"),
        max_length=64,
        default="",
        db_default="",
        blank=True,
        editable=False,
    )
    check_expires_at = models.DateTimeField(
        _("claimed until"), null=True, blank=True, editable=False
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
        indexes = [  # noqa: RUF012
            # What is checked next.
            models.Index(fields=["last_checked_at", "id"], name="garmin_auth_due"),
            models.Index(fields=["check_expires_at"], name="garmin_auth_claims"),
            # What is purged when a run begins.
            models.Index(fields=["mfa_started_at"], name="garmin_auth_challenges"),
            models.Index(fields=["login_expires_at"], name="garmin_auth_logins"),
            # The admin's list, its filters, and how many rows each finds (benchmarks/EXPLAIN.md).
            models.Index(fields=["updated_at", "id"], name="garmin_auth_changed"),
            models.Index(fields=["status", "updated_at", "id"], name="garmin_auth_status"),
            models.Index(
                fields=["engine", "updated_at", "id", "connected_at"], name="garmin_auth_engine"
            ),
            models.Index(
                fields=["last_validated", "id", "connected_at"], name="garmin_auth_validated"
            ),
            models.Index(fields=["session_ends_at", "id", "connected_at"], name="garmin_auth_ends"),
        ]
        constraints = [  # noqa: RUF012
            models.CheckConstraint(
                name="garmin_auth_mfa_pending_has_challenge",
                condition=Q(mfa_pending=True, mfa_challenge__isnull=False)
                | Q(mfa_pending=False, mfa_challenge__isnull=True),
            )
        ]

    def __str__(self) -> str:
        return f"{self.user} ({self.get_status_display()})"
