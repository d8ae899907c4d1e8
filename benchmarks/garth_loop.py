"""What a site does without this app: a garth client made anew for each user."""

from collections.abc import Iterable

import garth

from benchmarks.stage import PATH


def loop(sessions: Iterable[str]) -> None:
    """Ask for each session's profile, one after the other."""
    for data in sessions:
        client = garth.Client()
        client.loads(data)
        client.connectapi(PATH)
