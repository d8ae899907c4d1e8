"""A way to the simulator on which, from some moment on, its bytes arrive one at a time."""

import contextlib
import socket
import threading
import time
from urllib.parse import urlsplit

INTERVAL = 0.05  # seconds


class Drip:
    """A proxy before the simulator's, on loopback.

    Attributes:
        url: its own URL.
        dripping: to be set when the drip is to begin.
    """

    def __init__(self, proxy_url):
        self._proxy = urlsplit(proxy_url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.dripping = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((self._proxy.hostname, self._proxy.port))
                self._sockets += [client, server]
                for source, target in ((client, server), (server, client)):
                    pump = threading.Thread(
                        target=self._pump, args=(source, target, source is server), daemon=True
                    )
                    pump.start()

    def _pump(self, source, target, drips):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not (drips and self.dripping.is_set()):
                    target.sendall(data)
                    continue
                for byte in data:
                    target.sendall(bytes([byte]))
                    time.sleep(INTERVAL)
            target.shutdown(socket.SHUT_RDWR)
