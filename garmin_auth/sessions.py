"""Use a stored session in any process: ``with garmin_client(user) as client:``."""

import copy
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

from asgiref.sync import iscoroutinefunction
from django.db import OperationalError, connections
from django.dispatch import Signal
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from . import signals
from .conf import REFRESH_TIMEOUT, conf
from .engines import get_stored_engine, require_usable
from .engines.base import RefreshIncomplete
from .engines.frozen import refuse_frozen
from .engines.secret import Secret
from .engines.tracebacks import hide_frames
from .exceptions import (
    GarminAuthError,
    GarminRequestError,
    GarminUnavailable,
    NotAsked,
    NotConnected,
    RateLimited,
    SessionExpired,
    TokenRefused,
)
from .limits import cooldown, failing, mass_failure
from .limits.shared_cache import shared_cache, tenant_cache_key
from .models import EndedReason, GarminAuthenticationState
from .storage.async_calls import in_own_thread
from .storage.keys import encrypt
from .storage.lifetimes import Lifetime, lifetime
from .storage.retries import bookkeeping, write_again
from .storage.session_rows import SessionRow, read_session
from .storage.threads import (
    Context,
    NoThread,
    connections_left_as_found,
    is_lent_thread,
    is_own_thread,
    lent_to_site,
    release_pooled_connections,
    run_in_thread,
)
from .storage.transactions import in_testcase, in_transaction, refuse_atomic, send_on_commit

T = TypeVar("T")

# An access token that ends this soon is refreshed before the block, where the caller may open a
# transaction.
EARLY = timedelta(minutes=5)
# For how many seconds a refresh is not repeated: Garmin refuses a fresh token for another reason.
REFRESH_EVERY = 300
# That a session works is recorded at most once in this many seconds.
NOTE_EVERY = 60
# Seconds between the first two looks at a session that another process is refreshing. The pause
# doubles each time, up to the second number.
POLL, LONGEST_POLL = 0.05, 0.8
# How many seconds SQLite waits for a lock, because the caller's own transaction may hold it.
SQLITE_WAIT = 2
REFUSED_AFTER_REFRESH = (
    "Garmin refuses an access token that it has just issued. The session is kept, and is not "
    "refreshed again for five minutes."
)


@contextmanager
def garmin_client(user: Any) -> Iterator[Any]:
    """Open the user's session as a client of its engine (with garth, a ``garth.Client``).

    If the access token needs a refresh, the new one is stored at once. When the block ends, even
    with an exception, the row records whether the session has worked, at most once a minute.
    Changes that the block makes to the client's tokens are not stored. Several threads may use the
    client inside the block; it cannot be used after it.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.

    Yields:
        The client. Its calls raise GarminAuthErrors only: GarminRequestError if Garmin answers
        your request with a 4xx; SessionExpired if Garmin has ended the session, which is then
        cleared; RateLimited and GarminUnavailable if the session's state is unknown.

    Raises:
        NotConnected: the user has no session.
        SessionUnreadable: the session cannot be opened. It is kept.
        Frozen: this site must not connect to Garmin (``GARMIN_AUTH_FROZEN``).
        RuntimeError: called inside ``atomic()``.
        SynchronousOnlyOperation: called in async code. Await ``use_garmin`` there.
    """
    refuse_atomic("garmin_client")
    stored = StoredSession(user)
    try:
        yield stored.session.client
    finally:
        stored.close()


async def use_garmin(user: Any, function: Callable[[Any], T]) -> T:
    """Open the user's session in async code, and call ``function`` with its client in a thread.

    It is ``garmin_client`` for a coroutine. At most ``GARMIN_AUTH_ASYNC_WORKERS`` calls run at the
    same time in a process, and others wait for their turn. Each leaves no database connection
    behind. If the coroutine is cancelled, a call that has begun still goes on to its end.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.
        function: takes the client, which cannot be used after it. It is synchronous, and may use
            the database. In the transaction of a ``TestCase``, whose rows no thread would see, it
            is called in the thread of the test.

    Returns:
        What ``function`` returns.

    Raises:
        TypeError: ``function`` is async.
        RuntimeError: called through ``async_to_sync()`` inside ``atomic()``.
        GarminAuthError: as ``garmin_client`` and its client raise it.
    """
    if iscoroutinefunction(function):
        raise TypeError("use_garmin() calls the function in a thread, so it must not be async.")
    return await in_own_thread("use_garmin", partial(_use, user, function))


def _use(user: Any, function: Callable[[Any], T]) -> T:
    with garmin_client(user) as client, lent_to_site():
        return function(client)


class StoredSession:
    """One user's session as it was read, with what it takes to store a refreshed one.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.
        believe_refusals: whether a refusal clears the session even in a mass failure.

    Raises:
        NotConnected, SessionUnreadable, SessionExpired, Frozen: as for ``garmin_client``.
    """

    @sensitive_variables()
    def __init__(self, user: Any, *, believe_refusals: bool = False) -> None:
        refuse_frozen()
        self._user, self._believe_refusals = user, believe_refusals
        self._thread, self._noted = threading.get_ident(), time.monotonic()
        # This thread's, because another thread of the block may not know the tenant.
        self._context = Context()
        self._lock = threading.Lock()
        # The refresh that this block's threads wait for, and when the last one succeeded.
        self._shared: Future[str] | None = None
        self._refreshed_at = self._failed_at = float("-inf")
        # Why the refresh before the block failed. The first call that needs a token raises it.
        self._early_failure = GarminAuthError()
        # What to record of the block's last failure, unless some call works.
        self._failing_reason = ""
        # Whether this block holds the lease, and whether it was taken over from a process that
        # never gave it back.
        self._holds_lease = self._took_over = False
        self._row = read_session(user)
        self._quiet_key = tenant_cache_key("fresh token refused", self._row.pk)
        self._engine = get_stored_engine(self._row.engine, self._row.domain)
        self.session = self._open()
        self._cooldown = cooldown.session_scope(self._engine, self._row.session_data)
        self._refresh_early()

    @property
    def engine_name(self) -> str:
        """The name of the engine that wrote the session."""
        return self._row.engine

    @property
    def limited_alone(self) -> bool:
        """Whether a rate limit on this session leaves all others alone."""
        return self._cooldown != cooldown.site_scope(self._row.domain)

    @property
    def refreshed(self) -> bool:
        """Whether this block has refreshed the session."""
        return self._refreshed_at > float("-inf")

    @sensitive_variables()
    def fetch_account_name(self) -> str:
        """Ask Garmin for the user name, with one cheap call. May raise any GarminAuthError."""
        return self._engine.fetch_account_name(self.session)

    @property
    def row(self) -> SessionRow:
        """The row, as far as it is known here."""
        return self._row

    def close(self, *, note: bool = True) -> None:
        """Record whether the session has worked, and close the client.

        Args:
            note: whether to record it; a run of checks does so for many sessions at once.
        """
        if note:
            self._note()
        self.session.close()

    def _open(self) -> Any:
        return hide_frames(
            lambda: self._engine.open(
                self._row.session_data, self._renew, before=self._before, after=self._after
            )
        )

    def _refresh_early(self) -> None:
        ends_at = self._engine.access_ends_at(self._row.session_data)
        soon = ends_at is not None and ends_at <= timezone.now() + EARLY
        if not (soon or self._is_to_renew()):
            return
        try:
            self._renew()
        except (GarminUnavailable, RateLimited) as exc:
            self._early_failure, self._failed_at = exc, time.monotonic()
            self._failing_reason = failing.reason_of(exc)
            return
        self.session.close()
        self.session = self._open()

    def _is_to_renew(self) -> bool:
        """Return whether a refresh is due to prolong the session, while its token is still good."""
        renew_at = self._row.life.session_renew_at
        return renew_at is not None and renew_at <= timezone.now()

    def _before(self) -> None:
        """Run before each call of the block."""
        refuse_frozen()
        with connections_left_as_found() if self._is_foreign_thread() else nullcontext():
            cooldown.require_none(self._cooldown)
        release_pooled_connections()

    def _after(self, error: GarminAuthError | None) -> None:
        """Run after each call of the block.

        Args:
            error: what the call raised, None if it succeeded.

        Raises:
            GarminUnavailable: Garmin refuses an access token that it has just issued.
        """
        if self._is_foreign_thread():
            with connections_left_as_found():
                cooldown.update(self._cooldown, error)
        else:
            cooldown.update(self._cooldown, error)
            if error is None and time.monotonic() >= self._noted + NOTE_EVERY:
                self._note()
        if isinstance(error, GarminRequestError) and error.status == 401:
            shared_cache.set(self._quiet_key, 1, REFRESH_EVERY)
            self._failing_reason = TokenRefused.failing_reason
            raise TokenRefused(REFUSED_AFTER_REFRESH)
        if isinstance(error, GarminUnavailable):
            self._failing_reason = error.failing_reason

    def _is_foreign_thread(self) -> bool:
        """Return whether this is another thread than the block's, which may never be cleaned up.

        The thread of ``use_garmin`` counts as one: a connection of ours would be held in it for as
        long as the site's function takes.
        """
        return is_lent_thread() or threading.get_ident() != self._thread

    def _note(self) -> None:
        if in_transaction():  # The row would stay locked until the caller's transaction ends.
            return
        row, now, self._noted = self._row, timezone.now(), time.monotonic()
        states = GarminAuthenticationState.objects
        if self.session.worked:
            if row.failing_since is None and _is_within(NOTE_EVERY, row.last_validated, now):
                return
            self._row = replace(row, last_validated=now)
            with bookkeeping("that a session works"):
                states.mark_validated(row.pk, row.connected_at)
                if row.failing_told_at:
                    failing.report_recovery(self._user)
        elif self._failing_reason:
            with bookkeeping("that a session fails"):
                states.mark_failed(row.pk, row.connected_at, self._failing_reason)
                failing.report_if_too_long(self._user, row, self._failing_reason)

    @sensitive_variables()
    def _renew(self) -> str:
        """Return session data with a fresh access token, which is stored first.

        Threads that ask at the same time share one refresh, or its failure.

        Raises:
            SessionExpired: Garmin has ended the session, which is now cleared.
            NotConnected: the user was disconnected in the meantime.
            RateLimited, GarminUnavailable: the session's state is unknown, and it is kept.
                MassFailure is a GarminUnavailable.
        """
        with self._lock:
            if time.monotonic() < self._refreshed_at + REFRESH_EVERY:
                return self._row.session_data  # Another thread has refreshed it.
            if time.monotonic() < self._failed_at + REFRESH_TIMEOUT:
                # If Garmin were asked again at once, its second refusal would count as proof.
                raise copy.copy(self._early_failure)
            leads = self._shared is None
            shared = self._shared = self._shared or Future()
        if not leads:
            return shared.result()
        error: BaseException = NotAsked("The refresh of the token was interrupted.")
        try:
            data = self._run_apart(self._renew_stored)
        except GarminAuthError as exc:
            error = copy.copy(exc)
            raise
        else:
            shared.set_result(data)
            return data
        finally:
            with self._lock:
                self._shared = None
            if not shared.done():
                shared.set_exception(error)

    def _run_apart(self, call: Callable[[], T]) -> T:
        """Run a refresh in its own thread, on its own connection.

        A rollback of the caller's transaction would lose a rotated token, and so would an exception
        that interrupts the caller, such as Celery's time limit. Also, nothing would close the
        connection of a thread other than the block's.

        Raises:
            GarminUnavailable: the caller's transaction blocks the refresh.
        """
        # A receiver in one of the app's threads may have opened a transaction too.
        if in_testcase() or (is_own_thread() and not in_transaction()):
            return call()
        problem = ""
        try:
            # If the caller has locked the row, it waits for this thread, and this thread for it.
            timeout = conf.LEASE + 3 * REFRESH_TIMEOUT
            return run_in_thread(
                partial(_briefly_locked, call), "garmin_auth refresh", timeout, self._context
            )
        except TimeoutError:
            problem = "its row is locked, perhaps by the caller's open transaction."
        except OperationalError as exc:
            problem = f"{exc}."
            if in_transaction():
                problem += " End the open transaction first."
        except NoThread as exc:
            problem = f"{exc}."
        raise NotAsked(f"The session cannot be refreshed now: {problem}")

    @sensitive_variables()
    def _renew_stored(self) -> str:
        if shared_cache.get(self._quiet_key):
            raise TokenRefused(REFUSED_AFTER_REFRESH)
        owner = uuid4().hex
        if not self._lease(owner):
            self._refreshed_at = time.monotonic()
            return self._row.session_data  # Another process has refreshed it.
        try:
            data = self._refresh()
        finally:
            if self._holds_lease:
                with bookkeeping("the end of a lease"):
                    GarminAuthenticationState.objects.release_lease(self._row.pk, owner)
        self._refreshed_at = time.monotonic()
        return data

    def _lease(self, owner: str) -> bool:
        """Take the lease, or wait for its holder. Return False if the holder stored a session.

        Raises:
            NotConnected: the user was disconnected in the meantime.
            GarminUnavailable: the holder failed, or took too long.
        """
        states = GarminAuthenticationState.objects
        gives_up_at = time.monotonic() + conf.LEASE + REFRESH_TIMEOUT
        holder, pause = "", POLL
        while True:
            lease = states.get_lease(self._row.pk)
            if lease is None or lease.version != self._row.version:
                if self._changed_meanwhile():
                    return False
                continue
            former, holder = holder, lease.owner
            if former and not holder:
                # It stored nothing. Asking Garmin again from each process would not help.
                raise GarminUnavailable("Another process has just failed to refresh this session.")
            if not lease.taken and states.take_lease(
                self._row.pk, self._row.version, owner, conf.LEASE
            ):
                self._took_over, self._holds_lease = bool(holder), True
                return True
            if time.monotonic() > gives_up_at:
                raise NotAsked("Another process takes too long to refresh this session.")
            release_pooled_connections()
            time.sleep(random.uniform(pause / 2, pause))  # noqa: S311
            pause = min(2 * pause, LONGEST_POLL)

    def _refresh(self) -> str:
        """Refresh the session while holding the lease, and store the result."""
        refuse_frozen()
        cooldown.require_none(self._cooldown)
        release_pooled_connections()
        refusal: SessionExpired | RefreshIncomplete
        try:
            fresh = self._ask_for_fresh()
        except RateLimited as exc:
            cooldown.update(self._cooldown, exc)
            raise
        except (SessionExpired, RefreshIncomplete) as exc:
            refusal = exc
        else:
            # First of all: if the engine rotates refresh tokens, the stored one is now worthless.
            signal = self._write_back(fresh)
            cooldown.update(self._cooldown, None)
            with bookkeeping("that Garmin accepts refreshes"):
                mass_failure.record_accepted(self._row.engine, self._row.domain)
            if signal:
                send_on_commit(signal, self._user, engine=self._row.engine)
            return self._row.session_data
        if isinstance(refusal, RefreshIncomplete):
            self._write_back(self._usable(refusal.session_data))
            raise GarminUnavailable(refusal.detail)
        if self._changed_meanwhile():
            return self._row.session_data  # The refused token is no longer the stored one.
        if self._took_over:
            # The previous holder may have rotated the token, and may still store the new one.
            raise GarminUnavailable(
                "The token was refused, but an unfinished refresh in another process may have "
                "replaced it. The next refusal is proof."
            )
        if not (self._believe_refusals or self._is_overdue()):
            row = self._row
            mass_failure.record_refused(row.pk, row.engine, row.domain, refusal)
        if GarminAuthenticationState.objects.end_session(
            self._row.pk, self._row.version, EndedReason.EXPIRED
        ):
            send_on_commit(signals.session_expired, self._user, engine=self._row.engine)
            raise refusal
        self._changed_meanwhile()
        return self._row.session_data

    def _ask_for_fresh(self) -> Secret:
        fresh = hide_frames(lambda: Secret(self._engine.refresh(self._row.session_data)))
        return self._usable(fresh.reveal())

    def _usable(self, session_data: str) -> Secret:
        return hide_frames(lambda: Secret(require_usable(self._engine, session_data)))

    def _is_overdue(self) -> bool:
        """Return whether the session should have ended by now, so that a refusal is no surprise."""
        ends_at = self._row.life.session_ends_at
        return ends_at is not None and ends_at <= timezone.now()

    def _life(self, fresh: Secret) -> Lifetime | None:
        """Return the times of the refreshed session, None if it still ends when it did."""
        if not self._engine.use_prolongs:
            return None
        return lifetime(self._engine.ends_at(fresh.reveal()), prolonged_at=timezone.now())

    def _write_back(self, fresh: Secret) -> Signal | None:
        """Store a refreshed session, and return the signal to send.

        None if a later refresh has already stored another.

        Raises:
            NotConnected, GarminUnavailable: the user was disconnected, or logged in again, in the
                meantime. That wins.
        """
        while not write_again(lambda: self._replace(fresh)):
            try:
                if write_again(self._changed_meanwhile):
                    return None
            except NotConnected:
                # This process was suspended for longer than its lease. Another one then tried the
                # old token, was refused, and cleared the session.
                if not write_again(lambda: self._restore(fresh)):
                    raise
                return signals.session_connected
            # Keys were rotated: it is still the same session, encrypted with another key.
        return signals.session_refreshed

    def _replace(self, fresh: Secret) -> bool:
        row, life = self._row, self._life(fresh)
        if not GarminAuthenticationState.objects.replace_session(
            row.pk, row.version, encrypt(fresh.reveal()), life
        ):
            return False
        self._holds_lease = False  # Replacing the session has ended it.
        self._row = replace(
            row, session_data=fresh.reveal(), version=row.version + 1, life=life or row.life
        )
        return True

    def _restore(self, fresh: Secret) -> bool:
        row, life = self._row, self._life(fresh) or self._row.life
        if not GarminAuthenticationState.objects.restore_session(
            row.pk,
            row.version,
            session_data=encrypt(fresh.reveal()),
            account_name=row.account_name,
            connected_at=row.connected_at,
            life=life,
        ):
            return False
        self._row = replace(row, session_data=fresh.reveal(), version=row.version + 2, life=life)
        return True

    def _changed_meanwhile(self) -> bool:
        """Read the row again, and return whether it holds other session data than this object.

        Raises:
            NotConnected: the session is gone.
            GarminUnavailable: the session of a new login has replaced it.
        """
        rows = GarminAuthenticationState.objects.using_write_db().with_session()
        if rows.filter(pk=self._row.pk, session_version=self._row.version).exists():
            return False
        latest = read_session(self._user)
        if (latest.engine, latest.connected_at) != (self._row.engine, self._row.connected_at):
            raise NotAsked("The user has connected again in the meantime. Open the session again.")
        # A rotation of keys changes only the version.
        changed = latest.session_data != self._row.session_data
        self._row = latest
        return changed


def _is_within(seconds: float, moment: datetime | None, now: datetime) -> bool:
    """Return whether a moment is at most so many seconds ago."""
    return moment is not None and timedelta(0) <= now - moment < timedelta(seconds=seconds)


def _briefly_locked(call: Callable[[], T]) -> T:
    """Make a call with a short lock timeout on SQLite: the block's own thread may hold the lock."""
    connection = connections[GarminAuthenticationState.objects.using_write_db().db]
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA busy_timeout = {SQLITE_WAIT * 1000}")
    return call()
