"""Django's own tasks, with a queue in the database and the worker that sites run."""

import importlib
import json
import signal
from io import StringIO

import pytest
from django.contrib import admin
from django.core.management import call_command
from django.db import connection

from garmin_auth import tasks
from garmin_auth.models import Status
from tests.conftest import EMAIL, state_of

pytestmark = pytest.mark.django_db(transaction=True)
WORKER = {"batch": True, "startup_delay": False, "reload": False, "verbosity": 0}


@pytest.fixture
def queue(settings):
    """The table of the queue, and a function that runs the worker until it is empty."""
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "django_tasks_db"]
    settings.TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
    from django_tasks_db.models import DBTaskResult

    with connection.schema_editor() as editor:
        editor.create_model(DBTaskResult)
    handlers = {number: signal.getsignal(number) for number in (2, 3, 15)}
    yield lambda: call_command("db_worker", **WORKER, stdout=StringIO())
    for number, handler in handlers.items():
        signal.signal(number, handler)
    # The admin found the app's own when its settings were in force, and would still list it.
    if admin.site.is_registered(DBTaskResult):
        admin.site.unregister(DBTaskResult)
    with connection.schema_editor() as editor:
        editor.delete_model(DBTaskResult)


def test_a_worker_checks_the_sessions_and_stores_their_counts(queue, user, connect, garmin):
    connect(user, access_expired=True)

    result = tasks.check_sessions.enqueue(max_age=3600, limit=10)
    assert garmin.counts["api"] == 0
    queue()

    result.refresh()
    assert result.status == "SUCCESSFUL", result.errors
    assert json.loads(json.dumps(result.return_value))["refreshed"] == 1
    assert garmin.counts["api"] == 1


def test_a_run_that_stopped_says_why_in_its_result(queue, user, connect, garmin):
    connect(user)
    garmin.fail("api", "status", status=429)

    result = tasks.check_sessions.enqueue()
    queue()

    result.refresh()
    assert result.return_value["stopped"] == "rate_limited"
    assert type(result.return_value["stopped"]) is str


def test_nothing_that_the_queue_stores_is_secret(queue, user, connect, garmin):
    from django_tasks_db.models import DBTaskResult

    connect(user)
    garmin.revoke(EMAIL)

    tasks.check_sessions.enqueue(max_age=0)
    failed = tasks.check_sessions.enqueue(workers=0)
    queue()

    failed.refresh()
    stored = json.dumps(list(DBTaskResult.objects.values()), default=str)
    assert state_of(user).status == Status.DISCONNECTED
    assert failed.status == "FAILED"
    assert "workers must be 1 or more" in stored
    assert [word for word in (EMAIL, user.email, "oauth_token") if word in stored] == []


def test_a_second_run_finds_nothing_left(queue, user, connect, garmin):
    connect(user)

    both = [tasks.check_sessions.enqueue(max_age=3600) for _ in range(2)]
    queue()

    for result in both:
        result.refresh()
    assert [result.return_value["checked"] for result in both] == [1, 0]
    assert garmin.counts["api"] == 1


def test_a_site_whose_queues_do_not_suit_the_task_can_import_the_others(settings):
    settings.TASKS = {}

    assert "check_due_sessions" in vars(importlib.reload(tasks))


def test_a_task_that_does_not_exist_is_not_found():
    assert not hasattr(tasks, "check_garmin")
