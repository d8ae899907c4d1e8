"""What operators alarm on."""

from datetime import timedelta

import pytest
from django.utils import timezone

from garmin_auth.limits import cooldown
from garmin_auth.metrics import collect_metrics
from garmin_auth.models import GarminAuthenticationState
from tests.limits.test_shared_cache import AWAY, SILENT
from tests.rows import damage, store

pytestmark = [pytest.mark.django_db, pytest.mark.every_database]
states = GarminAuthenticationState.objects
NOBODY = {"mfa_pending": 0, "active": 0, "disconnected": 0}


def ago(**time):
    return timezone.now() - timedelta(**time)


@pytest.fixture
def rows(django_user_model):
    """Store rows of new users, with these columns; the first session is stored if none is named."""

    def rows(number=1, *, engine="garth", domain="garmin.com", **columns):
        made = []
        for _ in range(number):
            user = django_user_model.objects.create_user(f"user{django_user_model.objects.count()}")
            store(user, engine=engine, domain=domain)
            states.filter(user=user).update(**columns)
            made.append(user)
        return made

    return rows


def services():
    return {(each.engine, each.domain): each for each in collect_metrics().services}


def test_without_rows_there_are_zeros_of_what_new_logins_use(settings):
    settings.GARMIN_AUTH_ENGINE = "garth"
    settings.GARMIN_AUTH_DOMAIN = ["garmin.com", "garmin.cn"]

    metrics = collect_metrics()

    assert [(each.domain, each.connections) for each in metrics.services] == [
        ("garmin.cn", NOBODY),
        ("garmin.com", NOBODY),
    ]
    assert metrics.cooldowns == {"garmin.cn": 0, "garmin.com": 0}
    assert metrics.oldest_check is None


def test_rows_are_counted_by_state_engine_and_domain_in_one_query(
    rows, settings, django_assert_num_queries
):
    settings.GARMIN_AUTH_ENGINE = "garth"
    rows(2)
    rows(domain="garmin.cn")
    rows(engine='of "yesterday"')
    (left,) = rows()
    states.disconnect(left.pk, "user")
    (waiting,) = rows()
    states.begin_challenge(waiting.pk, "challenge")

    with django_assert_num_queries(1):
        found = services()

    assert {name: each.connections for name, each in found.items()} == {
        ("garth", "garmin.com"): {"mfa_pending": 1, "active": 2, "disconnected": 1},
        ("garth", "garmin.cn"): NOBODY | {"active": 1},
        ('of "yesterday"', "garmin.com"): NOBODY | {"active": 1},
    }


def test_a_row_that_cannot_be_decrypted_is_counted(rows):
    damage(*rows(), "session_data", "account_name")

    assert services()["garth", "garmin.com"].connections["active"] == 1


def test_failing_counts_from_the_limit_in_an_outage_too(rows, settings):
    settings.GARMIN_AUTH_FAILING_AFTER = 3600
    rows(2, failing_since=ago(minutes=61))
    rows(1, failing_since=ago(minutes=59))

    assert services()["garth", "garmin.com"].failing == 2


def test_ending_counts_the_sessions_of_the_next_7_days_and_what_has_ended(rows):
    rows(session_ends_at=ago(days=-6))
    rows(session_ends_at=ago(days=1))
    rows(session_ends_at=ago(days=-8))
    (left,) = rows()
    states.disconnect(left.pk, "user")
    states.filter(user=left).update(session_ends_at=ago(days=1))

    assert services()["garth", "garmin.com"].ending == 2


def test_a_mass_failure_is_of_three_refused_users_of_one_service(rows):
    rows(2, refused_at=ago(days=1))
    rows(1, refused_at=ago(days=1), domain="garmin.cn")
    assert not any(each.mass_failure for each in services().values())

    rows(1, refused_at=ago(days=1))

    found = services()
    assert found["garth", "garmin.com"].mass_failure
    assert not found["garth", "garmin.cn"].mass_failure


@pytest.mark.parametrize(
    "columns",
    [
        {"last_checked_at": 5, "last_validated": 9},
        {"last_checked_at": 9, "last_validated": 5},
        {"last_checked_at": None, "last_validated": 5},
        {"last_checked_at": 5, "last_validated": None},
        {"last_checked_at": None, "last_validated": None, "connected_at": 5},
    ],
    ids=["checked", "in use", "never checked", "failing", "new"],
)
def test_the_oldest_check_is_that_of_the_session_that_waits_longest(rows, columns):
    days = {"connected_at": 20, **columns}
    times = {name: number and ago(days=number) for name, number in days.items()}
    rows(last_checked_at=ago(days=1))
    rows(**times)
    (left,) = rows()
    states.disconnect(left.pk, "user")

    age = timezone.now() - collect_metrics().oldest_check
    assert age.days == 5


def test_a_cooldown_is_its_domains(rows):
    rows()
    rows(domain="garmin.cn")
    cooldown.start(cooldown.site_scope("garmin.cn"), 120)

    metrics = collect_metrics()

    assert metrics.cooldowns["garmin.com"] == 0
    assert 100 < metrics.cooldowns["garmin.cn"] <= 120


@pytest.mark.parametrize("cache", [*AWAY.values(), *SILENT.values()], ids=[*AWAY, *SILENT])
def test_without_its_cache_the_counts_are_there_and_the_cooldowns_not_known(rows, settings, cache):
    settings.CACHES = {"default": cache}
    rows()

    metrics = collect_metrics()

    assert metrics.cache_failed
    assert sum(each.connections["active"] for each in metrics.services) == 1
