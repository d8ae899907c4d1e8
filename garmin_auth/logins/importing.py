"""Store sessions that were created elsewhere. Import from ``garmin_auth.login``."""

import json
from collections.abc import Callable
from functools import partial
from os import PathLike, fsdecode
from pathlib import Path
from typing import Any

from django.db import IntegrityError
from django.views.decorators.debug import sensitive_variables

from ..engines import get_engine, offered_domains, require_usable
from ..engines.base import Engine, NewSession, RefreshIncomplete
from ..engines.frozen import refuse_frozen
from ..exceptions import (
    GarminAuthError,
    GarminUnavailable,
    NotConnected,
    RateLimited,
    SessionUnreadable,
)
from ..limits import cooldown
from ..storage.retries import write_again
from ..storage.transactions import refuse_atomic
from .outcomes import is_there, record_accepted, store, tell_connected, write
from .permission import require_allowed


@sensitive_variables()
def import_session(
    user: Any,
    session_data: str | bytes | dict[str, Any] | list[Any],
    *,
    engine: str | None = None,
    domain: str | None = None,
    check: bool = False,
) -> None:
    """Store a session that was created elsewhere, such as garth's ``GARTH_TOKEN``.

    Args:
        user: an ``AUTH_USER_MODEL`` instance.
        session_data: what the engine's library exports (garth: ``client.dumps()``), as text or
            bytes, perhaps with a byte order mark; or a dict or a list, if that is JSON.
        engine: name of the engine that wrote it; None for the engine of new logins.
        domain: Garmin's domain, where the account is. None for the one that the session names; if
            it names none, for the first in ``GARMIN_AUTH_DOMAIN``.
        check: first ask Garmin whether the session works, refreshing it if necessary.

    Raises:
        NotAllowed: the site does not let the user connect.
        SessionUnreadable: it is not a session of that engine and domain; ``detail`` says why.
        SessionExpired, RateLimited, GarminUnavailable: the check failed, and nothing was stored.
        NotConnected: the user was deleted during the import.
        RuntimeError: called inside ``atomic()``.
    """
    refuse_atomic("import_session")
    require_allowed(user)
    text = _as_text(session_data)
    _store_import(user, *_read(engine, domain, lambda chosen: chosen.read_export(text)), check)


@sensitive_variables()
def import_session_folder(
    user: Any,
    path: Path | str,
    *,
    engine: str | None = None,
    domain: str | None = None,
    check: bool = False,
) -> None:
    """Store a session from the folder where the engine's library keeps it, such as ``~/.garth``.

    Args:
        path: the folder, where ``~`` is the home. For everything else see ``import_session``.
    """
    refuse_atomic("import_session_folder")
    require_allowed(user)
    folder = _as_path(path)
    _store_import(user, *_read(engine, domain, lambda chosen: chosen.read_folder(folder)), check)


@sensitive_variables()
def _as_text(session_data: Any) -> str:
    """Return what was given to an import as text, without a byte order mark."""
    problem = f"A session is text, and this is of the type {type(session_data).__name__}."
    try:
        if isinstance(session_data, dict | list | tuple):
            problem = "This holds something that JSON cannot hold, so it is not a session."
            session_data = json.dumps(session_data)
        elif isinstance(session_data, bytes | bytearray):
            problem = "These bytes are not text in UTF-8, so they are not a session."
            session_data = session_data.decode()
        elif isinstance(session_data, PathLike):
            problem = "This is a path, not a session. import_session_folder() takes a folder."
    except (TypeError, ValueError, RecursionError):
        pass  # The exception may repeat a part of it.
    if not isinstance(session_data, str):
        raise SessionUnreadable(problem)
    return session_data.strip().removeprefix("\ufeff")


def _as_path(path: Any) -> Path:
    try:
        return Path(fsdecode(path)).expanduser()
    except TypeError:
        problem = f"The path of a folder is text, and this is of the type {type(path).__name__}."
    except RuntimeError:
        problem = f"{path} names no user of this machine."
    raise SessionUnreadable(problem)


def _read(
    name: str | None, domain: str | None, read: Callable[[Engine], str]
) -> tuple[Engine, str]:
    """Return a session to import, and the engine for the domain that it is for.

    Raises:
        SessionUnreadable: it is not a session of that engine, or for none of these domains.
    """
    problems = []
    for candidate in [domain] if domain else offered_domains():
        engine = get_engine(name, candidate)
        try:
            return engine, read(engine)
        except SessionUnreadable as exc:
            problems.append(exc)
    raise problems[0]


@sensitive_variables()
def _store_import(user: Any, engine: Engine, session_data: str, check: bool) -> None:
    try:
        _check_and_store(user, engine, session_data, check)
        return
    except IntegrityError:
        if is_there(user):
            raise
    raise NotConnected("The user was deleted during the import.")


@sensitive_variables()
def _check_and_store(user: Any, engine: Engine, session_data: str, check: bool) -> None:
    written = False
    scope = cooldown.session_scope(engine, session_data)

    def refresh() -> str:
        nonlocal session_data, written
        problem = ""
        try:
            fresh = engine.refresh(session_data)
        except RateLimited as exc:
            cooldown.update(scope, exc)
            raise
        except RefreshIncomplete as exc:
            fresh, problem = exc.session_data, exc.detail
        require_usable(engine, fresh)
        if engine.rotates:  # At once: the imported token is now worthless.
            new = NewSession(fresh, account_name=None, validated=False)
            write_again(lambda: write(user, engine, new))
            written = True
        if problem:
            raise GarminUnavailable(problem)
        record_accepted(engine)
        session_data = fresh
        return fresh

    if not check:
        store(user, engine, NewSession(session_data, account_name=None, validated=False))
        return
    refuse_frozen()
    cooldown.require_none(scope)
    session = engine.open(session_data, refresh, after=partial(cooldown.update, scope))
    try:
        name = engine.fetch_account_name(session)
    except GarminAuthError:
        if not written:
            raise
        # Garmin has accepted the token; only a later call failed.
        tell_connected(user, engine)
    else:
        store(user, engine, NewSession(session_data, account_name=name or None, validated=True))
    finally:
        session.close()
