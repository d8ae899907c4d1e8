"""Open a session, make one call, close it; against a garth client made anew, and the same call.

No latency. A garth client opens a TLS connection of its own each time, and ours takes one from the
process's pool, which pays for the database. Through a proxy, urllib3 leaves Nagle's algorithm on,
and the first request on a connection may wait 40 ms for an acknowledgement of the handshake: the
goal is held against a garth client with TCP_NODELAY too, which says how much of the ratio that is.
"""

from collections.abc import Iterator

from benchmarks.figures import Figure
from benchmarks.stage import PATH, Stage, alternate, per_item, ratios

DATABASES = ("postgresql", "sqlite")


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

    seconds = alternate(
        stage.size(15, 1),
        ours=ours,
        garth=lambda: loop(sessions),
        nodelay=lambda: loop(sessions, nodelay=True),
    )
    for what, name in (
        ("garmin_client, of a new garth client's time", "garth"),
        ("the same, its sockets with TCP_NODELAY", "nodelay"),
    ):
        yield Figure.of(
            what,
            ratios(seconds["ours"], seconds[name]),
            at_most=0.6,
            note=f"{per_item(seconds['ours'], number)} of {per_item(seconds[name], number)}",
        )
