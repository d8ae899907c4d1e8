"""Sites under ASGI: our pages as they are, and async views that call us through sync_to_async."""

import asyncio

import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections
from django.http import HttpResponse
from django.test import AsyncClient
from django.urls import include, path

from garmin_auth.models import Status
from garmin_auth.sessions import garmin_client
from tests.conftest import BUILT_IN, EMAIL, PASSWORD, REFRESH, state_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls(__name__)]
STATUS, LOGIN, MFA = "/garmin/", "/garmin/login/", "/garmin/mfa/"
FORM = {"email": EMAIL, "password": PASSWORD}
PROFILE = "/userprofile-service/socialProfile"


def fetch_name(user):
    with garmin_client(user) as client:
        return client.connectapi(PROFILE)["userName"]


async def profile(request):
    return HttpResponse(await sync_to_async(fetch_name)(await request.auser()))


async def blocking(request):
    return HttpResponse(fetch_name(await request.auser()))


urlpatterns = [
    path("garmin/", include("garmin_auth.urls")),
    path("profile/", profile),
    path("blocking/", blocking),
]


@pytest.fixture
def browser(user):
    """A client of the site's ASGI application, where the user is logged in."""
    client = AsyncClient()
    client.force_login(user)
    return client


def get_all(client, url, number=1):
    """Make so many requests at once, and return the answers."""

    async def get():
        # As in Django's ASGI handler, where each request has a thread for what is not async.
        async with ThreadSensitiveContext():
            try:
                return await client.get(url)
            finally:
                await sync_to_async(connections.close_all)()

    async def gather():
        return await asyncio.gather(*(get() for _ in range(number)))

    return asyncio.run(gather())


def test_a_user_connects_with_a_code(browser, user, mfa_account, garmin):
    get, post = async_to_sync(browser.get), async_to_sync(browser.post)
    assert get(LOGIN).status_code == 200
    assert post(LOGIN, FORM).url == MFA

    assert post(MFA, {"code": garmin.mfa_code(EMAIL)}).url == STATUS

    assert state_of(user).status == Status.ACTIVE


@pytest.mark.parametrize("engine", BUILT_IN)
def test_async_views_use_a_session_and_refresh_it_once(browser, user, connect, garmin, engine):
    connect(user, engine=engine, access_expired=True)
    garmin.latency = 0.2

    answers = get_all(browser, "/profile/", 5)

    assert [answer.content.decode() for answer in answers] == [EMAIL] * 5
    assert garmin.counts[REFRESH[engine]] == 1


def test_a_call_without_sync_to_async_is_refused_by_django(browser, user, connect, garmin):
    connect(user)

    with pytest.raises(SynchronousOnlyOperation):
        get_all(browser, "/blocking/")

    assert garmin.counts["api"] == 0
