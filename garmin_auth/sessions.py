"""Use a stored session, from any process: ``with garmin_client(user) as client:``."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

from cryptography.fernet import InvalidToken
from django.db import InterfaceError, OperationalError, connections
from django.views.decorators.debug import sensitive_variables

from . import evidence, pauses, signals
from .conf import conf
from .engines import get_stored_engine
from .engines.base import REFRESH_TIMEOUT
from .exceptions import (
    GarminAuthError,
    GarminUnavailable,
    NotConnected,
    RateLimited,
    SessionExpired,
    SessionUnreadable,
)
from .lifecycle import announce
from .models import GarminAuthenticationState
from .transactions import refuse_atomic

T = TypeVar("T")

# Seconds after which a long block writes, before its end, that the session works.
NOTE_EVERY = 60
# Seconds between two looks at a session that another process refreshes.
POLL = (0.05, 0.25)
# Seconds that the database may be away, in a failover or a restart, before a token that Garmin has
# rotated is lost, and between two tries to store it.
WRITE_FOR, WRITE_EVERY = 15, 0.5


@contextmanager
def garmin_client(user: Any) -> Iterator[Any]:
    """Open the user's session as a client of its engine (with garth, a ``garth.Client``).

    The access token is refreshed where that is due, and stored at once. When the block ends, also
    by an exception, the row is told what changed and that the session has worked. The client may
    be used by several threads of the block, and not after it.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.

    Yields:
        The client. What its calls raise is a GarminAuthError too: GarminRequestError for Garmin's
        4xx to your request; SessionExpired once Garmin has ended the session, which is then
        cleared; RateLimited and GarminUnavailable for all that says nothing about the session.

    Raises:
        NotConnected: the user has no session.
        SessionUnreadable: it cannot be opened; it is kept.
        RuntimeError: called inside ``atomic()``.
    """
    refuse_atomic("garmin_client")
    stored = StoredSession(user)
    try:
        yield stored.session.client
    finally:
        stored.close()


class StoredSession:
    """One user's session as it was read, and how it is written back.

    Args:
        user: whose it is; an ``AUTH_USER_MODEL`` instance.

    Raises:
        NotConnected, SessionUnreadable: as for ``garmin_client``.
    """

    @sensitive_variables()
    def __init__(self, user: Any) -> None:
        self._user = user
        self._row = _read(user)
        self._engine = get_stored_engine(self._row.engine)
        self.session = self._engine.open(
            self._row.session_data,
            self._renew,
            before=partial(pauses.respect, pauses.SITE),
            after=self._after,
        )
        self._thread, self._noted = threading.get_ident(), time.monotonic()
        # What the engine makes of it may be written differently from what was imported.
        self._written = self._held = self.session.session_data()
        self.refreshed = False
        # Whether a lease was taken over that its holder has not given back.
        self._took_over = False

    @property
    def engine_name(self) -> str:
        """The name of the engine that wrote it."""
        return self._row.engine

    @sensitive_variables()
    def ask_account_name(self) -> str:
        """Ask Garmin for the user name, with one cheap call. Raises GarminAuthError."""
        return self._engine.account_name(self.session)

    @sensitive_variables()
    def close(self, *, note: bool = True) -> None:
        """Write back what the block changed, and that the session has worked.

        Args:
            note: whether to write that it has worked; a run of checks does that for many at once.
        """
        data = self.session.session_data()
        # Not what it held before a renewal that was stored, and then broke: where refresh tokens
        # rotate, that is worthless.
        if data not in (self._written, self._held):
            self._replace(data)
        if note and self.session.worked:
            self._note()
        self.session.close()

    def _after(self, error: GarminAuthError | None) -> None:
        """Hear how a call of the block has ended."""
        pauses.heed(pauses.SITE, error)
        due = time.monotonic() >= self._noted + NOTE_EVERY
        # In another thread it would open a database connection that nobody closes.
        if error is None and due and threading.get_ident() == self._thread:
            self._note()

    def _note(self) -> None:
        self._noted = time.monotonic()
        GarminAuthenticationState.objects.mark_validated(self._row.pk, self._row.connected_at)

    @sensitive_variables()
    def _renew(self) -> str:
        """Return session data with a fresh access token, and store it before it is used.

        Raises:
            SessionExpired: Garmin has ended the session; it is cleared.
            NotConnected: the user was disconnected meanwhile.
            RateLimited, GarminUnavailable: nothing is known; what is stored stays. MassFailure is
                one of the latter.
        """
        self._held = self.session.session_data()
        owner = uuid4().hex
        if not self._lease(owner):
            return self._written  # Another process has refreshed it.
        try:
            return self._refresh()
        finally:
            GarminAuthenticationState.objects.release_lease(self._row.pk, owner)

    def _lease(self, owner: str) -> bool:
        """Take the lease, or wait until its holder has written. False: somebody has written.

        Raises:
            NotConnected: the user was disconnected meanwhile.
            GarminUnavailable: the holder failed, or takes too long.
        """
        states = GarminAuthenticationState.objects
        gives_up_at = time.monotonic() + conf.LEASE + REFRESH_TIMEOUT
        holder = ""
        while True:
            former, holder = holder, states.lease_owner(self._row.pk)
            if self._changed_meanwhile():  # Only then: whoever writes gives back with it.
                return False
            if former and not holder:
                # And nothing written: no use in all of us asking in turn.
                raise GarminUnavailable("Another process has just failed to refresh this session.")
            if states.take_lease(self._row.pk, self._row.version, owner, conf.LEASE):
                self._took_over = bool(holder)
                return True
            if time.monotonic() > gives_up_at:
                raise GarminUnavailable("Other processes take too long to refresh this session.")
            time.sleep(random.uniform(*POLL))  # noqa: S311

    def _refresh(self) -> str:
        """Exchange the token, as the one who may, and store what comes."""
        pauses.respect(pauses.SITE)
        try:
            fresh = self._engine.refresh(self._row.session_data)
        except RateLimited as exc:
            pauses.heed(pauses.SITE, exc)
            raise
        except SessionExpired as exc:
            refusal = exc
        else:
            # Before anything else: where refresh tokens rotate, the old one is already worthless.
            written = self._write_back(fresh)
            pauses.heed(pauses.SITE, None)
            evidence.accepted(self._row.engine)
            if written:
                self.refreshed = True
                announce(signals.session_refreshed, self._user, engine=self._row.engine)
            return self._written
        if self._changed_meanwhile():
            return self._written  # What was refused is no longer what is stored.
        if self._took_over:
            # Whoever held the lease before may have rotated the token, and still write what came.
            raise GarminUnavailable(
                "The token was refused after a process had not ended its refresh of it; "
                "the next refusal is proof."
            )
        evidence.require_proof(self._row.pk, self._row.engine, refusal)
        if GarminAuthenticationState.objects.expire_session(self._row.pk, self._row.version):
            announce(signals.session_expired, self._user, engine=self._row.engine)
            raise refusal
        self._changed_meanwhile()
        return self._written

    def _write_back(self, fresh: str) -> bool:
        """Store what a refresh brought. False: a refresh that began later was faster.

        Raises:
            NotConnected, GarminUnavailable: a disconnect or a new login came between, and wins.
        """
        while not self._insistently(lambda: self._replace(fresh)):
            if self._changed_meanwhile():
                return False
            # A rotation of keys: the session is the one that was read, written with another key.
        return True

    def _insistently(self, write: Callable[[], T]) -> T:
        """Write again, on a new connection, where the database has dropped ours or is away."""
        connection = connections[GarminAuthenticationState.objects.current().db]
        gives_up_at = time.monotonic() + WRITE_FOR
        while True:
            try:
                return write()
            except (OperationalError, InterfaceError):
                # In a TestCase's transaction there is nothing to write again.
                if connection.in_atomic_block or time.monotonic() > gives_up_at:
                    raise
            connection.close()
            time.sleep(WRITE_EVERY)

    def _replace(self, data: str) -> bool:
        row = self._row
        if not GarminAuthenticationState.objects.replace_session(row.pk, row.version, data):
            return False
        self._row = replace(row, session_data=data, version=row.version + 1)
        self._written = data
        return True

    def _changed_meanwhile(self) -> bool:
        """Read the row again; tell whether it holds other session data than we have.

        Raises:
            NotConnected: the session is gone.
            GarminUnavailable: a new login's session has taken its place.
        """
        rows = GarminAuthenticationState.objects.current().with_session().filter(pk=self._row.pk)
        if rows.filter(session_version=self._row.version).exists():
            return False
        latest = _read(self._user)
        if (latest.engine, latest.connected_at) != (self._row.engine, self._row.connected_at):
            raise GarminUnavailable(
                "The user has connected anew meanwhile; open the session again."
            )
        changed = latest.session_data != self._row.session_data
        self._row = latest
        if changed:  # A rotation of keys changes the version only.
            self._written = latest.session_data
        return changed


@dataclass(frozen=True)
class _Row:
    """What stands in the table. ``connected_at`` tells one session from a later login's."""

    pk: Any
    engine: str
    session_data: str = field(repr=False)
    version: int
    connected_at: datetime | None


def _read(user: Any) -> _Row:
    """Read the user's session, with one SELECT."""
    row, problem = None, ""
    try:
        row = (
            GarminAuthenticationState.objects.current()
            .filter(user_id=user.pk)
            .with_session()
            .values_list("pk", "engine", "session_data", "session_version", "connected_at")
            .first()
        )
    except InvalidToken:
        problem = "No key in FERNET_KEYS opens the stored session."
    except (UnicodeDecodeError, TypeError):  # TypeError: text in SQLite's binary column.
        problem = "The stored session is damaged."
    if problem:
        raise SessionUnreadable(problem)
    if row is None:
        raise NotConnected("The user has no stored session.")
    return _Row(*row)
