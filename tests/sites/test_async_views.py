"""Async views on a running ASGI server, which call Garmin for many users at once."""

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection

from tests.test_async import connections_of_others, names_of
from tests.waiting import wait_until

pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.every_database]

VIEWS = """
import asyncio
from django.contrib.auth import get_user_model
from django.http import JsonResponse
from django.urls import path
from garmin_auth.sessions import use_garmin

def name(client):
    return client.connectapi("/userprofile-service/socialProfile")["userName"]

async def mine(request, username):
    user = await get_user_model().objects.aget(username=username)
    return JsonResponse([await use_garmin(user, name)], safe=False)

async def all_of_them(request):
    users = [user async for user in get_user_model().objects.order_by("pk")]
    names = await asyncio.gather(*(use_garmin(user, name) for user in users))
    return JsonResponse(names, safe=False)

urlpatterns = [path("mine/<username>/", mine), path("all/", all_of_them)]
"""


def test_a_server_serves_many_and_keeps_no_connection(
    people, many_connections, garmin, serve, site, tmp_path
):
    users, before = people(20, access_expired=True), connections_of_others()
    (tmp_path / "site_views.py").write_text(VIEWS)
    environment = site("ROOT_URLCONF = 'site_views'", "MIDDLEWARE = []")
    application = "tests.sites.cookiecutter.asgi:application"  # It names no settings.
    server = serve("-m", "uvicorn", "--port", "0", application, **environment)

    def get(path):
        with urllib.request.urlopen(server + path, timeout=60) as answer:
            return json.load(answer)

    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(get, [f"/mine/{user.username}/" for user in users]))

    assert answers == [[name] for name in names_of(users)]
    assert get("/all/") == names_of(users)
    assert garmin.counts["exchange"] == 20
    if connection.vendor != "sqlite":  # Its files are open in the server's process.
        wait_until(lambda: connections_of_others() <= before, 10)
