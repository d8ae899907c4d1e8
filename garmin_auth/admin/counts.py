"""Count the rows in each state, for the admin.

Counting reads every row once. No index can make that cheap in a large table, so it is only done on
"Show counts", and the list stays fast without it.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db.models import Count, Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import pgettext

from ..engines import known_engines
from ..models import EndedReason, Status
from ..storage.querysets import HAS_SESSION
from .filters import who_must_act
from .unreadable import Unreadable, can_be_read, cannot_be_read

OTHER_ENDS = [reason for reason in EndedReason if reason != EndedReason.EXPIRED]


@dataclass(frozen=True)
class Bar:
    """One line of a figure.

    Args:
        label: what is counted, for the reader.
        count: the number of rows.
        query: the query string of the admin's list of these rows.
    """

    label: str
    count: int
    query: str


@dataclass(frozen=True)
class Figure:
    """Rows counted by one criterion.

    Args:
        title: the criterion, for the reader.
        total: the number of rows that a bar of full length stands for.
        bars: the lines.
    """

    title: str
    total: int
    bars: list[Bar]


def count_rows(rows: QuerySet[Any], unreadable: Unreadable) -> list[Figure]:
    """Count rows by status, engine, age of the last validation, and what users must do.

    This takes one query.

    Args:
        rows: a queryset of GarminAuthenticationState.
        unreadable: those of them that no key decrypts.

    Returns:
        One figure for each criterion. The first and the last count rows without a session too.
    """
    day, week = (timezone.now() - timedelta(days=days) for days in (1, 7))
    known = sorted(known_engines())
    states = (
        (
            pgettext("garmin_auth", "connected"),
            Q(status=Status.ACTIVE) & can_be_read(unreadable),
            f"status__exact={Status.ACTIVE}&session=readable",
        ),
        (
            pgettext("garmin_auth", "unreadable"),
            cannot_be_read(unreadable),
            "session=unreadable",
        ),
        (
            pgettext("garmin_auth", "verification code required"),
            Q(status=Status.MFA_PENDING),
            f"status__exact={Status.MFA_PENDING}",
        ),
        (
            _("disconnected by Garmin"),
            Q(status=Status.DISCONNECTED, ended_reason=EndedReason.EXPIRED),
            "act=reconnect",
        ),
        (
            pgettext("garmin_auth", "not connected for other reasons"),
            Q(status=Status.DISCONNECTED) & ~Q(ended_reason=EndedReason.EXPIRED),
            f"status__exact={Status.DISCONNECTED}&ended_reason__in={','.join(OTHER_ENDS)}",
        ),
    )
    engines = (
        *((name, HAS_SESSION & Q(engine=name), f"engine={name}") for name in known),
        (
            pgettext("garmin_auth", "unknown engine"),
            HAS_SESSION & ~Q(engine__in=known),
            "engine=%3F",
        ),
    )
    ages = (
        (
            pgettext("garmin_auth", "in the last 24 hours"),
            HAS_SESSION & Q(last_validated__gte=day),
            "validated=day",
        ),
        (
            pgettext("garmin_auth", "1 to 7 days ago"),
            HAS_SESSION & Q(last_validated__gte=week, last_validated__lt=day),
            "validated=week",
        ),
        (
            pgettext("garmin_auth", "more than 7 days ago"),
            HAS_SESSION & Q(last_validated__lt=week),
            "validated=older",
        ),
        (pgettext("garmin_auth", "never"), HAS_SESSION & Q(last_validated=None), "validated=never"),
    )
    must_act = who_must_act(rows)
    acts = (
        (_("connect again (disconnected by Garmin)"), must_act["reconnect"], "act=reconnect"),
        (_("connect again (has been failing)"), must_act["failing"], "act=failing"),
        (_("connect again (expires soon)"), must_act["soon"], "act=soon"),
        (_("enter the verification code"), must_act["code"], "act=code"),
    )
    figures = {
        pgettext("garmin_auth", "By status"): states,
        pgettext("garmin_auth", "By engine"): engines,
        pgettext("garmin_auth", "By last time it worked"): ages,
        pgettext("garmin_auth", "Users who must act"): acts,
    }
    conditions = [condition for lines in figures.values() for _label, condition, _query in lines]
    counts = rows.order_by().aggregate(
        total=Count("pk"),
        connected=Count("pk", filter=HAS_SESSION),
        **{f"count_{n}": Count("pk", filter=condition) for n, condition in enumerate(conditions)},
    )
    numbers = iter(range(len(conditions)))
    return [
        Figure(
            title,
            counts["total"] if lines in (states, acts) else counts["connected"],
            [
                Bar(label, counts[f"count_{next(numbers)}"], query)
                for label, _condition, query in lines
            ],
        )
        for title, lines in figures.items()
    ]
