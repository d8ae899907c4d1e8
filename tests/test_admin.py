import re
import threading
import time
from datetime import timedelta
from html import unescape

import pytest
from django.contrib import admin
from django.contrib.admin import ModelAdmin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import Permission, User
from django.db import connection, models
from django.db.backends.signals import connection_created
from django.test import Client
from django.test.utils import CaptureQueriesContext, isolate_apps
from django.urls import path, reverse
from django.utils import timezone

from garmin_auth.admin import GarminAccountLink, GarminAuthenticationStateAdmin
from garmin_auth.exceptions import InvalidCredentials
from garmin_auth.logins.records import to_record
from garmin_auth.models import GarminAuthenticationState, Status
from garmin_auth.signals import session_disconnected
from tests.conftest import EMAIL, PASSWORD, raw_row, state_of
from tests.rows import damage
from tests.urls import urlpatterns

pytestmark = [pytest.mark.django_db, pytest.mark.every_database]
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


def run(client, action, *users, **further):
    selected = [state_of(user).pk for user in users]
    data = {"action": action, "_selected_action": selected, **further}
    return client.post(LIST, data, follow=True)


def answers_of(page):
    """What the form of a confirmation page sends."""
    form = page.content.decode().partition('<form class="ga-confirm"')[2].partition("</form>")[0]
    return dict(re.findall(r'name="(\w+)" value="([^"]*)"', form))


def confirm(client, page, url=LIST):
    """Confirm what a page asks; return the page that follows, and its messages as text."""
    response = client.post(url, answers_of(page), follow=True)
    return response, [str(message) for message in response.context["messages"]]


@pytest.fixture
def disconnected():
    """Collect who is told to be disconnected, by whom."""
    told = []

    def remember(user, reason, **kwargs):
        told.append((user.username, reason))

    session_disconnected.connect(remember)
    yield told
    session_disconnected.disconnect(remember)


def text_of(response):
    return response.content.decode()


def words_of(response):
    """The text of a page without its tags."""
    return re.sub(r"<[^>]*>", "", text_of(response))


def test_the_list_shows_user_and_state(staff, user, connect):
    connect(user)

    page = text_of(staff("view").get(LIST))

    assert "ana" in page
    assert '<td class="field-state"><span class="ga-state ga-good">connected</span></td>' in page


def test_both_facts_are_shown_of_a_connected_user_who_logs_in_again(staff, user, connect):
    connect(user)
    GarminAuthenticationState.objects.begin_challenge(user.pk, "{}")

    assert "connected, verification code required" in words_of(staff("view").get(LIST))


def test_a_row_without_session_says_why(staff, user, connect, garmin):
    connect(user)
    GarminAuthenticationState.objects.disconnect(user.pk, "staff")

    assert "disconnected by staff" in text_of(staff("view").get(LIST))


def test_an_unreadable_row_breaks_nothing_and_is_shown_as_such(staff, user, other_user, connect):
    connect(user)
    connect(other_user, "ben@example.com")
    damage(user)
    client = staff("view")

    assert text_of(client.get(LIST)).count("unreadable (no key in FERNET_KEYS matches)") == 1
    assert "unreadable (no key in FERNET_KEYS matches)" in text_of(client.get(change_url(user)))
    assert "unreadable" not in text_of(client.get(change_url(other_user)))


def test_a_row_of_an_engine_that_is_not_installed_is_shown_as_such(staff, user, connect):
    connect(user)
    GarminAuthenticationState.objects.update(engine="another")

    assert "unreadable (engine not installed)" in text_of(staff("view").get(LIST))


def test_states_differ_in_their_class(staff, people):
    kinds = {
        "good": people(5)[0],
        "bad": User.objects.get(username="user0001"),
        "off": User.objects.get(username="user0002"),
        "waiting": User.objects.get(username="user0003"),
    }
    damage(kinds["bad"])
    states = GarminAuthenticationState.objects
    states.disconnect(kinds["off"].pk, "user")
    states.disconnect(kinds["waiting"].pk, "user")
    states.begin_challenge(kinds["waiting"].pk, "{}")
    row = state_of(User.objects.get(username="user0004"))
    states.end_session(row.pk, row.session_version, "expired")

    page = text_of(staff("view").get(LIST))

    shown = re.findall(r'ga-state ga-(\w+)">([^<]*)<', page)
    assert sorted(shown) == [
        ("bad", "disconnected by Garmin"),
        ("bad", "unreadable (no key in FERNET_KEYS matches)"),
        ("good", "connected"),
        ("off", "disconnected by the user"),
        ("waiting", "verification code required"),
    ]


def test_a_row_without_session_shows_no_engine(staff, user, other_user, connect):
    connect(user)
    states = GarminAuthenticationState.objects
    states.disconnect(user.pk, "user")
    states.begin_challenge(other_user.pk, "{}")
    client = staff("view")

    page = text_of(client.get(LIST))

    assert re.findall(r'field-session_engine">([^<]*)<', page) == ["-", "-"]
    assert state_of(other_user).engine == ""
    page = words_of(client.get(change_url(user)))
    assert "garth" not in page
    assert "None" not in page


def test_the_page_of_an_unreadable_row_says_nowhere_that_it_is_connected(staff, user, connect):
    connect(user)
    damage(user)

    page = words_of(staff("view").get(change_url(user)))

    assert "unreadable (no key in FERNET_KEYS matches)" in page
    assert "(connected)" not in page


def test_a_login_under_way_is_shown_beside_what_there_is(staff, user, other_user, connect):
    connect(user)
    states = GarminAuthenticationState.objects
    states.begin_login(user.pk, "one", 60)
    states.begin_login(other_user.pk, "two", 60)
    client = staff("view")

    page = words_of(client.get(LIST))

    assert "connected, sign-in in progress" in page
    assert "never connected, sign-in in progress" in page
    assert "sign-in in progress" in text_of(client.get(change_url(user)))


def test_a_login_that_failed_or_died_is_not_under_way(staff, user, other_user):
    states = GarminAuthenticationState.objects
    states.begin_login(user.pk, "one", 60)
    states.fail_login(user.pk, "one", "InvalidCredentials")
    states.begin_login(other_user.pk, "two", -1)

    page = text_of(staff("view").get(LIST))

    assert page.count('class="field-state') == 2
    assert "sign-in in progress" not in page


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
        damage(user, "account_name")

    many = queries()

    assert len(many) == len(few)


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


def test_counts_beside_the_filters_look_up_no_row_among_those_of_a_choice(staff, user, connect):
    """Of a million rows, the primary keys of a choice would not fit into PostgreSQL's memory."""
    connect(user)
    client = staff("view")

    with CaptureQueriesContext(connection) as queries:
        client.get(f"{LIST}?_facets=True")

    counts = [each["sql"] for each in queries if "__c" in each["sql"]]
    assert counts
    assert not any("IN (SELECT" in sql for sql in counts)


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
    assert {"garminconnect (1)", "garth (2)", "connected or unreadable (3)"} <= shown
    assert {
        "disconnected (0)",
        "unknown engine (0)",
        "unknown (3)",
        "in more than 30 days (0)",
    } <= shown


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


@pytest.fixture
def search_fields(rf, monkeypatch):
    """Return what the list searches in on a site with this user model."""

    def search_fields(user_model):
        monkeypatch.setattr("garmin_auth.admin.get_user_model", lambda: user_model)
        list_admin = GarminAuthenticationStateAdmin(GarminAuthenticationState, admin.AdminSite())
        return list_admin.get_search_fields(rf.get("/"))

    return search_fields


@isolate_apps("tests")
def test_a_search_takes_a_user_model_that_does_not_derive_from_djangos(search_fields):
    class Person(models.Model):  # noqa: DJ008
        login = models.CharField(max_length=40, unique=True)
        USERNAME_FIELD = "login"

    class Member(Person):  # noqa: DJ008
        email = models.EmailField()

    assert search_fields(Person) == ("user__login",)
    assert search_fields(Member) == ("user__login", "user__email")


@isolate_apps("tests")
def test_a_search_leaves_out_a_user_name_that_is_a_row_of_its_own(search_fields):
    class Address(models.Model):  # noqa: DJ008
        email = models.EmailField(primary_key=True)

    class Person(AbstractBaseUser):
        address = models.OneToOneField(Address, models.PROTECT)
        email = models.EmailField()
        USERNAME_FIELD = "address"

    assert search_fields(Person) == ("user__email",)


def test_a_mass_failure_names_the_engine_the_users_and_the_command(
    staff, django_user_model, connect
):
    for number in range(3):
        user = django_user_model.objects.create_user(f"user{number}")
        state = connect(user, f"user{number}@example.com")
        GarminAuthenticationState.objects.refuse_exchange(state.pk, "garth", "garmin.com")

    text = text_of(staff("view").get(LIST))

    assert "refused the sessions of 3 users of the engine garth" in text
    assert "manage.py check_garmin_sessions --believe-refusals garth." in text


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
    run(client, "disconnect", user, post="yes")

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

    assert "“ana”: The connection works." in page
    assert "“ben”: Garmin has disconnected this account. The user has to connect it again." in page
    assert state_of(other_user).status == Status.DISCONNECTED
    assert LogEntry.objects.filter(object_id=str(state_of(user).pk)).count() == 1
    entry = LogEntry.objects.get(object_id=str(state_of(other_user).pk))
    assert "Garmin has disconnected this account." in entry.get_change_message()


def test_check_now_keeps_what_cannot_be_judged(staff, user, connect, garmin):
    connect(user)
    before = raw_row(user)["session_data"]
    garmin.fail("api", "status", status=503, times=None)

    page = text_of(run(staff("change"), "check_now", user))

    assert "“ana”: The check was inconclusive, and the session was kept" in page
    assert raw_row(user)["session_data"] == before


def test_check_now_says_what_to_do_about_an_unreadable_row(staff, user, connect):
    connect(user)
    damage(user)

    assert "they were encrypted with to FERNET_KEYS" in text_of(
        run(staff("change"), "check_now", user)
    )


def test_check_now_of_a_row_without_session(staff, user, connect):
    connect(user)
    GarminAuthenticationState.objects.disconnect(user.pk, "user")

    assert "“ana”: The Garmin account is not connected." in text_of(
        run(staff("change"), "check_now", user)
    )


def test_disconnect_says_who_asked_for_it(staff, user, other_user, connect):
    connect(user)
    GarminAuthenticationState.objects.begin_challenge(other_user.pk, "{}")
    GarminAuthenticationState.objects.end_challenge(other_user.pk)

    client = staff("change")
    asked = run(client, "disconnect", user, other_user)

    page = text_of(confirm(client, asked)[0])

    assert "“ana”: The Garmin account was disconnected." in page
    assert "“ben”: The Garmin account was not connected." in page
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

    assert "“ana”: The connection works." in page


def test_rows_can_be_deleted_with_the_permission(staff, user, connect):
    connect(user)
    damage(user)
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
    damage(user)
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


# Unreadable rows


def users_in(page):
    return re.findall(r"field-user[^>]*><a[^>]*>([^<]*)<", page)


@pytest.fixture
def unreadable_rows(people):
    """Connect five users, of whom two are unreadable: user0001 by key, user0002 by engine."""
    users = people(5)
    damage(users[1])
    GarminAuthenticationState.objects.filter(user=users[2]).update(engine="another")
    return users


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("session=unreadable", {"user0001", "user0002"}),
        ("session=readable", {"user0000", "user0003", "user0004"}),
        ("act=key", {"user0001"}),
        ("act=engine", {"user0002"}),
    ],
)
def test_filter_by_whether_the_session_can_be_read(staff, unreadable_rows, query, found):
    assert set(users_in(text_of(staff("view").get(f"{LIST}?{query}")))) == found


def test_the_figures_count_unreadable_rows_apart(staff, unreadable_rows):
    figure = staff("view").get(f"{LIST}?_facets=True").context_data["figures"][0]

    counts = {bar.label: bar.count for bar in figure.bars}
    assert (counts["connected"], counts["unreadable"]) == (3, 2)


def test_unreadable_rows_are_looked_for_first_where_they_have_not_worked_longest(
    staff, unreadable_rows, monkeypatch
):
    monkeypatch.setattr("garmin_auth.admin.unreadable.LOOKED_AT", 2)
    now = timezone.now()
    rows = GarminAuthenticationState.objects
    for number, user in enumerate(unreadable_rows):
        rows.filter(user=user).update(last_validated=now - timedelta(days=number))
    rows.filter(user=unreadable_rows[1]).update(last_validated=None)
    client = staff("view")

    response = client.get(f"{LIST}?act=key")

    assert users_in(text_of(response)) == ["user0001"]
    (message,) = response.context["messages"]
    assert "Only the 2 sessions that worked least recently" in str(message)
    assert list(client.get(LIST).context["messages"]) == []


def test_unreadable_rows_are_looked_for_once_a_request(staff, unreadable_rows):
    client = staff("view")

    with CaptureQueriesContext(connection) as captured:
        client.get(f"{LIST}?_facets=True&act=key&session=unreadable")

    read = [
        query["sql"]
        for query in captured.captured_queries
        if "session_data" in query["sql"] and "account_name" not in query["sql"]
    ]
    # Once for those that never worked, and once for the others.
    assert len([sql for sql in read if "garminauthenticationstate" in sql]) == 2


@pytest.mark.parametrize(
    ("connected", "found"), [(timedelta(days=30), ["ana"]), (timedelta(days=6), [])]
)
def test_a_session_that_never_worked_counts_from_its_start(staff, user, connect, connected, found):
    connect(user)
    GarminAuthenticationState.objects.update(
        last_validated=None, connected_at=timezone.now() - connected
    )

    assert users_in(text_of(staff("view").get(f"{LIST}?act=staff"))) == found


def test_the_figures_count_only_what_the_list_of_a_subclass_has(
    staff, user, other_user, connect, rf
):
    class OnlyAna(GarminAuthenticationStateAdmin):
        def get_queryset(self, request):
            return super().get_queryset(request).filter(user__username="ana")

    connect(user)
    connect(other_user, "ben@example.com")
    damage(other_user)
    request = rf.get("/", {"_facets": "True"})
    request.user = User.objects.create_superuser("root")

    response = OnlyAna(GarminAuthenticationState, admin.site).changelist_view(request)

    figures = response.context_data["figures"]
    assert [figure.total for figure in figures] == [1, 1, 1, 1]
    assert [bar.label for bar in figures[0].bars if bar.count] == ["connected"]


# Figures above the list


def test_the_figures_stand_above_the_list_on_request_and_lead_to_the_rows(
    staff, user, other_user, connect
):
    connect(user)
    connect(other_user, "ben@example.com")
    row = state_of(other_user)
    GarminAuthenticationState.objects.end_session(row.pk, row.session_version, "expired")
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
    assert figures["disconnected by Garmin"] == (1, 2)
    assert figures["garth"] == (1, 1)
    assert figures["never"] == (1, 1)
    assert len(shown) == 5 + 4 + 4 + 4
    for query, label, count, _most, _value in shown:
        rows = text_of(client.get(f"{LIST}?{unescape(query)}")).count('class="field-state')
        assert rows == int(count), label


@pytest.mark.parametrize("language", ["en", "de"])
def test_the_bars_have_numbers_that_a_browser_can_read(staff, settings, language):
    settings.USE_THOUSAND_SEPARATOR, settings.LANGUAGE_CODE = True, language
    users = User.objects.bulk_create(User(username=f"user{n:04}") for n in range(1000))
    GarminAuthenticationState.objects.bulk_create(
        GarminAuthenticationState(user=user) for user in users
    )

    page = text_of(staff("view").get(f"{LIST}?_facets=True"))

    assert '<progress max="1000" value="1000"></progress>' in page


def test_the_list_counts_nothing_by_itself(staff, user, connect):
    connect(user)

    page = text_of(staff("view").get(LIST))

    assert "<progress" not in page
    assert "Show counts by status" in page


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
    assert "Checked: 12. Working: 11. Disconnected by Garmin: 1." in str(message)
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
def test_check_now_of_100_says_it_in_one_message_and_leaves_nothing_open(
    staff, people, garmin, monkeypatch
):
    people(100)
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
        "Checked: 100. Working: 99. Disconnected by Garmin: 1. Inconclusive: 0. "
        "Unreadable: 0. Not connected: 0."
    ]
    assert LogEntry.objects.count() == 100
    assert GarminAuthenticationState.objects.filter(last_checked_at=None).count() == 0
    assert len(opened) > 1
    assert [connection for connection in opened if connection.connection is not None] == []
    assert [connection for connection in opened if connection.connection is not None] == []
    assert not any(thread.name == "garmin_auth check" for thread in threading.enumerate())


@pytest.mark.django_db(transaction=True)
def test_check_now_of_100_ends_in_time_however_slow_garmin_is(staff, people, garmin, monkeypatch):
    people(100)
    garmin.set_latency(1)  # All of them would take 13 s.
    monkeypatch.setattr("garmin_auth.admin.CHECK_SECONDS", 2)

    told, took = check_all(staff("change"))

    summary, rest = told
    checked = LogEntry.objects.count()
    assert summary.startswith(f"Checked: {checked}. Working: {checked}.")
    assert rest.startswith(f"{100 - checked} accounts were not checked")
    assert 0 < checked < 80
    assert took < 45


@pytest.mark.django_db(transaction=True)
def test_check_now_begins_no_check_when_its_time_is_over(staff, connect, garmin, monkeypatch):
    users = [User.objects.create_user(f"user {number}") for number in range(12)]
    for number, user in enumerate(users):
        connect(user, f"{number}@example.com")
    monkeypatch.setattr("garmin_auth.admin.CHECK_SECONDS", 0)

    page = text_of(run(staff("change"), "check_now", *users))

    assert "12 accounts were not checked" in page
    assert garmin.counts["api"] == 0


# Disconnecting and deleting


@pytest.mark.parametrize("action", ["disconnect", "delete_selected"])
def test_nothing_is_done_before_it_is_confirmed(
    staff, user, connect, action, django_capture_on_commit_callbacks, disconnected
):
    connect(user)
    client = staff("change", "delete")

    with django_capture_on_commit_callbacks(execute=True):
        page = run(client, action, user)

    assert page.status_code == 200
    assert "<li>ana</li>" in text_of(page)
    assert state_of(user).status == Status.ACTIVE
    assert disconnected == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("action", ["disconnect", "delete_selected"])
def test_120_accounts_are_asked_about_once_and_told_in_one_message(
    staff, people, action, disconnected, settings, monkeypatch
):
    # However slow this machine is.
    monkeypatch.setattr("garmin_auth.admin.CHANGE_SECONDS", 300)
    settings.DATA_UPLOAD_MAX_NUMBER_FIELDS = 100
    users = people(120)  # More fields than a form may have.
    client = staff("change", "delete")
    data = {"action": action, "select_across": 1, "_selected_action": state_of(users[0]).pk}
    with CaptureQueriesContext(connection) as captured:
        page = client.post(LIST, data)
    assert len(captured.captured_queries) < 30
    assert text_of(page).count("<li>user") == 10
    assert "and 110 more" in text_of(page)

    _page, told = confirm(client, page)

    assert told == [
        {
            "disconnect": "Disconnected: 120. Not connected: 0.",
            "delete_selected": "120 Garmin accounts were deleted.",
        }[action]
    ]
    assert len(disconnected) == LogEntry.objects.count() == 120
    left = 0 if action == "delete_selected" else 120
    assert GarminAuthenticationState.objects.count() == left
    assert not GarminAuthenticationState.objects.with_session().exists()


@pytest.mark.parametrize("action", ["disconnect", "delete_selected"])
def test_only_what_was_shown_is_confirmed(staff, people, action, user, connect):
    people(12)
    client = staff("change", "delete")
    row = GarminAuthenticationState.objects.first()
    page = client.post(LIST, {"action": action, "select_across": 1, "_selected_action": row.pk})
    connect(user)

    confirm(client, page)

    assert GarminAuthenticationState.objects.with_session().get().user == user


@pytest.mark.parametrize(
    ("action", "told"),
    [
        ("disconnect", "12 accounts were not disconnected, because it took too long."),
        ("delete_selected", "12 accounts were not deleted, because it took too long."),
    ],
)
def test_nothing_more_is_begun_when_the_time_is_over(staff, people, action, told, monkeypatch):
    users = people(12)
    client = staff("change", "delete")
    monkeypatch.setattr("garmin_auth.admin.CHANGE_SECONDS", 0)

    _page, messages = confirm(client, run(client, action, *users))

    assert messages[-1].startswith(told)
    assert GarminAuthenticationState.objects.with_session().count() == 12


@pytest.mark.parametrize("action", ["disconnect", "delete_selected"])
def test_a_confirmation_needs_the_permission(staff, user, connect, action):
    connect(user)
    needed = {"disconnect": "change", "delete_selected": "delete"}[action]
    other = {"change": "delete", "delete": "change"}[needed]
    client = staff("view", other)

    run(client, action, user, post="yes", rows=str(state_of(user).pk), select_across="1")

    assert state_of(user).status == Status.ACTIVE


def test_a_confirmation_takes_no_nonsense(staff, user, connect):
    connect(user)

    response = run(staff("change"), "disconnect", user, post="yes", rows="x,,-1,²")

    assert response.status_code == 200
    assert state_of(user).status == Status.ACTIVE


def test_a_site_without_the_action_that_deletes_has_none_here(staff, user, connect):
    connect(user)
    client = staff("change", "delete")
    assert 'value="delete_selected"' in text_of(client.get(LIST))
    admin.site.disable_action("delete_selected")
    try:
        assert 'value="delete_selected"' not in text_of(client.get(LIST))
    finally:
        admin.site._actions["delete_selected"] = admin.site.get_action("delete_selected")


def test_a_row_that_others_depend_on_is_kept(staff, people, settings):
    people(12)

    class Protecting(GarminAuthenticationStateAdmin):
        def get_deleted_objects(self, objs, request):
            *found, _protected = super().get_deleted_objects(objs, request)
            return *found, [state for state in objs if state.user.username == "user0003"]

    site = admin.AdminSite(name="staff")
    site.register(GarminAuthenticationState, Protecting)
    settings.ROOT_URLCONF = type(
        "urls", (), {"urlpatterns": [path("staff/", site.urls), *urlpatterns]}
    )
    url = reverse("staff:garmin_auth_garminauthenticationstate_changelist")
    rows = GarminAuthenticationState.objects.order_by("pk")
    asked = {"action": "delete_selected", "_selected_action": [row.pk for row in rows]}
    client = staff("change", "delete")

    page = client.post(url, asked)
    assert "Cannot delete" in page.context_data["title"]  # Django's own page says why.
    client.post(url, {**asked, "post": "yes"})
    told = [str(message) for message in client.get(url).context["messages"]]

    assert told == [
        "11 Garmin accounts were deleted.",
        "1 account was not deleted, because other objects depend on it.",
    ]
    assert rows.get().user.username == "user0003"


def test_deleting_one_row_tells_that_it_is_disconnected(
    staff, user, other_user, connect, django_capture_on_commit_callbacks, disconnected
):
    connect(user)
    GarminAuthenticationState.objects.begin_challenge(other_user.pk, "{}")
    GarminAuthenticationState.objects.end_challenge(other_user.pk)
    client = staff("delete", "view")

    with django_capture_on_commit_callbacks(execute=True):
        for someone in (user, other_user):
            url = change_url(someone).replace("change", "delete")
            assert client.post(url, {"post": "yes"}).status_code == 302

    assert disconnected == [("ana", "staff")]
    assert not GarminAuthenticationState.objects.exists()


# The page of one account


def buttons_of(page):
    return re.findall(r'<button[^>]* name="action" value="(\w+)"', text_of(page))


def test_the_page_of_an_account_checks_it_and_comes_back(staff, user, connect, garmin):
    connect(user)
    client = staff("change")
    page = client.get(change_url(user))
    assert buttons_of(page) == ["check_now", "disconnect"]
    form = text_of(page).partition('<form class="ga-actions"')[2].partition("</form>")[0]
    sent = dict(re.findall(r'name="(\w+)" value="([^"]*)"', form.partition("<button")[0]))
    url = re.search(r'action="([^"]*)"', form)[1]

    response = client.post(url, {**sent, "action": "check_now"}, follow=True)

    assert response.redirect_chain == [(change_url(user), 302)]
    assert "“ana”: The connection works." in text_of(response)


def test_the_page_of_an_account_disconnects_it_and_comes_back(staff, user, connect):
    connect(user)
    client = staff("change")

    asked = run(client, "disconnect", user, from_page="1")
    assert f'href="{change_url(user)}"' in text_of(asked)
    response, told = confirm(client, asked)

    assert response.redirect_chain == [(change_url(user), 302)]
    assert told == ["“ana”: The Garmin account was disconnected."]


def test_viewers_have_no_buttons(staff, user, connect):
    connect(user)

    assert buttons_of(staff("view").get(change_url(user))) == []


def test_the_page_of_an_account_says_how_the_last_login_failed(staff, user):
    states = GarminAuthenticationState.objects
    states.begin_login(user.pk, "one", 60)
    states.fail_login(user.pk, "one", to_record(InvalidCredentials("secret detail")))

    page = words_of(staff("view").get(change_url(user)))

    assert "Garmin did not accept this email address and password" in page
    assert "secret detail" not in page


# A site's own user admin


@pytest.fixture
def user_page(user, settings):
    """Return the Garmin section of the user's page, as a list of what stands in it.

    The page is one of an admin that shows the Garmin account, on a site's second AdminSite.
    """

    def user_page(viewer, base=UserAdmin, registered=True, adding=False, **attributes):
        site = admin.AdminSite(name="staff")
        site_admin = type("SiteUserAdmin", (GarminAccountLink, base), attributes)
        site.register(User, site_admin)
        if registered:
            site.register(GarminAuthenticationState, GarminAuthenticationStateAdmin)
        settings.ROOT_URLCONF = type(
            "urls", (), {"urlpatterns": [path("staff/", site.urls), *urlpatterns]}
        )
        client = Client()
        client.force_login(viewer)
        url = "staff:auth_user_add" if adding else "staff:auth_user_change"
        response = client.get(reverse(url, args=[] if adding else [user.pk]))
        assert response.status_code == 200
        assert response.render()
        return [
            field.contents()
            for fieldset in response.context_data["adminform"]
            for line in fieldset
            for field in line
            if field.is_readonly and field.field["name"] == "garmin_account"
        ]

    return user_page


@pytest.fixture
def root():
    return User.objects.create_superuser("root")


@pytest.fixture
def helper():
    """A member of staff who may change users."""
    viewer = User.objects.create_user("helper", is_staff=True)
    viewer.user_permissions.add(*Permission.objects.filter(content_type__model="user"))
    return viewer


def test_a_users_page_leads_to_their_state_on_the_same_site(user_page, user, connect, root):
    connect(user)

    (shown,) = user_page(root)

    assert f'href="{change_url(user).replace("/admin/", "/staff/")}"' in shown
    assert ">connected<" in shown


def test_a_users_page_says_that_there_is_nothing(user_page, root):
    assert user_page(root) == ["not connected"]


def test_a_users_page_says_that_a_session_is_unreadable(user_page, user, connect, root):
    connect(user)
    damage(user)

    (shown,) = user_page(root)

    assert "unreadable (no key in FERNET_KEYS matches)" in shown
    assert ">connected<" not in shown


# What a site's user admin may be like: Django's, a bare one, and some that say where it stands.
USER_ADMINS = {
    "django": {},
    "bare": {"base": ModelAdmin},
    "fields": {"base": ModelAdmin, "fields": ("username", ("email", "garmin_account"))},
    "fieldsets": {"fieldsets": ((None, {"fields": ("username", "garmin_account")}),)},
}


@pytest.mark.parametrize("user_admin", USER_ADMINS)
def test_a_users_page_shows_the_state_once(user_page, user, connect, root, user_admin):
    connect(user)

    assert len(user_page(root, **USER_ADMINS[user_admin])) == 1


@pytest.mark.parametrize("user_admin", USER_ADMINS)
def test_a_users_page_shows_no_state_to_who_may_not_see_it(
    user_page, user, connect, helper, user_admin
):
    connect(user)

    assert user_page(helper, **USER_ADMINS[user_admin]) == []


@pytest.mark.parametrize("permission", ["view", "change"])
def test_a_users_page_shows_the_state_to_who_may_see_it(
    user_page, user, connect, helper, permission
):
    connect(user)
    codename = f"{permission}_garminauthenticationstate"
    helper.user_permissions.add(Permission.objects.get(codename=codename))

    assert len(user_page(helper)) == 1


@pytest.mark.parametrize("user_admin", USER_ADMINS)
def test_the_page_that_adds_a_user_shows_no_state(user_page, root, user_admin):
    assert user_page(root, adding=True, **USER_ADMINS[user_admin]) == []


def test_on_a_site_without_the_list_the_state_leads_nowhere(user_page, user, connect, root):
    connect(user)

    (shown,) = user_page(root, registered=False)

    assert "connected" in shown
    assert "href" not in shown
