"""What a site does without this app: a garth client made anew for each user."""

from collections.abc import Iterable

import garth
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection

from benchmarks.stage import PATH


class NoDelayAdapter(HTTPAdapter):
    """Through a proxy too, sends each piece as soon as it is written."""

    def proxy_manager_for(self, proxy, **kwargs):
        options = HTTPConnection.default_socket_options
        return super().proxy_manager_for(proxy, socket_options=options, **kwargs)


def loop(sessions: Iterable[str], nodelay: bool = False) -> None:
    """Ask for each session's profile, one after the other."""
    for data in sessions:
        client = garth.Client()
        client.loads(data)
        if nodelay:
            client.sess.mount("https://", NoDelayAdapter())
        client.connectapi(PATH)
