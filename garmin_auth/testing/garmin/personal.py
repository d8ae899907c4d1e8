"""The Personal API: a key is exchanged for an access token, with which data can be read.

What it answers to a refused key is not known, and so assumed: 401 with an empty JSON object. The
fields of the data are those of connectapi, where they are known, and few of them.
"""

import io
import re
import zipfile
from datetime import date

from . import answers, resources
from .accounts import Account, Refused
from .answers import Answer
from .journal import Journal
from .state import Garmin
from .wire import Request

HOST = "personal.connectapi"
TOKEN_PATH = "/personalapitoken-service/personal-api/personal-api-key/token"
SETTINGS = "/userprofile-service/userprofile/settings"
HEART_RATE = "/wellness-service/wellness/dailyHeartRate"
SUMMARIES = "/usersummary-service/v2/dailysummaries"
STEPS = r"/usersummary-service/stats/steps/daily/([\d-]+)/([\d-]+)"
ACTIVITIES = "/activitylist-service/activities/search/activities"
ACTIVITY = r"/activity-service/activity/(\d+)"
FILE = r"/download-service/files/activity/(\d+)"
LONGEST = 366  # days of one answer


def exchange(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    try:
        token = garmin.keys.exchange(key_of(request))
    except Refused:
        return refused_key()
    return answers.as_text(token)


def refused_key(status: int = 401) -> Answer:
    return answers.as_json({}, status)


def key_rate_limited(retry_after: int | None = 14) -> Answer:
    """Return the answer to too many requests of one key at once (reported)."""
    headers = [] if retry_after is None else [("Retry-After", str(retry_after))]
    return answers.as_json({}, 429, headers)


def key_of(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme == "ApiKey" else ""


def data(request: Request, account: Account) -> Answer:
    """Answer a request with a bearer token of `account`."""
    path, query = request.path, request.query
    if request.method != "GET":
        return answers.as_json({}, 405)
    if path == SETTINGS:
        return answers.as_json(settings(account))
    if match := re.fullmatch(FILE, path):
        return Answer(200, zipped(account, match[1]), "application/zip")
    if match := re.fullmatch(ACTIVITY, path):
        return answers.as_json(activity(match[1]))
    if path == ACTIVITIES:
        return answers.as_json([activity("7")])
    try:
        if path == HEART_RATE:
            return answers.as_json(heart_rate(account, date.fromisoformat(query.get("date", ""))))
        if path == SUMMARIES:
            days = _days(query.get("startDate", ""), query.get("endDate", ""))
            return answers.as_json(
                {"data": [resources.daily_summary(account, day) for day in days]}
            )
        if match := re.fullmatch(STEPS, path):
            return answers.as_json([steps(account, day) for day in _days(*match.groups())])
    except ValueError:
        return answers.as_json({}, 400)
    return answers.as_json({}, 404)


def settings(account: Account) -> dict:
    return {
        "displayName": account.display_name,
        "preferredLocale": "en",
        "measurementSystem": "metric",
        "timeZone": "Europe/London",
    }


def heart_rate(account: Account, day: date) -> dict:
    summary = resources.daily_summary(account, day)
    names = ("calendarDate", "minHeartRate", "maxHeartRate", "restingHeartRate")
    return {"userProfilePK": account.profile_id, **{name: summary[name] for name in names}}


def steps(account: Account, day: date) -> dict:
    summary = resources.daily_summary(account, day)
    names = {"totalSteps": "totalSteps", "totalDistance": "totalDistanceMeters"}
    return {
        "calendarDate": day.isoformat(),
        **{name: summary[known] for name, known in names.items()},
        "stepGoal": summary["dailyStepGoal"],
    }


def activity(number: str) -> dict:
    return {"activityId": int(number), "activityName": "Olathe Running"}


def zipped(account: Account, number: str) -> bytes:
    """Return the activity's file as a ZIP, the same each time."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        entry = zipfile.ZipInfo(f"{number}_ACTIVITY.fit")
        archive.writestr(entry, resources.activity_file(account, number))
    return content.getvalue()


def _days(start: str, end: str) -> list[date]:
    first, last = date.fromisoformat(start).toordinal(), date.fromisoformat(end).toordinal()
    if not 0 <= last - first < LONGEST:
        raise ValueError("days")
    return [date.fromordinal(day) for day in range(first, last + 1)]
