"""Ask before many rows are changed, as Django does before it deletes some, and do it in time."""

import re
import time
from collections.abc import Iterator
from typing import Any

from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.template.response import TemplateResponse

# So many users are named on the page. The rest is counted.
NAMED = 10
# So many rows are read at a time.
BATCH = 100


def ask(
    model_admin: Any, request: Any, queryset: QuerySet[Any], back: str, **texts: Any
) -> TemplateResponse:
    """Return the page that asks whether to go on with an action.

    Its form has all rows in one field, because Django takes no more than 1,000 fields
    (DATA_UPLOAD_MAX_NUMBER_FIELDS).

    Args:
        model_admin: the admin whose action it is.
        request: the request that has chosen the action and the rows.
        queryset: the rows.
        back: the URL of the page to return to.
        texts: ``title``, ``question``, ``consequence`` and ``button``, for the reader.
    """
    pks = list(queryset.values_list("pk", flat=True))
    named = [state.user for state in queryset.select_related("user")[:NAMED]]
    context = {
        **model_admin.admin_site.each_context(request),
        **texts,
        "opts": model_admin.opts,
        "users": named,
        "more": len(pks) - len(named),
        "action": request.POST["action"],
        "action_checkbox_name": ACTION_CHECKBOX_NAME,
        "selected": request.POST.get(ACTION_CHECKBOX_NAME, ""),
        "rows": ",".join(map(str, pks)),
        "from_page": "from_page" in request.POST,
        "back": back,
    }
    request.current_app = model_admin.admin_site.name
    return TemplateResponse(request, "garmin_auth/admin/confirmation.html", context)


def confirmed_rows(request: Any, queryset: QuerySet[Any]) -> list[Any] | None:
    """Return the primary keys of the rows that were confirmed, None if they have to be asked about.

    Args:
        request: the request.
        queryset: the rows, if the form does not have them, because a script has sent it.
    """
    if request.POST.get("post") != "yes":
        return None
    if "rows" not in request.POST:
        return list(queryset.values_list("pk", flat=True))
    pks = request.POST["rows"].split(",")
    return [int(pk) for pk in pks if re.fullmatch(r"[0-9]{1,18}", pk)]


def in_time(queryset: QuerySet[Any], pks: list[Any], seconds: float) -> Iterator[Any]:
    """Yield the row of each key, None if it is gone, until the time is over.

    Args:
        queryset: rows; those that it does not have are not yielded.
        pks: the primary keys.
        seconds: for how long to go on.
    """
    ends = time.monotonic() + seconds
    for start in range(0, len(pks), BATCH):
        batch = pks[start : start + BATCH]
        rows = queryset.select_related("user").in_bulk(batch)
        for pk in batch:
            if time.monotonic() >= ends:
                return
            yield rows.get(pk)
