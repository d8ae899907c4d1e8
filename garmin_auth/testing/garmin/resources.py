"""The API behind a bearer token: profile, daily summary, upload, download, delete."""

import hashlib
import re
import time
from datetime import date

from . import answers
from .accounts import Account
from .answers import Answer
from .wire import Request

UPLOAD = "/upload-service/upload"
PROFILE = "/userprofile-service/socialProfile"


def answer(request: Request, account: Account) -> Answer:
    """Answer a request to connectapi with a bearer token of `account`."""
    path = request.path
    if path.startswith(PROFILE):
        return answers.as_json(profile(account))
    if path == "/userprofile-service/userprofile/user-settings":
        return answers.as_json(settings(account))
    if path.startswith("/usersummary-service/usersummary/daily"):
        try:
            day = date.fromisoformat(request.query.get("calendarDate", ""))
        except ValueError:
            return answers.bad_request()
        return answers.as_json(daily_summary(account, day))
    if path == UPLOAD and request.method == "POST":
        found = uploaded_file(request)
        if found is None:
            return answers.bad_request()
        return answers.as_json(upload_result(account, *found), 202)
    if match := re.fullmatch(r"/download-service/files/activity/(\d+)", path):
        return Answer(200, activity_file(account, match[1]), "application/zip")
    if re.fullmatch(r"/activity-service/activity/\d+", path) and request.method == "DELETE":
        return Answer(204)
    return answers.not_found()


def uploaded_file(request: Request) -> tuple[str, bytes] | None:
    """Return the name and content of the first file of a multipart body, or None."""
    boundary = re.search(r'boundary="?([^";]+)', request.headers.get("content-type", ""))
    if not boundary:
        return None
    for part in request.body.split(b"--" + boundary[1].encode())[1:]:
        head, _, content = part.partition(b"\r\n\r\n")
        name = re.search(rb'filename="([^"]*)"', head)
        if name:
            return name[1].decode("utf-8", "replace"), content.removesuffix(b"\r\n")
    return None


def upload_result(account: Account, filename: str, content: bytes) -> dict:
    upload_id = int.from_bytes(hashlib.sha256(content).digest()[:4], "big")
    return {
        "detailedImportResult": {
            "uploadId": upload_id,
            "uploadUuid": {"uuid": hashlib.sha256(content).hexdigest()[:32]},
            "owner": account.profile_id,
            "fileSize": len(content),
            "processingTime": 42,
            "creationDate": time.strftime("%Y-%m-%d %H:%M:%S.000 GMT", time.gmtime()),
            "ipAddress": None,
            "fileName": filename,
            "report": None,
            "successes": [{"internalId": upload_id, "externalId": None, "messages": None}],
            "failures": [],
        }
    }


def activity_file(account: Account, activity: str) -> bytes:
    return hashlib.shake_256(f"{account.guid}/{activity}".encode()).digest(2048)


def daily_summary(account: Account, day: date) -> dict:
    """Return the same numbers for the same account and day in every process."""
    dice = hashlib.sha256(f"{account.guid}/{day}".encode()).digest()
    steps = account.steps if account.steps is not None else 2000 + dice[0] * 60 + dice[1]
    resting = 45 + dice[2] % 25
    active = round(steps * 0.04)
    highly_active = 600 + dice[3] * 10
    return {
        "userProfileId": account.profile_id,
        "calendarDate": day.isoformat(),
        "uuid": hashlib.sha256(dice).hexdigest()[:32],
        "totalKilocalories": 1700 + active,
        "activeKilocalories": active,
        "totalSteps": steps,
        "totalDistanceMeters": round(steps * 0.8),
        "dailyStepGoal": 8000,
        "minHeartRate": resting - 4,
        "maxHeartRate": resting + 60 + dice[4] % 40,
        "minAvgHeartRate": resting - 2,
        "maxAvgHeartRate": resting + 55,
        "restingHeartRate": resting,
        "lastSevenDaysAvgRestingHeartRate": resting + 1,
        "maxStressLevel": 60 + dice[5] % 40,
        "averageStressLevel": 15 + dice[6] % 30,
        "stressQualifier": "BALANCED",
        "bodyBatteryAtWakeTime": 50 + dice[7] % 50,
        "bodyBatteryHighestValue": 60 + dice[7] % 40,
        "bodyBatteryLowestValue": 5 + dice[8] % 30,
        "moderateIntensityMinutes": dice[9] % 60,
        "vigorousIntensityMinutes": dice[10] % 40,
        "activeSeconds": highly_active * 3,
        "highlyActiveSeconds": highly_active,
        "sedentarySeconds": 40000,
        "sleepingSeconds": 25000 + dice[11] * 20,
        "floorsAscended": float(dice[12] % 20),
        "floorsDescended": float(dice[13] % 20),
        "averageSpo2": 95,
        "lowestSpo2": 90,
        "avgWakingRespirationValue": 14,
        "highestRespirationValue": 20,
        "lowestRespirationValue": 9,
    }


def settings(account: Account) -> dict:
    """Return the settings of which `garminconnect` reads the units (its `get_unit_system()`)."""
    return {"id": account.profile_id, "userData": {"measurementSystem": "metric"}}


def profile(account: Account) -> dict:
    """Return the fields of recorded traffic.

    `garth.UserProfile` cannot read them: it wants a `profileImageType`, which nobody has recorded.
    """
    nothing = (
        "facebookUrl twitterUrl personalWebsite motivation bio "
        "primaryActivity cyclingClassification otherActivity otherPrimaryActivity otherMotivation"
    )
    shown = (
        "showAge showWeight showHeight showWeightClass showAgeRange showGender showActivityClass "
        "showPersonalRecords showLifetimeTotals showUpcomingEvents showRecentFavorites "
        "showRecentDevice showRecentGear showBadges showLast12Months"
    )
    private = (
        "profileVisibility activityStartVisibility activityMapVisibility courseVisibility "
        "activityHeartRateVisibility activityPowerVisibility badgeVisibility"
    )
    image = f"https://s3.amazonaws.com/garmin-connect-prod/profile_images/{account.guid}"
    return {
        "id": account.profile_id + 1,
        "profileId": account.profile_id,
        "garminGUID": account.guid,
        "displayName": account.display_name,
        "fullName": account.full_name,
        "userName": account.email,
        "location": "Olathe, KS",
        "profileImageUuid": account.guid,
        "profileImageUrlLarge": f"{image}-large.png",
        "profileImageUrlMedium": f"{image}-medium.png",
        "profileImageUrlSmall": f"{image}-small.png",
        "favoriteActivityTypes": [],
        "runningTrainingSpeed": 3.0,
        "cyclingTrainingSpeed": 6.0,
        "favoriteCyclingActivityTypes": [],
        "cyclingMaxAvgPower": 0.0,
        "swimmingTrainingSpeed": 0.0,
        "showVO2Max": False,
        "userRoles": ["SCOPE_CONNECT_READ", "SCOPE_CONNECT_WRITE", "ROLE_CONNECTUSER"],
        "nameApproved": True,
        "userProfileFullName": account.full_name,
        "makeGolfScorecardsPrivate": True,
        "allowGolfLiveScoring": False,
        "allowGolfScoringByConnections": True,
        "userLevel": 3,
        "userPoint": 100,
        "levelUpdateDate": "2025-01-01T00:00:00.0",
        "levelIsViewed": False,
        "levelPointThreshold": 140,
        "userPointOffset": 0,
        "userPro": False,
        **dict.fromkeys(nothing.split()),
        **dict.fromkeys(shown.split(), False),
        **dict.fromkeys(private.split(), "private"),
    }
