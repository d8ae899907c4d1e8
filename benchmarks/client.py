"""Open a session, make one call and close it, compared with the same call of a new garth client.

There is no latency. Each garth client reads the trusted authorities and opens a new TLS connection.
Ours takes a connection from the process's pool, which compensates for the database. The goal is for
the authorities that every site trusts (certifi's, together with the simulator's). The same with a
single certificate shows how much of the ratio they account for. Then calls in one block: whether
Garmin has asked for a pause stands in the site's cache, which is Redis or the process's memory.
"""

import os
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from benchmarks.figures import Figure
from benchmarks.stage import PATH, Stage, alternate, per_item, ratios
from tests.services import BROKERS, why_not_broker

DATABASES = ("postgresql", "sqlite")
NOTES = """
With one trusted certificate, the pool only saves a handshake on loopback, without a network's round
trips, which is about as much as one SELECT and one UPDATE cost. Of the app's own time (cProfile,
PostgreSQL, 100 blocks), 46 % is spent waiting for PostgreSQL, mostly for the commit of the UPDATE;
34 % waiting for the simulator; and 20 % in Python: 8 % in Django, building the two statements, 5 %
in requests, preparing the request, and 3 % opening the session (Fernet, pydantic).
"""


def measure(stage: Stage) -> Iterator[Figure]:
    from benchmarks.garth_loop import loop
    from garmin_auth.sessions import garmin_client

    number = stage.size(50, 3)
    pairs = stage.connect(number)
    sessions = [data for _, data in pairs]

    def ours() -> None:
        for user, _ in pairs:
            with garmin_client(user) as client:
                client.connectapi(PATH)

    def garth() -> None:
        loop(sessions)

    def garth_with_one_authority() -> None:
        with patch.dict(os.environ, REQUESTS_CA_BUNDLE=stage.garmin.ca_bundle):
            loop(sessions)

    seconds = alternate(
        stage.size(9, 1), ours=ours, garth=garth, one_authority=garth_with_one_authority
    )
    for what, name, goal in (
        ("garmin_client, of a new garth client's time", "garth", 0.6),
        ("the same, of one that trusts a single authority", "one_authority", None),
    ):
        yield Figure.of(
            what,
            ratios(seconds["ours"], seconds[name]),
            at_most=goal,
            note=f"{per_item(seconds['ours'], number)} of {per_item(seconds[name], number)}",
        )
    if not why_not_broker("redis"):
        yield with_redis(stage, pairs[0][0])


def with_redis(stage: Stage, user: Any) -> Figure:
    """Compare calls in a block, whose cache is Redis, with the same where it is local memory."""
    from django.test import override_settings

    from garmin_auth.sessions import garmin_client

    number = stage.size(200, 3)
    backends = {
        "redis": ("redis.RedisCache", BROKERS["redis"]),
        "memory": ("locmem.LocMemCache", ""),
    }

    def calls(name: str) -> None:
        backend, location = backends[name]
        cache = {"BACKEND": f"django.core.cache.backends.{backend}", "LOCATION": location}
        with override_settings(CACHES={"default": cache}), garmin_client(user) as client:
            for _ in range(number):
                client.connectapi(PATH)

    seconds = alternate(
        stage.size(9, 1), redis=lambda: calls("redis"), memory=lambda: calls("memory")
    )
    return Figure.of(
        "a call in a block with Redis as the cache, of one with local memory",
        ratios(seconds["redis"], seconds["memory"]),
        at_most=1.1,
        note=f"{per_item(seconds['redis'], number)} of {per_item(seconds['memory'], number)}",
    )
