"""How many sessions are in which state, for the admin.

They are counted in one look at every row, and only when somebody asks ("Show counts"): no index can
make that cheap in a large table, and the list itself stays as fast as it is without them.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db.models import Count, Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from .engines import known_engines
from .models import CONNECTED, EndedReason, Status

OTHER_ENDS = [reason for reason in EndedReason if reason != EndedReason.EXPIRED]


@dataclass(frozen=True)
class Bar:
    """One line of a figure.

    Args:
        label: what is counted.
        count: how many rows.
        query: the query string that lists them.
    """

    label: str
    count: int
    query: str


@dataclass(frozen=True)
class Figure:
    """Rows counted in one way.

    Args:
        title: what by.
        total: how many rows there are, the full length of a bar.
        bars: the lines.
    """

    title: str
    total: int
    bars: list[Bar]


def figures_of(rows: QuerySet[Any]) -> list[Figure]:
    """Count rows by state, by engine, and by the age of their last validation, with one query.

    Args:
        rows: of GarminAuthenticationState.
    """
    day, week = (timezone.now() - timedelta(days=days) for days in (1, 7))
    known = sorted(known_engines())
    states = (
        (_("connected"), Q(status=Status.ACTIVE), f"status__exact={Status.ACTIVE}"),
        (
            _("waiting for a code"),
            Q(status=Status.MFA_PENDING),
            f"status__exact={Status.MFA_PENDING}",
        ),
        (
            _("ended by Garmin"),
            Q(status=Status.DISCONNECTED, ended_reason=EndedReason.EXPIRED),
            "act=reconnect",
        ),
        (
            _("otherwise not connected"),
            Q(status=Status.DISCONNECTED) & ~Q(ended_reason=EndedReason.EXPIRED),
            f"status__exact={Status.DISCONNECTED}&ended_reason__in={','.join(OTHER_ENDS)}",
        ),
    )
    engines = (
        *((name, CONNECTED & Q(engine=name), f"engine={name}") for name in known),
        (_("not known here"), CONNECTED & ~Q(engine__in=known), "engine=%3F"),
    )
    ages = (
        (
            _("in the last 24 hours"),
            CONNECTED & Q(last_validated__gte=day),
            "validated=day",
        ),
        (
            _("1 to 7 days ago"),
            CONNECTED & Q(last_validated__gte=week, last_validated__lt=day),
            "validated=week",
        ),
        (
            _("more than 7 days ago"),
            CONNECTED & Q(last_validated__lt=week),
            "validated=older",
        ),
        (_("never, though connected"), CONNECTED & Q(last_validated=None), "validated=never"),
    )
    figures = {_("By state"): states, _("By engine"): engines, _("By last validation"): ages}
    conditions = [condition for lines in figures.values() for _label, condition, _query in lines]
    counts = rows.order_by().aggregate(
        total=Count("pk"),
        connected=Count("pk", filter=CONNECTED),
        **{f"count_{n}": Count("pk", filter=condition) for n, condition in enumerate(conditions)},
    )
    numbers = iter(range(len(conditions)))
    return [
        Figure(
            title,
            counts["total"] if lines is states else counts["connected"],
            [
                Bar(label, counts[f"count_{next(numbers)}"], query)
                for label, _condition, query in lines
            ],
        )
        for title, lines in figures.items()
    ]
