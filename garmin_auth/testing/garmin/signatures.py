"""Check the OAuth1 signature (HMAC-SHA1, RFC 5849) of a request, with oauthlib."""

import hmac
from types import SimpleNamespace

from oauthlib.oauth1.rfc5849 import signature

from .accounts import Refused
from .state import Garmin
from .wire import Request


def oauth_token(request: Request) -> str:
    """Return the OAuth1 token that a request names, "" if it names none. Nothing is verified."""
    return _parameters(request).get("oauth_token", "")


def verify(request: Request, garmin: Garmin) -> str:
    """Return the OAuth1 token of a correctly signed request, "" if it has only a ticket.

    Raises `Refused` (signature; oauth1 for a token that was never issued).
    """
    given = _parameters(request)
    token = given.get("oauth_token", "")
    consumer_secret, token_secret = garmin.oauth1.secret_of(
        given.get("oauth_consumer_key", ""), token
    )
    base = signature.signature_base_string(
        request.method,
        signature.base_string_uri(f"https://{request.host}{request.path}"),
        signature.normalize_parameters(_collect(request)),
    )
    keys = SimpleNamespace(client_secret=consumer_secret, resource_owner_secret=token_secret)
    right = signature.sign_hmac_sha1_with_client(base, keys)
    if given.get("oauth_signature_method") != "HMAC-SHA1" or not hmac.compare_digest(
        right.encode(), given.get("oauth_signature", "").encode()
    ):
        raise Refused("signature")
    return token


def _parameters(request: Request) -> dict[str, str]:
    if not request.headers.get("authorization", "").lower().startswith("oauth "):
        return {}
    try:
        return dict(_collect(request, exclude_oauth_signature=False))
    except ValueError:  # from oauthlib, for a header that it cannot parse
        return {}


def _collect(request: Request, **options) -> list[tuple[str, str]]:
    form = request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
    return signature.collect_parameters(
        uri_query=request.target.partition("?")[2],
        body=list(request.form.items()) if form else None,
        headers={"Authorization": request.headers.get("authorization", "")},
        **options,
    )
