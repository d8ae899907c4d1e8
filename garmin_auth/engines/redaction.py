"""Keep tickets, tokens and passwords out of what the libraries below us log.

At DEBUG, urllib3 logs request lines with service tickets, and requests_oauthlib and oauthlib log
signature base strings, tokens and bodies. Whoever turns that on for his own requests does not ask
for his users' Garmin tokens. So while this thread speaks to Garmin, their records lose their text;
at all other times, and in all other threads, they are the site's, unchanged.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

REDACTED = "[garmin_auth: redacted]"
LIBRARIES = (
    "charset_normalizer",
    "curl_cffi",
    "garminconnect",
    "http.cookiejar",
    "oauthlib",
    "requests",
    "requests_oauthlib",
    "urllib3",
)

_speaking: ContextVar[bool] = ContextVar("garmin_auth_speaking", default=False)


@contextmanager
def redaction() -> Iterator[None]:
    """Redact what the libraries log in this thread, until the block ends."""
    token = _speaking.set(True)
    try:
        yield
    finally:
        _speaking.reset(token)


class RedactingFilter(logging.Filter):
    """Takes the text out of a record, and leaves that there was one: level, logger, time."""

    def filter(self, record: logging.LogRecord) -> bool:
        if _speaking.get():
            record.msg, record.args = REDACTED, ()
            record.exc_info = record.exc_text = record.stack_info = None
        return True


_filter = RedactingFilter()


def guard_loggers() -> None:
    """Put the filter on every logger of the libraries; to be called once they are imported.

    On each of them: a logger's filters do not see the records of its children. Handlers, levels
    and propagation stay the site's, and ``dictConfig`` leaves the filters of loggers in place.
    """
    names = {
        *LIBRARIES,
        *(name for name in list(logging.root.manager.loggerDict) if _is_ours(name)),
    }
    for name in names:
        logging.getLogger(name).addFilter(_filter)  # Adding it again changes nothing.


def _is_ours(name: str) -> bool:
    return any(name.startswith(f"{library}.") for library in LIBRARIES)
