"""Async code: views, Channels' consumers and gather(), with no connection left behind."""

import asyncio
import importlib.util
import inspect
import json
import os
import threading
from contextvars import Context, ContextVar
from pathlib import Path

import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.core.exceptions import SynchronousOnlyOperation
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.http import HttpResponse
from django.test import AsyncClient, Client, TestCase
from django.urls import path
from django.utils import translation

from garmin_auth import accounts, login
from garmin_auth.accounts import aaccount_of, account_of
from garmin_auth.exceptions import InvalidCredentials, InvalidMFACode, NotConnected, SessionExpired
from garmin_auth.login import (
    Connected,
    MFARequired,
    aconnect_with_key,
    adisconnect,
    astart_login,
    asubmit_mfa,
    cancel_mfa,
    start_login,
)
from garmin_auth.models import GarminAuthenticationState, Status
from garmin_auth.sessions import garmin_client, use_garmin
from garmin_auth.testing import GarminTestMixin
from tests.conftest import BUILT_IN, EMAIL, PASSWORD, REFRESH, needs_personal, state_of
from tests.markdown import ROOT, blocks
from tests.waiting import in_threads, wait_until

pytestmark = [pytest.mark.every_database, pytest.mark.urls(__name__)]
in_a_transaction = pytest.mark.django_db
committed = pytest.mark.django_db(transaction=True)
needs_pool = pytest.mark.skipif(
    connection.vendor != "postgresql" or importlib.util.find_spec("psycopg_pool") is None,
    reason="only PostgreSQL has a pool, with psycopg_pool",
)
PROFILE = "/userprofile-service/socialProfile"
tenant = ContextVar("tenant", default="none")


def fetch_name(client):
    return client.connectapi(PROFILE)["userName"]


def run(coroutine):
    """Run it in a loop of its own; a test that would hang fails."""

    async def bounded():
        async with asyncio.timeout(120):
            return await coroutine

    return asyncio.run(bounded())


async def gather(users, function=fetch_name):
    return await asyncio.gather(*(use_garmin(user, function) for user in users))


def connections_of_others():
    """How many connections the database has, without the one that asks."""
    match connection.vendor:
        case "sqlite":
            found = os.listdir("/proc/self/fd")
            paths = (os.path.realpath(f"/proc/self/fd/{number}") for number in found)
            return sum(path == str(connection.settings_dict["NAME"]) for path in paths) - 1
        case "postgresql":
            sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        case "mysql":
            sql = "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE()"
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0] - 1


@pytest.fixture
def no_connection_left():
    """All connections that a test opens are closed at its end, but for that of its own thread."""
    connection.ensure_connection()
    before = connections_of_others()
    yield
    # The server hears of the end of a connection a moment later.
    wait_until(lambda: connections_of_others() <= before, 10, lambda: "A connection is left.")


async def name_view(request):
    return HttpResponse(await use_garmin(await request.auser(), fetch_name))


async def lazy_name_view(request):
    return HttpResponse(await use_garmin(request.user, fetch_name))


async def login_view(request):
    user = await request.auser()
    done = await astart_login(user, request.POST["email"], request.POST["password"])
    return HttpResponse(type(done).__name__)


urlpatterns = [
    path("name/", name_view),
    path("lazy/", lazy_name_view),
    path("connect/", login_view),
]


# Use


@committed
@pytest.mark.parametrize("engine", BUILT_IN)
def test_the_function_gets_the_client_and_its_result_is_returned(
    user, connect, engine, no_connection_left
):
    connect(user, engine=engine)

    assert run(use_garmin(user, fetch_name)) == EMAIL
    assert state_of(user).last_validated is not None


@committed
def test_what_the_function_raises_is_raised(user, connect, no_connection_left):
    connect(user)

    def fail(client):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(use_garmin(user, fail))


@committed
def test_without_a_session_the_function_is_not_called(user, no_connection_left):
    with pytest.raises(NotConnected):
        run(use_garmin(user, pytest.fail))


@committed
def test_an_async_function_is_refused_at_once(user, connect, garmin):
    connect(user)

    async def function(client):
        pytest.fail("It was called.")

    with pytest.raises(TypeError, match="must not be async"):
        run(use_garmin(user, function))


@committed
@pytest.mark.parametrize("expired", [False, True])
def test_fifty_users_at_once(people, many_connections, expired, garmin, no_connection_left):
    users = people(50, access_expired=expired)

    assert run(gather(users)) == [f"{user.username}@example.com" for user in users]
    assert garmin.counts["exchange"] == (50 if expired else 0)


@committed
def test_fifty_calls_for_one_user_share_one_refresh(user, connect, garmin, no_connection_left):
    connect(user, access_expired=True)
    garmin.latency = 0.05

    assert run(gather([user] * 50)) == [EMAIL] * 50
    assert garmin.counts["exchange"] == 1


@committed
def test_a_session_that_has_ended_is_cleared(user, connect, garmin, no_connection_left):
    connect(user, access_expired=True)
    garmin.revoke(EMAIL)

    with pytest.raises(SessionExpired):
        run(use_garmin(user, fetch_name))
    assert state_of(user).status == Status.DISCONNECTED


@committed
def test_no_more_calls_than_the_setting_says_run_at_a_time(people, settings, no_connection_left):
    settings.GARMIN_AUTH_ASYNC_WORKERS = 3
    lock, running, most = threading.Lock(), set(), []

    def call(client):
        with lock:
            running.add(threading.get_ident())
            most.append(len(running))
        name = fetch_name(client)
        with lock:
            running.remove(threading.get_ident())
        return name

    assert len(run(gather(people(12), call))) == 12
    assert max(most) <= 3


@committed
def test_the_event_loop_is_free_meanwhile(user, connect, hold):
    connect(user, access_expired=True)
    answer = hold("exchange")

    async def both():
        call = asyncio.ensure_future(use_garmin(user, fetch_name))
        await asyncio.to_thread(answer.wait)
        answer.release()
        return await call

    assert run(both()) == EMAIL


@committed
def test_a_call_does_not_wait_for_a_busy_thread_of_queries(user, connect):
    """Outside of requests, as in Channels, there is one for the whole process."""
    connect(user)
    done = threading.Event()

    async def call():
        busy = asyncio.ensure_future(sync_to_async(done.wait)(30))
        await asyncio.sleep(0)  # It has begun then.
        name = await use_garmin(user, fetch_name)
        done.set()
        return name, await busy

    assert run(call()) == (EMAIL, True)


@committed
def test_while_the_function_runs_no_connection_is_held(user, connect):
    connect(user, access_expired=True)

    assert run(use_garmin(user, lambda client: connection.connection)) is None


@committed
def test_a_database_cache_leaves_no_connection_to_the_function(
    user, connect, settings, no_connection_left
):
    backend = "django.core.cache.backends.db.DatabaseCache"
    settings.CACHES = {"default": {"BACKEND": backend, "LOCATION": "cache_of_async"}}
    call_command("createcachetable", verbosity=0)
    connect(user)

    def call(client):
        fetch_name(client)
        return connection.connection

    try:
        assert run(use_garmin(user, call)) is None
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE cache_of_async")


@committed
def test_a_rollback_in_the_function_costs_no_refreshed_token(user, connect, garmin):
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    connect(user)
    garmin.expire_access_tokens(EMAIL)
    before = state_of(user).session_version

    def call(client):
        with transaction.atomic():
            get_user_model().objects.create_user("caller")
            fetch_name(client)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(use_garmin(user, call))
    assert state_of(user).session_version == before + 1
    assert not get_user_model().objects.filter(username="caller").exists()


# Log in and out


@committed
@pytest.mark.parametrize("engine", BUILT_IN)
def test_a_users_way_from_the_password_to_the_end(
    user, mfa_account, garmin, engine, no_connection_left
):
    async def way():
        required = await astart_login(user, EMAIL, PASSWORD, engine, idempotency_key="a form")
        assert isinstance(required, MFARequired)
        assert (await aaccount_of(user)).status == Status.MFA_PENDING
        wrong = "000000" if garmin.mfa_code(EMAIL) != "000000" else "000001"
        with pytest.raises(InvalidMFACode):
            await asubmit_mfa(user, wrong)
        assert await asubmit_mfa(user, garmin.mfa_code(EMAIL)) == Connected()
        assert await use_garmin(user, fetch_name) == EMAIL
        assert (await aaccount_of(user)).name == EMAIL
        assert await adisconnect(user) is True
        assert await adisconnect(user) is False
        return (await aaccount_of(user)).status

    assert run(way()) == Status.DISCONNECTED


@needs_personal
@committed
def test_a_user_connects_with_a_key(user, garmin, no_connection_left):
    garmin.add_account(EMAIL, PASSWORD)

    assert run(aconnect_with_key(user, garmin.add_key(EMAIL))) == Connected()
    assert account_of(user).engine == "personal"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (login, "start_login"),
        (login, "submit_mfa"),
        (login, "connect_with_key"),
        (login, "disconnect"),
        (accounts, "account_of"),
    ],
)
def test_an_async_version_has_the_same_signature(module, name):
    function, version = getattr(module, name), getattr(module, f"a{name}")

    assert inspect.signature(version) == inspect.signature(inspect.unwrap(function))
    assert inspect.iscoroutinefunction(version)
    assert version.__doc__ == f"Async version of ``{name}``."


@committed
def test_no_frame_of_an_error_shows_what_the_user_typed(user, account, no_connection_left):
    typed = "a wrong password, typed by mistake"
    garmin_address = "ana.typed@garmin.example"
    with pytest.raises(InvalidCredentials) as caught:
        run(astart_login(user, garmin_address, typed))

    frames, trace = [], caught.value.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename != __file__:
            frames.append(trace.tb_frame)
        trace = trace.tb_next
    # Those of the coroutine, and of the thread.
    files = {Path(frame.f_code.co_filename).name for frame in frames}
    assert {"login.py", "async_calls.py", "repetitions.py"} <= files
    shown = "\n".join(repr(frame.f_locals) for frame in frames)
    assert typed not in shown
    assert garmin_address not in shown


@committed
def test_a_login_that_nobody_awaits_any_more_is_stored(user, account, hold, no_connection_left):
    answer = hold("exchange")

    async def leave():
        task = asyncio.ensure_future(astart_login(user, EMAIL, PASSWORD, "garth"))
        await asyncio.to_thread(answer.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(leave())
    answer.release()

    wait_until(lambda: account_of(user).connected)


# Cancellation, and the ends of loops and processes


@committed
@pytest.mark.parametrize("engine", BUILT_IN)
def test_a_cancelled_call_loses_no_refreshed_token(
    user, connect, hold, engine, garmin, no_connection_left
):
    def version(number=0):
        return state_of(user).session_version

    connect(user, engine=engine, access_expired=True)
    before, answer = version(), hold(REFRESH[engine])

    async def leave():
        task = asyncio.ensure_future(use_garmin(user, fetch_name))
        await asyncio.to_thread(answer.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # At once: Garmin has not answered yet.
        assert await asyncio.to_thread(in_threads, version, 1) == [before]

    run(leave())
    # The loop is closed by now.
    answer.release()

    wait_until(lambda: version() == before + 1)
    assert run(use_garmin(user, fetch_name)) == EMAIL
    assert garmin.counts[REFRESH[engine]] == 1


@committed
def test_a_call_that_is_cancelled_before_its_turn_is_never_made(user, connect, settings):
    settings.GARMIN_AUTH_ASYNC_WORKERS = 1
    connect(user)
    begun, go = threading.Event(), threading.Event()
    made = []

    def first(client):
        begun.set()
        assert go.wait(60)

    async def cancel_the_second():
        task = asyncio.ensure_future(use_garmin(user, first))
        await asyncio.to_thread(begun.wait, 60)
        second = asyncio.ensure_future(use_garmin(user, made.append))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        go.set()
        await task
        await use_garmin(user, lambda client: made.append("third"))

    run(cancel_the_second())

    assert made == ["third"]


FORK = """
import asyncio, os
from django.contrib.auth import get_user_model
from django.db import connections
from garmin_auth.sessions import use_garmin
user = get_user_model().objects.get()
connections.close_all()
def call():
    def name(client):
        return client.connectapi("/userprofile-service/socialProfile")["userName"]
    return asyncio.run(use_garmin(user, name))
print(call(), flush=True)
if pid := os.fork():
    os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(call(), flush=True)
os._exit(0)
"""


@committed
def test_a_forked_process_has_threads_of_its_own(user, connect, run_python):
    connect(user)

    assert run_python(FORK).split() == [EMAIL] * 2


END = """
import asyncio, sys
from django.contrib.auth import get_user_model
from django.db import connections
from garmin_auth.sessions import use_garmin
user = get_user_model().objects.get()
connections.close_all()
async def leave():
    task = asyncio.ensure_future(use_garmin(user, lambda client: None))
    await asyncio.to_thread(sys.stdin.readline)
    task.cancel()
asyncio.run(leave())
print("ended", flush=True)
"""


@committed
def test_a_process_ends_after_a_refresh_that_is_under_way(user, connect, hold, start_python):
    connect(user, access_expired=True)
    before = state_of(user).session_version
    answer = hold("exchange")
    process = start_python("-c", f"import django; django.setup()\n{END}")
    answer.wait()
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "ended\n"

    answer.release()
    _, errors = process.communicate(timeout=60)

    assert (process.returncode, errors) == (0, "")
    assert state_of(user).session_version == before + 1


# What the thread sees


@committed
def test_the_thread_sees_the_coroutines_context_variables_and_language(user, connect):
    connect(user)

    async def call():
        tenant.set("ana's site")
        with translation.override("de"):
            return await use_garmin(user, lambda client: (tenant.get(), translation.get_language()))

    assert run(call()) == ("ana's site", "de")


@committed
def test_the_thread_is_within_the_context_of_the_thread_of_the_callers_queries(
    user, connect, settings
):
    """django-tenants keeps the tenant on the connection, which is that of a thread."""
    from tests.storage.test_threads import enter, entered

    settings.GARMIN_AUTH_THREAD_CONTEXT = "tests.storage.test_threads.tenant_for_a_thread"
    connect(user)

    async def request():
        async with ThreadSensitiveContext():
            await sync_to_async(enter("ana's site").__enter__)()  # As a middleware does.
            assert not hasattr(entered, "name")
            return await use_garmin(user, lambda client: (entered.name, fetch_name(client)))

    assert run(request()) == ("ana's site", EMAIL)


@committed
def test_async_to_sync_in_the_function_uses_the_callers_event_loop(user, connect):
    """So a function tells a channel layer of its progress."""
    connect(user)

    async def call():
        told = asyncio.Queue()
        await use_garmin(user, lambda client: async_to_sync(told.put)(fetch_name(client)))
        return told.get_nowait()

    assert run(call()) == EMAIL


@committed
def test_a_call_within_a_call_does_not_wait_for_itself(user, connect, settings, no_connection_left):
    settings.GARMIN_AUTH_ASYNC_WORKERS = 1
    connect(user)

    def thrice(client):
        return [
            fetch_name(client),
            async_to_sync(use_garmin)(user, fetch_name),
            run(use_garmin(user, fetch_name)),  # In an event loop of its own.
        ]

    assert run(use_garmin(user, thrice)) == [EMAIL] * 3


# Synchronous callers, and transactions


@committed
@pytest.mark.parametrize("in_async_code", [False, True])
def test_a_synchronous_caller_in_a_transaction_is_refused(user, connect, garmin, in_async_code):
    connect(user)

    def call_each():
        for name, call in (
            ("use_garmin", lambda: async_to_sync(use_garmin)(user, fetch_name)),
            ("astart_login", lambda: async_to_sync(astart_login)(user, EMAIL, PASSWORD)),
            ("adisconnect", lambda: async_to_sync(adisconnect)(user)),
        ):
            message = rf"^{name}\(\) must not run inside"
            with pytest.raises(RuntimeError, match=message), transaction.atomic():
                call()
        connections.close_all()

    if in_async_code:
        run(sync_to_async(call_each)())
    else:
        call_each()

    assert garmin.counts["api"] == garmin.counts["login"] == 0
    assert account_of(user).connected


@committed
def test_a_task_without_its_callers_context_is_refused_there_too(user, connect):
    """asgiref then knows the caller's thread by the event loop."""
    connect(user)

    async def start():
        await asyncio.create_task(use_garmin(user, fetch_name), context=Context())

    with pytest.raises(RuntimeError, match="must not run inside"), transaction.atomic():
        async_to_sync(start)()


@committed
def test_a_synchronous_caller_outside_a_transaction_is_served(user, connect, no_connection_left):
    connect(user)

    assert async_to_sync(use_garmin)(user, fetch_name) == EMAIL
    assert async_to_sync(gather)([user] * 3) == [EMAIL] * 3
    assert async_to_sync(aaccount_of)(user).name == EMAIL


@committed
def test_the_callers_transaction_is_seen_by_the_account(user, connect):
    connect(user)

    with transaction.atomic():
        GarminAuthenticationState.objects.filter(user=user).update(engine="another")
        assert async_to_sync(aaccount_of)(user).engine == "another"
        transaction.set_rollback(True)


class TestInATestCase(GarminTestMixin, TestCase):
    """As a site tests its async code; no other thread sees the rows of a TestCase."""

    def setUp(self):
        super().setUp()
        cache.clear()
        self.garmin.add_account(EMAIL, PASSWORD)
        self.dan = get_user_model().objects.create_user("dan")

    async def test_an_async_test(self):
        assert await astart_login(self.dan, EMAIL, PASSWORD, "garth") == Connected()
        self.garmin.expire_access_tokens(EMAIL)
        assert await use_garmin(self.dan, fetch_name) == EMAIL
        assert await gather([self.dan] * 3) == [EMAIL] * 3
        assert (await aaccount_of(self.dan)).name == EMAIL
        assert await adisconnect(self.dan)

    def test_a_client_of_async_views(self):
        client = Client()
        client.force_login(self.dan)
        form = {"email": EMAIL, "password": PASSWORD}
        assert client.post("/connect/", form).content == b"Connected"
        assert client.get("/name/").content.decode() == EMAIL

    async def test_an_async_client(self):
        client = AsyncClient()
        await client.aforce_login(self.dan)
        await astart_login(self.dan, EMAIL, PASSWORD, "garth")
        assert (await client.get("/name/")).content.decode() == EMAIL


# Synchronous functions in async code


@in_a_transaction
@pytest.mark.parametrize(
    ("call", "instead"),
    [
        (lambda user: garmin_client(user).__enter__(), r"await use_garmin\(user, function\)"),
        (lambda user: start_login(user, EMAIL, PASSWORD), r"await astart_login\(\)"),
        (lambda user: cancel_mfa(user), r"await sync_to_async\(cancel_mfa\)\(\)"),
    ],
)
def test_a_synchronous_function_says_what_to_use_in_async_code(user, call, instead):
    async def block():
        call(user)

    with pytest.raises(SynchronousOnlyOperation, match=instead):
        run(block())


@committed
def test_a_site_may_allow_what_is_unsafe_as_django_lets_it(user, connect, monkeypatch):
    connect(user)
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")

    async def block():
        try:
            with garmin_client(user) as client:
                return fetch_name(client)
        finally:
            connections.close_all()

    assert run(block()) == EMAIL


# Views


@committed
@pytest.mark.parametrize("url", ["/name/", "/lazy/"])
def test_async_views_share_one_refresh(user, connect, garmin, url, no_connection_left):
    connect(user, access_expired=True)
    garmin.latency = 0.1
    browser = AsyncClient()
    browser.force_login(user)

    async def get():
        # As in Django's ASGI handler, where each request has a thread for what is not async.
        async with ThreadSensitiveContext():
            try:
                return await browser.get(url)
            finally:
                await sync_to_async(connections.close_all)()

    async def requests():
        return await asyncio.gather(*(get() for _ in range(5)))

    assert [answer.content.decode() for answer in run(requests())] == [EMAIL] * 5
    assert garmin.counts["exchange"] == 1


# What the how-to says


@pytest.fixture(scope="module")
def how_to():
    """The names that the snippets of docs/how-to/async.md define."""
    names = {}
    for block in blocks(ROOT / "docs" / "how-to" / "async.md"):
        if importlib.util.find_spec(block.marks.get("needs", "django")):
            exec(compile(block.text, str(block), "exec"), names)
    return names


@committed
def test_the_view_of_the_how_to(how_to, user, connect, rf):
    connect(user)
    request = rf.get("/")

    async def auser():
        return user

    request.auser = auser
    answer = run(how_to["day_view"](request, "2026-11-22"))

    assert json.loads(answer.content)["calendarDate"] == "2026-11-22"


@committed
def test_the_gathering_of_the_how_to(how_to, people, user, no_connection_left):
    *steps, error = run(how_to["steps_of"]([*people(3), user]))

    assert all(isinstance(number, int) for number in steps)
    assert isinstance(error, NotConnected)


@committed
def test_the_login_of_the_how_to(how_to, user, mfa_account, garmin, settings):
    settings.GARMIN_AUTH_ENGINE = "garth"

    async def code():
        return garmin.mfa_code(EMAIL)

    assert run(how_to["connect_user"](user, EMAIL, PASSWORD, code)).name == EMAIL


@committed
@pytest.mark.skipif(not importlib.util.find_spec("channels"), reason="channels is not installed")
def test_the_consumers_of_the_how_to(how_to, people, other_user, no_connection_left):
    """They share one thread for their queries, which waits for nobody's Garmin."""
    consumer = how_to["StepsConsumer"].as_asgi()

    async def visit(user):
        scope = {"type": "websocket", "path": "/", "user": user}
        browser = ApplicationCommunicator(consumer, scope)
        await browser.send_input({"type": "websocket.connect"})
        assert (await browser.receive_output(60))["type"] == "websocket.accept"
        day = json.dumps({"day": "2026-11-22"})
        await browser.send_input({"type": "websocket.receive", "text": day})
        answer = json.loads((await browser.receive_output(60))["text"])
        await browser.send_input({"type": "websocket.disconnect", "code": 1000})
        await browser.wait(60)
        return answer

    async def visits(users):
        return await asyncio.gather(*map(visit, users))

    *answers, refused = run(visits([*people(12), other_user]))

    assert all(answer["steps"] >= 0 for answer in answers)
    assert refused == {"error": str(NotConnected().user_message)}


# A pool with fewer connections than calls

POOL = "DATABASES['default']['OPTIONS'] = {'pool': {'min_size': 1, 'max_size': 4, 'timeout': 5}}"
DATABASE_CACHE = """CACHES = {"default": {
    "BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "cache_of_async"
}}"""
POOLED = """
import asyncio, json, sys
from django.contrib.auth import get_user_model
from django.db import connection, connections
from garmin_auth.login import astart_login
from garmin_auth.models import GarminAuthenticationState
from garmin_auth.sessions import use_garmin

PROFILE = "/userprofile-service/socialProfile"
users = list(get_user_model().objects.order_by("pk"))

def name(client):
    return client.connectapi(PROFILE)["userName"]

def queries(client):
    rows = GarminAuthenticationState.objects.order_by("pk").values_list("pk").iterator(chunk_size=1)
    return [name(client) for row, _ in zip(rows, range(2))][-1]

def log_in(user):
    return astart_login(user, f"{user.username}@example.com", sys.argv[1], "garth")

async def main(call):
    return await asyncio.gather(*map(call, users), return_exceptions=True)

calls = {
    "use": lambda user: use_garmin(user, name),
    "queries": lambda user: use_garmin(user, queries),
    "login": log_in,
    "login twice": lambda user: log_in(users[0]),
}
connections.close_all()
results = asyncio.run(main(calls[sys.argv[2]]))
connection.ensure_connection()
connection.close()
stats = connection.pool.get_stats()
print(json.dumps([list(map(str, results)), stats["pool_size"] - stats["pool_available"]]))
"""


@pytest.fixture
def pooled(run_python, site, garmin):
    """Make a call for each user at the same time, in a process with a pool of 4."""

    def pooled(call, *lines):
        output = run_python(POOLED, PASSWORD, call, **site(POOL, *lines))
        return json.loads(output)

    return pooled


@pytest.fixture
def cache_table():
    call_command("createcachetable", "cache_of_async", verbosity=0)
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE cache_of_async")


def names_of(users):
    return [f"{user.username}@example.com" for user in users]


@committed
@needs_pool
@pytest.mark.parametrize("number", [8, 50])
@pytest.mark.parametrize("expired", [False, True])
def test_a_pool_of_four_serves_more_calls_than_that(people, pooled, garmin, number, expired):
    users = people(number, access_expired=expired)
    garmin.latency = 0.2

    assert pooled("use") == [names_of(users), 0]


@committed
@needs_pool
def test_a_pool_of_four_serves_refreshes_in_the_middle_of_calls(people, pooled, garmin):
    users = people(8)
    garmin.expire_access_tokens()

    assert pooled("use") == [names_of(users), 0]
    assert garmin.counts["exchange"] == 8


@committed
@needs_pool
def test_a_query_of_the_function_goes_on_while_it_asks_garmin(people, pooled, garmin):
    users = people(8)
    garmin.latency = 0.1

    assert pooled("queries") == [names_of(users), 0]


@committed
@needs_pool
@pytest.mark.parametrize("call", ["use", "login"])
def test_a_cache_in_the_same_database_holds_no_connection(
    people, pooled, cache_table, garmin, call
):
    users = people(20)
    garmin.latency = 0.2

    results, left = pooled(call, DATABASE_CACHE)

    assert (results, left) == (names_of(users) if call == "use" else ["Connected()"] * 20, 0)


@committed
@needs_pool
def test_logins_that_wait_for_another_hold_no_connection(people, pooled, cache_table, garmin):
    people(12)
    garmin.latency = 0.2

    assert pooled("login twice", DATABASE_CACHE) == [["Connected()"] * 12, 0]
    assert garmin.counts["login"] < 12
