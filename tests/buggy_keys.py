"""The engine for keys with bugs, which hold secrets when they are met."""

from garmin_auth.engines.personal import PersonalEngine


class BuggyPersonalEngine(PersonalEngine):
    def connect(self, key, ends_at):
        held = super().connect(key, ends_at)
        raise AttributeError(f"a bug {held is None}")

    def refresh(self, session_data):
        held = super().refresh(session_data)
        raise AttributeError(f"a bug {held is None}")
