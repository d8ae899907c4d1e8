import re
import threading
import time
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.db.backends.signals import connection_created
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from garmin_auth.admin import CHECK_WORKERS
from garmin_auth.models import GarminAuthenticationState, Status

from .conftest import EMAIL, PASSWORD, raw_row, state_of
from .test_models import spoil

pytestmark = pytest.mark.django_db
LIST = reverse("admin:garmin_auth_garminauthenticationstate_changelist")


@pytest.fixture
def staff(client, django_user_model):
    """Log a member of staff in who has the given permissions, and return the test client."""

    def staff(*permissions, superuser=False):
        user = django_user_model.objects.create_user(
            "staff", password=PASSWORD, is_staff=True, is_superuser=superuser
        )
        for permission in permissions:
            codename = f"{permission}_garminauthenticationstate"
            user.user_permissions.add(Permission.objects.get(codename=codename))
        client.force_login(user)
        return client

    return staff


def change_url(user):
    return reverse("admin:garmin_auth_garminauthenticationstate_change", args=[state_of(user).pk])


def run(client, action, *users):
    return client.post(
        LIST,
        {"action": action, "_selected_action": [state_of(user).pk for user in users]},
        follow=True,
    )


def text_of(response):
    return response.content.decode()


def test_the_list_shows_user_and_state(staff, user, connect):
    connect(user)

    page = text_of(staff("view").get(LIST))

    assert "ana" in page
    assert '<td class="field-state">connected</td>' in page


def test_both_facts_are_shown_of_a_connected_user_who_logs_in_again(staff, user, connect):
    connect(user)
    GarminAuthenticationState.objects.begin_challenge(user.pk, "{}")

    assert "connected, waiting for a code" in text_of(staff("view").get(LIST))


def test_a_row_without_session_says_why(staff, user, connect, garmin):
    connect(user)
    GarminAuthenticationState.objects.disconnect(user.pk, "staff")

    assert "disconnected by staff" in text_of(staff("view").get(LIST))


def test_an_unreadable_row_breaks_nothing_and_is_shown_as_such(staff, user, other_user, connect):
    connect(user)
    connect(other_user, "ben@example.com")
    spoil(user)
    client = staff("view")

    assert text_of(client.get(LIST)).count("unreadable: no key opens it") == 1
    assert "unreadable: no key opens it" in text_of(client.get(change_url(user)))
    assert "unreadable" not in text_of(client.get(change_url(other_user)))


def test_a_row_of_an_engine_that_is_not_installed_is_shown_as_such(staff, user, connect):
    connect(user)
    GarminAuthenticationState.objects.update(engine="another")

    assert "unreadable: its engine is not installed" in text_of(staff("view").get(LIST))


def test_a_login_under_way_is_shown_beside_what_there_is(staff, user, other_user, connect):
    connect(user)
    states = GarminAuthenticationState.objects
    states.begin_login(user.pk, "one", 60)
    states.begin_login(other_user.pk, "two", 60)
    client = staff("view")

    page = text_of(client.get(LIST))

    assert "connected, a login is under way" in page
    assert "never connected, a login is under way" in page
    assert "a login is under way" in text_of(client.get(change_url(user)))


def test_a_login_that_failed_or_died_is_not_under_way(staff, user, other_user):
    states = GarminAuthenticationState.objects
    states.begin_login(user.pk, "one", 60)
    states.fail_login(user.pk, "one", "InvalidCredentials")
    states.begin_login(other_user.pk, "two", -1)

    page = text_of(staff("view").get(LIST))

    assert page.count('class="field-state') == 2
    assert "a login is under way" not in page


def test_nothing_secret_is_shown_not_even_encrypted(staff, user, connect):
    connect(user)
    GarminAuthenticationState.objects.begin_challenge(user.pk, '{"cookies": "secret"}')
    client = staff(superuser=True)

    pages = text_of(client.get(LIST)) + text_of(client.get(change_url(user)))

    assert "gAAAA" not in pages
    assert EMAIL not in pages


def test_the_list_takes_a_constant_number_of_queries_that_decrypt_nothing(staff, connect):
    client = staff("view")

    def queries():
        with CaptureQueriesContext(
            connection,
        ) as captured:
            assert client.get(LIST).status_code == 200
        return captured.captured_queries

    for number in range(2):
        connect(User.objects.create_user(f"user {number}"), f"{number}@example.com")
    few = queries()
    for number in range(2, 30):
        user = User.objects.create_user(f"user {number}")
        connect(user, f"{number}@example.com")
        GarminAuthenticationState.objects.begin_login(user.pk, "login", 60)
    GarminAuthenticationState.objects.filter(pk__gt=10).update(engine="another")
    # Were one of them decrypted, the page would fail.
    GarminAuthenticationState.objects.update(session_data="x")
    for user in User.objects.filter(username__startswith="user"):
        spoil(user, "account_name")

    many = queries()

    assert len(many) == len(few)
    assert not any("account_name" in query["sql"] for query in many)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("status__exact=active", 1),
        ("status__exact=mfa_pending", 0),
        ("engine=garth", 1),
        ("validated=never", 1),
        ("validated=day", 0),
        ("validated=week", 0),
        ("validated=older", 0),
        ("q=ana", 1),
        ("q=ana@site", 1),
        ("q=nobody", 0),
        (f"q={EMAIL}", 0),
    ],
)
def test_filters_and_search(staff, user, connect, query, found):
    connect(user)

    page = text_of(staff("view").get(f"{LIST}?{query}"))

    assert page.count('class="field-state') == found


@pytest.mark.parametrize(
    ("days", "found"),
    [(-1, "past"), (0.01, "soon"), (29, "soon"), (31, "later"), (None, "unknown")],
)
def test_filter_by_when_the_session_ends(staff, user, connect, days, found):
    connect(user)
    ends = None if days is None else timezone.now() + timedelta(days=days)
    GarminAuthenticationState.objects.update(session_ends_at=ends)
    client = staff("view")

    shown = {
        name: text_of(client.get(f"{LIST}?ends={name}")).count('class="field-state')
        for name in ("past", "soon", "later", "unknown")
    }

    assert shown == {"past": 0, "soon": 0, "later": 0, "unknown": 0, found: 1}


def test_a_row_without_session_ends_at_no_unknown_time(staff, user, connect):
    connect(user)
    GarminAuthenticationState.objects.disconnect(user.pk, "user")

    assert 'class="field-state' not in text_of(staff("view").get(f"{LIST}?ends=unknown"))


def test_a_row_without_session_counts_for_no_engine(staff, user, other_user, connect):
    connect(user)
    connect(other_user, "ben@example.com")
    GarminAuthenticationState.objects.disconnect(other_user.pk, "user")
    client = staff("view")

    assert "garth (1)" in text_of(client.get(f"{LIST}?_facets=True"))
    assert text_of(client.get(f"{LIST}?engine=garth")).count('class="field-state') == 1


def test_filters_count_by_engine_status_and_end_on_request(staff, connect):
    for number in range(3):
        connect(User.objects.create_user(f"user {number}"), f"{number}@example.com")
    user = User.objects.get(username="user 0")
    GarminAuthenticationState.objects.filter(user=user).update(engine="garminconnect")
    client = staff("view")

    def counts(query):
        page = text_of(client.get(LIST + query))
        return set(re.findall(r"<a href=\"\?[^\"]*\"[^>]*>\s*([^<]*\(\d+\))", page))

    assert counts("") == set()
    shown = counts("?_facets=True")
    assert {"garminconnect (1)", "garth (2)", "connected (3)", "disconnected (0)"} <= shown
    assert {"not known here (0)", "not known, though connected (3)", "later (0)"} <= shown


def test_filter_by_an_engine_that_is_not_known_here(staff, user, other_user, connect):
    connect(user)
    connect(other_user, "ben@example.com")
    GarminAuthenticationState.objects.filter(user=user).update(engine="another")

    page = text_of(staff("view").get(f"{LIST}?engine=?"))

    assert page.count('class="field-state') == 1
    assert "not installed" in page


def test_the_engines_to_filter_by_are_not_asked_of_the_table(staff, user, connect):
    connect(user)
    client = staff("view")

    with CaptureQueriesContext(connection) as captured:
        page = text_of(client.get(LIST))

    assert "?engine=garminconnect" in page
    assert not any("DISTINCT" in query["sql"] for query in captured.captured_queries)


def test_a_filter_by_time_puts_the_earliest_first(staff, user, other_user, connect):
    now = timezone.now()
    for someone, days in ((user, 2), (other_user, 3)):
        connect(someone, f"{someone.pk}@example.com")
        GarminAuthenticationState.objects.filter(user=someone).update(
            last_validated=now - timedelta(days=days), session_ends_at=now + timedelta(days=days)
        )
    client = staff("view")

    def users(query):
        return re.findall(r">(ana|ben)</a>", text_of(client.get(LIST + query)))

    assert users("?validated=week") == ["ben", "ana"]
    assert users("?ends=soon") == ["ana", "ben"]
    assert users("") == ["ben", "ana"]


@pytest.mark.parametrize(("searched", "found"), [("ana", 2), ("an", 2), ("anab", 1)])
def test_a_search_finds_whoever_has_it_in_the_name(staff, user, connect, searched, found):
    connect(user)
    connect(User.objects.create_user("anabel"), "anabel@example.com")

    page = text_of(staff("view").get(f"{LIST}?q={searched}"))

    assert page.count('class="field-state') == found


def test_nobody_may_add_a_row(staff):
    response = staff(superuser=True).get(reverse("admin:garmin_auth_garminauthenticationstate_add"))

    assert response.status_code == 403


def test_a_row_cannot_be_saved_not_even_by_a_superuser(staff, user, connect):
    connect(user)
    client = staff(superuser=True)

    assert 'name="_save"' not in text_of(client.get(change_url(user)))
    assert client.post(change_url(user), {}).status_code == 403


def test_without_any_permission_the_list_is_closed(staff):
    assert staff().get(LIST).status_code == 403


def test_viewers_have_no_actions(staff, user, connect, garmin):
    connect(user)
    client = staff("view")

    assert 'value="check_now"' not in text_of(client.get(LIST))
    run(client, "disconnect", user)

    assert state_of(user).status == Status.ACTIVE
    assert garmin.counts["api"] == 0


def test_change_permission_is_enough_for_list_page_and_actions(staff, user, connect):
    connect(user)
    client = staff("change")

    page = text_of(client.get(LIST))

    assert 'value="check_now"' in page
    assert 'value="disconnect"' in page
    assert 'value="delete_selected"' not in page
    assert client.get(change_url(user)).status_code == 200


def test_check_now_tells_each_result_and_writes_the_history(
    staff, user, other_user, connect, garmin
):
    connect(user)
    connect(other_user, "ben@example.com")
    garmin.revoke("ben@example.com")

    page = text_of(run(staff("change"), "check_now", user, other_user))

    assert "“ana”: works" in page
    assert "“ben”: was ended by Garmin; the user has to connect again" in page
    assert state_of(other_user).status == Status.DISCONNECTED
    assert LogEntry.objects.filter(object_id=str(state_of(user).pk)).count() == 1
    entry = LogEntry.objects.get(object_id=str(state_of(other_user).pk))
    assert "was ended by Garmin" in entry.get_change_message()


def test_check_now_keeps_what_cannot_be_judged(staff, user, connect, garmin):
    connect(user)
    before = raw_row(user)["session_data"]
    garmin.fail("api", "status", status=503, times=None)

    page = text_of(run(staff("change"), "check_now", user))

    assert "“ana”: could not be judged, and is kept" in page
    assert raw_row(user)["session_data"] == before


def test_check_now_says_what_to_do_about_an_unreadable_row(staff, user, connect):
    connect(user)
    spoil(user)

    assert "end of FERNET_KEYS" in text_of(run(staff("change"), "check_now", user))


def test_check_now_of_a_row_without_session(staff, user, connect):
    connect(user)
    GarminAuthenticationState.objects.disconnect(user.pk, "user")

    assert "“ana”: is not connected" in text_of(run(staff("change"), "check_now", user))


def test_disconnect_says_who_asked_for_it(staff, user, other_user, connect):
    connect(user)
    GarminAuthenticationState.objects.begin_challenge(other_user.pk, "{}")
    GarminAuthenticationState.objects.end_challenge(other_user.pk)

    page = text_of(run(staff("change"), "disconnect", user, other_user))

    assert "“ana”: disconnected" in page
    assert "“ben”: was not connected" in page
    assert state_of(user).ended_reason == "staff"


@pytest.mark.django_db(transaction=True)
def test_actions_work_under_atomic_requests(staff, user, connect):
    connect(user)
    client = staff("change")
    connection.settings_dict["ATOMIC_REQUESTS"] = True
    try:
        page = text_of(run(client, "check_now", user))
    finally:
        connection.settings_dict["ATOMIC_REQUESTS"] = False

    assert "“ana”: works" in page


def test_rows_can_be_deleted_with_the_permission(staff, user, connect):
    connect(user)
    spoil(user)
    client = staff("delete", "view")

    page = client.post(change_url(user).replace("change", "delete"), {"post": "yes"}, follow=True)

    assert page.status_code == 200
    assert state_of(user) is None


def test_rows_cannot_be_deleted_without_it(staff, user, connect):
    connect(user)

    response = staff("change").post(change_url(user).replace("change", "delete"), {"post": "yes"})

    assert response.status_code == 403


def test_a_user_with_an_unreadable_row_can_be_deleted_in_the_admin(staff, user, connect):
    connect(user)
    spoil(user)
    client = staff(superuser=True)
    url = reverse("admin:auth_user_delete", args=[user.pk])

    assert client.get(url).status_code == 200
    assert client.post(url, {"post": "yes"}).status_code == 302
    assert not User.objects.filter(pk=user.pk).exists()


def test_a_known_engine_that_is_not_installed_is_for_staff_to_act(staff, user, connect, settings):
    connect(user)
    settings.GARMIN_AUTH_ENGINES = {"lost": "no_such_package.Engine"}
    GarminAuthenticationState.objects.update(engine="lost")

    assert "field-state" in text_of(staff("view").get(f"{LIST}?act=engine"))


# Figures above the list


def test_the_figures_stand_above_the_list_on_request_and_lead_to_the_rows(
    staff, user, other_user, connect
):
    connect(user)
    connect(other_user, "ben@example.com")
    row = state_of(other_user)
    GarminAuthenticationState.objects.expire_session(row.pk, row.session_version)
    # It has worked before.
    GarminAuthenticationState.objects.filter(pk=row.pk).update(last_validated=timezone.now())
    client = staff("view")

    page = text_of(client.get(f"{LIST}?_facets=True"))

    shown = re.findall(
        r'<a href="\?([^"]*)">([^<]*)</a></th>\s*<td>(\d+)</td>\s*'
        r'<td aria-hidden="true"><progress max="(\d+)" value="(\d+)">',
        page,
    )
    figures = {label: (int(count), int(most)) for _query, label, count, most, _value in shown}
    assert figures["connected"] == (1, 2)
    assert figures["ended by Garmin"] == (1, 2)
    assert figures["garth"] == (1, 1)
    assert figures["never, though connected"] == (1, 1)
    assert len(shown) == 4 + 3 + 4
    for query, label, count, _most, _value in shown:
        rows = text_of(client.get(f"{LIST}?{query}")).count('class="field-state')
        assert rows == int(count), label


def test_the_list_counts_nothing_by_itself(staff, user, connect):
    connect(user)

    page = text_of(staff("view").get(LIST))

    assert "<progress" not in page
    assert "Show how many there are" in page


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, set()),
        ({"session_ends_at": timedelta(days=9)}, {"soon"}),
        ({"session_ends_at": timedelta(days=-1)}, {"soon"}),
        ({"last_validated": timedelta(days=-8)}, {"staff"}),
        ({"engine": "another"}, {"engine"}),
    ],
)
def test_filter_by_who_must_act(staff, user, connect, changes, found):
    connect(user)
    now = timezone.now()
    GarminAuthenticationState.objects.update(
        **{
            name: now + value if isinstance(value, timedelta) else value
            for name, value in changes.items()
        }
    )
    client = staff("view")

    shown = {
        name
        for name in ("reconnect", "soon", "code", "staff", "engine")
        if 'class="field-state' in text_of(client.get(f"{LIST}?act={name}"))
    }

    assert shown == found


def test_dates_are_told_in_words_and_exactly_on_hover(staff, user, connect):
    connect(user)
    GarminAuthenticationState.objects.update(
        session_ends_at=timezone.now() + timedelta(days=9, minutes=1),
        last_validated=timezone.now() - timedelta(hours=3),
    )

    page = text_of(staff("view").get(LIST))

    told = re.findall(r'<time datetime="([^"]+)" title="([^"]+)">([^<]+)</time>', page)
    assert [words for _machine, _exact, words in told] == ["just now", "in 9 days", "3 hours ago"]
    assert all(exact.endswith(" UTC") for _machine, exact, _words in told)


# Many at once


@pytest.mark.django_db(transaction=True)
def test_check_now_of_many_says_it_in_one_message(staff, connect, garmin):
    users = [User.objects.create_user(f"user {number}") for number in range(12)]
    for number, user in enumerate(users):
        connect(user, f"{number}@example.com")
    garmin.revoke("3@example.com")

    response = run(staff("change"), "check_now", *users)

    (message,) = response.context["messages"]
    assert "Checked: 12. Working: 11. Ended by Garmin: 1." in str(message)
    assert LogEntry.objects.count() == 12


def check_all(client):
    """Select every row of every page, and check them; return the messages and the seconds."""
    data = {
        "action": "check_now",
        "select_across": 1,
        "_selected_action": [GarminAuthenticationState.objects.values_list("pk", flat=True)[0]],
    }
    began = time.monotonic()
    response = client.post(LIST, data)
    took = time.monotonic() - began
    assert response.status_code == 302
    return [str(message) for message in client.get(LIST).context["messages"]], took


@pytest.mark.django_db(transaction=True)
def test_check_now_of_500_says_it_in_one_message_and_leaves_nothing_open(
    staff, people, garmin, monkeypatch
):
    people(500)
    garmin.revoke("user0007@example.com")
    # However slow this machine is.
    monkeypatch.setattr("garmin_auth.admin.CHECK_SECONDS", 300)
    opened, here = [], threading.get_ident()

    def remember(connection, **kwargs):
        if threading.get_ident() != here:
            opened.append(connection)

    connection_created.connect(remember)
    try:
        told, _took = check_all(staff("change"))
    finally:
        connection_created.disconnect(remember)

    assert told == [
        "Checked: 500. Working: 499. Ended by Garmin: 1. Not to be judged, and kept: 0. "
        "Unreadable: 0. Not connected: 0."
    ]
    assert LogEntry.objects.count() == 500
    assert GarminAuthenticationState.objects.filter(last_checked_at=None).count() == 0
    assert 1 < len(opened) <= CHECK_WORKERS
    assert [connection for connection in opened if connection.connection is not None] == []
    assert not any(thread.name == "garmin_auth check" for thread in threading.enumerate())


@pytest.mark.django_db(transaction=True)
def test_check_now_of_500_ends_in_time_however_slow_garmin_is(staff, people, garmin, monkeypatch):
    people(500)
    garmin.set_latency(0.5)  # All of them would take half a minute.
    monkeypatch.setattr("garmin_auth.admin.CHECK_SECONDS", 2)

    told, took = check_all(staff("change"))

    summary, rest = told
    checked = LogEntry.objects.count()
    assert summary.startswith(f"Checked: {checked}. Working: {checked}.")
    assert rest.startswith(f"Not checked: {500 - checked}.")
    assert 0 < checked < 100
    assert took < 25


@pytest.mark.django_db(transaction=True)
def test_check_now_begins_no_check_when_its_time_is_over(staff, connect, garmin, monkeypatch):
    users = [User.objects.create_user(f"user {number}") for number in range(12)]
    for number, user in enumerate(users):
        connect(user, f"{number}@example.com")
    monkeypatch.setattr("garmin_auth.admin.CHECK_SECONDS", 0)

    page = text_of(run(staff("change"), "check_now", *users))

    assert "Not checked: 12." in page
    assert garmin.counts["api"] == 0


# A site's own user admin


@pytest.fixture
def user_page(user):
    """Return the text of the user's page in an admin that shows the Garmin account."""
    from django.contrib.admin import AdminSite
    from django.contrib.auth.admin import UserAdmin
    from django.test import RequestFactory

    from garmin_auth.admin import GarminAccountLink

    class SiteUserAdmin(GarminAccountLink, UserAdmin):
        pass

    def user_page(viewer):
        request = RequestFactory().get("/")
        request.user = viewer
        response = SiteUserAdmin(User, AdminSite()).change_view(request, str(user.pk))
        return response.context_data["adminform"], response

    return user_page


def sections(adminform):
    return {
        str(fieldset.name): "".join(field.contents() for line in fieldset for field in line)
        for fieldset in adminform
        if str(fieldset.name) == "Garmin account"
    }


def test_a_users_page_leads_to_their_state(user_page, user, connect):
    connect(user)
    viewer = User.objects.create_superuser("root")

    adminform, _response = user_page(viewer)

    assert f'href="{change_url(user)}"' in sections(adminform)["Garmin account"]
    assert "connected" in sections(adminform)["Garmin account"]


def test_a_users_page_says_that_there_is_nothing(user_page):
    adminform, _response = user_page(User.objects.create_superuser("root"))

    assert sections(adminform) == {"Garmin account": "not connected"}


def test_a_users_page_shows_no_state_to_who_may_not_see_it(user_page, user, connect):
    connect(user)
    viewer = User.objects.create_user("helper", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="change_user"))

    adminform, _response = user_page(viewer)

    assert sections(adminform) == {}
