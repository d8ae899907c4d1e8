"""Re-encrypt everything stored with the first key of FERNET_KEYS, while the site is running.

Each row is written with one compare-and-set UPDATE: nothing is locked, and a write by another
process wins. Values that already use the first key are left alone, so a new run resumes one that
was killed.
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
from .models import GarminAuthenticationState
from .storage.deadlocks import RepeatingQuerySet
from .storage.keys import key_of, number_of_keys, under_first_key
from .storage.querysets import ENCRYPTED_FIELDS, DatabaseNow
from .storage.transactions import refuse_atomic

BATCH = 500  # rows
# Seconds to wait before each retry of a row that has changed or is being refreshed. A refresh takes
# one or two seconds. A row that is still busy after the last retry is left to the next run.
PAUSES = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)
# How many primary keys of unreadable rows a report lists, to keep its message readable.
MAX_PKS = 20


class Ciphertexts(models.Model):
    """The table with its encrypted columns as plain bytes, so that ciphertexts can be written.

    The real model's field compares nothing, so that no write could depend on a ciphertext. This
    model's own app registry hides it from migrations and from lists of all models.
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
    """The counts of a run. Only rows with an encrypted value are counted.

    Args:
        rows: rows looked at.
        rotated: rows that this run has re-encrypted.
        current: rows whose values all use the first key, at the end.
        left: rows with a value that still uses another key.
        unreadable: rows with a value that no key decrypts. They are kept as they are.
        by_key: for each position in FERNET_KEYS, the rows with a value that uses that key. A row
            whose values use different keys counts for each of them.
        stopped: ``"signal"`` if the run was interrupted; the counts then cover only the rows that
            it reached.
        duration_s: seconds from reading the first row to reading the last.
        unreadable_pks: primary keys of the first unreadable rows.
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
        """Return the counts as JSON-compatible data, in their documented order."""
        counts = {name: value for name, value in vars(self).items() if name != "unreadable_pks"}
        return {**counts, "duration_s": round(self.duration_s, 3)}


def rotate_keys(
    *,
    batch_size: int = BATCH,
    dry_run: bool = False,
    on_progress: Callable[[str, int, int], None] = lambda step, done, total: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Report:
    """Re-encrypt everything with the first key, then count the rows for each key.

    Args:
        batch_size: rows held in memory at a time.
        dry_run: only count, and write nothing.
        on_progress: called after each batch with the step (``"rotating"`` or ``"counting"``), the
            number of rows done, and the total number of rows.
        interrupted: called before each batch; if it returns True, the run ends.

    Returns:
        The counts at the end, which include what other processes wrote during the run.

    Raises:
        ImproperlyConfigured: FERNET_KEYS cannot be used.
        RuntimeError: called inside ``atomic()``, where all rows would stay locked until its end.
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
        # Count again, because a process without the new key may have written in the meantime.
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
    """A row's version and its ciphertexts, without empty columns."""

    pk: Any
    version: int
    stored: dict[str, bytes] = field(repr=False)

    @cached_property
    def positions(self) -> dict[str, int | None]:
        """The position of the key that each column's value uses."""
        return {column: key_of(ciphertext) for column, ciphertext in self.stored.items()}


def _refuse_unusable_keys() -> None:
    for problem in check_keys(None):
        if problem.level >= ERROR:
            raise ImproperlyConfigured(f"{problem.msg} {problem.hint}")


def _rows() -> models.QuerySet[Ciphertexts]:
    """Return the rows with an encrypted value, from the database that is written to."""
    held = (Q((f"{column}__isnull", False)) for column in ENCRYPTED_FIELDS)
    rows = Ciphertexts.objects.using(GarminAuthenticationState.objects.using_write_db().db)
    return rows.filter(Q(*held, _connector=Q.OR))


def _batches(size: int) -> Iterator[list[_Row]]:
    """Yield all rows by primary key, each batch with its own query."""
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
    """Convert a driver's binary value to bytes. Text, which SQLite may hold, becomes empty bytes.

    The encrypted field cannot read text, and no key decrypts empty bytes.
    """
    return bytes(stored) if isinstance(stored, bytes | bytearray | memoryview) else b""


def _rotate(row: _Row) -> tuple[_Row | None, bool]:
    """Re-encrypt one row with the first key.

    Returns:
        The row as it is now, None if it was deleted or emptied in the meantime; and whether it was
        re-encrypted.
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
            if position  # Not 0 (the first key), and not None (no key).
        }
        if not new:
            return row, False
        if _replace(row, new):
            return _Row(row.pk, row.version, {**row.stored, **new}), True
    return row, False


def _replace(row: _Row, new: dict[str, bytes]) -> bool:
    """Write the ciphertexts, unless the row has changed since they were made.

    The former ciphertexts are compared too, because a wrong code changes the pending login but
    neither ``session_version`` nor ``mfa_started_at``. No two encryptions are equal, so the same
    ciphertext means the same login.

    A row that is being refreshed is skipped: the new version would keep the lease's holder from
    storing its token.
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
