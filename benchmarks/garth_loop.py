"""What a site does without this app: create a garth client for each user."""

from collections.abc import Iterable

import garth

from benchmarks.stage import PATH


def loop(sessions: Iterable[str]) -> None:
    """Fetch the profile of each session, one after another."""
    for data in sessions:
        client = garth.Client()
        client.loads(data)
        client.connectapi(PATH)
