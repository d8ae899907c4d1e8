"""An engine whose logins are slow: garth's, after a while. A real one, at a real simulator."""

import os
import time

from garmin_auth.engines.base import Challenge
from garmin_auth.engines.garth import GarthEngine


class SlowGarthEngine(GarthEngine):
    """Waits before it asks Garmin.

    Attributes:
        seconds: how long; ``GARMIN_TEST_SLOW_LOGIN`` in the environment.
        gate: waits for this event instead, where a test has set one.
    """

    name = "slow"
    slow_login = True
    seconds = float(os.environ.get("GARMIN_TEST_SLOW_LOGIN", "0"))
    timeout = 60.0
    gate = None
    begun = None

    @property
    def login_timeout(self):
        return self.timeout

    def login(self, email, password):
        if self.begun:
            self.begun.set()
        if self.gate:
            self.gate.wait(120)
        time.sleep(self.seconds)
        return super().login(email, password)

    def submit_code(self, state, code):
        # garth's engine takes no challenge that is not its own.
        result = super().submit_code({**state, "engine": "garth"}, code)
        if isinstance(result, Challenge):
            result.state["engine"] = self.name
        return result


class BrokenSlowEngine(SlowGarthEngine):
    """An engine with a bug, which knows secrets when it meets it."""

    name = "broken"

    def login(self, email, password):
        raise AttributeError(f"a bug with {email} and {password}")
