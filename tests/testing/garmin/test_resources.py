"""The simulator's API."""

import hashlib
import io

import garth
import garth.sso

from tests.testing.wire import (
    ADA,
    API,
    BOB,
    PROFILE,
    bearer,
)


def test_garth_reads_the_profile(ada, garmin, new_client):
    client = new_client(garmin.issue_session(ada["email"]))

    profile = client.profile

    assert (profile["userName"], profile["displayName"]) == (ada["email"], ada["display_name"])


def test_garth_reads_the_daily_summary_of_the_day(garmin, new_client):
    garmin.add_account(*ADA, steps=12345)
    client = new_client(garmin.issue_session(ADA[0]))

    summary = garth.DailySummary.get("2026-02-03", client=client)

    assert (summary.total_steps, str(summary.calendar_date)) == (12345, "2026-02-03")


def test_daily_summary_is_the_accounts_own_and_the_days(garmin, ada, http):
    garmin.add_account(*BOB)
    url = f"{API}/usersummary-service/usersummary/daily/"

    def read(email, day):
        headers = {"Authorization": bearer(garmin.issue_session(email))}
        return http.get(url, params={"calendarDate": day}, headers=headers, timeout=5).json()

    first = read(ADA[0], "2026-02-03")
    assert read(ADA[0], "2026-02-03") == first
    assert read(ADA[0], "2026-02-04")["uuid"] != first["uuid"]
    assert read(BOB[0], "2026-02-03")["uuid"] != first["uuid"]


def test_daily_summary_under_ones_own_name(as_ada, garmin, ada):
    url = f"{API}/usersummary-service/usersummary/daily/{ada['display_name']}"

    answer = as_ada.get(url, params={"calendarDate": "2026-02-03"}, timeout=5)

    assert answer.json()["userProfileId"] == ada["profile_id"]
    assert garmin.counts["foreign_bearer"] == 0


def test_ones_bearer_on_anothers_path_is_counted(as_ada, garmin):
    bob = garmin.add_account(*BOB)
    url = f"{API}/usersummary-service/usersummary/daily/{bob['display_name']}"

    answer = as_ada.get(url, params={"calendarDate": "2026-02-03"}, timeout=5)

    assert answer.status_code == 403
    assert garmin.counts["foreign_bearer"] == 1


def test_garth_uploads_a_file(garmin, ada, new_client):
    client = new_client(garmin.issue_session(ada["email"]))
    content = bytes(range(256)) * 300 + b"\r\n--\r\n"
    file = io.BytesIO(content)
    file.name = "/somewhere/run.fit"

    result = client.upload(file)

    assert result["detailedImportResult"]["fileName"] == "run.fit"
    assert garmin.uploads == [
        {
            "account": ada["email"],
            "filename": "run.fit",
            "sha256": hashlib.sha256(content).hexdigest(),
            "size": len(content),
        }
    ]


def test_upload_in_chunks_is_read(as_ada, garmin):
    body = b'--b\r\nContent-Disposition: form-data; filename="a.fit"\r\n\r\nDATA\r\n--b--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}

    as_ada.post(
        f"{API}/upload-service/upload",
        data=iter([body[:50], body[50:]]),
        headers=headers,
        timeout=5,
    )

    assert garmin.uploads[0]["size"] == 4


def test_download_gives_the_same_bytes_again(as_ada):
    url = f"{API}/download-service/files/activity/"

    assert as_ada.get(url + "1", timeout=5).content == as_ada.get(url + "1", timeout=5).content
    assert as_ada.get(url + "1", timeout=5).content != as_ada.get(url + "2", timeout=5).content


def test_delete_is_answered_without_content(as_ada):
    answer = as_ada.delete(f"{API}/activity-service/activity/1", timeout=5)

    assert (answer.status_code, answer.content) == (204, b"")


def test_unknown_resource_is_garmins_404(as_ada):
    answer = as_ada.get(f"{API}/nothing-service/nothing", timeout=5)

    assert answer.status_code == 404
    assert answer.json() == {"message": "HTTP 404 Not Found", "error": "NotFoundException"}


def test_api_without_a_bearer_is_refused_in_other_words(garmin, http):
    answer = http.get(PROFILE, timeout=5)

    assert answer.status_code == 401
    assert "www-authenticate" not in answer.headers
