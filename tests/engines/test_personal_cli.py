"""Garmin's own command-line client, unpatched, with a key that the site uses too."""

import json
import os
import subprocess
import sysconfig
import zipfile
from pathlib import Path

import pytest

from garmin_auth.login import connect_with_key
from garmin_auth.sessions import garmin_client
from tests.conftest import EMAIL

pytest.importorskip("garmin_personal_api", reason="Garmin's client needs Python 3.12 or newer")

pytestmark = pytest.mark.django_db(transaction=True)
DAY = "2026-11-22"
SETTINGS = "/userprofile-service/userprofile/settings"


@pytest.fixture
def key(garmin, account):
    return garmin.add_key(EMAIL)


@pytest.fixture
def gc_personal(garmin, tmp_path):
    """Run it with a key, as its owner would, and return what it printed."""

    def run(key, *arguments, expect=0):
        done = subprocess.run(
            [Path(sysconfig.get_path("scripts"), "gc-personal"), *arguments],
            cwd=tmp_path,
            env={
                **os.environ,
                **garmin.library_environment,
                "HOME": str(tmp_path),
                "GARMIN_PERSONAL_API_KEY": key,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout if expect == 0 else done.stderr

    return run


def test_it_reads_what_the_site_reads(user, key, garmin, gc_personal):
    connect_with_key(user, key)

    theirs = json.loads(gc_personal(key, "profile-settings"))

    with garmin_client(user) as client:
        assert theirs == client.connectapi(SETTINGS)
    hosts = {entry["host"] for entry in garmin.log if entry["step"] == "api"}
    assert hosts == {"personal.connectapi.garmin.com"}


def test_it_reads_data_by_date(key, gc_personal):
    days = ("--start-date", DAY, "--end-date", "2026-11-23")

    assert [day["calendarDate"] for day in json.loads(gc_personal(key, "steps", *days))] == [
        DAY,
        "2026-11-23",
    ]
    assert len(json.loads(gc_personal(key, "daily-summaries", *days))["data"]) == 2
    assert json.loads(gc_personal(key, "heart-rate", "--date", DAY))["calendarDate"] == DAY


def test_it_downloads_an_activity(key, gc_personal, tmp_path):
    [activity] = json.loads(gc_personal(key, "activities"))
    number = str(activity["activityId"])
    assert json.loads(gc_personal(key, "activity", number)) == activity

    gc_personal(key, "activity-download", number, "-o", "run.zip")

    with zipfile.ZipFile(tmp_path / "run.zip") as archive:
        assert archive.namelist() == [f"{number}_ACTIVITY.fit"]


def test_it_keeps_its_token_and_fetches_another(key, garmin, gc_personal):
    gc_personal(key, "profile-settings")
    gc_personal(key, "profile-settings")
    assert garmin.counts["personal_token"] == 1
    garmin.expire_access_tokens()
    assert "HTTP 401" in gc_personal(key, "profile-settings", expect=1)

    gc_personal(key, "refresh-token")

    gc_personal(key, "profile-settings")
    assert garmin.counts["personal_token"] == 2


def test_it_is_refused_as_the_site_is(key, garmin, gc_personal):
    gc_personal(key, "profile-settings")
    garmin.delete_key(key)

    assert "HTTP 401" in gc_personal(key, "profile-settings", expect=1)
    assert "HTTP 401" in gc_personal(key, "refresh-token", expect=1)
