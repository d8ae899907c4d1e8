"""garminconnect's engine in a process that is stopped while it holds what Garmin has sent."""

import signal
import threading

from garmin_auth.engines.garminconnect import GarminConnectEngine


class FrozenEngine(GarminConnectEngine):
    """Stops its process, as an administrator or a paused machine would, after a refresh."""

    def refresh(self, session_data):
        fresh = super().refresh(session_data)
        # To this thread: sent to the process, it would let this one go on for a moment.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        return fresh
