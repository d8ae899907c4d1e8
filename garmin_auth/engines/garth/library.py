"""garth itself, imported safely. The other modules of this package import it from here."""

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..http.redaction import guard_loggers


@contextmanager
def _without_garth_variables() -> Iterator[None]:
    """Hide ``GARTH_*`` while garth is imported.

    The import makes a client, which could fail or send telemetry because of these variables.
    garth's settings library ignores the case of their names.
    """
    names = [name for name in os.environ if name.upper().startswith("GARTH_")]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextmanager
def _with_a_home() -> Iterator[None]:
    """Provide a home directory if there is none, as in containers with an arbitrary user ID.

    garth imports logfire, which needs one but writes nothing there.
    """
    try:
        Path.home()
    except RuntimeError:
        pass
    else:
        yield
        return
    os.environ["HOME"] = tempfile.gettempdir()
    try:
        yield
    finally:
        del os.environ["HOME"]


with _without_garth_variables(), _with_a_home(), warnings.catch_warnings():
    # Our README explains that garth is deprecated. A warning in every worker would help nobody.
    warnings.simplefilter("ignore", DeprecationWarning)
    import garth
    from garth import sso
    from garth.auth_tokens import OAuth1Token, OAuth2Token
    from garth.http import USER_AGENT
    from garth.telemetry import Telemetry

guard_loggers()

__all__ = ["USER_AGENT", "OAuth1Token", "OAuth2Token", "Telemetry", "garth", "sso"]
