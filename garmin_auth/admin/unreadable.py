"""Find the sessions that cannot be read, for the admin.

The database cannot tell: each signature has to be compared with the keys, here. That takes too long
for a large table, so only so many sessions are looked at, those first that have not worked for
longest. A session that cannot be read does not work, so where checks run, it is among these.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Q, QuerySet

from ..engines import installed_engines
from ..storage import keys
from ..storage.querysets import HAS_SESSION

# At most this many sessions are looked at, which takes about half a second.
LOOKED_AT = 20_000


@dataclass
class Unreadable:
    """The rows whose session no key in FERNET_KEYS decrypts.

    Args:
        pks: their primary keys.
        all_looked_at: whether no session was left out.
    """

    pks: list[Any] = field(default_factory=list)
    all_looked_at: bool = True


def find_unreadable(request: Any, model_admin: Any) -> Unreadable:
    """Return the unreadable rows among all that the admin shows, found once for each request.

    Args:
        request: the request, which the result is kept with.
        model_admin: the admin; rows that its ``get_queryset`` leaves out are not looked at.
    """
    if (found := found_already(request)) is None:
        found = request._garmin_auth_unreadable = _find(model_admin.get_queryset(request))
    return found


def found_already(request: Any) -> Unreadable | None:
    """Return what was found for this request, None if nothing has asked yet."""
    return getattr(request, "_garmin_auth_unreadable", None)


def no_key(unreadable: Unreadable) -> Q:
    """Return the condition that a session is encrypted with none of the keys."""
    return HAS_SESSION & Q(pk__in=unreadable.pks)


def cannot_be_read(unreadable: Unreadable) -> Q:
    """Return the condition that a session has no key, or an engine that is not installed."""
    return HAS_SESSION & (~Q(engine__in=installed_engines()) | Q(pk__in=unreadable.pks))


def can_be_read(unreadable: Unreadable) -> Q:
    """Return the condition that a session has a key and an engine."""
    return HAS_SESSION & Q(engine__in=installed_engines()) & ~Q(pk__in=unreadable.pks)


def _find(rows: QuerySet[Any]) -> Unreadable:
    found = Unreadable()
    for number, (pk, ciphertext) in enumerate(_least_recently_working(rows)):
        if number == LOOKED_AT:
            found.all_looked_at = False
            break
        if keys.key_of(bytes(ciphertext)) is None:
            found.pks.append(pk)
    return found


def _least_recently_working(rows: QuerySet[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield one session more than are looked at, if there are so many."""
    rows = rows.filter(HAS_SESSION)
    # In two steps, because databases disagree on where NULL comes in an index.
    never = rows.filter(last_validated=None).order_by("pk")
    worked = rows.filter(last_validated__isnull=False).order_by("last_validated", "pk")
    left = LOOKED_AT + 1
    for part in (never, worked):
        for row in part.values_list("pk", "session_data")[:left].iterator():
            left -= 1
            yield row
