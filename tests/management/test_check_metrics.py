"""``check_garmin_sessions --format openmetrics``: what it prints is valid whatever happens."""

from io import BytesIO, StringIO, TextIOWrapper

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_prometheus

from garmin_auth.models import GarminAuthenticationState
from tests.conftest import EMAIL
from tests.rows import store

pytestmark = pytest.mark.django_db
states = GarminAuthenticationState.objects


class Printed:
    """What the command printed, as both of Prometheus's parsers read it.

    Attributes:
        families: each metric's documented type and unit, by its name.
        values: each value, by its metric's name and its labels in alphabetical order.
    """

    def __init__(self, text, errors="", code=0):
        self.errors, self.code = errors, code
        families = list(read_openmetrics(text))
        assert all(family.documentation for family in families)
        self.families = {family.name: (family.type, family.unit) for family in families}
        self.values = self.values_of(families)
        assert self.values_of(read_prometheus(text)) == self.values

    @staticmethod
    def values_of(families):
        return {
            (sample.name, *(value for _label, value in sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }

    def __getitem__(self, key):
        return self.values["garmin_auth_" + key[0], *key[1:]]

    def named(self, name):
        return [key for key in self.values if key[0] == "garmin_auth_" + name]


@pytest.fixture
def call():
    def call(*arguments):
        output, errors, code = StringIO(), StringIO(), 0
        arguments = ("--format", "openmetrics", *arguments)
        try:
            call_command("check_garmin_sessions", *arguments, stdout=output, stderr=errors)
        except SystemExit as exc:
            code = exc.code
        return Printed(output.getvalue(), errors.getvalue(), code)

    return call


def test_the_connections_and_what_the_run_found_are_printed(call, user, other_user, connect):
    connect(user, access_expired=True)
    store(other_user, engine='of "yesterday"\\', domain="garmin.cn")

    found = call()

    assert found["connections", "garmin.com", "garth", "active"] == 1
    assert found["connections", "garmin.cn", 'of "yesterday"\\', "active"] == 1
    assert found["check_sessions", "garth", "active"] == 1
    assert found["check_sessions", 'of "yesterday"\\', "unreadable"] == 1
    assert found["check_refreshed_sessions",] == 1
    assert found["check_stopped", "rate_limited"] == 0
    assert found["cooldown_seconds", "garmin.com"] == 0
    oldest = found["oldest_check_timestamp_seconds", "garmin.com", "garth"]
    assert 0 <= found["check_timestamp_seconds",] - oldest < 60


def test_every_metric_is_a_gauge_in_its_base_unit(call, user, connect):
    connect(user)

    families = call().families

    assert {kind for kind, _unit in families.values()} == {"gauge"}
    assert {unit for name, (_kind, unit) in families.items() if name.endswith("_seconds")} == {
        "seconds"
    }


def test_nothing_of_a_user_is_printed(call, user, connect, garmin):
    connect(user)
    garmin.revoke(EMAIL)

    found = call()

    assert "ana" in found.errors
    assert found.code == 3
    assert found["check_sessions", "garth", "expired"] == 1
    assert not [key for key in found.values if {"ana", EMAIL} & set(key)]


def test_without_rows_there_are_zeros(call, settings):
    settings.GARMIN_AUTH_ENGINE = "garth"

    found = call()

    assert found["connections", "garmin.com", "garth", "active"] == 0
    assert found["check_sessions", "garth", "expired"] == 0
    assert found.named("oldest_check_timestamp_seconds") == []


def test_a_rate_limit_is_printed_with_its_cooldown(call, user, connect, garmin):
    connect(user)
    garmin.fail("api", "status", status=429, headers={"Retry-After": "120"})

    found = call()

    assert found.code == 4
    assert found["check_stopped", "rate_limited"] == 1
    assert 100 < found["cooldown_seconds", "garmin.com"] <= 120


def test_a_frozen_site_says_so(call, settings, user, connect):
    connect(user)
    settings.GARMIN_AUTH_FROZEN = True

    found = call()

    assert (found.code, found["check_stopped", "frozen"]) == (4, 1)


def test_a_dry_run_counts_what_is_due_and_asks_nobody(call, user, connect, garmin):
    connect(user)

    found = call("--dry-run")

    assert found["check_due_sessions",] == 1
    assert found["connections", "garmin.com", "garth", "active"] == 1
    assert found.named("check_timestamp_seconds") == []
    assert garmin.counts["api"] == 0


def test_if_the_rows_cannot_be_counted_the_run_is_printed_all_the_same(call, user, connect):
    connect(user)

    def fail(execute, sql, *rest):
        if "GROUP BY" in sql and "ending" in sql:
            raise OperationalError("canceling statement due to statement timeout")
        return execute(sql, *rest)

    with connection.execute_wrapper(fail):
        found = call()

    assert "could not be counted: OperationalError" in found.errors
    assert found["check_sessions", "garth", "active"] == 1
    assert found.named("connections") == []


def test_wrong_usage_prints_nothing(capsys):
    output = StringIO()
    with pytest.raises(CommandError, match="cannot be combined"):
        call_command(
            *("check_garmin_sessions", "--format", "openmetrics", "--enqueue", "--dry-run"),
            stdout=output,
        )

    assert output.getvalue() + capsys.readouterr().out == ""


def test_a_label_of_the_site_stands_at_each_value(call, user, connect):
    connect(user)

    found = call("--label", 'site=a "b"', "--label", "tenant=c=d")

    assert found["check_duration_seconds", 'a "b"', "c=d"] >= 0
    assert all({'a "b"', "c=d"} <= set(key) for key in found.values)


@pytest.mark.parametrize(
    ("label", "printed"), [("site=caf\xe9", "caf\xe9"), ("site=caf\udce9", "caf?")]
)
def test_the_text_is_utf_8_whatever_the_locale_and_the_label(label, printed):
    written = BytesIO()
    output = TextIOWrapper(written, encoding="latin-1")

    call_command(
        *("check_garmin_sessions", "--dry-run", "--format", "openmetrics", "--label", label),
        stdout=output,
    )
    output.flush()

    found = Printed(written.getvalue().decode())
    assert found["check_due_sessions", printed] == 0


@pytest.mark.parametrize("text", ["engine=x", "1st=x", "site", "__name__=x", "a-b=x", "=x"])
def test_a_label_that_cannot_be_used_is_refused(call, text):
    with pytest.raises(CommandError, match="--label"):
        call("--label", text)


def test_other_formats_have_no_labels():
    with pytest.raises(CommandError, match="needs --format openmetrics"):
        call_command("check_garmin_sessions", "--label", "site=a")


@pytest.mark.parametrize("format", ["json", "openmetrics"])
def test_what_a_terminal_is_asked_does_not_get_into_the_report(monkeypatch, capsys, format):
    class Terminal(StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdin", Terminal("0\n"))

    call_command("check_garmin_sessions", "--believe-refusals", "garth", "--format", format)

    output, errors = capsys.readouterr()
    assert errors.endswith("Type 0 to continue: ")
    assert "Type 0" not in output
    assert output.endswith("}\n" if format == "json" else "# EOF\n")
