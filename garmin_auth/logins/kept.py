"""What a user's session on this site keeps of a login that has not ended in its request.

The form has the address again if the login fails in the background.
"""

import time
from dataclasses import dataclass, field

from django.http import HttpRequest

from ..exceptions import SessionUnreadable
from ..storage.keys import decrypt, encrypt

# Where it is kept, and for how many seconds it is used.
KEPT, KEPT_FOR = "_garmin_auth_login", 3600


@dataclass(frozen=True)
class KeptLogin:
    """A login that has not ended in its request.

    SECURITY: no tuple, because error reporters show the parts of one, whatever its repr.

    Args:
        email: the address; "" if none is kept.
        seconds: how many seconds ago it was sent, None if none is kept.
        engine: name of the engine that it uses, "" if not known.
        domain: the Garmin domain that it is for, "" if not known.
    """

    email: str = field(default="", repr=False)
    seconds: int | None = None
    engine: str = ""
    domain: str = ""


def keep_login(request: HttpRequest, email: str, engine: str, domain: str) -> None:
    """Keep a login.

    SECURITY: the address is encrypted, because sites keep their users' sessions in databases,
    caches and cookies.

    Args:
        request: the request that sent it.
        email: the address.
        engine: name of the engine that it uses, "" if not known.
        domain: the Garmin domain that it is for, "" if not known.
    """
    request.session[KEPT] = {
        "email": str(encrypt(email)),
        "sent_at": int(time.time()),
        "engine": engine,
        "domain": domain,
    }


def kept_login(request: HttpRequest) -> KeptLogin:
    """Return the login that is kept; an empty one if there is none, or it cannot be decrypted."""
    kept = request.session.get(KEPT)
    if not kept or (seconds := int(time.time()) - kept["sent_at"]) > KEPT_FOR:
        return KeptLogin()
    try:
        email = decrypt(kept["email"])
    except SessionUnreadable:
        return KeptLogin()
    return KeptLogin(email, max(0, seconds), kept["engine"], kept["domain"])


def forget_login(request: HttpRequest) -> None:
    """Keep the login no longer, because it has ended."""
    request.session.pop(KEPT, None)
