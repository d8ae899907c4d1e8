"""Keep tickets, tokens and passwords out of the logs of the libraries that we use.

At DEBUG, urllib3 logs request lines with service tickets, and requests_oauthlib and oauthlib log
signature base strings, tokens and bodies. A site that turns this on for its own requests does not
want its users' Garmin tokens in the log. So while a thread talks to Garmin, the text of its records
is replaced. Records from other times and other threads are left alone.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

REDACTED = "[garmin_auth: redacted]"
LIBRARIES = (
    "charset_normalizer",
    "curl_cffi",
    "garmin_personal_api",
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
    """Replaces the text of a record, but keeps its level, logger and time."""

    def filter(self, record: logging.LogRecord) -> bool:
        if _speaking.get():
            record.msg, record.args = REDACTED, ()
            record.exc_info = record.exc_text = record.stack_info = None
        return True


_filter = RedactingFilter()


def guard_loggers() -> None:
    """Add the filter to every logger of the libraries. Call it after importing them.

    Each logger needs the filter, because a logger's filters do not see its children's records.
    Handlers, levels and propagation stay as the site configures them, and ``dictConfig`` keeps the
    filters of loggers.
    """
    names = {
        *LIBRARIES,
        *(name for name in list(logging.root.manager.loggerDict) if _is_ours(name)),
    }
    for name in names:
        logging.getLogger(name).addFilter(_filter)  # Adding it twice has no effect.


def _is_ours(name: str) -> bool:
    return any(name.startswith(f"{library}.") for library in LIBRARIES)
