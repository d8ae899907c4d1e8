"""Every transition of a stored session, as a method of the queryset.

Each is one UPDATE with its condition in the WHERE clause (compare-and-set), so processes need no
locks: the method returns whether it took effect. A write that a deadlock has undone is retried.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db import models, router
from django.db.models import (
    Case,
    Count,
    ExpressionWrapper,
    F,
    Min,
    Q,
    Subquery,
    Value,
    When,
)
from django.db.models.functions import Coalesce, Concat, Now
from django.utils import timezone

from ..conf import DOMAINS, conf
from .deadlocks import RepeatingQuerySet
from .lifetimes import WARN_AGAIN_BEFORE, Lifetime, lifetime, soon

if TYPE_CHECKING:
    from ..models import GarminAuthenticationState

# A constraint ties session_data to this column, which unlike session_data can be indexed.
HAS_SESSION = Q(connected_at__isnull=False)
# Earlier than any date in a row.
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Stands in check_run, which no row without a session needs, until a run has reported its end.
UNREPORTED = "its end is unreported"
# The columns that hold ciphertext.
ENCRYPTED_FIELDS = ("session_data", "account_name", "mfa_challenge")
# How long the failure of a background login is kept.
LOGIN_KEPT = timedelta(hours=1)
# A session that has failed within this time, or a shorter GARMIN_AUTH_FAILING_AFTER, does not prove
# that an outage is over.
RECOVERY = timedelta(days=1)


class DatabaseNow(Now):
    """The time of the database, in the time zone in which Django stores times in it.

    Without a type for times with a time zone, as on MariaDB, MySQL and SQLite, that is UTC or the
    ``TIME_ZONE`` of the database in ``DATABASES``.
    """

    def as_mysql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        template = f"(UTC_TIMESTAMP(6) + INTERVAL {_utc_offset(connection)} SECOND)"
        return self.as_sql(compiler, connection, template=template, **extra)

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        # Each % is doubled twice: for the template, and for the parameters.
        form = "%%%%Y-%%%%m-%%%%d %%%%H:%%%%M:%%%%f"
        template = f"STRFTIME('{form}', 'NOW', '{_utc_offset(connection):+} SECONDS')"
        return self.as_sql(compiler, connection, template=template, **extra)


def _utc_offset(connection: Any) -> int:
    """Return by how many seconds the times that Django stores are now ahead of UTC.

    The server is not asked to convert, because MariaDB and MySQL know no zones by name until
    somebody loads them.
    """
    ahead = datetime.now(connection.timezone).utcoffset()
    return int(ahead.total_seconds()) if ahead else 0


def _from_now(seconds: float) -> "ExpressionWrapper[Any]":
    """Return an expression for the time so many seconds after the database's present."""
    return ExpressionWrapper(
        DatabaseNow() + timedelta(seconds=seconds), output_field=models.DateTimeField()
    )


def _under_way() -> Q:
    return ~Q(login_id="") & Q(login_failure="", login_expires_at__gt=DatabaseNow())


def _was_refused() -> Q:
    """A range, because SQLite does not use an index for IS NOT NULL, and every admin page asks."""
    return Q(refused_at__gt=EPOCH)


def _login_is_under_way() -> "ExpressionWrapper[Any]":
    return ExpressionWrapper(_under_way(), output_field=models.BooleanField())


class LoginRecord(NamedTuple):
    """A login that is running, or ran, in the background.

    Args:
        login_id: identifies it.
        failure: how it failed; "" if it did not, or if its process died.
        under_way: whether its process has sent a heartbeat lately.
        ended_at: when it stops, or stopped, counting as in progress.
    """

    login_id: str
    failure: str
    under_way: bool
    ended_at: datetime


class Lease(NamedTuple):
    """Who is refreshing a session.

    Args:
        version: the session's version.
        owner: the owner of a lease that was not given back, even of an expired one; "" if none.
        taken: whether the lease is in force, so that nobody else can take it.
    """

    version: int
    owner: str
    taken: bool | None


class StateQuerySet(RepeatingQuerySet["GarminAuthenticationState"]):
    """The rows, and their transitions."""

    # Returns the names of all engines. This layer knows none: apps.py says it.
    engine_names: Callable[[], Iterable[str]] = tuple

    def using_write_db(self) -> "StateQuerySet":
        """Return these rows from the database that is written to, because a replica may lag."""
        return self.using(router.db_for_write(self.model))

    def with_session(self) -> "StateQuerySet":
        """Return the rows that hold a session, whether or not a login is pending too."""
        return self.filter(HAS_SESSION)

    def with_login_under_way(self) -> "StateQuerySet":
        """Add ``login_under_way``: whether a background login is in progress."""
        return self.annotate(login_under_way=_login_is_under_way())

    def connect(
        self,
        user_id: Any,
        *,
        engine: str,
        domain: str = DOMAINS[0],
        session_data: str,
        account_name: str | None,
        validated_at: datetime | None,
        ends_at: datetime | None = None,
        prolonged: bool = False,
        challenge_from: datetime | None = None,
        login_id: str = "",
    ) -> bool:
        """Store a new session for the user in place of any other, and end the login.

        Args:
            user_id: the user's primary key.
            engine: name of the engine that wrote ``session_data``.
            domain: Garmin's domain, where the account is.
            session_data: the session, as the engine serialises it.
            account_name: the Garmin user name, None if not known.
            validated_at: when the session first worked, None if it has not been used yet.
            ends_at: when the session ends at the latest, None if not known.
            prolonged: whether use prolongs the session, so that ``ends_at`` moves.
            challenge_from: store only if the challenge that started then is still pending.
            login_id: store only if this background login is still in progress.

        Returns:
            Whether it was stored. False only if that challenge or login is gone.
        """
        now = timezone.now()
        rows = self.using_write_db().filter(user_id=user_id)
        if challenge_from is not None:
            rows = rows.filter(mfa_pending=True, mfa_started_at=challenge_from)
        elif login_id:
            rows = rows.filter(_holds_turn(login_id))
        else:
            rows.get_or_create(user_id=user_id)
        return bool(
            rows.update(
                engine=engine,
                domain=domain,
                session_data=session_data,
                session_version=F("session_version") + 1,
                account_name=account_name,
                connected_at=now,
                last_validated=validated_at,
                last_checked_at=None,
                refused_at=None,
                ended_reason="",
                check_run=Case(When(check_run=UNREPORTED, then=Value("")), default=F("check_run")),
                updated_at=now,
                **lifetime(ends_at, prolonged_at=now if prolonged else None).columns(),
                **_works_again(),
                **_NO_CHALLENGE,
                **_end_turn(login_id),
                **_NO_LEASE,
            )
        )

    def replace_session(
        self, pk: Any, version: int, session_data: str, prolonged: Lifetime | None = None
    ) -> bool:
        """Replace a session, unless it has changed since ``version`` was read.

        This ends any lease too, because its holder is refreshing a session that is now replaced.

        Args:
            pk: the row's primary key.
            version: the version that was read.
            session_data: the session to store.
            prolonged: its new times, None if it still ends when it did.
        """
        return bool(
            self.using_write_db()
            .with_session()
            .filter(pk=pk, session_version=version)
            .update(
                session_data=session_data,
                session_version=F("session_version") + 1,
                updated_at=timezone.now(),
                **(prolonged.columns() if prolonged else {}),
                **_NO_LEASE,
            )
        )

    def take_lease(self, pk: Any, version: int, owner: str, seconds: float) -> bool:
        """Take the lease needed to refresh this session, unless it is taken.

        Args:
            pk: the row's primary key.
            version: the version that was read; no other one is leased.
            owner: unique to this attempt; at most 64 characters.
            seconds: how long other processes wait if this one dies.
        """
        return bool(
            self.using_write_db()
            .with_session()
            .filter(pk=pk, session_version=version)
            .exclude(lease_expires_at__gt=DatabaseNow())
            .update(lease_owner=owner, lease_expires_at=_from_now(seconds))
        )

    def release_lease(self, pk: Any, owner: str) -> bool:
        """Give the lease back, if this owner still holds it."""
        return bool(self.using_write_db().filter(pk=pk, lease_owner=owner).update(**_NO_LEASE))

    def get_lease(self, pk: Any) -> Lease | None:
        """Return who is refreshing a session, None if there is no session."""
        rows = self.using_write_db().with_session().filter(pk=pk)
        taken = ExpressionWrapper(
            Q(lease_expires_at__gt=DatabaseNow()), output_field=models.BooleanField()
        )
        row = rows.values_list("session_version", "lease_owner", taken).first()
        return Lease(*row) if row else None

    def refuse_exchange(self, pk: Any, engine: str, domain: str) -> int:
        """Record that Garmin refused this user's token at the exchange.

        Args:
            pk: the row's primary key.
            engine: name of the engine that made the exchange.
            domain: the Garmin domain that refused it.

        Returns:
            How many users, with this one, were refused since that domain last accepted an exchange
            of that engine. They are counted after this refusal is written, so that of several
            processes at once the last one sees all refusals.
        """
        rows = self.using_write_db().filter(engine=engine, domain=domain)
        rows.filter(pk=pk, refused_at=None).update(refused_at=timezone.now())
        return rows.filter(_was_refused()).count()

    def accept_exchange(self, engine: str, domain: str) -> int:
        """Record that a Garmin domain accepted an exchange of this engine; forget its refusals.

        Args:
            engine: name of the engine that made the exchange.
            domain: the Garmin domain that accepted it.

        Returns:
            How many refusals there were.
        """
        rows = self.using_write_db().filter(_was_refused(), engine=engine, domain=domain)
        return rows.update(refused_at=None)

    def refused_users(self) -> dict[tuple[str, str], int]:
        """Return, by engine and domain, how many users were refused since the last acceptance."""
        rows = self.using_write_db().filter(_was_refused()).order_by()
        # An expression, because SQLite would otherwise read the whole index on engine.
        counts = rows.values_list(Concat("engine", Value("")), "domain").annotate(Count("pk"))
        return {(engine, domain): count for engine, domain, count in counts}

    def end_session(self, pk: Any, version: int, reason: str) -> bool:
        """Clear a session, unless it has changed since ``version`` was read.

        Args:
            pk: the row's primary key.
            version: the version that was read.
            reason: an ``EndedReason``.
        """
        return bool(
            self.using_write_db()
            .with_session()
            .filter(pk=pk, session_version=version)
            .update(**_no_session(reason))
        )

    def restore_session(
        self,
        pk: Any,
        version: int,
        *,
        session_data: str,
        account_name: str | None,
        connected_at: datetime | None,
        life: Lifetime,
    ) -> bool:
        """Restore a session that was cleared as expired while it was being refreshed.

        Args:
            pk: the row's primary key.
            version: the version that was read before the refresh.
            session_data: the refreshed session.
            account_name: the Garmin user name, None if not known.
            connected_at: when the session started.
            life: when it ends at the latest, and the times that follow from that.
        """
        rows = self.using_write_db().filter(pk=pk, session_version=version + 1)
        return bool(
            rows.filter(connected_at__isnull=True, ended_reason="expired").update(
                session_data=session_data,
                session_version=F("session_version") + 1,
                account_name=account_name,
                connected_at=connected_at,
                ended_reason="",
                updated_at=timezone.now(),
                **life.columns(),
            )
        )

    def disconnect(self, user_id: Any, reason: str) -> bool:
        """Remove the user's session and any login, and return whether there was either.

        The failure of the last login is removed too, but does not count as a login.
        """
        rows = self.using_write_db().filter(user_id=user_id)
        something = HAS_SESSION | Q(mfa_pending=True) | _under_way()
        if rows.filter(something).update(**_no_session(reason), **_NO_CHALLENGE, **_NO_LOGIN):
            return True
        # Under the same condition, because a login may have started in the meantime.
        rows.exclude(login_id="").exclude(_under_way()).update(
            updated_at=timezone.now(), **_NO_LOGIN
        )
        return False

    def mark_validated(self, pk: Any, connected_at: datetime | None) -> bool:
        """Record that a session has just worked. Nothing is encrypted for it.

        Args:
            pk: the row's primary key.
            connected_at: when that session started; a later one is left alone.
        """
        rows = self.using_write_db().with_session().filter(pk=pk, connected_at=connected_at)
        return bool(rows.update(last_validated=timezone.now(), **_works_again()))

    def mark_failed(self, pk: Any, connected_at: datetime | None, reason: str) -> bool:
        """Record that a use of a session has just said nothing certain about it.

        Args:
            pk: the row's primary key.
            connected_at: when that session started; a later one is left alone.
            reason: a ``FailingReason``.
        """
        rows = self.using_write_db().with_session().filter(pk=pk, connected_at=connected_at)
        return bool(rows.update(**_failed(reason)))

    def mark_checked(
        self,
        user_ids: Iterable[Any],
        *,
        worked: bool = False,
        failed: str = "",
        began: datetime | None = None,
    ) -> int:
        """Record that these users' sessions have just been checked, and release their claims.

        Args:
            user_ids: primary keys of the users.
            worked: record that the sessions worked too.
            failed: the ``FailingReason`` to record; "" if the sessions did not fail.
            began: when the checks began. Sessions that started later were not the ones checked, so
                neither is recorded of them.
        """
        now, found = timezone.now(), {}  # type: tuple[datetime, dict[str, Any]]
        if worked:
            found = {"last_validated": Value(now), **_works_again()}
        elif failed:
            found = _failed(failed)
        checked = Q(connected_at__lte=began)
        found = {
            name: Case(When(checked, then=value), default=F(name)) for name, value in found.items()
        }
        rows = self.using_write_db().filter(user_id__in=list(user_ids))
        return rows.update(last_checked_at=now, **found, **_NO_CLAIM)

    def with_failing(self) -> "StateQuerySet":
        """Add ``is_failing``: whether the connection has been failing for too long.

        That is so if its user has been told, or if it has failed for ``GARMIN_AUTH_FAILING_AFTER``
        while others of its engine worked: otherwise it is an outage.
        """
        return self.annotate(
            is_failing=ExpressionWrapper(self.failing_condition(), models.BooleanField())
        )

    def failing(self) -> "StateQuerySet":
        """Return the connections that have been failing for too long, as ``with_failing`` says."""
        return self.filter(self.failing_condition())

    def failing_condition(self) -> Q:
        """Return the condition for connections that have been failing for too long."""
        # One value for each engine and domain, which a query reads once. To look for others of each
        # row would be a scan of the table for each in an outage, when there are none to be found.
        last_worked = Case(
            *(
                When(engine=engine, domain=domain, then=self._last_worked(engine, domain))
                for engine, domain in product(self.engine_names(), DOMAINS)
            ),
            output_field=models.DateTimeField(),
        )
        others_work = Case(
            When(failing_since__lt=last_worked, then=True),
            default=False,
            output_field=models.BooleanField(),
        )
        # A CASE, because a database goes on with an AND after NULL: it would look for others of
        # rows that do not fail.
        too_long = Case(
            When(failing_since__lte=failing_before(), then=others_work),
            default=False,
            output_field=models.BooleanField(),
        )
        # A range, as in _was_refused.
        return Q(failing_since__gt=EPOCH) & (Q(failing_told_at__isnull=False) | Q(too_long))

    def others_work(self, engine: str, domain: str, since: datetime) -> bool:
        """Return whether sessions of this engine have worked since then, so that it is no outage.

        Args:
            engine: name of the engine.
            domain: Garmin's domain. The sessions of the other one tell nothing about this one.
            since: since when a session of it fails.
        """
        rows = self.using_write_db().filter(_works_steadily(engine, domain))
        return rows.filter(last_validated__gt=since).exists()

    def _last_worked(self, engine: str, domain: str) -> Subquery:
        rows = self.model.objects.filter(_works_steadily(engine, domain), last_validated__gt=EPOCH)
        return Subquery(rows.order_by("-last_validated").values("last_validated")[:1])

    def count_failed(self, engine: str, domain: str) -> int:
        """Return how many sessions of this engine and domain have failed since they last worked."""
        rows = self.using_write_db().filter(failing_since__gt=EPOCH)
        return rows.filter(engine=engine, domain=domain).count()

    def report_failing(self, pk: Any, since: datetime) -> bool:
        """Record that the user is told of the failing connection, unless it has been recorded.

        Args:
            pk: the row's primary key.
            since: since when it has been failing; if it has worked since, nothing is recorded.
        """
        rows = self.using_write_db().with_session().filter(pk=pk, failing_told_at=None)
        return bool(rows.filter(failing_since=since).update(failing_told_at=timezone.now()))

    def end_failing(self, user_id: Any) -> datetime | None:
        """Record that a connection of whose failure the user was told works again.

        Returns:
            Since when it had been failing; None if the user was not told, or it has been recorded.
        """
        rows = self.using_write_db().filter(user_id=user_id, failing_told_at__isnull=False)
        since = rows.values_list("failing_since", flat=True).first()
        if since is None or not rows.filter(failing_since=since).update(**_NOT_FAILING):
            return None
        return since

    def outages(self) -> dict[tuple[str, str], datetime]:
        """Return the engines of which no session has worked for ``GARMIN_AUTH_FAILING_AFTER``.

        Returns:
            By the engine's name and the domain, since when their sessions have been failing.
        """
        rows = self.using_write_db().filter(failing_since__lte=failing_before()).order_by()
        services = rows.values_list(Concat("engine", Value("")), "domain")
        return {
            (engine, domain): began
            for engine, domain, began in services.annotate(Min("failing_since"))
            if not self.others_work(engine, domain, began)
        }

    def unwarned(self) -> "StateQuerySet":
        """Return the sessions that end soon and whose users are due a warning, with the users.

        What use prolongs is due only after a check that has not prolonged it.
        """
        now = timezone.now()
        in_vain = Q(session_renew_at=None) | Q(last_checked_at__gt=F("session_ends_soon_at"))
        first = Q(ending_warnings=0) & in_vain
        again = Q(session_renew_at=None, ending_warnings=1)
        again &= Q(session_ends_at__lte=now + WARN_AGAIN_BEFORE)
        rows = self.using_write_db().with_session().filter(soon(), session_ends_at__gt=now)
        return rows.filter(first | again).select_related("user")

    def count_warning(self, row: "GarminAuthenticationState") -> bool:
        """Record a warning of the end of a session. Return False if another process has done so.

        Args:
            row: a row of ``unwarned()``.
        """
        as_read = {"session_ends_at": row.session_ends_at, "ending_warnings": row.ending_warnings}
        rows = self.using_write_db().with_session().filter(pk=row.pk, **as_read)
        last = Q(session_ends_at__lte=timezone.now() + WARN_AGAIN_BEFORE)
        return bool(rows.update(ending_warnings=Case(When(last, then=2), default=1)))

    def unclaimed(self) -> "StateQuerySet":
        """Return the rows that no run of checks has claimed."""
        return self.exclude(check_expires_at__gt=DatabaseNow())

    def claim_checks(
        self, run: str, number: int, seconds: float
    ) -> "list[GarminAuthenticationState]":
        """Claim the first of these rows for a run, and return those that it got, with their users.

        Args:
            run: the run's name, at most 64 characters. Names sort by the start of their runs.
            number: how many rows to claim at most.
            seconds: how long other runs leave them alone if this process dies.
        """
        # If another run claims all of the first rows, go on with those behind them.
        while first := list(self.unclaimed().values_list("pk", flat=True)[:number]):
            rows = self.model.objects.using_write_db().filter(pk__in=first)
            rows.unclaimed().update(check_run=run, check_expires_at=_from_now(seconds))
            position = {pk: at for at, pk in enumerate(first)}
            # Without what is encrypted, which a check reads anew.
            mine = list(rows.filter(check_run=run).select_related("user").defer(*ENCRYPTED_FIELDS))
            if mine:
                return sorted(mine, key=lambda row: position[row.pk])
        return []

    def keep_checks(self, run: str, pks: Iterable[Any], seconds: float) -> int:
        """Renew a run's claims of these rows, except of those checked in the meantime."""
        rows = self.using_write_db().filter(pk__in=list(pks), check_run=run)
        return rows.update(check_expires_at=_from_now(seconds))

    def release_checks(self, run: str, pks: Iterable[Any] | None = None) -> int:
        """Release the rows that a run has claimed and not checked: these, or all."""
        # The claims are indexed, the names of the runs are not.
        rows = self.using_write_db().filter(check_run=run, check_expires_at__isnull=False)
        if pks is not None:
            rows = rows.filter(pk__in=list(pks))
        return rows.update(**_NO_CLAIM)

    def claimed_checks(self) -> int:
        """Return the number of rows that are claimed and not checked yet."""
        return self.using_write_db().filter(check_expires_at__gt=DatabaseNow()).count()

    def oldest_run(self) -> str:
        """Return the name of the oldest run in progress, "" if there is none."""
        rows = self.using_write_db().filter(check_expires_at__gt=DatabaseNow())
        return rows.aggregate(oldest=Min("check_run"))["oldest"] or ""

    def unreported(self) -> "StateQuerySet":
        """Return the rows whose session was found dead by a run that could not report it yet."""
        ended = self.using_write_db().filter(connected_at__isnull=True, ended_reason="expired")
        return ended.filter(check_run=UNREPORTED)

    def mark_unreported(self, user_ids: Iterable[Any]) -> int:
        """Record that a run has found these users' sessions dead, and has yet to report it."""
        rows = self.using_write_db().filter(user_id__in=list(user_ids))
        ended = rows.filter(connected_at__isnull=True, ended_reason="expired")
        return ended.update(check_run=UNREPORTED)

    def mark_reported(self, user_ids: Iterable[Any]) -> int:
        """Record that a run has reported the end of these users' sessions."""
        return self.unreported().filter(user_id__in=list(user_ids)).update(check_run="")

    def purge_challenges(self, before: datetime) -> int:
        """Remove the pending logins that started before then, and return their number."""
        rows = self.using_write_db().filter(mfa_pending=True, mfa_started_at__lt=before)
        return rows.update(updated_at=timezone.now(), **_NO_CHALLENGE)

    def begin_login(self, user_id: Any, login_id: str, seconds: float) -> bool:
        """Record that a background login of the user is in progress, unless one already is.

        Args:
            user_id: the user's primary key.
            login_id: unique to each login; at most 64 characters.
            seconds: how long it counts as in progress without ``keep_login``, by the database's
                clock. If this process dies, the user waits that long.
        """
        self.using_write_db().get_or_create(user_id=user_id)
        return bool(
            self.using_write_db()
            .filter(user_id=user_id)
            .exclude(login_failure="", login_expires_at__gt=DatabaseNow())
            .update(
                login_id=login_id,
                next_login_id="",
                login_failure="",
                login_expires_at=_from_now(seconds),
                updated_at=timezone.now(),
            )
        )

    def queue_login(self, user_id: Any, login_id: str) -> bool:
        """Let a login wait for the one in progress, in place of any other that waits.

        Args:
            user_id: the user's primary key.
            login_id: unique to each login; at most 64 characters.

        Returns:
            False if none is in progress.
        """
        rows = self.using_write_db().filter(_under_way(), user_id=user_id)
        return bool(rows.update(next_login_id=login_id))

    def take_turn(self, user_id: Any, login_id: str, seconds: float) -> bool | None:
        """Begin a login that waited, once the one before it has ended, or its process has died.

        Args:
            user_id: the user's primary key.
            login_id: identifies the login that waited.
            seconds: as in ``begin_login``.

        Returns:
            Whether it is its turn; None if it was cancelled or replaced.
        """
        waits = Q(login_id=login_id) | Q(next_login_id=login_id)
        rows = self.using_write_db().filter(waits, user_id=user_id, login_failure="")
        free = Q(login_id=login_id) | Q(login_expires_at__lte=DatabaseNow())
        # Another may wait by now.
        others = Case(When(next_login_id=login_id, then=Value("")), default=F("next_login_id"))
        if rows.filter(free).update(
            login_id=login_id, next_login_id=others, login_expires_at=_from_now(seconds)
        ):
            return True
        return False if rows.exists() else None

    def keep_login(self, user_id: Any, login_id: str, seconds: float) -> bool:
        """Send a heartbeat of this login. Return False if it was cancelled or replaced."""
        rows = self.using_write_db().filter(_holds_turn(login_id), user_id=user_id)
        return bool(rows.update(login_expires_at=_from_now(seconds)))

    def fail_login(self, user_id: Any, login_id: str, failure: str) -> bool:
        """Record how this login failed, unless another waits for its end.

        Args:
            user_id: the user's primary key.
            login_id: identifies the login.
            failure: how it failed, as non-empty text without secrets.

        Returns:
            False if it was cancelled or replaced.
        """
        rows = self.using_write_db().filter(_holds_turn(login_id), user_id=user_id)
        failed = {"login_failure": failure, "login_expires_at": DatabaseNow()}
        if rows.filter(next_login_id="").update(**failed):
            return True
        return bool(rows.update(**_end_turn(login_id)))

    def end_login(self, user_id: Any) -> bool:
        """Remove the login in progress, or the last failure. Return whether there was either."""
        rows = self.using_write_db().filter(user_id=user_id).exclude(login_id="")
        return bool(rows.update(updated_at=timezone.now(), **_NO_LOGIN))

    def login_record(self, user_id: Any) -> LoginRecord | None:
        """Return the user's background login, None if there is none."""
        row = (
            self.using_write_db()
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
        """Remove the logins that failed, or whose process died, before then."""
        rows = self.using_write_db().filter(login_expires_at__lt=before)
        return rows.update(updated_at=timezone.now(), **_NO_LOGIN)

    def begin_challenge(self, user_id: Any, challenge: str, login_id: str = "") -> datetime | None:
        """Store a pending login in place of any other, and return when it started.

        Args:
            user_id: the user's primary key.
            challenge: its state, as text.
            login_id: store only if this background login is still in progress, else return None.
        """
        now = timezone.now()
        rows = self.using_write_db().filter(user_id=user_id)
        if login_id:
            rows = rows.filter(_holds_turn(login_id))
        else:
            rows.get_or_create(user_id=user_id)
        stored = rows.update(
            mfa_pending=True,
            mfa_challenge=challenge,
            mfa_started_at=now,
            mfa_attempts=0,
            updated_at=now,
            **_end_turn(login_id),
        )
        return now if stored else None

    def count_attempt(self, pk: Any, started_at: datetime, limit: int) -> bool:
        """Count one code for this pending login. Return False if it is gone or at its limit."""
        return bool(
            self.using_write_db()
            .filter(pk=pk, mfa_pending=True, mfa_started_at=started_at, mfa_attempts__lt=limit)
            .update(mfa_attempts=F("mfa_attempts") + 1, updated_at=timezone.now())
        )

    def give_attempt_back(self, pk: Any, started_at: datetime) -> bool:
        """Count one code less for this pending login, because Garmin did not judge it."""
        return bool(
            self.using_write_db()
            .filter(pk=pk, mfa_pending=True, mfa_started_at=started_at, mfa_attempts__gt=0)
            .update(mfa_attempts=F("mfa_attempts") - 1, updated_at=timezone.now())
        )

    def update_challenge(self, pk: Any, started_at: datetime, challenge: str) -> bool:
        """Store what a wrong code changed in this login, if it is still pending."""
        return bool(
            self.using_write_db()
            .filter(pk=pk, mfa_pending=True, mfa_started_at=started_at)
            .update(mfa_challenge=challenge, updated_at=timezone.now())
        )

    def end_challenge(self, user_id: Any, started_at: datetime | None = None) -> bool:
        """Remove the pending login, or only the one that started at ``started_at``."""
        rows = self.using_write_db().filter(user_id=user_id, mfa_pending=True)
        if started_at is not None:
            rows = rows.filter(mfa_started_at=started_at)
        return bool(rows.update(updated_at=timezone.now(), **_NO_CHALLENGE))


_NO_CHALLENGE = {
    "mfa_pending": False,
    "mfa_challenge": None,
    "mfa_started_at": None,
    "mfa_attempts": 0,
}
_NO_LOGIN = {"login_id": "", "next_login_id": "", "login_failure": "", "login_expires_at": None}
_NO_CLAIM = {"check_run": "", "check_expires_at": None}
_NO_LEASE = {"lease_owner": "", "lease_expires_at": None}
_NOT_FAILING = {"failing_since": None, "failing_reason": "", "failing_told_at": None}


def _works_again() -> dict[str, Any]:
    """Return what to store of a session that works.

    A failure of which the user was told stays until ``end_failing``, whose caller reports its end.
    """
    untold = Q(failing_told_at=None)
    nothing = Value(None, output_field=models.DateTimeField())
    return {
        "failing_since": Case(When(untold, then=nothing), default=F("failing_since")),
        "failing_reason": Case(When(untold, then=Value("")), default=F("failing_reason")),
    }


def _failed(reason: str) -> dict[str, Any]:
    now = Value(timezone.now(), output_field=models.DateTimeField())
    return {
        "failing_since": Coalesce("failing_since", now),
        "failing_reason": Value(reason),
        "last_failed_at": now,
    }


def failing_before() -> datetime:
    """Return since when a session must have been failing to have failed for too long."""
    return timezone.now() - timedelta(seconds=conf.FAILING_AFTER)


def _works_steadily(engine: str, domain: str) -> Q:
    """Return the condition for sessions of an engine and a domain that prove that it works.

    Those that failed themselves a short time ago do not: an outage may have just ended, and the
    others will work at their next use.
    """
    recently = timezone.now() - min(RECOVERY, timedelta(seconds=conf.FAILING_AFTER))
    steady = Q(last_failed_at=None) | Q(last_failed_at__lt=recently)
    return Q(engine=engine, domain=domain) & steady


def _holds_turn(login_id: str) -> Q:
    """The login is in progress, whether or not another waits for its end."""
    return Q(login_id=login_id, login_failure="")


def _end_turn(login_id: str) -> dict[str, Any]:
    """Return the values that end a login, and leave the turn to the one that waits for its end."""
    if not login_id:
        return _NO_LOGIN
    # In this order: MariaDB and MySQL use what they have assigned already.
    return {
        "login_expires_at": Case(
            When(next_login_id="", then=Value(None)), default=F("login_expires_at")
        ),
        "login_id": F("next_login_id"),
        "next_login_id": "",
        "login_failure": "",
    }


def _no_session(reason: str) -> dict[str, Any]:
    return {
        "session_data": None,
        "session_version": F("session_version") + 1,
        "account_name": None,
        "connected_at": None,
        "ended_reason": reason,
        "updated_at": timezone.now(),
        **Lifetime().columns(),
        **_NOT_FAILING,
        **_NO_LEASE,
    }


StateManager = models.Manager.from_queryset(StateQuerySet)
