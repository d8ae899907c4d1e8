"""Put everything that is stored under the first key of FERNET_KEYS, while the site is in use.

Each row is one UPDATE of its own, by compare-and-set: nothing is locked, and whoever writes
meanwhile wins. What is under the first key already is left alone, so a run that was killed is
resumed by the next one.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from django.apps.registry import Apps
from django.core.checks import ERROR
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from .checks import check_keys
from .deadlocks import RepeatingQuerySet
from .keys import key_of, number_of_keys, under_first_key
from .models import ENCRYPTED_FIELDS, DatabaseNow, GarminAuthenticationState
from .transactions import refuse_atomic

BATCH = 500  # rows
# Seconds before a row that was changed, or is being refreshed, is tried again. A refresh takes
# one or two; a row that is still not free after all of these is left for the next run.
PAUSES = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)
# Keys of unreadable rows that a report holds, for a message that is still read.
MAX_PKS = 20


class Ciphertexts(models.Model):
    """The table with its encrypted columns as they are stored: bytes, to be compared and written.

    The real model cannot do it: its field encrypts all that ``update()`` is given, an expression
    too. A registry of its own keeps this one from migrations and from whoever asks for all models.
    """

    id = models.BigAutoField(primary_key=True)
    session_data = models.BinaryField(null=True)
    session_version = models.PositiveBigIntegerField()
    account_name = models.BinaryField(null=True)
    mfa_challenge = models.BinaryField(null=True)
    lease_expires_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField()

    objects: ClassVar[models.Manager["Ciphertexts"]] = RepeatingQuerySet["Ciphertexts"].as_manager()

    class Meta:
        apps = Apps()
        managed = False
        db_table = GarminAuthenticationState._meta.db_table

    def __str__(self) -> str:
        return str(self.pk)


@dataclass
class Report:
    """What a run found and did. A row is counted if it holds anything encrypted.

    Args:
        rows: rows looked at.
        rotated: rows that this run has rewritten.
        current: rows that hold nothing but values under the first key, at the end.
        left: rows with a value that is still under a former key.
        unreadable: rows with a value that no key opens; it is kept as it is.
        by_key: for each position in FERNET_KEYS, the rows with a value under that key. A row whose
            values are under different keys counts for each: all of them are needed.
        stopped: ``"signal"`` if the run was interrupted, and the counts are of what it had seen.
        duration_s: seconds from the first row read to the last one.
        unreadable_pks: the first keys of unreadable rows.
    """

    rows: int = 0
    rotated: int = 0
    current: int = 0
    left: int = 0
    unreadable: int = 0
    by_key: list[int] = field(default_factory=lambda: [0] * number_of_keys())
    stopped: str | None = None
    duration_s: float = 0.0
    unreadable_pks: list[Any] = field(default_factory=list)

    def count(self, row: "_Row", *, rotated: bool) -> None:
        positions = set(row.positions.values())
        self.rows += 1
        self.rotated += rotated
        self.current += positions <= {0}
        self.left += bool(positions - {0, None})
        for position in positions:
            if position is not None:
                self.by_key[position] += 1
        if None in positions:
            self.unreadable += 1
            if len(self.unreadable_pks) < MAX_PKS:
                self.unreadable_pks.append(row.pk)

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as JSON-compatible data, in the order that the command documents."""
        counts = {name: value for name, value in vars(self).items() if name != "unreadable_pks"}
        return {**counts, "duration_s": round(self.duration_s, 3)}


def rotate_keys(
    *,
    batch_size: int = BATCH,
    dry_run: bool = False,
    on_progress: Callable[[str, int, int], None] = lambda step, done, total: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Report:
    """Encrypt all that is stored with the first key, then count what is under which key.

    Args:
        batch_size: rows in memory at a time.
        dry_run: only count; nothing is written.
        on_progress: called after each batch with what is being done ("rotating" or "counting"),
            the rows done, and the rows that there are.
        interrupted: asked before each batch; True ends the run.

    Returns:
        The counts as they were found at the end, also of what others wrote during the run.

    Raises:
        ImproperlyConfigured: FERNET_KEYS cannot be used.
        RuntimeError: called inside ``atomic()``: all rows would be locked until its end.
    """
    refuse_atomic("rotate_keys")
    _refuse_unusable_keys()
    started = time.monotonic()

    def go_through(step: str, treat: Callable[["_Row"], tuple["_Row | None", bool]]) -> Report:
        report = Report()
        total = _rows().count()
        for batch in _batches(batch_size):
            if interrupted():
                report.stopped = "signal"
                break
            for found in batch:
                row, rotated = treat(found)
                if row is not None:
                    report.count(row, rotated=rotated)
            on_progress(step, report.rows, max(report.rows, total))
        return report

    report = Report() if dry_run else go_through("rotating", _rotate)
    if not report.stopped:
        # Not what was done but what there is: a process without the new key may have written too.
        census = go_through("counting", lambda row: (row, False))
        census.rotated = report.rotated
        if census.stopped and not dry_run:
            report.stopped = census.stopped
        else:
            report = census
    report.duration_s = time.monotonic() - started
    return report


@dataclass(frozen=True)
class _Row:
    """A row's version and ciphertexts; a column that holds nothing is not among them."""

    pk: Any
    version: int
    stored: dict[str, bytes] = field(repr=False)

    @cached_property
    def positions(self) -> dict[str, int | None]:
        """For each column, which key its value is under."""
        return {column: key_of(ciphertext) for column, ciphertext in self.stored.items()}


def _refuse_unusable_keys() -> None:
    for problem in check_keys(None):
        if problem.level >= ERROR:
            raise ImproperlyConfigured(f"{problem.msg} {problem.hint}")


def _rows() -> models.QuerySet[Ciphertexts]:
    """Return the rows with anything to encrypt, on the database that is written to."""
    held = (Q((f"{column}__isnull", False)) for column in ENCRYPTED_FIELDS)
    rows = Ciphertexts.objects.using(GarminAuthenticationState.objects.current().db)
    return rows.filter(Q(*held, _connector=Q.OR))


def _batches(size: int) -> Iterator[list[_Row]]:
    """Yield all rows in the order of their keys, each batch with a query of its own."""
    rows = _rows().order_by("pk")
    batch = _read(rows[:size])
    while batch:
        yield batch
        batch = _read(rows.filter(pk__gt=batch[-1].pk)[:size])


def _read(rows: models.QuerySet[Ciphertexts]) -> list[_Row]:
    values = rows.values_list("pk", "session_version", *ENCRYPTED_FIELDS)
    return [
        _Row(
            pk,
            version,
            {
                column: _as_bytes(ciphertext)
                for column, ciphertext in zip(ENCRYPTED_FIELDS, ciphertexts, strict=True)
                if ciphertext is not None
            },
        )
        for pk, version, *ciphertexts in values
    ]


def _as_bytes(stored: Any) -> bytes:
    """Return a driver's bytes as bytes; SQLite may hold text as well, which the field cannot."""
    return bytes(stored) if isinstance(stored, bytes | bytearray | memoryview) else b""


def _rotate(row: _Row) -> tuple[_Row | None, bool]:
    """Bring one row under the first key.

    Returns:
        The row as it is now, None if it was deleted or emptied meanwhile; whether it was rewritten.
    """
    for pause in (None, *PAUSES):
        if pause is not None:
            time.sleep(pause)
            latest = _read(_rows().filter(pk=row.pk))
            if not latest:
                return None, False
            row = latest[0]
        new = {
            column: under_first_key(row.stored[column])
            for column, position in row.positions.items()
            if position  # Neither the first key nor none.
        }
        if not new:
            return row, False
        if _replace(row, new):
            return _Row(row.pk, row.version, {**row.stored, **new}), True
    return row, False


def _replace(row: _Row, new: dict[str, bytes]) -> bool:
    """Write the ciphertexts, if what they were made from is still what is stored.

    The ciphertexts themselves are compared too. A code that Garmin refused changes the pending
    login and neither ``session_version`` nor ``mfa_started_at``; and as no two encryptions are
    alike, an equal ciphertext is the same login.

    A row that is being refreshed is left to its lease, so that no rotation makes the holder's
    fresh token come too late.
    """
    same = {column: row.stored[column] for column in new}
    changes: dict[str, Any] = {**new, "updated_at": timezone.now()}
    if "session_data" in new:
        changes["session_version"] = F("session_version") + 1
    return bool(
        _rows()
        .filter(pk=row.pk, session_version=row.version, **same)
        .exclude(lease_expires_at__gt=DatabaseNow())
        .update(**changes)
    )
