"""The checks as Celery tasks, message by message.

The messages go through a broker in memory, and Celery's own tracer runs them, as a worker does.
test_celery_workers.py has the workers.
"""

import contextlib
import json
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.core.management import CommandError, call_command
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from garmin_auth import signals
from garmin_auth.checking import celery_tasks as tasks
from garmin_auth.health import check_session as check_now
from garmin_auth.limits import cooldown
from garmin_auth.limits.rate import reserve_turn
from garmin_auth.login import disconnect
from garmin_auth.models import GarminAuthenticationState, Status
from tests.checking import celery_app
from tests.conftest import raw_row, state_of
from tests.rows import damage

pytestmark = pytest.mark.django_db(transaction=True)
states = GarminAuthenticationState.objects


def key_of(user):
    return state_of(user).pk


def queued_until(user):
    return raw_row(user)["check_expires_at"]


# One message at a time


@dataclass
class Message:
    """One message as a worker gets it."""

    name: str
    args: tuple
    kwargs: dict
    headers: dict
    taken_at: float

    @property
    def eta(self):
        """When it is to be worked on, as ``time.time()`` counts."""
        return datetime.fromisoformat(self.headers["eta"]).timestamp()

    @property
    def countdown(self):
        """Seconds that it was to wait when it was taken from the queue."""
        return self.eta - self.taken_at

    def deliver(self):
        """Let Celery run it as its workers do, and return the task's state and result."""
        from celery.app.trace import build_tracer
        from celery.states import SUCCESS

        app = celery_app.app
        trace = build_tracer(self.name, app.tasks[self.name], app=app)
        request = {
            **self.headers,
            "delivery_info": {"routing_key": celery_app.QUEUE, "exchange": celery_app.QUEUE},
        }
        result, info, *_ = trace(self.headers["id"], self.args, self.kwargs, request)
        return (info.state, None) if info else (SUCCESS, result)


@pytest.fixture
def queue(monkeypatch):
    """Take all messages from the queue, in the order they were sent."""
    monkeypatch.setattr(tasks, "HOLD", 0)

    def take():
        messages = []
        with celery_app.app.connection_for_read() as broker:
            waiting = broker.SimpleQueue(celery_app.app.amqp.queues[celery_app.QUEUE])
            with contextlib.suppress(waiting.Empty):
                while True:
                    message = waiting.get(block=False)
                    message.ack()
                    args, kwargs, _ = message.payload
                    name, taken_at = message.headers["task"], time.time()
                    messages.append(Message(name, tuple(args), kwargs, message.headers, taken_at))
        return messages

    take()
    yield take
    take()


@pytest.fixture
def message(queue):
    """Send a check of the user's session, and return the message."""

    def message(user):
        tasks.check_stored_session.delay(key_of(user))
        (sent,) = queue()
        return sent

    return message


def test_a_check_says_what_was_found_as_plain_data(user, connect, message):
    connect(user, access_expired=True)

    state, result = message(user).deliver()

    assert state == "SUCCESS"
    assert json.loads(json.dumps(result)) == {
        "outcome": "active",
        "refreshed": True,
        "engine": "garth",
    }
    assert state_of(user).last_validated is not None


def test_a_message_and_a_result_hold_no_secret_and_no_name(user, connect, message):
    connect(user)
    sent = message(user)

    _, result = sent.deliver()

    assert set(sent.kwargs) == {"enqueued_at"}
    assert sent.args == (key_of(user),)
    assert user.username not in str(result)
    assert "@" not in str(result)


def test_a_second_delivery_asks_garmin_nothing(user, connect, message, garmin):
    connect(user)
    sent = message(user)
    sent.deliver()

    state, result = sent.deliver()

    assert (state, result["outcome"]) == ("SUCCESS", "skipped")
    assert garmin.counts["api"] == 1


def test_what_a_run_has_checked_meanwhile_is_skipped(user, connect, message, garmin):
    connect(user)
    sent = message(user)
    check_now(user)

    assert sent.deliver()[1]["outcome"] == "skipped"
    assert garmin.counts["api"] == 1


def test_what_was_checked_before_it_was_enqueued_is_checked_again(user, connect, message, garmin):
    connect(user)
    check_now(user)

    assert message(user).deliver()[1]["outcome"] == "active"
    assert garmin.counts["api"] == 2


@pytest.mark.parametrize("fate", ["disconnected", "deleted"])
def test_what_has_no_session_any_more_is_skipped(user, connect, message, garmin, fate):
    connect(user)
    sent = message(user)
    if fate == "deleted":
        user.delete()
    else:
        disconnect(user)

    assert sent.deliver() == ("SUCCESS", {"outcome": "skipped", "refreshed": False, "engine": ""})
    assert sum(garmin.counts.values()) == 0


def test_two_deliveries_at_the_same_moment_make_one_death(user, connect, message, garmin):
    connect(user)
    garmin.revoke("ana@example.com")
    garmin.set_latency(0.2)
    sent, deaths, results = message(user), [], []
    signals.session_expired.connect(deaths.append, weak=False, dispatch_uid="deaths")

    def deliver():
        try:
            results.append(sent.deliver()[1]["outcome"])
        finally:
            connections.close_all()

    threads = [threading.Thread(target=deliver) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        signals.session_expired.disconnect(dispatch_uid="deaths")

    assert results.count("expired") == 1
    assert set(results) <= {"expired", "gone", "skipped"}
    assert garmin.counts["exchange"] == 1
    assert state_of(user).status == Status.DISCONNECTED


def test_a_pause_puts_the_check_off_until_it_is_over(user, connect, message, queue, garmin):
    connect(user)
    cooldown.start(cooldown.site_scope("garmin.com"), 120)

    state, _ = message(user).deliver()

    assert state == "RETRY"
    (again,) = queue()
    assert 110 < again.countdown < 160
    assert garmin.counts["api"] == 0
    cache.clear()  # It is over.
    assert again.deliver()[1]["outcome"] == "active"


def test_a_long_pause_is_looked_at_again_before_a_broker_takes_the_message_for_lost(
    user, connect, message, queue
):
    connect(user)
    cooldown.start(cooldown.site_scope("garmin.com"), 3600)

    message(user).deliver()

    (again,) = queue()
    assert 700 < again.countdown <= tasks.LONGEST_WAIT


def test_a_rate_limit_puts_the_check_off(user, connect, message, queue, garmin):
    connect(user)
    garmin.fail("api", "rate_limited", retry_after=300)

    assert message(user).deliver()[0] == "RETRY"

    (again,) = queue()
    assert 290 < again.countdown < 360
    cache.clear()  # It is over.
    assert again.deliver()[1]["outcome"] == "active"


def test_any_number_of_pauses_is_waited_for(user, connect, message, queue):
    connect(user)
    cooldown.start(cooldown.site_scope("garmin.com"), 3000)
    sent = message(user)

    for _ in range(10):
        assert sent.deliver()[0] == "RETRY"
        (sent,) = queue()


def test_a_network_fault_is_tried_again_a_few_times_and_then_left(
    user, connect, message, queue, garmin
):
    connect(user)
    garmin.fail("api", "reset", times=None)
    sent, countdowns = message(user), []

    for _ in tasks.BACKOFF:
        assert sent.deliver()[0] == "RETRY"
        (sent,) = queue()
        countdowns.append(sent.countdown)

    assert sent.deliver() == (
        "SUCCESS",
        {"outcome": "unknown", "refreshed": False, "engine": "garth"},
    )
    assert queue() == []
    for seconds, countdown in zip(tasks.BACKOFF, countdowns, strict=True):
        assert seconds - 5 < countdown < 1.1 * seconds + 10
    assert state_of(user).status == Status.ACTIVE


def test_a_network_fault_that_passes_is_forgotten(user, connect, message, queue, garmin):
    connect(user)
    garmin.fail("api", "status", status=503)

    message(user).deliver()

    (again,) = queue()
    assert again.deliver()[1]["outcome"] == "active"


def test_a_second_delivery_after_a_fault_makes_no_second_retry(
    user, connect, message, queue, garmin
):
    connect(user)
    garmin.fail("api", "reset", times=None)
    sent = message(user)
    sent.deliver()

    assert sent.deliver()[1]["outcome"] == "skipped"
    assert len(queue()) == 1


def test_a_retry_dies_when_its_message_would_have(user, connect, message, queue, garmin):
    connect(user)
    garmin.fail("api", "reset", times=None)
    sent = message(user)
    sent.deliver()

    (again,) = queue()

    assert sent.headers["expires"]
    first, second = (datetime.fromisoformat(one.headers["expires"]) for one in (sent, again))
    assert abs(second - first) < timedelta(seconds=2)


@pytest.mark.parametrize("fate", ["dead", "unreadable", "refused", "bug", "mass failure"])
def test_what_does_not_pass_is_not_tried_again(
    user, connect, message, queue, garmin, fate, people, monkeypatch
):
    connect(user, access_expired=fate in ("dead", "mass failure"))
    if fate == "dead":
        garmin.revoke("ana@example.com")
    elif fate == "unreadable":
        damage(user)
    elif fate == "refused":
        garmin.fail("api", "status", status=404)
    elif fate == "bug":
        monkeypatch.setattr("garmin_auth.sessions.cooldown.require_none", lambda scope: 1 / 0)
    else:
        states.filter(user__in=people(2)).update(refused_at=timezone.now(), engine="garth")
        garmin.revoke("ana@example.com")

    state, result = message(user).deliver()

    assert (state, result["outcome"]) == (
        "SUCCESS",
        {"dead": "expired", "unreadable": "unreadable"}.get(fate, "unknown"),
    )
    assert queue() == []


def test_a_turn_is_waited_for(user, connect, message, queue, settings):
    settings.GARMIN_AUTH_CHECK_RATE = 2
    connect(user)

    began = time.time()
    results = [tasks_result(message(user)) for _ in range(3)]

    assert results == ["active"] * 3
    # Two intervals of half a second between the first and the last.
    assert time.time() - began >= 1
    assert queue() == []


def tasks_result(message):
    state, result = message.deliver()
    assert state == "SUCCESS"
    return result["outcome"]


def turns_ahead(number):
    """Reserve the next turns, as other processes do."""
    for _ in range(number):
        reserve_turn(tasks.LONGEST_WAIT)


def test_a_turn_that_is_far_ahead_is_waited_for_as_a_message(
    user, connect, message, queue, settings, garmin
):
    settings.GARMIN_AUTH_CHECK_RATE = 0.05
    connect(user)
    began = time.time()
    turns_ahead(3)

    assert message(user).deliver()[0] == "RETRY"

    (again,) = queue()
    assert 0 < again.countdown <= 60  # It was not waited for.
    assert began + 60 <= again.kwargs["turn"] <= time.time() + 60
    assert again.eta == pytest.approx(again.kwargs["turn"], abs=5)
    assert garmin.counts["api"] == 0


def test_a_message_keeps_its_turn(user, connect, message, queue, settings):
    settings.GARMIN_AUTH_CHECK_RATE = 0.05
    connect(user)
    turns_ahead(3)
    message(user).deliver()
    (again,) = queue()

    again.deliver()  # Too early, as after a worker was killed.

    (later,) = queue()
    assert later.kwargs["turn"] == again.kwargs["turn"]
    assert later.eta == pytest.approx(again.eta, abs=5)
    # The next turn is the one behind it.
    assert reserve_turn(tasks.LONGEST_WAIT) == pytest.approx(again.kwargs["turn"] + 20)


def test_a_message_whose_turn_has_come_is_checked(user, connect, message, queue, settings, garmin):
    settings.GARMIN_AUTH_CHECK_RATE = 0.05
    connect(user)
    turns_ahead(3)
    message(user).deliver()
    (again,) = queue()
    turn = again.kwargs["turn"] = time.time() + 0.5

    assert tasks_result(again) == "active"

    assert time.time() >= turn
    assert garmin.counts["api"] == 1
    assert queue() == []


def test_a_message_that_missed_its_turn_takes_another(user, connect, message, queue, settings):
    settings.GARMIN_AUTH_CHECK_RATE = 0.05
    connect(user)
    turns_ahead(3)
    message(user).deliver()
    (again,) = queue()
    turn = again.kwargs["turn"]
    again.kwargs["turn"] = time.time() - 60

    assert again.deliver()[0] == "RETRY"

    (later,) = queue()
    assert later.kwargs["turn"] == pytest.approx(turn + 20)


def test_a_message_that_waits_for_its_turn_keeps_its_claim_and_its_end(
    people, queue, settings, garmin
):
    (ana,) = people(1)
    settings.GARMIN_AUTH_CHECK_RATE = 0.05
    turns_ahead(3)
    tasks.check_due_sessions()
    (sent,) = queue()
    claimed = queued_until(ana)

    sent.deliver()

    (again,) = queue()
    first, second = (datetime.fromisoformat(one.headers["expires"]) for one in (sent, again))
    assert abs(second - first) < timedelta(seconds=2)
    assert queued_until(ana) == claimed
    assert again.headers["ignore_result"]
    assert tasks.check_due_sessions() == {"enqueued": 0}


def test_after_a_fault_a_message_takes_a_new_turn(user, connect, message, queue, settings, garmin):
    settings.GARMIN_AUTH_CHECK_RATE = 0.05
    connect(user)
    garmin.fail("api", "reset", times=None)

    message(user).deliver()

    (again,) = queue()
    assert not again.kwargs.get("turn")
    assert again.kwargs["faults"] == 1


def test_without_a_turn_in_sight_the_message_is_looked_at_again(
    user, connect, message, queue, settings
):
    settings.GARMIN_AUTH_CHECK_RATE = 0.01
    connect(user)
    while reserve_turn(tasks.LONGEST_WAIT + 60):
        pass

    assert message(user).deliver()[0] == "RETRY"

    (again,) = queue()
    assert 700 < again.countdown <= tasks.LONGEST_WAIT


def test_putting_off_takes_a_while_so_that_few_lie_in_the_workers_memory(
    user, connect, message, queue, monkeypatch
):
    monkeypatch.setattr(tasks, "HOLD", 0.5)
    connect(user)
    cooldown.start(cooldown.site_scope("garmin.com"), 120)
    began = time.monotonic()

    message(user).deliver()

    assert time.monotonic() - began >= 0.5
    assert len(queue()) == 1


@pytest.mark.parametrize(
    "check",
    [tasks.check_stored_session, lambda pk: tasks.check_stored_session.apply((pk,)).get()],
    ids=["as a function", "eagerly"],
)
def test_without_a_message_it_checks_at_once_and_tries_nothing_again(user, connect, queue, check):
    connect(user)
    cooldown.start(cooldown.site_scope("garmin.com"), 120)

    assert check(key_of(user))["outcome"] == "unknown"
    cache.clear()  # The pause is over.
    assert check(key_of(user))["outcome"] == "active"
    assert queue() == []


# Fan-out


def before_each_message(monkeypatch, look):
    """Return what ``look`` sees before each message is sent."""
    seen, send = [], tasks.check_stored_session.apply_async

    def apply_async(*args, **options):
        seen.append(look())
        return send(*args, **options)

    monkeypatch.setattr(tasks.check_stored_session, "apply_async", apply_async)
    return seen


def sent_to(messages):
    return [message.args[0] for message in messages]


def test_every_session_is_enqueued_oldest_check_first(people, queue):
    ana, ben, cleo = people(3)
    for user, hours in ((ana, 1), (cleo, 2)):
        ago = timezone.now() - timedelta(hours=hours)
        states.filter(user=user).update(last_checked_at=ago)

    assert tasks.check_due_sessions() == {"enqueued": 3}

    assert sent_to(queue()) == [key_of(ben), key_of(cleo), key_of(ana)]


def test_what_is_queued_is_not_enqueued_again(people, queue):
    people(3)
    tasks.check_due_sessions()

    assert tasks.check_due_sessions() == {"enqueued": 0}
    assert len(queue()) == 3


def test_what_was_checked_may_be_enqueued_again(people, queue):
    people(2)
    tasks.check_due_sessions()
    for message in queue():
        message.deliver()

    assert tasks.check_due_sessions() == {"enqueued": 2}


def test_what_nobody_came_to_check_is_enqueued_again_when_its_message_is_dead(people, queue):
    (ana,) = people(1)
    tasks.check_due_sessions()
    (message,) = queue()
    dies = datetime.fromisoformat(message.headers["expires"])
    claimed = state_of(ana).check_expires_at

    assert abs(claimed - dies) < timedelta(seconds=5)
    states.update(check_expires_at=timezone.now() - timedelta(seconds=1))
    assert tasks.check_due_sessions() == {"enqueued": 1}


def test_a_run_from_cron_leaves_alone_what_is_queued_and_says_so(people, queue, garmin, capsys):
    people(2)
    tasks.check_due_sessions()

    with pytest.raises(SystemExit, match="4"):
        call_command("check_garmin_sessions", verbosity=0)

    assert "All sessions that are due are queued" in capsys.readouterr().err
    assert garmin.counts["api"] == 0


def test_max_age_and_limit_hold(people, queue):
    ana, *_ = people(4)
    states.filter(user=ana).update(last_validated=timezone.now())

    assert tasks.check_due_sessions(max_age=3600, limit=2) == {"enqueued": 2}
    assert tasks.check_due_sessions(max_age=3600) == {"enqueued": 1}
    assert key_of(ana) not in sent_to(queue())


def test_batches_are_bounded(people, queue, monkeypatch):
    monkeypatch.setattr(tasks, "BATCH", 2)
    people(5)
    claimed = before_each_message(monkeypatch, states.claimed_checks)

    tasks.check_due_sessions()

    assert claimed == [2, 2, 4, 4, 5]
    assert len(set(sent_to(queue()))) == 5


def test_a_fan_out_costs_four_queries_for_each_batch(people, queue, garmin, monkeypatch):
    def queries(number):
        garmin.reset()
        people(number)
        with CaptureQueriesContext(connection) as captured:
            tasks.check_due_sessions()
        get_user_model().objects.all().delete()
        return len(captured)

    monkeypatch.setattr(tasks, "BATCH", 2)

    assert queries(6) - queries(2) == 2 * 4


def test_a_row_that_no_key_opens_does_not_hinder_a_fan_out(people, queue):
    damage(*people(1))

    assert tasks.check_due_sessions() == {"enqueued": 1}


def test_no_more_is_enqueued_than_the_rate_allows_before_messages_die(people, queue, settings):
    settings.GARMIN_AUTH_CHECK_RATE = 3 / tasks.QUEUED
    ana, *_ = people(5)

    assert tasks.check_due_sessions() == {"enqueued": 3}
    assert tasks.check_due_sessions() == {"enqueued": 0}
    check_now(ana)
    assert tasks.check_due_sessions() == {"enqueued": 1}


def test_a_broker_that_fails_in_mid_batch_leaves_nothing_claimed_for_long(
    people, queue, monkeypatch
):
    people(4)
    monkeypatch.setattr(tasks, "BATCH", 2)
    send, count = tasks.check_stored_session.apply_async, []

    def fails(*args, **options):
        count.append(1)
        if len(count) == 4:
            raise OSError("the broker is gone")
        return send(*args, **options)

    monkeypatch.setattr(tasks.check_stored_session, "apply_async", fails)
    with pytest.raises(OSError, match="the broker is gone"):
        tasks.check_due_sessions()

    assert tasks.check_due_sessions() == {"enqueued": 2}


def test_a_process_that_dies_while_it_sends_keeps_its_batch_for_a_minute(
    people, queue, monkeypatch
):
    (ana,) = people(1)
    claimed = before_each_message(monkeypatch, lambda: state_of(ana).check_expires_at)

    tasks.check_due_sessions()

    assert claimed[0] < timezone.now() + timedelta(seconds=tasks.SENDING)
    assert state_of(ana).check_expires_at > timezone.now() + timedelta(seconds=tasks.QUEUED - 60)


def test_logins_whose_time_is_over_are_purged(user, queue):
    states.begin_challenge(user.pk, "{}")
    states.update(mfa_started_at=timezone.now() - timedelta(days=1))

    tasks.check_due_sessions()

    assert not state_of(user).mfa_pending


# The command


def test_the_command_enqueues_and_says_how_many(people, queue, capsys):
    people(3)

    call_command("check_garmin_sessions", "--enqueue")

    assert capsys.readouterr().out == ("Enqueued 3 checks of Garmin sessions for Celery.\n")
    assert len(queue()) == 3


def test_the_command_says_it_in_json_too(people, queue, capsys):
    people(1)

    call_command("check_garmin_sessions", "--enqueue", "--format", "json")

    assert json.loads(capsys.readouterr().out) == {"enqueued": 1}


def test_the_command_prints_how_many_it_enqueued_as_a_metric_too(queue, people, capsys):
    people(2)

    call_command("check_garmin_sessions", "--enqueue", "--format", "openmetrics")

    families = {each.name: each for each in text_string_to_metric_families(capsys.readouterr().out)}
    assert families["garmin_auth_check_enqueued_sessions"].samples[0].value == 2
    assert "garmin_auth_connections" in families
    assert len(queue()) == 2


def test_the_command_enqueues_one_users_session_though_it_is_queued(people, queue, capsys):
    _, ben = people(2)
    tasks.check_due_sessions()
    queue()

    call_command("check_garmin_sessions", "--enqueue", "--user", ben.username)

    assert sent_to(queue()) == [key_of(ben)]


@pytest.mark.parametrize(
    "option", [["--workers", "2"], ["--rate", "5"], ["--dry-run"], ["--believe-refusals", "garth"]]
)
def test_what_enqueueing_does_not_go_with_is_bad_use(people, queue, option):
    people(1)

    with pytest.raises(CommandError, match="--enqueue cannot be combined") as caught:
        call_command("check_garmin_sessions", "--enqueue", *option)

    assert caught.value.returncode == 2
    assert queue() == []


def enqueue(start_python, *arguments, **environment):
    process = start_python(
        "manage.py", "check_garmin_sessions", "--enqueue", *arguments, **environment
    )
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def test_from_a_shell_without_celery_it_exits_1_with_a_sentence(start_python, tmp_path):
    # A finder that hides what is installed: as where it never was.
    (tmp_path / "no_celery.py").write_text(
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.partition('.')[0] in ('celery', 'kombu'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "from tests.settings import *\n"
    )

    code, output, errors = enqueue(
        start_python, DJANGO_SETTINGS_MODULE="no_celery", PYTHONPATH=str(tmp_path)
    )

    assert (code, output) == (1, "")
    assert errors == (
        "CommandError: Celery is not installed: "
        'python -m pip install "django-garmin-auth[celery]"\n'
    )


@pytest.mark.parametrize("broker", ["redis://127.0.0.1:1/0", "amqp://guest@127.0.0.1:1//"])
def test_from_a_shell_without_a_broker_it_exits_1_and_gives_the_sessions_back(
    people, start_python, site, broker
):
    people(2)

    code, output, errors = enqueue(
        start_python, **site("import tests.checking.celery_app"), GARMIN_AUTH_TEST_BROKER=broker
    )

    assert (code, output) == (1, "")
    assert errors.startswith("CommandError: Celery's broker cannot be reached: ")
    assert "Traceback" not in errors
    assert states.claimed_checks() == 0
