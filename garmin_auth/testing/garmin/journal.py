"""The requests received: their counts, a log without secrets, and uploaded files."""

import hashlib
import threading
from collections import Counter, deque

STEPS = (
    "connect",
    "sign_in",
    "login",
    "verify_code",
    "portal_sign_in",
    "portal_login",
    "portal_verify_code",
    "widget_embed",
    "widget_sign_in",
    "widget_login",
    "widget_code_page",
    "widget_send_code",
    "widget_verify_code",
    "widget_success",
    "embed",
    "consumer",
    "preauthorized",
    "exchange",
    "di_exchange",
    "di_refresh",
    "jwt_web",
    "personal_token",
    "api",
)

# "other": a path or method that no client of Garmin uses. "foreign_bearer": one user's token on
# another user's path. "foreign_region": a credential of the other region. "bad_signature": a wrong
# OAuth1 signature or consumer key.
COUNTS = (*STEPS, "other", "refused_host", "foreign_bearer", "foreign_region", "bad_signature")

KEPT = 10_000  # entries of the log, and of uploads; limited for long runs


class Journal:
    def __init__(self, lock: threading.RLock):
        self._lock = lock
        self.reset()

    def reset(self) -> None:
        with self._lock:
            self._counts = Counter(dict.fromkeys(COUNTS, 0))
            self._log: deque[dict] = deque(maxlen=KEPT)
            self._uploads: deque[dict] = deque(maxlen=KEPT)

    def count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1

    def note(self, **entry) -> None:
        with self._lock:
            self._log.append(entry)

    def upload(self, account: str, filename: str, content: bytes) -> None:
        sha256 = hashlib.sha256(content).hexdigest()
        with self._lock:
            self._uploads.append(
                {"account": account, "filename": filename, "sha256": sha256, "size": len(content)}
            )

    @property
    def counts(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)

    @property
    def log(self) -> list[dict]:
        with self._lock:
            return list(self._log)

    @property
    def uploads(self) -> list[dict]:
        with self._lock:
            return list(self._uploads)
