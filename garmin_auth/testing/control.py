"""Control a simulator from another process: the control API, and its client.

`POST /control/<name>` on the simulator's own port, with `{"args": [...], "kwargs": {...}}`,
returns `{"result": ...}`, or 400 with `{"error": {"type": ..., "message": ...}}`.
"""

import json
import urllib.error
import urllib.request
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .garmin.answers import Answer
    from .garmin.wire import Request

PREFIX = "/control"
TIMEOUT = 30  # seconds

METHODS = frozenset(
    {
        "add_account",
        "add_key",
        "delete_key",
        "expire_access_tokens",
        "expire_mfa",
        "fail",
        "heal",
        "issue_session",
        "mfa_code",
        "renew_key",
        "reset",
        "revoke",
        "set_access_token_lifetime",
        "set_consumer",
        "set_latency",
        "set_password",
        "set_proxy_credentials",
        "set_rotate_mfa_cookie",
        "set_rotate_refresh_tokens",
    }
)
PROPERTIES = frozenset(
    {
        "access_token_lifetime",
        "ca_bundle",
        "consumer",
        "control_url",
        "counts",
        "environment",
        "latency",
        "library_environment",
        "log",
        "proxy_credentials",
        "proxy_url",
        "rotate_mfa_cookie",
        "rotate_refresh_tokens",
        "settings",
        "uploads",
    }
)
SETTABLE = frozenset(
    {
        "access_token_lifetime",
        "latency",
        "proxy_credentials",
        "rotate_mfa_cookie",
        "rotate_refresh_tokens",
    }
)
ERRORS = {"ValueError": ValueError, "LookupError": LookupError, "TypeError": TypeError}


def answer(simulator: object, request: "Request") -> "Answer":
    """Answer one call of the control API."""
    from .garmin.answers import as_json

    def refuse(status: int, kind: str, message: str) -> "Answer":
        return as_json({"error": {"type": kind, "message": message}}, status)

    prefix, _, name = request.path.rpartition("/")
    if prefix != PREFIX or request.method != "POST":
        message = f"This is the Garmin simulator: CONNECT, or POST {PREFIX}/<method>."
        return refuse(404, "LookupError", message)
    if name in PROPERTIES:
        return as_json({"result": getattr(simulator, name)})
    if name not in METHODS:
        legal = ", ".join(sorted(METHODS | PROPERTIES))
        return refuse(404, "LookupError", f"Unknown method {name!r}. The methods are: {legal}.")
    args, kwargs = request.json.get("args", []), request.json.get("kwargs", {})
    try:
        return as_json({"result": getattr(simulator, name)(*args, **kwargs)})
    except (ValueError, LookupError, TypeError) as error:
        kind = next(kind for kind, cls in ERRORS.items() if isinstance(error, cls))
        return refuse(400, kind, str(error))


class RemoteGarminSimulator:
    """A `GarminSimulator` in another process, with the same methods and properties.

    Pass that simulator's `control_url`, or its `proxy_url`, which `GARMIN_SIMULATOR_PROXY` holds. A
    `ValueError`, `LookupError` or `TypeError` raised there by a call is raised here too. If no
    simulator answers, a `ConnectionError` is raised.
    """

    def __init__(self, control_url: str):
        self._url = control_url.rstrip("/").removesuffix(PREFIX) + PREFIX
        # Never through a proxy, whatever the environment says, because the simulator is local.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def __getattr__(self, name: str) -> Any:
        if name in PROPERTIES:
            return self._call(name)
        if name in METHODS:
            return partial(self._call, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in SETTABLE:
            self._call(f"set_{name}", value)
        elif name in PROPERTIES | METHODS:
            raise AttributeError(f"{name} cannot be set")
        else:
            super().__setattr__(name, value)

    def _call(self, name: str, *args, **kwargs) -> Any:
        request = urllib.request.Request(  # noqa: S310 - the URL is the caller's own simulator
            f"{self._url}/{name}",
            data=json.dumps({"args": args, "kwargs": kwargs}).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=TIMEOUT) as response:
                return json.load(response)["result"]
        except urllib.error.HTTPError as refused:
            with refused:
                error = json.load(refused)["error"]
        except (OSError, ValueError, KeyError) as failure:
            message = f"No Garmin simulator answers at {self._url}: {failure}"
            raise ConnectionError(message) from None
        raise ERRORS[error["type"]](error["message"])
